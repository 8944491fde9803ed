//! Prune while doors are open on the store.

use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::{
    artifact::{Descriptor, Manifest, Tag, media},
    entry::Time,
    fs,
    ops::prune,
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
        ctx.opened = Arc::new(open::open(&url, &options).await.unwrap());
        Self { world, ctx }
    }

    /// Stores a blob that was written two days ago.
    async fn old_blob(&self, content: &'static str) -> (Descriptor, Body) {
        let bytes = Bytes::from_static(content.as_bytes());
        let (desc, body) = (Descriptor::of("a/layer", &bytes), Body::Bytes(bytes));
        self.ctx.opened.store.put(&desc, &body).await.unwrap();
        let path = format!("store/blobs/sha256/{}", desc.digest.hex());
        let file = std::fs::File::open(self.world.path("daemon", &path)).unwrap();
        let then = Time {
            secs: Time::now().secs - 2 * 86_400,
            nanos: 0,
        };
        fs::set_file_mtime(&file, then).unwrap();
        (desc, body)
    }

    /// A prune without any grace, which no daemon allows: a run removes what the last one marked.
    async fn prune(&self) -> prune::Report {
        let options = prune::Options {
            max_age: None,
            max_size: None,
            keep: None,
            grace: Duration::ZERO,
            dry_run: false,
        };
        let report = prune::run(&self.ctx, &options).await.unwrap();
        prune::read_marked(&self.ctx.opened).await.unwrap();
        report
    }

    fn is_there(&self, desc: &Descriptor) -> bool {
        // Behind the back of what renews.
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

    let store = &served.ctx.opened.store;
    assert_eq!(store.stat(&told.digest).await.unwrap(), Some(4));
    assert_eq!(store.put(&sent, &body).await.unwrap(), Put::Existed);

    let second = served.prune().await;
    assert_eq!((second.blobs, second.bytes), (1, 5), "{second:?}");
    assert!(served.is_there(&told) && served.is_there(&sent));
    assert!(!served.is_there(&loose));
    // A blob that is gone is told to be gone.
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
    let store = &served.ctx.opened.store;
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
    let other = open::open(&served.ctx.opened.url, &options).await.unwrap();
    let alone = other.sweep.unwrap().lock_alone().await;
    assert_eq!(alone.err().map(|e| e.kind), Some(ErrorKind::Conflict));
}
