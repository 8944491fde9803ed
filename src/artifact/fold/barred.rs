//! Entries that cachectl never writes: a file of a Go cache as a folder, with another mode, or with other content than its name
//! promises.
//!
//! No import restores them. So a fold must not prefer one to the valid entries of others with the same path: otherwise anyone who
//! may write a name could hide those entries, and their packs would be removed. The caller knows which entries are affected.

use crate::artifact::{snapshot::Snapshot, toc::TocEntry};

/// Bars the entries that `admit` refuses, live or not. Returns how many were live, with the first of them and the reason.
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
        1 => format!("an entry does not belong in a cache of this kind: {first}"),
        n => format!("{n} entries do not belong in a cache of this kind, such as {first}"),
    })
}
