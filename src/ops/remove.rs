//! Remove: takes a name away, side tags first. Blobs go with the next prune.
//!
//! The order matters: a head without its side tags is still the name, side tags without a head would bring it back.

use super::{
    Context, Error, Result,
    names::{self, Named, Word},
};
use crate::store::{self, ErrorKind, Untag};

/// Removes every tag whose name or tag is `name`, with its side tags and the parts it is merged from; the tags removed. `dry_run`:
/// only says which.
///
/// # Errors
/// `Unsupported` where the store cannot, `Usage` for a digest. What was removed before an error stays removed; the head is last.
pub async fn run(ctx: &Context, name: &str, dry_run: bool) -> Result<Vec<String>> {
    super::within_budget(ctx, "removing", remove(ctx, name, dry_run)).await
}

async fn remove(ctx: &Context, name: &str, dry_run: bool) -> Result<Vec<String>> {
    let word = Word::new(Some(name));
    if let Word::Digest(_) = word {
        let why = "names and tags can be removed, a digest cannot: `cachectl ls` shows the tags";
        return Err(Error::Usage(why.to_owned()));
    }
    let mut removed = Vec::new();
    for found in &names::find(ctx, &word).await? {
        if dry_run {
            removed.extend(found.tags());
        } else {
            take_away(found, &mut removed).await?;
        }
    }
    Ok(removed)
}

/// The ability, or why there is none.
pub(super) fn untag_of(ctx: &Context) -> store::Result<&dyn Untag> {
    ctx.opened.untag.as_deref().ok_or_else(|| {
        let why = "nothing can be removed: the store cannot, or it was opened read-only";
        store::Error::new(ErrorKind::Unsupported, "remove tags", why)
            .at(&ctx.opened.url.to_string(), "")
    })
}

/// Removes side tags one by one, then the head; notes what was there.
pub(super) async fn take_away(name: &Named, removed: &mut Vec<String>) -> store::Result<()> {
    for tag in name.group.tags() {
        if name.place.remove(tag).await? {
            removed.push(name.place.shown(tag.as_str()));
        }
    }
    Ok(())
}
