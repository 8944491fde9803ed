//! Every way in which a remote can be unreachable, and what each operation does then: by order and outcome, and by the paused clock.

use super::super::health::PATIENCE;
use super::*;

mod chunks;

/// Longest time until it is known to everybody.
const KNOWN: Duration = Duration::from_secs(10);

const WAYS: [Way; 5] = [
    Way::Refused,
    Way::NoName,
    Way::Silent,
    Way::Crawls,
    Way::Broken,
];

/// A daemon with a tag and its blob at hand, and a blob that only the remote has.
struct Scene {
    world: World,
    daemon: Daemon,
    at_hand: Manifest,
    cold: Descriptor,
}

impl Scene {
    async fn new() -> Self {
        Self::of(Mode::WriteBack).await
    }

    async fn of(mode: Mode) -> Self {
        let world = World::new(mode);
        let (cold, body) = blob(&data(5000, 9));
        world.remote().await.put(&cold, &body).await.unwrap();
        let daemon = world.start().await;
        let at_hand = push(&daemon.repo("a"), "t", 1).await.unwrap();
        Self {
            world,
            daemon,
            at_hand,
            cold,
        }
    }

    /// As a server whose clients wait reads it.
    fn reader(&self) -> Repository {
        self.daemon.tiered.hasty().repository(&"a".parse().unwrap())
    }

    fn goes(&self, way: Way) {
        *self.daemon.link.way.lock() = Some(way);
    }

    async fn comes_back(&self) {
        *self.daemon.link.way.lock() = None;
        self.daemon.tiered.backlog().turned(true).await;
    }

    /// The remote is unreachable in this way, and that is known.
    async fn unreachable(way: Way) -> Self {
        let scene = Self::new().await;
        scene.goes(way);
        scene.is_known(way).await;
        scene
    }

    /// Waits until it is known that the remote is unreachable.
    async fn is_known(&self, way: Way) {
        let began = Instant::now();
        // Nobody is patient: it is found out anyway.
        let reader = self.reader();
        let asked = tokio::time::timeout(Duration::from_secs(1), points(&reader, "t"));
        drop(asked.await);
        self.daemon.tiered.backlog().turned(false).await;
        assert!(began.elapsed() <= KNOWN, "{way:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_tag_at_hand_is_answered_soon_while_the_remote_is_still_asked() {
    for way in WAYS {
        let scene = Scene::new().await;
        let asked = scene.daemon.link.asked("resolve");
        scene.goes(way);
        let began = Instant::now();
        let found = points(&scene.reader(), "t").await;
        assert_eq!(found, Some(scene.at_hand.digest), "{way:?}");
        assert!(
            began.elapsed() <= PATIENCE,
            "{way:?}: {:?}",
            began.elapsed()
        );
        assert!(scene.daemon.link.asked("resolve") > asked, "{way:?}");
        // All names together do not cost more: the first that waited has waited for all.
        let reader = scene.reader();
        assert_eq!(reader.tags().await.unwrap(), ["t".parse().unwrap()]);
        assert!(reader.exists().await.unwrap(), "{way:?}");
        assert_eq!(points(&reader, "unknown").await, None, "{way:?}");
        assert!(began.elapsed() <= KNOWN, "{way:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_blob_at_hand_waits_for_nothing() {
    for way in WAYS {
        let scene = Scene::new().await;
        scene.goes(way);
        let began = Instant::now();
        check_children(&scene.daemon.repo("a"), &scene.at_hand).await;
        // Tombstones are names, and cost what names cost.
        assert!(began.elapsed() <= KNOWN, "{way:?}: {:?}", began.elapsed());
        // The bytes cost nothing, known or not.
        let (desc, _) = blob(&data(5000, 1));
        for scene in [Scene::new().await, scene] {
            scene.goes(way);
            let began = Instant::now();
            assert!(read(&scene.reader(), &desc).await.unwrap().is_some());
            assert_eq!(began.elapsed(), Duration::ZERO, "{way:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_that_only_the_remote_has_fail_for_now_and_come_when_it_is_back() {
    for way in WAYS {
        let scene = Scene::new().await;
        scene.goes(way);
        let began = Instant::now();
        let e = read(&scene.reader(), &scene.cold).await.unwrap_err();
        // Whoever serves it holds the request and asks again.
        assert!(e.is_temporary(), "{way:?}: {e}");
        assert!(began.elapsed() <= KNOWN, "{way:?}: {:?}", began.elapsed());
        scene.daemon.tiered.backlog().turned(false).await;
        scene.comes_back().await;
        let found = read(&scene.reader(), &scene.cold).await.unwrap();
        assert_eq!(found.map(|b| b.len()), Some(5000), "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn it_is_known_to_all_whoever_asks_and_even_if_nobody_does() {
    for way in WAYS {
        let scene = Box::pin(Scene::unreachable(way)).await;
        let status = scene.daemon.status();
        assert!(!status.remote.up && status.remote.outages == 1, "{way:?}");
        assert!(!status.remote.why.is_empty(), "{way:?}");
        let asked = scene.daemon.link.asked.lock().len();
        let began = Instant::now();
        let found = points(&scene.daemon.repo("a"), "t").await;
        assert_eq!(found, Some(scene.at_hand.digest), "{way:?}");
        assert_eq!(began.elapsed(), Duration::ZERO, "{way:?}");
        let now = scene.daemon.link.asked.lock().len();
        assert_eq!(now, asked, "{way:?}: somebody waited for the remote");

        let idle = Scene::new().await;
        idle.goes(way);
        let began = Instant::now();
        idle.daemon.tiered.backlog().turned(false).await;
        // It is asked every ten seconds.
        assert!(
            began.elapsed() <= 2 * KNOWN,
            "{way:?}: {:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_push_is_acknowledged_and_reaches_the_remote_when_it_is_back() {
    for way in WAYS {
        // In the middle of it, and after it is known.
        for known in [false, true] {
            let scene = if known {
                Box::pin(Scene::unreachable(way)).await
            } else {
                Scene::new().await
            };
            scene.goes(way);
            let began = Instant::now();
            let pushed = push(&scene.daemon.repo("a"), "t", 2).await.unwrap();
            let limit = if known { Duration::ZERO } else { KNOWN };
            assert!(began.elapsed() <= limit, "{way:?}: {:?}", began.elapsed());
            let found = points(&scene.reader(), "t").await;
            assert_eq!(found, Some(pushed.digest), "{way:?}");
            scene.comes_back().await;
            assert!(scene.daemon.flush().await.is_flushed(), "{way:?}");
            let behind = scene.world.at_remote("a", "t").await;
            assert_eq!(behind, Some(pushed), "{way:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_names_a_blob_that_is_being_sent_has_it_found_out_too() {
    for way in WAYS {
        let scene = Scene::new().await;
        scene.goes(way);
        // No name is asked for: nothing but the blob on its way says that the remote is silent.
        let repo = scene.daemon.repo("a");
        let (desc, body) = blob(&data(5000, 2));
        let began = Instant::now();
        repo.store().put(&desc, &body).await.unwrap();
        let (manifest, tag) = (image(&[&desc], 2), "t".parse().unwrap());
        let published = repo
            .store()
            .publish(&manifest, Some(&tag), &Expect::Anything);
        assert_eq!(published.await.unwrap(), Published::Done, "{way:?}");
        assert!(began.elapsed() <= KNOWN, "{way:?}: {:?}", began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn flush_and_drain_end_in_time_and_say_what_is_left_and_why() {
    for way in WAYS {
        let scene = Box::pin(Scene::unreachable(way)).await;
        let pushed = push(&scene.daemon.repo("a"), "t", 2).await.unwrap();
        let began = Instant::now();
        let left = scene.daemon.flush_for(Duration::from_secs(30)).await;
        assert_eq!(began.elapsed().as_secs(), 30, "{way:?}");
        assert_eq!((left.blobs, left.updates), (1, 1), "{way:?}");
        assert!(!left.remote.why.is_empty(), "{way:?}");
        // The process ends; what it acknowledged does not.
        let world = scene.world;
        drop(scene.daemon);
        let daemon = world.start().await;
        assert!(daemon.flush().await.is_flushed(), "{way:?}");
        assert_eq!(world.at_remote("a", "t").await, Some(pushed), "{way:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn whoever_removes_by_what_it_finds_never_gets_an_early_answer() {
    let scene = Scene::new().await;
    scene.goes(Way::Silent);
    let began = Instant::now();
    points(&scene.daemon.repo("a"), "t").await;
    assert!(began.elapsed() > PATIENCE);
    assert!(!scene.daemon.status().remote.up);
}

#[tokio::test(start_paused = true)]
async fn one_manifest_that_the_remote_fails_is_no_outage() {
    let scene = Scene::new().await;
    *scene.daemon.link.refused.lock() = Some(("publish", ErrorKind::Unavailable));
    let e = push(&scene.daemon.repo("a"), "t", 2).await.unwrap_err();
    assert!(e.alone && e.message.contains("refused on purpose"), "{e}");
    let status = scene.daemon.status();
    assert!(status.remote.up && status.updates == 0, "{status:?}");
    scene.daemon.link.refuse_nothing();
    let pushed = push(&scene.daemon.repo("a"), "t", 2).await.unwrap();
    assert_eq!(scene.world.at_remote("a", "t").await, Some(pushed));
}
