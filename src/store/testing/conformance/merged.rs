//! Records of merged tags in a repository.

#![expect(
    clippy::unwrap_used,
    reason = "a broken promise is a panic that names the case's line"
)]

use super::{unique_manifest, unique_repo, unique_tag};
use crate::{
    entry::Time,
    store::{Repositories, record},
};

/// What a daemon records of a merged tag: when parts were pushed, and what was merged from them. Removed together with the tag.
pub(super) async fn pushes_and_folds_of_a_tag_are_recorded(all: &dyn Repositories) {
    let name = unique_repo("a");
    // Another daemon reads it.
    let (repo, other) = (all.repository(&name), all.repository(&name));
    let (tag, near) = (unique_tag("cache.x"), unique_tag("cache"));
    let (part, made) = (unique_manifest(), unique_manifest());
    for manifest in [&part, &made] {
        repo.put_manifest(manifest, std::slice::from_ref(&tag))
            .await
            .unwrap();
    }
    let now = repo.store().clock().await.unwrap();
    let before = Time {
        secs: now.secs - 60,
        ..now
    };
    repo.add_part_at(&tag, &part, before).await.unwrap();
    let read = other.published(&tag, &part.digest).await.unwrap();
    assert_eq!(read, Some(before));
    assert!(other.is_part(&tag, &part.digest).await.unwrap());
    assert!(!other.is_part(&near, &part.digest).await.unwrap());
    repo.add_part(&tag, &part).await.unwrap();
    let read = other.published(&tag, &part.digest).await.unwrap();
    let later = |at: Time| (at.secs - now.secs).abs() < 30;
    assert!(read.is_some_and(later), "{read:?} {now:?}");
    let fold = record::Folded::of(vec![part.digest], now);
    repo.add_fold(&tag, &made.digest, &fold).await.unwrap();
    assert_eq!(other.fold(&tag, &made.digest).await.unwrap(), Some(fold));
    assert_eq!(other.fold(&near, &made.digest).await.unwrap(), None);
    assert_eq!(other.folds(&tag).await.unwrap(), [made.digest]);
    assert_eq!(other.folds(&near).await.unwrap(), []);
    assert_eq!(other.pointed(&tag).await.unwrap(), Some(made.digest));
    assert_eq!(other.tags().await.unwrap(), std::slice::from_ref(&tag));
    assert!(repo.delete_tag(&tag).await.unwrap());
    assert_eq!(other.folds(&tag).await.unwrap(), []);
    assert_eq!(other.pointed(&tag).await.unwrap(), None);
    assert!(!other.is_part(&tag, &part.digest).await.unwrap());
}
