use futures_util::{FutureExt as _, future::join_all};
use tokio::sync::Semaphore;

use super::*;
use crate::store::wrap::counters::{Tier, watched};

/// A blob that only the remote has.
async fn cold(world: &World, len: usize, seed: u64) -> (Descriptor, Bytes) {
    let bytes = data(len, seed);
    let (desc, body) = blob(&bytes);
    world.remote().await.put(&desc, &body).await.unwrap();
    (desc, bytes)
}

async fn is_near(world: &World, desc: &Descriptor) -> bool {
    let near = world.near().await;
    near.stat(&desc.digest).await.unwrap().is_some()
}

/// Waits until what was downloaded is in front.
async fn kept(daemon: &Daemon, desc: &Descriptor) {
    while daemon.tiered.core.fills.get(desc).is_some() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn cold_blob_is_fetched_once_for_all_who_want_it() {
    let world = World::new(Mode::WriteThrough);
    let (desc, bytes) = cold(&world, 3 << 20, 1).await;
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let reads = join_all((0..16).map(|_| read(&repo, &desc))).await;
    for found in reads {
        assert!(found.unwrap().unwrap() == bytes);
    }
    assert_eq!(daemon.link.asked("get"), 1);
    kept(&daemon, &desc).await;
    assert!(read(&repo, &desc).await.unwrap().unwrap() == bytes);
    assert_eq!(daemon.link.asked("get"), 1);
    let numbers = daemon.status().numbers;
    assert_eq!((numbers.fills, numbers.joined, numbers.hits), (1, 15, 1));
    assert!(world.files("near/uploads").is_empty());
}

#[tokio::test]
async fn it_is_known_which_tier_a_blob_came_from_and_each_counts_what_it_was_asked() {
    let world = World::new(Mode::WriteThrough);
    let (desc, bytes) = cold(&world, 100_000, 1).await;
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let (found, tier) = watched(read(&repo, &desc)).await;
    assert!(found.unwrap().unwrap() == bytes);
    assert_eq!(tier, Some(Tier::Remote));
    kept(&daemon, &desc).await;
    let (found, tier) = watched(read(&repo, &desc)).await;
    assert!(found.unwrap().unwrap() == bytes);
    assert_eq!(tier, Some(Tier::Local));
    let counters = daemon.tiered.store().facts().metrics.clone();
    let seen: Vec<_> = counters.iter().map(|c| c.snapshot()).collect();
    assert_eq!((seen[0].get.requests, seen[0].get.misses), (2, 1));
    assert_eq!((seen[1].get.requests, seen[1].bytes_in), (1, desc.size));
}

#[tokio::test]
async fn readers_follow_a_download_and_get_the_end_when_it_is_verified() {
    let world = World::new(Mode::WriteThrough);
    let (desc, bytes) = cold(&world, 6 << 20, 1).await;
    let daemon = world.start().await;
    // Of the blob's pieces, the first of which are small; one is held back until the next comes.
    let slow = Arc::new(Semaphore::new(9));
    *daemon.link.slow.lock() = Some(slow.clone());
    let repo = daemon.repo("a");
    let mut first = repo.get_blob(&desc, 0..desc.size).await.unwrap().unwrap();
    let mut came = first.try_next().await.unwrap().unwrap().to_vec();
    // Another joins, and a range that has come is not asked for again.
    let second = repo.get_blob(&desc, 0..desc.size).await.unwrap().unwrap();
    while came.len() < 600_000 {
        came.extend_from_slice(&first.try_next().await.unwrap().unwrap());
    }
    let range = repo.get_blob(&desc, 100..200_000).await.unwrap().unwrap();
    assert!(range.try_collect::<Vec<_>>().await.unwrap().concat() == bytes[100..200_000]);
    assert_eq!(daemon.link.asked("get"), 1);
    // One that has not come yet is the remote's.
    slow.add_permits(1000);
    let tail = repo.get_blob(&desc, desc.size - 5..desc.size).await;
    let tail: Vec<Bytes> = tail.unwrap().unwrap().try_collect().await.unwrap();
    assert!(tail.concat() == bytes[bytes.len() - 5..]);
    let rest: Vec<Bytes> = first.try_collect().await.unwrap();
    came.extend_from_slice(&rest.concat());
    assert!(came == bytes);
    assert!(second.try_collect::<Vec<_>>().await.unwrap().concat() == bytes);
}

#[tokio::test]
async fn range_of_a_cold_blob_is_fetched_alone_and_not_kept() {
    let world = World::new(Mode::WriteThrough);
    let (desc, bytes) = cold(&world, 100_000, 1).await;
    let daemon = world.start().await;
    let range = daemon.repo("a").get_blob(&desc, 5..10).await;
    let range: Vec<Bytes> = range.unwrap().unwrap().try_collect().await.unwrap();
    assert_eq!(range.concat(), bytes[5..10]);
    assert_eq!(daemon.status().numbers.fills, 0);
    assert!(!is_near(&world, &desc).await);
}

#[tokio::test]
async fn download_stops_with_its_last_reader() {
    let world = World::new(Mode::WriteThrough);
    let (desc, bytes) = cold(&world, 6 << 20, 1).await;
    let daemon = world.start().await;
    let slow = Arc::new(Semaphore::new(2));
    *daemon.link.slow.lock() = Some(slow.clone());
    let repo = daemon.repo("a");
    let mut stream = repo.get_blob(&desc, 0..desc.size).await.unwrap().unwrap();
    stream.try_next().await.unwrap().unwrap();
    drop(stream);
    while !world.files("near/uploads").is_empty() {
        tokio::task::yield_now().await;
    }
    slow.add_permits(1000);
    assert!(!is_near(&world, &desc).await);
    assert!(read(&repo, &desc).await.unwrap().unwrap() == bytes);
    assert_eq!(daemon.link.asked("get"), 2);
}

#[tokio::test]
async fn damaged_download_never_ends_well_and_is_not_kept() {
    let world = World::new(Mode::WriteThrough);
    let (big, bytes) = cold(&world, 5 << 20, 1).await;
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    daemon.link.damage.lock().push(Damage::Flip(1000));
    let e = read(&repo, &big).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt);
    assert!(!is_near(&world, &big).await);
    assert!(read(&repo, &big).await.unwrap().unwrap() == bytes);
    assert!(daemon.status().remote.up);
}

#[tokio::test]
async fn small_damaged_blob_is_fetched_again_before_a_byte_is_handed_out() {
    let world = World::new(Mode::WriteThrough);
    let (small, bytes) = cold(&world, 1000, 1).await;
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    daemon.link.damage.lock().push(Damage::Flip(1));
    assert!(read(&repo, &small).await.unwrap().unwrap() == bytes);
    kept(&daemon, &small).await;
    assert_eq!(daemon.link.asked("get"), 2);
    assert!(is_near(&world, &small).await);
}

#[tokio::test(start_paused = true)]
async fn broken_download_is_an_error_to_all_its_readers() {
    let world = World::new(Mode::WriteThrough);
    let (desc, bytes) = cold(&world, 5 << 20, 1).await;
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    daemon.link.damage.lock().push(Damage::Break(1 << 20));
    let slow = Arc::new(Semaphore::new(1));
    *daemon.link.slow.lock() = Some(slow.clone());
    let mut streams = Vec::new();
    for _ in 0..3 {
        let stream = repo.get_blob(&desc, 0..desc.size).await;
        streams.push(stream.unwrap().unwrap());
    }
    // Only now it breaks, under all of them.
    slow.add_permits(1000);
    for stream in streams {
        let read = stream.try_collect::<Vec<_>>().await;
        assert_eq!(read.unwrap_err().kind, ErrorKind::Unavailable);
    }
    assert_eq!(daemon.link.asked("get"), 1);
    // That alone is no outage: the remote answers others.
    assert!(daemon.status().remote.up);
    assert!(read(&repo, &desc).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn missing_blob_is_a_miss_to_all_and_looked_for_again() {
    let world = World::new(Mode::WriteThrough);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let (desc, _) = blob(&data(1000, 1));
    let reads = join_all((0..3).map(|_| read(&repo, &desc))).await;
    assert!(reads.into_iter().all(|found| found.unwrap().is_none()));
    let (desc, bytes) = cold(&world, 1000, 1).await;
    assert!(read(&repo, &desc).await.unwrap().unwrap() == bytes);
}

#[tokio::test]
async fn sha512_blob_is_filled_too() {
    let world = World::new(Mode::WriteThrough);
    let bytes = data(2 << 20, 1);
    let mut hasher = Digest::Sha512([0; 64]).hasher();
    hasher.update(&bytes);
    let desc = Descriptor::new("a/b", hasher.finish(), bytes.len() as u64);
    let remote = world.remote().await;
    remote
        .put(&desc, &Body::Bytes(bytes.clone()))
        .await
        .unwrap();
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    for _ in 0..2 {
        assert!(read(&repo, &desc).await.unwrap().unwrap() == bytes);
        kept(&daemon, &desc).await;
    }
    assert_eq!(daemon.link.asked("get"), 1);
}

#[tokio::test]
async fn downloads_at_once_are_limited() {
    let mut world = World::new(Mode::WriteThrough);
    world.settings.fills = 2;
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let slow = Arc::new(Semaphore::new(0));
    *daemon.link.slow.lock() = Some(slow.clone());
    let mut blobs = Vec::new();
    for seed in 0..5 {
        blobs.push(cold(&world, 2 << 20, seed).await);
    }
    let mut reads = Box::pin(join_all(blobs.iter().map(|(desc, _)| read(&repo, desc))));
    for _ in 0..1000 {
        assert!(reads.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    assert!(daemon.link.asked("get") <= 2);
    slow.add_permits(100_000);
    for (found, (_, bytes)) in reads.await.into_iter().zip(&blobs) {
        assert!(found.unwrap().unwrap() == *bytes);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_read_once_is_served_while_the_remote_is_away() {
    let world = World::new(Mode::WriteThrough);
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    let manifest = push(&remote.repository(&"a".parse().unwrap()), "v1", 1)
        .await
        .unwrap();
    push(&remote.repository(&"a".parse().unwrap()), "v2", 2)
        .await
        .unwrap();
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    assert_eq!(points(&repo, "v1").await, Some(manifest.digest));
    check_children(&repo, &manifest).await;
    kept(&daemon, &blob(&data(5000, 1)).0).await;
    daemon.outage().await;
    assert_eq!(points(&repo, "v1").await, Some(manifest.digest));
    assert!(
        repo.manifest(&manifest.digest.into())
            .await
            .unwrap()
            .is_some()
    );
    check_children(&repo, &manifest).await;
    assert_eq!(repo.tags().await.unwrap(), ["v1".parse().unwrap()]);
    let repositories = daemon.tiered.records().repositories().await.unwrap();
    assert!(repositories.contains(repo.name()));
    // What is not here: a name is a miss, bytes are an error.
    assert_eq!(points(&repo, "v2").await, None);
    let (other, _) = blob(&data(5000, 2));
    assert!(
        repo.stat_blob(&other.digest)
            .await
            .unwrap_err()
            .is_temporary()
    );
    assert!(repo.stat_or_send(&other.digest).await.unwrap().is_none());
    assert!(read(&repo, &other).await.unwrap_err().is_temporary());
}

#[tokio::test]
async fn names_are_the_remotes_whatever_the_front_knew() {
    let world = World::new(Mode::WriteThrough);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    push(&repo, "v1", 1).await.unwrap();
    let other = world.remote().await.facts().repositories.clone().unwrap();
    let other = other.repository(&"a".parse().unwrap());
    let newer = push(&other, "v1", 2).await.unwrap();
    assert_eq!(points(&repo, "v1").await, Some(newer.digest));
    other.delete_tag(&"v1".parse().unwrap()).await.unwrap();
    assert_eq!(points(&repo, "v1").await, None);
    // And what is kept for an outage follows.
    let near = world.near().await.facts().repositories.clone().unwrap();
    assert_eq!(
        points(&near.repository(&"a".parse().unwrap()), "v1").await,
        None
    );
}
