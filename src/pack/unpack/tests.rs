use std::{collections::HashMap, sync::Arc};

use super::*;
use crate::{
    artifact::{
        name::SnapshotName,
        snapshot::{Layer, Pack, Snapshot, TocPlace},
        toc::{
            Toc,
            tests::{decode, mutate},
        },
    },
    entry::EntryPath,
    pack::{
        plan::{Wanted, plan},
        write::{
            Shape, Written,
            tests::{file, noise, pack},
        },
    },
    progress::Silent,
};

/// A frame as a store may deliver it.
type Raw = (usize, usize, std::result::Result<Bytes, String>);

struct Folder(tempfile::TempDir, Vec<EntryPath>);

impl Target for Folder {
    fn create(&self, file: usize) -> fs::Result<File> {
        let dir = fs::Dir::open(self.0.path())?;
        dir.create_file(&self.1[file].as_bytes().replace_slash(), 0o644)
    }

    fn finish(&self, _: usize, _: &File) -> fs::Result<()> {
        Ok(())
    }
}

trait ReplaceSlash {
    fn replace_slash(&self) -> Vec<u8>;
}

impl ReplaceSlash for [u8] {
    fn replace_slash(&self) -> Vec<u8> {
        self.iter()
            .map(|b| if *b == b'/' { b'_' } else { *b })
            .collect()
    }
}

fn snapshot(packs: &[(Vec<u8>, Written)]) -> Snapshot {
    let pack = |(bytes, w): &(Vec<u8>, Written)| {
        let place = TocPlace {
            digest: w.toc_at.digest,
            offset: w.toc_at.offset,
            size: w.toc_at.size,
        };
        let layer = Layer::new(
            crate::digest::Digest::sha256_of(bytes),
            bytes.len() as u64,
            place,
        );
        Pack::all_live(layer, Arc::new(w.toc.clone()), 0)
    };
    let name = SnapshotName {
        kind: "dir".into(),
        name: "n".into(),
        scope: "s".into(),
        key: String::new(),
    };
    Snapshot {
        name,
        fingerprint: crate::artifact::config::Fingerprint::default(),
        packs: packs.iter().map(pack).collect(),
        merge: false,
        folded: Vec::new(),
        root: None,
        created: None,
        published: None,
    }
}

fn contents() -> HashMap<&'static [u8], Vec<u8>> {
    HashMap::from([
        (&b"empty"[..], Vec::new()),
        (b"small", noise(700, 1)),
        (b"d/big", noise(9_000_000, 2)),
        (b"huge", noise(25_000_000, 3)),
    ])
}

/// Unpacks with arrivals in the order and form that `deliver` gives them.
fn run(
    check: bool,
    deliver: impl Fn(Vec<Raw>) -> Vec<Raw>,
) -> (Folder, Vec<(EntryPath, FileOutcome)>) {
    let mut tree: Vec<_> = contents().into_iter().map(|(p, c)| file(p, c)).collect();
    tree.sort_by(|a, b| a.0.entry.path.cmp(&b.0.entry.path));
    let (packs, _) = pack(&tree, Shape::Full, 2, &|_| false);
    let snapshot = snapshot(&packs);
    let wanted: Vec<Wanted> = snapshot
        .live()
        .map(|(at, _)| Wanted { at, check })
        .collect();
    let plan = plan(&snapshot, &wanted);
    let mut arrivals = Vec::new();
    for (p, pack) in plan.packs.iter().enumerate() {
        for (f, frame) in pack.frames.iter().enumerate() {
            let stored =
                &packs[pack.pack].0[frame.frame.offset as usize..][..frame.frame.len as usize];
            arrivals.push((p, f, Ok(Bytes::copy_from_slice(stored))));
        }
    }
    let check = |(p, f, b): Raw| {
        let frame = &plan.packs[p].frames[f].frame;
        let verified =
            b.and_then(|b| Verified::check(frame, b).ok_or_else(|| "damaged".to_owned()));
        (p, f, verified)
    };
    let arrivals: Vec<Arrival> = deliver(arrivals).into_iter().map(check).collect();
    let queue = Mutex::new(arrivals.into_iter());
    let paths = plan.files.iter().map(|f| f.path.clone()).collect();
    let folder = Folder(tempfile::tempdir().unwrap(), paths);
    let outcomes = unpack(&plan, &folder, 3, &Silent, &|| queue.lock().next()).unwrap();
    let named = plan
        .files
        .iter()
        .map(|f| f.path.clone())
        .zip(outcomes)
        .collect();
    (folder, named)
}

fn read(folder: &Folder, path: &EntryPath) -> Vec<u8> {
    std::fs::read(
        folder
            .0
            .path()
            .join(std::str::from_utf8(&path.as_bytes().replace_slash()).unwrap()),
    )
    .unwrap()
}

#[test]
fn frames_may_come_in_any_order() {
    let orders: [fn(Vec<Raw>) -> Vec<Raw>; 3] = [
        |a| a,
        |mut a| {
            a.reverse();
            a
        },
        |mut a| {
            fastrand::Rng::with_seed(5).shuffle(&mut a);
            a
        },
    ];
    for (check, order) in [true, false]
        .into_iter()
        .flat_map(|c| orders.map(|o| (c, o)))
    {
        let (folder, outcomes) = run(check, order);
        assert_eq!(outcomes.len(), 4);
        for (path, outcome) in outcomes {
            assert_eq!(outcome, FileOutcome::Whole, "{path}");
            assert!(
                read(&folder, &path) == contents()[path.as_bytes()],
                "{path}"
            );
        }
    }
}

#[test]
fn a_damaged_frame_breaks_only_the_files_that_need_it() {
    let (folder, outcomes) = run(false, |mut arrivals| {
        let middle = arrivals.len() / 2;
        let bytes = arrivals[middle].2.clone().unwrap();
        let mut flipped = bytes.to_vec();
        flipped[bytes.len() / 2] ^= 4;
        arrivals[middle].2 = Ok(flipped.into());
        arrivals
    });
    let broken: Vec<_> = outcomes
        .iter()
        .filter(|(_, o)| *o != FileOutcome::Whole)
        .collect();
    assert_eq!(broken.len(), 1, "{broken:?}");
    for (path, _) in outcomes.iter().filter(|(_, o)| *o == FileOutcome::Whole) {
        assert!(read(&folder, path) == contents()[path.as_bytes()], "{path}");
    }
}

#[test]
fn frames_that_never_come_or_come_too_short_leave_broken_files() {
    let (_, outcomes) = run(true, |_| Vec::new());
    assert_eq!(
        outcomes
            .iter()
            .filter(|(_, o)| *o == FileOutcome::Whole)
            .count(),
        1,
        "only the empty file"
    );
    let (_, outcomes) = run(true, |arrivals| {
        let cut = |b: Bytes| b.slice(..b.len() - 1);
        arrivals
            .into_iter()
            .map(|(p, f, b)| (p, f, b.map(cut)))
            .collect()
    });
    assert_eq!(
        outcomes
            .iter()
            .filter(|(_, o)| *o == FileOutcome::Whole)
            .count(),
        1
    );
}

/// A table of contents with some changed bytes, if the reader accepts it.
fn forged(rng: &mut fastrand::Rng, toc: &Toc) -> Option<Toc> {
    let stored = toc.encode();
    let mut payload = zstd::stream::decode_all(&stored[5..]).expect("our own");
    mutate(rng, &mut payload);
    let packed = zstd::bulk::compress(&payload, 1).expect("level 1");
    decode(&[&stored[..5], &packed].concat()).ok()
}

/// Any table of contents that the reader accepts, with any frames: a file is whole only if it matches the table, no file is written that
/// the table does not name, and memory stays bounded by the frames.
#[test]
fn fuzz_unpacker() {
    use crate::artifact::{
        fold::{self, Rules},
        toc::tests::fuzz_time,
    };
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut tree: Vec<_> = [
        (&b"a"[..], noise(900, 4)),
        (b"b", vec![7; 3000]),
        (b"d/c", noise(300_000, 5)),
    ]
    .into_iter()
    .map(|(p, c)| file(p, c))
    .collect();
    tree.sort_by(|a, b| a.0.entry.path.cmp(&b.0.entry.path));
    let (packs, _) = pack(&tree, Shape::Full, 2, &|_| false);
    let (bytes, written) = &packs[0];
    let end = std::time::Instant::now() + fuzz_time();
    let (mut runs, mut planned, mut whole, mut broken) = (0_u64, 0_u64, 0_u64, 0_u64);
    while std::time::Instant::now() < end {
        runs += 1;
        let mut bytes = bytes.clone();
        let mut toc = written.toc.clone();
        if rng.bool() {
            match forged(&mut rng, &toc) {
                Some(forged) => toc = forged,
                None => continue,
            }
        }
        if rng.bool() {
            let frames = written.toc_at.offset as usize - 8;
            let mut changed = bytes[..frames].to_vec();
            mutate(&mut rng, &mut changed);
            bytes = changed;
        }
        // The digests are made to match the changed bytes, so that these reach the decoder and the writer.
        for f in &mut toc.frames {
            let part = usize::try_from(f.offset)
                .ok()
                .and_then(|at| bytes.get(at..)?.get(..f.len as usize));
            f.hash = part.map_or(f.hash, ContentId::of);
        }
        let mut forged = written.clone();
        forged.toc = toc;
        let mut snapshot = snapshot(&[(bytes.clone(), forged)]);
        fold::close(&mut snapshot, Rules::Tree);
        let wanted: Vec<Wanted> = snapshot
            .live()
            .filter(|(_, e)| e.entry.kind.is_file())
            .map(|(at, _)| Wanted { at, check: true })
            .collect();
        let plan = plan(&snapshot, &wanted);
        if plan.content_bytes() > 64 << 20 {
            continue;
        }
        planned += 1;
        let mut arrivals = Vec::new();
        for (p, pack) in plan.packs.iter().enumerate() {
            for (f, frame) in pack.frames.iter().enumerate() {
                let at = frame.frame.offset as usize;
                let stored = bytes
                    .get(at..)
                    .and_then(|b| b.get(..frame.frame.len as usize));
                let verified = stored
                    .and_then(|b| Verified::check(&frame.frame, Bytes::copy_from_slice(b)))
                    .ok_or_else(|| "is cut short".to_owned());
                arrivals.push((p, f, verified));
            }
        }
        let queue = Mutex::new(arrivals.into_iter());
        let paths = (0..plan.files.len())
            .map(|i| EntryPath::new(format!("f{i}").into_bytes()).expect("a name"));
        let folder = Folder(tempfile::tempdir().expect("a folder"), paths.collect());
        let Ok(outcomes) = unpack(&plan, &folder, 2, &Silent, &|| queue.lock().next()) else {
            // A hole beyond what the file system allows.
            continue;
        };
        for (i, (file, outcome)) in plan.files.iter().zip(&outcomes).enumerate() {
            if *outcome == FileOutcome::Whole {
                whole += 1;
                if !file.sparse {
                    let got =
                        std::fs::read(folder.0.path().join(format!("f{i}"))).expect("it is whole");
                    assert_eq!(Some(ContentId::of(&got)), file.check, "seed {seed}");
                }
            } else {
                broken += 1;
            }
        }
        let there = std::fs::read_dir(folder.0.path())
            .expect("a folder")
            .count();
        assert!(there <= plan.files.len(), "seed {seed}");
    }
    assert!(
        planned > 10 && whole > 0 && broken > 0,
        "{runs} {planned} {whole} {broken}"
    );
}
