use super::*;
use crate::{
    fair::{Key, caller},
    store::queue::QUEUE_FULL,
};

const MIB: u64 = 1 << 20;

fn small_world(mode: Mode, max_bytes: u64) -> World {
    let mut world = World::new(mode);
    world.settings.room = Room {
        max_bytes,
        low_water: 0.5,
        min_free_bytes: 0,
    };
    world
}

async fn near(world: &World, desc: &Descriptor) -> bool {
    let near = world.near().await;
    near.stat(&desc.digest).await.unwrap().is_some()
}

async fn put(daemon: &Daemon, len: u64, seed: u64) -> Result<Descriptor> {
    let (desc, body) = blob(&data(len as usize, seed));
    daemon.repo("a").put_blob(&desc, &body).await?;
    Ok(desc)
}

#[tokio::test]
async fn front_gives_up_what_was_not_used_longest_down_to_the_low_mark() {
    let world = small_world(Mode::WriteThrough, 8 * MIB);
    let daemon = world.start().await;
    let small = put(&daemon, 100, 99).await.unwrap();
    let mut blobs = Vec::new();
    for seed in 0..7 {
        blobs.push(put(&daemon, MIB, seed).await.unwrap());
    }
    // Used again, so it stays.
    read(&daemon.repo("a"), &blobs[0]).await.unwrap().unwrap();
    let last = put(&daemon, MIB, 7).await.unwrap();
    let status = daemon.status();
    assert!(status.front_bytes <= 4 * MIB, "{status:?}");
    assert!(near(&world, &small).await && near(&world, &last).await);
    assert!(near(&world, &blobs[0]).await && !near(&world, &blobs[1]).await);
    assert_eq!(status.numbers.evicted_blobs, 5);
    // Given up is not lost.
    assert!(read(&daemon.repo("a"), &blobs[1]).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn blobs_go_for_an_upload_only_if_the_remote_has_them_at_hand_and_it_may_fit() {
    let world = small_world(Mode::WriteBack, 4 * MIB);
    let daemon = world.start().await;
    let evict = daemon.tiered.evict();
    assert!(evict(0) && evict(2 * MIB) && !evict(2 * MIB + 1));
    daemon.outage().await;
    assert!(!evict(0));
}

#[test]
fn on_a_small_disk_there_is_less_room() {
    let room = Room::default();
    let on = room.on(64 * MIB);
    let free = 64 * MIB / 20;
    assert_eq!(on.min_free_bytes, free);
    assert_eq!(on.max_bytes, 64 * MIB - free);
    let big = room.on(1 << 40);
    assert_eq!(big.max_bytes, room.max_bytes);
    assert_eq!(big.min_free_bytes, room.min_free_bytes);
}

#[tokio::test(start_paused = true)]
async fn what_the_remote_does_not_have_is_never_given_up() {
    let world = small_world(Mode::WriteBack, 4 * MIB);
    let daemon = world.start().await;
    daemon.outage().await;
    let mut blobs = Vec::new();
    let full = loop {
        match put(&daemon, MIB / 2, blobs.len() as u64).await {
            Ok(desc) => blobs.push(desc),
            Err(e) => break e,
        }
        assert!(blobs.len() < 100);
    };
    assert_eq!((full.kind, full.op), (ErrorKind::Full, QUEUE_FULL));
    assert!(full.message.contains("front_max_size"), "{full}");
    assert_eq!(blobs.len(), 8);
    for desc in &blobs {
        assert!(near(&world, desc).await);
    }
    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    for seed in 20..30 {
        put(&daemon, MIB / 2, seed).await.unwrap();
    }
    assert!(!near(&world, &blobs[0]).await);
    for desc in &blobs {
        assert!(read(&daemon.repo("a"), desc).await.unwrap().is_some());
    }
}

#[tokio::test(start_paused = true)]
async fn what_the_queue_needs_is_never_given_up() {
    let world = small_world(Mode::WriteBack, 4 * MIB);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let layer = put(&daemon, MIB, 1).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    daemon.outage().await;
    let manifest = image(&[&layer], 1);
    repo.put_manifest(&manifest, &["t".parse().unwrap()])
        .await
        .unwrap();
    daemon
        .tiered
        .core
        .front
        .make_room(4 * MIB)
        .await
        .unwrap_err();
    assert!(near(&world, &layer).await);
    // Somebody removed it there meanwhile.
    let remote = world.remote().await;
    let for_ever = Time {
        secs: i64::MAX,
        nanos: 0,
    };
    remote
        .sweep()
        .unwrap()
        .remove(&[layer.digest], for_ever)
        .await
        .unwrap();
    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    assert_eq!(world.at_remote("a", "t").await, Some(manifest));
    daemon.tiered.core.front.make_room(4 * MIB).await.unwrap();
    assert!(!near(&world, &layer).await);
}

#[tokio::test]
async fn nearly_full_disk_is_relieved_though_we_have_room() {
    let mut world = small_world(Mode::WriteThrough, 100 * MIB);
    world.settings.room.min_free_bytes = u64::MAX / 4;
    let daemon = world.start().await;
    let first = put(&daemon, 5 * MIB, 1).await.unwrap();
    let second = put(&daemon, 5 * MIB, 2).await.unwrap();
    assert!(!near(&world, &first).await);
    assert!(read(&daemon.repo("a"), &second).await.unwrap().is_some());
}

#[test]
fn a_small_file_system_keeps_a_twentieth_free_and_a_large_one_a_gibibyte() {
    let free = |total| Room::default().on(total).min_free_bytes;
    assert_eq!(free(1 << 30), (1 << 30) / 20);
    assert_eq!(free(1 << 40), 1 << 30);
}

#[tokio::test(start_paused = true)]
async fn a_full_remote_is_swept_though_it_refuses_what_waits_for_it() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let stored = put(&daemon, 1000, 1).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    *daemon.link.refused.lock() = Some(("put", ErrorKind::Full));
    let waits = put(&daemon, 1000, 2).await.unwrap();
    let sweep = daemon.tiered.store().sweep().cloned().unwrap();
    let for_ever = Time {
        secs: i64::MAX,
        nanos: 0,
    };
    // Whether it was refused before or is while the sweep waits for it.
    for _ in 0..2 {
        let found: Vec<_> = sweep.blobs().await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].digest, stored.digest);
    }
    let both = [stored.digest, waits.digest];
    assert_eq!(sweep.remove(&both, for_ever).await.unwrap(), (1, 1000));
    // There is room again.
    daemon.link.refuse_nothing();
    assert!(near(&world, &waits).await);
    assert!(daemon.flush().await.is_flushed());
    let read = read(&daemon.repo("a"), &waits).await.unwrap();
    assert_eq!(read.unwrap(), data(1000, 2));
}

#[tokio::test]
async fn blob_that_is_bigger_than_the_front_goes_past_it() {
    for mode in [Mode::WriteThrough, Mode::WriteBack] {
        let world = small_world(mode, 2 * MIB);
        let daemon = world.start().await;
        let desc = put(&daemon, 3 * MIB, 1).await.unwrap();
        assert!(!near(&world, &desc).await);
        assert!(read(&daemon.repo("a"), &desc).await.unwrap().unwrap() == data(3 << 20, 1));
        assert!(!near(&world, &desc).await);
        // Fetched twice, since it is small enough to be read whole first.
        daemon.link.damage.lock().extend([Damage::Flip(7); 2]);
        assert!(read(&daemon.repo("a"), &desc).await.is_err());
    }
}

#[tokio::test]
async fn last_use_is_read_from_the_files_after_a_restart() {
    let mut world = small_world(Mode::WriteThrough, 8 * MIB);
    world.settings.room.low_water = 1.0;
    let daemon = world.start().await;
    let (new, old) = (
        put(&daemon, MIB, 1).await.unwrap(),
        put(&daemon, MIB, 2).await.unwrap(),
    );
    drop(daemon);
    let file = world
        .dir
        .path()
        .join("near")
        .join(crate::store::keys::blob(&old.digest));
    let file = std::fs::File::open(file).unwrap();
    crate::fs::set_file_mtime(&file, Time { secs: 1, nanos: 0 }).unwrap();
    let daemon = world.start().await;
    let front = &daemon.tiered.core.front;
    front.look().await.unwrap();
    front.make_room(7 * MIB).await.unwrap();
    assert!(!near(&world, &old).await && near(&world, &new).await);
}

#[tokio::test]
async fn failing_front_is_passed_by_when_the_remote_acknowledges() {
    for mode in [Mode::WriteThrough, Mode::WriteBack] {
        let world = World::new(mode);
        let daemon = world.start().await;
        daemon.near.refuse("put");
        let repo = daemon.repo("a");
        let manifest = push(&repo, "t", 1).await.unwrap();
        assert_eq!(world.at_remote("a", "t").await, Some(manifest));
    }
}

#[tokio::test]
async fn full_disk_gives_up_others_and_is_tried_once_more() {
    let world = small_world(Mode::WriteBack, 100 * MIB);
    let daemon = world.start().await;
    let old = put(&daemon, MIB, 1).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    daemon.near.full.store(true, SeqCst);
    let new = put(&daemon, MIB, 2).await.unwrap();
    assert!(near(&world, &new).await && !near(&world, &old).await);
    assert!(daemon.status().numbers.evicted_blobs >= 1);
}

/// As the registry API does for a request of this user.
async fn by<T>(user: &str, work: impl Future<Output = T>) -> T {
    let key = Key::Principal(user.into());
    caller::on_behalf_of(Some(key), work).await
}

/// Pushes manifests as this user until that is refused, from this one on; how many were taken, and the refusal.
async fn push_until_full(daemon: &Daemon, user: &str, first: u64) -> (u64, String) {
    let repo = daemon.repo(user);
    for n in 0..100 {
        let before = daemon.status().updates;
        let manifest = image(&[], first + n);
        match by(user, repo.put_manifest(&manifest, &[])).await {
            Ok(()) => assert_eq!(daemon.status().updates, before + 1),
            Err(e) => {
                assert_eq!(e.kind, ErrorKind::Full);
                return (n, e.message);
            }
        }
    }
    panic!("nothing was refused");
}

#[tokio::test(start_paused = true)]
async fn user_who_fills_the_queue_is_refused_before_others_and_taken_again_once_it_was_sent() {
    let mut world = World::new(Mode::WriteBack);
    world.settings.max_queued = 8;
    let daemon = world.start().await;
    daemon.outage().await;
    let (taken, why) = push_until_full(&daemon, "greedy", 0).await;
    assert_eq!(taken, 4);
    assert!(why.contains("of this caller"), "{why}");
    assert_eq!(push_until_full(&daemon, "honest", 100).await.0, 2);
    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    daemon.outage().await;
    assert_eq!(push_until_full(&daemon, "greedy", 200).await.0, 4);
    // Whose they are is forgotten, that they wait is not.
    drop(daemon);
    let daemon = world.start().await;
    assert_eq!(daemon.status().updates, 4);
    daemon.outage().await;
    assert_eq!(push_until_full(&daemon, "greedy", 300).await.0, 2);
    assert_eq!(push_until_full(&daemon, "honest", 400).await.0, 1);
}

#[tokio::test(start_paused = true)]
async fn user_who_fills_the_front_with_unsent_bytes_is_refused_before_others() {
    let world = small_world(Mode::WriteBack, 4 * MIB);
    let daemon = world.start().await;
    let put_until_full = async |user: &str, seed: u64| {
        for n in 0..100 {
            if let Err(e) = by(user, put(&daemon, MIB / 2, seed + n)).await {
                assert_eq!(e.kind, ErrorKind::Full);
                return (n, e.message);
            }
        }
        panic!("nothing was refused");
    };
    daemon.outage().await;
    let (taken, why) = put_until_full("greedy", 0).await;
    assert_eq!(taken, 4);
    assert!(why.contains("of this caller"), "{why}");
    assert_eq!(put_until_full("honest", 100).await.0, 2);
    // What was refused is not kept, so it takes no room of others, and nothing can name it.
    let status = daemon.status();
    assert_eq!((status.bytes, status.front_bytes), (3 * MIB, 3 * MIB));
    daemon.back().await;
    // The store takes what the front does not.
    by("greedy", put(&daemon, MIB / 2, 200)).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    daemon.outage().await;
    assert_eq!(put_until_full("greedy", 300).await.0, 4);
}
