use super::{super::send::Look, *};

/// Makes an index of both, in the order of their digests.
struct Merging;

#[async_trait]
impl Moved for Merging {
    async fn merge(
        &self,
        repository: &Repository,
        _: &Tag,
        ours: &Manifest,
        theirs: &Manifest,
    ) -> Option<Manifest> {
        let (config, body) = blob(&Bytes::from_static(b"merged"));
        repository.put_blob(&config, &body).await.unwrap();
        let mut all = [ours.descriptor(), theirs.descriptor(), config];
        all.sort_by_key(|d| d.digest);
        Some(index(&all))
    }
}

fn index(all: &[Descriptor]) -> Manifest {
    let doc = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": crate::artifact::media::IMAGE_INDEX,
        "manifests": all,
    });
    Manifest::sniff(doc.to_string())
}

/// Somebody else's push, past the daemon.
async fn by_another(world: &World, tag: &str, seed: u64) -> Manifest {
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    push(&remote.repository(&"a".parse().unwrap()), tag, seed)
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn chain_of_one_tag_ends_at_its_last_update() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    push(&repo, "t", 1).await.unwrap();
    daemon.outage().await;
    let mut all = Vec::new();
    for seed in 2..6 {
        all.push(push(&repo, "t", seed).await.unwrap());
    }
    assert_eq!(points(&repo, "t").await, Some(all[3].digest));
    daemon.back().await;
    let left = daemon.flush().await;
    assert!(left.is_flushed());
    assert_eq!((left.numbers.replayed, left.numbers.left_alone), (4, 0));
    assert_eq!(world.at_remote("a", "t").await, Some(all[3].clone()));
    // Each in its turn.
    let asked = daemon.link.asked.lock().clone();
    assert_eq!(asked.iter().filter(|a| *a == "publish t").count(), 5);
    for manifest in all {
        assert!(
            repo.manifest(&manifest.digest.into())
                .await
                .unwrap()
                .is_some()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn two_tags_are_replayed_in_the_order_of_their_acknowledgement() {
    let mut world = World::new(Mode::WriteBack);
    world.settings.replays = 1;
    let daemon = world.start().await;
    daemon.outage().await;
    push(&daemon.repo("a"), "z", 1).await.unwrap();
    push(&daemon.repo("a"), "y", 2).await.unwrap();
    push(&daemon.repo("b"), "x", 3).await.unwrap();
    drop(daemon);
    let daemon = world.start().await;
    assert!(daemon.flush().await.is_flushed());
    let asked = daemon.link.asked.lock().clone();
    let published: Vec<_> = asked.iter().filter(|a| a.starts_with("publish")).collect();
    assert_eq!(published, ["publish z", "publish y", "publish x"]);
}

#[tokio::test(start_paused = true)]
async fn newer_tag_at_the_remote_is_left_alone_and_reported() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    push(&repo, "t", 1).await.unwrap();
    daemon.outage().await;
    let ours = push(&repo, "t", 2).await.unwrap();
    let ours_again = push(&repo, "t", 3).await.unwrap();
    let theirs = by_another(&world, "t", 4).await;
    daemon.back().await;
    let status = daemon.flush().await;
    assert!(status.is_flushed());
    assert_eq!(status.numbers.left_alone, 2);
    assert_eq!(
        status.left_alone[0],
        LeftAlone {
            repo: "a".parse().unwrap(),
            tag: "t".parse().unwrap(),
            ours: ours.digest,
            theirs: theirs.digest,
        }
    );
    assert_eq!(world.at_remote("a", "t").await, Some(theirs.clone()));
    assert_eq!(points(&repo, "t").await, Some(theirs.digest));
    // Ours are still there for who asks by digest, with their blobs.
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    let remote = remote.repository(&"a".parse().unwrap());
    for manifest in [ours, ours_again] {
        assert!(
            remote
                .manifest(&manifest.digest.into())
                .await
                .unwrap()
                .is_some()
        );
        check_children(&remote, &manifest).await;
    }
}

#[tokio::test(start_paused = true)]
async fn tag_that_nobody_here_knew_counts_as_moved() {
    let world = World::new(Mode::WriteBack);
    let theirs = by_another(&world, "t", 1).await;
    let daemon = world.start().await;
    daemon.outage().await;
    push(&daemon.repo("a"), "t", 2).await.unwrap();
    daemon.back().await;
    assert_eq!(daemon.flush().await.numbers.left_alone, 1);
    assert_eq!(world.at_remote("a", "t").await, Some(theirs));
}

#[tokio::test(start_paused = true)]
async fn moved_caches_are_merged_and_the_chain_goes_on_from_there() {
    let mut world = World::new(Mode::WriteBack);
    world.moved = Arc::new(Merging);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    push(&repo, "t", 1).await.unwrap();
    push(&repo, "u", 1).await.unwrap();
    daemon.outage().await;
    let ours = push(&repo, "t", 2).await.unwrap();
    let alone = push(&repo, "u", 3).await.unwrap();
    let last = push(&repo, "u", 4).await.unwrap();
    let theirs = by_another(&world, "t", 5).await;
    by_another(&world, "u", 6).await;
    daemon.back().await;
    let status = daemon.flush().await;
    assert!(status.is_flushed());
    assert_eq!((status.numbers.merged, status.numbers.left_alone), (2, 0));
    let (config, _) = blob(&Bytes::from_static(b"merged"));
    let mut both = [ours.descriptor(), theirs.descriptor(), config];
    both.sort_by_key(|d| d.digest);
    assert_eq!(world.at_remote("a", "t").await, Some(index(&both)));
    // The first of the chain was merged; the second was pushed over that by who saw the first.
    assert_eq!(world.at_remote("a", "u").await, Some(last));
    assert!(repo.manifest(&alone.digest.into()).await.unwrap().is_some());
}

#[tokio::test(start_paused = true)]
async fn tag_that_has_our_digest_already_is_done() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let ours = push(&daemon.repo("a"), "t", 1).await.unwrap();
    // As if a publication had come through whose answer was lost.
    assert_eq!(by_another(&world, "t", 1).await, ours);
    let last = push(&daemon.repo("a"), "t", 2).await.unwrap();
    daemon.back().await;
    assert_eq!(daemon.flush().await.numbers.left_alone, 0);
    assert_eq!(world.at_remote("a", "t").await, Some(last));
}

#[tokio::test(start_paused = true)]
async fn tag_that_was_deleted_elsewhere_is_published_again() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    push(&daemon.repo("a"), "t", 1).await.unwrap();
    daemon.outage().await;
    let ours = push(&daemon.repo("a"), "t", 2).await.unwrap();
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    let remote = remote.repository(&"a".parse().unwrap());
    remote.delete_tag(&"t".parse().unwrap()).await.unwrap();
    daemon.back().await;
    daemon.flush().await;
    assert_eq!(world.at_remote("a", "t").await, Some(ours));
}

#[tokio::test(start_paused = true)]
async fn damaged_entry_is_set_aside_and_the_rest_goes_on() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    push(&daemon.repo("a"), "t", 1).await.unwrap();
    let whole = push(&daemon.repo("a"), "u", 2).await.unwrap();
    let lost = push(&daemon.repo("a"), "v", 3).await.unwrap();
    drop(daemon);
    let mut entries = world.files("state/entries");
    entries.sort();
    std::fs::write(&entries[0], b"{\"version\":1").unwrap();
    let manifest = crate::store::keys::blob(&lost.digest);
    std::fs::remove_file(world.dir.path().join("near").join(manifest)).unwrap();
    let daemon = world.start().await;
    let status = daemon.flush().await;
    assert!(status.is_flushed());
    assert_eq!(status.set_aside, 2);
    assert_eq!(world.files("state/aside").len(), 2);
    assert_eq!(world.at_remote("a", "u").await, Some(whole));
    assert_eq!(world.at_remote("a", "t").await, None);
}

#[tokio::test(start_paused = true)]
async fn whatever_the_remote_answers_nothing_that_was_acknowledged_is_dropped() {
    for op in ["put", "stat", "resolve", "publish"] {
        for kind in [
            ErrorKind::Corrupt,
            ErrorKind::Invalid,
            ErrorKind::Unavailable,
            ErrorKind::Denied,
            ErrorKind::NoSuchStore,
            ErrorKind::Conflict,
        ] {
            let world = World::new(Mode::WriteBack);
            let daemon = world.start().await;
            daemon.outage().await;
            let ours = push(&daemon.repo("a"), "t", 1).await.unwrap();
            *daemon.link.refused.lock() = Some((op, kind));
            daemon.back().await;
            let soon = Instant::now() + Duration::from_secs(20);
            let left = daemon.tiered.backlog().flush(soon).await;
            assert_eq!(left.set_aside, 0, "{op} {kind:?}: {left:?}");
            check_children(&daemon.repo("a"), &ours).await;
            daemon.link.refuse_nothing();
            let left = daemon.flush().await;
            assert!(
                left.is_flushed() && left.set_aside == 0,
                "{op} {kind:?}: {left:?}"
            );
            assert_eq!(world.at_remote("a", "t").await, Some(ours), "{op} {kind:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_refused_manifest_names_is_looked_for_when_it_is_pushed_again() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    push(&repo, "t", 1).await.unwrap();
    // The remote has it no more, whatever it said.
    let (child, _) = blob(&data(5000, 1));
    let path = crate::store::keys::blob(&child.digest);
    std::fs::remove_file(world.dir.path().join("remote").join(path)).unwrap();
    *daemon.link.refused.lock() = Some(("publish", ErrorKind::Conflict));
    push(&repo, "u", 1).await.unwrap_err();
    daemon.link.refuse_nothing();
    let pushed = push(&repo, "u", 1).await.unwrap();
    assert_eq!(world.at_remote("a", "u").await, Some(pushed));
}

#[tokio::test(start_paused = true)]
async fn index_is_replayed_after_the_manifests_that_it_names() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let repo = daemon.repo("a");
    let (layer, body) = blob(&data(5000, 1));
    repo.put_blob(&layer, &body).await.unwrap();
    let child = image(&[&layer], 1);
    repo.put_manifest(&child, &[]).await.unwrap();
    let parent = index(&[child.descriptor()]);
    repo.put_manifest(&parent, &["t".parse().unwrap()])
        .await
        .unwrap();
    daemon.back().await;
    assert!(daemon.flush().await.is_flushed());
    let asked = daemon.link.asked.lock().clone();
    let at = |what: String| asked.iter().rposition(|a| *a == what).unwrap();
    let (child_at, parent_at) = (
        at(format!("publish {}", child.digest)),
        at("publish t".into()),
    );
    assert!(child_at < parent_at && at(format!("put {}", layer.digest)) < child_at);
    assert_eq!(world.at_remote("a", "t").await, Some(parent));
}

#[tokio::test(start_paused = true)]
async fn new_push_waits_for_what_is_queued_before_it() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let repo = daemon.repo("a");
    daemon.outage().await;
    push(&repo, "t", 1).await.unwrap();
    daemon.link.refuse("publish");
    daemon.back().await;
    // The replay is refused, so nobody may go before it.
    let e = push(&repo, "t", 2).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied);
    let e = repo.delete_tag(&"t".parse().unwrap()).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied);
    daemon.link.refuse_nothing();
    assert!(daemon.flush().await.is_flushed());
    let last = push(&repo, "t", 3).await.unwrap();
    assert_eq!(world.at_remote("a", "t").await, Some(last));
}

#[tokio::test(start_paused = true)]
async fn sweep_knows_what_the_queue_needs() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let queued = push(&daemon.repo("a"), "t", 1).await.unwrap();
    daemon.link.refuse("publish");
    daemon.back().await;
    let sweep = daemon.tiered.store().sweep().cloned().unwrap();
    let listed = sweep.blobs().await.unwrap();
    let layer = blob(&data(5000, 1)).0.digest;
    assert!(listed.iter().any(|b| b.digest == layer));
    assert!(sweep.roots().await.unwrap().contains(&queued.digest));
    let for_ever = Time {
        secs: i64::MAX,
        nanos: 0,
    };
    let removed = sweep
        .remove(&[layer, queued.digest], for_ever)
        .await
        .unwrap();
    assert_eq!(removed, (0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_the_remote_takes_and_does_not_have_stays_in_the_queue() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    daemon.outage().await;
    let repo = daemon.repo("a");
    let tagged = push(&repo, "t", 1).await.unwrap();
    let untagged = image(&[], 2);
    repo.put_manifest(&untagged, &[]).await.unwrap();
    let record = crate::store::keys::manifest(repo.name(), &Digest::sha256_of(b"x"));
    let records = daemon.tiered.records();
    let bytes = Bytes::from_static(b"{}");
    records.write_record(&record, bytes.clone()).await.unwrap();
    let waiting = daemon.status().updates;
    // A page that answers every upload as a store does.
    daemon.link.forgets.store(true, SeqCst);
    daemon.back().await;
    let left = daemon.flush_for(Duration::from_secs(3)).await;
    assert_eq!(left.updates, waiting, "{left:?}");
    daemon.link.forgets.store(false, SeqCst);
    assert!(daemon.flush().await.is_flushed());
    assert_eq!(world.at_remote("a", "t").await, Some(tagged));
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    let there = remote.repository(&"a".parse().unwrap());
    assert!(
        there
            .manifest(&untagged.digest.into())
            .await
            .unwrap()
            .is_some()
    );
    let kept = remote.records().read_record(&record, 100).await.unwrap();
    assert_eq!(kept, Some(bytes));
}

/// A refused publication makes all blobs doubtful that it names, also those that another update waits for.
#[tokio::test]
async fn a_blob_that_was_sent_and_is_doubted_since_is_looked_for_and_not_taken_for_damaged() {
    let world = World::new(Mode::WriteBack);
    let daemon = world.start().await;
    let core = &daemon.tiered.core;
    let (desc, body) = blob(&data(100, 1));
    *daemon.link.refused.lock() = Some(("put", ErrorKind::Denied));
    daemon.repo("a").put_blob(&desc, &body).await.unwrap();
    while !core.unsent.is_refused(&desc.digest) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    *daemon.link.refused.lock() = None;
    let children = [desc.digest];
    let doubts = std::future::poll_fn(|_| {
        core.seen.forget(&children);
        std::task::Poll::<()>::Pending
    });
    tokio::select! {
        biased;
        () = doubts => unreachable!(),
        sent = core.send_children(&children, Look::Again) => sent.unwrap(),
    }
    assert_eq!(daemon.status().set_aside, 0);
}
