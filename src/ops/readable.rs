//! Checks that a command can read back what an export is about to publish: applies the readers' limits before writing.

use super::{Error, Result};
use crate::{
    artifact::{
        config::MAX_LAYERS_READ,
        config::{Config, MAX_CONFIG_BYTES},
        descriptor::MAX_MANIFEST_BYTES,
        snapshot::{Sealed, Snapshot},
        toc::MAX_ENTRIES,
    },
    memory::MemoryBudget,
};

/// Refuses a snapshot that every import would refuse. Blobs already sent stay unreachable until a prune.
///
/// # Errors
/// `TooManyEntries`, `Unreadable`.
pub(super) fn check(snapshot: &Snapshot) -> Result<()> {
    let packs = snapshot.packs.len();
    if packs > MAX_LAYERS_READ {
        return unreadable(format!(
            "it would have {packs} packs, more than the limit of {MAX_LAYERS_READ}"
        ));
    }
    let (entries, bytes) = snapshot.reading_cost();
    if entries <= MAX_ENTRIES && MemoryBudget::fits_a_command(entries, bytes) {
        return Ok(());
    }
    Err(Error::TooManyEntries { entries, bytes })
}

/// The same for the documents about to be published, by parsing them.
///
/// # Errors
/// `Unreadable`.
pub(super) fn check_sealed(sealed: &Sealed) -> Result<()> {
    let (config, manifest) = (&sealed.config_bytes, &sealed.manifest.bytes);
    for (what, bytes, most) in [
        ("config", config.len() as u64, MAX_CONFIG_BYTES),
        ("manifest", manifest.len() as u64, MAX_MANIFEST_BYTES),
    ] {
        if bytes > most {
            return unreadable(format!(
                "its {what} would have {bytes} bytes, more than the limit of {most}"
            ));
        }
    }
    match Config::decode(config) {
        Ok(_) => Ok(()),
        Err(e) => unreadable(e.to_string()),
    }
}

fn unreadable(why: String) -> Result<()> {
    Err(Error::Unreadable { why })
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
        digest::{ContentId, Digest},
        entry::{Entry, EntryPath, Kind, Meta, Time},
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
                content: ContentId::OF_NOTHING,
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
    fn more_packs_or_gates_than_a_reader_takes_are_not_published() {
        let mut many = snapshot(MAX_LAYERS_READ, 30);
        for pack in &mut many.packs {
            pack.toc = Arc::default();
            (pack.live, pack.days) = (Vec::new(), Vec::new());
        }
        assert!(check(&many).is_ok());
        many.packs.push(many.packs[0].clone());
        let refused = check(&many).unwrap_err().to_string();
        assert!(refused.contains("4097 packs"), "{refused}");
        let mut one = snapshot(1, 30);
        assert!(check_sealed(&one.seal(Time::default())).is_ok());
        one.fingerprint.gates = vec![String::new(); 10_001];
        let refused = check_sealed(&one.seal(Time::default())).unwrap_err();
        assert!(matches!(refused, Error::Unreadable { .. }), "{refused}");
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
