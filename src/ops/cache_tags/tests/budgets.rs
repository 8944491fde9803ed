//! Limits on the cost of a tag, whatever was pushed to it; and that nothing is revealed about others' content.

use futures_util::{FutureExt as _, future::join_all};

use super::*;
use crate::{
    artifact::buildkit::MAX_CONFIG_BYTES,
    ops::cache_tags::budget::{MAX_BYTES, MAX_RECORDS},
};

/// A cache whose config has this many more bytes than it needs.
async fn padded(repo: &Repository, name: &str, bytes: usize) -> Manifest {
    let (layers, mut config) = documents(repo, &[name], 1).await;
    config["padding"] = "x".repeat(bytes).into();
    manifest(repo, layers, &config).await
}

/// A cache of this many keys and nothing else.
async fn crowded(repo: &Repository, name: &str, count: usize) -> Manifest {
    let (layers, mut config) = documents(repo, &[name], 1).await;
    let records = config["records"].as_array_mut().unwrap();
    records.extend((0..count).map(|n| json!({"digest": format!("{name}{n}")})));
    manifest(repo, layers, &config).await
}

async fn parts_left(repo: &Repository) -> BTreeSet<Digest> {
    let parts = repo.parts(&tag()).await.unwrap();
    parts.iter().map(|p| p.digest).collect()
}

#[tokio::test]
async fn over_the_budget_of_bytes_the_oldest_parts_go_and_are_counted() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let mut all = Vec::new();
    for n in 0..6 {
        let part = padded(&repo, &format!("n{n}"), 3 << 20).await;
        all.push(part.digest);
        world.age_records();
        push(&tags, &repo, &part).await;
    }
    let fits = (MAX_BYTES / (3 << 20)) as usize;
    assert_eq!(
        parts_left(&repo).await,
        all[6 - fits..].iter().copied().collect()
    );
    assert_eq!(
        tags.counts().dropped_parts.load(Ordering::Relaxed),
        6 - fits as u64
    );
    let served = read(&CacheTags::default(), &repo).await.unwrap();
    assert_eq!(names_of(&served).len(), fits);
}

#[tokio::test]
async fn a_cache_too_large_to_be_merged_is_served_as_it_was_pushed_or_refused() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let large = padded(&repo, "large", MAX_CONFIG_BYTES).await;
    push(&tags, &repo, &large).await;
    for tags in [&tags, &CacheTags::default()] {
        assert_eq!(read(tags, &repo).await.as_ref(), Some(&large));
    }
    push(&tags, &repo, &large).await;
    assert_eq!(read(&tags, &repo).await.as_ref(), Some(&large));
    // Without a layer it is useless.
    world.lose(&layer("large"));
    assert_eq!(read(&tags, &repo).await, None);
    put(&repo, media::LAYER_GZIP, layer_bytes("large")).await;
    let other = cache(&repo, &["b"], 2).await;
    push(&tags, &repo, &other).await;
    assert_eq!(read(&tags, &repo).await.as_ref(), Some(&other));
    let refused = tags.push(&repo, &large, &[tag()]).await.unwrap_err();
    assert!(refused.message.contains("a separate tag"), "{refused}");
    assert_eq!(read(&tags, &repo).await, Some(other));
}

#[tokio::test]
async fn parts_over_the_budget_that_another_release_kept_are_left_out() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let mut all = Vec::new();
    for n in 0..6 {
        let part = padded(&repo, &format!("n{n}"), 3 << 20).await;
        world.age_records();
        repo.put_manifest(&part, &[tag()]).await.unwrap();
        repo.add_part(&tag(), &part).await.unwrap();
        all.push(part);
    }
    let served = read(&tags, &repo).await.unwrap();
    assert_eq!(names_of(&served), set(&["n1", "n2", "n3", "n4", "n5"]));
    assert_eq!(parts_left(&repo).await.len(), 6, "a reader removes nothing");
}

#[tokio::test]
async fn over_the_budget_of_records_the_oldest_parts_go() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let mut all = Vec::new();
    for n in 0..3 {
        let part = crowded(&repo, &format!("n{n}"), MAX_RECORDS * 2 / 5).await;
        all.push(part.digest);
        world.age_records();
        push(&tags, &repo, &part).await;
    }
    assert_eq!(parts_left(&repo).await, all[1..].iter().copied().collect());
}

/// A cache whose config has this many more layers: `count` different ones, each `times`.
async fn stacked(repo: &Repository, name: &str, count: usize, times: usize) -> Manifest {
    let (layers, mut config) = documents(repo, &[name], 1).await;
    let more = (0..count).flat_map(|n| {
        let blob = Digest::sha256_of(format!("{name} {n}").as_bytes());
        (0..times).map(move |_| json!({"blob": blob, "parent": -1}))
    });
    config["layers"].as_array_mut().unwrap().extend(more);
    manifest(repo, layers, &config).await
}

#[tokio::test]
async fn a_part_of_a_great_many_layers_takes_no_other_part_away() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let honest = ["a", "b", "c"];
    for name in honest {
        push(&tags, &repo, &cache(&repo, &[name], 1).await).await;
        world.age_records();
    }
    let same = stacked(&repo, "same", 1, 38_000).await;
    push(&tags, &repo, &same).await;
    assert_eq!(parts_left(&repo).await.len(), 4, "one layer counts once");
    let different = stacked(&repo, "different", 21_000, 1).await;
    let refused = tags.push(&repo, &different, &[tag()]).await.unwrap_err();
    assert!(refused.message.contains("a separate tag"), "{refused}");
    let served = read(&tags, &repo).await.unwrap();
    assert_eq!(names_of(&served), set(&["a", "b", "c", "same"]));
    // Alone it is served, even when it is pushed again, and it is dropped only because of the budget.
    let own: Tag = "own".parse().unwrap();
    for _ in 0..2 {
        let pushed = tags.push(&repo, &different, std::slice::from_ref(&own));
        pushed.await.unwrap();
        let served = resolve(&tags, &repo, &Reference::Tag(own.clone())).await;
        assert_eq!(served.as_ref(), Some(&different));
    }
    let small = cache(&repo, &["small"], 1).await;
    tags.push(&repo, &small, std::slice::from_ref(&own))
        .await
        .unwrap();
    let served = resolve(&tags, &repo, &Reference::Tag(own)).await.unwrap();
    assert_eq!(names_of(&served), set(&["small", "different"]));
}

#[tokio::test]
async fn over_the_budget_the_heaviest_parts_go_before_older_ones() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let mut light = BTreeSet::new();
    for name in ["a", "b"] {
        // Not heavy, but more than the heavy ones leave space for; it would fit without them.
        let part = padded(&repo, name, 3 << 19).await;
        light.insert(part.digest);
        push(&tags, &repo, &part).await;
        world.age_records();
    }
    for n in 0..6 {
        let part = padded(&repo, &format!("n{n}"), 3 << 20).await;
        push(&tags, &repo, &part).await;
        let left = parts_left(&repo).await;
        assert!(left.is_superset(&light) && left.contains(&part.digest));
        world.age_records();
    }
    assert_eq!(parts_left(&repo).await.len(), 6);
    // The one pushed last stays, even if it is the heaviest.
    let last = padded(&repo, "last", 7 << 19).await;
    push(&tags, &repo, &last).await;
    let left = parts_left(&repo).await;
    assert!(left.is_superset(&light) && left.contains(&last.digest));
}

#[tokio::test]
async fn parts_that_are_a_little_lighter_keep_honest_ones_apart_for_no_longer_than_these_are_pushed()
 {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    for n in 0..11 {
        let part = crowded(&repo, &format!("light{n}"), MAX_RECORDS / 10 - 100).await;
        push(&tags, &repo, &part).await;
        world.age_records();
    }
    let mut honest = BTreeSet::new();
    for name in ["a", "b", "c"] {
        let part = crowded(&repo, name, MAX_RECORDS / 10).await;
        honest.insert(part.digest);
        push(&tags, &repo, &part).await;
        world.age_records();
    }
    assert!(parts_left(&repo).await.is_superset(&honest));
}

#[tokio::test]
async fn a_cache_is_read_in_a_place_among_merges_though_no_tag_is_pushed() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let part = cache(&repo, &["a"], 1).await;
    let place = tags.place(&repo).await;
    let mut push = Box::pin(tags.push(&repo, &part, &[]));
    while !tags.merging.is_awaited(repo.name()) {
        let pushed = push.as_mut().now_or_never();
        assert!(pushed.is_none(), "it took no place");
        tokio::task::yield_now().await;
    }
    drop(place);
    assert_eq!(push.await.unwrap(), Pushed::Done);
    assert_eq!(by_digest(&repo, &part.digest).await, Some(part));
}

#[tokio::test]
async fn one_read_folds_a_tag_for_all_who_wait_for_it() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let after = CacheTags::default();
    let all = join_all((0..8).map(|_| read(&after, &repo))).await;
    assert!(all.iter().all(|one| one.is_some() && *one == all[0]));
    assert_eq!(after.counts().merged.load(Ordering::Relaxed), 1);
}

/// A cache that names another user's layer, said to be elsewhere; `size` is the pusher's guess.
async fn with_foreign_layer(repo: &Repository, foreign: &Digest, size: usize) -> Manifest {
    let (layers, config) = documents(repo, &["own"], 1).await;
    let whole = manifest(repo, layers, &config).await;
    let mut document: Value = serde_json::from_slice(&whole.bytes).unwrap();
    document["layers"].as_array_mut().unwrap().push(json!({
        "mediaType": media::LAYER_GZIP, "digest": foreign, "size": size, "urls": ["http://x/"],
        "annotations": {"containerd.io/uncompressed": foreign},
    }));
    Manifest::new(media::IMAGE_MANIFEST, document.to_string())
}

#[tokio::test]
async fn a_layer_from_elsewhere_is_left_out_alike_whether_the_store_has_it_or_not() {
    let world = World::new().await;
    let repo = world.repo();
    let secret = put(&repo, media::LAYER_GZIP, b"secret".to_vec()).await;
    let mut served = Vec::new();
    for digest in [secret.digest, Digest::sha256_of(b"never pushed")] {
        for more in [false, true] {
            let tags = CacheTags::default();
            repo.delete_tag(&tag()).await.unwrap();
            let part = with_foreign_layer(&repo, &digest, 6).await;
            push(&tags, &repo, &part).await;
            if more {
                push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
            }
            let manifest = read(&tags, &repo).await.unwrap();
            assert_eq!(
                names_of(&manifest),
                set(if more { &["own", "b"] } else { &["own"] })
            );
            assert_eq!(by_digest(&repo, &part.digest).await, Some(part));
            served.push(manifest);
        }
    }
    assert_eq!(served[..2], served[2..]);
}

#[tokio::test]
async fn a_config_from_elsewhere_is_not_read() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let whole = cache(&repo, &["a"], 1).await;
    let mut document: Value = serde_json::from_slice(&whole.bytes).unwrap();
    document["config"]["urls"] = json!(["http://x/"]);
    let planted = Manifest::new(media::IMAGE_MANIFEST, document.to_string());
    // An older release accepted it as a part.
    repo.put_manifest(&planted, &[tag()]).await.unwrap();
    repo.add_part(&tag(), &planted).await.unwrap();
    assert_eq!(read(&tags, &repo).await, None);
    let own = cache(&repo, &["b"], 2).await;
    push(&tags, &repo, &own).await;
    assert_eq!(read(&tags, &repo).await, Some(own));
}
