//! Which part's result for a key is served, and which parts are the oldest.

use super::*;
use crate::entry::Time;

/// A cache of the key `k`, whose result is the layer `name`, created at `made`.
async fn result(repo: &Repository, name: &str, made: &str) -> Manifest {
    let (layers, mut config) = documents(repo, &[name], 1).await;
    config["records"][0]["digest"] = Digest::sha256_of(b"k").to_string().into();
    config["records"][0]["layers"][0]["createdAt"] = made.into();
    // A key of its own, so that no part contains another.
    let own = json!({
        "digest": Digest::sha256_of(format!("own {name}").as_bytes()),
        "layers": [{"layer": 0, "createdAt": made}],
    });
    config["records"].as_array_mut().unwrap().push(own);
    manifest(repo, layers, &config).await
}

/// The layer that is the result of the key `k`.
async fn served(tags: &CacheTags, repo: &Repository) -> Digest {
    let manifest = read(tags, repo).await.unwrap();
    let cache = readable(&manifest).unwrap();
    let part = tags.part_of(repo, cache).await.unwrap().unwrap();
    let key = Digest::sha256_of(b"k").to_string();
    let record = part.config.records().iter().find(|r| r.digest == key);
    part.config.layers()[record.unwrap().results[0].layer].blob
}

#[tokio::test]
async fn a_result_from_the_future_gives_way_to_the_part_pushed_last() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let bad = result(&repo, "bad", "9999-01-01T00:00:00Z").await;
    let good = result(&repo, "good", "2026-11-01T00:00:00Z").await;
    push(&tags, &repo, &bad).await;
    world.age_records();
    push(&tags, &repo, &good).await;
    assert_eq!(served(&tags, &repo).await, layer("good"));
    let once = read(&tags, &repo).await;
    assert_eq!(read(&CacheTags::default(), &repo).await, once);
    // Pushing a known part again makes it the last pushed.
    world.age_records();
    push(&tags, &repo, &bad).await;
    assert_eq!(served(&tags, &repo).await, layer("bad"));
    world.age_records();
    push(&tags, &repo, &good).await;
    assert_eq!(served(&tags, &repo).await, layer("good"));
    assert_eq!(served(&CacheTags::default(), &repo).await, layer("good"));
    assert_eq!(repo.parts(&tag()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_recorded_time_in_the_future_counts_as_when_the_store_wrote_it() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let bad = result(&repo, "bad", "2026-11-01T00:00:00Z").await;
    let good = result(&repo, "good", "2026-11-01T00:00:00Z").await;
    push(&tags, &repo, &bad).await;
    let ahead = Time {
        secs: 9_000_000_000,
        nanos: 0,
    };
    repo.add_part_at(&tag(), &bad, ahead).await.unwrap();
    world.age_records();
    push(&tags, &repo, &good).await;
    assert_eq!(served(&tags, &repo).await, layer("good"));
}

/// A queue wrote it later than it was pushed; a copy of the bucket wrote all at once.
#[tokio::test]
async fn a_part_is_as_old_as_its_push_whenever_its_record_was_written() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let old = result(&repo, "old", "2026-11-01T00:00:00Z").await;
    let new = result(&repo, "new", "2026-11-01T00:00:00Z").await;
    push(&tags, &repo, &new).await;
    push(&tags, &repo, &old).await;
    assert_eq!(served(&tags, &repo).await, layer("old"));
    let now = repo.store().clock().await.unwrap();
    let before = Time {
        secs: now.secs - 60,
        ..now
    };
    repo.add_part_at(&tag(), &old, before).await.unwrap();
    for tags in [&tags, &CacheTags::default()] {
        assert_eq!(served(tags, &repo).await, layer("new"));
    }
}

#[tokio::test]
async fn the_part_pushed_longest_ago_goes_first() {
    let world = World::new().await;
    let tags = CacheTags::new(Settings {
        max_parts: 2,
        ..Settings::default()
    });
    let repo = world.repo();
    let [a, b, c] = ["a", "b", "c"].map(|name| {
        let repo = &repo;
        async move { result(repo, name, "2026-11-01T00:00:00Z").await }
    });
    let (a, b, c) = (a.await, b.await, c.await);
    for part in [&a, &b, &a, &c] {
        world.age_records();
        push(&tags, &repo, part).await;
    }
    let parts = repo.parts(&tag()).await.unwrap();
    let left: BTreeSet<Digest> = parts.iter().map(|p| p.digest).collect();
    assert_eq!(left, [a.digest, c.digest].into());
}

#[tokio::test]
async fn one_part_alone_is_not_served_as_newer_than_its_push() {
    let world = World::new().await;
    for tags in [CacheTags::default(), without_merging(ShrinkGuard::Off)] {
        let repo = world.repo();
        let bad = result(&repo, "bad", "9999-01-01T00:00:00Z").await;
        push(&tags, &repo, &bad).await;
        let manifest = read(&tags, &repo).await.unwrap();
        let cache = readable(&manifest).unwrap();
        let part = tags.part_of(&repo, cache).await.unwrap().unwrap();
        let now = repo.store().clock().await.unwrap();
        let results = part.config.records().iter().flat_map(|r| &r.results);
        let made: Vec<Time> = results.map(|r| r.created_at).collect();
        assert!(
            made.len() == 2 && made.iter().all(|at| *at <= now),
            "{made:?}"
        );
        assert_eq!(names_of(&manifest), set(&["bad"]));
        assert!(tags.delete(&repo, &manifest.digest.into()).await.unwrap());
        assert_eq!(read(&tags, &repo).await, None);
    }
}
