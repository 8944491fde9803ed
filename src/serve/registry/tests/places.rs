//! Which permits a manifest request takes, and when; and what it asks the store for.

use futures_util::FutureExt as _;

use super::*;
use crate::serve::admission::{Key, Permit, Pool};

/// Takes every permit, each for another caller.
fn all_places(pool: &Pool) -> Vec<Permit> {
    let keys = (0..).map(|n| Key::Principal(format!("other {n}").into()));
    keys.map_while(|key| pool.enter_now(key)).collect()
}

/// Polls a request until it waits for a permit, or fails.
async fn waits<T>(pool: &Pool, request: &mut (impl Future<Output = T> + Unpin)) {
    for _ in 0..1_000_000 {
        assert!(request.now_or_never().is_none(), "it took no place");
        if pool.waiting() > 0 {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("it waits for something else");
}

/// A cache of one step.
async fn cache(door: &Door, name: &str) -> Value {
    let layer = door.push("a", name.as_bytes()).await;
    let config = json!({"layers": [{"blob": layer, "parent": -1}], "records": [{
        "digest": Digest::sha256_of(format!("key {name}").as_bytes()),
        "layers": [{"layer": 0, "createdAt": "2026-11-23T04:02:00Z"}],
    }]});
    let config = config.to_string();
    let digest = door.push("a", config.as_bytes()).await;
    json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST,
        "config": {"mediaType": media::BUILDKIT_CONFIG, "digest": digest, "size": config.len()},
        "layers": [{"mediaType": media::LAYER_GZIP, "digest": layer, "size": name.len(),
            "annotations": {"containerd.io/uncompressed": Digest::sha256_of(b"")}}]})
}

async fn push_cache(door: &Door, tag: &str, name: &str) {
    let manifest = cache(door, name).await;
    let put = door.put_manifest("a", tag, &manifest).await;
    assert_eq!(put.status, StatusCode::CREATED, "{:?}", put.body);
}

#[tokio::test]
async fn a_large_manifest_has_its_place_before_it_is_read_and_small_ones_need_none() {
    let door = Door::open().await;
    let small = image(&door, "a", &[b"layer"]).await;
    let mut large = small.clone();
    large["annotations"] = json!({"long": "x".repeat(100_000)});
    let put = door.put_manifest("a", "large", &large).await;
    door.put_manifest("a", "small", &small).await;
    let digest = put.header("docker-content-digest");
    // Readers see that it does not exist.
    let hex = digest.strip_prefix("sha256:").unwrap();
    std::fs::remove_file(door.dir.path().join("store/blobs/sha256").join(hex)).unwrap();
    let pool = &door.admission.large_manifests;
    for reference in ["large", digest] {
        let path = format!("/v2/a/manifests/{reference}");
        let places = all_places(pool);
        assert_eq!(places.len(), 8);
        let mut get = Box::pin(door.get(&path));
        waits(pool, &mut get).await;
        let other = door.get("/v2/a/manifests/small").await;
        assert_eq!(other.status, StatusCode::OK);
        drop(places);
        assert_eq!(get.await.code(), "MANIFEST_UNKNOWN");
        assert_eq!(pool.taken(), 0);
    }
}

/// The manifest of an image, with over 64 KiB.
async fn large_image(door: &Door) -> Value {
    let mut large = image(door, "a", &[b"layer"]).await;
    large["annotations"] = json!({"long": "x".repeat(100_000)});
    large
}

/// A request whose response is not read yet.
async fn unread(door: &Door, path: &str) -> Response<Body> {
    let request = Request::get(path).extension(door.peer.clone());
    let request = request.body(Body::empty()).unwrap();
    door.answer(request).await
}

#[tokio::test]
async fn nothing_that_is_being_sent_has_a_place_of_work() {
    let door = Door::open().await;
    let large = large_image(&door).await;
    door.put_manifest("a", "large", &large).await;
    let blob = door.push("a", &vec![7; 1 << 20]).await;
    let admission = &door.admission;
    let taken = || {
        let work = [
            &admission.requests,
            &admission.large_manifests,
            &admission.reads,
            &admission.lists,
        ];
        let transfers = [&admission.transfers, &admission.large_transfers];
        (work.map(Pool::taken), transfers.map(|t| t.places().taken()))
    };
    for (path, transfers) in [
        ("/v2/a/manifests/large".to_owned(), [0, 1]),
        (format!("/v2/a/blobs/{blob}"), [1, 0]),
        ("/v2/a/tags/list".to_owned(), [0, 0]),
        (
            format!("/v2/a/blobs/{}", Digest::sha256_of(b"none")),
            [0, 0],
        ),
    ] {
        let response = unread(&door, &path).await;
        assert_eq!(taken(), ([0; 4], transfers), "{path}");
        read(response).await;
        assert_eq!(taken(), ([0; 4], [0; 2]), "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_asks_the_store_for_what_it_names_without_a_place_among_large_manifests() {
    let door = Door::open().await;
    let large = large_image(&door).await;
    let blob = door.push("a", b"blob").await;
    let repository = door.registry.repository(&"a".parse().unwrap());
    let desc = crate::artifact::Descriptor::new("a/b", blob, 4);
    // The store does not answer.
    let mut streams = Vec::new();
    for _ in 0..Options::default().concurrency {
        streams.push(repository.get_blob(&desc, 0..4).await.unwrap().unwrap());
    }
    let admission = &door.admission;
    let mut put = Box::pin(door.put_manifest("a", "large", &large));
    // The clock advances only when everything waits.
    let asks = tokio::time::timeout(std::time::Duration::from_secs(1), &mut put);
    assert!(asks.await.is_err(), "the store answered");
    assert_eq!(admission.large_transfers.places().taken(), 1);
    assert_eq!(admission.large_manifests.taken(), 0);
    drop(streams);
    assert_eq!(put.await.status, StatusCode::CREATED);
    assert_eq!(admission.large_transfers.places().taken(), 0);
}

#[tokio::test]
async fn one_caller_cannot_have_all_places_to_look_manifests_up() {
    let door = Door::open().await;
    let manifest = image(&door, "a", &[b"layer"]).await;
    door.put_manifest("a", "t", &manifest).await;
    let pool = &door.admission.reads;
    let one = || Key::Principal("one".into());
    let held: Vec<_> = std::iter::from_fn(|| pool.enter_now(one())).collect();
    assert_eq!(held.len(), 14);
    let path = "/v2/a/manifests/t";
    assert_eq!(door.get(path).await.status, StatusCode::OK);
    let rest = all_places(pool);
    let mut get = Box::pin(door.get(path));
    waits(pool, &mut get).await;
    // Of those that wait, the caller with least is next.
    let more = Box::pin(pool.enter(one()));
    drop(rest);
    assert_eq!(get.await.status, StatusCode::OK);
    drop((held, more));
    assert_eq!(pool.taken(), 0);
}

#[tokio::test]
async fn a_tag_is_folded_in_a_place_among_merges_and_what_is_remembered_needs_none() {
    let door = Door::open().await;
    push_cache(&door, "cache", "one").await;
    push_cache(&door, "cache", "two").await;
    let served = door.get("/v2/a/manifests/cache").await;
    // Another daemon, without any memory.
    let door = Door::over(door.dir.clone(), false).await;
    let pool = &door.admission.merges;
    let places = all_places(pool);
    let mut get = Box::pin(door.get("/v2/a/manifests/cache"));
    waits(pool, &mut get).await;
    assert_eq!(door.admission.reads.taken(), 0);
    drop(places);
    let folded = get.await;
    assert_eq!(
        (folded.status, &folded.body),
        (StatusCode::OK, &served.body)
    );
    let _places = all_places(pool);
    let again = door.get("/v2/a/manifests/cache").await;
    assert_eq!(again.body, served.body);
    let head = door.head("/v2/a/manifests/cache").await;
    assert_eq!(
        head.header("docker-content-digest"),
        served.header("docker-content-digest")
    );
}

#[tokio::test]
async fn a_cache_is_pushed_in_a_place_among_merges_by_digest_too() {
    let door = Door::open().await;
    let manifest = cache(&door, "one").await;
    let digest = digest_of(&manifest).to_string();
    for reference in ["cache", &digest] {
        let pool = &door.admission.merges;
        let places = all_places(pool);
        let mut put = Box::pin(door.put_manifest("a", reference, &manifest));
        waits(pool, &mut put).await;
        drop(places);
        assert_eq!(put.await.status, StatusCode::CREATED);
        assert_eq!(pool.taken(), 0);
    }
}

#[tokio::test]
async fn a_push_asks_for_nothing_after_the_first_unknown_digest() {
    use super::sharing::{Tenant, tenants_at};
    use crate::store::repository::AT_ONCE;
    let door = tenants_at(Door::open().await).await;
    // Children are looked up in the order of their digests.
    let is_first = |blob: &String| Digest::sha256_of(blob.as_bytes()).hex().starts_with("00");
    let gone = (0..100_000)
        .map(|n| format!("gone {n}"))
        .find(is_first)
        .unwrap();
    let known = (0..).map(|n| format!("known {n}")).filter(|b| !is_first(b));
    let known: Vec<String> = known.take(6 * AT_ONCE).collect();
    let document = |blobs: &[&String]| {
        let named = |b: &&String| json!({"mediaType": "a/b", "digest": Digest::sha256_of(b.as_bytes()), "size": b.len()});
        let layers: Vec<Value> = blobs.iter().map(named).collect();
        json!({"schemaVersion": 2, "mediaType": "application/vnd.example.kept.v1+json", "layers": layers})
    };
    let kind = "application/vnd.example.kept.v1+json";
    // One caller that sees linked blobs, and one that sees everything: deleted blobs are unknown to both.
    for name in ["a", "admin"] {
        let by = Tenant { door: &door, name };
        for blob in known.iter().chain([&gone]) {
            let digest = Digest::sha256_of(blob.as_bytes());
            let path = format!("/v2/a/x/blobs/uploads/?digest={digest}");
            let pushed = by.send_as(Method::POST, &path, "a/b", blob).await;
            assert_eq!(pushed.status, StatusCode::CREATED);
        }
        let path = format!("/v2/a/x/blobs/{}", Digest::sha256_of(gone.as_bytes()));
        let deleted = by.send_as(Method::DELETE, &path, "a/b", "").await;
        assert_eq!(deleted.status, StatusCode::ACCEPTED);
        let put = async |blobs: Vec<&String>| {
            let before = door.asked.snapshot().stat.requests;
            let body = document(&blobs).to_string();
            let reply = by
                .send_as(Method::PUT, "/v2/a/x/manifests/t", kind, &body)
                .await;
            (reply.code(), door.asked.snapshot().stat.requests - before)
        };
        let (code, asked) = put(known.iter().chain([&gone]).collect()).await;
        assert_eq!(code, "MANIFEST_BLOB_UNKNOWN", "{name}");
        assert!(asked <= 2 * AT_ONCE as u64, "{name}: {asked}");
        let (code, asked) = put(known.iter().collect()).await;
        assert_eq!(code, "", "{name}");
        assert!(asked >= known.len() as u64, "{name}: {asked}");
    }
}

#[tokio::test]
async fn whoever_read_a_manifest_may_name_what_it_names() {
    use crate::ops::prune::doors::Doors as _;
    let door = Door::open().await;
    push_cache(&door, "cache", "one").await;
    let door = Door::over(door.dir.clone(), false).await;
    let served = door.get("/v2/a/manifests/cache").await;
    let digest = Digest::sha256_of(&served.body);
    assert!(door.registry.pause.promised()(&digest));
}

#[tokio::test]
async fn nothing_is_kept_for_a_reader_who_may_push_nowhere() {
    use super::sharing::{Tenant, tenants_at};
    use crate::ops::prune::doors::Doors as _;
    let door = tenants_at(Door::open().await).await;
    let blob = Digest::sha256_of(b"a blob");
    let push = format!("/v2/a/x/blobs/uploads/?digest={blob}");
    let owner = Tenant {
        door: &door,
        name: "a",
    };
    let pushed = owner
        .send_as(Method::POST, &push, "application/octet-stream", "a blob")
        .await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    // Another daemon, which promised nothing.
    let door = tenants_at(Door::over(door.dir.clone(), false).await).await;
    let path = format!("/v2/a/x/blobs/{blob}");
    for (name, keeps) in [("reader", false), ("a", true)] {
        let door = &door;
        let told = Tenant { door, name }
            .send_as(Method::HEAD, &path, "a/b", "")
            .await;
        assert_eq!(told.status, StatusCode::OK, "{name}");
        assert_eq!(door.registry.pause.promised()(&blob), keeps, "{name}");
    }
}
