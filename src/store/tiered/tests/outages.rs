use super::*;
use crate::store::{keys, repository::Presence};

#[tokio::test(start_paused = true)]
async fn write_through_accepts_nothing_while_the_remote_is_away() {
    let world = World::new(Mode::WriteThrough);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let kept = push(&repo, "t", 1).await.unwrap();
    daemon.outage().await;
    assert!(push(&repo, "t", 2).await.unwrap_err().is_temporary());
    let again = repo.put_manifest(&kept, &["u".parse().unwrap()]).await;
    assert!(again.unwrap_err().is_temporary());
    assert!(daemon.status().is_flushed());
    assert_eq!(points(&repo, "t").await, Some(kept.digest));
}

#[tokio::test]
async fn write_back_tag_is_acknowledged_when_all_of_it_is_at_the_remote() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let manifest = push(&daemon.repo("a"), "t", 1).await.unwrap();
    // Not flushed: it is there already.
    assert_eq!(world.at_remote("a", "t").await, Some(manifest));
    assert_eq!(daemon.status().numbers.queued, 0);
}

#[tokio::test(start_paused = true)]
async fn what_was_pushed_in_an_outage_is_there_at_once_after_a_kill_and_at_the_remote() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let repo = daemon.repo("team/app");
    let asked = daemon.link.asked("put");
    let manifest = push(&repo, "t", 1).await.unwrap();
    assert_eq!(
        daemon.link.asked("put"),
        asked,
        "somebody waited for the remote"
    );
    let status = daemon.status();
    assert_eq!((status.blobs, status.bytes, status.updates), (1, 5000, 1));
    assert!(status.oldest.is_some() && !status.is_flushed());

    let here = async |repo: &Repository| {
        assert_eq!(points(repo, "t").await, Some(manifest.digest));
        check_children(repo, &manifest).await;
        assert_eq!(repo.tags().await.unwrap(), ["t".parse().unwrap()]);
        assert!(
            repo.manifest(&manifest.digest.into())
                .await
                .unwrap()
                .is_some()
        );
        assert!(repo.exists().await.unwrap());
    };
    here(&repo).await;
    drop((repo, daemon));
    assert_eq!(world.at_remote("team/app", "t").await, None);

    let daemon = world.start().await;
    daemon.link.cut(true);
    here(&daemon.repo("team/app")).await;
    let records = daemon.tiered.records();
    let repositories = records.repositories().await.unwrap();
    assert!(repositories.contains(&"team/app".parse().unwrap()));

    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    assert_eq!(
        world.at_remote("team/app", "t").await,
        Some(manifest.clone())
    );
    here(&daemon.repo("team/app")).await;
    assert!(world.files("state/unsent").is_empty() && world.files("state/entries").is_empty());
}

#[tokio::test(start_paused = true)]
async fn blob_is_sent_from_its_file_in_front_and_nothing_is_left_of_that() {
    use std::os::unix::fs::MetadataExt as _;
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let (desc, body) = blob(&data(5000, 1));
    daemon.repo("a").put_blob(&desc, &body).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    let inode = |tier: &str| {
        let path = world.dir.path().join(tier).join(keys::blob(&desc.digest));
        std::fs::metadata(path).unwrap().ino()
    };
    // The remote is on the same file system, so that what it was given can be seen.
    assert_eq!(inode("near"), inode("remote"));
    assert!(world.files("near/uploads").is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_is_pushed_twice_in_an_outage_waits_once() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let repo = daemon.repo("a");
    for _ in 0..3 {
        push(&repo, "t", 1).await.unwrap();
    }
    assert_eq!((daemon.status().updates, daemon.status().blobs), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn flush_says_what_is_left_when_its_time_is_over() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    push(&daemon.repo("a"), "t", 1).await.unwrap();
    let left = daemon.flush().await;
    assert_eq!((left.blobs, left.updates, left.remote.up), (1, 1, false));
}

#[tokio::test(start_paused = true)]
async fn remote_that_goes_away_in_mid_push_is_no_reason_to_fail() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let (desc, body) = blob(&data(5000, 1));
    repo.put_blob(&desc, &body).await.unwrap();
    // Cut, and nobody knows yet.
    daemon.link.cut(true);
    let manifest = image(&[&desc], 1);
    repo.put_manifest(&manifest, &["t".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(points(&repo, "t").await, Some(manifest.digest));
    daemon.back().await;
    daemon.flush().await;
    assert_eq!(world.at_remote("a", "t").await, Some(manifest));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_removed_while_the_remote_is_away() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let manifest = push(&repo, "t", 1).await.unwrap();
    let layer = blob(&data(5000, 1)).0.digest;
    daemon.outage().await;
    let tag = "t".parse().unwrap();
    let gone = keys::gone(repo.name(), &layer);
    for refused in [
        repo.delete_tag(&tag).await.map(drop),
        repo.delete_manifest(&manifest.digest).await.map(drop),
        repo.delete_blob(&layer).await.map(drop),
        daemon.tiered.records().remove_record(&gone).await,
    ] {
        let e = refused.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unavailable);
        assert!(e.to_string().contains("nothing is removed"), "{e}");
    }
    assert_eq!(points(&repo, "t").await, Some(manifest.digest));
    daemon.back().await;
    assert!(repo.delete_blob(&layer).await.unwrap());
    assert_eq!(repo.presence(&layer).await.unwrap(), Presence::Deleted);
    assert!(repo.delete_manifest(&manifest.digest).await.unwrap());
    assert_eq!(points(&repo, "t").await, None);
    // Nor does an outage bring it back.
    daemon.outage().await;
    assert_eq!(points(&repo, "t").await, None);
    assert_eq!(repo.presence(&layer).await.unwrap(), Presence::Deleted);
    assert!(
        repo.manifest(&manifest.digest.into())
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test(start_paused = true)]
async fn whether_the_remote_has_a_blob_is_unknown_in_an_outage() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let layer = blob(&data(5000, 1)).0.digest;
    assert_eq!(repo.presence(&layer).await.unwrap(), Presence::Missing);
    daemon.outage().await;
    assert_eq!(repo.presence(&layer).await.unwrap(), Presence::Unknown);
}

#[tokio::test(start_paused = true)]
async fn record_of_an_outage_is_read_at_once_and_reaches_the_remote() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let repo = daemon.repo("a");
    let manifest = push(&repo, "t", 1).await.unwrap();
    let records = daemon.tiered.records();
    let tag = "t".parse().unwrap();
    let key = keys::part(repo.name(), &tag, &manifest.digest);
    records.write_record(&key, "{}".into()).await.unwrap();
    let listed = records
        .list_records(&keys::parts_prefix(repo.name(), &tag))
        .await
        .unwrap();
    assert_eq!((listed.len(), listed[0].size), (1, Some(2)));
    drop((repo, daemon, records));
    let daemon = world.start().await;
    daemon.link.cut(true);
    let records = daemon.tiered.records();
    assert_eq!(records.read_record(&key, 100).await.unwrap().unwrap(), "{}");
    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    let behind = world
        .remote()
        .await
        .facts()
        .repositories
        .clone()
        .unwrap()
        .records();
    assert_eq!(behind.read_record(&key, 100).await.unwrap().unwrap(), "{}");
}

#[tokio::test]
async fn blob_that_is_only_in_front_is_sent_before_a_name_leads_to_it() {
    for mode in [Mode::WriteThrough, Mode::WriteBack] {
        let world = World::new(mode);
        let daemon = world.start().await;
        let (layer, body) = blob(&data(5000, 1));
        // As after a sweep at the remote.
        world.near().await.put(&layer, &body).await.unwrap();
        let repo = daemon.repo("a");
        assert!(repo.stat_blob(&layer.digest).await.unwrap().is_some());
        let manifest = image(&[&layer], 1);
        repo.put_manifest(&manifest, &["t".parse().unwrap()])
            .await
            .unwrap();
        assert_eq!(world.at_remote("a", "t").await, Some(manifest));
    }
}

#[tokio::test(start_paused = true)]
async fn refusal_by_the_remote_is_told_to_who_waits_and_the_blob_is_kept() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    daemon.link.refuse("put");
    let (desc, body) = blob(&data(5000, 1));
    repo.put_blob(&desc, &body).await.unwrap();
    let manifest = image(&[&desc], 1);
    let tags = ["t".parse().unwrap()];
    let e = repo.put_manifest(&manifest, &tags).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied);
    assert!(daemon.status().remote.up);
    daemon.link.refuse_nothing();
    repo.put_manifest(&manifest, &tags).await.unwrap();
    assert_eq!(world.at_remote("a", "t").await, Some(manifest));
}

#[tokio::test(start_paused = true)]
async fn blob_that_the_disk_damaged_before_it_was_sent_is_set_aside_and_healed_by_a_push() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let (desc, body) = blob(&data(5000, 1));
    daemon.repo("a").put_blob(&desc, &body).await.unwrap();
    drop(daemon);
    let path = world.dir.path().join("near").join(keys::blob(&desc.digest));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, data(5000, 2)).unwrap();
    let daemon = world.start().await;
    let left = daemon.flush().await;
    assert!(left.is_flushed() && left.set_aside == 1, "{left:?}");
    let repo = daemon.repo("a");
    assert!(repo.stat_blob(&desc.digest).await.unwrap().is_none());
    repo.put_blob(&desc, &body).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    let remote = world.remote().await;
    assert_eq!(remote.stat(&desc.digest).await.unwrap(), Some(5000));
}

#[tokio::test(start_paused = true)]
async fn blob_that_was_damaged_while_it_waited_is_neither_sent_nor_served() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let (desc, body) = blob(&data(5000, 1));
    let repo = daemon.repo("a");
    repo.put_blob(&desc, &body).await.unwrap();
    let path = world.dir.path().join("near").join(keys::blob(&desc.digest));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, data(5000, 2)).unwrap();
    daemon.back().await;
    let left = daemon.flush().await;
    assert!(left.is_flushed() && left.set_aside == 1, "{left:?}");
    let remote = world.remote().await;
    assert_eq!(remote.stat(&desc.digest).await.unwrap(), None);
    assert!(read(&repo, &desc).await.unwrap().is_none());
    repo.put_blob(&desc, &body).await.unwrap();
    assert!(daemon.flush().await.is_flushed());
    assert_eq!(remote.stat(&desc.digest).await.unwrap(), Some(5000));
}

#[tokio::test(start_paused = true)]
async fn versions_of_names_hold_across_an_outage() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    let first = push(&repo, "t", 1).await.unwrap();
    let store = repo.store();
    let version = async || {
        let found = store.resolve(&name("t")).await.unwrap();
        Expect::Version(found.unwrap().version.unwrap())
    };
    let tag: Tag = "t".parse().unwrap();
    let publish = async |id, expect: &Expect| {
        let manifest = image(&[], id);
        store.publish(&manifest, Some(&tag), expect).await.unwrap()
    };
    let up = version().await;
    daemon.outage().await;
    let known = version().await;
    assert_eq!(publish(2, &Expect::Absent).await, Published::Conflict);
    // The remote's own version from before, and then ours.
    assert_eq!(publish(2, &up).await, Published::Done);
    assert_eq!(publish(3, &up).await, Published::Conflict);
    assert_eq!(publish(3, &known).await, Published::Conflict);
    let queued = version().await;
    assert_eq!(publish(3, &queued).await, Published::Done);
    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    assert_ne!(points(&repo, "t").await, Some(first.digest));
    assert_eq!(world.at_remote("a", "t").await, Some(image(&[], 3)));
    assert_eq!(publish(4, &queued).await, Published::Conflict);
    let last = super::super::tags::own_version(&image(&[], 3).digest);
    assert_eq!(publish(4, &Expect::Version(last)).await, Published::Done);
}

#[tokio::test(start_paused = true)]
async fn two_daemons_over_one_remote_are_one_service() {
    let world = World::new(Mode::WriteBack);
    let mut other = World::new(Mode::WriteBack);
    let one = world.start().await;
    // Its own front and state, the same remote.
    std::os::unix::fs::symlink(
        world.dir.path().join("remote"),
        other.dir.path().join("remote"),
    )
    .unwrap();
    other.settings.replays = 1;
    let two = other.start().await;
    let manifest = push(&one.repo("a"), "t", 1).await.unwrap();
    assert_eq!(points(&two.repo("a"), "t").await, Some(manifest.digest));
    check_children(&two.repo("a"), &manifest).await;
    let layer = blob(&data(5000, 1)).0.digest;
    assert!(one.repo("a").delete_blob(&layer).await.unwrap());
    assert_eq!(
        two.repo("a").presence(&layer).await.unwrap(),
        Presence::Deleted
    );
    let newer = push(&two.repo("a"), "t", 2).await.unwrap();
    assert_eq!(points(&one.repo("a"), "t").await, Some(newer.digest));
    assert!(
        two.repo("a")
            .delete_tag(&"t".parse().unwrap())
            .await
            .unwrap()
    );
    assert_eq!(points(&one.repo("a"), "t").await, None);
}
