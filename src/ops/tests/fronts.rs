//! Verbs of a daemon whose store is behind a local folder.

use super::{
    copying::opened,
    looking::{export_as, tree},
    *,
};
use crate::{
    artifact::Tag,
    ops::verify::{self, Depth},
    store::{
        keys,
        tiered::{Mode, NeverMerge, Settings, Tiered},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_what_the_store_behind_a_folder_has_lost() {
    let world = World::new(Meet::SideTags);
    let remote = world.path("stores", "remote");
    let ctx = opened(&world, StoreUrl::Disk(world.path("stores", "near"))).await;
    let behind = opened(&world, StoreUrl::Disk(remote.clone())).await;
    let settings = Settings::new(Mode::WriteBack, world.path("daemon", "queue"));
    let tiered = Tiered::open(
        Opened::clone(&ctx.opened),
        Opened::clone(&behind.opened),
        settings,
        Arc::new(NeverMerge),
    );
    let tiered = Arc::new(tiered.await.unwrap());
    let daemon = Context {
        opened: Arc::new(tiered.opened()),
        ..ctx
    };
    let root = tree(&world, "one", &[("a", b"hello"), ("b", b"more")]);
    Box::pin(export_as(&daemon, &root, "n", "")).await;
    let faults = async |ctx: &Context| {
        let report = verify::run(ctx, None, Depth::Data).await.unwrap();
        report.faults
    };
    assert_eq!(faults(&daemon).await, []);
    let tags: Vec<Tag> = behind.opened.store.tags("").await.unwrap();
    let head = behind.opened.store.resolve(&tags[0].clone().into()).await;
    let named = crate::ops::verify::digests(&head.unwrap().unwrap().manifest).await;
    // All but the manifest, of which the store itself would tell.
    for digest in &named[..named.len() - 1] {
        std::fs::remove_file(remote.join(keys::blob(digest))).unwrap();
    }
    let found = faults(&daemon).await;
    for digest in &named[..named.len() - 1] {
        let is_told = found.iter().any(|f| f.what.contains(&digest.to_string()));
        assert!(is_told, "{digest}: {found:?}");
    }
    for fault in &found {
        assert!(fault.why.contains("store behind the daemon"), "{fault:?}");
    }
    // Sent again by that.
    assert_eq!(faults(&daemon).await, []);
    assert_eq!(faults(&behind).await, []);
}
