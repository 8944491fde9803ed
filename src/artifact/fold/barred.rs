//! Entries that no writer of ours makes: a file of a Go cache as a folder, with another mode, of another content than its name says.
//!
//! No import restores them. So a fold must not take one for what others have under the path: whoever may write a name could hide all of
//! it that way, and the packs that have it would go. Which entries these are, the caller knows.

use crate::artifact::{snapshot::Snapshot, toc::TocEntry};

/// Bars the entries that `admit` refuses, live or not. How many were live, with the first of them and why.
pub fn bar(
    snapshot: &mut Snapshot,
    admit: impl Fn(&TocEntry) -> Result<(), String>,
) -> Option<String> {
    let (mut count, mut first) = (0_usize, None);
    for pack in &mut snapshot.packs {
        for (i, e) in pack.toc.entries.iter().enumerate() {
            let Err(why) = admit(e) else { continue };
            pack.barred.insert(i);
            pack.days[i] = 0;
            if std::mem::take(&mut pack.live[i]) {
                count += 1;
                first.get_or_insert_with(|| format!("`{}`: {why}", e.entry.path));
            }
        }
    }
    first.map(|first| match count {
        1 => format!("an entry is not what a cache of its kind has: {first}"),
        n => format!("{n} entries are not what a cache of their kind has, such as {first}"),
    })
}
