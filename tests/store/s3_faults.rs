//! What the S3 store makes of answers that no server should give.
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use axum::http::StatusCode;
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use cachectl::artifact::{Descriptor, Manifest, Reference, Tag};
use cachectl::digest::Digest;
use cachectl::entry::Time;
use cachectl::store::{
    BlobStore as _, Body, ByteStream, Error, ErrorKind, Expect, Known, Published, PushCheck as _,
    Put, Records as _, RepoStore, Result, Sweep as _, TagStore as _, Untag as _, Version, net, s3,
    wrap::{Retrying, retrying::Policy},
};
use futures_util::TryStreamExt as _;
use tokio::time::Duration;

use super::fake_s3::{self as fake, FakeS3, Seen};

mod answers;
mod names;

const STALL: Duration = Duration::from_secs(20);
const SHORT_STALL: Duration = Duration::from_millis(300);
/// The smallest parts that S3 has, so that few bytes make many.
const PARTS: &str = "&part_bytes=5MiB&part_concurrency=2";

fn bytes(len: usize) -> Bytes {
    (0..len).map(|i| (i / 7) as u8).collect()
}

fn blob(len: usize) -> (Descriptor, Body, String) {
    let bytes = bytes(len);
    let desc = Descriptor::of("application/octet-stream", &bytes);
    let key = format!("p/blobs/sha256/{}", desc.digest.hex());
    (desc, bytes.into(), key)
}

async fn collect(stream: ByteStream) -> Result<Bytes> {
    let all: Vec<Bytes> = stream.try_collect().await?;
    Ok(all.concat().into())
}

/// Reads it whole, wherever the error shows.
async fn read(store: &s3::S3, desc: &Descriptor, range: std::ops::Range<u64>) -> Result<Bytes> {
    collect(store.get(desc, range).await?.expect("it is there")).await
}

async fn open_signing(url: &str, keys: s3::Keys) -> s3::S3 {
    let common = net::Common {
        proxy_from_env: false,
        ..net::Common::default()
    };
    let location = s3::Location::parse(url).unwrap();
    s3::S3::open_as(&location, &s3::Config::default(), &common, Some(keys))
        .await
        .unwrap()
}

fn slow_down(_: &Seen) -> Response {
    fake::build(
        503,
        &[("retry-after", "1")],
        "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>",
    )
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn manifest(n: u32) -> Manifest {
    Manifest::sniff(format!(
        "{{\"mediaType\":\"application/vnd.oci.image.index.v1+json\",\"manifests\":[],\"n\":{n}}}"
    ))
}

#[tokio::test]
async fn throttled_request_says_how_long_to_wait() {
    let server =
        FakeS3::start(|r, n, _| (r.op() == "PutObject" && n == 0).then(|| slow_down(r))).await;
    let store = server.open(STALL, "").await;
    let (desc, body, key) = blob(10);
    let e = store.put(&desc, &body).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Throttled, "{e}");
    assert_eq!(e.retry_after, Some(Duration::from_secs(1)));
    assert!(e.to_string().contains("s3://bucket/p"), "{e}");
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(server.object(&key), Some(bytes(10)));
}

#[tokio::test]
async fn lost_part_is_sent_again_alone() {
    let server = FakeS3::start(|r, n, _| {
        (r.op() == "UploadPart" && n < 2)
            .then(|| fake::error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"))
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    let (desc, body, key) = blob(12 << 20);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert!(server.object(&key) == Some(bytes(12 << 20)), "other bytes");
    assert_eq!(server.count("UploadPart"), 3 + 2);
    assert_eq!(server.count("CreateMultipartUpload"), 1);
}

#[tokio::test]
async fn part_that_never_goes_through_ends_the_upload_and_takes_it_back() {
    let server = FakeS3::start(|r, _, _| {
        let refused = r.op() == "UploadPart" && r.query.contains("partNumber=2");
        refused.then(|| fake::error(StatusCode::FORBIDDEN, "AccessDenied"))
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    let (desc, body, key) = blob(12 << 20);
    let e = store.put(&desc, &body).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied, "{e}");
    assert!(e.message.contains("part 2"), "{e}");
    assert_eq!(server.object(&key), None);
    assert!(server.bucket.uploads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn dropped_upload_is_taken_back() {
    let server = FakeS3::start(|r, _, _| {
        let held = r.op() == "UploadPart" && r.query.contains("partNumber=3");
        held.then(|| fake::cut(&[], 1, Bytes::new(), true))
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    let (desc, body, _) = blob(12 << 20);
    let mut put = Box::pin(store.put(&desc, &body));
    while server.count("UploadPart") < 3 {
        let step = tokio::time::timeout(Duration::from_millis(10), &mut put).await;
        assert!(step.is_err(), "it was to hang");
    }
    drop(put);
    // For ever, if the upload is left behind.
    while !server.bucket.uploads.lock().unwrap().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(server.count("CompleteMultipartUpload"), 0);
}

#[tokio::test]
async fn completion_that_fails_inside_a_200_is_tried_again() {
    let server = FakeS3::start(|r, n, _| {
        let doc = "<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>";
        (r.op() == "CompleteMultipartUpload" && n == 0).then(|| fake::xml(doc))
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    let (desc, body, key) = blob(6 << 20);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(server.count("CompleteMultipartUpload"), 2);
    assert!(server.object(&key) == Some(bytes(6 << 20)), "other bytes");
}

#[tokio::test]
async fn completion_whose_answer_is_lost_is_found_done() {
    let server = FakeS3::start(|r, _, bucket| {
        (r.op() == "CompleteMultipartUpload").then(|| {
            fake::truth(bucket, r);
            fake::build(504, &[], "gateway timeout")
        })
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    let (desc, body, _) = blob(6 << 20);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(server.count("CompleteMultipartUpload"), 1);
    assert_eq!(server.count("UploadPart"), 2);
}

#[tokio::test]
async fn completion_that_a_rival_won_is_success_and_takes_the_parts_back() {
    let server = FakeS3::start(|r, _, bucket| {
        if r.op() == "CompleteMultipartUpload" {
            bucket
                .objects
                .lock()
                .unwrap()
                .insert(r.key.clone(), bytes(6 << 20));
        }
        None
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    let (desc, body, _) = blob(6 << 20);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
    assert!(server.bucket.uploads.lock().unwrap().is_empty());
}

#[tokio::test]
async fn put_that_a_rival_won_is_success_and_one_that_a_damaged_blob_won_is_not() {
    let server = FakeS3::start(|r, n, bucket| {
        if r.op() == "PutObject" && n == 0 {
            bucket
                .objects
                .lock()
                .unwrap()
                .insert(r.key.clone(), r.body.clone());
        } else if r.op() == "PutObject" && n == 1 {
            bucket
                .objects
                .lock()
                .unwrap()
                .insert(r.key.clone(), Bytes::from_static(b"x"));
        }
        let mut answer = fake::truth(bucket, r);
        let date = "Thu, 01 Jan 2026 00:00:01 GMT".parse().unwrap();
        answer.headers_mut().insert("date", date);
        Some(answer)
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, _) = blob(100);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
    let (desc, body, key) = blob(200);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(server.object(&key), Some(bytes(200)));
}

#[tokio::test]
async fn small_new_blob_is_one_request() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let (desc, body, key) = blob(1 << 20);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(server.ops(), ["PutObject"]);
    assert_eq!(server.object(&key), Some(bytes(1 << 20)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_blob_is_asked_about_while_it_is_sent() {
    let both = std::sync::Barrier::new(2);
    let server = FakeS3::start(move |r, n, _| {
        if matches!(r.op(), "HeadObject" | "PutObject") && n == 0 {
            both.wait();
        }
        None
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, key) = blob(2 << 20);
    store.put(&desc, &body).await.unwrap();
    assert!(server.object(&key) == Some(bytes(2 << 20)), "other bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn large_blob_that_exists_is_not_waited_for() {
    let (returned, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = FakeS3::start(move |r, _, bucket| {
        if r.op() == "PutObject" {
            let _ = wait.lock().unwrap().recv();
        }
        let mut answer = fake::truth(bucket, r);
        let date = "Thu, 01 Jan 2026 11:59:00 GMT".parse().unwrap();
        answer.headers_mut().insert("date", date);
        Some(answer)
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, key) = blob(2 << 20);
    server.set(&key, bytes(2 << 20));
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Existed);
    drop(returned);
}

#[tokio::test]
async fn damaged_blob_of_another_size_is_written_over() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, PARTS).await;
    for len in [100, 6 << 20] {
        let (desc, body, key) = blob(len);
        server.set(&key, "short");
        let e = read(&store, &desc, 0..len as u64).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
        assert!(server.object(&key) == Some(bytes(len)), "other bytes");
    }
}

/// What a sweep may have marked long ago must not be built on (all objects of the fake are of the first of January).
#[tokio::test]
async fn found_blob_is_taken_while_it_is_young_and_else_written_again() {
    for (now, put, writes) in [
        ("Thu, 01 Jan 2026 11:59:00 GMT", Put::Existed, 1),
        ("Thu, 01 Jan 2026 12:01:00 GMT", Put::Stored, 2),
    ] {
        let server = FakeS3::start(move |seen, _, bucket| {
            let mut answer = fake::truth(bucket, seen);
            let date = now.parse().unwrap();
            answer.headers_mut().insert("date", date);
            Some(answer)
        })
        .await;
        let store = server.open(STALL, "").await;
        let (desc, body, key) = blob(100);
        server.set(&key, bytes(100));
        assert_eq!(store.put(&desc, &body).await.unwrap(), put, "{now}");
        assert_eq!(server.count("PutObject"), writes, "{now}");
    }
}

#[tokio::test]
async fn wrong_bytes_are_refused_before_anything_is_sent() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let (mut desc, body, _) = blob(100_000);
    desc.digest = Digest::sha256_of(b"other");
    let e = store.put(&desc, &body).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert!(server.ops().is_empty(), "{:?}", server.ops());
}

#[tokio::test]
async fn store_without_conditions_is_written_to_without_and_asked_once() {
    let server = FakeS3::start(|r, _, _| {
        let conditional = r.header("if-none-match").or(r.header("if-match")).is_some();
        conditional.then(|| fake::error(StatusCode::NOT_IMPLEMENTED, "NotImplemented"))
    })
    .await;
    let store = server.open(STALL, PARTS).await;
    for len in [10, 6 << 20] {
        let (desc, body, _) = blob(len);
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    }
    assert_eq!(server.count("PutObject"), 2);
    assert_eq!(server.count("CompleteMultipartUpload"), 1);
    let expect = Expect::Version(Version("\"x\"".into()));
    let done = store.publish(&manifest(1), Some(&tag("t")), &expect).await;
    assert_eq!(done.unwrap(), Published::Done);
}

#[tokio::test]
async fn settings_go_along_with_what_is_written() {
    let server = FakeS3::honest().await;
    let more =
        format!("{PARTS}&sse=aws:kms&sse_kms_key_id=k1&storage_class=STANDARD_IA&acl=private");
    let store = server.open(STALL, &more).await;
    for len in [10, 6 << 20] {
        let (desc, body, _) = blob(len);
        store.put(&desc, &body).await.unwrap();
    }
    store
        .publish(&manifest(1), Some(&tag("t")), &Expect::Absent)
        .await
        .unwrap();
    let seen = server.bucket.seen.lock().unwrap().clone();
    let written: Vec<&Seen> = seen
        .iter()
        .filter(|r| matches!(r.op(), "PutObject" | "CreateMultipartUpload"))
        .collect();
    // Two blobs, and a manifest's bytes, record and tag.
    assert_eq!(written.len(), 5);
    for r in written {
        assert_eq!(
            r.header("x-amz-server-side-encryption"),
            Some("aws:kms"),
            "{}",
            r.key
        );
        assert_eq!(
            r.header("x-amz-server-side-encryption-aws-kms-key-id"),
            Some("k1")
        );
        assert_eq!(r.header("x-amz-acl"), Some("private"));
        let class = r.key.contains("/blobs/").then_some("STANDARD_IA");
        assert_eq!(r.header("x-amz-storage-class"), class, "{}", r.key);
    }
    // Not AWS: no checksum that such stores choke on, nothing chunked.
    for r in seen.iter().filter(|r| r.op() != "DeleteObjects") {
        let odd = r
            .headers
            .keys()
            .find(|h| h.as_str().starts_with("x-amz-checksum") || *h == "x-amz-trailer");
        assert_eq!(odd, None, "{}", r.op());
        assert_eq!(r.header("transfer-encoding"), None, "{}", r.op());
        assert_eq!(
            r.header("authorization"),
            None,
            "anonymous requests are not signed"
        );
    }
}

#[tokio::test]
async fn checksum_is_sent_where_it_is_asked_for() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "&checksum=always").await;
    let (desc, body, _) = blob(10);
    store.put(&desc, &body).await.unwrap();
    let seen = server.bucket.seen.lock().unwrap().clone();
    let put = seen.iter().find(|r| r.op() == "PutObject").unwrap();
    let Digest::Sha256(raw) = desc.digest else {
        panic!("it is sha256")
    };
    let want = base64::prelude::BASE64_STANDARD.encode(raw.0);
    assert_eq!(put.header("x-amz-checksum-sha256"), Some(want.as_str()));
}

#[tokio::test]
async fn clock_is_the_servers_and_costs_no_request_after_an_answer() {
    let server = FakeS3::start(|r, _, bucket| {
        let mut answer = fake::truth(bucket, r);
        let date = "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap();
        answer.headers_mut().insert("date", date);
        Some(answer)
    })
    .await;
    let store = server.open(STALL, "").await;
    let told = 1_445_412_480;
    let now = store.clock().await.unwrap();
    assert!((told..told + 60).contains(&now.secs), "{now:?}");
    assert_eq!(server.ops(), ["HeadBucket"]);
    store.clock().await.unwrap();
    assert_eq!(server.ops(), ["HeadBucket"]);
}

#[tokio::test]
async fn tags_of_many_pages_are_all_there_sorted() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    for i in [5, 3, 1, 4, 2] {
        store
            .publish(
                &manifest(1),
                Some(&tag(&format!("a.{i}"))),
                &Expect::Anything,
            )
            .await
            .unwrap();
    }
    server.set("p/r/cachectl/tags/a.foreign/name", "x");
    server.set("p/r/other/tags/a.9", "x");
    let want: Vec<Tag> = (1..6).map(|i| tag(&format!("a.{i}"))).collect();
    assert_eq!(store.tags("a.").await.unwrap(), want);
    assert!(store.untag(&want[0]).await.unwrap());
    assert!(!store.untag(&want[0]).await.unwrap());
    assert_eq!(store.tags("").await.unwrap(), want[1..]);
    assert!(
        store
            .resolve(&Reference::Tag(want[0].clone()))
            .await
            .unwrap()
            .is_none()
    );
}

#[tokio::test]
async fn a_refusal_names_the_key_that_was_used_and_writing_is_asked_in_one_request() {
    let server = FakeS3::start(|r, n, bucket| {
        Some(match (r.op(), n) {
            ("PutObject", 0) => fake::error(StatusCode::FORBIDDEN, "AccessDenied"),
            ("PutObject", 1) => fake::error(StatusCode::INTERNAL_SERVER_ERROR, "InternalError"),
            _ => fake::truth(bucket, r),
        })
    })
    .await;
    let keys = s3::Keys {
        id: "AKIAIOSFODNN7EXAMPLE".into(),
        secret: cachectl::redact::Secret::new("secret"),
        session: None,
    };
    let location = server.url("").replace("&anonymous=true", "");
    let store = open_signing(&location, keys).await;
    let e = store.check_push().await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied, "{e}");
    assert!(e.message.contains("sent with access key `…MPLE`"), "{e}");
    assert!(!e.message.contains("NN7EX"), "{e}");
    // What is no refusal says nothing of rights.
    store.check_push().await.unwrap();
    store.check_push().await.unwrap();
    store.check_push().await.unwrap();
    assert_eq!(server.bucket.seen.lock().unwrap().len(), 4);
    let anonymous =
        FakeS3::start(|_, _, _| Some(fake::error(StatusCode::FORBIDDEN, "AccessDenied"))).await;
    let e = anonymous.open(STALL, "").await.tags("").await.unwrap_err();
    assert!(e.message.contains("sent without credentials"), "{e}");
}
