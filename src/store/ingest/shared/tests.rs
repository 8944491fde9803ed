#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::{
    fs::File,
    sync::atomic::{AtomicBool, Ordering},
    time::SystemTime,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use parking_lot::Mutex;

use super::*;
use crate::{
    digest::Digest,
    store::{
        StoreUrl,
        open::{self, Options},
    },
};

/// The records of the bucket in `dir`.
async fn bucket(dir: &Path) -> Arc<dyn Records> {
    let url: StoreUrl = format!("disk:{}/store", dir.display()).parse().unwrap();
    let opened = open::open(&url, &Options::default()).await.unwrap();
    opened.facts().repositories.as_ref().unwrap().records()
}

/// A daemon with a state of its own in `state`, over the bucket in `dir`.
async fn daemon(dir: &Path, state: &str, quota: Quota) -> Arc<Uploads> {
    let (records, state) = (bucket(dir).await, dir.join(state));
    let uploads = Arc::new(Uploads::open(&state.join("uploads"), Some(records), false).unwrap());
    uploads.set_quota(quota);
    uploads.remember_owners(&state.join("owners")).unwrap();
    uploads.count_bytes().await.unwrap();
    uploads
}

const fn quota(uploads: usize, bytes: u64) -> Quota {
    Quota { uploads, bytes }
}

async fn begin(uploads: &Arc<Uploads>, owner: &str) -> UploadId {
    uploads.begin(&Repo::cli(), owner, false).await.unwrap()
}

/// Appends; what became of it, or what was tried that failed.
async fn append(
    uploads: &Arc<Uploads>,
    upload: (&UploadId, &str),
    bytes: &'static [u8],
) -> std::result::Result<Appended, &'static str> {
    let appended = uploads.append(upload, None, None, body(bytes)).await;
    appended.map_err(|e| e.op)
}

fn body(bytes: &'static [u8]) -> ByteStream {
    Body::Bytes(Bytes::from_static(bytes)).stream(0..bytes.len() as u64)
}

#[tokio::test]
async fn restart_over_a_bucket_counts_the_bytes_of_unfinished_uploads_that_are_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let quota = quota(9, 10);
    let first = daemon(dir.path(), "one", quota).await;
    let repo = Repo::cli();
    let left = first.begin(&repo, "a", false).await.unwrap();
    append(&first, (&left, "a"), b"7 bytes").await.unwrap();
    drop(first);
    // On a machine that keeps nothing of what was received, too.
    std::fs::remove_dir_all(dir.path().join("one/uploads")).unwrap();
    let again = daemon(dir.path(), "one", quota).await;
    let new = again.begin(&repo, "a", false).await.unwrap();
    let over = append(&again, (&new, "a"), b"four").await;
    assert_eq!(over, Err(OVER_QUOTA));
    let other = again.begin(&repo, "b", false).await.unwrap();
    append(&again, (&other, "b"), b"four").await.unwrap();
    // It goes on, and counts no more once it has ended.
    let end = again
        .finish((&left, "a"), Some(7), None, Some(body(b"end")))
        .await;
    assert_eq!(
        end.unwrap().unwrap().spool.digest(),
        Digest::sha256_of(b"7 bytesend")
    );
    let new = again.begin(&repo, "a", false).await.unwrap();
    append(&again, (&new, "a"), b"ten bytes!").await.unwrap();
}

#[tokio::test]
async fn bytes_that_another_daemon_received_count_once_they_are_looked_for() {
    let dir = tempfile::tempdir().unwrap();
    let quota = quota(9, 10);
    let one = daemon(dir.path(), "one", quota).await;
    let two = daemon(dir.path(), "two", quota).await;
    let id = begin(&one, "a").await;
    append(&two, (&id, "a"), b"7 bytes").await.unwrap();
    one.count_bytes().await.unwrap();
    let new = begin(&one, "a").await;
    let over = append(&one, (&new, "a"), b"four").await;
    assert_eq!(over, Err(OVER_QUOTA));
}

#[tokio::test]
async fn uploads_that_nobody_began_here_count_and_any_can_be_cancelled_once() {
    let dir = tempfile::tempdir().unwrap();
    let quota = quota(2, 100);
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
    let quota = quota(2, 10);
    let y = daemon(dir.path(), "y", quota).await;
    let x = daemon(dir.path(), "x", quota).await;
    let id = begin(&y, "a").await;
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
    let id = begin(&uploads, "a").await;
    let one = uploads.append((&id, "a"), Some(0), None, body(b"x"));
    one.await.unwrap();
    assert_eq!(pieces.count_sent(), 1);
    // As after a long rest.
    uploads.local.owners.forget(&id);
    let age = Duration::from_hours(1);
    uploads.expire(age, Time::now()).await.unwrap();
    assert_eq!(pieces.count_sent(), 0);
}

#[tokio::test]
async fn an_upload_expires_as_a_whole_once_nothing_comes_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let id = begin(&uploads, "a").await;
    for bytes in [b"one", b"two"] {
        append(&uploads, (&id, "a"), bytes).await.unwrap();
    }
    let pieces = uploads.pieces.as_ref().unwrap();
    let (now, hour) = (Time::now(), 3600);
    let expire = async |ages: [i64; 2]| {
        let mut listed = pieces.records.list_records(keys::UPLOADS).await.unwrap();
        listed.sort_by(|a, b| a.key.cmp(&b.key));
        for (piece, age) in listed.iter_mut().zip(ages) {
            let secs = now.secs - age;
            piece.modified = Some(Time { secs, ..now });
        }
        let expired = pieces.expire(listed, Duration::from_hours(1), now).await;
        expired.unwrap()
    };
    assert_eq!(expire([3 * hour, hour / 2]).await, 0);
    assert_eq!(uploads.size(&id).await.unwrap(), Some(6));
    assert_eq!(expire([3 * hour, 2 * hour]).await, 2);
    assert_eq!(uploads.size(&id).await.unwrap(), Some(0));
}

#[tokio::test]
async fn a_push_that_waits_for_the_store_is_given_up_where_its_sender_fills_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let quota = quota(9, 20_000);
    let uploads = daemon(dir.path(), "one", quota).await;
    let (big, small, next) = (
        begin(&uploads, "a").await,
        begin(&uploads, "b").await,
        begin(&uploads, "a").await,
    );
    let large = Body::Bytes(vec![0; 19_999].into()).stream(0..19_999);
    let finished = uploads.finish((&big, "a"), None, None, Some(large)).await;
    let finished = finished.unwrap().unwrap();
    append(&uploads, (&small, "b"), b"xx").await.unwrap();
    let _active = uploads.local.owners.active(&small, "b", 2);
    // Not while it is being stored.
    assert!(!uploads.local.make_room(&small, false).await);
    assert!(finished.given_up().now_or_never().is_none());
    finished.waits();
    finished.waits();
    let over = append(&uploads, (&next, "a"), b"xx").await;
    assert_eq!(over, Err(OVER_QUOTA));
    assert!(uploads.local.make_room(&small, false).await);
    let told = finished.given_up().await;
    assert_eq!(told.kind, ErrorKind::Full);
    // What was stored counts no more.
    drop(finished);
    let next = begin(&uploads, "a").await;
    append(&uploads, (&next, "a"), b"xx").await.unwrap();
}

#[tokio::test]
async fn what_a_full_disk_gives_up_of_an_upload_in_a_bucket_still_counts() {
    let dir = tempfile::tempdir().unwrap();
    let quota = quota(9, 10);
    let uploads = daemon(dir.path(), "one", quota).await;
    let (big, next, other) = (
        begin(&uploads, "a").await,
        begin(&uploads, "a").await,
        begin(&uploads, "b").await,
    );
    append(&uploads, (&big, "a"), b"7 bytes").await.unwrap();
    append(&uploads, (&other, "b"), b"x").await.unwrap();
    assert!(uploads.local.make_room(&other, false).await);
    assert_eq!(uploads.local.length(&big).await.unwrap(), None);
    let over = append(&uploads, (&next, "a"), b"four").await;
    assert_eq!(over, Err(OVER_QUOTA));
    let goes_on = append(&uploads, (&big, "a"), b"xx").await;
    assert_eq!(goes_on, Ok(Appended::Size(9)));
}

/// Runs what looks after uploads that rest, as if nothing had come to `id` for a while.
async fn rest(uploads: &Uploads, file: &Path) {
    let file = File::options().append(true).open(file).unwrap();
    let long_ago = SystemTime::now() - Duration::from_mins(11);
    file.set_modified(long_ago).unwrap();
    let age = Duration::from_hours(1);
    uploads.expire(age, Time::now()).await.unwrap();
}

#[tokio::test]
async fn what_another_daemon_received_of_an_upload_is_not_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let quota = Quota::DEFAULT;
    let (x, y) = (
        daemon(dir.path(), "x", quota).await,
        daemon(dir.path(), "y", quota).await,
    );
    let id = begin(&x, "a").await;
    append(&x, (&id, "a"), b"first").await.unwrap();
    // Its last request breaks off, and the client goes on elsewhere.
    let broken = stream::iter([
        Ok(Bytes::from_static(b" a")),
        Err(Error::new(ErrorKind::Io, "read", "it hung up")),
    ]);
    let ended = x.finish((&id, "a"), Some(5), None, Some(broken.boxed()));
    ended.await.unwrap_err();
    x.local.set_ahead(&id, |_| true).await.unwrap();
    append(&y, (&id, "a"), b" and second").await.unwrap();
    append(&y, (&id, "a"), b" and third").await.unwrap();
    x.send_late().await.unwrap();
    rest(&x, &dir.path().join(format!("x/uploads/up-{id}"))).await;
    assert_eq!(y.size(&id).await.unwrap(), Some(26));
    let ended = y.finish((&id, "a"), Some(26), None, None).await;
    let digest = ended.unwrap().unwrap().spool.digest();
    assert_eq!(digest, Digest::sha256_of(b"first and second and third"));
}

#[tokio::test]
async fn what_the_store_has_of_an_upload_is_not_passed_over_by_whoever_says_it_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let id = begin(&uploads, "a").await;
    append(&uploads, (&id, "a"), b"first").await.unwrap();
    assert!(uploads.local.drop_file(&id).await.unwrap());
    let last = Some(body(b"x"));
    let ended = uploads.finish((&id, "a"), Some(0), None, last).await;
    assert_eq!(ended.unwrap().unwrap_err(), Appended::OutOfOrder(5));
    assert!(uploads.local.owners.contains(&id));
}

#[tokio::test]
async fn a_full_disk_first_takes_copies_of_what_the_store_has() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let (copy, ahead, sent) = (
        begin(&uploads, "a").await,
        begin(&uploads, "b").await,
        begin(&uploads, "b").await,
    );
    for (id, owner) in [(&copy, "a"), (&ahead, "b"), (&sent, "b")] {
        append(&uploads, (id, owner), b"some bytes").await.unwrap();
    }
    uploads.local.set_ahead(&ahead, |_| true).await.unwrap();
    let _active = uploads.local.owners.active(&sent, "b", 0);
    assert!(!uploads.local.drop_copy(&ahead).await.unwrap());
    // The caller has most, and what goes is another one's: that loses nothing.
    assert!(uploads.local.make_room(&sent, false).await);
    let length = async |id| uploads.local.length(id).await.unwrap();
    assert_eq!(length(&copy).await, None);
    assert_eq!(length(&ahead).await, Some(10));
    assert_eq!(uploads.size(&copy).await.unwrap(), Some(10));
    assert!(!uploads.local.make_room(&sent, false).await);
    assert_eq!(length(&ahead).await, None);
}

/// A bucket that has no room for some uploads, loses what it took, or in which another daemon ends an upload after each write.
struct Faulty {
    records: Arc<dyn Records>,
    full_for: Mutex<Vec<UploadId>>,
    loses: AtomicBool,
    ends: AtomicBool,
}

impl Faulty {
    async fn over(dir: &Path) -> Arc<Self> {
        Arc::new(Self {
            records: bucket(dir).await,
            full_for: Mutex::default(),
            loses: AtomicBool::new(false),
            ends: AtomicBool::new(false),
        })
    }
}

#[async_trait]
impl Records for Faulty {
    async fn read_record(&self, key: &str, most: u64) -> Result<Option<Bytes>> {
        self.records.read_record(key, most).await
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        let full_for = self.full_for.lock().clone();
        if full_for.iter().any(|id| key.contains(&id.to_string())) {
            return Err(Error::full("put", "the bucket is full"));
        }
        if self.loses.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.records.write_record(key, bytes).await?;
        if self.ends.load(Ordering::Relaxed) {
            for listed in self.records.list_records(keys::UPLOADS).await? {
                self.records.remove_record(&listed.key).await?;
            }
        }
        Ok(())
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        self.records.remove_record(key).await
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        self.records.list_records(prefix).await
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        self.records.repositories().await
    }
}

/// A daemon over a faulty bucket, with a folder that outlives outages.
async fn faulty_daemon(dir: &Path) -> (Arc<Faulty>, Arc<Uploads>) {
    let bucket = Faulty::over(dir).await;
    let uploads = Uploads::open(&dir.join("uploads"), Some(bucket.clone()), true);
    (bucket, Arc::new(uploads.unwrap()))
}

/// Receives bytes as while the bucket is away.
async fn append_late(uploads: &Uploads, id: &UploadId, bytes: &'static [u8]) {
    uploads.local.set_ahead(id, |_| true).await.unwrap();
    let late = uploads.local.append(id, None, body(bytes)).await;
    assert!(matches!(late.unwrap(), Appended::Size(_)));
}

/// An upload of which the bucket has the first of two chunks.
async fn with_late_chunk(uploads: &Arc<Uploads>) -> UploadId {
    let id = begin(uploads, "a").await;
    append(uploads, (&id, "a"), b"bytes").await.unwrap();
    append_late(uploads, &id, b" late").await;
    id
}

#[tokio::test]
async fn chunks_that_a_full_bucket_refuses_stay_here_and_hold_up_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (bucket, uploads) = faulty_daemon(dir.path()).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(with_late_chunk(&uploads).await);
    }
    let [refused, ended, taken] = &ids[..] else {
        unreachable!()
    };
    *bucket.full_for.lock() = vec![refused.clone(), ended.clone()];
    assert_eq!(uploads.send_late().await.unwrap_err().kind, ErrorKind::Full);
    let other = daemon(dir.path(), "other", Quota::DEFAULT).await;
    let sizes = async |uploads: &Arc<Uploads>| {
        let mut sizes = Vec::new();
        for id in [refused, ended, taken] {
            sizes.push(uploads.size(id).await.unwrap());
        }
        sizes
    };
    assert_eq!(sizes(&other).await, [Some(5), Some(5), Some(10)]);
    let more = append(&uploads, (refused, "a"), b" more").await;
    assert_eq!(more, Err("put"));
    let last = uploads.finish((ended, "a"), None, None, None).await;
    assert_eq!(last.unwrap_err().kind, ErrorKind::Full);
    // Also where nobody goes on with one for long.
    rest(&uploads, &dir.path().join(format!("uploads/up-{refused}"))).await;
    assert_eq!(sizes(&uploads).await, [Some(10); 3]);
    bucket.full_for.lock().clear();
    assert_eq!(uploads.send_late().await.unwrap(), 2);
    assert_eq!(sizes(&other).await, [Some(10); 3]);
    let last = uploads.finish((ended, "a"), None, None, None).await;
    let digest = last.unwrap().unwrap().spool.digest();
    assert_eq!(digest, Digest::sha256_of(b"bytes late"));
}

#[tokio::test]
async fn what_the_store_lacks_of_an_upload_at_rest_stays() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let (ahead, copy) = (begin(&uploads, "a").await, begin(&uploads, "a").await);
    for id in [&ahead, &copy] {
        append(&uploads, (id, "a"), b"bytes").await.unwrap();
        // Another daemon has ended it, as far as the store shows.
        uploads.pieces.as_ref().unwrap().clear(id).await.unwrap();
    }
    uploads.local.set_ahead(&ahead, |_| true).await.unwrap();
    let length = async |id| uploads.local.length(id).await.unwrap();
    for (id, left) in [(&ahead, Some(5)), (&copy, None)] {
        rest(&uploads, &dir.path().join(format!("one/uploads/up-{id}"))).await;
        assert_eq!(length(id).await, left);
    }
}

#[tokio::test]
async fn a_chunk_that_a_bucket_takes_and_does_not_list_is_not_sent_for_ever() {
    let dir = tempfile::tempdir().unwrap();
    let (bucket, uploads) = faulty_daemon(dir.path()).await;
    let id = with_late_chunk(&uploads).await;
    // Of another one the bucket has nothing yet.
    let new = begin(&uploads, "a").await;
    uploads.local.begin_as(&new).await.unwrap();
    append_late(&uploads, &new, b"all").await;
    bucket.loses.store(true, Ordering::Relaxed);
    for _ in 0..2 {
        let sent = uploads.send_late().await;
        assert_eq!(sent.unwrap_err().kind, ErrorKind::Unavailable);
        assert_eq!(uploads.size(&id).await.unwrap(), Some(10));
    }
    bucket.loses.store(false, Ordering::Relaxed);
    assert_eq!(uploads.send_late().await.unwrap(), 2);
    let other = daemon(dir.path(), "other", Quota::DEFAULT).await;
    assert_eq!(other.size(&id).await.unwrap(), Some(10));
    assert_eq!(other.size(&new).await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_piece_that_a_bucket_loses_is_sent_again_from_the_copy_here() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let id = begin(&uploads, "a").await;
    for bytes in [b"one", b"two"] {
        append(&uploads, (&id, "a"), bytes).await.unwrap();
    }
    uploads.local.set_ahead(&id, |_| true).await.unwrap();
    let records = &uploads.pieces.as_ref().unwrap().records;
    let last = records.list_records(keys::UPLOADS).await.unwrap().pop();
    records.remove_record(&last.unwrap().key).await.unwrap();
    let other = daemon(dir.path(), "other", Quota::DEFAULT).await;
    assert_eq!(other.size(&id).await.unwrap(), Some(3));
    assert_eq!(uploads.send_late().await.unwrap(), 1);
    assert_eq!(other.size(&id).await.unwrap(), Some(6));
}

#[tokio::test]
async fn an_upload_that_another_daemon_ends_while_late_chunks_are_sent_does_not_begin_again() {
    let dir = tempfile::tempdir().unwrap();
    let (bucket, uploads) = faulty_daemon(dir.path()).await;
    let id = with_late_chunk(&uploads).await;
    bucket.ends.store(true, Ordering::Relaxed);
    let ended = uploads.send_late().await;
    assert_eq!(ended.unwrap_err().kind, ErrorKind::Conflict);
    bucket.ends.store(false, Ordering::Relaxed);
    uploads.send_late().await.unwrap();
    let left = bucket.list_records(keys::UPLOADS).await.unwrap();
    assert_eq!(left, []);
    assert_eq!(uploads.local.length(&id).await.unwrap(), None);
}

#[tokio::test]
async fn uploads_expire_also_where_a_full_bucket_takes_no_marker() {
    let dir = tempfile::tempdir().unwrap();
    let (bucket, uploads) = faulty_daemon(dir.path()).await;
    let (over, old) = (begin(&uploads, "a").await, begin(&uploads, "b").await);
    for (id, owner) in [(&over, "a"), (&old, "b")] {
        append(&uploads, (id, owner), b"bytes").await.unwrap();
    }
    uploads.pieces.as_ref().unwrap().note_over(&over);
    *bucket.full_for.lock() = vec![over.clone(), old.clone()];
    let listed = async || bucket.list_records(keys::UPLOADS).await.unwrap().len();
    let hour = Duration::from_hours(1);
    let expired = uploads.expire(hour, Time::now()).await;
    assert_eq!(expired.unwrap_err().kind, ErrorKind::Full);
    // The pieces of the one that is over are gone, and a later run goes on with the others.
    assert_eq!(listed().await, 1);
    let mut later = Time::now();
    later.secs += 7200;
    assert!(uploads.local.drop_file(&old).await.unwrap());
    uploads.expire(hour, later).await.unwrap_err();
    assert_eq!(listed().await, 0);
}

#[tokio::test]
async fn while_the_store_is_away_copies_of_others_do_not_make_room_for_whoever_fills_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let (copy, big) = (begin(&uploads, "a").await, begin(&uploads, "b").await);
    append(&uploads, (&copy, "a"), b"bytes").await.unwrap();
    append(&uploads, (&big, "b"), b"many more bytes")
        .await
        .unwrap();
    let _active = uploads.local.owners.active(&big, "b", 15);
    uploads.local.store_is_away.store(true, Ordering::Relaxed);
    assert!(!uploads.local.make_room(&big, false).await);
    let length = async |id| uploads.local.length(id).await.unwrap();
    assert_eq!(length(&copy).await, Some(5));
    // They do for others, once whoever fills it had time to end.
    let small = begin(&uploads, "c").await;
    assert!(uploads.local.make_room(&small, false).await);
    assert_eq!(length(&copy).await, Some(5));
    assert!(uploads.local.make_room(&small, true).await);
    assert_eq!(length(&copy).await, None);
}

#[tokio::test]
async fn of_whoever_fills_the_disk_copies_go_before_what_the_store_lacks() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let (copy, ahead, next) = (
        begin(&uploads, "a").await,
        begin(&uploads, "a").await,
        begin(&uploads, "a").await,
    );
    for id in [&copy, &ahead] {
        append(&uploads, (id, "a"), b"bytes").await.unwrap();
    }
    uploads.local.set_ahead(&ahead, |_| true).await.unwrap();
    uploads.local.store_is_away.store(true, Ordering::Relaxed);
    let length = async |id| uploads.local.length(id).await.unwrap();
    assert!(uploads.local.make_room(&next, false).await);
    assert_eq!((length(&copy).await, length(&ahead).await), (None, Some(5)));
    assert!(!uploads.local.make_room(&next, false).await);
    assert_eq!(length(&ahead).await, None);
}

#[tokio::test]
async fn an_upload_that_grew_only_here_during_a_long_outage_does_not_expire() {
    let dir = tempfile::tempdir().unwrap();
    let uploads = daemon(dir.path(), "one", Quota::DEFAULT).await;
    let (grown, left) = (begin(&uploads, "a").await, begin(&uploads, "a").await);
    for id in [&grown, &left] {
        append(&uploads, (id, "a"), b"bytes").await.unwrap();
    }
    assert!(uploads.local.drop_file(&left).await.unwrap());
    // By the store's clock nothing came for long.
    let mut now = Time::now();
    now.secs += 7200;
    let expired = uploads.expire(Duration::from_hours(1), now).await;
    assert_eq!(expired.unwrap(), 1);
    assert_eq!(uploads.size(&grown).await.unwrap(), Some(5));
    assert_eq!(uploads.size(&left).await.unwrap(), Some(0));
}
