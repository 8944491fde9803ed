use proptest::prelude::*;

use super::*;

fn path(s: &[u8]) -> EntryPath {
    EntryPath::new(s).unwrap()
}

fn sample() -> Toc {
    let frames = vec![
        Frame {
            offset: 0,
            len: 100,
            raw_len: 5000,
            digest: Sha256::of(b"f0"),
        },
        Frame {
            offset: 100,
            len: 50,
            raw_len: 4000,
            digest: Sha256::of(b"f1"),
        },
    ];
    let objects = vec![
        Object {
            digest: Sha256::of(b"o0"),
            len: 175,
            frame: 0,
            offset: 512,
        },
        Object {
            digest: Sha256::of(b"o1"),
            len: 3000,
            frame: 0,
            offset: 1536,
        },
        Object {
            digest: Sha256::of(b"o2"),
            len: 4000,
            frame: 1,
            offset: 0,
        },
    ];
    let foreign = vec![Foreign {
        digest: Sha256::of(b"x"),
        len: 9,
    }];
    let meta = Meta {
        mode: 0o644,
        uid: 0,
        gid: 7,
        mtime: Time {
            secs: -5,
            nanos: 999_999_999,
        },
    };
    let mut a = Entry::file(path(b"aa/x-a"), 175, meta);
    a.needs = Some(path(b"aa/y-d"));
    let mut lost = Entry::file(path(b"aa/x-b"), 0, meta);
    lost.needs = Some(path(b"elsewhere/q"));
    let d = Entry::file(path(b"aa/y-d"), 7009, meta);
    let mut sparse = Entry::file(path(b"\xff\xfe"), 0, meta);
    sparse.kind = Kind::File {
        size: 1 << 40,
        extents: Some(Box::new([Extent {
            offset: 1 << 30,
            len: 3000,
        }])),
    };
    sparse.xattrs = vec![(Box::from(*b"user.k"), Box::from(*b"v\0"))];
    let one = |entry, object: u32, digest| TocEntry {
        entry,
        content: digest,
        objects: Box::new([object]),
    };
    let bare = |kind, p: &[u8]| TocEntry {
        entry: Entry {
            path: path(p),
            kind,
            meta,
            xattrs: vec![],
            needs: None,
        },
        content: Sha256::of(b""),
        objects: Box::new([]),
    };
    let entries = vec![
        one(a, 0, Sha256::of(b"o0")),
        TocEntry {
            entry: lost,
            content: Sha256::of(b""),
            objects: Box::new([]),
        },
        TocEntry {
            entry: d,
            content: Sha256::of(b"whole"),
            objects: Box::new([1, 2, 3]),
        },
        one(sparse, 1, Sha256::of(b"o1")),
        bare(Kind::Dir, b"dir"),
        bare(Kind::Symlink(Box::from(*b"../out")), b"dir/link"),
        bare(Kind::Hardlink(path(b"aa/y-d")), b"hard"),
    ];
    Toc {
        generation: 3,
        frames,
        objects,
        foreign,
        entries,
    }
}

#[test]
fn toc_round_trips() {
    let toc = sample();
    assert_eq!(Toc::decode(&toc.encode()).unwrap(), toc);
    assert_eq!(
        Toc::decode(&Toc::default().encode()).unwrap(),
        Toc::default()
    );
}

#[test]
fn toc_of_a_later_version_is_refused_with_advice() {
    let mut stored = sample().encode();
    stored[4] = 2;
    assert!(
        Toc::decode(&stored)
            .unwrap_err()
            .to_string()
            .contains("update cachectl")
    );
}

#[test]
fn every_truncation_is_refused() {
    let payload = sample().payload();
    for end in 0..payload.len() {
        assert!(Toc::from_payload(&payload[..end]).is_err(), "{end}");
    }
}

#[test]
fn an_object_over_its_frame_is_refused() {
    let mut toc = sample();
    toc.objects[2].len = 4001;
    assert!(Toc::decode(&toc.encode()).is_err());
}

#[test]
fn a_frame_that_decodes_to_too_much_is_refused() {
    let mut toc = sample();
    toc.frames[0].raw_len = MAX_FRAME_BYTES + 1;
    assert!(Toc::decode(&toc.encode()).is_err());
}

#[test]
fn a_payload_bomb_is_refused_within_bounds() {
    let zeros = vec![0_u8; (MAX_TOC_BYTES + 2) as usize];
    let mut stored = [&MAGIC[..], &[VERSION]].concat();
    stored.extend(zstd::bulk::compress(&zeros, 1).unwrap());
    assert!(
        Toc::decode(&stored)
            .unwrap_err()
            .to_string()
            .contains("more than")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = Toc::from_payload(&bytes);
        let _ = Toc::decode(&bytes);
    }

    #[test]
    fn any_flip_is_read_or_refused_and_what_is_read_can_be_written(at in 0_usize..600, bit in 0_u8..8) {
        let mut payload = sample().payload();
        let at = at % payload.len();
        payload[at] ^= 1 << bit;
        if let Ok(toc) = Toc::from_payload(&payload) {
            prop_assert_eq!(Toc::decode(&toc.encode()).unwrap(), toc);
        }
    }
}

/// How long a fuzz target runs: `make fuzz` sets it, `make test` gives each two seconds.
pub(crate) fn fuzz_time() -> std::time::Duration {
    #[expect(clippy::disallowed_methods, reason = "a setting of the test run alone")]
    let set = std::env::var("CACHECTL_FUZZ_SECONDS");
    let secs = set.ok().and_then(|s| s.parse().ok()).unwrap_or(2);
    std::time::Duration::from_secs(secs)
}

/// Changes bytes the way hostile input does: single bits, numbers at their limits, pieces moved, doubled or gone.
pub(crate) fn mutate(rng: &mut fastrand::Rng, bytes: &mut Vec<u8>) {
    for _ in 0..rng.u8(1..6) {
        if bytes.is_empty() {
            return;
        }
        let at = rng.usize(..bytes.len());
        let end = bytes.len().min(at + rng.usize(1..40));
        match rng.u8(..7) {
            0 => bytes[at] ^= 1 << rng.u8(..8),
            1 => {
                bytes[at] = *rng
                    .choice(&[0, 1, 0x7f, 0x80, 0xff, b'.', b'/'])
                    .unwrap_or(&0);
            }
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let piece = bytes[at..end].to_vec();
                let to = rng.usize(..=bytes.len());
                drop(bytes.splice(to..to, piece));
            }
            5 => bytes[at..end].fill(0xff),
            _ => drop(bytes.splice(at..at, (0..rng.u8(1..12)).map(|_| rng.u8(..)))),
        }
    }
}

#[test]
fn fuzz_toc_reader() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let good = sample().payload();
    let mut corpus = vec![good.clone(), Toc::default().payload()];
    let end = std::time::Instant::now() + fuzz_time();
    let (mut runs, mut read) = (0_u64, 0_u64);
    while std::time::Instant::now() < end {
        let mut payload = rng.choice(&corpus).expect("never empty").clone();
        mutate(&mut rng, &mut payload);
        if let Ok(toc) = Toc::from_payload(&payload) {
            read += 1;
            assert_eq!(Toc::decode(&toc.encode()).as_ref(), Ok(&toc), "seed {seed}");
            // What was read and is new leads further in.
            if corpus.len() < 500 {
                corpus.push(payload.clone());
            }
        }
        if runs % 16 == 0 {
            let mut stored = [&MAGIC[..], &[VERSION]].concat();
            stored.extend(zstd::bulk::compress(&payload, 1).expect("a valid level"));
            mutate(&mut rng, &mut stored);
            let _ = Toc::decode(&stored);
        }
        runs += 1;
    }
    assert!(runs > 1000 && read > 0, "{runs} runs, {read} read");
}
