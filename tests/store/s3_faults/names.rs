//! Tags, and sweeping.

use super::*;

#[tokio::test]
async fn expectations_are_sent_and_their_refusal_is_a_conflict() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let publish = async |n: u32, expect: &Expect| {
        store
            .publish(&manifest(n), Some(&tag("t")), expect)
            .await
            .unwrap()
    };
    assert_eq!(publish(1, &Expect::Absent).await, Published::Done);
    assert_eq!(publish(2, &Expect::Absent).await, Published::Conflict);
    let head = store.resolve(&tag("t").into()).await.unwrap().unwrap();
    assert_eq!(head.manifest, manifest(1));
    let read = Expect::Version(head.version.unwrap());
    assert_eq!(publish(2, &read).await, Published::Done);
    assert_eq!(publish(3, &read).await, Published::Conflict);
    // Our own earlier try, whose answer was lost.
    assert_eq!(publish(2, &read).await, Published::Done);
    let key = "p/r/cachectl/tags/t";
    let etag = fake::etag(&server.object(key).unwrap());
    let head = store.resolve(&tag("t").into()).await.unwrap().unwrap();
    assert_eq!(
        head.version,
        Some(Version(etag)),
        "the version is the ETag byte for byte"
    );
}

#[tokio::test]
async fn damaged_tag_is_corrupt_to_readers_and_absent_to_writers() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let lost = manifest(1);
    store
        .publish(&lost, Some(&tag("lost")), &Expect::Absent)
        .await
        .unwrap();
    let key = format!("p/blobs/sha256/{}", lost.digest.hex());
    server.bucket.objects.lock().unwrap().remove(&key);
    server.set("p/r/cachectl/tags/garbage", "not json");
    server.set("p/r/cachectl/tags/long", "x".repeat(1 << 20));
    let swapped = manifest(3);
    store
        .publish(&swapped, Some(&tag("swapped")), &Expect::Absent)
        .await
        .unwrap();
    server.set(
        &format!("p/blobs/sha256/{}", swapped.digest.hex()),
        manifest(4).bytes,
    );
    for name in ["lost", "garbage", "long", "swapped"] {
        let e = store.resolve(&tag(name).into()).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{name}: {e}");
        let done = store
            .publish(&manifest(2), Some(&tag(name)), &Expect::Absent)
            .await;
        assert_eq!(done.unwrap(), Published::Done, "{name}");
        let healed = store.resolve(&tag(name).into()).await.unwrap().unwrap();
        assert_eq!(healed.manifest, manifest(2), "{name}");
    }
}

#[tokio::test]
async fn sweep_stops_at_a_tag_that_it_cannot_read() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    store
        .publish(&manifest(1), Some(&tag("a")), &Expect::Anything)
        .await
        .unwrap();
    assert_eq!(store.roots().await.unwrap(), [manifest(1).digest]);
    let part = Digest::sha256_of(b"part");
    server.set(
        &format!("p/r/other%2Frepo/parts/t/sha256-{}", part.hex()),
        "{}",
    );
    let mut want = vec![manifest(1).digest, part];
    want.sort();
    assert_eq!(store.roots().await.unwrap(), want);
    server.set("p/r/cachectl/tags/b", "not json");
    server.set("p/r/cachectl/tags/c", "x".repeat(1 << 20));
    let spare = manifest(9);
    let done = store.publish(&spare, None, &Expect::Anything).await;
    done.unwrap();
    // They could name any manifest of their repository.
    let roots = store.roots().await.unwrap();
    assert!(roots.contains(&spare.digest), "{roots:?}");
    assert!(want.iter().all(|d| roots.contains(d)), "{roots:?}");
}

#[tokio::test]
async fn removal_takes_records_along_and_falls_back_to_single_deletes() {
    for batches in [true, false] {
        let server = FakeS3::start(move |r, _, _| {
            (r.op() == "DeleteObjects" && !batches)
                .then(|| fake::error(StatusCode::BAD_REQUEST, "MissingContentMD5"))
        })
        .await;
        let store = server.open(STALL, "").await;
        for n in 0..3 {
            store
                .publish(&manifest(n), None, &Expect::Anything)
                .await
                .unwrap();
        }
        let gone = [
            manifest(0).digest,
            manifest(1).digest,
            Digest::sha256_of(b"never there"),
        ];
        let soon = Time {
            secs: Time::now().secs + 3600,
            nanos: 0,
        };
        // HEADs of this server have a date of 2026-01-01.
        assert_eq!(
            store
                .remove(
                    &gone,
                    Time {
                        secs: 1_000_000_000,
                        nanos: 0
                    }
                )
                .await
                .unwrap(),
            (0, 0)
        );
        let (count, bytes) = store.remove(&gone, soon).await.unwrap();
        assert_eq!((count, bytes), (2, 2 * manifest(0).bytes.len() as u64));
        let keys: Vec<String> = server
            .bucket
            .objects
            .lock()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        let hex = manifest(2).digest.hex();
        assert_eq!(
            keys,
            [
                format!("p/blobs/sha256/{hex}"),
                format!("p/r/cachectl/manifests/sha256-{hex}")
            ]
        );
        assert_eq!(server.count("DeleteObject") == 0, batches);
    }
}

#[tokio::test]
async fn removal_that_the_store_refuses_in_part_is_an_error() {
    let server = FakeS3::start(|r, _, _| {
        let doc = "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>";
        (r.op() == "DeleteObjects").then(|| fake::xml(doc))
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, _) = blob(10);
    store.put(&desc, &body).await.unwrap();
    let soon = Time {
        secs: Time::now().secs + 3600,
        nanos: 0,
    };
    let e = store.remove(&[desc.digest], soon).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied, "{e}");
}

#[tokio::test]
async fn old_unfinished_uploads_are_taken_back_when_that_is_asked_for_and_not_with_a_blob() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let uploads = || server.bucket.uploads.lock().unwrap().len();
    server
        .bucket
        .uploads
        .lock()
        .unwrap()
        .insert("old".into(), std::collections::BTreeMap::default());
    // Somebody else's may be on its way however old it is.
    let (desc, body, _) = blob(10);
    store.put(&desc, &body).await.unwrap();
    let removed = store.remove(&[desc.digest], Time::now()).await.unwrap();
    assert_eq!((removed.0, uploads()), (1, 1));
    // The server says that it was begun in 2020.
    let before = Time {
        secs: 1_000_000_000,
        nanos: 0,
    };
    assert_eq!(store.abandon_uploads(before).await.unwrap(), 0);
    assert_eq!(uploads(), 1);
    assert_eq!(store.abandon_uploads(Time::now()).await.unwrap(), 1);
    assert_eq!(uploads(), 0);
}

#[tokio::test]
async fn tag_of_a_staged_manifest_is_one_request_once() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let manifest = manifest(1);
    store.stage(&manifest).await.unwrap();
    assert_eq!(server.ops(), ["PutObject"; 2]);
    for (name, requests) in [("side", 3), ("head", 6)] {
        let name = tag(name);
        let done = store.publish(&manifest, Some(&name), &Expect::Anything);
        assert_eq!(done.await.unwrap(), Published::Done);
        assert_eq!(server.ops().len(), requests, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn guessed_manifest_is_read_together_with_its_tag_and_a_known_one_not_at_all() {
    let both = std::sync::Barrier::new(2);
    let asks = Arc::new(AtomicBool::new(false));
    let meets = asks.clone();
    let server = FakeS3::start(move |r, _, _| {
        if r.op() == "GetObject" && meets.load(Ordering::Relaxed) {
            both.wait();
        }
        None
    })
    .await;
    let store = server.open(STALL, "").await;
    let manifest = manifest(1);
    let name = tag("t");
    let done = store.publish(&manifest, Some(&name), &Expect::Anything);
    done.await.unwrap();
    let known = Known {
        manifests: std::slice::from_ref(&manifest),
        guess: Some(manifest.digest),
    };
    store.resolve_known(&name, known).await.unwrap();
    assert_eq!(server.count("GetObject"), 1);
    asks.store(true, Ordering::Relaxed);
    let guess = Known {
        guess: Some(manifest.digest),
        ..Known::default()
    };
    let found = store.resolve_known(&name, guess).await.unwrap();
    assert_eq!(found.unwrap().manifest, manifest);
    assert_eq!(server.count("GetObject"), 3);
}
