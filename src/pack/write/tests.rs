use std::{
    io::{Cursor, Read, Write},
    process::Command,
};

use super::*;
use crate::{
    artifact::toc::{ObjectId, Reading},
    entry::{Content, Entry, EntryPath, Extent, Kind, Meta, Time},
    memory::MemoryBudget,
    progress::Silent,
};

/// The expected content of a file.
pub(in crate::pack) type Readable = std::result::Result<Vec<u8>, String>;

/// Contents in memory, one per item.
pub(in crate::pack) struct InMemory(pub(in crate::pack) Vec<Readable>);

struct Bytes(Cursor<Vec<u8>>);

impl Read for Bytes {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buf)
    }
}

impl Content for Bytes {
    fn settle(self: Box<Self>) -> std::result::Result<(), String> {
        Ok(())
    }
}

impl Contents for InMemory {
    fn open(&self, item: usize) -> std::result::Result<Box<dyn Content>, String> {
        self.0[item]
            .clone()
            .map(|b| Box::new(Bytes(Cursor::new(b))) as Box<dyn Content>)
    }
}

/// Keeps packs in memory.
#[derive(Default)]
pub(in crate::pack) struct Kept(pub(in crate::pack) Vec<(Vec<u8>, Written)>);

impl Sink for Kept {
    type Out = Vec<u8>;

    fn begin(&mut self) -> std::io::Result<Vec<u8>> {
        Ok(Vec::new())
    }

    fn end(&mut self, out: Vec<u8>, written: Written) -> std::io::Result<()> {
        self.0.push((out, written));
        Ok(())
    }
}

pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    // Half noise, half runs, so that it compresses a little.
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        let n = rng.usize(1..2000).min(len - bytes.len());
        if rng.bool() {
            bytes.extend(std::iter::repeat_with(|| rng.u8(..)).take(n));
        } else {
            bytes.resize(bytes.len() + n, rng.u8(..));
        }
    }
    bytes
}

pub(in crate::pack) fn file(path: &[u8], content: Vec<u8>) -> (PackItem, Readable) {
    let meta = Meta {
        mode: 0o640,
        uid: 0,
        gid: 0,
        mtime: Time {
            secs: 1_700_000_000,
            nanos: 5,
        },
    };
    let entry = Entry::file(EntryPath::new(path).unwrap(), content.len() as u64, meta);
    (
        PackItem {
            entry,
            claim: None,
            content: ContentPlan::Read,
        },
        Ok(content),
    )
}

pub(in crate::pack) fn other(path: &[u8], kind: Kind) -> (PackItem, Readable) {
    let (mut item, content) = file(path, Vec::new());
    item.entry.kind = kind;
    item.content = ContentPlan::None;
    (item, content)
}

pub(in crate::pack) fn pack(
    tree: &[(PackItem, Readable)],
    shape: Shape,
    threads: usize,
    kept: &(dyn Fn(&ObjectId) -> bool + Sync),
) -> (Vec<(Vec<u8>, Written)>, Vec<Outcome>) {
    let items: Vec<PackItem> = tree.iter().map(|t| t.0.clone()).collect();
    let contents = InMemory(tree.iter().map(|t| t.1.clone()).collect());
    let mut sink = Kept::default();
    let options = Options {
        shape,
        generation: 0,
        threads,
        level: Level::default(),
    };
    let outcomes = write(&items, &contents, kept, &options, &mut sink, &Silent).unwrap();
    (sink.0, outcomes)
}

fn tree() -> Vec<(PackItem, Readable)> {
    let mut tree = vec![
        other(b"d", Kind::Dir),
        file(b"d/empty", Vec::new()),
        file(b"d/small", noise(100, 1)),
        file(b"d/twice", noise(100, 1)),
        file(&[b"d/", &[b'l'; 150][..]].concat(), noise(5000, 2)),
        file(b"d/\xff\xfe", noise(300_000, 3)),
        file(b"d/big", noise(3_000_000, 4)),
        file(b"d/huge", noise(20_000_000, 5)),
        other(b"d/link", Kind::Symlink(Box::from(*b"../small"))),
        other(
            b"d/hard",
            Kind::Hardlink(EntryPath::new(*b"d/small").unwrap()),
        ),
    ];
    let (mut sparse, content) = file(b"d/sparse", noise(8192, 6));
    let runs = [
        Extent {
            offset: 4096,
            len: 4096,
        },
        Extent {
            offset: 1 << 20,
            len: 4096,
        },
    ];
    sparse.entry.kind = Kind::File {
        size: 2 << 20,
        extents: Some(Box::new(runs)),
    };
    tree.push((sparse, content));
    for i in 0..300_u64 {
        tree.push(file(
            format!("many/{i:03}").as_bytes(),
            noise(i as usize * 37, i),
        ));
    }
    tree
}

#[test]
fn the_same_tree_gives_the_same_pack_whatever_the_threads() {
    let one = pack(&tree(), Shape::Full, 1, &|_| false).0;
    for threads in [2, 5] {
        let more = pack(&tree(), Shape::Full, threads, &|_| false).0;
        assert_eq!(one.len(), more.len());
        assert!(
            one.iter().zip(&more).all(|(a, b)| a.0 == b.0),
            "{threads} threads"
        );
    }
}

#[test]
fn gnu_tar_extracts_a_full_pack() {
    let tree = tree();
    let (packs, _) = pack(&tree, Shape::Full, 2, &|_| false);
    let dir = tempfile::tempdir().unwrap();
    for (bytes, written) in &packs {
        assert_eq!(bytes.len() as u64, written.size);
        let archive = dir.path().join("pack.tar.zst");
        std::fs::File::create(&archive)
            .unwrap()
            .write_all(bytes)
            .unwrap();
        let out = Command::new("tar")
            .arg("--zstd")
            .arg("-xf")
            .arg(&archive)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            out.status.success() && out.stderr.is_empty(),
            "{}",
            String::from_utf8_lossy(&out.stderr)
        );
    }
    for (item, content) in &tree {
        let path = dir.path().join(item.entry.path.as_path());
        let content = content.as_ref().unwrap();
        match &item.entry.kind {
            Kind::File { extents: None, .. } => assert_eq!(
                &std::fs::read(&path).unwrap(),
                content,
                "{}",
                item.entry.path
            ),
            Kind::File {
                size,
                extents: Some(runs),
            } => {
                let mut want = vec![0; *size as usize];
                for (i, run) in runs.iter().enumerate() {
                    want[run.offset as usize..][..4096]
                        .copy_from_slice(&content[i * 4096..][..4096]);
                }
                assert!(std::fs::read(&path).unwrap() == want, "sparse");
            }
            Kind::Dir => assert!(path.is_dir()),
            Kind::Symlink(_) => {
                assert_eq!(std::fs::read_link(&path).unwrap().as_os_str(), "../small");
            }
            Kind::Hardlink(_) => assert_eq!(std::fs::read(&path).unwrap(), noise(100, 1)),
        }
    }
}

#[test]
fn a_bare_pack_finds_its_table_of_contents() {
    let (packs, _) = pack(&tree(), Shape::Full, 2, &|_| false);
    let (bytes, written) = &packs[0];
    let at = bare::read_footer(
        &bytes[bytes.len() - bare::FOOTER_BYTES as usize..],
        bytes.len() as u64,
    )
    .unwrap();
    assert_eq!(at, written.toc_at);
    let stored = &bytes[at.offset as usize..][..at.size as usize];
    let memory = MemoryBudget::of_command();
    let reading = Reading {
        entries: written.toc.entries.len() as u64,
        memory: &memory,
        stopped: &|| false,
    };
    let read = bare::read_toc(stored, &at.digest, &reading);
    assert_eq!(read.unwrap(), written.toc);
    assert!(bare::read_toc(&stored[1..], &at.digest, &reading).is_err());
}

#[test]
fn frames_stay_within_their_bounds_and_objects_within_frames() {
    let (packs, _) = pack(&tree(), Shape::Full, 2, &|_| false);
    for (bytes, written) in &packs {
        let mut at = 0;
        for f in &written.toc.frames {
            assert_eq!(f.offset, at);
            at += u64::from(f.len);
            let stored = &bytes[f.offset as usize..][..f.len as usize];
            // Content_Checksum_flag, RFC 8878 §3.1.1.1.1.
            assert_eq!(stored[4] & 4, 4);
            let raw = zstd::bulk::decompress(stored, 8 << 20).unwrap();
            assert_eq!(raw.len(), f.raw_len as usize);
            assert!(raw.len() <= crate::artifact::toc::MAX_FRAME_BYTES as usize);
            for o in written
                .toc
                .objects
                .iter()
                .filter(|o| written.toc.frames[o.frame as usize].offset == f.offset)
            {
                assert_eq!(
                    ContentId::of(&raw[o.offset as usize..][..o.len as usize]),
                    o.content
                );
            }
        }
    }
}

#[test]
fn an_increment_writes_only_new_segments_of_a_changed_file() {
    let old = noise(20_000_000, 7);
    let mut new = old.clone();
    new[9_000_000] ^= 1;
    for (len, whole) in [(3_000_000, false), (20_000_000, false), (200_000, true)] {
        let (old, mut new) = (&old[..len], new[..len].to_vec());
        new[len / 2] ^= 1;
        let known: std::collections::HashSet<ObjectId> =
            super::super::chunk::objects(old).into_iter().collect();
        let tree = [file(b"f", new.clone())];
        let (packs, outcomes) = pack(&tree, Shape::Increment, 2, &|d| known.contains(d));
        assert_eq!(outcomes, [Outcome::Packed(ContentId::of(&new))]);
        let toc = &packs[0].1.toc;
        assert_eq!(toc.foreign.is_empty(), whole, "{len}");
        let own: u64 = toc.objects.iter().map(|o| u64::from(o.len)).sum();
        assert!(own <= 1_000_000, "{len}: {own}");
    }
}

#[test]
fn what_cannot_be_read_or_belies_its_name_is_left_out() {
    let mut tree = tree();
    tree[2].1 = Err("gone".into());
    tree[6].0.claim = Some(ContentId::of(b"another"));
    tree[7].0.claim = Some(ContentId::of(b"another"));
    let (_, short) = file(b"x", noise(99, 1));
    tree[3].1 = short;
    let (packs, outcomes) = pack(&tree, Shape::Full, 2, &|_| false);
    let left: Vec<usize> = (0..tree.len())
        .filter(|i| matches!(outcomes[*i], Outcome::LeftOut(_)))
        .collect();
    assert_eq!(left, [2, 3, 6, 7]);
    let listed: usize = packs.iter().map(|p| p.1.toc.entries.len()).sum();
    assert_eq!(listed, tree.len() - 4);
}

struct Full(u64);

impl Write for Full {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(buf.len() as u64)
            .ok_or_else(|| std::io::Error::from(std::io::ErrorKind::StorageFull))?;
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

struct FullSink;

impl Sink for FullSink {
    type Out = Full;

    fn begin(&mut self) -> std::io::Result<Full> {
        Ok(Full(3_000_000))
    }

    fn end(&mut self, _: Full, _: Written) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_ends_the_run_with_its_error() {
    let tree = tree();
    let items: Vec<PackItem> = tree.iter().map(|t| t.0.clone()).collect();
    let contents = InMemory(tree.into_iter().map(|t| t.1).collect());
    let options = Options {
        shape: Shape::Full,
        generation: 0,
        threads: 2,
        level: Level::default(),
    };
    let error = write(
        &items,
        &contents,
        &|_| false,
        &options,
        &mut FullSink,
        &Silent,
    )
    .unwrap_err();
    assert!(matches!(error, Error::Write(e) if e.kind() == std::io::ErrorKind::StorageFull));
}
