//! Requests that wait for one another: each takes the same time of the paused clock, so the time that passed counts them.

use std::{collections::HashSet, ops::Range, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use super::{
    go::{cache, put},
    times::{export_go, go_name, import_go, nanos},
    *,
};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    entry::Time,
    ops::head,
    store::{
        self, BlobStore, Body, ByteStream, Expect, Known, Pointer, Published, Put, Resolved,
        TagStore,
    },
};

const TRIP: Duration = Duration::from_millis(50);

/// The memory store at a distance; conditions of writers are ignored, as by half of the S3-compatible stores.
struct Far(Arc<Memory>);

#[async_trait]
impl BlobStore for Far {
    async fn stat(&self, digest: &Digest) -> store::Result<Option<u64>> {
        sleep(TRIP).await;
        self.0.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> store::Result<Option<ByteStream>> {
        sleep(TRIP).await;
        self.0.get(desc, range).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> store::Result<Put> {
        sleep(TRIP).await;
        self.0.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for Far {
    async fn resolve(&self, reference: &Reference) -> store::Result<Option<Resolved>> {
        sleep(TRIP).await;
        self.0.resolve(reference).await
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> store::Result<Option<Resolved>> {
        let found = self.resolve(&tag.clone().into()).await?;
        let digest = found.as_ref().map(|found| found.manifest.digest);
        let at_hand = known.manifests.iter().map(|m| m.digest);
        if digest.is_some_and(|d| !at_hand.chain(known.guess).any(|known| known == d)) {
            sleep(TRIP).await;
        }
        Ok(found)
    }

    async fn stage(&self, _: &Manifest) -> store::Result<()> {
        sleep(TRIP).await;
        Ok(())
    }

    async fn pointer(&self, tag: &Tag) -> store::Result<Option<Pointer>> {
        sleep(TRIP).await;
        self.0.pointer(tag).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        _: &Expect,
    ) -> store::Result<Published> {
        sleep(TRIP).await;
        self.0.publish(manifest, tag, &Expect::Anything).await
    }

    async fn tags(&self, prefix: &str) -> store::Result<Vec<Tag>> {
        sleep(TRIP).await;
        self.0.tags(prefix).await
    }

    async fn clock(&self) -> store::Result<Time> {
        self.0.clock().await
    }
}

fn far(world: &World, name: &str) -> Context {
    let mut node = world.node(name);
    node.store = node
        .store
        .with_contents(Arc::new(Far(world.memory.clone())));
    node
}

async fn rounds<T>(work: impl Future<Output = T>) -> (u128, T) {
    let began = Instant::now();
    let done = work.await;
    (began.elapsed().as_millis() / TRIP.as_millis(), done)
}

#[tokio::test(start_paused = true)]
async fn verbs_wait_for_no_more_requests_than_they_need() {
    let world = World::new(Meet::SideTags);
    let (writer, reader) = (far(&world, "writer"), far(&world, "reader"));
    let (from, to) = (world.path("writer", "tree"), world.path("reader", "tree"));
    std::fs::create_dir_all(&from).unwrap();
    std::fs::write(from.join("a"), "a").unwrap();
    // What the name stands for; the pack and all configs; manifests; side tag; head; the head is read back.
    let (count, report) = rounds(export_dir(&writer, &from)).await;
    assert_eq!((count, report.moved.blobs_moved), (6, 1));
    // What the name stands for, whose manifest was guessed; config and tables of contents.
    let (count, report) = rounds(export_dir(&writer, &from)).await;
    assert_eq!((count, report.unchanged), (2, true));
    std::fs::write(from.join("b"), "b").unwrap();
    let (count, report) = rounds(export_dir(&writer, &from)).await;
    assert_eq!((count, report.moved.blobs_moved), (7, 1));
    // Contents arrive while a thread unpacks them, which would stop the paused clock.
    import_dir(&world.node("reader"), &to).await;
    let (count, report) = rounds(import_dir(&reader, &to)).await;
    assert!(is_hit(&report) && count == 2, "{count} {report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_and_the_head_of_its_name_are_published_together() {
    let world = World::new(Meet::SideTags);
    let writer = far(&world, "writer");
    let root = world.path("writer", "go-build");
    put(&root, "action", &[1; 3000], nanos(-60));
    let mut options = exporting(&cache(&root, "go1"));
    options.target.key = "k".to_owned();
    let (count, report) = rounds(export::run(&writer, &options)).await;
    report.unwrap();
    assert_eq!(count, 6);
}

/// The head that was prepared takes the place of one that somebody wrote meanwhile: the writer finds out when it reads it back.
#[tokio::test(start_paused = true)]
async fn an_export_beside_another_one_loses_nothing_though_the_store_ignores_conditions() {
    let world = World::new(Meet::SideTags);
    let roots: Vec<_> = (0..3)
        .map(|i| world.path(&format!("node{i}"), "go-build"))
        .collect();
    for (i, root) in roots.iter().enumerate() {
        put(root, &format!("action {i}"), &[i as u8; 3000], nanos(-60));
    }
    let nodes: Vec<_> = (0..3).map(|i| far(&world, &format!("node{i}"))).collect();
    export_go(&nodes[0], &roots[0]).await;
    tokio::join!(
        export_go(&nodes[1], &roots[1]),
        export_go(&nodes[2], &roots[2])
    );
    let reader = world.node("reader");
    let current = head::read(&reader, &go_name(), &HashSet::new()).await;
    let current = current.unwrap();
    assert_eq!((current.side_tags.len(), current.sides.len()), (3, 0));
    let to = world.path("reader", "go-build");
    assert_eq!(import_go(&reader, &to).await.entries, 6);
}
