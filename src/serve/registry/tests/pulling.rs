use super::*;

#[tokio::test]
async fn blob_is_read_whole_and_in_ranges() {
    let door = Door::open().await;
    let bytes: Vec<u8> = (0..2048_u32).map(|n| (n % 251) as u8).collect();
    let digest = door.push("a/b", &bytes).await;
    let path = format!("/v2/a/b/blobs/{digest}");
    let whole = door.get(&path).await;
    assert_eq!(
        (whole.status, &whole.body[..]),
        (StatusCode::OK, &bytes[..])
    );
    assert_eq!(whole.header("accept-ranges"), "bytes");
    assert_eq!(whole.header("content-type"), "application/octet-stream");
    assert_eq!(whole.header("content-disposition"), "attachment");
    let head = door.head(&path).await;
    assert_eq!(
        (head.status, head.header("content-length")),
        (StatusCode::OK, "2048")
    );
    assert!(head.body.is_empty());
    for (range, want, named) in [
        ("bytes=500-1499", 500..1500, "bytes 500-1499/2048"),
        ("bytes=500-", 500..2048, "bytes 500-2047/2048"),
        ("bytes=-500", 1548..2048, "bytes 1548-2047/2048"),
        ("bytes=2000-5000", 2000..2048, "bytes 2000-2047/2048"),
    ] {
        let part = door.send(Method::GET, &path, &[("range", range)], "").await;
        assert_eq!(part.status, StatusCode::PARTIAL_CONTENT, "{range}");
        assert_eq!(part.header("content-range"), named);
        assert_eq!(part.header("content-length"), want.len().to_string());
        assert_eq!(part.body, bytes[want]);
    }
    for range in ["bytes=500-0", "bytes=5000-10000"] {
        let part = door.send(Method::GET, &path, &[("range", range)], "").await;
        assert_eq!(part.status, StatusCode::RANGE_NOT_SATISFIABLE, "{range}");
        assert_eq!(part.header("content-range"), "bytes */2048");
    }
}

#[tokio::test]
async fn a_range_of_something_else_is_answered_with_the_whole() {
    let door = Door::open().await;
    let digest = door.push("a", b"0123456789").await;
    let path = format!("/v2/a/blobs/{digest}");
    let own = format!("\"{digest}\"");
    let (weak, bare) = (format!("W/{own}"), digest.to_string());
    let other = format!("\"{}\"", Digest::sha256_of(b"other"));
    let date = "Sun, 29 Nov 2026 16:00:00 GMT";
    for (validator, status, body) in [
        (&*own, StatusCode::PARTIAL_CONTENT, "234"),
        (&*weak, StatusCode::OK, "0123456789"),
        (&*bare, StatusCode::OK, "0123456789"),
        (&*other, StatusCode::OK, "0123456789"),
        (date, StatusCode::OK, "0123456789"),
    ] {
        let headers = [("range", "bytes=2-4"), ("if-range", validator)];
        let reply = door.send(Method::GET, &path, &headers, "").await;
        assert_eq!(
            (reply.status, &reply.body[..]),
            (status, body.as_bytes()),
            "{validator}"
        );
        // Then even an unsatisfiable range is not refused.
        let headers = [("range", "bytes=20-"), ("if-range", validator)];
        let reply = door.send(Method::GET, &path, &headers, "").await;
        let refused = reply.status == StatusCode::RANGE_NOT_SATISFIABLE;
        assert_eq!(refused, validator == own, "{validator}");
    }
}

#[tokio::test]
async fn nothing_compresses_or_encodes_a_blob() {
    let door = Door::open().await;
    let digest = door.push("a", &[b'x'; 5000]).await;
    let headers = [("accept-encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5")];
    let path = format!("/v2/a/blobs/{digest}");
    let reply = door.send(Method::GET, &path, &headers, "").await;
    assert_eq!(reply.header("content-encoding"), "");
    assert_eq!(
        (reply.header("content-length"), reply.body.len()),
        ("5000", 5000)
    );
}

#[tokio::test]
async fn missing_and_malformed_digests_are_told_apart() {
    let door = Door::open().await;
    let unknown = Digest::sha256_of(b"?");
    let reply = door.get(&format!("/v2/a/blobs/{unknown}")).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::NOT_FOUND, "BLOB_UNKNOWN")
    );
    let reply = door.get("/v2/a/blobs/sha256:bad").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::BAD_REQUEST, "DIGEST_INVALID")
    );
    let reply = door.get(&format!("/v2/a/manifests/{unknown}")).await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN")
    );
}

#[tokio::test]
async fn blob_lost_on_disk_is_unknown_and_can_be_pushed_again() {
    let door = Door::open().await;
    let digest = door.push("a", b"layer").await;
    let file = door
        .dir
        .path()
        .join("store/blobs/sha256")
        .join(digest.hex());
    std::fs::remove_file(file).unwrap();
    let path = format!("/v2/a/blobs/{digest}");
    assert_eq!(door.head(&path).await.status, StatusCode::NOT_FOUND);
    assert_eq!(door.get(&path).await.status, StatusCode::NOT_FOUND);
    door.push("a", b"layer").await;
    assert_eq!(door.get(&path).await.body, "layer");
}

#[tokio::test]
async fn deleted_blob_is_hidden_in_its_repository_only_until_it_comes_again() {
    let door = Door::open().await;
    let digest = door.push("a", b"common").await;
    let (a, b) = (
        format!("/v2/a/blobs/{digest}"),
        format!("/v2/b/blobs/{digest}"),
    );
    assert_eq!(
        door.head(&b).await.status,
        StatusCode::OK,
        "one copy serves all"
    );
    assert_eq!(door.delete(&a).await.status, StatusCode::ACCEPTED);
    assert_eq!(door.head(&a).await.status, StatusCode::NOT_FOUND);
    assert_eq!(door.delete(&a).await.status, StatusCode::NOT_FOUND);
    assert_eq!(door.head(&b).await.status, StatusCode::OK);
    door.push("a", b"common").await;
    assert_eq!(door.head(&a).await.status, StatusCode::OK);
}
