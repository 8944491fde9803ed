//! Finds the repository and tag of a manifest that a sweep failed on, so that nobody has to search for a digest.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::{
    artifact::{Reference, Tag},
    digest::Digest,
    ops::{Context, LeftOut},
    store::{self, Error, ErrorKind, corrupt_is_none, keys::Repo},
};

/// Warns of manifests that are not JSON. They do not keep the prune from completing, so they are not a failure.
pub(super) async fn warn_of_unreadable(
    ctx: &Context,
    found: BTreeMap<Digest, String>,
) -> store::Result<()> {
    if found.is_empty() {
        return Ok(());
    }
    let tags = tags_of(ctx, &found.keys().copied().collect()).await?;
    for (digest, why) in found {
        let stays = "it and every digest that its text contains are kept, everything else is swept";
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

/// The tags whose records are damaged: a sweep does not know what they pointed at, so it keeps all manifests of their repositories.
pub(super) async fn damaged_tags(ctx: &Context) -> store::Result<Vec<LeftOut>> {
    let mut found = Vec::new();
    if !ctx.reach.is_whole() {
        return Ok(found);
    }
    for repository in &ctx.store.all_repositories().await? {
        let tags = stream::iter(repository.tags().await?);
        let looked = tags.map(async |tag| {
            let damage = repository.damage_of(&tag).await?;
            Ok::<_, Error>(damage.map(|why| (tag, why)))
        });
        let mut looked = Box::pin(looked.buffered(ctx.concurrency.max(1)));
        while let Some(looked) = looked.try_next().await? {
            found.extend(looked.map(|(tag, why)| left(&shown(repository.name(), &tag), &why)));
        }
    }
    Ok(found)
}

/// A tag that cannot be read, with what to do.
pub(super) fn left(tag: &str, why: &str) -> LeftOut {
    LeftOut {
        what: format!("tag {tag}"),
        why: format!(
            "{why}; until it is exported or pushed again, or removed with `cachectl rm {tag}`, every manifest of its repository is kept"
        ),
    }
}

fn shown(repo: &Repo, tag: &Tag) -> String {
    if *repo == Repo::cli() {
        tag.to_string()
    } else {
        format!("{repo}:{tag}")
    }
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

/// One tag for each manifest that is tagged or part of a merged tag; `REPO:TAG` outside of the command line's own repository.
async fn tags_of(
    ctx: &Context,
    digests: &BTreeSet<Digest>,
) -> store::Result<BTreeMap<Digest, String>> {
    let mut found = BTreeMap::new();
    if ctx.store.facts().repositories.is_none() {
        let store = &ctx.store;
        for tag in store.tags("").await? {
            // A damaged record does not tell its digest.
            let at = corrupt_is_none(store.resolve(&Reference::Tag(tag.clone())).await)?;
            if let Some(at) = at.filter(|at| digests.contains(&at.manifest.digest)) {
                found.insert(at.manifest.digest, tag.to_string());
            }
        }
        return Ok(found);
    }
    for repository in ctx.store.all_repositories().await? {
        for (tag, digest) in repository.tags_to(digests).await? {
            let shown = shown(repository.name(), &tag);
            found.entry(digest).or_insert(shown);
        }
    }
    Ok(found)
}
