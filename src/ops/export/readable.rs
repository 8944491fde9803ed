//! Whether a command could read back what an export is about to publish: the limits of readers, seen from the writer.

use super::Result;
use crate::{
    artifact::{snapshot::Snapshot, toc::MAX_ENTRIES},
    memory::MemoryBudget,
    ops::Error,
};

/// Refuses a snapshot that every import would refuse. What was sent stays unreachable, for a prune.
///
/// # Errors
/// `TooManyEntries`.
pub(super) fn check(snapshot: &Snapshot) -> Result<()> {
    let (entries, bytes) = snapshot.reading_cost();
    if entries <= MAX_ENTRIES && MemoryBudget::fits_a_command(entries, bytes) {
        return Ok(());
    }
    Err(Error::TooManyEntries { entries, bytes })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        artifact::{
            config::Fingerprint,
            name::SnapshotName,
            snapshot::{Layer, Pack, TocPlace},
            toc::{Toc, TocEntry},
        },
        digest::{Digest, Sha256},
        entry::{Entry, EntryPath, Kind, Meta},
    };

    /// A snapshot of `packs` packs, each of a thousand folders whose paths have `len` bytes.
    fn snapshot(packs: usize, len: usize) -> Snapshot {
        let folder = |i: usize| {
            let name = format!("{i:0>200}/");
            let path: String = name
                .repeat(len.div_ceil(201))
                .chars()
                .take(len - 1)
                .collect();
            let path = EntryPath::new(format!("{path}x").into_bytes()).unwrap();
            let mut entry = Entry::file(path, 0, Meta::default());
            entry.kind = Kind::Dir;
            TocEntry {
                entry,
                content: Sha256::OF_NOTHING,
                objects: Box::default(),
            }
        };
        let toc = Arc::new(Toc {
            entries: (0..1000).map(folder).collect(),
            ..Toc::default()
        });
        let place = TocPlace {
            digest: Digest::sha256_of(b""),
            offset: 0,
            size: 0,
        };
        let pack = |i: usize| {
            let layer = Layer::new(Digest::sha256_of(&i.to_le_bytes()), 1, place);
            Pack::all_live(layer, toc.clone(), 0)
        };
        Snapshot {
            name: SnapshotName {
                kind: "dir".into(),
                name: "n".into(),
                scope: "s".into(),
                key: String::new(),
            },
            fingerprint: Fingerprint::default(),
            packs: (0..packs).map(pack).collect(),
            merge: false,
            folded: Vec::new(),
            root: None,
            created: None,
            published: None,
        }
    }

    #[test]
    fn a_million_folders_can_be_read_back_and_what_is_over_the_limits_is_not_published() {
        assert!(check(&snapshot(1000, 100)).is_ok());
        assert!(check(&snapshot(2000, 30)).is_ok());
        for (packs, len) in [(2001, 30), (1000, 600), (100, 4000)] {
            let refused = check(&snapshot(packs, len)).unwrap_err();
            assert!(
                matches!(refused, Error::TooManyEntries { entries, .. } if entries == 1000 * packs as u64),
                "{packs}, {len}: {refused}"
            );
        }
    }
}
