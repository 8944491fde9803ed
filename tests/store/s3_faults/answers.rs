//! Answers that break off, do not end, are late, or come from something else in the place of the store.

use super::*;

#[tokio::test]
async fn cut_body_is_unavailable_after_the_bytes_that_came() {
    let server = FakeS3::start(|r, n, bucket| {
        if r.op() != "GetObject" || n != 0 {
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
            ("GetObject", 0) => Some(fake::cut(&[], object.len(), object.slice(..40_000), false)),
            ("GetObject", 1) => Some(slow_down(r)),
            ("GetObject", 2) => {
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
    assert_eq!(ranges, [None, rest, rest, Some("bytes=50000-99999")]);
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

fn record_of(desc: &Descriptor) -> String {
    format!("r/cachectl/manifests/sha256-{}", desc.digest.hex())
}

/// Reads a blob, and manifests by tag and digest; passes what was asked and the error to `told`.
async fn reads_fail(store: &s3::S3, desc: &Descriptor, told: &impl Fn(&str, Error)) {
    told("stat", store.stat(&desc.digest).await.unwrap_err());
    told("get", read(store, desc, 0..100_000).await.unwrap_err());
    told("get", read(store, desc, 5..10).await.unwrap_err());
    for reference in [tag("t").into(), manifest(1).digest.into()] {
        told("resolve", store.resolve(&reference).await.unwrap_err());
    }
}

/// Lists and changes everything but tags, in the same way; returns the keys of two blobs that were not written.
async fn lists_and_changes_fail(
    store: &s3::S3,
    desc: &Descriptor,
    told: &impl Fn(&str, Error),
) -> [String; 2] {
    told("tags", store.tags("").await.unwrap_err());
    told("blobs", store.blobs().await.unwrap_err());
    told("renew", store.renew(&desc.digest).await.unwrap_err());
    told("untag", store.untag(&tag("t")).await.unwrap_err());
    let (small, small_body, small_key) = blob(10);
    told("put", store.put(&small, &small_body).await.unwrap_err());
    let (big, big_body, big_key) = blob(6 << 20);
    told("put", store.put(&big, &big_body).await.unwrap_err());
    let written = store.write_record(&record_of(desc), bytes(3)).await;
    told("write record", written.unwrap_err());
    let removed = store.remove_record(&record_of(desc)).await;
    told("remove record", removed.unwrap_err());
    [small_key, big_key]
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
            reads_fail(&store, &desc, &foreign).await;
        }
        foreign("roots", store.roots().await.unwrap_err());
        let keys = lists_and_changes_fail(&store, &desc, &foreign).await;
        let done = store
            .publish(&manifest(2), Some(&tag("t")), &Expect::Anything)
            .await;
        foreign("publish", done.unwrap_err());

        on.store(false, Ordering::Relaxed);
        assert_eq!(keys.map(|key| server.object(&key)), [None, None]);
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
        let unknown = blob(10).0.digest;
        assert_eq!(store.stat(&unknown).await.unwrap(), None);
        on.store(true, Ordering::Relaxed);

        let foreign = |what: &str, e: Error| {
            assert!(e.is_temporary(), "{sort} {what}: {e}");
            assert!(e.message.contains("in the store's place"), "{e}");
        };
        reads_fail(&store, &desc, &foreign).await;
        let read = store.read_record(&record_of(&desc), 100).await;
        foreign("read record", read.unwrap_err());
        lists_and_changes_fail(&store, &desc, &foreign).await;

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
    // Says that nothing is there, and reads no byte of the body.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let _serving = cachectl::task::spawn("half a server", async move {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let mut unread = Vec::new();
        loop {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut start = [0; 4];
            let _ = connection.read_exact(&mut start).await.unwrap();
            if start == *b"PUT " {
                unread.push(connection);
                continue;
            }
            let _ = connection.read(&mut [0; 4096]).await.unwrap();
            // It is an S3 store that says so.
            let said = match &start {
                b"HEAD" => "",
                _ => "<Error><Code>NoSuchKey</Code></Error>",
            };
            let length = said.len();
            let said = format!(
                "HTTP/1.1 404 Not Found\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{said}"
            );
            connection.write_all(said.as_bytes()).await.unwrap();
        }
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
        let server = FakeS3::start(move |r, _, _| {
            (r.op() == op).then(|| {
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
