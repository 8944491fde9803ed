//! Verbs of a daemon whose store is behind a local folder.

use super::{
    copying::opened,
    looking::{export_as, tree},
    *,
};
use crate::{
    artifact::{Descriptor, Tag},
    ops::verify::{self, Depth},
    store::{
        Body, keys,
        tiered::{Mode, NeverMerge, Settings, Tiered},
    },
};

/// A daemon with `ctx` as its folder and `behind` as its store.
async fn daemon(world: &World, ctx: Context, behind: &Context, mode: Mode) -> Context {
    let tiered = Tiered::open(
        ctx.store.clone(),
        behind.store.clone(),
        Settings::new(mode, world.path("daemon", "queue")),
        Arc::new(NeverMerge),
    );
    let tiered = Arc::new(tiered.await.unwrap());
    Context {
        store: tiered.store(),
        ..ctx
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_tells_what_the_store_behind_a_folder_has_lost() {
    let world = World::new(Meet::SideTags);
    let remote = world.path("stores", "remote");
    let ctx = opened(&world, StoreUrl::Disk(world.path("stores", "near"))).await;
    let behind = opened(&world, StoreUrl::Disk(remote.clone())).await;
    let daemon = daemon(&world, ctx, &behind, Mode::WriteBack).await;
    let root = tree(&world, "one", &[("a", b"hello"), ("b", b"more")]);
    Box::pin(export_as(&daemon, &root, "n", "")).await;
    let faults = async |ctx: &Context| {
        let report = verify::run(ctx, None, Depth::Data).await.unwrap();
        report.faults
    };
    assert_eq!(faults(&daemon).await, []);
    let tags: Vec<Tag> = behind.store.tags("").await.unwrap();
    let head = behind.store.resolve(&tags[0].clone().into()).await;
    let named = crate::ops::verify::digests(&head.unwrap().unwrap().manifest).await;
    // Everything except the manifest, which the store itself would report.
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
    // That sent it again.
    assert_eq!(faults(&daemon).await, []);
    assert_eq!(faults(&behind).await, []);
    // A check of bytes reads those in the store itself.
    for digest in &named[..named.len() - 1] {
        let at = remote.join(keys::blob(digest));
        let size = std::fs::metadata(&at).unwrap().len();
        std::fs::remove_file(&at).unwrap();
        std::fs::write(&at, vec![7; size as usize]).unwrap();
        let found = faults(&daemon).await;
        let is_told = found.iter().any(|f| f.what.contains(&digest.to_string()));
        assert!(is_told, "{digest}: {found:?}");
        assert_eq!(faults(&daemon).await, []);
    }
    assert_eq!(faults(&behind).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_caller_does_not_see_is_neither_told_nor_sent_again() {
    let world = World::new(Meet::SideTags);
    let remote = world.path("stores", "remote");
    let near = opened(&world, StoreUrl::Disk(world.path("stores", "near"))).await;
    let behind = opened(&world, StoreUrl::Disk(remote.clone())).await;
    let whole = daemon(&world, near, &behind, Mode::WriteThrough).await;
    let repositories = whole.store.facts().repositories.clone().unwrap();
    let repository = |name: &str| repositories.repository(&name.parse().unwrap());
    let foreign = Descriptor::of("a/b", b"of somebody else");
    let body = Body::Bytes(bytes::Bytes::from_static(b"of somebody else"));
    repository("other")
        .store()
        .put(&foreign, &body)
        .await
        .unwrap();
    // As an older release that did not check all positions could accept it.
    let planted = crate::artifact::Manifest::new(
        "application/vnd.oci.artifact.manifest.v1+json",
        serde_json::json!({"blobs": [foreign]}).to_string(),
    );
    let tag: Tag = "t".parse().unwrap();
    repository("team")
        .put_manifest(&planted, &[tag])
        .await
        .unwrap();
    let path = remote.join(keys::blob(&foreign.digest));
    std::fs::remove_file(&path).unwrap();
    let one = Context {
        reach: crate::ops::Reach::granted(|repo| repo.as_str() == "team", Arc::default()),
        ..whole.clone()
    };
    let report = verify::run(&one, None, Depth::Structure).await.unwrap();
    assert_eq!((report.snapshots, path.exists()), (1, false));
    assert!(
        report
            .faults
            .iter()
            .all(|f| !f.why.contains("behind the daemon"))
    );
    let report = verify::run(&whole, None, Depth::Structure).await.unwrap();
    assert!(
        report
            .faults
            .iter()
            .any(|f| f.why.contains("behind the daemon"))
    );
    assert!(path.exists());
}
