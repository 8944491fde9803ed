#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use super::*;
use crate::{
    digest::Digest,
    store::open::{self, Options, StoreUrl},
};

/// A daemon with a state of its own in `state`, over the bucket in `dir`.
async fn daemon(dir: &Path, state: &str, quota: Quota) -> Arc<Uploads> {
    let url: StoreUrl = format!("disk:{}/store", dir.display()).parse().unwrap();
    let opened = open::open(&url, &Options::default()).await.unwrap();
    let records = opened.facts().repositories.as_ref().unwrap().records();
    let state = dir.join(state);
    let uploads = Arc::new(Uploads::open(&state.join("uploads"), Some(records), false).unwrap());
    uploads.set_quota(quota);
    uploads.remember_owners(&state.join("owners")).unwrap();
    uploads.count_bytes().await.unwrap();
    uploads
}

fn body(bytes: &'static [u8]) -> ByteStream {
    Body::Bytes(Bytes::from_static(bytes)).stream(0..bytes.len() as u64)
}

#[tokio::test]
async fn restart_over_a_bucket_counts_the_bytes_of_unfinished_uploads_that_are_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota {
        uploads: 9,
        bytes: 10,
    };
    let first = daemon(dir.path(), "one", quota).await;
    let repo = Repo::cli();
    let left = first.begin(&repo, "a", false).await.unwrap();
    first
        .append((&left, "a"), None, None, body(b"7 bytes"))
        .await
        .unwrap();
    drop(first);
    // On a machine that keeps nothing of what was received, too.
    std::fs::remove_dir_all(dir.path().join("one/uploads")).unwrap();
    let again = daemon(dir.path(), "one", quota).await;
    let new = again.begin(&repo, "a", false).await.unwrap();
    let refused = again.append((&new, "a"), None, None, body(b"four")).await;
    assert_eq!(refused.unwrap_err().op, OVER_QUOTA);
    let other = again.begin(&repo, "b", false).await.unwrap();
    again
        .append((&other, "b"), None, None, body(b"four"))
        .await
        .unwrap();
    // It goes on, and counts no more once it has ended.
    let end = again
        .finish((&left, "a"), Some(7), None, Some(body(b"end")))
        .await;
    assert_eq!(
        end.unwrap().unwrap().digest(),
        Digest::sha256_of(b"7 bytesend")
    );
    let new = again.begin(&repo, "a", false).await.unwrap();
    again
        .append((&new, "a"), None, None, body(b"ten bytes!"))
        .await
        .unwrap();
}

#[tokio::test]
async fn bytes_that_another_daemon_received_count_once_they_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota {
        uploads: 9,
        bytes: 10,
    };
    let one = daemon(dir.path(), "one", quota).await;
    let two = daemon(dir.path(), "two", quota).await;
    let id = one.begin(&Repo::cli(), "a", false).await.unwrap();
    two.append((&id, "a"), None, None, body(b"7 bytes"))
        .await
        .unwrap();
    one.count_bytes().await.unwrap();
    let new = one.begin(&Repo::cli(), "a", false).await.unwrap();
    let refused = one.append((&new, "a"), None, None, body(b"four")).await;
    assert_eq!(refused.unwrap_err().op, OVER_QUOTA);
}

#[tokio::test]
async fn uploads_that_nobody_began_here_count_and_any_can_be_cancelled_once() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota {
        uploads: 2,
        bytes: 100,
    };
    let uploads = daemon(dir.path(), "one", quota).await;
    let mut results = Vec::new();
    for _ in 0..3 {
        let id = UploadId::new(&Repo::cli());
        let appended = uploads.append((&id, "a"), Some(0), None, body(b"x"));
        results.push(appended.await.map_err(|e| e.op));
    }
    let one = Ok(Appended::Size(1));
    assert_eq!(results, [one, one, Err(OVER_QUOTA)]);
    let begun = uploads.begin(&Repo::cli(), "b", false).await.unwrap();
    let elsewhere = UploadId::new(&Repo::cli());
    for id in [&begun, &elsewhere] {
        assert!(uploads.cancel(id).await.unwrap());
        assert!(!uploads.cancel(id).await.unwrap());
    }
}

#[tokio::test]
async fn what_ends_an_upload_whose_bytes_are_elsewhere_counts_too() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota {
        uploads: 2,
        bytes: 10,
    };
    let y = daemon(dir.path(), "y", quota).await;
    let x = daemon(dir.path(), "x", quota).await;
    let id = y.begin(&Repo::cli(), "a", false).await.unwrap();
    let one = y.append((&id, "a"), Some(0), None, body(b"x"));
    assert_eq!(one.await.unwrap(), Appended::Size(1));
    let last = Some(body(b"ten bytes!"));
    let refused = x.finish((&id, "a"), Some(1), None, last).await;
    assert_eq!(refused.unwrap_err().op, OVER_QUOTA);
    // It was given up with that.
    assert_eq!(x.size(&id).await.unwrap(), None);
    assert_eq!(y.size(&id).await.unwrap(), None);
}

#[tokio::test]
async fn uploads_that_are_only_asked_for_or_are_over_are_not_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let pieces = uploads.pieces.as_ref().unwrap();
    for _ in 0..9 {
        let asked = UploadId::new(&Repo::cli());
        uploads.size(&asked).await.unwrap();
    }
    assert_eq!(pieces.count_sent(), 0);
    let id = uploads.begin(&Repo::cli(), "a", false).await.unwrap();
    let one = uploads.append((&id, "a"), Some(0), None, body(b"x"));
    one.await.unwrap();
    assert_eq!(pieces.count_sent(), 1);
    // As after a long rest.
    uploads.local.owners.forget(&id);
    let age = Duration::from_hours(1);
    uploads.expire(age, Time::now()).await.unwrap();
    assert_eq!(pieces.count_sent(), 0);
}
