//! `--replace`: the name points at one tree alone ([`fold::replaced`]).

use super::{Context, Ground, Item, NodeIndex, Notes, Options, Result};
use crate::{
    artifact::{
        Tag,
        config::Folded,
        fold::{self, replaced::newest_mark},
        name::{self, SnapshotName},
        snapshot::Snapshot,
    },
    entry::Time,
    ops::{Error, head::Current},
};

/// The mark of this replacement, if it is one: by the store's clock, and later than all existing marks.
pub(super) fn mark(options: &Options, ground: &Ground, name: &SnapshotName) -> Option<String> {
    let known = newest(ground).and_then(name::replaced_at);
    let after = known.map(|at| Time {
        secs: at.secs.saturating_add(1),
        ..at
    });
    let at = after
        .max(Some(ground.current.now))
        .filter(|_| options.replace)?;
    Some(name.replacement_mark(at, fastrand::u64(..)))
}

/// The mark of the last replacement of the name.
fn newest(ground: &Ground) -> Option<&str> {
    let heads = [Some(&ground.current), ground.head.as_ref()];
    let marks = heads.into_iter().flatten().flat_map(|c| {
        let head = c.head.iter().filter_map(|h| newest_mark(&h.snapshot));
        head.chain(c.sides.iter().filter_map(|s| s.mark.as_deref()))
    });
    marks.max_by_key(|m| (name::replaced_at(m), *m))
}

/// Makes `mine` the replacement of the stored content: every listed side tag counts as contained, readable or not, and no other tag does.
pub(super) fn takes_the_place_of(mine: &mut Snapshot, current: &Current, mark: &str) {
    let today = current.today();
    let seen = current.side_tags.iter().map(Tag::as_str);
    let all = seen.chain([mark]).map(|tag| Folded::new(tag, today));
    mine.folded.clear();
    fold::remember(mine, all, today);
}

/// Refuses content imported before the name was replaced: it would bring back what the replacement removed.
///
/// # Errors
/// [`Error::Replaced`].
pub(super) fn must_be_newer(ctx: &Context, ground: &Ground, name: &SnapshotName) -> Result<()> {
    let notes = (*ground.index).as_ref().map(|i| &i.notes);
    let Some((newest, notes)) = newest(ground).zip(notes) else {
        return Ok(());
    };
    // Without a recorded name, the import was by another program, or of another name.
    if imported_from(ctx, name, notes).is_some() && notes.replacement.as_deref() != Some(newest) {
        return Err(Error::Replaced {
            name: name.name.clone(),
            since: "since this cache was imported",
        });
    }
    Ok(())
}

/// When the tree was imported from the content to be replaced, by the node's clock; `None` if it was not.
fn imported_from(ctx: &Context, name: &SnapshotName, notes: &Notes) -> Option<Time> {
    let prefix = name.replacement_prefix();
    let imported = notes
        .imported
        .as_ref()
        .filter(|i| i.store == ctx.store.url().to_string() && i.name.as_deref() == Some(&prefix))?;
    let (secs, nanos) = imported.at;
    Some(Time { secs, nanos })
}

/// Warns if a replacement contains imported files: most likely it was meant to get rid of them.
pub(super) fn warn_of_imported(
    ctx: &Context,
    name: &SnapshotName,
    index: Option<&NodeIndex>,
    items: &[Item],
) {
    let Some(index) = index else { return };
    let Some(at) = imported_from(ctx, name, &index.notes) else {
        return;
    };
    // After an export, the index also lists files that were made here.
    let only_imported = index.notes.matched.is_none();
    let imported = items.iter().filter(|i| {
        i.stat.is_file()
            && if only_imported {
                index.is_same_file(&i.entry.path, &i.stat)
            } else {
                i.stat.ctime <= at
            }
    });
    let count = imported.count();
    if count > 0 {
        ctx.progress.warn(&format!(
            "--replace: {} of {} in `{}` were imported from the store, so entries that are wrong there may be among them; to remove them, empty the cache, build without an import, and export with --replace again",
            count,
            items.len(),
            name.name,
        ));
    }
}
