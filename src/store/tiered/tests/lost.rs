//! The remote lost what the front still has.

use super::*;
use crate::store::{
    behind::{Behind, Hides as _, Look},
    keys,
    tiered::turns::EVERY,
};

/// Where the bytes of a blob are at the remote.
fn file(world: &World, digest: &Digest) -> std::path::PathBuf {
    world.dir.path().join("remote").join(keys::blob(digest))
}

/// A lifecycle rule takes them away, past every daemon.
fn lose(world: &World, digest: &Digest) {
    std::fs::remove_file(file(world, digest)).unwrap();
}

/// A hand in the console puts something else in their place.
fn damage(world: &World, digest: &Digest, bytes: &[u8]) {
    lose(world, digest);
    std::fs::write(file(world, digest), bytes).unwrap();
}

async fn layers(manifest: &Manifest) -> Vec<Digest> {
    super::super::core::neighbours(manifest).await.0
}

/// A client reads a tag, as through a door; returns when `digests` are at the remote.
async fn read_until_there(world: &World, daemon: &Daemon, digests: &[Digest]) {
    let doors = daemon.tiered.hasty().repository(&"a".parse().unwrap());
    assert!(doors.pointer(&tag("t")).await.unwrap().is_some());
    until_there(world, digests).await;
}

/// Returns when these are at the remote. The clock stands still while anything works, so a minute of it is enough.
async fn until_there(world: &World, digests: &[Digest]) {
    for _ in 0..60 {
        if digests.iter().all(|d| file(world, d).exists()) {
            return;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("nothing was sent again");
}

fn tag(tag: &str) -> Tag {
    tag.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_the_remote_lost_of_a_tag_is_sent_again_when_a_client_reads_it() {
    for mode in [Mode::WriteBack, Mode::WriteThrough] {
        let world = World::new(mode);
        let daemon = world.start().await;
        let manifest = push(&daemon.repo("a"), "t", 1).await.unwrap();
        drop(daemon);
        let mut lost = layers(&manifest).await;
        lost.push(manifest.digest);
        for digest in &lost {
            lose(&world, digest);
        }
        let daemon = world.start().await;
        read_until_there(&world, &daemon, &lost).await;
        assert_eq!(world.at_remote("a", "t").await, Some(manifest));
        assert!(daemon.status().is_flushed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_that_is_whole_costs_a_few_requests_in_six_hours() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let manifest = push(&daemon.repo("a"), "t", 1).await.unwrap();
    tokio::time::advance(Duration::from_mins(5)).await;
    let before = daemon.link.asked("stat");
    for _ in 0..20 {
        read_until_there(&world, &daemon, &[]).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    // The manifest and its layer, once.
    assert_eq!(daemon.link.asked("stat"), before + 2);
    // What is lost after that is found within the day.
    let lost = layers(&manifest).await;
    lose(&world, &lost[0]);
    tokio::time::advance(EVERY).await;
    read_until_there(&world, &daemon, &lost).await;
}

#[tokio::test(start_paused = true)]
async fn what_parts_and_images_of_an_index_name_is_sent_again_too() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let (part, child) = (
        push(&repo, "other", 1).await.unwrap(),
        push(&repo, "image", 2).await.unwrap(),
    );
    let doc = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::artifact::media::IMAGE_INDEX,
        "manifests": [child.descriptor()],
    });
    let index = Manifest::sniff(doc.to_string());
    repo.put_manifest(&index, &[tag("t")]).await.unwrap();
    repo.add_part(&tag("t"), &part).await.unwrap();
    drop((repo, daemon));
    let mut lost = layers(&part).await;
    lost.extend(layers(&child).await);
    lost.push(part.digest);
    for digest in &lost {
        lose(&world, digest);
    }
    let daemon = world.start().await;
    read_until_there(&world, &daemon, &lost).await;
}

#[tokio::test(start_paused = true)]
async fn a_publication_sends_what_the_remote_lost_minutes_ago() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let manifest = push(&repo, "t", 1).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    lose(&world, &layers(&manifest).await[0]);
    tokio::time::advance(Duration::from_mins(3)).await;
    // The same layer under another manifest, as a client that is told that it is there.
    let (desc, _) = blob(&data(5000, 1));
    assert_eq!(repo.stat_blob(&desc.digest).await.unwrap(), Some(5000));
    let next = image(&[&desc], 2);
    repo.put_manifest(&next, &[tag("t")]).await.unwrap();
    assert_eq!(world.at_remote("a", "t").await, Some(next));
}

#[tokio::test(start_paused = true)]
async fn what_was_removed_does_not_come_back() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let manifest = push(&repo, "t", 1).await.unwrap();
    let whole = push(&repo, "u", 2).await.unwrap();
    // Past the daemon: the record, and then all that nobody needs.
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    let key = keys::manifest(&"a".parse().unwrap(), &manifest.digest);
    remote.records().remove_record(&key).await.unwrap();
    let gone = layers(&manifest).await[0];
    lose(&world, &gone);
    let kept = layers(&whole).await[0];
    lose(&world, &kept);
    tokio::time::advance(Duration::from_mins(5)).await;
    let doors = daemon.tiered.hasty().repository(&"a".parse().unwrap());
    for read in ["t", "u"] {
        assert!(doors.pointer(&tag(read)).await.unwrap().is_some());
    }
    // Looked after in this order.
    until_there(&world, &[kept]).await;
    assert!(!file(&world, &gone).exists());
}

#[tokio::test(start_paused = true)]
async fn whoever_verifies_is_told_what_the_front_hides() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let core = &daemon.tiered.core;
    let manifest = push(&daemon.repo("a"), "t", 1).await.unwrap();
    let layer = layers(&manifest).await[0];
    assert!(matches!(
        core.restore(&layer, Look::Size).await,
        Ok(Behind::Kept)
    ));
    lose(&world, &layer);
    daemon.link.refuse("put");
    assert!(matches!(
        core.restore(&layer, Look::Size).await,
        Ok(Behind::Lost(_))
    ));
    daemon.link.refuse_nothing();
    assert!(matches!(
        core.restore(&layer, Look::Size).await,
        Ok(Behind::SentAgain)
    ));
    assert!(matches!(
        core.restore(&layer, Look::Size).await,
        Ok(Behind::Kept)
    ));
    assert_eq!(world.at_remote("a", "t").await, Some(manifest));
    daemon.outage().await;
    assert!(
        core.restore(&layer, Look::Size)
            .await
            .unwrap_err()
            .is_temporary()
    );
    // What waits to be sent is not lost.
    let waiting = push(&daemon.repo("a"), "t", 2).await.unwrap();
    for digest in [layers(&waiting).await[0], waiting.digest] {
        assert!(matches!(
            core.restore(&digest, Look::Size).await,
            Ok(Behind::Kept)
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn a_damaged_copy_in_front_is_not_sent_in_place_of_what_was_lost() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let manifest = push(&daemon.repo("a"), "t", 1).await.unwrap();
    let layer = layers(&manifest).await[0];
    lose(&world, &layer);
    let near = world.dir.path().join("near").join(keys::blob(&layer));
    let mut bytes = std::fs::read(&near).unwrap();
    bytes[7] ^= 1;
    std::fs::remove_file(&near).unwrap();
    std::fs::write(&near, bytes).unwrap();
    // Found to be damaged, it counts as there in neither.
    let found = daemon.tiered.core.restore(&layer, Look::Size).await;
    assert!(!matches!(found, Ok(Behind::SentAgain)), "{found:?}");
    assert!(!file(&world, &layer).exists());
    let doors = daemon.repo("a");
    assert_eq!(doors.stat_blob(&layer).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn what_the_remote_has_in_another_size_is_damaged_and_sent_again() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let core = &daemon.tiered.core;
    let repo = daemon.repo("a");
    let manifest = push(&repo, "t", 1).await.unwrap();
    let layer = layers(&manifest).await[0];
    for bytes in [&b""[..], &[7; 6000]] {
        damage(&world, &layer, bytes);
        let found = core.restore(&layer, Look::Size).await.unwrap();
        assert!(matches!(found, Behind::SentAgain), "{found:?}");
        assert_eq!(world.at_remote("a", "t").await.as_ref(), Some(&manifest));
    }
    // Also where a client is told that it is there, and publishes.
    damage(&world, &layer, b"");
    tokio::time::advance(Duration::from_mins(3)).await;
    let (desc, _) = blob(&data(5000, 1));
    let next = image(&[&desc], 2);
    repo.put_manifest(&next, &[tag("t")]).await.unwrap();
    assert_eq!(world.at_remote("a", "t").await, Some(next));
}

#[tokio::test(start_paused = true)]
async fn whoever_verifies_bytes_has_those_of_the_remote_read() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let core = &daemon.tiered.core;
    let manifest = push(&daemon.repo("a"), "t", 1).await.unwrap();
    for digest in [layers(&manifest).await[0], manifest.digest] {
        let size = std::fs::metadata(file(&world, &digest)).unwrap().len();
        damage(&world, &digest, &vec![7; size as usize]);
        let found = core.restore(&digest, Look::Size).await.unwrap();
        assert!(matches!(found, Behind::Kept), "{found:?}");
        let found = core.restore(&digest, Look::Bytes).await.unwrap();
        assert!(matches!(found, Behind::SentAgain), "{found:?}");
        let found = core.restore(&digest, Look::Bytes).await.unwrap();
        assert!(matches!(found, Behind::Kept), "{found:?}");
    }
    assert_eq!(world.at_remote("a", "t").await, Some(manifest));
}
