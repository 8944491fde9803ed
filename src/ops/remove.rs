//! Remove: takes a name away, side tags first. Blobs go with the next prune.

use super::{Context, Result};

/// Removes every tag whose name or tag is `name`, with its side tags; the tags removed. `dry_run`: only says which.
pub async fn run(_ctx: &Context, _name: &str, _dry_run: bool) -> Result<Vec<String>> {
    Err(super::Error::Usage("rm is not built yet".into()))
}
