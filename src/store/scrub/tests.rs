use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;

use super::*;
use crate::{
    artifact::Descriptor,
    store::{BlobStore as _, Body, Put, SpoolWriter, Sweep as _, disk::Settings, keys, keys::Repo},
};

const BYTES: &[u8] = b"what a layer is made of";

struct Node {
    dir: tempfile::TempDir,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn table(&self) -> PathBuf {
        self.dir.path().join("vetted")
    }

    /// As at the start of a process.
    async fn open(&self) -> (Disk, Scrubber) {
        let root = self.dir.path().join("store");
        let settings = Settings::default();
        let disk = Disk::open(&root, Repo::cli(), &settings);
        disk.await.unwrap().vetting(self.table()).await
    }

    fn path(&self, desc: &Descriptor) -> PathBuf {
        let key = keys::blob(&desc.digest);
        self.dir.path().join("store").join(key)
    }
}

fn blob() -> (Descriptor, Body) {
    (
        Descriptor::of("x/y", BYTES),
        Body::Bytes(Bytes::from_static(BYTES)),
    )
}

/// Overwrites a file in place, as no cachectl process does.
fn overwrite(path: &Path, bytes: &[u8]) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(path, bytes).unwrap();
}

/// Changes a byte and restores the file's time.
fn damage_quietly(path: &Path) {
    let written = fs::metadata(path).unwrap().modified().unwrap();
    overwrite(path, &flipped());
    let file = fs::File::options().write(true).open(path);
    file.unwrap().set_modified(written).unwrap();
}

fn flipped() -> Vec<u8> {
    let mut bytes = BYTES.to_vec();
    bytes[3] ^= 1;
    bytes
}

async fn read(disk: &Disk, desc: &Descriptor) -> Option<Vec<u8>> {
    let stream = disk.get(desc, 0..desc.size).await.unwrap()?;
    let all: Vec<Bytes> = stream.try_collect().await.unwrap();
    Some(all.concat())
}

#[tokio::test]
async fn a_damaged_blob_is_absent_and_can_be_brought_again() {
    for damaged in [flipped(), BYTES[..9].to_vec(), Vec::new()] {
        for while_open in [true, false] {
            let node = Node::new();
            let (desc, body) = blob();
            let (mut disk, mut scrubber) = node.open().await;
            disk.put(&desc, &body).await.unwrap();
            assert_eq!(read(&disk, &desc).await.unwrap(), BYTES);
            overwrite(&node.path(&desc), &damaged);
            if !while_open {
                scrubber.save().await.unwrap();
                drop((disk, scrubber));
                (disk, scrubber) = node.open().await;
            }
            assert_eq!(disk.stat(&desc.digest).await.unwrap(), None);
            assert_eq!(read(&disk, &desc).await, None);
            assert!(!node.path(&desc).exists());
            assert_eq!(scrubber.findings().damaged, 1);
            assert_eq!(disk.put(&desc, &body).await.unwrap(), Put::Stored);
            assert_eq!(read(&disk, &desc).await.unwrap(), BYTES);
        }
    }
}

#[tokio::test]
async fn a_layout_hands_out_no_damaged_blob_either() {
    let node = Node::new();
    let (desc, body) = blob();
    let root = node.dir.path().join("store");
    let settings = Settings::default();
    let layout = Layout::open(&root, &settings).await.unwrap();
    let (layout, scrubber) = layout.vetting(node.table()).await;
    layout.put(&desc, &body).await.unwrap();
    assert!(layout.stat(&desc.digest).await.unwrap().is_some());
    overwrite(&node.path(&desc), &flipped());
    assert_eq!(layout.stat(&desc.digest).await.unwrap(), None);
    assert_eq!(scrubber.findings().damaged, 1);
    assert_eq!(layout.put(&desc, &body).await.unwrap(), Put::Stored);
}

#[tokio::test]
async fn a_put_over_a_damaged_blob_stores_it() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, _scrubber) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    overwrite(&node.path(&desc), &flipped());
    assert_eq!(disk.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(read(&disk, &desc).await.unwrap(), BYTES);
}

#[tokio::test]
async fn what_was_hashed_once_is_not_hashed_again() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, scrubber) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    let mut spool = SpoolWriter::create(&disk.spool_dir().unwrap()).unwrap();
    std::io::Write::write_all(&mut spool, b"spooled").unwrap();
    let linked = Descriptor::of("x/y", b"spooled");
    let spool = Body::Spool(Arc::new(spool.finish()));
    disk.put(&linked, &spool).await.unwrap();
    // Counts as written now, and still as hashed.
    assert!(disk.renew(&desc.digest).await.unwrap());
    read(&disk, &desc).await.unwrap();
    read(&disk, &linked).await.unwrap();
    assert_eq!(scrubber.findings(), Findings::default());
    scrubber.save().await.unwrap();

    drop((spool, disk, scrubber));
    let (disk, scrubber) = node.open().await;
    read(&disk, &desc).await.unwrap();
    read(&disk, &linked).await.unwrap();
    assert_eq!(scrubber.findings(), Findings::default());
}

#[tokio::test]
async fn a_table_that_is_missing_foreign_or_damaged_is_not_believed() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, scrubber) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    scrubber.save().await.unwrap();
    drop((disk, scrubber));
    let whole = fs::read_to_string(node.table()).unwrap();
    let other_boot = whole.replacen('-', "0", 5);
    let wrong_digest = whole.replace("sha256:", "sha256-");
    for table in [
        None,
        Some(other_boot),
        Some(wrong_digest),
        Some(String::new()),
    ] {
        match table {
            Some(text) => fs::write(node.table(), text).unwrap(),
            None => fs::remove_file(node.table()).unwrap(),
        }
        let (disk, scrubber) = node.open().await;
        assert_eq!(read(&disk, &desc).await.unwrap(), BYTES);
        assert_eq!(read(&disk, &desc).await.unwrap(), BYTES);
        assert_eq!(scrubber.findings().bytes, BYTES.len() as u64);
    }
}

#[tokio::test]
async fn who_puts_the_old_time_back_is_found_out() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, scrubber) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    damage_quietly(&node.path(&desc));
    assert_eq!(disk.stat(&desc.digest).await.unwrap(), None);
    assert_eq!(scrubber.findings().damaged, 1);
}

#[tokio::test]
async fn links_that_come_and_go_are_no_change() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, scrubber) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    let link = node.dir.path().join("link");
    fs::hard_link(node.path(&desc), &link).unwrap();
    read(&disk, &desc).await.unwrap();
    fs::remove_file(&link).unwrap();
    read(&disk, &desc).await.unwrap();
    assert_eq!(scrubber.findings(), Findings::default());
}

#[tokio::test]
async fn a_scrub_finds_what_changed_without_a_trace() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, scrubber) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    // A disk can change bytes without a trace, which a test cannot: the new link stands for what else would reveal it.
    damage_quietly(&node.path(&desc));
    fs::hard_link(node.path(&desc), node.dir.path().join("link")).unwrap();
    assert!(disk.stat(&desc.digest).await.unwrap().is_some());

    assert_eq!(scrubber.scrub(Duration::from_hours(1)).await.unwrap(), 0);
    assert_eq!(scrubber.scrub(Duration::ZERO).await.unwrap(), 1);
    assert_eq!(scrubber.findings().damaged, 1);
    assert_eq!(disk.stat(&desc.digest).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_table_is_not_read() {
    let node = Node::new();
    let fifo = rustix::fs::CWD;
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mknodat(fifo, node.table(), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let (disk, scrubber) = node.open().await;
    let (desc, body) = blob();
    disk.put(&desc, &body).await.unwrap();
    // It is replaced.
    scrubber.save().await.unwrap();
    assert!(fs::metadata(node.table()).unwrap().is_file());
    let first = fs::read_to_string(node.table()).unwrap();
    let first = first.lines().next().unwrap().to_owned();
    fs::write(node.table(), format!("{first}\n{}", "x".repeat(1 << 20))).unwrap();
    let (disk, scrubber) = node.open().await;
    read(&disk, &desc).await.unwrap();
    assert_eq!(scrubber.findings().bytes, BYTES.len() as u64);
}

#[tokio::test]
async fn a_scrub_looks_at_what_is_not_known_yet() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, _) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    let hour = Duration::from_hours(1);
    let (disk, scrubber) = node.open().await;
    assert_eq!(scrubber.scrub(hour).await.unwrap(), 1);
    assert_eq!(scrubber.scrub(hour).await.unwrap(), 0);
    read(&disk, &desc).await.unwrap();
    assert_eq!(scrubber.findings().bytes, BYTES.len() as u64);
    // Written to by another process, with the right bytes.
    let file = fs::File::options().append(true).open(node.path(&desc));
    file.or_else(|_| fs::File::open(node.path(&desc)))
        .unwrap()
        .set_modified(SystemTime::now() + hour)
        .unwrap();
    read(&disk, &desc).await.unwrap();
    assert_eq!(scrubber.findings().bytes, 2 * BYTES.len() as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_who_want_one_blob_hash_it_once() {
    let node = Node::new();
    let (desc, body) = blob();
    let (disk, _) = node.open().await;
    disk.put(&desc, &body).await.unwrap();
    let (disk, scrubber) = node.open().await;
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let (disk, desc) = (disk.clone(), desc.clone());
            task::spawn("reader", async move { read(&disk, &desc).await })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.join().await.unwrap(), BYTES);
    }
    assert_eq!(scrubber.findings().bytes, BYTES.len() as u64);
}
