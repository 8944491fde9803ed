//! Tags cost their writer nothing, and each may need many blobs: memory that verbs use for them is counted, and shared.

use serde_json::json;

use super::{copying::opened, *};
use crate::{
    artifact::{Descriptor, Manifest, Tag, media},
    ops::{
        Error, LeftOut, Reach,
        counted::Faults,
        du, list,
        prune::{self, now},
        verify,
    },
    store::{Body, Repository, StoreUrl},
};

const BLOBS: usize = 300;
const TAGS: usize = 300;
/// What a listing counts for all tags.
const LISTED: u64 = 600 * TAGS as u64;

async fn put(repo: &Repository, bytes: Vec<u8>) -> Descriptor {
    let desc = Descriptor::of(media::LAYER_GZIP, &bytes);
    let body = Body::Bytes(bytes.into());
    repo.put_blob(&desc, &body).await.unwrap();
    desc
}

/// A store with a manifest of many small blobs under many tags.
async fn tagged(world: &World) -> (Context, Descriptor) {
    let ctx = opened(world, StoreUrl::Disk(world.path("stores", "tagged"))).await;
    let repositories = ctx.store.facts().repositories.as_ref().unwrap();
    let repo = repositories.repository(&"b/du".parse().unwrap());
    let mut layers = Vec::new();
    for n in 0..BLOBS {
        layers.push(put(&repo, n.to_le_bytes()[..2].to_vec()).await);
    }
    let config = Descriptor::of(media::EMPTY, b"{}");
    let body = Body::Bytes(b"{}".as_slice().into());
    repo.put_blob(&config, &body).await.unwrap();
    let document = json!({
        "schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "config": config, "layers": layers,
    });
    let manifest = Manifest::new(media::IMAGE_MANIFEST, document.to_string());
    let tags: Vec<Tag> = (0..TAGS)
        .map(|n| format!("t{n}").parse().unwrap())
        .collect();
    repo.put_manifest(&manifest, &tags).await.unwrap();
    (ctx, layers.swap_remove(0))
}

fn within(ctx: &Context, bytes: u64) -> Context {
    Context {
        tables: load::Tables::within(MemoryBudget::shared(bytes)),
        ..ctx.clone()
    }
}

/// Keeps everything, and measures it.
fn measuring() -> prune::Options {
    prune::Options {
        max_age: None,
        max_size: Some(u64::MAX),
        keep: None,
        grace: std::time::Duration::from_hours(1),
        now: false,
        dry_run: true,
    }
}

fn is_refused<T>(end: &crate::ops::Result<T>) -> bool {
    matches!(end, Err(Error::Memory { .. }))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_tags_of_one_manifest_take_the_memory_of_one() {
    let world = World::new(Meet::CompareAndSwap);
    let (ctx, _) = tagged(&world).await;
    // One set of the blobs for each tag would take ten times as much.
    let node = within(&ctx, LISTED + 2_000_000);
    let usage = du::run(&node, None).await.unwrap();
    assert_eq!((usage.rows.len(), usage.broken.len()), (TAGS, 0));
    assert_eq!(usage.blobs as usize, BLOBS + 2);
    assert_eq!(usage.own_bytes, Some(usage.bytes));
    assert!(usage.rows.iter().all(|r| r.own_bytes == 0));
    let chosen = Context {
        reach: Reach::everything().wanting(&["none".into()]).unwrap(),
        ..node.clone()
    };
    let none = du::run(&chosen, None).await.unwrap();
    assert_eq!((none.rows.len(), none.own_bytes), (0, Some(0)));
    assert_eq!(list::run(&node, None).await.unwrap().rows.len(), TAGS);
    let verified = verify::run(&node, None, verify::Depth::Structure).await;
    let verified = verified.unwrap();
    assert_eq!((verified.snapshots, verified.faults.len()), (1, 0));
    let pruned = prune::run(&node, &measuring()).await.unwrap();
    assert_eq!((pruned.tags.len(), pruned.left_out.len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tag_needs_is_counted() {
    let world = World::new(Meet::CompareAndSwap);
    let (ctx, _) = tagged(&world).await;
    let node = within(&ctx, LISTED + 50_000);
    assert!(is_refused(&du::run(&node, None).await));
    assert!(is_refused(&list::run(&node, None).await));
    let verified = verify::run(&node, None, verify::Depth::Structure).await;
    assert!(is_refused(&verified));
    assert!(is_refused(&prune::run(&node, &measuring()).await));
    let now = prune::Options {
        now: true,
        grace: std::time::Duration::ZERO,
        ..measuring()
    };
    assert!(is_refused(
        &now::run(&node, &now, &prune::doors::NoDoors).await
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_a_manifest_is_told_of_its_first_tag() {
    let world = World::new(Meet::CompareAndSwap);
    let (ctx, layer) = tagged(&world).await;
    let blobs = world.path("stores", "tagged/blobs/sha256");
    std::fs::remove_file(blobs.join(layer.digest.hex())).unwrap();
    let found = verify::run(&ctx, None, verify::Depth::Structure)
        .await
        .unwrap();
    assert_eq!(found.faults.len(), TAGS);
    let digest = layer.digest.to_string();
    let (first, others) = found.faults.split_first().unwrap();
    assert!(first.why.contains(&digest), "{first:?}");
    assert!(others.iter().all(|f| !f.why.contains(&digest)));
}

#[test]
fn faults_are_counted() {
    let world = World::new(Meet::CompareAndSwap);
    let node = within(&world.node("one"), 1000);
    let mut faults = Faults::within(&node);
    faults.extend((0..3).map(|n| LeftOut {
        what: format!("tag {n}"),
        why: "x".repeat(300),
    }));
    assert_eq!(faults.len(), 2);
    assert!(is_refused(&faults.check()));
}
