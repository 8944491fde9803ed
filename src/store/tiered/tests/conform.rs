use super::*;
use crate::store::testing::conformance;

async fn conforms(mode: Mode) {
    Box::pin(conformance::run_all(async || {
        let world = World::new(mode);
        let daemon = world.start().await;
        let opened = daemon.tiered.store();
        conformance::Subject {
            store: opened.contents().clone(),
            // While the remote is there, it compares.
            meet: Meet::CompareAndSwap,
            untag: opened.untag().cloned(),
            sweep: opened.sweep().cloned(),
            spool_dir: opened.facts().spool_dir.clone(),
            keep: Box::new((world, daemon.tiered)),
        }
    }))
    .await;
}

#[tokio::test]
async fn write_through_is_a_store() {
    Box::pin(conforms(Mode::WriteThrough)).await;
}

#[tokio::test]
async fn write_back_is_a_store() {
    Box::pin(conforms(Mode::WriteBack)).await;
}

#[tokio::test]
async fn stores_that_do_not_fit_are_refused() {
    let world = World::new(Mode::WriteBack);
    let layout = StoreUrl::Layout(world.dir.path().join("layout"));
    let layout = open::open(&layout, &Options::default()).await.unwrap();
    let unverified = world.remote().await;
    let remote = unverified.clone().with(|facts| facts.is_verified = true);
    let moved = world.moved.clone();
    for (near, remote, kind) in [
        (layout.clone(), remote.clone(), ErrorKind::Invalid),
        (world.near().await, unverified, ErrorKind::Invalid),
        (world.near().await, layout, ErrorKind::Unsupported),
    ] {
        let opened = Tiered::open(near, remote, world.settings.clone(), moved.clone()).await;
        assert_eq!(opened.err().unwrap().kind, kind);
    }
    for (max_bytes, low_water) in [(0, 0.5), (1, 0.0), (1, 1.5), (1, f64::NAN)] {
        let mut settings = world.settings.clone();
        settings.room.max_bytes = max_bytes;
        settings.room.low_water = low_water;
        let opened = Tiered::open(world.near().await, remote.clone(), settings, moved.clone());
        assert_eq!(opened.await.err().unwrap().kind, ErrorKind::Invalid);
    }
}
