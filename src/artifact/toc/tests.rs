use proptest::prelude::*;

use super::{meter::Meter, meter::Reading, read::read, *};
use crate::{
    artifact::wire::Malformed,
    entry::{Extent, Meta, Time},
    memory::MemoryBudget,
};

/// Reads a table with a budget of a command's size, its config promising `entries`.
pub(crate) fn decode_promised(stored: &[u8], entries: u64) -> Result<Toc, NotRead> {
    let memory = MemoryBudget::of_command();
    let reading = Reading {
        entries,
        memory: &memory,
        stopped: &|| false,
    };
    Toc::decode(stored, &reading)
}

/// The same with a config that promises what the table has.
pub(crate) fn decode(stored: &[u8]) -> Result<Toc, NotRead> {
    let promised = decode_promised(stored, MAX_ENTRIES);
    match listed(&promised) {
        Some(entries) => decode_promised(stored, entries),
        None => promised,
    }
}

/// The count in the message about a config that promises another one.
fn listed(read: &Result<Toc, NotRead>) -> Option<u64> {
    let Err(NotRead::Malformed(Malformed(why))) = read else {
        return None;
    };
    let count = why.strip_prefix("it lists ")?.split(' ').next()?;
    count.parse().ok()
}

fn from_payload_promised(payload: &[u8], entries: u64) -> Result<Toc, NotRead> {
    let memory = MemoryBudget::of_command();
    let reading = Reading {
        entries,
        memory: &memory,
        stopped: &|| false,
    };
    read(payload, &mut Meter::new(&reading, payload.len() as u64)?)
}

fn from_payload(payload: &[u8]) -> Result<Toc, NotRead> {
    let promised = from_payload_promised(payload, MAX_ENTRIES);
    match listed(&promised) {
        Some(entries) => from_payload_promised(payload, entries),
        None => promised,
    }
}

fn path(s: &[u8]) -> EntryPath {
    EntryPath::new(s).unwrap()
}

fn frames() -> (Vec<Frame>, Vec<Object>) {
    let frames = vec![
        Frame {
            offset: 0,
            len: 100,
            raw_len: 5000,
            hash: ContentId::of(b"f0"),
        },
        Frame {
            offset: 100,
            len: 50,
            raw_len: 4000,
            hash: ContentId::of(b"f1"),
        },
    ];
    let objects = vec![
        Object {
            content: ContentId::of(b"o0"),
            len: 175,
            frame: 0,
            offset: 512,
        },
        Object {
            content: ContentId::of(b"o1"),
            len: 3000,
            frame: 0,
            offset: 1536,
        },
        Object {
            content: ContentId::of(b"o2"),
            len: 4000,
            frame: 1,
            offset: 0,
        },
    ];
    (frames, objects)
}

fn sample() -> Toc {
    let (frames, objects) = frames();
    let foreign = vec![Foreign {
        content: ContentId::of(b"x"),
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
    sparse.xattrs = Box::new([(Box::from(*b"user.k"), Box::from(*b"v\0"))]);
    let one = |entry, object: u32, content| TocEntry {
        entry,
        content,
        objects: Box::new([object]),
    };
    let bare = |kind, p: &[u8]| TocEntry {
        entry: Entry {
            path: path(p),
            kind,
            meta,
            xattrs: Box::default(),
            needs: None,
        },
        content: ContentId::OF_NOTHING,
        objects: Box::new([]),
    };
    let entries = vec![
        one(a, 0, ContentId::of(b"o0")),
        TocEntry {
            entry: lost,
            content: ContentId::OF_NOTHING,
            objects: Box::new([]),
        },
        TocEntry {
            entry: d,
            content: ContentId::of(b"whole"),
            objects: Box::new([1, 2, 3]),
        },
        one(sparse, 1, ContentId::of(b"o1")),
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
        ..Toc::default()
    }
}

#[test]
fn toc_round_trips() {
    let toc = sample();
    assert_eq!(decode(&toc.encode()).unwrap(), toc);
    assert_eq!(decode(&Toc::default().encode()).unwrap(), Toc::default());
}

#[test]
fn toc_of_another_version_is_refused_with_advice() {
    for (version, advice) in [
        (VERSION + 1, "update cachectl"),
        (1, "the next export replaces it"),
    ] {
        let mut stored = sample().encode();
        stored[4] = version;
        let why = decode(&stored).unwrap_err().to_string();
        assert!(why.contains(advice), "{why}");
    }
}

#[test]
fn every_truncation_is_refused() {
    let payload = sample().payload();
    for end in 0..payload.len() {
        assert!(from_payload(&payload[..end]).is_err(), "{end}");
    }
}

#[test]
fn an_object_over_its_frame_is_refused() {
    let mut toc = sample();
    toc.objects[2].len = 4001;
    assert!(decode(&toc.encode()).is_err());
}

#[test]
fn a_frame_that_decodes_to_too_much_is_refused() {
    let mut toc = sample();
    toc.frames[0].raw_len = MAX_FRAME_BYTES + 1;
    assert!(decode(&toc.encode()).is_err());
}

#[test]
fn a_payload_bomb_is_refused_within_bounds() {
    let zeros = vec![0_u8; (MAX_TOC_BYTES + 2) as usize];
    let mut stored = [&MAGIC[..], &[VERSION]].concat();
    stored.extend(zstd::bulk::compress(&zeros, 1).unwrap());
    assert!(
        decode(&stored)
            .unwrap_err()
            .to_string()
            .contains("more than")
    );
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let _ = from_payload(&bytes);
        let _ = decode(&bytes);
    }

    #[test]
    fn any_flip_is_read_or_refused_and_what_is_read_can_be_written(at in 0_usize..600, bit in 0_u8..8) {
        let mut payload = sample().payload();
        let at = at % payload.len();
        payload[at] ^= 1 << bit;
        if let Ok(toc) = from_payload(&payload) {
            prop_assert_eq!(decode(&toc.encode()).unwrap(), toc);
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

/// Bytes that a reader takes besides what it counts: messages, the path before.
const UNCOUNTED: u64 = 64 << 10;

/// Reads a payload within `limit` bytes; the peak that the allocator saw.
fn read_within(payload: &[u8], limit: u64) -> (Result<Toc, NotRead>, u64) {
    let memory = MemoryBudget::shared(limit);
    let mut result = Err(NotRead::Stopped);
    let entries = listed(&from_payload_promised(payload, MAX_ENTRIES));
    let seen = allocation_counter::measure(|| {
        let reading = Reading {
            entries: entries.unwrap_or(0),
            memory: &memory,
            stopped: &|| false,
        };
        result = Meter::new(&reading, 0).and_then(|mut meter| {
            let mut toc = read(payload, &mut meter)?;
            toc.memory = meter.finish(0);
            assert_eq!(toc.memory.bytes(), toc.reading_bytes());
            Ok(toc)
        });
    });
    if result.is_err() {
        assert_eq!(memory.taken(), 0, "what is refused gives its memory back");
    }
    (result, seen.bytes_max)
}

/// The payload of a table with these counts, whose columns are written by `write`.
fn payload(counts: [usize; 4], write: &dyn Fn(&mut Columns<Writer>)) -> Vec<u8> {
    let mut columns = Columns::default();
    write(&mut columns);
    let mut w = Writer::default();
    w.num(0);
    for count in counts {
        w.num(count as u64);
    }
    columns.write(&mut w);
    w.num(0);
    w.0
}

/// Entries that cost their reader more than the wire, many times.
fn amplified() -> Vec<Vec<u8>> {
    const TIMES: usize = 20_000;
    let entry = |c: &mut Columns<Writer>, shared: usize, rest: &[u8], tag: u8| {
        c.path_shared.num(shared as u64);
        c.path_sizes.num(rest.len() as u64);
        c.path_bytes.raw(rest);
        c.tags.byte(tag);
        c.modes.num(0);
        c.owners.raw(&[0, 0]);
        c.seconds.num(0);
        c.nanos.num(0);
    };
    // Objects of one byte each, held by other packs.
    let foreign = |c: &mut Columns<Writer>, count: usize| {
        for _ in 0..count {
            c.foreign_sizes.num(1);
            c.foreign_hash_kinds.byte(HASH_BLAKE3);
            c.foreign_hashes.raw(&[0; 32]);
        }
    };
    // A content that consists of the first object again and again.
    let one_again_and_again = |c: &mut Columns<Writer>| {
        c.contents.num(TIMES as u64);
        c.contents.byte(HASH_BLAKE3);
        c.contents.raw(&[0; 32]);
        c.references.signed(0);
        (1..TIMES).for_each(|_| c.references.signed(-1));
    };
    let long = vec![&[b'p'; 199][..]; 20].join(&b'/');
    let long = long.as_slice();
    vec![
        // One path again and again.
        payload([0, 0, 0, TIMES], &|c| {
            entry(c, 0, b"a", 1);
            (1..TIMES).for_each(|_| entry(c, 1, b"", 1));
        }),
        // Long paths that share all but their end.
        payload([0, 0, 0, TIMES], &|c| {
            entry(c, 0, long, 1);
            (1..TIMES).for_each(|_| entry(c, long.len(), b"", 1));
        }),
        // Entries that need the one with the long path.
        payload([0, 0, 0, TIMES], &|c| {
            entry(c, 0, long, 1);
            (1..TIMES).for_each(|_| {
                entry(c, 0, b"a", 1 | HAS_NEEDS);
                c.rest.num(1);
            });
        }),
        payload([TIMES, 0, 0, 0], &|c| {
            for _ in 0..TIMES {
                c.frame_sizes.raw(&[1, 1]);
                c.frame_hashes.raw(&[0; 32]);
            }
        }),
        payload([0, 0, TIMES, 0], &|c| foreign(c, TIMES)),
        payload([0, 0, 1, 1], &|c| {
            foreign(c, 1);
            entry(c, 0, b"a", 0);
            one_again_and_again(c);
        }),
        // Attributes without values, and runs of one byte.
        payload([0, 0, 0, 1], &|c| {
            entry(c, 0, b"a", 1 | HAS_XATTRS);
            c.rest.num(TIMES as u64);
            (0..TIMES).for_each(|_| c.rest.raw(&[1, b'x', 0]));
        }),
        payload([0, 0, 1, 1], &|c| {
            foreign(c, 1);
            entry(c, 0, b"a", SPARSE);
            c.rest.num(4 * TIMES as u64);
            c.rest.num(TIMES as u64);
            (0..TIMES).for_each(|i| {
                c.rest.num(2 * i as u64);
                c.rest.num(1);
            });
            one_again_and_again(c);
        }),
    ]
}

#[test]
fn an_extension_that_need_not_be_understood_is_skipped_and_any_other_is_refused() {
    let extended = |number: u64| {
        let mut payload = sample().payload();
        assert_eq!(payload.pop(), Some(0), "no extensions");
        let mut w = Writer(payload);
        w.num(1);
        w.num(number);
        w.bytes(b"order of use");
        w.0
    };
    assert_eq!(from_payload(&extended(2)).unwrap(), sample());
    let why = from_payload(&extended(3)).unwrap_err().to_string();
    assert!(
        why.contains("extension 3") && why.contains("update cachectl"),
        "{why}"
    );
}

#[test]
fn the_gap_between_files_of_a_tar_is_one_number_whatever_their_lengths() {
    for (base, offset, number) in [
        (0, 512, 1025),
        (175 + 512, 1024 + 512, 1025),
        (1024, 1536, 1025),
        (700, 700, 0),
        (1024, 1024, 0),
        (700, 703, 6),
    ] {
        assert_eq!(gap::encode(base, offset), number, "{base} {offset}");
        assert_eq!(gap::decode(base, number), Some(offset));
    }
    assert_eq!(gap::decode(u32::MAX, 2), None);
    assert_eq!(gap::decode(0, u64::MAX), None);
}

#[test]
fn what_costs_more_than_the_wire_is_refused_before_it_is_allocated() {
    for (i, payload) in amplified().iter().enumerate() {
        let (whole, peak) = read_within(payload, 1 << 30);
        let toc = whole.unwrap_or_else(|e| panic!("{i}: {e}"));
        let cost = toc.reading_bytes();
        assert!(peak <= cost + UNCOUNTED, "{i}: {peak} > {cost}");
        let (refused, peak) = read_within(payload, cost / 2);
        assert!(matches!(refused, Err(NotRead::Memory(_))), "{i}");
        assert!(peak <= cost / 2 + UNCOUNTED, "{i}: {peak} > {cost} / 2");
    }
}

#[test]
fn a_table_with_other_entries_than_promised_is_refused_before_they_are_read() {
    let stored = sample().encode();
    for promised in [0, 6, 8, MAX_ENTRIES] {
        let why = decode_promised(&stored, promised).unwrap_err().to_string();
        assert_eq!(
            why,
            format!("it lists 7 entries, its config promises {promised}")
        );
    }
    assert!(decode_promised(&stored, MAX_ENTRIES + 1).is_err());
}

#[test]
fn a_reader_that_nobody_waits_for_stops_within_some_thousand_entries() {
    use std::sync::atomic::{AtomicU32, Ordering};
    let payload = &amplified()[0];
    let memory = MemoryBudget::of_command();
    let asked = AtomicU32::new(0);
    let reading = Reading {
        entries: 20_000,
        memory: &memory,
        stopped: &|| asked.fetch_add(1, Ordering::Relaxed) == 1,
    };
    let mut meter = Meter::new(&reading, 0).unwrap();
    assert_eq!(read(payload, &mut meter), Err(NotRead::Stopped));
    assert_eq!(asked.into_inner(), 2);
}

#[test]
fn fuzz_toc_reader() {
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    let good = sample().payload();
    let mut corpus = vec![good.clone(), Toc::default().payload()];
    let bombs = amplified();
    let end = std::time::Instant::now() + fuzz_time();
    let (mut runs, mut decoded, mut refused) = (0_u64, 0_u64, 0_u64);
    while std::time::Instant::now() < end {
        let from = if runs % 256 == 0 { &bombs } else { &corpus };
        let mut payload = rng.choice(from).expect("never empty").clone();
        mutate(&mut rng, &mut payload);
        let limit = 1 << rng.u64(12..23);
        let (toc, peak) = read_within(&payload, limit);
        assert!(
            peak <= limit + UNCOUNTED,
            "{peak} bytes of {limit}, seed {seed}"
        );
        match toc {
            Ok(toc) => {
                decoded += 1;
                assert_eq!(decode(&toc.encode()).as_ref(), Ok(&toc), "seed {seed}");
                // What was read and is new leads further in.
                if corpus.len() < 500 && payload.len() < 5000 {
                    corpus.push(payload.clone());
                }
            }
            Err(NotRead::Memory(_)) => refused += 1,
            Err(_) => {}
        }
        if runs % 16 == 0 {
            let mut stored = [&MAGIC[..], &[VERSION]].concat();
            stored.extend(zstd::bulk::compress(&payload, 1).expect("a valid level"));
            mutate(&mut rng, &mut stored);
            let _ = decode(&stored);
        }
        runs += 1;
    }
    assert!(
        runs > 100 && decoded > 0 && refused > 0,
        "{runs} runs, {decoded} read, {refused} over their budget"
    );
}

#[test]
fn a_generation_that_leaves_none_above_it_is_refused() {
    let mut toc = sample();
    toc.generation = MAX_GENERATION;
    assert!(decode(&toc.encode()).is_ok());
    toc.generation += 1;
    let why = decode(&toc.encode()).unwrap_err().to_string();
    assert!(why.contains("generation"), "{why}");
}
