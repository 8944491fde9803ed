//! Where a manifest stands that a sweep had trouble with: its repository and tag, so that nobody has to search for a digest.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    artifact::Reference,
    digest::Digest,
    ops::Context,
    store::{self, Error, ErrorKind, keys::Repo},
};

/// Warns of manifests that are not JSON. Nothing is left undone because of them, so they are no failure of the prune.
pub(super) async fn warn_of_unreadable(
    ctx: &Context,
    found: BTreeMap<Digest, String>,
) -> store::Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let tags = tags_of(ctx, &found.keys().copied().collect()).await?;
    for (digest, why) in found {
        let stays = "it and every digest that its bytes spell out are kept, all else is swept";
        let warning = match tags.get(&digest) {
            Some(tag) => format!(
                "tag {tag}: manifest {digest} cannot be read: {why}; {stays}; push the tag again, or remove it with `cachectl rm {tag}`"
            ),
            None => format!("manifest {digest} cannot be read: {why}; {stays}"),
        };
        ctx.progress.warn(&warning);
    }
    Ok(())
}

/// The same error, with the tag that leads to the damage.
pub(super) async fn damaged(ctx: &Context, mut e: Error, root: Digest) -> Error {
    if e.kind != ErrorKind::Corrupt {
        return e;
    }
    match tags_of(ctx, &BTreeSet::from([root])).await {
        Ok(tags) => {
            if let Some(tag) = tags.get(&root) {
                e.message = format!(
                    "{}; it belongs to tag {tag}: push it again or delete the tag",
                    e.message
                );
            }
        }
        Err(error) => tracing::debug!(%error, "The tag of a damaged manifest is not known"),
    }
    e
}

/// One tag of each manifest that has any, or is a part of one; `REPO:TAG` outside of the command line's own repository.
async fn tags_of(
    ctx: &Context,
    digests: &BTreeSet<Digest>,
) -> store::Result<BTreeMap<Digest, String>> {
    let mut found = BTreeMap::new();
    let Some(repositories) = &ctx.opened.repositories else {
        let store = &ctx.opened.store;
        for tag in store.tags("").await? {
            match store.resolve(&Reference::Tag(tag.clone())).await {
                Ok(Some(at)) if digests.contains(&at.manifest.digest) => {
                    found.insert(at.manifest.digest, tag.to_string());
                }
                Ok(_) => {}
                // A damaged one does not say which it is.
                Err(e) if e.kind == ErrorKind::Corrupt => {}
                Err(e) => return Err(e),
            }
        }
        return Ok(found);
    };
    for repo in repositories.records().repositories().await? {
        let repository = repositories.repository(&repo);
        for (tag, digest) in repository.tags_to(digests).await? {
            let shown = if repo == Repo::cli() {
                tag.to_string()
            } else {
                format!("{repo}:{tag}")
            };
            found.entry(digest).or_insert(shown);
        }
    }
    Ok(found)
}
