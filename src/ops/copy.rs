//! Copy: names with all they need, from store to store.

use super::{Context, Moved, Result};

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Tags copied.
    pub tags: Vec<String>,
    /// What was moved.
    pub moved: Moved,
}

/// Copies all names (or those matching `name`: a name, tag or digest) of `from` to `to`; tags that are equal already are skipped.
pub async fn run(_from: &Context, _to: &Context, _name: Option<&str>) -> Result<Report> {
    Err(super::Error::Usage("copy is not built yet".into()))
}
