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
    BlobStore as _, Body, ByteStream, Error, ErrorKind, Expect, Published, PushCheck as _, Put,
    Records as _, RepoStore, Result, Sweep as _, TagStore as _, Untag as _, Version, net, s3,
    wrap::{Retrying, retrying::Policy},
};
use futures_util::TryStreamExt as _;
use tokio::time::Duration;

use super::fake_s3::{self as fake, FakeS3, Seen};

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
        FakeS3::start(|r, n, _| (r.op() == "HeadObject" && n == 0).then(|| slow_down(r))).await;
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
        None
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
        ("Thu, 01 Jan 2026 11:59:00 GMT", Put::Existed, 0),
        ("Thu, 01 Jan 2026 12:01:00 GMT", Put::Stored, 1),
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
async fn cut_body_is_unavailable_after_the_bytes_that_came() {
    let server = FakeS3::start(|r, n, bucket| {
        // The first asks whether there is a bucket.
        if r.op() != "GetObject" || n != 1 {
            return None;
        }
        let object = bucket.objects.lock().unwrap().get(&r.key).cloned()?;
        Some(fake::cut(&[], object.len(), object.slice(..40_000), false))
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, _) = blob(100_000);
    store.put(&desc, &body).await.unwrap();

    let mut stream = store.get(&desc, 0..100_000).await.unwrap().unwrap();
    let mut came = Vec::new();
    let e: Error = loop {
        match stream.try_next().await {
            Ok(Some(piece)) => came.extend_from_slice(&piece),
            Ok(None) => panic!("a cut body ended like a whole one"),
            Err(e) => break e,
        }
    };
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
    assert_eq!(e.key, desc.digest.to_string());
    assert_eq!(came, bytes(100_000)[..40_000]);
    let rest = read(&store, &desc, 40_000..100_000).await.unwrap();
    assert_eq!(rest, bytes(100_000)[40_000..]);
}

#[tokio::test]
async fn body_without_a_length_must_still_be_exact() {
    for (sent, kind) in [(60, ErrorKind::Unavailable), (140, ErrorKind::Corrupt)] {
        let server = FakeS3::start(move |r, _, _| {
            let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>(bytes(sent))]);
            let body = axum::body::Body::from_stream(pieces);
            (r.op() == "GetObject").then(|| fake::build(200, &[("etag", "\"x\"")], body))
        })
        .await;
        let store = server.open(STALL, "").await;
        let (desc, _, _) = blob(100);
        let e = read(&store, &desc, 0..100).await.unwrap_err();
        assert_eq!(e.kind, kind, "{e}");
    }
}

#[tokio::test]
async fn cut_body_is_resumed_where_it_broke_under_retrying() {
    let server = FakeS3::start(|r, n, bucket| {
        let object = bucket.objects.lock().unwrap().get(&r.key).cloned()?;
        match (r.op(), n) {
            // The first asks whether there is a bucket.
            ("GetObject", 1) => Some(fake::cut(&[], object.len(), object.slice(..40_000), false)),
            ("GetObject", 2) => Some(slow_down(r)),
            ("GetObject", 3) => {
                let range = [("content-range", "bytes 40000-99999/100000")];
                Some(fake::cut(
                    &range,
                    60_000,
                    object.slice(40_000..50_000),
                    true,
                ))
            }
            _ => None,
        }
    })
    .await;
    let store = server.open(SHORT_STALL, "").await;
    let store: Retrying<dyn RepoStore> = Retrying::new(Arc::new(store), Policy::default());
    let (desc, body, _) = blob(100_000);
    store.put(&desc, &body).await.unwrap();
    let all = collect(store.get(&desc, 0..100_000).await.unwrap().unwrap()).await;
    assert!(all.unwrap() == bytes(100_000), "other bytes");
    let seen = server.bucket.seen.lock().unwrap();
    let ranges: Vec<_> = seen
        .iter()
        .filter(|r| r.op() == "GetObject")
        .map(|r| r.header("range"))
        .collect();
    let rest = Some("bytes=40000-99999");
    assert_eq!(ranges, [None, None, rest, rest, Some("bytes=50000-99999")]);
}

#[tokio::test]
async fn wrong_clock_is_named_and_right_at_the_next_try() {
    let server = FakeS3::start(|r, n, bucket| {
        let mut answer = match (r.op(), n) {
            ("ListObjectsV2", 0) => fake::error(StatusCode::FORBIDDEN, "RequestTimeTooSkewed"),
            _ => fake::truth(bucket, r),
        };
        let date = "Wed, 21 Oct 2015 07:28:00 GMT".parse().unwrap();
        answer.headers_mut().insert("date", date);
        Some(answer)
    })
    .await;
    let location = server.url("").replace("&anonymous=true", "");
    let keys = s3::Keys {
        id: "id".into(),
        secret: cachectl::redact::Secret::new("secret"),
        session: None,
    };
    let store = open_signing(&location, keys).await;
    let e = store.tags("").await.unwrap_err();
    assert!(e.is_temporary(), "{e}");
    assert!(e.message.contains("clock is"), "{e}");
    store.tags("").await.unwrap();
    let seen = server.bucket.seen.lock().unwrap();
    let signed: Vec<_> = seen
        .iter()
        .map(|r| r.header("x-amz-date").unwrap())
        .collect();
    assert!(!signed[0].starts_with("20151021"), "{signed:?}");
    assert!(signed[1].starts_with("20151021"), "{signed:?}");
    let shown = format!("{seen:?}");
    assert!(!shown.contains("secret\""), "the secret itself was sent");
}

/// What a maintenance page, a captive portal or a wrong route answers to everything.
fn in_its_place(sort: usize) -> axum::response::Response {
    match sort {
        0 => fake::html(),
        1 => fake::build(200, &[], bytes(0)),
        2 => fake::build(
            200,
            &[("content-type", "application/json"), ("etag", "W/\"f-x\"")],
            "{\"status\":\"down\"}",
        ),
        // A file server's page, with a tag of its own.
        _ => fake::build(
            200,
            &[("content-type", "text/html"), ("etag", "\"5f-60\"")],
            "<html></html>",
        ),
    }
}

#[tokio::test]
async fn an_answer_that_is_not_the_stores_is_neither_a_success_nor_damage() {
    for sort in 0..4 {
        let on = Arc::new(AtomicBool::new(false));
        let switch = on.clone();
        let server = FakeS3::start(move |_, _, _| {
            switch.load(Ordering::Relaxed).then(|| in_its_place(sort))
        })
        .await;
        let store = server.open(STALL, PARTS).await;
        let (desc, body, _) = blob(100_000);
        store.put(&desc, &body).await.unwrap();
        let version = store
            .publish(&manifest(1), Some(&tag("t")), &Expect::Anything)
            .await;
        version.unwrap();
        on.store(true, Ordering::Relaxed);

        let foreign = |what: &str, e: Error| {
            assert!(e.is_temporary(), "{sort} {what}: {e}");
        };
        // It came with a tag and says that it is an object; its bytes are not what was asked for.
        if sort != 2 {
            foreign("get", read(&store, &desc, 0..100_000).await.unwrap_err());
            foreign("get", read(&store, &desc, 5..10).await.unwrap_err());
            foreign("stat", store.stat(&desc.digest).await.unwrap_err());
            let found = store.resolve(&tag("t").into()).await;
            foreign("resolve", found.unwrap_err());
            let found = store.resolve(&manifest(1).digest.into()).await;
            foreign("resolve", found.unwrap_err());
        }
        foreign("tags", store.tags("").await.unwrap_err());
        foreign("blobs", store.blobs().await.unwrap_err());
        foreign("roots", store.roots().await.unwrap_err());
        foreign("renew", store.renew(&desc.digest).await.unwrap_err());
        foreign("untag", store.untag(&tag("t")).await.unwrap_err());
        let (small, small_body, small_key) = blob(10);
        foreign("put", store.put(&small, &small_body).await.unwrap_err());
        let (big, big_body, key) = blob(6 << 20);
        foreign("put", store.put(&big, &big_body).await.unwrap_err());
        let record = format!("r/cachectl/manifests/sha256-{}", desc.digest.hex());
        let written = store.write_record(&record, bytes(3)).await;
        foreign("write record", written.unwrap_err());
        let removed = store.remove_record(&record).await;
        foreign("remove record", removed.unwrap_err());
        let done = store
            .publish(&manifest(2), Some(&tag("t")), &Expect::Anything)
            .await;
        foreign("publish", done.unwrap_err());

        on.store(false, Ordering::Relaxed);
        assert_eq!(
            (server.object(&key), server.object(&small_key)),
            (None, None)
        );
        let found = store.resolve(&tag("t").into()).await.unwrap();
        assert_eq!(found.unwrap().manifest.digest, manifest(1).digest);
    }
}

/// What an ingress without its back end, a wrong virtual host or a captive portal answers to everything.
fn not_found(sort: usize) -> axum::response::Response {
    match sort {
        0 => fake::build(404, &[("content-type", "text/html")], "<html>404</html>"),
        1 => fake::build(
            404,
            &[("content-type", "text/plain")],
            "default backend - 404",
        ),
        2 => fake::build(
            404,
            &[("content-type", "application/xml")],
            "<a><b>404</b></a>",
        ),
        _ => fake::build(404, &[], ""),
    }
}

#[tokio::test]
async fn a_page_that_answers_404_to_everything_is_no_empty_bucket() {
    for sort in 0..4 {
        let on = Arc::new(AtomicBool::new(false));
        let switch = on.clone();
        let server =
            FakeS3::start(move |_, _, _| switch.load(Ordering::Relaxed).then(|| not_found(sort)))
                .await;
        let store = server.open(STALL, PARTS).await;
        let (desc, body, _) = blob(100_000);
        // It is known, and has said lately what is not there.
        store.put(&desc, &body).await.unwrap();
        assert!(store.resolve(&tag("t").into()).await.unwrap().is_none());
        on.store(true, Ordering::Relaxed);

        let foreign = |what: &str, e: Error| {
            assert!(e.is_temporary(), "{sort} {what}: {e}");
            assert!(e.message.contains("in the store's place"), "{e}");
        };
        foreign("stat", store.stat(&desc.digest).await.unwrap_err());
        foreign("get", read(&store, &desc, 0..100_000).await.unwrap_err());
        foreign("get", read(&store, &desc, 5..10).await.unwrap_err());
        let found = store.resolve(&tag("t").into()).await;
        foreign("resolve", found.unwrap_err());
        let found = store.resolve(&manifest(1).digest.into()).await;
        foreign("resolve", found.unwrap_err());
        foreign("tags", store.tags("").await.unwrap_err());
        foreign("blobs", store.blobs().await.unwrap_err());
        foreign("renew", store.renew(&desc.digest).await.unwrap_err());
        foreign("untag", store.untag(&tag("t")).await.unwrap_err());
        let (small, small_body, _) = blob(10);
        foreign("put", store.put(&small, &small_body).await.unwrap_err());
        let (big, big_body, _) = blob(6 << 20);
        foreign("put", store.put(&big, &big_body).await.unwrap_err());
        let record = format!("r/cachectl/manifests/sha256-{}", desc.digest.hex());
        foreign(
            "read record",
            store.read_record(&record, 100).await.unwrap_err(),
        );
        let written = store.write_record(&record, bytes(3)).await;
        foreign("write record", written.unwrap_err());
        let removed = store.remove_record(&record).await;
        foreign("remove record", removed.unwrap_err());

        on.store(false, Ordering::Relaxed);
        assert!(store.resolve(&tag("t").into()).await.unwrap().is_none());
        assert_eq!(store.stat(&desc.digest).await.unwrap(), Some(100_000));
    }
}

#[tokio::test]
async fn a_store_that_says_in_headers_or_not_at_all_what_is_missing_is_asked_once() {
    for id in [None, Some("x-amz-request-id"), Some("x-guploader-uploadid")] {
        let server = FakeS3::start(move |r, _, _| {
            let headers: Vec<_> = id.into_iter().map(|id| (id, "4")).collect();
            (r.method == "HEAD").then(|| fake::build(404, &headers, ""))
        })
        .await;
        let store = server.open(STALL, "").await;
        for n in 0..5 {
            assert_eq!(store.stat(&blob(n).0.digest).await.unwrap(), None);
        }
        let asked = server.count("GetObject");
        // Unsigned ones are believed for a while only, and this may be a slow machine.
        assert!(asked == 1 || (id.is_none() && asked < 5), "{id:?} {asked}");
    }
}

#[tokio::test]
async fn a_listing_that_was_cut_is_not_a_short_one() {
    let server = FakeS3::start(|r, _, _| {
        (r.op() == "ListObjectsV2").then(|| {
            fake::xml("<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>x</Key></Contents>")
        })
    })
    .await;
    let store = server.open(STALL, "").await;
    let e = store.roots().await.unwrap_err();
    assert!(e.is_temporary(), "{e}");
}

#[tokio::test]
async fn answers_to_ranges_that_make_no_sense_are_told_apart() {
    let page = |headers: &'static [(&'static str, &'static str)]| {
        move |r: &Seen| {
            (r.op() == "GetObject").then(|| {
                let status = if headers.is_empty() { 200 } else { 206 };
                let headers = [headers, &[("etag", "\"x\"")]].concat();
                fake::build(status, &headers, bytes(10))
            })
        }
    };
    for (headers, kind) in [
        // The whole object, though a range was asked for.
        (&[][..], ErrorKind::Unsupported),
        (&[("content-range", "bytes 0-9/10")], ErrorKind::Corrupt),
        (&[("content-range", "bytes 2-5/11")], ErrorKind::Corrupt),
        (&[("content-range", "bytes 2-5/10")], ErrorKind::Corrupt),
        (&[("content-range", "lines 2-5/10")], ErrorKind::Corrupt),
    ] {
        let answer = page(headers);
        let server = FakeS3::start(move |r, _, _| answer(r)).await;
        let store = server.open(STALL, "").await;
        let (desc, _, _) = blob(10);
        let e = read(&store, &desc, 2..6).await.unwrap_err();
        assert_eq!(e.kind, kind, "{headers:?}: {e}");
    }
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let (desc, _, key) = blob(10);
    server.set(&key, "abc");
    for range in [5..9, 1..2, 0..0] {
        let e = store.get(&desc, range).await.map(|_| ()).unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    }
}

#[tokio::test]
async fn refusals_have_their_kind_and_a_hint() {
    for (status, code, kind, hint) in [
        (403, "AccessDenied", ErrorKind::Denied, "s3:ListBucket"),
        (
            403,
            "InvalidAccessKeyId",
            ErrorKind::Unauthenticated,
            "endpoint",
        ),
        (400, "ExpiredToken", ErrorKind::Unauthenticated, "expired"),
        (404, "NoSuchBucket", ErrorKind::NoSuchStore, "create it"),
        (
            301,
            "PermanentRedirect",
            ErrorKind::Invalid,
            "region=eu-north-1",
        ),
        (507, "XMinioStorageFull", ErrorKind::Full, "prune"),
    ] {
        let server = FakeS3::start(move |_, _, _| {
            let doc = format!("<Error><Code>{code}</Code><Message>no</Message></Error>");
            Some(fake::build(
                status,
                &[("x-amz-bucket-region", "eu-north-1")],
                doc,
            ))
        })
        .await;
        let store = server.open(STALL, "").await;
        let (desc, _, _) = blob(10);
        for e in [
            read(&store, &desc, 0..10).await.unwrap_err(),
            store.tags("x").await.unwrap_err(),
            store.resolve(&tag("t").into()).await.unwrap_err(),
        ] {
            assert_eq!(e.kind, kind, "{e}");
            assert!(e.to_string().contains(hint), "{e}");
            assert!(!e.is_temporary(), "{e}");
        }
    }
}

#[tokio::test]
async fn missing_bucket_is_no_missing_blob() {
    let server = FakeS3::start(|r, _, _| {
        Some(match r.method.as_str() {
            "HEAD" => fake::status(StatusCode::NOT_FOUND),
            _ => fake::error(StatusCode::NOT_FOUND, "NoSuchBucket"),
        })
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, _) = blob(10);
    for e in [
        store.stat(&desc.digest).await.unwrap_err(),
        store.put(&desc, &body).await.unwrap_err(),
        store.untag(&tag("t")).await.unwrap_err(),
    ] {
        assert_eq!(e.kind, ErrorKind::NoSuchStore, "{e}");
    }
}

#[tokio::test]
async fn silent_store_is_found_out_in_time() {
    let server = FakeS3::start(|r, _, bucket| {
        if r.op() == "GetObject" && r.header("range").is_some() {
            let object = bucket.objects.lock().unwrap().get(&r.key).cloned()?;
            let said = format!("bytes 0-9999/{}", object.len());
            return Some(fake::cut(
                &[("content-range", &said)],
                10_000,
                object.slice(..100),
                true,
            ));
        }
        None
    })
    .await;
    let store = server.open(SHORT_STALL, "").await;
    let (desc, body, _) = blob(100_000);
    store.put(&desc, &body).await.unwrap();
    let e = read(&store, &desc, 0..10_000).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");

    // A port that takes connections and never says a word.
    let mute = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!(
        "s3://bucket/p?anonymous=true&endpoint=http://{}",
        mute.local_addr().unwrap()
    );
    let common = net::Common {
        stall: SHORT_STALL,
        proxy_from_env: false,
        ..Default::default()
    };
    let location = s3::Location::parse(&url).unwrap();
    let store = s3::S3::open(&location, &s3::Config::default(), &common)
        .await
        .unwrap();
    for e in [
        store.stat(&desc.digest).await.unwrap_err(),
        store.resolve(&tag("t").into()).await.unwrap_err(),
        store.tags("").await.unwrap_err(),
        store.clock().await.unwrap_err(),
    ] {
        assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
    }
}

#[tokio::test]
async fn upload_that_nobody_takes_is_found_out_in_time() {
    // Answers the HEAD, then reads no byte of the body.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = cachectl::task::spawn("half a server", async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let (mut first, _) = listener.accept().await.unwrap();
        let mut buf = [0; 4096];
        let _ = first.read(&mut buf).await.unwrap();
        let none = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        first.write_all(none).await.unwrap();
        drop(first);
        let (mut second, _) = listener.accept().await.unwrap();
        let _ = second.read(&mut buf).await.unwrap();
        // It is an S3 store that says so.
        let said = "<Error><Code>NoSuchKey</Code></Error>";
        let length = said.len();
        let said = format!(
            "HTTP/1.1 404 Not Found\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}"
        );
        second.write_all(said.as_bytes()).await.unwrap();
        drop(second);
        let _third = listener.accept().await.unwrap();
        std::future::pending::<()>().await;
    });
    let location = s3::Location::parse(&format!(
        "s3://bucket?anonymous=true&part_bytes=64MiB&endpoint=http://{address}"
    ))
    .unwrap();
    let common = net::Common {
        stall: SHORT_STALL,
        proxy_from_env: false,
        ..Default::default()
    };
    let store = s3::S3::open(&location, &s3::Config::default(), &common)
        .await
        .unwrap();
    // More than the kernel's buffers on both sides take.
    let (desc, body, _) = blob(32 << 20);
    let e = store.put(&desc, &body).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
    assert!(e.message.contains("the peer accepted no data"), "{e}");
}

#[tokio::test]
async fn refused_connection_is_temporary_and_names_the_cause() {
    let free = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let location = s3::Location::parse(&format!(
        "s3://bucket?anonymous=true&endpoint=http://{free}"
    ))
    .unwrap();
    let common = net::Common {
        proxy_from_env: false,
        ..Default::default()
    };
    let store = s3::S3::open(&location, &s3::Config::default(), &common)
        .await
        .unwrap();
    let e = store.tags("").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
    assert!(e.to_string().to_lowercase().contains("refused"), "{e}");
}

#[tokio::test]
async fn listing_that_breaks_off_is_unavailable_and_one_that_goes_in_circles_corrupt() {
    let server = FakeS3::start(|r, _, _| {
        (r.op() == "ListObjectsV2").then(|| {
            fake::cut(
                &[("content-type", "application/xml")],
                500,
                Bytes::from_static(b"<ListBucketResult>"),
                false,
            )
        })
    })
    .await;
    let e = server.open(STALL, "").await.tags("").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");

    let server = FakeS3::start(|r, _, _| {
        let doc = "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken></ListBucketResult>";
        (r.op() == "ListObjectsV2").then(|| fake::xml(doc))
    })
    .await;
    let e = server.open(STALL, "").await.tags("").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
}

#[tokio::test]
async fn answer_that_does_not_end_is_refused_before_it_fills_the_memory() {
    const MIB: usize = 1 << 20;
    for op in ["ListObjectsV2", "GetObject", "DeleteObjects"] {
        let sent = Arc::new(AtomicUsize::new(0));
        let counter = sent.clone();
        let server = FakeS3::start(move |r, n, _| {
            // The first asks whether there is a bucket.
            (r.op() == op && (op != "GetObject" || n > 0)).then(|| {
                let counter = counter.clone();
                let piece = Bytes::from(vec![b'x'; MIB]);
                let pieces = (0..100).map(move |_| {
                    counter.fetch_add(MIB, Ordering::Relaxed);
                    Ok::<_, std::io::Error>(piece.clone())
                });
                // Of an object's bytes a success may be as long as it likes: who reads them knows how long they are.
                let status = if r.op() == "GetObject" { 403 } else { 200 };
                let body = axum::body::Body::from_stream(futures_util::stream::iter(pieces));
                Response::builder().status(status).body(body).unwrap()
            })
        })
        .await;
        let store = server.open(STALL, "").await;
        let (desc, body, _) = blob(10);
        store.put(&desc, &body).await.unwrap();
        let e = match op {
            "ListObjectsV2" => store.tags("").await.unwrap_err(),
            "GetObject" => store.get(&desc, 0..10).await.err().unwrap(),
            "DeleteObjects" => {
                let all = Time {
                    secs: i64::from(u32::MAX),
                    nanos: 0,
                };
                store.remove(&[desc.digest], all).await.unwrap_err()
            }
            _ => unreachable!("{op}"),
        };
        let sent = sent.load(Ordering::Relaxed);
        assert!(sent <= 32 * MIB, "{op}: {sent} bytes");
        if op == "GetObject" {
            assert_eq!(e.kind, ErrorKind::Denied, "{e}");
        } else {
            assert_eq!(e.kind, ErrorKind::Unavailable, "{op}: {e}");
            assert!(e.message.contains("longer than"), "{op}: {e}");
        }
    }
}

#[tokio::test]
async fn object_may_be_longer_than_any_other_answer() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let (desc, body, _) = blob(9 << 20);
    store.put(&desc, &body).await.unwrap();
    let got = read(&store, &desc, 0..desc.size).await.unwrap();
    assert!(desc.digest.matches(&got));
}

#[tokio::test]
async fn listing_that_never_ends_is_given_up() {
    let server = FakeS3::start(|r, n, _| {
        (r.op() == "ListObjectsV2").then(|| {
            let keys: Vec<String> = (0..1000)
                .map(|i| {
                    let key = format!("p/r/cachectl/tags/{n:0>900}.{i}");
                    format!("<Contents><Key>{key}</Key><Size>1</Size></Contents>")
                })
                .collect();
            let page = format!(
                "<ListBucketResult><IsTruncated>true</IsTruncated><NextContinuationToken>t{n}</NextContinuationToken>{}",
                keys.concat()
            );
            fake::build(200, &[], page + "</ListBucketResult>")
        })
    })
    .await;
    let store = server.open(STALL, "").await;
    let e = store.tags("").await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert!(e.message.contains("does not end"), "{e}");
    assert!(server.ops().len() < 200, "{} pages", server.ops().len());
}

#[tokio::test]
async fn expectations_are_sent_and_their_refusal_is_a_conflict() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let publish = async |n: u32, expect: &Expect| {
        store
            .publish(&manifest(n), Some(&tag("t")), expect)
            .await
            .unwrap()
    };
    assert_eq!(publish(1, &Expect::Absent).await, Published::Done);
    assert_eq!(publish(2, &Expect::Absent).await, Published::Conflict);
    let head = store.resolve(&tag("t").into()).await.unwrap().unwrap();
    assert_eq!(head.manifest, manifest(1));
    let read = Expect::Version(head.version.unwrap());
    assert_eq!(publish(2, &read).await, Published::Done);
    assert_eq!(publish(3, &read).await, Published::Conflict);
    // Our own earlier try, whose answer was lost.
    assert_eq!(publish(2, &read).await, Published::Done);
    let key = "p/r/cachectl/tags/t";
    let etag = fake::etag(&server.object(key).unwrap());
    let head = store.resolve(&tag("t").into()).await.unwrap().unwrap();
    assert_eq!(
        head.version,
        Some(Version(etag)),
        "the version is the ETag byte for byte"
    );
}

#[tokio::test]
async fn damaged_tag_is_corrupt_to_readers_and_absent_to_writers() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let lost = manifest(1);
    store
        .publish(&lost, Some(&tag("lost")), &Expect::Absent)
        .await
        .unwrap();
    let key = format!("p/blobs/sha256/{}", lost.digest.hex());
    server.bucket.objects.lock().unwrap().remove(&key);
    server.set("p/r/cachectl/tags/garbage", "not json");
    server.set("p/r/cachectl/tags/long", "x".repeat(1 << 20));
    let swapped = manifest(3);
    store
        .publish(&swapped, Some(&tag("swapped")), &Expect::Absent)
        .await
        .unwrap();
    server.set(
        &format!("p/blobs/sha256/{}", swapped.digest.hex()),
        manifest(4).bytes,
    );
    for name in ["lost", "garbage", "long", "swapped"] {
        let e = store.resolve(&tag(name).into()).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{name}: {e}");
        let done = store
            .publish(&manifest(2), Some(&tag(name)), &Expect::Absent)
            .await;
        assert_eq!(done.unwrap(), Published::Done, "{name}");
        let healed = store.resolve(&tag(name).into()).await.unwrap().unwrap();
        assert_eq!(healed.manifest, manifest(2), "{name}");
    }
}

#[tokio::test]
async fn sweep_stops_at_a_tag_that_it_cannot_read() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    store
        .publish(&manifest(1), Some(&tag("a")), &Expect::Anything)
        .await
        .unwrap();
    assert_eq!(store.roots().await.unwrap(), [manifest(1).digest]);
    let part = Digest::sha256_of(b"part");
    server.set(
        &format!("p/r/other%2Frepo/parts/t/sha256-{}", part.hex()),
        "{}",
    );
    let mut want = vec![manifest(1).digest, part];
    want.sort();
    assert_eq!(store.roots().await.unwrap(), want);
    server.set("p/r/cachectl/tags/b", "not json");
    server.set("p/r/cachectl/tags/c", "x".repeat(1 << 20));
    let spare = manifest(9);
    let done = store.publish(&spare, None, &Expect::Anything).await;
    done.unwrap();
    // They could name any manifest of their repository.
    let roots = store.roots().await.unwrap();
    assert!(roots.contains(&spare.digest), "{roots:?}");
    assert!(want.iter().all(|d| roots.contains(d)), "{roots:?}");
}

#[tokio::test]
async fn removal_takes_records_along_and_falls_back_to_single_deletes() {
    for batches in [true, false] {
        let server = FakeS3::start(move |r, _, _| {
            (r.op() == "DeleteObjects" && !batches)
                .then(|| fake::error(StatusCode::BAD_REQUEST, "MissingContentMD5"))
        })
        .await;
        let store = server.open(STALL, "").await;
        for n in 0..3 {
            store
                .publish(&manifest(n), None, &Expect::Anything)
                .await
                .unwrap();
        }
        let gone = [
            manifest(0).digest,
            manifest(1).digest,
            Digest::sha256_of(b"never there"),
        ];
        let soon = Time {
            secs: Time::now().secs + 3600,
            nanos: 0,
        };
        // HEADs of this server have a date of 2026-01-01.
        assert_eq!(
            store
                .remove(
                    &gone,
                    Time {
                        secs: 1_000_000_000,
                        nanos: 0
                    }
                )
                .await
                .unwrap(),
            (0, 0)
        );
        let (count, bytes) = store.remove(&gone, soon).await.unwrap();
        assert_eq!((count, bytes), (2, 2 * manifest(0).bytes.len() as u64));
        let keys: Vec<String> = server
            .bucket
            .objects
            .lock()
            .unwrap()
            .keys()
            .cloned()
            .collect();
        let hex = manifest(2).digest.hex();
        assert_eq!(
            keys,
            [
                format!("p/blobs/sha256/{hex}"),
                format!("p/r/cachectl/manifests/sha256-{hex}")
            ]
        );
        assert_eq!(server.count("DeleteObject") == 0, batches);
    }
}

#[tokio::test]
async fn removal_that_the_store_refuses_in_part_is_an_error() {
    let server = FakeS3::start(|r, _, _| {
        let doc = "<DeleteResult><Error><Key>k</Key><Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>";
        (r.op() == "DeleteObjects").then(|| fake::xml(doc))
    })
    .await;
    let store = server.open(STALL, "").await;
    let (desc, body, _) = blob(10);
    store.put(&desc, &body).await.unwrap();
    let soon = Time {
        secs: Time::now().secs + 3600,
        nanos: 0,
    };
    let e = store.remove(&[desc.digest], soon).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Denied, "{e}");
}

#[tokio::test]
async fn old_unfinished_uploads_are_taken_back_when_that_is_asked_for_and_not_with_a_blob() {
    let server = FakeS3::honest().await;
    let store = server.open(STALL, "").await;
    let uploads = || server.bucket.uploads.lock().unwrap().len();
    server
        .bucket
        .uploads
        .lock()
        .unwrap()
        .insert("old".into(), std::collections::BTreeMap::default());
    // Somebody else's may be on its way however old it is.
    let (desc, body, _) = blob(10);
    store.put(&desc, &body).await.unwrap();
    let removed = store.remove(&[desc.digest], Time::now()).await.unwrap();
    assert_eq!((removed.0, uploads()), (1, 1));
    // The server says that it was begun in 2020.
    let before = Time {
        secs: 1_000_000_000,
        nanos: 0,
    };
    assert_eq!(store.abandon_uploads(before).await.unwrap(), 0);
    assert_eq!(uploads(), 1);
    assert_eq!(store.abandon_uploads(Time::now()).await.unwrap(), 1);
    assert_eq!(uploads(), 0);
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
