use super::*;

#[tokio::test]
async fn blob_is_pushed_in_one_request() {
    let door = Door::open().await;
    let digest = Digest::sha256_of(b"whole");
    let path = format!(
        "/v2/a/blobs/uploads/?digest={}",
        digest.to_string().replace(':', "%3A")
    );
    let reply = door.send(Method::POST, &path, &[], "whole").await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(door.get(reply.header("location")).await.body, "whole");
}

#[tokio::test]
async fn empty_blob_works_on_every_way() {
    let door = Door::open().await;
    let digest = door.push("a", b"").await;
    let path = format!("/v2/a/blobs/uploads/?digest={digest}");
    assert_eq!(
        door.send(Method::POST, &path, &[], "").await.status,
        StatusCode::CREATED
    );
    let at = door.begin("a").await;
    let patched = door.send(Method::PATCH, &at, &[], "").await;
    let at = with(patched.header("location"), "digest", &digest);
    assert_eq!(
        door.send(Method::PUT, &at, &[("content-length", "0")], "")
            .await
            .status,
        StatusCode::CREATED
    );
    let reply = door.get(&format!("/v2/a/blobs/{digest}")).await;
    assert_eq!((reply.status, reply.body.len()), (StatusCode::OK, 0));
}

#[tokio::test]
async fn chunks_follow_one_another_and_only_then_are_taken() {
    let door = Door::open().await;
    let mut at = door.begin("a").await;
    // The first chunk may be out of order too.
    let wrong = door
        .send(Method::PATCH, &at, &[("content-range", "5-9")], "world")
        .await;
    assert_eq!(
        (wrong.status, wrong.code().as_str()),
        (StatusCode::RANGE_NOT_SATISFIABLE, "BLOB_UPLOAD_INVALID")
    );
    let status = door.get(&at).await;
    assert_eq!(
        (status.status, status.header("range")),
        (StatusCode::NO_CONTENT, "0-0")
    );
    let first = door
        .send(Method::PATCH, &at, &[("content-range", "0-4")], "hello")
        .await;
    assert_eq!(
        (first.status, first.header("range")),
        (StatusCode::ACCEPTED, "0-4")
    );
    first.header("location").clone_into(&mut at);
    let again = door
        .send(Method::PATCH, &at, &[("content-range", "0-4")], "hello")
        .await;
    assert_eq!(
        (again.status, again.header("range")),
        (StatusCode::RANGE_NOT_SATISFIABLE, "0-4")
    );
    let digest = Digest::sha256_of(b"helloworld");
    let last = with(&at, "digest", &digest);
    let early = door
        .send(Method::PUT, &last, &[("content-range", "7-11")], "world")
        .await;
    assert_eq!(
        early.status,
        StatusCode::RANGE_NOT_SATISFIABLE,
        "and the upload lives on"
    );
    let done = door
        .send(Method::PUT, &last, &[("content-range", "5-9")], "world")
        .await;
    assert_eq!(done.status, StatusCode::CREATED);
    assert_eq!(door.get(done.header("location")).await.body, "helloworld");
}

#[tokio::test]
async fn chunk_that_is_not_as_long_as_it_says_is_refused() {
    let door = Door::open().await;
    for body in ["hell", "hello!"] {
        let at = door.begin("a").await;
        let reply = door
            .send(Method::PATCH, &at, &[("content-range", "0-4")], body)
            .await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (StatusCode::BAD_REQUEST, "SIZE_INVALID"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn wrong_digest_stores_nothing_and_ends_the_upload() {
    let door = Door::open().await;
    let wrong = Digest::sha256_of(b"other");
    let at = with(&door.begin("a").await, "digest", &wrong);
    let put = door.send(Method::PUT, &at, &[], "bytes").await;
    assert_eq!(
        (put.status, put.code().as_str()),
        (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
    );
    // The store is not asked: it may be away, and the answer would wait for it.
    assert_eq!(door.asked.snapshot().put.requests, 0);
    assert_eq!(door.get(&at).await.status, StatusCode::NOT_FOUND);
    for bytes in [&b"bytes"[..], b"other"] {
        let path = format!("/v2/a/blobs/{}", Digest::sha256_of(bytes));
        assert_eq!(door.head(&path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn sha512_is_pushed_without_a_word_before() {
    let door = Door::open().await;
    let mut hasher = format!("sha512:{}", "0".repeat(128))
        .parse::<Digest>()
        .unwrap()
        .hasher();
    hasher.update(b"five hundred and twelve");
    let digest = hasher.finish();
    let patched = door.begin("a").await;
    let patched = door
        .send(Method::PATCH, &patched, &[], "five hundred and twelve")
        .await;
    let at = with(patched.header("location"), "digest", &digest);
    let put = door
        .send(Method::PUT, &at, &[("content-length", "0")], "")
        .await;
    assert_eq!(
        (put.status, put.header("docker-content-digest")),
        (StatusCode::CREATED, &*digest.to_string())
    );
    assert_eq!(
        door.get(put.header("location")).await.body,
        "five hundred and twelve"
    );
}

#[tokio::test]
async fn algorithms_that_we_have_may_be_announced_and_no_others() {
    let door = Door::open().await;
    for (name, want) in [
        ("sha512", StatusCode::ACCEPTED),
        ("md5", StatusCode::BAD_REQUEST),
    ] {
        let path = format!("/v2/a/blobs/uploads/?digest-algorithm={name}");
        assert_eq!(
            door.send(Method::POST, &path, &[], "").await.status,
            want,
            "{name}"
        );
    }
}

#[tokio::test]
async fn cancelled_upload_is_gone() {
    let door = Door::open().await;
    let at = door.begin("a").await;
    assert_eq!(door.delete(&at).await.status, StatusCode::NO_CONTENT);
    assert_eq!(door.get(&at).await.code(), "BLOB_UPLOAD_UNKNOWN");
    assert_eq!(door.delete(&at).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn upload_belongs_to_its_repository() {
    let door = Door::open().await;
    let at = door.begin("team/a").await.replace("/team/a/", "/team/b/");
    assert_eq!(
        door.send(Method::PATCH, &at, &[], "x").await.code(),
        "BLOB_UPLOAD_UNKNOWN"
    );
}

#[tokio::test]
async fn mount_needs_a_source_that_shows_the_blob() {
    let door = Door::open().await;
    let digest = door.push("from", b"layer").await;
    door.delete(&format!("/v2/to/blobs/{digest}")).await;
    let mount = |from: &str| format!("/v2/to/blobs/uploads/?mount={digest}{from}");
    let reply = door.send(Method::POST, &mount("&from=from"), &[], "").await;
    assert_eq!(reply.status, StatusCode::CREATED);
    assert_eq!(door.get(reply.header("location")).await.body, "layer");
    let anonymous = door.send(Method::POST, &mount(""), &[], "").await;
    assert_eq!(anonymous.status, StatusCode::CREATED);
    door.delete(&format!("/v2/from/blobs/{digest}")).await;
    let refused = door.send(Method::POST, &mount("&from=from"), &[], "").await;
    assert_eq!(refused.status, StatusCode::ACCEPTED, "an upload instead");
    let missing = Digest::sha256_of(b"missing");
    let path = format!("/v2/to/blobs/uploads/?mount={missing}&from=from");
    let reply = door.send(Method::POST, &path, &[], "").await;
    let at = with(reply.header("location"), "digest", &missing);
    assert_eq!(
        door.send(Method::PUT, &at, &[], "missing").await.status,
        StatusCode::CREATED
    );
}

#[tokio::test]
async fn upload_goes_on_after_a_restart() {
    let door = Door::open().await;
    let store = door.dir.path().join("kept");
    let open = || async {
        let url: StoreUrl = format!("disk:{}", store.display()).parse().unwrap();
        let opened = open::open(&url, &Options::default()).await.unwrap();
        let uploads = Uploads::open(&store.join("uploads"), None, false).unwrap();
        Door {
            registry: Registry::new(
                opened.facts().repositories.clone().unwrap(),
                Arc::new(uploads),
                Arc::default(),
            ),
            gateway: gateway(&store, auth::Config::default(), &door.admission).await,
            admission: door.admission.clone(),
            dir: door.dir.clone(),
            peer: Peer::unix(),
            asked: opened.facts().metrics[0].clone(),
        }
    };
    let before = open().await;
    let at = before.begin("a").await;
    let at = before
        .send(Method::PATCH, &at, &[], "first ")
        .await
        .header("location")
        .to_owned();
    drop(before);
    let after = open().await;
    assert_eq!(after.get(&at).await.header("range"), "0-5");
    let digest = Digest::sha256_of(b"first second");
    let put = after
        .send(Method::PUT, &with(&at, "digest", &digest), &[], "second")
        .await;
    assert_eq!(put.status, StatusCode::CREATED);
}

#[tokio::test]
async fn chunks_of_one_upload_that_come_at_once_to_several_daemons_are_taken_in_order() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let doors = [
        Door::over(dir.clone(), true).await,
        Door::over(dir, true).await,
    ];
    let chunk = [("content-range", "0-2")];
    let at = doors[0].begin("a").await;
    let first = doors[0].send(Method::PATCH, &at, &chunk, "abc").await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    for headers in [&chunk[..], &[]] {
        let late = doors.iter().chain(&doors).chain(&doors);
        let late = late.map(|door| door.send(Method::PATCH, &at, headers, "xy!"));
        for late in futures_util::future::join_all(late).await {
            let range = (late.status, late.header("range"));
            assert_eq!(range, (StatusCode::RANGE_NOT_SATISFIABLE, "0-2"));
        }
    }
    // With a single daemon one of them is first.
    let at = doors[1].begin("a").await;
    let all = (0..8).map(|_| doors[1].send(Method::PATCH, &at, &chunk, "abc"));
    let mut all = futures_util::future::join_all(all).await;
    all.sort_by_key(|reply| reply.status);
    assert_eq!(all[0].status, StatusCode::ACCEPTED);
    for late in &all[1..] {
        assert_eq!(late.status, StatusCode::RANGE_NOT_SATISFIABLE);
    }
    let digest = Digest::sha256_of(b"abcdef");
    let last = with(all[0].header("location"), "digest", &digest);
    let put = doors[0].send(Method::PUT, &last, &[], "def").await;
    assert_eq!(put.status, StatusCode::CREATED, "{:?}", put.body);
}

#[tokio::test]
async fn a_false_word_of_how_far_an_upload_is_leaves_it_as_it_was() {
    for shared in [true, false] {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        let doors = [
            Door::over(dir.clone(), shared).await,
            Door::over(dir, shared).await,
        ];
        let doors = if shared { &doors[..] } else { &doors[..1] };
        let at = doors[0].begin("a").await;
        let at = doors[0].send(Method::PATCH, &at, &[], "abc").await;
        let at = at.header("location").to_owned();
        let bare = at.split_once('?').unwrap().0;
        let digest = Digest::sha256_of(b"abcdef");
        for door in doors {
            for said in [u64::MAX, u64::MAX - 1, 1 << 50, 4, 2] {
                let false_at = format!("{bare}?at={said}");
                if shared {
                    let patch = door.send(Method::PATCH, &false_at, &[], "x").await;
                    assert_eq!(patch.status, StatusCode::RANGE_NOT_SATISFIABLE, "{said}");
                    let put = with(&false_at, "digest", &digest);
                    let put = door.send(Method::PUT, &put, &[], "x").await;
                    assert_eq!(put.status, StatusCode::RANGE_NOT_SATISFIABLE, "{said}");
                } else {
                    // Only the range determines where a chunk belongs.
                    let chunk = [("content-range", "9-9")];
                    let patch = door.send(Method::PATCH, &false_at, &chunk, "x").await;
                    assert_eq!(patch.status, StatusCode::RANGE_NOT_SATISFIABLE, "{said}");
                    let patch = door.send(Method::PATCH, &false_at, &[], "").await;
                    assert_eq!(patch.status, StatusCode::ACCEPTED, "{said}");
                }
                assert_eq!(door.get(&at).await.header("range"), "0-2", "{said}");
            }
        }
        let last = doors.last().unwrap();
        let put = with(&at, "digest", &digest);
        let put = last.send(Method::PUT, &put, &[], "def").await;
        assert_eq!(put.status, StatusCode::CREATED, "{:?}", put.body);
    }
}

#[tokio::test]
async fn any_daemon_over_the_same_store_goes_on_with_an_upload() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let (one, two) = (
        Door::over(dir.clone(), true).await,
        Door::over(dir, true).await,
    );
    let at = one.begin("a").await;
    let at = two
        .send(Method::PATCH, &at, &[("content-range", "0-2")], "abc")
        .await
        .header("location")
        .to_owned();
    assert_eq!(one.get(&at).await.header("range"), "0-2");
    let wrong = one
        .send(Method::PATCH, &at, &[("content-range", "9-9")], "x")
        .await;
    assert_eq!(wrong.status, StatusCode::RANGE_NOT_SATISFIABLE);
    let at = one
        .send(Method::PATCH, &at, &[("content-range", "3-5")], "def")
        .await
        .header("location")
        .to_owned();
    let digest = Digest::sha256_of(b"abcdefghi");
    let put = two
        .send(
            Method::PUT,
            &with(&at, "digest", &digest),
            &[("content-range", "6-8")],
            "ghi",
        )
        .await;
    assert_eq!(put.status, StatusCode::CREATED, "{:?}", put.body);
    assert_eq!(one.get(put.header("location")).await.body, "abcdefghi");
    let at = one.begin("a").await;
    let at = one
        .send(Method::PATCH, &at, &[], "abc")
        .await
        .header("location")
        .to_owned();
    assert_eq!(two.delete(&at).await.status, StatusCode::NO_CONTENT);
    assert_eq!(one.get(&at).await.status, StatusCode::NOT_FOUND);
}
