use crate::store::ErrorKind;
use std::{
    io::Write as _,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    time::Duration,
};

use futures_util::TryStreamExt as _;

use super::*;
use crate::{
    artifact::{Reference, Tag},
    store::{Expect, Meet, Published, SpoolWriter, Sweep, TagStore, Untag, testing::conformance},
    task,
};

async fn open(root: &Path) -> Disk {
    let settings = Settings {
        lock_wait: Duration::from_millis(200),
        ..Settings::default()
    };
    Disk::open(root, Repo::cli(), &settings).await.unwrap()
}

fn blob(bytes: &'static [u8]) -> (Descriptor, Body) {
    (
        Descriptor::of("x/y", bytes),
        Body::Bytes(Bytes::from_static(bytes)),
    )
}

fn manifest(id: u32) -> Manifest {
    Manifest::sniff(format!("{{\"schemaVersion\":2,\"id\":{id}}}"))
}

fn tag(s: &str) -> Tag {
    s.parse().unwrap()
}

/// All paths below `root`, with their inode and time, to show that nothing changed.
fn listing(root: &Path) -> Vec<(PathBuf, u64, i64)> {
    let mut all = Vec::new();
    let mut todo = vec![root.to_owned()];
    while let Some(dir) = todo.pop() {
        for item in std::fs::read_dir(dir).unwrap() {
            let path = item.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                todo.push(path.clone());
            }
            all.push((path, meta.ino(), meta.mtime_nsec()));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn disk_is_a_store() {
    conformance::run_all(async || {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(open(&dir.path().join("a/b")).await);
        conformance::Subject {
            store: store.clone(),
            meet: Meet::CompareAndSwap,
            untag: Some(store.clone()),
            sweep: Some(store.clone()),
            spool_dir: store.spool_dir(),
            keep: Box::new(dir),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_handles_of_one_folder_lose_no_update() {
    let dir = tempfile::tempdir().unwrap();
    let tag = tag("t");
    let mut writers = Vec::new();
    for me in 0..6_u32 {
        let (root, tag) = (dir.path().to_owned(), tag.clone());
        writers.push(task::spawn("writer", async move {
            let settings = Settings::default();
            let store = Disk::open(&root, Repo::cli(), &settings).await.unwrap();
            loop {
                let found = store.resolve(&tag.clone().into()).await.unwrap();
                let (mut seen, expect) = match found {
                    Some(r) => (
                        r.manifest.bytes.to_vec(),
                        Expect::Version(r.version.unwrap()),
                    ),
                    None => (b"seen".to_vec(), Expect::Absent),
                };
                seen.extend_from_slice(format!(" {me}").as_bytes());
                let m = Manifest::sniff(seen);
                if store.publish(&m, Some(&tag), &expect).await.unwrap() == Published::Done {
                    return;
                }
            }
        }));
    }
    for writer in writers {
        writer.join().await;
    }
    let store = open(dir.path()).await;
    let found = store.resolve(&tag.into()).await.unwrap().unwrap();
    let text = String::from_utf8(found.manifest.bytes.to_vec()).unwrap();
    let mut seen: Vec<_> = text.split(' ').skip(1).collect();
    seen.sort_unstable();
    assert_eq!(seen, ["0", "1", "2", "3", "4", "5"]);
}

#[tokio::test]
async fn spool_on_the_same_file_system_is_linked_not_copied() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let mut spool = SpoolWriter::create(&store.spool_dir().unwrap()).unwrap();
    spool.write_all(b"some bytes").unwrap();
    let spool = Arc::new(spool.finish());
    let inode = std::fs::metadata(spool.path()).unwrap().ino();
    let desc = Descriptor::of("x/y", b"some bytes");
    store.put(&desc, &Body::Spool(spool.clone())).await.unwrap();
    let path = dir.path().join(keys::blob(&desc.digest));
    let meta = std::fs::metadata(&path).unwrap();
    assert_eq!(meta.ino(), inode);
    assert_eq!(
        meta.permissions().mode() & 0o222,
        0,
        "a blob can be written to"
    );
    drop(spool);
    assert_eq!(std::fs::read(&path).unwrap(), b"some bytes");
    assert_eq!(
        std::fs::read_dir(dir.path().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn truncated_blob_is_corrupt_and_the_next_put_heals_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (desc, body) = blob(b"0123456789");
    store.put(&desc, &body).await.unwrap();
    let path = dir.path().join(keys::blob(&desc.digest));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"01234").unwrap();
    let e = store.get(&desc, 0..10).await.err().unwrap();
    assert_eq!(e.kind, ErrorKind::Corrupt);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");

    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"").unwrap();
    let mut spool = SpoolWriter::create(&store.spool_dir().unwrap()).unwrap();
    spool.write_all(b"0123456789").unwrap();
    let body = Body::Spool(Arc::new(spool.finish()));
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(std::fs::read(&path).unwrap(), b"0123456789");
    drop(body);
    assert_eq!(
        std::fs::read_dir(dir.path().join("uploads"))
            .unwrap()
            .count(),
        0
    );
}

#[tokio::test]
async fn damaged_tag_is_corrupt_to_readers_and_absent_to_writers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (t, m) = (tag("t"), manifest(1));
    let blob_path = dir.path().join(keys::blob(&m.digest));
    let tag_path = dir.path().join(keys::tag(&Repo::cli(), &t));
    for damage in 0..4 {
        store
            .publish(&m, Some(&t), &Expect::Anything)
            .await
            .unwrap();
        match damage {
            0 => std::fs::remove_file(&blob_path).unwrap(),
            1 | 2 => {
                let mut bytes = m.bytes.to_vec();
                bytes[3] ^= 1;
                bytes.truncate(m.bytes.len() + 1 - damage);
                std::fs::remove_file(&blob_path).unwrap();
                std::fs::write(&blob_path, bytes).unwrap();
            }
            _ => std::fs::write(&tag_path, b"").unwrap(),
        }
        let e = store.resolve(&t.clone().into()).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "damage {damage}");
        let next = manifest(2);
        let done = store
            .publish(&next, Some(&t), &Expect::Absent)
            .await
            .unwrap();
        assert_eq!(done, Published::Done, "damage {damage}");
        let found = store.resolve(&t.clone().into()).await.unwrap().unwrap();
        assert_eq!(found.manifest, next);
        // The same bytes repair it as well.
        store.publish(&m, None, &Expect::Anything).await.unwrap();
        assert!(store.resolve(&m.digest.into()).await.unwrap().is_some());
        store.untag(&t).await.unwrap();
    }
}

#[tokio::test]
async fn of_several_that_repair_a_damaged_tag_one_wins() {
    let dir = tempfile::tempdir().unwrap();
    let t = tag("t");
    let path = dir.path().join(keys::tag(&Repo::cli(), &t));
    for round in 0..20 {
        let stores = futures_util::future::join_all((0..4).map(|_| open(dir.path()))).await;
        std::fs::write(&path, b"damaged").unwrap();
        let publish = async |store: Disk, id: u32| {
            let new = manifest(id);
            let done = store.publish(&new, Some(&t), &Expect::Absent).await;
            (done.unwrap(), id)
        };
        let all = (round * 10..).zip(stores).map(|(id, s)| publish(s, id));
        let all = futures_util::future::join_all(all).await;
        let won: Vec<_> = all.iter().filter(|(p, _)| *p == Published::Done).collect();
        let [(_, id)] = won[..] else {
            panic!("{all:?}");
        };
        let store = open(dir.path()).await;
        let found = store.resolve(&t.clone().into()).await.unwrap().unwrap();
        assert_eq!(found.manifest, manifest(*id));
    }
}

#[tokio::test]
async fn sweep_waits_for_users_and_users_for_a_sweep() {
    let dir = tempfile::tempdir().unwrap();
    let user = open(dir.path()).await;
    let sweeper = open(dir.path()).await;
    let e = sweeper.lock_alone().await.err().unwrap();
    assert_eq!(e.kind, ErrorKind::Conflict, "{e}");
    // It holds the lock again.
    assert_eq!(
        user.lock_alone().await.err().unwrap().kind,
        ErrorKind::Conflict
    );
    drop(user);

    let guard = sweeper.lock_alone().await.unwrap();
    let settings = Settings {
        lock_wait: Duration::from_millis(100),
        ..Settings::default()
    };
    let e = Disk::open(dir.path(), Repo::cli(), &settings)
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
    let read_only = Settings {
        read_only: true,
        ..settings.clone()
    };
    let e = Disk::open(dir.path(), Repo::cli(), &read_only)
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
    // The process that sweeps continues.
    assert_eq!(sweeper.blobs().await.unwrap(), []);
    drop(guard);
    let user = open(dir.path()).await;
    assert!(sweeper.lock_alone().await.is_err());
    drop(user);
}

#[tokio::test]
async fn left_overs_go_when_nobody_is_inside() {
    let dir = tempfile::tempdir().unwrap();
    let user = open(dir.path()).await;
    let uploads = dir.path().join("uploads");
    for name in ["tmp-0123", "spool-abc", "6b1f-upload-of-a-daemon"] {
        std::fs::write(uploads.join(name), b"x").unwrap();
    }
    let other = open(dir.path()).await;
    assert_eq!(
        std::fs::read_dir(&uploads).unwrap().count(),
        3,
        "a living process's files went"
    );
    drop((user, other));
    let _again = open(dir.path()).await;
    let left: Vec<_> = std::fs::read_dir(&uploads)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, ["6b1f-upload-of-a-daemon"]);
}

#[tokio::test]
async fn read_only_store_is_read_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (desc, body) = blob(b"bytes");
    let (t, m) = (tag("t"), manifest(1));
    {
        let store = open(dir.path()).await;
        store.put(&desc, &body).await.unwrap();
        store
            .publish(&m, Some(&t), &Expect::Anything)
            .await
            .unwrap();
    }
    for with_lock in [true, false] {
        if !with_lock {
            std::fs::remove_dir_all(dir.path().join("meta")).unwrap();
        }
        let before = listing(dir.path());
        let settings = Settings {
            read_only: true,
            ..Settings::default()
        };
        let store = Disk::open(dir.path(), Repo::cli(), &settings)
            .await
            .unwrap();
        let found = store.resolve(&t.clone().into()).await.unwrap().unwrap();
        assert_eq!(found.manifest, m);
        assert_eq!(store.tags("").await.unwrap(), std::slice::from_ref(&t));
        let stream = store.get(&desc, 0..5).await.unwrap().unwrap();
        let read: Vec<Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(read.concat(), b"bytes");
        let (new, body) = blob(b"other");
        for e in [
            store.put(&new, &body).await.err(),
            store.publish(&m, Some(&t), &Expect::Anything).await.err(),
            store.untag(&t).await.err(),
            store.lock_alone().await.err(),
        ] {
            assert_eq!(e.unwrap().kind, ErrorKind::Denied);
        }
        assert!(store.spool_dir().is_none());
        drop(store);
        assert_eq!(listing(dir.path()), before);
    }
    let gone = dir.path().join("nothing");
    let settings = Settings {
        read_only: true,
        ..Settings::default()
    };
    let e = Disk::open(&gone, Repo::cli(), &settings).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::NoSuchStore);
    assert!(!gone.exists());
}

#[tokio::test]
async fn a_file_in_the_stores_place_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    std::fs::write(&path, b"x").unwrap();
    let e = Disk::open(&path, Repo::cli(), &Settings::default())
        .await
        .unwrap_err();
    assert!(e.to_string().contains(path.to_str().unwrap()), "{e}");
}

#[tokio::test]
async fn foreign_files_and_links_are_no_blobs() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let blobs = dir.path().join("blobs/sha256");
    std::fs::write(blobs.join("README"), b"x").unwrap();
    let (desc, body) = blob(b"bytes");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, b"bytes").unwrap();
    std::os::unix::fs::symlink(&secret, blobs.join(desc.digest.hex())).unwrap();
    assert_eq!(store.blobs().await.unwrap(), []);
    assert_eq!(store.stat(&desc.digest).await.unwrap(), None);
    assert!(store.get(&desc, 0..5).await.is_err(), "a link was followed");
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(store.stat(&desc.digest).await.unwrap(), Some(5));
    assert_eq!(std::fs::read(&secret).unwrap(), b"bytes");
}

#[tokio::test]
async fn repositories_share_blobs_and_roots_but_no_tags() {
    let dir = tempfile::tempdir().unwrap();
    let ours = open(dir.path()).await;
    let team: Repo = "team/app".parse().unwrap();
    let theirs = Disk::open(dir.path(), team, &Settings::default())
        .await
        .unwrap();
    let (a, b) = (manifest(1), manifest(2));
    ours.publish(&a, Some(&tag("t")), &Expect::Absent)
        .await
        .unwrap();
    theirs
        .publish(&b, Some(&tag("t")), &Expect::Absent)
        .await
        .unwrap();
    let found = ours.resolve(&tag("t").into()).await.unwrap().unwrap();
    assert_eq!(found.manifest, a);
    assert!(ours.resolve(&b.digest.into()).await.unwrap().is_none());
    let mut want = [a.digest, b.digest];
    want.sort();
    assert_eq!(ours.roots().await.unwrap(), want);
}

#[tokio::test]
async fn a_damaged_tag_keeps_the_manifests_of_its_repository_and_the_rest_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let disk = open(dir.path()).await;
    let other = disk.in_repo("team/app".parse().unwrap());
    let (named, spare, loose) = (manifest(1), manifest(2), manifest(3));
    let publish = async |store: &Disk, m: &Manifest, t: Option<&Tag>| {
        store.publish(m, t, &Expect::Anything).await.unwrap();
    };
    publish(&other, &named, Some(&tag("t"))).await;
    publish(&other, &spare, None).await;
    publish(&disk, &loose, None).await;
    // The result of a power failure, and foreign content.
    for bytes in ["", "{}"] {
        std::fs::write(dir.path().join("r/team%2Fapp/tags/t"), bytes).unwrap();
        let roots = disk.roots().await.unwrap();
        assert!(roots.contains(&named.digest) && roots.contains(&spare.digest));
        assert!(!roots.contains(&loose.digest), "{bytes}");
    }
}

#[tokio::test]
async fn sweeping_a_manifest_removes_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let subject = manifest(1).descriptor();
    let doc = serde_json::json!({ "schemaVersion": 2, "subject": subject }).to_string();
    let m = Manifest::sniff(doc);
    store.publish(&m, None, &Expect::Anything).await.unwrap();
    let repo = Repo::cli();
    let records = [
        keys::manifest(&repo, &m.digest),
        keys::referrer(&repo, &subject.digest, &m.digest),
    ];
    assert!(records.iter().all(|k| dir.path().join(k).exists()));
    let later = Time {
        secs: Time::now().secs + 10,
        nanos: 0,
    };
    assert_eq!(store.remove(&[m.digest], later).await.unwrap().0, 1);
    assert!(!records.iter().any(|k| dir.path().join(k).exists()));
    assert!(store.resolve(&m.digest.into()).await.unwrap().is_none());
}

/// The other side of the next test: writes until it is killed, if the folder it runs in requests that.
#[tokio::test]
#[ignore = "run by `killed_writer_leaves_every_name_readable`"]
async fn writer_that_is_to_be_killed() {
    let dir = std::env::current_dir().unwrap();
    if !dir.join("kill-me").exists() {
        return;
    }
    let mut told = std::fs::File::create(dir.join("told")).unwrap();
    let store = open(&dir.join("store")).await;
    for round in 0..100_000_u32 {
        let bytes: Bytes = (0..300_000).map(|_| fastrand::u8(..)).collect();
        let desc = Descriptor::of("x/y", &bytes);
        let body = if round % 2 == 0 {
            let mut spool = SpoolWriter::create(&store.spool_dir().unwrap()).unwrap();
            spool.write_all(&bytes).unwrap();
            Body::Spool(Arc::new(spool.finish()))
        } else {
            Body::Bytes(bytes)
        };
        store.put(&desc, &body).await.unwrap();
        let doc = serde_json::json!({ "schemaVersion": 2, "layers": [desc] }).to_string();
        let m = Manifest::sniff(doc);
        let t = tag(&format!("t{}", round % 3));
        store
            .publish(&m, Some(&t), &Expect::Anything)
            .await
            .unwrap();
        told.write_all(format!("{}\n", m.digest).as_bytes())
            .unwrap();
    }
}

#[tokio::test]
async fn killed_writer_leaves_every_name_readable() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("kill-me"), b"").unwrap();
    let mut acknowledged = 0;
    for _ in 0..8 {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "store::disk::tests::writer_that_is_to_be_killed",
            ])
            .current_dir(dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        // On a busy machine it takes a while until it writes at all.
        let told = dir.path().join("told");
        while acknowledged == 0 && !std::fs::metadata(&told).is_ok_and(|t| t.len() > 0) {
            assert_eq!(child.try_wait().unwrap(), None, "it ended by itself");
            std::thread::sleep(Duration::from_millis(10));
        }
        // Any moment is suitable; its progress is counted below.
        std::thread::sleep(Duration::from_millis(fastrand::u64(100..400)));
        child.kill().unwrap();
        child.wait().unwrap();

        let store = open(&dir.path().join("store")).await;
        let uploads = store.spool_dir().unwrap();
        assert_eq!(
            std::fs::read_dir(uploads).unwrap().count(),
            0,
            "left-overs stay"
        );
        let told = std::fs::read_to_string(dir.path().join("told")).unwrap_or_default();
        let mut names: Vec<Reference> = told
            .lines()
            .filter_map(|l| l.parse::<Digest>().ok())
            .map(Reference::from)
            .collect();
        acknowledged += names.len();
        names.extend(
            store
                .tags("")
                .await
                .unwrap()
                .into_iter()
                .map(Reference::from),
        );
        for name in names {
            let found = store
                .resolve(&name)
                .await
                .unwrap()
                .expect("a name is there");
            let doc: serde_json::Value = serde_json::from_slice(&found.manifest.bytes).unwrap();
            let desc: Descriptor = serde_json::from_value(doc["layers"][0].clone()).unwrap();
            let stream = store
                .get(&desc, 0..desc.size)
                .await
                .unwrap()
                .expect("its blob is there");
            let bytes: Vec<Bytes> = stream.try_collect().await.unwrap();
            assert!(
                desc.digest.matches(&bytes.concat()),
                "its blob has other bytes"
            );
        }
        for blob in store.blobs().await.unwrap() {
            let bytes =
                std::fs::read(dir.path().join("store").join(keys::blob(&blob.digest))).unwrap();
            assert!(blob.digest.matches(&bytes), "a part of a blob is visible");
        }
    }
    assert!(
        acknowledged > 0,
        "it was always killed before it wrote anything"
    );
}

#[tokio::test]
async fn blob_that_is_merely_found_is_renewed_once_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (desc, body) = blob(b"found");
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    let path = dir.path().join(keys::blob(&desc.digest));
    let age = |hours: i64| {
        let then = Time {
            secs: Time::now().secs - hours * 3600,
            nanos: 0,
        };
        fs::set_file_mtime(std::fs::File::open(&path).unwrap(), then).unwrap();
    };
    for (hours, renewed) in [(11, false), (13, true)] {
        age(hours);
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
        let now = std::fs::metadata(&path).unwrap().mtime();
        assert_eq!(Time::now().secs - now < 3600, renewed, "{hours} h");
    }
}

/// Modes of all folders and files below `root`, by path.
fn modes(root: &Path) -> Vec<(String, u32)> {
    let mut all: Vec<(String, u32)> = listing(root)
        .into_iter()
        .map(|(path, ..)| {
            let mode = std::fs::symlink_metadata(&path)
                .unwrap()
                .permissions()
                .mode();
            let inside = path.strip_prefix(root).unwrap().display().to_string();
            (inside, mode & 0o7777)
        })
        .collect();
    all.sort();
    all
}

async fn fill(store: &Disk) {
    let (desc, body) = blob(b"bytes");
    store.put(&desc, &body).await.unwrap();
    let mut spool = SpoolWriter::create(&store.spool_dir().unwrap()).unwrap();
    spool.write_all(b"spooled").unwrap();
    let spool = spool.finish();
    let desc = Descriptor::new("a/b", spool.digest(), spool.size());
    store
        .put(&desc, &Body::Spool(Arc::new(spool)))
        .await
        .unwrap();
    store
        .publish(&manifest(1), Some(&tag("t")), &Expect::Absent)
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_made_follows_the_bits_of_the_root_whatever_the_umask() {
    for (bits, dirs, files, blobs) in [
        (0o700, 0o700, 0o600, 0o400),
        (0o750, 0o750, 0o640, 0o440),
        (0o775, 0o775, 0o664, 0o444),
        (0o2770, 0o2770, 0o660, 0o440),
        (0o777, 0o777, 0o666, 0o444),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        std::fs::create_dir(&root).unwrap();
        std::fs::set_permissions(&root, std::fs::Permissions::from_mode(bits)).unwrap();
        fill(&open(&root).await).await;
        let found = modes(&root);
        assert!(found.len() > 8, "{found:?}");
        for (path, mode) in found {
            let is_dir = root.join(&path).is_dir();
            let is_blob = path.starts_with("blobs/") && !is_dir;
            let want = if is_dir {
                dirs
            } else if is_blob {
                blobs
            } else {
                files
            };
            assert_eq!(mode, want, "{bits:o} {path}: {mode:o}");
        }
    }
}

#[tokio::test]
async fn private_root_is_for_one_user_and_an_existing_one_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a/store");
    let settings = Settings {
        private: true,
        ..Settings::default()
    };
    let opened = |root: PathBuf| {
        let settings = settings.clone();
        async move { Disk::open(&root, Repo::cli(), &settings).await.unwrap() }
    };
    fill(&opened(root.clone()).await).await;
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&root), 0o700);
    assert!(modes(&root).iter().all(|(_, m)| m & 0o700 == *m));
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o750)).unwrap();
    opened(root.clone()).await;
    assert_eq!(mode(&root), 0o750);
}

#[tokio::test]
async fn links_inside_a_store_are_followed_nowhere_and_the_root_may_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let elsewhere = dir.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    for (at, to) in [
        ("blobs", &elsewhere),
        ("blobs/sha256", &elsewhere),
        ("uploads", &elsewhere),
        ("meta", &elsewhere),
        ("meta/gc.lock", &elsewhere.join("made")),
    ] {
        let root = dir.path().join(at.replace('/', "-"));
        let link = root.join(at);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(to, &link).unwrap();
        let settings = Settings {
            lock_wait: Duration::ZERO,
            ..Settings::default()
        };
        let error = Disk::open(&root, Repo::cli(), &settings).await.unwrap_err();
        assert!(
            error.to_string().contains(link.to_str().unwrap()),
            "{error}"
        );
        assert_eq!(listing(&elsewhere), [], "{at}");
    }
    // Created while the store is open.
    let root = dir.path().join("late");
    let store = open(&root).await;
    std::fs::remove_dir(root.join("blobs/sha256")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, root.join("blobs/sha256")).unwrap();
    let (desc, body) = blob(b"bytes");
    let error = store.put(&desc, &body).await.unwrap_err();
    assert!(error.to_string().contains("symbolic link"), "{error}");
    assert!(
        store.stat(&desc.digest).await.is_err(),
        "it is not just absent"
    );
    assert_eq!(listing(&elsewhere), []);
    // The root is the user's own path.
    let real = dir.path().join("real");
    std::fs::create_dir(&real).unwrap();
    let root = dir.path().join("link");
    std::os::unix::fs::symlink(&real, &root).unwrap();
    fill(&open(&root).await).await;
    assert!(real.join("blobs/sha256").is_dir());
}
