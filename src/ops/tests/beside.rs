//! Prune while doors serve the store.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    artifact::{Descriptor, Manifest, Tag, media},
    entry::Time,
    fs,
    ops::prune::{
        self,
        doors::{Doors, NoDoors, Promised},
    },
    store::{Body, ErrorKind, Expect, Put, open},
};

/// A disk store as a daemon opens it.
struct Served {
    world: World,
    ctx: Context,
}

impl Served {
    async fn new() -> Self {
        let world = World::new(Meet::CompareAndSwap);
        let mut ctx = world.node("daemon");
        let options = open::Options {
            beside_doors: true,
            ..open::Options::default()
        };
        let url = StoreUrl::Disk(world.path("daemon", "store"));
        ctx.store = open::open(&url, &options).await.unwrap();
        Self { world, ctx }
    }

    /// Stores a blob that was written two days ago.
    async fn old_blob(&self, content: &'static str) -> (Descriptor, Body) {
        let bytes = Bytes::from_static(content.as_bytes());
        let (desc, body) = (Descriptor::of("a/layer", &bytes), Body::Bytes(bytes));
        self.ctx.store.put(&desc, &body).await.unwrap();
        self.age(&desc.digest);
        (desc, body)
    }

    fn age(&self, digest: &Digest) {
        let path = format!("store/blobs/sha256/{}", digest.hex());
        let file = std::fs::File::open(self.world.path("daemon", &path)).unwrap();
        let then = Time {
            secs: Time::now().secs - 2 * 86_400,
            nanos: 0,
        };
        fs::set_file_mtime(&file, then).unwrap();
    }

    /// A prune without grace time, which no daemon allows: a run removes what the previous one marked.
    async fn prune(&self) -> prune::Report {
        let options = prune::Options {
            max_age: None,
            max_size: None,
            keep: None,
            grace: Duration::ZERO,
            now: false,
            dry_run: false,
        };
        let report = prune::run(&self.ctx, &options).await.unwrap();
        prune::read_marked(&self.ctx.store).await.unwrap();
        report
    }

    fn is_there(&self, desc: &Descriptor) -> bool {
        // Bypassing the layer that renews marked blobs.
        let path = format!("store/blobs/sha256/{}", desc.digest.hex());
        self.world.path("daemon", &path).exists()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_somebody_was_told_of_outlives_the_mark_and_the_rest_goes() {
    let served = Served::new().await;
    let (told, _) = served.old_blob("told").await;
    let (sent, body) = served.old_blob("sent again").await;
    let (loose, _) = served.old_blob("loose").await;
    let first = served.prune().await;
    assert_eq!((first.marked, first.blobs), (3, 0), "{first:?}");

    let store = &served.ctx.store;
    assert_eq!(store.stat(&told.digest).await.unwrap(), Some(4));
    assert_eq!(store.put(&sent, &body).await.unwrap(), Put::Existed);

    let second = served.prune().await;
    assert_eq!((second.blobs, second.bytes), (1, 5), "{second:?}");
    assert!(served.is_there(&told) && served.is_there(&sent));
    assert!(!served.is_there(&loose));
    // A removed blob is reported as missing.
    assert_eq!(store.stat(&loose.digest).await.unwrap(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_is_published_again_outlives_its_mark() {
    let served = Served::new().await;
    let doc = serde_json::json!({ "layers": [], "x": "a manifest of two days ago" });
    let manifest = Manifest::new(media::IMAGE_MANIFEST, serde_json::to_vec(&doc).unwrap());
    let content = String::from_utf8(manifest.bytes.to_vec()).unwrap();
    let (desc, _) = served.old_blob(content.leak()).await;
    served.prune().await;
    let tag: Tag = "t".parse().unwrap();
    let store = &served.ctx.store;
    let anything = &Expect::Anything;
    store
        .publish(&manifest, Some(&tag), anything)
        .await
        .unwrap();
    served.prune().await;
    assert!(served.is_there(&desc));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_beside_doors_leaves_the_lock_to_them() {
    let served = Served::new().await;
    served.old_blob("loose").await;
    served.prune().await;
    // Another process's prune that wants the store to itself waits for the daemon, in vain.
    let options = open::Options {
        lock_wait: Duration::from_millis(50),
        ..open::Options::default()
    };
    let other = open::open(served.ctx.store.url(), &options).await.unwrap();
    let alone = other.sweep().unwrap().lock_alone().await;
    assert_eq!(alone.err().map(|e| e.kind), Some(ErrorKind::Conflict));
}

/// No requests are in progress; one blob was promised, by a daemon that started a minute ago.
struct Promising(Digest);

#[async_trait::async_trait]
impl Doors for Promising {
    async fn shut(&self) -> Result<Box<dyn Send>, String> {
        Ok(Box::new(()))
    }

    fn promised(&self) -> Promised {
        let promised = self.0;
        Box::new(move |digest| *digest == promised)
    }

    fn noted_for(&self) -> Option<Duration> {
        Some(Duration::from_mins(1))
    }

    async fn enter(&self, _: String) -> Box<dyn Send> {
        Box::new(())
    }
}

struct Busy;

#[async_trait::async_trait]
impl Doors for Busy {
    async fn shut(&self) -> Result<Box<dyn Send>, String> {
        Err("PUT /v2/x has been running".to_owned())
    }

    fn promised(&self) -> Promised {
        Box::new(|_| false)
    }

    fn noted_for(&self) -> Option<Duration> {
        None
    }

    async fn enter(&self, _: String) -> Box<dyn Send> {
        Box::new(())
    }
}

fn at_once() -> prune::Options {
    prune::Options {
        now: true,
        ..super::pruning::nothing_but_blobs()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_now_frees_what_was_written_a_moment_ago_and_keeps_what_was_promised() {
    let served = Served::new().await;
    let put = async |content: &'static str| {
        let bytes = Bytes::from_static(content.as_bytes());
        let desc = Descriptor::of("a/layer", &bytes);
        let store = &served.ctx.store;
        store.put(&desc, &Body::Bytes(bytes)).await.unwrap();
        desc
    };
    let (loose, layer) = (put("loose").await, put("layer of a manifest to come").await);
    let doc = serde_json::json!({ "layers": [{ "digest": layer.digest.to_string() }] });
    let child = put(doc.to_string().leak()).await;
    let doors = Promising(child.digest);
    let rehearsal = prune::Options {
        dry_run: true,
        ..at_once()
    };
    for (options, stays) in [(rehearsal, true), (at_once(), false)] {
        let warnings = Arc::new(super::pruning::Warnings::default());
        let mut ctx = served.ctx.clone();
        ctx.progress = warnings.clone();
        let report = prune::now::run(&ctx, &options, &doors);
        let report = report.await.unwrap();
        let warned = warnings.0.lock().join("; ");
        assert!(warned.contains("the daemon started 1m ago"), "{warned}");
        assert_eq!((report.blobs, report.bytes), (1, 5), "{report:?}");
        assert_eq!(report.promised.blobs, 2, "{report:?}");
        assert_eq!(served.is_there(&loose), stays);
        assert!(served.is_there(&layer) && served.is_there(&child));
    }
    // If nothing is removed, no warning is needed.
    let mut ctx = served.ctx.clone();
    let warnings = Arc::new(super::pruning::Warnings::default());
    ctx.progress = warnings.clone();
    let none = prune::now::run(&ctx, &at_once(), &doors).await;
    assert_eq!(none.unwrap().blobs, 0);
    assert!(warnings.0.lock().is_empty());
    // The daemon's lock is unchanged.
    put("written after it").await;
    let again = prune::now::run(&served.ctx, &at_once(), &NoDoors).await;
    assert_eq!(again.unwrap().blobs, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_now_removes_nothing_beside_another_process_or_a_request_that_does_not_end() {
    let served = Served::new().await;
    let (loose, _) = served.old_blob("loose").await;
    let busy = prune::now::run(&served.ctx, &at_once(), &Busy).await;
    let busy = busy.unwrap_err().to_string();
    assert!(busy.contains("PUT /v2/x has been running"), "{busy}");
    let options = open::Options::default();
    let other = open::open(served.ctx.store.url(), &options).await.unwrap();
    let refused = prune::now::run(&served.ctx, &at_once(), &NoDoors).await;
    let refused = refused.unwrap_err().to_string();
    assert!(refused.contains("a second daemon"), "{refused}");
    assert!(served.is_there(&loose));
    drop(other);
    let freed = prune::now::run(&served.ctx, &at_once(), &NoDoors).await;
    assert_eq!(freed.unwrap().blobs, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn prune_now_takes_a_folder_and_a_grant_of_everything() {
    let served = Served::new().await;
    let mut ctx = served.ctx.clone();
    ctx.reach = crate::ops::Reach::granted(|_| true, Arc::default());
    let denied = prune::run(&ctx, &at_once()).await.unwrap_err();
    assert!(
        denied.to_string().contains("grant of all actions"),
        "{denied}"
    );
    ctx.reach = crate::ops::Reach::everything();
    ctx.store = ctx.store.with_url("s3://bucket/prefix");
    let refused = prune::run(&ctx, &at_once()).await.unwrap_err();
    assert!(matches!(refused, crate::ops::Error::Usage(_)), "{refused}");
}

impl Served {
    /// Stores a manifest without a tag, as it was written two days ago.
    async fn old_manifest(&self, media_type: &str, doc: &serde_json::Value) -> Descriptor {
        let manifest = Manifest::new(media_type, serde_json::to_vec(doc).unwrap());
        let store = &self.ctx.store;
        let anything = &Expect::Anything;
        store.publish(&manifest, None, anything).await.unwrap();
        self.age(&manifest.digest);
        manifest.descriptor()
    }
}

fn image_of(layer: &Descriptor) -> serde_json::Value {
    let layer =
        serde_json::json!({ "mediaType": "a/layer", "size": layer.size, "digest": layer.digest });
    serde_json::json!({ "schemaVersion": 2, "layers": [layer] })
}

fn index_of(child: &Descriptor) -> serde_json::Value {
    let child = serde_json::json!({
        "mediaType": child.media_type, "size": child.size, "digest": child.digest,
    });
    serde_json::json!({ "schemaVersion": 2, "manifests": [child] })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_marked_manifest_that_somebody_was_told_of_keeps_all_that_it_names() {
    let served = Served::new().await;
    let (layer, _) = served.old_blob("layer").await;
    let image = served
        .old_manifest(media::IMAGE_MANIFEST, &image_of(&layer))
        .await;
    let index = served
        .old_manifest(media::IMAGE_INDEX, &index_of(&image))
        .await;
    let (other, _) = served.old_blob("another layer").await;
    let loose = served
        .old_manifest(media::IMAGE_MANIFEST, &image_of(&other))
        .await;
    assert_eq!(served.prune().await.marked, 5);
    let store = &served.ctx.store;
    assert_eq!(store.stat(&index.digest).await.unwrap(), Some(index.size));
    assert_eq!(served.prune().await.blobs, 2);
    for there in [&layer, &image, &index] {
        assert!(served.is_there(there));
    }
    assert!(!served.is_there(&other) && !served.is_there(&loose));
}

/// A store's sweep that is killed after this many removals.
struct Killed {
    inner: Arc<dyn crate::store::Sweep>,
    left: std::sync::atomic::AtomicUsize,
    /// The limit before which uploads were abandoned.
    abandoned: Arc<parking_lot::Mutex<Vec<Time>>>,
}

#[async_trait::async_trait]
impl crate::store::Sweep for Killed {
    async fn blobs(&self) -> crate::store::Result<Vec<crate::store::StoredBlob>> {
        self.inner.blobs().await
    }
    async fn roots(&self) -> crate::store::Result<Vec<Digest>> {
        self.inner.roots().await
    }
    async fn read_mark(&self, name: &str) -> crate::store::Result<Option<Bytes>> {
        self.inner.read_mark(name).await
    }
    async fn marks(&self) -> crate::store::Result<Vec<String>> {
        self.inner.marks().await
    }
    async fn write_mark(&self, name: &str, bytes: Bytes) -> crate::store::Result<()> {
        self.inner.write_mark(name, bytes).await
    }
    async fn remove_mark(&self, name: &str) -> crate::store::Result<()> {
        self.inner.remove_mark(name).await
    }
    async fn replace(&self, desc: &Descriptor, body: &Body) -> crate::store::Result<()> {
        self.inner.replace(desc, body).await
    }
    async fn remove(&self, digests: &[Digest], than: Time) -> crate::store::Result<(u64, u64)> {
        use std::sync::atomic::Ordering;
        let left = self.left.swap(0, Ordering::Relaxed).min(digests.len());
        self.inner.remove(&digests[..left], than).await
    }
    async fn abandon_uploads(&self, limit: Time) -> crate::store::Result<u64> {
        self.abandoned.lock().push(limit);
        Ok(0)
    }
    async fn renew(&self, digest: &Digest) -> crate::store::Result<bool> {
        self.inner.renew(digest).await
    }
    async fn lock_alone(&self) -> crate::store::Result<Option<Box<dyn Send>>> {
        self.inner.lock_alone().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_that_is_killed_leaves_no_manifest_without_what_it_names() {
    for removals in 0..=6 {
        let served = Served::new().await;
        let mut named = Vec::new();
        for content in ["one", "two"] {
            let (layer, _) = served.old_blob(content).await;
            let image = served
                .old_manifest(media::IMAGE_MANIFEST, &image_of(&layer))
                .await;
            let index = served
                .old_manifest(media::IMAGE_INDEX, &index_of(&image))
                .await;
            named.extend([(index, image.clone()), (image, layer)]);
        }
        let mut ctx = served.ctx.clone();
        let killed = Killed {
            inner: ctx.store.sweep().cloned().unwrap(),
            left: removals.into(),
            abandoned: Arc::default(),
        };
        ctx.store = ctx.store.with_sweep(Some(Arc::new(killed)));
        prune::now::run(&ctx, &at_once(), &NoDoors).await.unwrap();
        for (manifest, child) in &named {
            let is_whole = !served.is_there(manifest) || served.is_there(child);
            assert!(
                is_whole,
                "after {removals} removals {manifest:?} lacks {child:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_a_prune_now_removes_is_gone_at_once_and_its_blobs_may_be_kept() {
    let served = Served::new().await;
    let (layer, _) = served.old_blob("layer").await;
    let image = served
        .old_manifest(media::IMAGE_MANIFEST, &image_of(&layer))
        .await;
    let marked = served.ctx.store.facts().marked.clone().unwrap();
    let store = &served.ctx.store;
    let going = marked.going([&image.digest], [&layer.digest]);
    assert_eq!(store.stat(&image.digest).await.unwrap(), None);
    assert_eq!(store.stat(&layer.digest).await.unwrap(), Some(layer.size));
    // Pushing it again restores it.
    let manifest = Manifest::new(
        media::IMAGE_MANIFEST,
        serde_json::to_vec(&image_of(&layer)).unwrap(),
    );
    store
        .publish(&manifest, None, &Expect::Anything)
        .await
        .unwrap();
    assert_eq!(store.stat(&image.digest).await.unwrap(), Some(image.size));
    drop(going);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prune_takes_back_uploads_that_were_begun_a_day_ago_however_short_its_grace() {
    let mut served = Served::new().await;
    let abandoned = Arc::default();
    let killed = Killed {
        inner: served.ctx.store.sweep().cloned().unwrap(),
        left: 0.into(),
        abandoned: Arc::clone(&abandoned),
    };
    served.ctx.store = served.ctx.store.with_sweep(Some(Arc::new(killed)));
    served.prune().await;
    let abandoned = abandoned.lock();
    assert_eq!(abandoned.len(), 1);
    assert!(abandoned[0].secs <= Time::now().secs - 86_400);
}
