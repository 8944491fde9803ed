//! A daemon that is killed before any of its steps: what it acknowledged is there, now and when the remote is back.

use super::*;

/// What a client was told yes to.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<(Descriptor, Bytes)>,
    /// The last one of each tag counts.
    tags: Vec<(&'static str, Manifest)>,
}

async fn client(daemon: &Daemon, told: &Mutex<Acknowledged>) {
    let repo = daemon.repo("a");
    let push = async |tag: &'static str, seed: u64| {
        let bytes = data(3000, seed);
        let (desc, body) = blob(&bytes);
        repo.put_blob(&desc, &body).await.unwrap();
        told.lock().blobs.push((desc.clone(), bytes));
        let manifest = image(&[&desc], seed);
        let tags = [tag.parse().unwrap()];
        repo.put_manifest(&manifest, &tags).await.unwrap();
        told.lock().tags.push((tag, manifest));
    };
    push("one", 1).await;
    daemon.link.cut(true);
    push("two", 2).await;
    push("one", 3).await;
    push("one", 4).await;
    daemon.link.cut(false);
    daemon.flush().await;
    push("two", 5).await;
}

/// Returns true if the client came to its end before the daemon was killed.
async fn killed_before(step: usize) -> bool {
    let world = World::new(Mode::WriteBack);
    let steps = Arc::new(Steps::default());
    steps.last.store(step, SeqCst);
    let told = Mutex::new(Acknowledged::default());
    let work = async {
        let daemon = world.start_with(Some(steps.clone())).await;
        client(&daemon, &told).await;
    };
    let over = tokio::select! {
        biased;
        () = steps.killed.notified() => false,
        () = work => true,
    };
    let told = told.into_inner();

    let daemon = world.start().await;
    daemon.link.cut(true);
    let repo = daemon.repo("a");
    let check = async |repo: &Repository| {
        for (desc, bytes) in &told.blobs {
            let found = read(repo, desc).await.unwrap();
            assert!(
                found.is_some_and(|b| b == *bytes),
                "step {step}: a blob is lost"
            );
        }
        for tag in ["one", "two"] {
            let acknowledged = told.tags.iter().filter(|(t, _)| *t == tag);
            let Some((_, last)) = acknowledged.last() else {
                continue;
            };
            let now = points(repo, tag).await.unwrap();
            // A push that was cut off before its acknowledgement may have come through as well.
            let later = told.tags.iter().all(|(_, m)| m.digest != now);
            assert!(
                now == last.digest || later,
                "step {step}: tag `{tag}` went back"
            );
            let found = repo.manifest(&now.into()).await.unwrap();
            check_children(repo, &found.unwrap().manifest).await;
        }
    };
    check(&repo).await;
    daemon.back().await;
    let left = daemon.flush().await;
    assert!(
        left.is_flushed() && left.set_aside == 0,
        "step {step}: {left:?}"
    );
    assert_eq!(left.numbers.left_alone, 0, "step {step}");
    check(&repo).await;
    let remote = world.remote().await.facts().repositories.clone().unwrap();
    check(&remote.repository(&"a".parse().unwrap())).await;
    over
}

#[tokio::test(start_paused = true)]
async fn what_was_acknowledged_survives_a_kill_before_any_step() {
    let mut step = 0;
    while !killed_before(step).await {
        step += 1;
        assert!(step < 1000, "the client never came to its end");
    }
    assert!(step > 50, "only {step} steps");
}
