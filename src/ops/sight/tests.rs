//! What is visible in a repository written by a release without links, and what this release adds.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::*;
use crate::{
    artifact::{Descriptor, Manifest, annotations, media},
    store::{
        Body, Store, StoreUrl, keys,
        open::{self, Options},
    },
};

struct Shelf {
    store: Store,
    dir: tempfile::TempDir,
}

impl Shelf {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = format!("disk:{}/store", dir.path().display())
            .parse()
            .unwrap();
        Self {
            store: open::open(&url, &Options::default()).await.unwrap(),
            dir,
        }
    }

    fn repository(&self, name: &str) -> Repository {
        self.store.repository(&name.parse().unwrap()).unwrap()
    }
}

async fn blob(repository: &Repository, bytes: &'static str) -> Digest {
    let desc = Descriptor::of("a/b", bytes.as_bytes());
    let body = Body::Bytes(Bytes::from_static(bytes.as_bytes()));
    repository.put_blob(&desc, &body).await.unwrap();
    desc.digest
}

fn layer(digest: &Digest) -> Value {
    json!({"mediaType": media::LAYER_GZIP, "digest": digest, "size": 6})
}

fn borrowed(digest: &Digest) -> Value {
    json!({"mediaType": media::LAYER_GZIP, "digest": digest, "size": 6, "urls": ["https://x"]})
}

/// Stores a manifest as every release stores it, without links.
async fn put(repository: &Repository, document: Value) -> Digest {
    let mut document = document;
    document["schemaVersion"] = json!(2);
    let manifest = Manifest::new(media::IMAGE_MANIFEST, document.to_string());
    repository.put_manifest(&manifest, &[]).await.unwrap();
    manifest.digest
}

/// What a new caller sees.
async fn sees(repository: &Repository, digest: &Digest) -> bool {
    Sights::default().sees(repository, digest).await.unwrap()
}

#[tokio::test]
async fn what_somebody_who_reads_everything_pushed_is_seen_where_it_was_pushed() {
    let shelf = Shelf::new().await;
    let (own, other) = (shelf.repository("own/x"), shelf.repository("other"));
    let (config, lay) = (blob(&own, "config").await, blob(&own, "layer").await);
    assert!(!sees(&own, &lay).await, "nothing names it");
    let document =
        json!({"config": {"mediaType": "a/c", "digest": config}, "layers": [layer(&lay)]});
    let manifest = put(&own, document).await;
    for digest in [&config, &lay, &manifest] {
        assert!(sees(&own, digest).await, "{digest}");
        assert!(!sees(&other, digest).await, "{digest}");
    }
    other.link(&lay).await.unwrap();
    assert!(sees(&other, &lay).await && !sees(&other, &config).await);
}

#[tokio::test]
async fn layer_from_elsewhere_opens_nothing_whatever_was_made_of_it() {
    let shelf = Shelf::new().await;
    let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
    let foreign = blob(&secret, "secret").await;
    let config = blob(&own, "config").await;
    put(&own, json!({"layers": [borrowed(&foreign)]})).await;
    assert!(!sees(&own, &foreign).await, "a layer with urls");
    let merged = json!({
        "config": {"mediaType": media::BUILDKIT_CONFIG, "digest": config},
        "layers": [layer(&foreign)],
        "annotations": {annotations::MERGED: "1"},
    });
    put(&own, merged).await;
    assert!(!sees(&own, &foreign).await, "merged from it");
    assert!(sees(&own, &config).await, "the daemon wrote it");
    put(&own, json!({"layers": [layer(&foreign)]})).await;
    assert!(
        !sees(&own, &foreign).await,
        "pushed when the merge had opened it"
    );
    own.link(&foreign).await.unwrap();
    assert!(sees(&own, &foreign).await, "its bytes were pushed since");
}

#[tokio::test]
async fn index_entry_with_urls_and_unchecked_positions_open_nothing() {
    let shelf = Shelf::new().await;
    let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
    let foreign = blob(&secret, "secret").await;
    let entry = json!({"digest": foreign, "size": 6, "urls": ["x"]});
    for document in [
        json!({"manifests": [entry]}),
        json!({"config": entry}),
        json!({"blobs": [{"digest": foreign}]}),
        json!({"fsLayers": [{"blobSum": foreign}]}),
        json!({"subject": {"mediaType": "a/b", "digest": foreign, "size": 6}}),
        json!({"annotations": {"k": foreign}}),
    ] {
        put(&own, document.clone()).await;
        assert!(!sees(&own, &foreign).await, "{document}");
    }
}

#[tokio::test]
async fn config_that_was_merged_from_a_borrowed_one_is_not_seen() {
    let shelf = Shelf::new().await;
    let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
    let foreign = blob(&secret, "keys of somebody else").await;
    let merged = blob(&own, "the same keys, merged").await;
    let config = |digest: &Digest| json!({"mediaType": media::BUILDKIT_CONFIG, "digest": digest});
    let mark = json!({annotations::MERGED: "1"});
    put(
        &own,
        json!({"config": config(&merged), "layers": [], "annotations": mark}),
    )
    .await;
    assert!(sees(&own, &merged).await);
    let mut borrows = config(&foreign);
    borrows["urls"] = json!(["x"]);
    put(&own, json!({"config": borrows, "layers": []})).await;
    assert!(!sees(&own, &merged).await && !sees(&own, &foreign).await);
}

#[tokio::test]
async fn manifest_whose_children_were_checked_grants_by_links_alone() {
    let shelf = Shelf::new().await;
    let own = shelf.repository("own/x");
    let (linked, not) = (blob(&own, "linked").await, blob(&own, "not linked").await);
    let document = json!({"layers": [layer(&linked), borrowed(&not)]});
    let manifest = put(&own, document).await;
    own.link(&linked).await.unwrap();
    own.link_checked(&manifest).await.unwrap();
    // Its bytes may be pushed as a blob too, or mounted.
    own.link(&manifest).await.unwrap();
    assert!(own.is_checked(&manifest).await.unwrap());
    assert!(sees(&own, &manifest).await && sees(&own, &linked).await);
    assert!(!sees(&own, &not).await);
    // Nor does it cast doubt on blobs pushed by a caller who reads everything.
    put(&own, json!({"layers": [layer(&not)]})).await;
    assert!(sees(&own, &not).await);
}

/// What an earlier release recorded about a pushed or mounted blob.
async fn link_as_older(shelf: &Shelf, repository: &Repository, digest: &Digest) {
    let records = shelf.store.facts().repositories.as_ref().unwrap().records();
    let key = crate::store::keys::linked(repository.name(), digest);
    records.write_record(&key, "{}".into()).await.unwrap();
}

#[tokio::test]
async fn what_was_doubted_stays_so_when_the_manifest_that_doubts_it_goes_or_is_checked() {
    for goes in [true, false] {
        let shelf = Shelf::new().await;
        let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
        let named = blob(&secret, "named").await;
        let linked = blob(&secret, "linked").await;
        let alone = blob(&secret, "alone").await;
        let merged = blob(&own, "merged").await;
        link_as_older(&shelf, &own, &linked).await;
        put(&own, json!({"layers": [layer(&named)]})).await;
        let config = json!({"mediaType": media::BUILDKIT_CONFIG, "digest": merged});
        let mark = json!({annotations::MERGED: "1"});
        put(
            &own,
            json!({"config": config, "layers": [], "annotations": mark}),
        )
        .await;
        let mut borrows = json!({"mediaType": media::BUILDKIT_CONFIG, "digest": alone});
        borrows["urls"] = json!(["x"]);
        let all = [&named, &linked, &alone].map(borrowed);
        let doubter = put(&own, json!({"config": borrows, "layers": all})).await;
        let sights = Sights::default();
        if goes {
            sights.keep_doubts(&own, &doubter).await.unwrap();
            assert!(own.delete_manifest(&doubter).await.unwrap());
        } else {
            sights.check(&own, &doubter).await.unwrap();
        }
        for digest in [&named, &linked, &merged] {
            assert!(!sees(&own, digest).await, "{digest}");
        }
        let mut recorded = own.doubted().await.unwrap();
        let mut hidden = vec![named, linked, merged];
        recorded.sort_unstable();
        hidden.sort_unstable();
        assert_eq!(recorded, hidden);
        put(&own, json!({"layers": [layer(&alone)]})).await;
        assert!(sees(&own, &alone).await, "pushed by who reads everything");
        own.link(&named).await.unwrap();
        own.link(&linked).await.unwrap();
        assert!(sees(&own, &named).await && sees(&own, &linked).await);
    }
}

#[tokio::test]
async fn doubt_is_written_down_when_it_is_met() {
    let shelf = Shelf::new().await;
    let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
    let foreign = blob(&secret, "secret").await;
    put(&own, json!({"layers": [layer(&foreign)]})).await;
    let doubter = put(&own, json!({"layers": [borrowed(&foreign)]})).await;
    assert!(!sees(&own, &foreign).await);
    // By an older daemon.
    assert!(own.delete_manifest(&doubter).await.unwrap());
    assert!(!sees(&own, &foreign).await);
}

#[tokio::test]
async fn link_of_an_older_release_counts_where_nothing_doubts_it() {
    let shelf = Shelf::new().await;
    let (own, other) = (shelf.repository("own/x"), shelf.repository("other"));
    let lay = blob(&own, "layer").await;
    for repository in [&own, &other] {
        link_as_older(&shelf, repository, &lay).await;
    }
    put(&other, json!({"layers": [borrowed(&lay)]})).await;
    let sights = Sights::default();
    assert_eq!(sights.seen(&own, &lay).await.unwrap(), Seen::Linked);
    assert_eq!(sights.seen(&other, &lay).await.unwrap(), Seen::Not);
}

#[tokio::test(start_paused = true)]
async fn manifest_that_was_checked_meanwhile_casts_no_doubt() {
    for by_this_daemon in [true, false] {
        let shelf = Shelf::new().await;
        let own = shelf.repository("own/x");
        let lay = blob(&own, "layer").await;
        let doubter = put(&own, json!({"layers": [borrowed(&lay)]})).await;
        let sights = Sights::default();
        assert!(!sights.sees(&own, &lay).await.unwrap());
        if by_this_daemon {
            sights.check(&own, &doubter).await.unwrap();
        } else {
            own.link_checked(&doubter).await.unwrap();
        }
        put(&own, json!({"layers": [layer(&lay)]})).await;
        tokio::time::advance(UNKNOWN_FOR).await;
        assert!(sights.sees(&own, &lay).await.unwrap(), "{by_this_daemon}");
        assert_eq!(own.doubted().await.unwrap(), []);
    }
}

#[tokio::test]
async fn what_there_is_no_room_to_remember_is_read_again_and_right() {
    let shelf = Shelf::new().await;
    let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
    let foreign = blob(&secret, "secret").await;
    let (first, second) = (blob(&own, "first").await, blob(&own, "second").await);
    put(&own, json!({"layers": [layer(&first), layer(&foreign)]})).await;
    let last = put(
        &own,
        json!({"layers": [layer(&second), borrowed(&foreign)]}),
    )
    .await;
    let sights = Sights::remembering(15);
    for _ in 0..3 {
        for digest in [&first, &second, &last] {
            assert!(sights.sees(&own, digest).await.unwrap(), "{digest}");
        }
        assert!(!sights.sees(&own, &foreign).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn new_manifests_are_noticed_after_a_second_and_deleted_ones_after_half_a_minute() {
    let shelf = Shelf::new().await;
    let own = shelf.repository("own/x");
    let lay = blob(&own, "layer").await;
    let sights = Sights::default();
    assert!(!sights.sees(&own, &lay).await.unwrap());
    let manifest = put(&own, json!({"layers": [layer(&lay)]})).await;
    tokio::time::advance(UNKNOWN_FOR).await;
    assert!(sights.sees(&own, &lay).await.unwrap());
    assert!(own.delete_manifest(&manifest).await.unwrap());
    tokio::time::advance(KNOWN_FOR).await;
    assert!(!sights.sees(&own, &lay).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn what_a_manifest_shows_that_was_heard_of_is_seen_at_once() {
    let shelf = Shelf::new().await;
    let own = shelf.repository("own/x");
    let lay = blob(&own, "layer").await;
    let sights = Sights::default();
    assert!(!sights.sees(&own, &lay).await.unwrap());
    let manifest = put(&own, json!({"layers": [layer(&lay)]})).await;
    tokio::time::advance(Duration::from_millis(1)).await;
    assert!(!sights.sees(&own, &lay).await.unwrap());
    sights.heard_of(own.name(), &manifest);
    assert!(sights.sees(&own, &lay).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn manifests_are_read_once_however_often_and_by_how_many_it_is_asked() {
    let shelf = Shelf::new().await;
    let own = shelf.repository("own/x");
    let lay = blob(&own, "layer").await;
    let manifest = put(&own, json!({"layers": [layer(&lay)]})).await;
    let sights = Arc::new(Sights::default());
    let unknown = Digest::sha256_of(b"unknown");
    let asked = (0..8).map(|_| sights.sees(&own, &unknown));
    for seen in futures_util::future::join_all(asked).await {
        assert!(!seen.unwrap());
    }
    let listed_at = sights.place(own.name()).0.unwrap().listed_at();
    // Its bytes are gone, so a second reading would find nothing.
    let path = crate::store::keys::blob(&manifest);
    std::fs::remove_file(shelf.dir.path().join("store").join(path)).unwrap();
    tokio::time::advance(KNOWN_FOR).await;
    assert!(sights.sees(&own, &lay).await.unwrap());
    let again = sights.place(own.name()).0.unwrap().listed_at();
    assert!(again > listed_at, "it was listed again");
}

#[tokio::test]
async fn view_answers_only_for_what_is_seen_and_takes_no_writes() {
    use crate::store::{BlobStore as _, Expect, TagStore as _};
    let shelf = Shelf::new().await;
    let (own, secret) = (shelf.repository("own/x"), shelf.repository("secret"));
    let foreign = blob(&secret, "secret").await;
    let image = put(&secret, json!({"layers": [layer(&foreign)]})).await;
    let lay = blob(&own, "layer").await;
    let mine = put(&own, json!({"layers": [layer(&lay)]})).await;
    let view = View::new(own.clone(), Arc::default());
    let missing = Digest::sha256_of(b"missing");
    for digest in [&foreign, &image, &missing] {
        assert_eq!(view.stat(digest).await.unwrap(), None);
        // Not even through a wrong size, to which a store would reply with the right one.
        for size in [0, 6, 7] {
            let desc = Descriptor::new("a/b", *digest, size);
            assert!(view.get(&desc, 0..size).await.unwrap().is_none());
        }
        assert!(view.resolve(&(*digest).into()).await.unwrap().is_none());
    }
    assert_eq!(view.stat(&lay).await.unwrap(), Some(5));
    let found = view.resolve(&mine.into()).await.unwrap().unwrap().manifest;
    let desc = Descriptor::of("a/b", b"new");
    assert!(view.put(&desc, &Body::Bytes("new".into())).await.is_err());
    assert!(view.publish(&found, None, &Expect::Anything).await.is_err());
}

#[tokio::test]
async fn links_that_were_written_lately_are_believed_until_a_prune() {
    let shelf = Shelf::new().await;
    let (own, other) = (shelf.repository("own/x"), shelf.repository("other"));
    let layer = blob(&other, "layer").await;
    let sights = Sights::default();
    sights.link(&own, &layer).await.unwrap();
    let records = shelf.store.facts().repositories.as_ref().unwrap().records();
    let link = keys::linked(own.name(), &layer);
    records.remove_record(&link).await.unwrap();
    assert_eq!(sights.seen(&own, &layer).await.unwrap(), Seen::Linked);
    sights.forget_links();
    assert_eq!(sights.seen(&own, &layer).await.unwrap(), Seen::Not);
    // Links that were only read are not remembered.
    own.link(&layer).await.unwrap();
    assert_eq!(sights.seen(&own, &layer).await.unwrap(), Seen::Linked);
    records.remove_record(&link).await.unwrap();
    assert_eq!(sights.seen(&own, &layer).await.unwrap(), Seen::Not);
}
