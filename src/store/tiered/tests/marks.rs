//! What a prune at the remote has marked, while the front answers.

use std::time::SystemTime;

use super::*;

const DAY: Duration = Duration::from_hours(24);

/// A daemon over a remote that is pruned beside it, and a blob of its that is old and marked.
async fn with_marked(world: &World) -> (Daemon, Digest, std::fs::File) {
    let options = Options {
        beside_doors: true,
        ..Options::default()
    };
    let path = world.dir.path().join("remote");
    let behind = open::open(&StoreUrl::Disk(path.clone()), &options).await;
    let behind = behind.unwrap();
    let (near, link) = (Arc::new(Link::default()), Arc::new(Link::default()));
    let tiered = Tiered::open(
        Linked::near(&near, &world.near().await),
        Linked::behind(&link, &behind),
        world.settings.clone(),
        world.moved.clone(),
    );
    let daemon = Daemon {
        tiered: Arc::new(tiered.await.unwrap()),
        link,
        near,
    };
    let (desc, body) = blob(&data(100, 1));
    daemon.repo("r").put_blob(&desc, &body).await.unwrap();
    daemon.flush().await;
    let file = path.join("blobs/sha256").join(desc.digest.hex());
    let file = std::fs::File::open(file).unwrap();
    file.set_modified(SystemTime::now() - 2 * DAY).unwrap();
    let store = daemon.tiered.store();
    store
        .facts()
        .marked
        .as_ref()
        .unwrap()
        .replace([desc.digest]);
    (daemon, desc.digest, file)
}

fn is_old(file: &std::fs::File) -> bool {
    file.metadata().unwrap().modified().unwrap() < SystemTime::now() - DAY
}

#[tokio::test]
async fn a_marked_blob_is_renewed_before_the_front_says_that_it_is_there() {
    let world = World::new(Mode::WriteThrough);
    let (daemon, digest, file) = with_marked(&world).await;
    assert!(is_old(&file));
    let size = daemon.repo("r").stat_blob(&digest).await.unwrap();
    assert_eq!(size, Some(100));
    assert!(!is_old(&file));
}

#[tokio::test]
async fn a_marked_blob_is_there_though_the_remote_that_marked_it_is_away() {
    let world = World::new(Mode::WriteThrough);
    let (daemon, digest, file) = with_marked(&world).await;
    daemon.outage().await;
    let size = daemon.repo("r").stat_blob(&digest).await.unwrap();
    assert_eq!(size, Some(100));
    assert!(is_old(&file));
    daemon.back().await;
    daemon.repo("r").stat_blob(&digest).await.unwrap();
    assert!(!is_old(&file));
}

/// What the front takes is not at the remote yet: whoever sends it finds it there, and must renew it.
#[tokio::test]
async fn a_marked_blob_that_is_pushed_again_is_renewed_when_it_is_sent() {
    let world = World::new(Mode::WriteBack);
    let (daemon, digest, file) = with_marked(&world).await;
    // Too young for a store to write it again where it is merely found.
    let an_hour_ago = SystemTime::now() - DAY / 24;
    file.set_modified(an_hour_ago).unwrap();
    let core = &daemon.tiered.core;
    core.front
        .remove(&[digest], uses::Pinned::Stay)
        .await
        .unwrap();
    core.seen.forget(&[digest]);
    core.remote
        .store
        .facts()
        .marked
        .as_ref()
        .unwrap()
        .replace([digest]);

    daemon.link.cut(true);
    let (desc, body) = blob(&data(100, 1));
    daemon.repo("r").put_blob(&desc, &body).await.unwrap();
    daemon.link.cut(false);
    assert!(daemon.flush().await.is_flushed());
    assert!(file.metadata().unwrap().modified().unwrap() > an_hour_ago);
}
