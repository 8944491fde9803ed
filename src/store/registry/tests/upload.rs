//! Uploads of blobs.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Barrier;

use super::{
    fake::{Act, Call, Fake, refuse, reply, with},
    *,
};
use crate::{digest::Digest, store::ErrorKind};

const MIB: usize = 1 << 20;

fn is(call: &Call, name: &str, nth: usize) -> bool {
    call.name() == name && call.nth == nth
}

fn assert_stored(fake: &Fake, bytes: &Bytes) {
    let model = fake.model();
    assert_eq!(model.blobs.get(&Digest::sha256_of(bytes)), Some(bytes));
}

#[tokio::test]
async fn blob_is_looked_for_then_sent_in_one_put() {
    let fake = Fake::plain().await;
    let store = open(&fake).await;
    let bytes = some_bytes(3 * MIB);
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Stored);
    assert_eq!(fake.names(), ["HEAD blobs", "POST uploads", "PUT uploads"]);
    let log = fake.log();
    assert_eq!(log[2].header("content-length"), (3 * MIB).to_string());
    assert_eq!(
        log[2].query("_state"),
        ["0="],
        "the Location must be used as it stands"
    );
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Existed);
    assert!(!fake.names()[3..].contains(&"PUT uploads".to_owned()));
    assert_stored(&fake, &bytes);
}

#[tokio::test]
async fn upload_is_begun_before_it_is_known_whether_the_blob_is_there() {
    let both = Arc::new(Barrier::new(2));
    let fake = Fake::start(move |call| {
        let is_first = matches!(call.name().as_str(), "HEAD blobs" | "POST uploads");
        is_first.then(|| Act::Meet(both.clone()))
    })
    .await;
    let store = open(&fake).await;
    for bytes in [some_bytes(MIB), some_bytes(10)] {
        assert_eq!(put(&store, &bytes).await.unwrap(), Put::Stored);
        assert_stored(&fake, &bytes);
    }
}

#[tokio::test]
async fn tiny_blob_is_one_post_where_the_registry_can() {
    let fake = Fake::plain().await;
    let store = open(&fake).await;
    put(&store, &some_bytes(10)).await.unwrap();
    put(&store, &Bytes::new()).await.unwrap();
    assert_eq!(
        fake.names(),
        ["HEAD blobs", "POST uploads", "HEAD blobs", "POST uploads"]
    );
    assert_stored(&fake, &some_bytes(10));
}

#[tokio::test]
async fn session_offered_for_a_single_post_is_used_and_the_post_not_tried_again() {
    let fake = Fake::start(|call| {
        (is(call, "POST uploads", 0) || is(call, "POST uploads", 1)).then(|| {
            Act::Reply(with(
                202,
                &[("location", "/v2/team/app/blobs/uploads/own")],
                "",
            ))
        })
    })
    .await;
    let store = open(&fake).await;
    for bytes in [some_bytes(10), some_bytes(11)] {
        fake.model()
            .uploads
            .insert("/v2/team/app/blobs/uploads/own".to_owned(), Vec::new());
        put(&store, &bytes).await.unwrap();
        assert_stored(&fake, &bytes);
    }
    let once = ["HEAD blobs", "POST uploads", "PUT uploads"];
    assert_eq!(fake.names(), [once, once].concat());
    assert!(fake.log()[4].query.is_empty() && fake.log()[4].body.is_empty());
}

#[tokio::test]
async fn single_post_that_is_refused_falls_back() {
    let fake = Fake::start(|call| {
        (call.name() == "POST uploads" && !call.query.is_empty()).then(|| Act::Reply(reply(400)))
    })
    .await;
    let store = open(&fake).await;
    put(&store, &some_bytes(10)).await.unwrap();
    assert_eq!(
        fake.names(),
        ["HEAD blobs", "POST uploads", "POST uploads", "PUT uploads"]
    );
}

#[tokio::test]
async fn refused_put_becomes_a_stream_and_stays_one() {
    let fake = Fake::start(|call| {
        (call.name() == "PUT uploads" && call.header("content-length") != "0")
            .then(|| Act::Reply(reply(405)))
    })
    .await;
    let store = open(&fake).await;
    for (bytes, want) in [
        (
            some_bytes(MIB),
            &[
                "HEAD blobs",
                "POST uploads",
                "PUT uploads",
                "POST uploads",
                "PATCH uploads",
                "PUT uploads",
            ][..],
        ),
        (
            some_bytes(MIB + 1),
            &["HEAD blobs", "POST uploads", "PATCH uploads", "PUT uploads"],
        ),
    ] {
        fake.model().log.clear();
        put(&store, &bytes).await.unwrap();
        let names: Vec<String> = fake
            .names()
            .into_iter()
            .filter(|n| n != "DELETE uploads")
            .collect();
        assert_eq!(names, want);
        assert_stored(&fake, &bytes);
    }
    let log = fake.log();
    assert_eq!(
        log.iter()
            .find(|c| c.method == "PATCH")
            .unwrap()
            .header("content-range"),
        ""
    );
}

#[tokio::test]
async fn blob_over_the_limit_goes_in_pieces_of_the_registrys_size() {
    let limit = 2 * MIB;
    let fake = Fake::start(move |call| {
        let length: usize = call.header("content-length").parse().unwrap_or(0);
        match call.name().as_str() {
            "PUT uploads" | "PATCH uploads" if length > limit => Some(Act::Reply(reply(413))),
            _ => None,
        }
    })
    .await;
    let store = open(&fake).await;
    let bytes = some_bytes(5 * MIB + 1);
    put(&store, &bytes).await.unwrap();
    assert_stored(&fake, &bytes);
    let ranges: Vec<String> = fake
        .log()
        .iter()
        .filter(|c| c.method == "PATCH")
        .map(|c| c.header("content-range").to_owned())
        .collect();
    assert_eq!(
        ranges,
        [
            "0-4194303",
            "0-2097151",
            "2097152-4194303",
            "4194304-5242880"
        ]
    );
}

#[tokio::test]
async fn pieces_are_not_below_the_registrys_minimum() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Reply(reply(413))),
        "POST uploads" => Some(Act::Change(Box::new(|mut r| {
            r.headers_mut()
                .insert("oci-chunk-min-length", "6291456".parse().unwrap());
            r
        }))),
        _ => None,
    })
    .await;
    let store = open(&fake).await;
    put(&store, &some_bytes(7 * MIB)).await.unwrap();
    let lengths: Vec<String> = fake
        .log()
        .iter()
        .filter(|c| c.method == "PATCH")
        .map(|c| c.header("content-length").to_owned())
        .collect();
    assert_eq!(lengths, ["6291456", "1048576"]);
}

#[tokio::test]
async fn range_reply_shorter_than_sent_is_believed() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Reply(reply(413))),
        "PATCH uploads" if call.nth == 0 => Some(Act::Keep(1_000_000)),
        _ => None,
    })
    .await;
    let bytes = some_bytes(5 * MIB);
    put(&open(&fake).await, &bytes).await.unwrap();
    assert_stored(&fake, &bytes);
    let second = fake
        .log()
        .into_iter()
        .filter(|c| c.method == "PATCH")
        .nth(1)
        .unwrap();
    assert_eq!(second.header("content-range"), "1000000-5194303");
}

#[tokio::test]
async fn range_reply_that_claims_too_much_is_corrupt() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Reply(reply(413))),
        "PATCH uploads" => Some(Act::Reply(with(
            202,
            &[("location", &call.path), ("range", "0-99999999")],
            "",
        ))),
        _ => None,
    })
    .await;
    let e = put(&open(&fake).await, &some_bytes(5 * MIB))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
}

#[tokio::test]
async fn registry_that_takes_nothing_is_given_up() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Reply(reply(413))),
        "PATCH uploads" => Some(Act::Reply(with(
            202,
            &[("location", &call.path), ("range", "0-0")],
            "",
        ))),
        _ => None,
    })
    .await;
    let e = put(&open(&fake).await, &some_bytes(5 * MIB))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
}

#[tokio::test]
async fn broken_put_goes_on_as_a_stream_that_resumes_where_it_broke() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.nth == 0 => Some(Act::Break(700_000)),
        "PATCH uploads" if call.nth == 0 => Some(Act::Break(1_500_000)),
        "PATCH uploads" if call.nth == 1 => Some(Act::Break(300_000)),
        _ => None,
    })
    .await;
    let store = open(&fake).await;
    let bytes = some_bytes(5 * MIB);
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Stored);
    assert_stored(&fake, &bytes);
    let ranges: Vec<String> = fake
        .log()
        .iter()
        .filter(|c| c.method == "PATCH")
        .map(|c| c.header("content-range").to_owned())
        .collect();
    assert_eq!(ranges, ["", "1500000-5242879", "1800000-5242879"]);
}

#[tokio::test]
async fn registry_that_forgets_what_broke_is_sent_pieces_by_connections_that_last() {
    // A device in between closes every connection after this many bytes.
    const LAST: usize = 20 * MIB;
    let carried: Mutex<HashMap<SocketAddr, usize>> = Mutex::default();
    let fake = Fake::start(move |call| {
        let length: usize = call.header("content-length").parse().unwrap_or(0);
        let mut carried = carried.lock();
        let before = carried.entry(call.peer).or_default();
        let left = LAST.saturating_sub(*before);
        *before += length;
        (length > left).then_some(Act::Break(left))
    })
    .await;
    fake.model().forgets = true;
    let store = open(&fake).await;
    let bytes = some_bytes(50 * MIB);
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Stored);
    assert_stored(&fake, &bytes);
    // This is known from then on: the next blob is not sent in vain first.
    let sent = |fake: &Fake| {
        let log = fake.log();
        let lengths = log
            .iter()
            .map(|c| c.header("content-length").parse().unwrap_or(0));
        lengths.sum::<usize>()
    };
    let before = sent(&fake);
    let bytes = some_bytes(30 * MIB);
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Stored);
    assert_stored(&fake, &bytes);
    assert_eq!(sent(&fake) - before, bytes.len());
}

#[tokio::test]
async fn piece_that_is_lost_before_its_first_byte_costs_that_piece_only() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Break(MIB)),
        "PATCH uploads" if call.nth == 0 => Some(Act::Break(MIB)),
        "PATCH uploads" if call.nth == 3 => Some(Act::Break(0)),
        _ => None,
    })
    .await;
    fake.model().forgets = true;
    let bytes = some_bytes(30 * MIB);
    put(&open(&fake).await, &bytes).await.unwrap();
    assert_stored(&fake, &bytes);
    let ranges: Vec<String> = fake
        .log()
        .iter()
        .filter(|c| c.method == "PATCH")
        .map(|c| c.header("content-range").to_owned())
        .collect();
    assert_eq!(
        ranges,
        [
            "",
            "0-4194303",
            "4194304-8388607",
            "8388608-12582911",
            "8388608-12582911",
            "12582912-16777215",
            "16777216-20971519",
            "20971520-25165823",
            "25165824-29360127",
            "29360128-31457279",
        ]
    );
}

#[tokio::test]
async fn throttled_piece_waits_and_goes_on() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Reply(reply(413))),
        "PATCH uploads" if call.nth == 1 => {
            Some(Act::Reply(with(429, &[("retry-after", "0")], "")))
        }
        "PATCH uploads" if call.nth == 3 => Some(Act::Reply(reply(503))),
        _ => None,
    })
    .await;
    let bytes = some_bytes(13 * MIB);
    put(&open(&fake).await, &bytes).await.unwrap();
    assert_stored(&fake, &bytes);
}

#[tokio::test]
async fn lost_session_is_started_anew() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.nth == 0 => Some(Act::Reply(refuse(404, "BLOB_UPLOAD_UNKNOWN"))),
        "PUT uploads" if call.nth == 1 => Some(Act::Reply(reply(413))),
        "PATCH uploads" if call.nth == 1 => Some(Act::Reply(refuse(404, "BLOB_UPLOAD_UNKNOWN"))),
        _ => None,
    })
    .await;
    let bytes = some_bytes(9 * MIB);
    put(&open(&fake).await, &bytes).await.unwrap();
    assert_stored(&fake, &bytes);
    let always = Fake::start(|call| {
        (call.name() == "PUT uploads").then(|| Act::Reply(refuse(404, "BLOB_UPLOAD_UNKNOWN")))
    })
    .await;
    let e = put(&open(&always).await, &bytes).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
}

#[tokio::test]
async fn answer_that_is_lost_is_not_a_lost_upload() {
    for size in [100_000, 3 * MIB] {
        let fake = Fake::start(|call| is(call, "PUT uploads", 0).then_some(Act::Mute)).await;
        let bytes = some_bytes(size);
        assert_eq!(put(&open(&fake).await, &bytes).await.unwrap(), Put::Stored);
        assert_eq!(
            fake.names(),
            ["HEAD blobs", "POST uploads", "PUT uploads", "HEAD blobs"]
        );
    }
    // The same at the end of a stream.
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.nth == 0 => Some(Act::Reply(reply(405))),
        "PUT uploads" if call.nth == 1 => Some(Act::Mute),
        _ => None,
    })
    .await;
    put(&open(&fake).await, &some_bytes(3 * MIB)).await.unwrap();
}

async fn until(mut there: impl FnMut() -> bool) {
    let wait = async {
        while !there() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("it happens in the end");
}

#[tokio::test]
async fn failed_or_dropped_upload_is_cancelled() {
    let fake =
        Fake::start(|call| (call.name() == "PUT uploads").then(|| Act::Reply(reply(500)))).await;
    let store = open(&fake).await;
    let bytes = some_bytes(MIB);
    let e = put(&store, &bytes).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
    until(|| fake.model().uploads.is_empty()).await;

    let arrived = Arc::new(AtomicBool::new(false));
    let seen = arrived.clone();
    let fake = Fake::start(move |call| {
        let put = call.name() == "PUT uploads";
        seen.fetch_or(put, Ordering::SeqCst);
        // Never answered: the test drops it.
        put.then(|| Act::Change(Box::new(|_| with(500, &[], ""))))
    })
    .await;
    let store = open(&fake).await;
    {
        let sending = put(&store, &bytes);
        tokio::pin!(sending);
        tokio::select! {
            biased;
            () = until(|| arrived.load(Ordering::SeqCst)) => {}
            _ = &mut sending => {}
        }
    }
    until(|| fake.names().iter().any(|n| n == "DELETE uploads")).await;
}

#[tokio::test]
async fn wrong_digest_is_corrupt_on_either_side() {
    let fake = Fake::start(|call| {
        (call.name() == "PUT uploads").then(|| {
            Act::Change(Box::new(|mut r| {
                let other = Digest::sha256_of(b"other").to_string();
                r.headers_mut()
                    .insert("docker-content-digest", other.parse().unwrap());
                r
            }))
        })
    })
    .await;
    let bytes = some_bytes(MIB);
    let e = put(&open(&fake).await, &bytes).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");

    let fake = Fake::plain().await;
    let e = open(&fake)
        .await
        .put(&desc(&some_bytes(5)), &Body::from(some_bytes(6)))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    let mut lie = desc(&some_bytes(6));
    lie.digest = Digest::sha256_of(b"other");
    let e = open(&fake)
        .await
        .put(&lie, &Body::from(some_bytes(6)))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert!(fake.log().is_empty(), "nothing was sent");
}

#[tokio::test]
async fn pieces_put_together_wrongly_are_worth_another_try() {
    let fake = Fake::start(|call| match call.name().as_str() {
        "PUT uploads" if call.header("content-length") != "0" => Some(Act::Reply(reply(413))),
        "PUT uploads" => Some(Act::Reply(refuse(400, "DIGEST_INVALID"))),
        _ => None,
    })
    .await;
    let e = put(&open(&fake).await, &some_bytes(5 * MIB))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
}

#[tokio::test]
async fn success_that_is_none_is_found_out() {
    let fake =
        Fake::start(|call| (call.name() == "PUT uploads").then(|| Act::Reply(reply(200)))).await;
    let e = put(&open(&fake).await, &some_bytes(MIB)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
}

#[tokio::test]
async fn blob_is_mounted_from_the_first_repository_that_has_it() {
    let config = Config {
        mount_from: vec!["team/one".to_owned(), "team/two".to_owned()],
        ..Config::default()
    };
    let fake = Fake::start(|call| {
        (call.query("from") == ["team/two"])
            .then(|| Act::Reply(with(201, &[("location", "/v2/x")], "")))
    })
    .await;
    let store = open_with(&fake, config.clone()).await;
    let bytes = some_bytes(MIB);
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Existed);
    assert_eq!(
        fake.log()[1].query("mount"),
        [Digest::sha256_of(&bytes).to_string()]
    );
    // The session that the first one offered instead is not left open.
    until(|| fake.model().uploads.is_empty()).await;

    let fake = Fake::start(|call| {
        (call.query("from") == ["team/one"]).then(|| Act::Reply(refuse(403, "DENIED")))
    })
    .await;
    let store = open_with(&fake, config).await;
    assert_eq!(put(&store, &bytes).await.unwrap(), Put::Stored);
    // No second POST: the session of the failed mount is used for the upload.
    assert_eq!(
        fake.names(),
        ["HEAD blobs", "POST uploads", "POST uploads", "PUT uploads"]
    );
    assert_stored(&fake, &bytes);
}

#[tokio::test]
async fn refusals_of_an_upload_keep_their_kind() {
    for (status, code, want) in [
        (403, "DENIED", ErrorKind::Denied),
        (404, "NAME_UNKNOWN", ErrorKind::NoSuchStore),
        (429, "TOOMANYREQUESTS", ErrorKind::Throttled),
        (507, "UNKNOWN", ErrorKind::Full),
    ] {
        let fake = Fake::start(move |call| {
            (call.method == "POST").then(|| Act::Reply(refuse(status, code)))
        })
        .await;
        let e = put(&open(&fake).await, &some_bytes(MIB)).await.unwrap_err();
        assert_eq!(e.kind, want, "{e}");
        assert!(
            e.to_string().contains(code) && e.to_string().contains("said by the test"),
            "{e}"
        );
    }
}
