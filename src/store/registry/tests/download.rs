//! Downloads of blobs.

use axum::body::Body as HttpBody;

use super::{
    fake::{Act, Call, Fake, Reply, refuse, reply, with},
    *,
};
use crate::{
    digest::Digest,
    store::{Error, ErrorKind, TagStore as _},
};

/// A fake whose answers to GET of a blob are modified.
async fn changed(change: impl Fn(&Call, Reply) -> Reply + Clone + Send + Sync + 'static) -> Fake {
    Fake::start(move |call| {
        let (change, call) = (change.clone(), call.clone());
        (call.name() == "GET blobs").then(|| Act::Change(Box::new(move |r| change(&call, r))))
    })
    .await
}

fn set(mut r: Reply, name: &'static str, value: &str) -> Reply {
    r.headers_mut().insert(name, value.parse().unwrap());
    r
}

async fn fails(fake: &Fake, bytes: &Bytes, range: std::ops::Range<u64>) -> Error {
    let store = open(fake).await;
    fake.has(bytes);
    get(&store, bytes, range).await.unwrap_err()
}

#[tokio::test]
async fn range_is_asked_for_and_comes() {
    let fake = Fake::plain().await;
    let bytes = some_bytes(100_000);
    fake.has(&bytes);
    let store = open(&fake).await;
    assert_eq!(
        get(&store, &bytes, 5..70_000).await.unwrap(),
        bytes.slice(5..70_000)
    );
    assert_eq!(get(&store, &bytes, 0..100_000).await.unwrap(), bytes);
    let log = fake.log();
    assert_eq!(log[0].header("range"), "bytes=5-69999");
    assert_eq!(log[0].header("accept-encoding"), "identity");
    assert_eq!(log[1].header("range"), "");
}

#[tokio::test]
async fn whole_blob_in_place_of_a_range_is_cut_to_it() {
    let bytes = some_bytes(100_000);
    let whole = bytes.clone();
    let fake = changed(move |_, _| with(200, &[], whole.clone())).await;
    fake.has(&bytes);
    let store = open(&fake).await;
    assert_eq!(
        get(&store, &bytes, 70_000..80_000).await.unwrap(),
        bytes.slice(70_000..80_000)
    );
}

#[tokio::test]
async fn wrong_part_is_corrupt() {
    let bytes = some_bytes(1000);
    for range in [
        "bytes 0-99/1000",
        "bytes 100-2000/1000",
        "bytes 100-199/999",
        "bytes 100-99/1000",
        "100-199",
        "bytes x-y/z",
    ] {
        let fake = changed(move |_, r| set(r, "content-range", range)).await;
        assert_eq!(
            fails(&fake, &bytes, 100..200).await.kind,
            ErrorKind::Corrupt,
            "{range}"
        );
    }
    let fake = changed(|_, mut r| {
        r.headers_mut().remove("content-range");
        r
    })
    .await;
    assert_eq!(
        fails(&fake, &bytes, 100..200).await.kind,
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn short_part_ends_in_an_error_that_is_tried_again() {
    let bytes = some_bytes(1000);
    let some = bytes.slice(100..150);
    let fake = changed(move |_, _| {
        with(
            206,
            &[("content-range", "bytes 100-149/1000")],
            some.clone(),
        )
    })
    .await;
    let e = fails(&fake, &bytes, 100..200).await;
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
    assert!(e.message.contains("50 bytes early"), "{e}");
}

/// A body of `bytes` that ends in the way of `end`, with the length of `full`.
fn cut(
    full: usize,
    bytes: Bytes,
    end: impl futures_util::Stream<Item = std::io::Result<Bytes>> + Send + 'static,
) -> Reply {
    use futures_util::StreamExt as _;
    let stream = futures_util::stream::iter([Ok(bytes)]).chain(end);
    let mut r = Reply::new(HttpBody::from_stream(stream));
    r.headers_mut().insert("content-length", full.into());
    r
}

#[tokio::test]
async fn cut_body_gives_what_came_and_a_temporary_error() {
    use futures_util::StreamExt as _;
    let bytes = some_bytes(200_000);
    let whole = bytes.clone();
    // The connection is closed when the data before it has arrived.
    let arrived = std::sync::Arc::new(tokio::sync::Notify::new());
    let scissors = arrived.clone();
    let fake = changed(move |call, r| {
        if call.nth > 0 {
            return r;
        }
        let scissors = scissors.clone();
        let end = async move {
            scissors.notified().await;
            Err(std::io::Error::other("cut"))
        };
        cut(
            200_000,
            whole.slice(..70_000),
            futures_util::stream::once(end),
        )
    })
    .await;
    fake.has(&bytes);
    let store = open(&fake).await;
    let mut stream = store.get(&desc(&bytes), 0..200_000).await.unwrap().unwrap();
    let mut got = Vec::new();
    let error = loop {
        match stream.next().await.unwrap() {
            Ok(piece) => got.extend_from_slice(&piece),
            Err(e) => break e,
        }
        if got.len() == 70_000 {
            arrived.notify_one();
        }
    };
    assert!(error.is_temporary(), "{error}");
    assert!(
        error.to_string().contains(&desc(&bytes).digest.to_string()),
        "{error}"
    );
    // As the wrapper does.
    let rest = get(&store, &bytes, got.len() as u64..200_000)
        .await
        .unwrap();
    got.extend_from_slice(&rest);
    assert!(got == bytes);
}

#[tokio::test]
async fn stalled_body_is_a_timeout() {
    let bytes = some_bytes(200_000);
    let whole = bytes.clone();
    let fake = changed(move |_, _| {
        cut(
            200_000,
            whole.slice(..70_000),
            futures_util::stream::pending(),
        )
    })
    .await;
    fake.has(&bytes);
    let location = Location::parse(&format!("oci://{}/team/app", fake.addr)).unwrap();
    let hasty = net::Common {
        stall: Duration::from_millis(100),
        ..net::Common::default()
    };
    let store = Registry::open(&location, &Config::default(), &hasty)
        .await
        .unwrap();
    let e = get(&store, &bytes, 0..200_000).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
}

#[tokio::test]
async fn wrong_digest_and_wrong_size_are_corrupt_and_a_page_or_packed_bytes_are_somebody_elses() {
    let bytes = some_bytes(1000);
    let page = |_: &Call, _: Reply| {
        with(
            200,
            &[("content-type", "text/html; charset=utf-8")],
            "x".repeat(1000),
        )
    };
    let xml = |_: &Call, _: Reply| {
        with(
            200,
            &[("content-type", "application/xml")],
            "x".repeat(1000),
        )
    };
    let gzip = |_: &Call, r: Reply| set(r, "content-encoding", "gzip");
    let digest = |_: &Call, r: Reply| {
        set(
            r,
            "docker-content-digest",
            &Digest::sha256_of(b"x").to_string(),
        )
    };
    let size = |_: &Call, _: Reply| with(200, &[], "x".repeat(999));
    let more = |_: &Call, _: Reply| {
        let pieces =
            ["x".repeat(900), "x".repeat(900)].map(|p| std::io::Result::Ok(Bytes::from(p)));
        Reply::new(HttpBody::from_stream(futures_util::stream::iter(pieces)))
    };
    let wrong = |_: &Call, r: Reply| {
        let said = r.headers()["docker-content-digest"]
            .to_str()
            .unwrap()
            .to_owned();
        let headers = [("docker-content-digest", said.as_str())];
        with(200, &headers, "x".repeat(999))
    };
    for (fake, kind) in [
        (changed(page).await, ErrorKind::Unavailable),
        (changed(xml).await, ErrorKind::Unavailable),
        (changed(size).await, ErrorKind::Unavailable),
        (changed(gzip).await, ErrorKind::Unavailable),
        (changed(digest).await, ErrorKind::Corrupt),
        (changed(wrong).await, ErrorKind::Corrupt),
        (changed(more).await, ErrorKind::Corrupt),
    ] {
        let e = fails(&fake, &bytes, 0..1000).await;
        assert_eq!(e.kind, kind, "{e}");
    }
    let fake = Fake::plain().await;
    fake.has(&bytes);
    let mut longer = desc(&bytes);
    longer.size = 2000;
    for range in [0..2000, 1500..1600, 5..5] {
        let Err(e) = open(&fake).await.get(&longer, range).await else {
            panic!("a blob of another size was read")
        };
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    }
}

#[tokio::test]
async fn throttling_says_how_long() {
    let fake = Fake::start(|_| Some(Act::Reply(with(429, &[("retry-after", "7")], "")))).await;
    let e = open(&fake)
        .await
        .stat(&Digest::sha256_of(b"x"))
        .await
        .unwrap_err();
    assert_eq!(
        (e.kind, e.retry_after),
        (ErrorKind::Throttled, Some(Duration::from_secs(7)))
    );
}

#[tokio::test]
async fn every_refusal_of_a_read_has_its_kind() {
    use ErrorKind as K;
    for (status, want) in [
        (400, K::Invalid),
        (401, K::Unauthenticated),
        (403, K::Denied),
        (405, K::Unsupported),
        (408, K::Timeout),
        (409, K::Conflict),
        (411, K::Unsupported),
        (412, K::Conflict),
        (413, K::Unsupported),
        (429, K::Throttled),
        (500, K::Unavailable),
        (502, K::Unavailable),
        (503, K::Unavailable),
        (504, K::Unavailable),
        (507, K::Full),
    ] {
        let fake = Fake::start(move |_| Some(Act::Reply(reply(status)))).await;
        let store = open(&fake).await;
        let bytes = some_bytes(10);
        let Err(e) = store.get(&desc(&bytes), 0..10).await else {
            panic!("{status} was read")
        };
        assert_eq!(e.kind, want, "{e}");
        assert_eq!(
            store.stat(&desc(&bytes).digest).await.unwrap_err().kind,
            want
        );
    }
}

#[tokio::test]
async fn missing_blob_and_missing_repository_are_misses() {
    let bytes = some_bytes(10);
    for code in ["BLOB_UNKNOWN", "NAME_UNKNOWN"] {
        let fake = Fake::start(move |_| Some(Act::Reply(refuse(404, code)))).await;
        let store = open(&fake).await;
        assert_eq!(store.stat(&desc(&bytes).digest).await.unwrap(), None);
        assert!(store.get(&desc(&bytes), 0..10).await.unwrap().is_none());
        assert!(store.get(&desc(&bytes), 0..0).await.unwrap().is_none());
    }
}

#[tokio::test]
async fn registry_without_head_is_asked_by_get() {
    let fake = Fake::start(|call| (call.method == "HEAD").then(|| Act::Reply(reply(405)))).await;
    let store = open(&fake).await;
    for bytes in [some_bytes(1000), Bytes::new()] {
        fake.has(&bytes);
        assert_eq!(
            store.stat(&desc(&bytes).digest).await.unwrap(),
            Some(bytes.len() as u64)
        );
    }
    assert_eq!(store.stat(&Digest::sha256_of(b"no")).await.unwrap(), None);
}

#[tokio::test]
async fn small_answer_that_comes_byte_by_byte_is_a_stall() {
    let fake = Fake::start(|_| {
        let drip = futures_util::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b" ")), ()))
        });
        let mut reply = with(200, &[("content-length", "1000000")], "");
        *reply.body_mut() = axum::body::Body::from_stream(drip);
        Some(Act::Reply(reply))
    })
    .await;
    let location = Location::parse(&format!("oci://{}/team/app", fake.addr)).unwrap();
    let common = net::Common {
        stall: Duration::from_millis(300),
        ..net::Common::default()
    };
    let store = Registry::open(&location, &Config::default(), &common)
        .await
        .unwrap();
    let limit = Duration::from_secs(10);
    let tag: crate::artifact::Tag = "t".parse().unwrap();
    let resolved = tokio::time::timeout(limit, store.resolve(&tag.into())).await;
    let e = resolved.expect("it is found out").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
    assert!(!e.unheard, "{e}");
    let listed = tokio::time::timeout(limit, store.tags("")).await;
    let e = listed.expect("it is found out").unwrap_err();
    assert_eq!(e.kind, ErrorKind::Timeout, "{e}");
}
