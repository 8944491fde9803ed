use std::path::Path;

use futures_util::TryStreamExt as _;
use serde_json::{Value, json};

use super::*;
use crate::{
    artifact::media,
    store::{Meet, testing::conformance},
    task,
};

async fn open(root: &Path) -> Layout {
    Layout::open(root, &settings(300)).await.unwrap()
}

fn settings(lock_wait_ms: u64) -> Settings {
    Settings {
        read_only: false,
        lock_wait: Duration::from_millis(lock_wait_ms),
        ..Settings::default()
    }
}

fn tag(s: &str) -> Tag {
    s.parse().unwrap()
}

fn put_file(root: &Path, bytes: &[u8]) -> Descriptor {
    let desc = Descriptor::of("application/octet-stream", bytes);
    let path = root.join(super::super::keys::blob(&desc.digest));
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
    desc
}

/// A layout as written by another tool: without our folder, with fields and entries that we do not know.
fn foreign(root: &Path) -> (Descriptor, Descriptor) {
    let layer = put_file(root, b"layer");
    let config = put_file(root, b"{}");
    let doc = json!({ "schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "config": config, "layers": [layer] });
    let mut manifest = put_file(root, doc.to_string().as_bytes());
    manifest.media_type = media::IMAGE_MANIFEST.to_owned();
    let index = json!({
        "schemaVersion": 2,
        "x-field": { "kept": 12_345_678_901_234_567_u64 },
        "manifests": [
            { "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size, "platform": { "os": "plan9" },
              "annotations": { "org.opencontainers.image.ref.name": "latest" } },
            { "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size,
              "annotations": { "org.opencontainers.image.ref.name": "v1", "io.containerd.image.name": "docker.io/x:v1" } },
            { "mediaType": manifest.media_type, "digest": manifest.digest, "size": manifest.size },
            "not even an object",
        ],
    });
    std::fs::write(root.join("index.json"), index.to_string()).unwrap();
    std::fs::write(
        root.join("oci-layout"),
        "{\"imageLayoutVersion\":\"1.0.0\"}",
    )
    .unwrap();
    (manifest, layer)
}

fn index_of(root: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(root.join("index.json")).unwrap()).unwrap()
}

fn manifest(id: u32) -> Manifest {
    Manifest::sniff(format!("{{\"schemaVersion\":2,\"id\":{id}}}"))
}

async fn head(store: &Layout, name: &str) -> Option<Digest> {
    let found = store.resolve(&tag(name).into()).await.unwrap();
    found.map(|r| r.manifest.digest)
}

#[tokio::test]
async fn layout_is_a_store() {
    conformance::run_all(async || {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/b");
        // The suite's slowest case has six writers in one index.
        let store = Arc::new(Layout::open(&root, &settings(20_000)).await.unwrap());
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

#[tokio::test]
async fn new_layout_is_one_that_other_tools_accept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .publish(&manifest(1), Some(&tag("a")), &Expect::Absent)
        .await
        .unwrap();
    let version = std::fs::read_to_string(dir.path().join("oci-layout")).unwrap();
    assert_eq!(version, "{\"imageLayoutVersion\":\"1.0.0\"}");
    let m = manifest(1);
    let want = json!({ "schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": [{
        "mediaType": m.media_type, "digest": m.digest, "size": m.bytes.len(),
        "annotations": { "org.opencontainers.image.ref.name": "a" },
    }] });
    assert_eq!(index_of(dir.path()), want);
    assert!(
        dir.path()
            .join("blobs/sha256")
            .join(m.digest.hex())
            .is_file()
    );
}

#[tokio::test]
async fn foreign_entries_and_fields_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, _) = foreign(dir.path());
    let before = index_of(dir.path());
    let store = open(dir.path()).await;
    assert_eq!(index_of(dir.path()), before, "opening changed the index");
    assert_eq!(store.tags("").await.unwrap(), [tag("latest"), tag("v1")]);
    assert_eq!(head(&store, "latest").await, Some(theirs.digest));
    assert_eq!(head(&store, "v1").await, Some(theirs.digest));
    let found = store.resolve(&theirs.digest.into()).await.unwrap().unwrap();
    assert_eq!(found.manifest.media_type, media::IMAGE_MANIFEST);

    // Ours replaces the entry with the plain name, and precedes the one named by containerd.
    store
        .publish(&manifest(1), Some(&tag("latest")), &Expect::Anything)
        .await
        .unwrap();
    store
        .publish(&manifest(2), Some(&tag("v1")), &Expect::Anything)
        .await
        .unwrap();
    assert_eq!(head(&store, "latest").await, Some(manifest(1).digest));
    assert_eq!(head(&store, "v1").await, Some(manifest(2).digest));
    let after = index_of(dir.path());
    assert_eq!(after["x-field"], before["x-field"]);
    let entries = after["manifests"].as_array().unwrap();
    assert_eq!(entries[..3], before["manifests"].as_array().unwrap()[1..]);
    assert_eq!(entries.len(), 5);
}

#[tokio::test]
async fn foreign_layout_is_read_without_a_trace() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, layer) = foreign(dir.path());
    let read_only = Settings {
        read_only: true,
        ..settings(100)
    };
    let store = Layout::open(dir.path(), &read_only).await.unwrap();
    assert_eq!(head(&store, "latest").await, Some(theirs.digest));
    let stream = store.get(&layer, 0..layer.size).await.unwrap().unwrap();
    assert_eq!(
        stream.try_collect::<Vec<_>>().await.unwrap().concat(),
        b"layer"
    );
    let e = store
        .publish(&manifest(1), None, &Expect::Anything)
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied);
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
}

#[tokio::test]
async fn lock_that_buildkit_holds_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let store = Layout::open(dir.path(), &settings(100)).await.unwrap();
    let path = dir.path().join("index.json.lock");
    let theirs = fs::Lock::try_now(&path, fs::LockMode::Exclusive)
        .unwrap()
        .unwrap();
    let (m, a) = (manifest(1), tag("a"));
    let e = store
        .publish(&m, Some(&a), &Expect::Anything)
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout);
    assert!(e.to_string().contains("index.json.lock"), "{e}");

    let store = Layout::open(dir.path(), &settings(10_000)).await.unwrap();
    let publish = task::spawn("publish", async move {
        store.publish(&m, Some(&a), &Expect::Anything).await
    });
    // BuildKit writes the index in place, removes its lock file, and then releases the lock.
    let mut index = index_of(dir.path());
    index["manifests"]
        .as_array_mut()
        .unwrap()
        .push(json!({ "mediaType": "x/y", "digest": manifest(9).digest, "size": 1 }));
    std::fs::write(dir.path().join("index.json"), index.to_string()).unwrap();
    std::fs::remove_file(&path).unwrap();
    drop(theirs);
    assert_eq!(publish.join().await.unwrap(), Published::Done);
    assert_eq!(
        index_of(dir.path())["manifests"].as_array().unwrap().len(),
        2,
        "an entry was lost"
    );
}

#[tokio::test(start_paused = true)]
async fn torn_index_is_read_again_and_a_broken_one_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    store
        .publish(&manifest(1), Some(&tag("a")), &Expect::Anything)
        .await
        .unwrap();
    let path = dir.path().join("index.json");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..20]).unwrap();
    let reader = store.clone();
    let read = task::spawn("read", async move { head(&reader, "a").await });
    tokio::time::sleep(Duration::from_millis(30)).await;
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(read.join().await, Some(manifest(1).digest));

    for bad in ["", "[]", "<html>", "{\"manifests\":7}"] {
        std::fs::write(&path, bad).unwrap();
        let e = store.resolve(&tag("a").into()).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{bad}");
        let e = store
            .publish(&manifest(2), Some(&tag("a")), &Expect::Anything)
            .await
            .unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{bad}");
        assert_eq!(
            std::fs::read_to_string(&path).unwrap(),
            bad,
            "what we cannot read was overwritten"
        );
    }
    std::fs::write(&path, "{\"manifests\":null}").unwrap();
    assert_eq!(store.tags("").await.unwrap(), []);
}

#[tokio::test]
async fn dangling_entry_is_corrupt_to_readers_and_absent_to_writers() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let (m, a) = (manifest(1), tag("a"));
    store
        .publish(&m, Some(&a), &Expect::Anything)
        .await
        .unwrap();
    std::fs::remove_file(dir.path().join("blobs/sha256").join(m.digest.hex())).unwrap();
    let e = store.resolve(&a.clone().into()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt);
    let done = store
        .publish(&manifest(2), Some(&a), &Expect::Absent)
        .await
        .unwrap();
    assert_eq!(done, Published::Done);
}

#[tokio::test]
async fn sweep_keeps_what_any_entry_needs_whatever_the_caller_says() {
    let dir = tempfile::tempdir().unwrap();
    let (theirs, layer) = foreign(dir.path());
    let path = dir.path().join("index.json");
    let mut doc = index_of(dir.path());
    // An invalid entry could need any blob.
    let store = open(dir.path()).await;
    let orphan = put_file(dir.path(), b"orphan");
    let all = [theirs.digest, layer.digest, orphan.digest];
    let later = Time {
        secs: Time::now().secs + 10,
        nanos: 0,
    };
    assert_eq!(
        store.remove(&all, later).await.unwrap_err().kind,
        ErrorKind::Corrupt
    );
    assert_eq!(store.roots().await.unwrap_err().kind, ErrorKind::Corrupt);
    doc["manifests"].as_array_mut().unwrap().pop();
    std::fs::write(&path, doc.to_string()).unwrap();

    // A deep chain: entry without a name -> index -> manifest -> layer.
    let deep = put_file(dir.path(), b"deep layer");
    let inner = put_file(
        dir.path(),
        json!({ "schemaVersion": 2, "layers": [deep] })
            .to_string()
            .as_bytes(),
    );
    let outer = put_file(
        dir.path(),
        json!({ "schemaVersion": 2, "manifests": [inner, layer] })
            .to_string()
            .as_bytes(),
    );
    doc["manifests"].as_array_mut().unwrap().push(
        json!({ "mediaType": media::IMAGE_INDEX, "digest": outer.digest, "size": outer.size }),
    );
    std::fs::write(&path, doc.to_string()).unwrap();

    let all: Vec<Digest> = store
        .blobs()
        .await
        .unwrap()
        .into_iter()
        .map(|b| b.digest)
        .collect();
    assert_eq!(store.remove(&all, later).await.unwrap(), (1, 6));
    let left: Vec<Digest> = store
        .blobs()
        .await
        .unwrap()
        .into_iter()
        .map(|b| b.digest)
        .collect();
    assert_eq!(left.len(), all.len() - 1);
    assert!(!left.contains(&orphan.digest));

    // The needs of a damaged manifest are unknown, so nothing is removed.
    put_file(dir.path(), b"another orphan");
    std::fs::write(
        dir.path().join(super::super::keys::blob(&inner.digest)),
        b"{}",
    )
    .unwrap();
    assert_eq!(
        store.remove(&left, later).await.unwrap_err().kind,
        ErrorKind::Corrupt
    );
    assert_eq!(store.blobs().await.unwrap().len(), left.len() + 1);
}

#[tokio::test]
async fn layer_is_no_manifest_and_another_version_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let layer = put_file(dir.path(), b"no json");
    assert!(store.resolve(&layer.digest.into()).await.unwrap().is_none());
    std::fs::write(
        dir.path().join("oci-layout"),
        "{\"imageLayoutVersion\":\"2.0.0\"}",
    )
    .unwrap();
    let e = Layout::open(dir.path(), &settings(100)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt);
    assert!(e.to_string().contains("2.0.0"), "{e}");
    for damaged in ["", "<html>", "{\"imageLay"] {
        std::fs::write(dir.path().join("oci-layout"), damaged).unwrap();
        open(dir.path()).await;
        let healed = std::fs::read_to_string(dir.path().join("oci-layout")).unwrap();
        assert!(healed.contains("1.0.0"), "{damaged}");
    }
}

/// As in a daemon: what no tag needs is removed, including its records; the rest is kept.
#[tokio::test]
async fn swept_manifest_of_a_repository_is_forgotten_and_others_stay() {
    let dir = tempfile::tempdir().unwrap();
    let layout = open(dir.path()).await;
    let all = crate::store::by_tags::ByTags::new(layout.clone());
    let repo: crate::store::keys::Repo = "team/app".parse().unwrap();
    let one = all.in_repo(repo.clone());
    let manifest = |n: u32| {
        let doc = json!({"mediaType": media::IMAGE_INDEX, "manifests": [], "annotations": {"n": n.to_string()}});
        Manifest::sniff(doc.to_string())
    };
    let (old, new, part) = (manifest(1), manifest(2), manifest(3));
    for m in [&old, &new] {
        one.publish(m, Some(&tag("v1")), &Expect::Anything)
            .await
            .unwrap();
    }
    one.publish(&part, None, &Expect::Anything).await.unwrap();
    let key = crate::store::keys::part(&repo, &tag("v1"), &part.digest);
    let bytes = crate::store::record::encode(&crate::store::record::Tagged::at(&part));
    crate::store::Records::write_record(&all, &key, bytes.into())
        .await
        .unwrap();
    let later = Time {
        secs: Time::now().secs + 10,
        nanos: 0,
    };
    let digests = [old.digest, new.digest, part.digest];
    let (count, _) = layout.remove(&digests, later).await.unwrap();
    assert_eq!(count, 1);
    let known = crate::store::keys::manifests_prefix(&repo);
    let known = crate::store::Records::list_records(&all, &known)
        .await
        .unwrap();
    assert_eq!(known.len(), 2);
    assert!(one.resolve(&old.digest.into()).await.unwrap().is_none());
    for m in [&new, &part] {
        let found = one.resolve(&m.digest.into()).await.unwrap();
        assert_eq!(found.unwrap().manifest, *m);
    }
    // To other tools the folder is an unchanged layout.
    let index = std::fs::read(dir.path().join("index.json")).unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    for entry in index["manifests"].as_array().unwrap() {
        let digest: Digest = entry["digest"].as_str().unwrap().parse().unwrap();
        assert!(layout.stat(&digest).await.unwrap().is_some(), "{entry}");
    }
    assert_eq!(layout.tags("").await.unwrap(), []);
}

#[tokio::test]
async fn index_that_would_take_all_memory_is_refused_before_it_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let bomb = format!(
        r#"{{"schemaVersion":2,"manifests":[{}{{}}]}}"#,
        "{},".repeat(400_000)
    );
    std::fs::write(dir.path().join("index.json"), bomb).unwrap();
    let e = store.tags("").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt);
    assert!(e.message.contains("more than the limit of 256 MB"), "{e}");
}

#[tokio::test]
async fn a_manifest_that_makes_no_sense_keeps_what_it_may_name_and_everything_else_is_swept() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path()).await;
    let layer = put_file(dir.path(), b"a layer that is named somehow");
    let orphan = put_file(dir.path(), b"orphan");
    for (n, odd) in [
        json!([
            2,
            media::IMAGE_MANIFEST,
            null,
            null,
            [["a/b", layer.digest, 1, []]]
        ])
        .to_string(),
        format!("no JSON, but {}", layer.digest),
    ]
    .into_iter()
    .enumerate()
    {
        let odd = Manifest::new(media::IMAGE_MANIFEST, odd);
        let name = tag(&format!("odd{n}"));
        store
            .publish(&odd, Some(&name), &Expect::Absent)
            .await
            .unwrap();
        let later = Time {
            secs: Time::now().secs + 10,
            nanos: 0,
        };
        let all = [odd.digest, layer.digest, orphan.digest];
        let removed = store.remove(&all, later).await.unwrap();
        assert_eq!(removed.0, u64::from(n == 0));
        assert!(store.stat(&layer.digest).await.unwrap().is_some());
        assert!(store.stat(&odd.digest).await.unwrap().is_some());
        store.untag(&name).await.unwrap();
    }
}

#[test]
fn an_index_is_not_filled_beyond_what_its_readers_take() {
    let desc = manifest(7).descriptor();
    let entry = |n: usize| {
        json!({"mediaType": media::IMAGE_MANIFEST, "digest": desc.digest, "size": desc.size,
            "annotations": {"org.opencontainers.image.ref.name": format!("t{n}")}})
    };
    let of = |count| {
        let entries: Vec<Value> = (0..count).map(entry).collect();
        json!({"schemaVersion": 2, "manifests": entries}).to_string()
    };
    // As full as writers make it, except for less than two entries.
    let room = |full: &str| (252 << 20) - index::weight(full.as_bytes());
    let of_one = index::weight(format!("{},", entry(100_000)).as_bytes());
    let some = room("") / of_one;
    let count = some + room(&of(usize::try_from(some).unwrap())) / of_one;
    let full = of(usize::try_from(count).unwrap());
    let before = Index::parse("read", full.as_bytes()).unwrap();
    let mut after = before.clone();
    // An existing one can be replaced, and one can be removed.
    after.set(&tag("t0"), &desc);
    assert!(after.encode("write", &before).is_ok());
    assert!(after.remove(&tag("t1")));
    assert!(after.encode("write", &before).is_ok());
    for new in ["a", "b", "c"] {
        after.set(&tag(new), &desc);
    }
    let refused = after.encode("write", &before).unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Full, "{refused}");
}
