//! Deletion by the digest that a tag was served under, and what a tag is served as after a prune.

use super::*;

async fn delete(tags: &CacheTags, repo: &Repository, digest: &Digest) -> bool {
    tags.delete(repo, &Reference::Digest(*digest))
        .await
        .unwrap()
}

async fn is_gone(repo: &Repository, digest: &Digest) {
    assert_eq!(by_digest(repo, digest).await, None);
    for tags in [CacheTags::default(), without_merging(ShrinkGuard::Off)] {
        assert_eq!(read(&tags, repo).await, None);
    }
    assert_eq!(repo.tags().await.unwrap(), []);
    assert_eq!(repo.parts(&tag()).await.unwrap(), []);
    assert_eq!(repo.folds(&tag()).await.unwrap(), []);
}

#[tokio::test]
async fn a_merged_cache_is_deleted_by_the_digest_that_it_was_served_under() {
    for restarted in [false, true] {
        let world = World::new().await;
        let (mut tags, repo) = (CacheTags::default(), world.repo());
        push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
        push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
        let served = read(&tags, &repo).await.unwrap();
        if restarted {
            tags = CacheTags::default();
        }
        assert!(delete(&tags, &repo, &served.digest).await);
        assert_eq!(read(&tags, &repo).await, None);
        is_gone(&repo, &served.digest).await;
        assert!(!delete(&tags, &repo, &served.digest).await);
        // The next export brings nothing back.
        let new = cache(&repo, &["c"], 3).await;
        push(&tags, &repo, &new).await;
        assert_eq!(read(&tags, &repo).await, Some(new));
    }
}

#[tokio::test]
async fn a_part_that_was_pushed_since_stays() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let served = read(&tags, &repo).await.unwrap();
    let since = cache(&repo, &["c"], 3).await;
    push(&tags, &repo, &since).await;
    let other = CacheTags::default();
    assert!(delete(&other, &repo, &served.digest).await);
    for tags in [&tags, &other] {
        assert_eq!(read(tags, &repo).await.as_ref(), Some(&since));
    }
    assert_eq!(by_digest(&repo, &served.digest).await, None);
    assert_eq!(repo.tags().await.unwrap(), [tag()]);
    assert_eq!(repo.pointed(&tag()).await.unwrap(), Some(since.digest));
}

#[tokio::test]
async fn a_cache_that_lost_a_layer_is_deleted_by_the_digest_that_it_was_served_under() {
    for merges in [true, false] {
        let world = World::new().await;
        let tags = || {
            if merges {
                CacheTags::default()
            } else {
                without_merging(ShrinkGuard::Off)
            }
        };
        let repo = world.repo();
        push(&tags(), &repo, &cache(&repo, &["a", "b"], 1).await).await;
        world.lose(&layer("b"));
        let served = read(&tags(), &repo).await.unwrap();
        assert_eq!(names_of(&served), set(&["a"]));
        assert!(delete(&tags(), &repo, &served.digest).await);
        is_gone(&repo, &served.digest).await;
    }
}

#[tokio::test]
async fn the_digest_of_one_part_takes_that_part_away() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let (one, two) = (cache(&repo, &["a"], 1).await, cache(&repo, &["b"], 2).await);
    push(&tags, &repo, &one).await;
    push(&tags, &repo, &two).await;
    assert!(delete(&tags, &repo, &two.digest).await);
    assert_eq!(read(&tags, &repo).await, Some(one.clone()));
    assert_eq!(repo.pointed(&tag()).await.unwrap(), Some(one.digest));
    assert!(delete(&CacheTags::default(), &repo, &one.digest).await);
    is_gone(&repo, &one.digest).await;
}

#[tokio::test]
async fn other_tags_of_the_same_parts_stay() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let (one, two) = (cache(&repo, &["a"], 1).await, cache(&repo, &["b"], 2).await);
    let other: Tag = "other".parse().unwrap();
    tags.push(&repo, &one, &[tag(), other.clone()])
        .await
        .unwrap();
    push(&tags, &repo, &two).await;
    let served = read(&tags, &repo).await.unwrap();
    assert!(delete(&tags, &repo, &served.digest).await);
    assert_eq!(read(&tags, &repo).await, None);
    let left = resolve(&tags, &repo, &Reference::Tag(other)).await;
    assert_eq!(left, Some(one));
}

#[tokio::test]
async fn a_tag_that_the_served_manifest_was_pushed_to_goes_with_it() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let served = read(&tags, &repo).await.unwrap();
    let copy: Tag = "copy".parse().unwrap();
    tags.push(&repo, &served, std::slice::from_ref(&copy))
        .await
        .unwrap();
    assert!(delete(&tags, &repo, &served.digest).await);
    is_gone(&repo, &served.digest).await;
    assert_eq!(resolve(&tags, &repo, &Reference::Tag(copy)).await, None);
}

#[tokio::test]
async fn a_served_manifest_that_is_pushed_to_its_own_tag_is_a_part_like_any_other() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let served = read(&tags, &repo).await.unwrap();
    push(&tags, &repo, &served).await;
    assert_eq!(read(&tags, &repo).await.as_ref(), Some(&served));
    let since = cache(&repo, &["c"], 3).await;
    push(&tags, &repo, &since).await;
    assert!(delete(&tags, &repo, &served.digest).await);
    assert_eq!(read(&tags, &repo).await, Some(since));
}

#[tokio::test]
async fn a_pushed_manifest_cannot_name_the_parts_of_others_as_its_own() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let served = read(&tags, &repo).await.unwrap();
    // As the daemon writes it, plus one annotation.
    let mut forged: Value = serde_json::from_slice(&served.bytes).unwrap();
    forged["annotations"]["x"] = "y".into();
    let forged = Manifest::new(&served.media_type, forged.to_string());
    let trap: Tag = "trap".parse().unwrap();
    for pushed_to in [vec![trap.clone()], Vec::new()] {
        tags.push(&repo, &forged, &pushed_to).await.unwrap();
        assert!(delete(&tags, &repo, &forged.digest).await);
        assert_eq!(resolve(&tags, &repo, &trap.clone().into()).await, None);
        assert_eq!(read(&tags, &repo).await.as_ref(), Some(&served));
    }
}

#[tokio::test]
async fn a_merge_of_an_older_release_is_deleted_with_the_parts_that_there_were() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let served = read(&tags, &repo).await.unwrap();
    // It recorded nothing of its merges.
    for fold in repo.folds(&tag()).await.unwrap() {
        repo.remove_fold(&tag(), &fold).await.unwrap();
    }
    // And is pushing the next one.
    world.age_records();
    let next = cache(&repo, &["c"], 3).await;
    repo.put_manifest(&next, &[]).await.unwrap();
    repo.add_part(&tag(), &next).await.unwrap();
    assert!(delete(&CacheTags::default(), &repo, &served.digest).await);
    assert_eq!(read(&tags, &repo).await, Some(next));
}

#[tokio::test]
async fn parts_without_their_tag_are_not_served_and_go_with_a_later_push() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    // Leftovers of a deletion by digest, from before merges were recorded.
    repo.untag().untag(&tag()).await.unwrap();
    assert_eq!(read(&tags, &repo).await, None);
    let parts = world.dir.path().join("r/team%2Fapp/parts/cache");
    for part in std::fs::read_dir(parts).unwrap() {
        let file = std::fs::File::open(part.unwrap().path()).unwrap();
        let old = std::time::SystemTime::now() - Duration::from_hours(2);
        file.set_modified(old).unwrap();
    }
    let new = cache(&repo, &["c"], 3).await;
    push(&tags, &repo, &new).await;
    assert_eq!(read(&tags, &repo).await, Some(new));
    // Parts of an export that has not written its tag yet stay.
    repo.untag().untag(&tag()).await.unwrap();
    push(&tags, &repo, &cache(&repo, &["d"], 4).await).await;
    assert_eq!(
        names_of(&read(&tags, &repo).await.unwrap()),
        set(&["c", "d"])
    );
}

#[tokio::test]
async fn a_deletion_that_was_cut_short_brings_nothing_back_and_can_be_asked_for_again() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let served = read(&tags, &repo).await.unwrap();
    for part in repo.parts(&tag()).await.unwrap() {
        repo.remove_part(&tag(), &part.digest).await.unwrap();
    }
    assert_eq!(read(&CacheTags::default(), &repo).await, None);
    let new = cache(&repo, &["c"], 3).await;
    push(&tags, &repo, &new).await;
    assert_eq!(read(&tags, &repo).await, Some(new.clone()));
    assert!(delete(&tags, &repo, &served.digest).await);
    assert_eq!(read(&tags, &repo).await, Some(new));
}

#[tokio::test]
async fn what_a_tag_is_served_as_is_stored_again_after_a_prune() {
    for names in [&[&["a"][..], &["b"]][..], &[&["a", "b"]]] {
        let world = World::new().await;
        let (tags, repo) = (CacheTags::default(), world.repo());
        for names in names {
            push(&tags, &repo, &cache(&repo, names, 1).await).await;
        }
        if names.len() == 1 {
            world.lose(&layer("b"));
        }
        let served = read(&tags, &repo).await.unwrap();
        world.sweep(&served.digest).await;
        assert_eq!(read(&tags, &repo).await.as_ref(), Some(&served));
        assert_eq!(by_digest(&repo, &served.digest).await, Some(served.clone()));
        // Only its bytes, as in a disk failure.
        world.lose(&served.digest);
        assert_eq!(read(&tags, &repo).await.as_ref(), Some(&served));
        assert_eq!(by_digest(&repo, &served.digest).await, Some(served.clone()));
        assert!(delete(&CacheTags::default(), &repo, &served.digest).await);
        is_gone(&repo, &served.digest).await;
    }
}

#[tokio::test]
async fn whatever_was_served_before_is_deleted_with_what_it_was_made_of_as_long_as_it_can_be_read()
{
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let mut served = Vec::new();
    for n in 0..40 {
        push(&tags, &repo, &cache(&repo, &[&format!("n{n}")], 1).await).await;
        served.push(read(&tags, &repo).await.unwrap());
    }
    for (n, one) in served.iter().enumerate().skip(1).step_by(13) {
        assert_eq!(by_digest(&repo, &one.digest).await.as_ref(), Some(one));
        assert!(delete(&CacheTags::default(), &repo, &one.digest).await);
        assert_eq!(by_digest(&repo, &one.digest).await, None);
        assert!(!delete(&CacheTags::default(), &repo, &one.digest).await);
        let left: Vec<String> = (n + 1..40).map(|n| format!("n{n}")).collect();
        let left: Vec<&str> = left.iter().map(String::as_str).collect();
        assert_eq!(names_of(&read(&tags, &repo).await.unwrap()), set(&left));
    }
}

/// It deletes the parts and the tag, and knows no records.
#[tokio::test]
async fn a_merge_that_was_pushed_after_an_older_release_deleted_the_tag_is_a_cache_like_any_other()
{
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let merged = read(&tags, &repo).await.unwrap();
    let record = repo.fold(&tag(), &merged.digest).await.unwrap().unwrap();
    let made = record.made().unwrap();
    repo.delete_tag(&tag()).await.unwrap();
    let earlier = crate::entry::Time {
        secs: made.secs - 60,
        ..made
    };
    let record = crate::store::record::Folded::of(record.parts, earlier);
    repo.add_fold(&tag(), &merged.digest, &record)
        .await
        .unwrap();
    repo.put_manifest(&merged, &[tag()]).await.unwrap();
    assert_eq!(read(&CacheTags::default(), &repo).await, Some(merged));
    push(&tags, &repo, &cache(&repo, &["c"], 3).await).await;
    let all = names_of(&read(&tags, &repo).await.unwrap());
    assert_eq!(all, set(&["a", "b", "c"]));
}
