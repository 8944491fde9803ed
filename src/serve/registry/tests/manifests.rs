use std::time::Duration;

use super::*;

#[tokio::test]
async fn manifest_comes_back_byte_by_byte_by_tag_and_digest() {
    let door = Door::open().await;
    let mut document = image(&door, "a", &[b"layer"]).await;
    document["unknown"] = json!({"kept": [1, 2]});
    let put = door.put_manifest("a", "v1", &document).await;
    let digest = digest_of(&document);
    assert_eq!(put.status, StatusCode::CREATED);
    assert_eq!(put.header("docker-content-digest"), digest.to_string());
    for path in ["/v2/a/manifests/v1", put.header("location")] {
        let reply = door.get(path).await;
        assert_eq!(reply.body, document.to_string());
        assert_eq!(reply.header("content-type"), media::IMAGE_MANIFEST);
        assert_eq!(reply.header("docker-content-digest"), digest.to_string());
        let head = door.head(path).await;
        assert_eq!(head.header("content-length"), reply.body.len().to_string());
        assert_eq!(head.header("content-type"), media::IMAGE_MANIFEST);
    }
    let headers = [("if-none-match", &*format!("\"{digest}\""))];
    let reply = door
        .send(Method::GET, "/v2/a/manifests/v1", &headers, "")
        .await;
    assert_eq!(reply.status, StatusCode::NOT_MODIFIED);
    assert_eq!(
        door.get(&format!("/v2/b/manifests/{digest}")).await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn a_tag_says_when_it_was_written_and_a_digest_does_not() {
    let door = Door::open().await;
    let document = image(&door, "a", &[]).await;
    door.put_manifest("a", "v1", &document).await;
    let tag = door.dir.path().join("store/r/a/tags/v1");
    let file = std::fs::File::options().write(true).open(tag).unwrap();
    let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(784_111_777);
    file.set_modified(at).unwrap();
    let path = "/v2/a/manifests/v1";
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(door.get(path).await.header("last-modified"), date);
    assert_eq!(door.head(path).await.header("last-modified"), date);
    let by_digest = door
        .get(&format!("/v2/a/manifests/{}", digest_of(&document)))
        .await;
    assert_eq!(by_digest.status, StatusCode::OK);
    assert_eq!(by_digest.header("last-modified"), "");
}

#[tokio::test]
async fn manifest_of_almost_four_mebibytes_is_taken_and_a_longer_one_is_not() {
    let door = Door::open().await;
    let mut document = image(&door, "a", &[]).await;
    let annotations = |n: usize| {
        let all = (0..n).map(|i| (format!("k{i}"), json!("x".repeat(10_000))));
        Value::Object(all.collect())
    };
    document["annotations"] = annotations(390);
    assert_eq!(
        door.put_manifest("a", "big", &document).await.status,
        StatusCode::CREATED
    );
    document["annotations"] = annotations(430);
    let reply = door.put_manifest("a", "big", &document).await;
    assert_eq!(reply.status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn what_is_no_manifest_or_has_another_digest_is_refused() {
    let door = Door::open().await;
    let document = image(&door, "a", &[]).await;
    let other = Digest::sha256_of(b"other");
    for (reference, body, code) in [
        ("v1".to_owned(), "no json".to_owned(), "MANIFEST_INVALID"),
        (
            "v1".to_owned(),
            r#"{"mediaType":"a/b"}"#.to_owned(),
            "MANIFEST_INVALID",
        ),
        (other.to_string(), document.to_string(), "DIGEST_INVALID"),
        (
            "sha256:baddigeststring".to_owned(),
            document.to_string(),
            "DIGEST_INVALID",
        ),
    ] {
        let path = format!("/v2/a/manifests/{reference}");
        let headers = [("content-type", media::IMAGE_MANIFEST)];
        let reply = door.send(Method::PUT, &path, &headers, body).await;
        assert_eq!(
            (reply.status, reply.code().as_str()),
            (StatusCode::BAD_REQUEST, code),
            "{reference}"
        );
    }
}

#[tokio::test]
async fn image_that_nobody_could_pull_is_refused_unless_the_settings_accept_it() {
    let door = Door::open().await;
    let whole = image(&door, "a", &[b"layer"]).await;
    let missing = json!(Digest::sha256_of(b"missing"));
    for (pointer, value, code) in [
        ("/layers/0/digest", missing.clone(), "MANIFEST_BLOB_UNKNOWN"),
        ("/config/digest", missing.clone(), "MANIFEST_BLOB_UNKNOWN"),
        ("/layers/0/size", json!(6), "MANIFEST_INVALID"),
        ("/config/size", json!(3), "MANIFEST_INVALID"),
    ] {
        for (manifest_type, config_type) in [
            (media::IMAGE_MANIFEST, media::IMAGE_CONFIG),
            (media::DOCKER_MANIFEST, media::DOCKER_CONFIG),
        ] {
            let mut document = whole.clone();
            document["mediaType"] = json!(manifest_type);
            document["config"]["mediaType"] = json!(config_type);
            *document.pointer_mut(pointer).unwrap() = value.clone();
            door.registry.refuse_incomplete_images(true);
            let put = door.put_manifest("a", "v1", &document).await;
            assert_eq!(
                (put.status, put.code().as_str()),
                (StatusCode::BAD_REQUEST, code),
                "{pointer}"
            );
            assert_eq!(
                door.head("/v2/a/manifests/v1").await.status,
                StatusCode::NOT_FOUND
            );
            door.registry.refuse_incomplete_images(false);
            let put = door.put_manifest("a", "warned", &document).await;
            assert_eq!(put.status, StatusCode::CREATED, "{pointer}");
            let warning = put.header("warning");
            let named = document
                .pointer(&pointer.replace("size", "digest"))
                .unwrap();
            assert!(
                warning.starts_with("299 - \"") && warning.contains(named.as_str().unwrap()),
                "{warning}"
            );
        }
    }
}

#[tokio::test]
async fn what_is_no_image_or_comes_from_elsewhere_may_be_missing() {
    let door = Door::open().await;
    let whole = image(&door, "a", &[b"layer"]).await;
    let missing = Digest::sha256_of(b"missing");
    let lacking =
        |media_type: &str| json!([{"mediaType": media_type, "digest": missing, "size": 7}]);
    let artifact = |config_type: &str| {
        let mut document = whole.clone();
        document["config"]["mediaType"] = json!(config_type);
        document["layers"] = lacking(media::LAYER_GZIP);
        document
    };
    let index = |media_type: &str, entry: &str| json!({"schemaVersion": 2, "mediaType": media_type, "manifests": lacking(entry)});
    let warned = [
        index(media::IMAGE_INDEX, media::IMAGE_MANIFEST),
        index(media::DOCKER_LIST, media::DOCKER_MANIFEST),
        index(media::IMAGE_INDEX, media::LAYER_GZIP),
        artifact(media::BUILDKIT_CONFIG),
        artifact(media::EMPTY),
        artifact(media::CONFIG),
    ];
    for document in &warned {
        let put = door.put_manifest("a", "sparse", document).await;
        let seen = (put.status, put.header("warning").is_empty());
        assert_eq!(seen, (StatusCode::CREATED, false), "{document}");
    }
    let mut elsewhere = whole.clone();
    elsewhere["layers"] = lacking(media::DOCKER_LAYER_FOREIGN_GZIP);
    let mut by_url = whole.clone();
    by_url["layers"] = lacking(media::LAYER_GZIP);
    by_url["layers"][0]["urls"] = json!(["https://example.com/layer"]);
    for document in [elsewhere, by_url] {
        let put = door.put_manifest("a", "elsewhere", &document).await;
        let seen = (put.status, put.header("warning"));
        assert_eq!(seen, (StatusCode::CREATED, ""), "{document}");
    }
}

#[tokio::test]
async fn what_a_store_cannot_tell_for_now_refuses_no_image() {
    use crate::serve::registry::children::{Flaw, FlawKind};

    let door = Door::open().await;
    let digest = Digest::sha256_of(b"layer");
    let flaw = |kind| Flaw { kind, digest };
    assert!(door.registry.judge(&[flaw(FlawKind::Unknown)]).is_ok());
    assert!(door.registry.judge(&[flaw(FlawKind::Missing)]).is_err());
}

#[tokio::test]
async fn image_or_index_without_its_required_fields_is_refused() {
    let door = Door::open().await;
    let whole = image(&door, "a", &[]).await;
    for media_type in [media::IMAGE_MANIFEST, media::DOCKER_MANIFEST] {
        let document = |text: &str| text.replace("CONFIG", &whole["config"].to_string());
        for (text, is_good) in [
            (r#"{"bad":1}"#, false),
            (r#"{"schemaVersion":2}"#, false),
            (r#"{"schemaVersion":2,"layers":[]}"#, false),
            (r#"{"schemaVersion":2,"config":null,"layers":[]}"#, false),
            (r#"{"schemaVersion":2,"config":{},"layers":[]}"#, false),
            (r#"{"schemaVersion":3,"config":CONFIG,"layers":[]}"#, false),
            (r#"{"config":CONFIG,"layers":[]}"#, false),
            (r#"{"schemaVersion":2,"config":CONFIG,"layers":[]}"#, true),
            (r#"{"schemaVersion":2,"config":CONFIG,"layers":null}"#, true),
        ] {
            let headers = [("content-type", media_type)];
            let path = "/v2/a/manifests/v1";
            let put = door.send(Method::PUT, path, &headers, document(text)).await;
            let wanted = if is_good { "" } else { "MANIFEST_INVALID" };
            assert_eq!(put.code(), wanted, "{media_type} {text}");
        }
    }
    for media_type in [media::IMAGE_INDEX, media::DOCKER_LIST] {
        for (text, is_good) in [
            (r#"{"bad":1}"#, false),
            (r#"{"schemaVersion":2}"#, false),
            (r#"{"manifests":[]}"#, false),
            (r#"{"schemaVersion":2,"manifests":[]}"#, true),
        ] {
            let headers = [("content-type", media_type)];
            let put = door
                .send(Method::PUT, "/v2/a/manifests/v1", &headers, text)
                .await;
            let wanted = if is_good { "" } else { "MANIFEST_INVALID" };
            assert_eq!(put.code(), wanted, "{media_type} {text}");
        }
    }
    // The contents of other types are not checked.
    let headers = [("content-type", "application/vnd.example+json")];
    let put = door
        .send(Method::PUT, "/v2/a/manifests/x", &headers, r#"{"bad":1}"#)
        .await;
    assert_eq!(put.status, StatusCode::CREATED);
    // As accepted by an older release.
    let old = crate::artifact::Manifest::new(media::IMAGE_MANIFEST, r#"{"bad":1}"#);
    let repository = door.registry.repository(&"a".parse().unwrap());
    let tags = ["old".parse().unwrap()];
    repository.put_manifest(&old, &tags).await.unwrap();
    let got = door.get("/v2/a/manifests/old").await;
    assert_eq!(
        (got.status, &got.body[..]),
        (StatusCode::OK, &br#"{"bad":1}"#[..])
    );
}

#[tokio::test]
async fn content_that_was_deleted_here_must_be_pushed_first() {
    let door = Door::open().await;
    let document = image(&door, "a", &[b"layer"]).await;
    door.delete(&format!("/v2/a/blobs/{}", Digest::sha256_of(b"layer")))
        .await;
    let put = door.put_manifest("a", "v1", &document).await;
    assert_eq!(
        (put.status, put.code().as_str()),
        (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN")
    );
    assert_eq!(
        door.head("/v2/a/manifests/v1").await.status,
        StatusCode::NOT_FOUND
    );
}

#[tokio::test]
async fn index_may_name_blobs_as_buildkit_does() {
    let door = Door::open().await;
    let digest = door.push("a", b"layer").await;
    let document = json!({
        "schemaVersion": 2, "mediaType": media::IMAGE_INDEX,
        "manifests": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": digest, "size": 5}],
    });
    let put = door.put_manifest("a", "cache", &document).await;
    assert_eq!(
        (put.status, put.header("warning")),
        (StatusCode::CREATED, "")
    );
}

#[tokio::test]
async fn one_request_writes_many_tags() {
    let door = Door::open().await;
    let document = image(&door, "a", &[]).await;
    let digest = digest_of(&document);
    let reply = door
        .put_manifest("a", &format!("{digest}?tag=x&tag=y"), &document)
        .await;
    assert_eq!(reply.status, StatusCode::CREATED);
    let echoed: Vec<_> = reply.headers.get_all("oci-tag").iter().collect();
    assert_eq!(echoed, ["x", "y"]);
    assert_eq!(door.head("/v2/a/manifests/y").await.status, StatusCode::OK);
    let many: Vec<String> = (0..65).map(|n| format!("&tag=t{n}")).collect();
    let many = many.concat();
    let reply = door
        .put_manifest("a", &format!("{digest}?x{many}"), &document)
        .await;
    assert_eq!(reply.status, StatusCode::URI_TOO_LONG);
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_manifest_and_deleting_that_takes_its_tags() {
    let door = Door::open().await;
    let document = image(&door, "a", &[]).await;
    for tag in ["x", "y", "z"] {
        door.put_manifest("a", tag, &document).await;
    }
    let by_digest = format!("/v2/a/manifests/{}", digest_of(&document));
    assert_eq!(
        door.delete("/v2/a/manifests/x").await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(
        door.head("/v2/a/manifests/x").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        door.delete("/v2/a/manifests/x").await.status,
        StatusCode::NOT_FOUND
    );
    assert_eq!(door.head(&by_digest).await.status, StatusCode::OK);
    assert_eq!(door.delete(&by_digest).await.status, StatusCode::ACCEPTED);
    for path in [&*by_digest, "/v2/a/manifests/y", "/v2/a/manifests/z"] {
        assert_eq!(
            door.head(path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
}

#[tokio::test]
async fn manifest_whose_bytes_are_damaged_is_unknown_and_heals_by_a_push() {
    let door = Door::open().await;
    let document = image(&door, "a", &[]).await;
    door.put_manifest("a", "v1", &document).await;
    let digest = digest_of(&document);
    let file = door
        .dir
        .path()
        .join("store/blobs/sha256")
        .join(digest.hex());
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "{}").unwrap();
    for path in [
        "/v2/a/manifests/v1".to_owned(),
        format!("/v2/a/manifests/{digest}"),
    ] {
        assert_eq!(
            door.get(&path).await.status,
            StatusCode::NOT_FOUND,
            "{path}"
        );
    }
    assert_eq!(
        door.put_manifest("a", "v1", &document).await.status,
        StatusCode::CREATED
    );
    assert_eq!(
        door.get("/v2/a/manifests/v1").await.body,
        document.to_string()
    );
}

#[tokio::test]
async fn manifest_that_a_browser_would_run_is_refused_and_an_old_one_is_served_as_bytes() {
    let door = Door::open().await;
    let page = r#"{"schemaVersion":2,"x":"<script>alert(document.domain)</script>"}"#;
    for media_type in [
        "text/html",
        "text/html; charset=utf-8",
        "image/svg+xml",
        "application/xhtml+xml",
    ] {
        let headers = [("content-type", media_type)];
        let put = door
            .send(Method::PUT, "/v2/a/manifests/x", &headers, page)
            .await;
        assert_eq!(
            (put.status, put.code().as_str()),
            (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
            "{media_type}"
        );
    }
    // Nor by its own media type, if the request has none.
    let own = r#"{"schemaVersion":2,"mediaType":"text/html"}"#;
    let put = door.send(Method::PUT, "/v2/a/manifests/x", &[], own).await;
    assert_eq!(put.code(), "MANIFEST_INVALID");
    // As accepted by an older release.
    let old = crate::artifact::Manifest::new("text/html", page);
    let repository = door.registry.repository(&"a".parse().unwrap());
    repository
        .put_manifest(&old, &["old".parse().unwrap()])
        .await
        .unwrap();
    let got = door.get("/v2/a/manifests/old").await;
    assert_eq!(got.header("content-type"), "application/octet-stream");
    assert_eq!(
        (got.status, &got.body[..]),
        (StatusCode::OK, page.as_bytes())
    );
}

#[tokio::test]
async fn more_annotations_than_any_artifact_has_are_refused() {
    let door = Door::open().await;
    let subject =
        json!({"mediaType": media::IMAGE_MANIFEST, "digest": Digest::sha256_of(b"s"), "size": 1});
    for (count, status) in [
        (10_000, StatusCode::CREATED),
        (10_001, StatusCode::BAD_REQUEST),
    ] {
        let annotations: serde_json::Map<_, _> =
            (0..count).map(|n| (n.to_string(), json!(""))).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": [],
            "subject": subject, "annotations": annotations});
        let put = door.put_manifest("a", "many", &manifest).await;
        assert_eq!(put.status, status, "{count}");
    }
}

#[tokio::test]
async fn artifact_type_has_the_length_of_a_media_type() {
    let door = Door::open().await;
    for (length, status) in [(255, StatusCode::CREATED), (256, StatusCode::BAD_REQUEST)] {
        let manifest = json!({"schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": [],
            "artifactType": "a".repeat(length)});
        let put = door.put_manifest("a", "typed", &manifest).await;
        assert_eq!(put.status, status, "{length}");
    }
}

#[tokio::test(start_paused = true)]
async fn large_manifests_that_do_not_end_take_few_places_for_a_moment_and_small_ones_none() {
    use futures_util::{FutureExt as _, StreamExt as _, future::join_all, stream};

    let door = Door::open().await;
    let stuck = || {
        let start = stream::iter([Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 70 << 10]))]);
        Body::from_stream(start.chain(stream::pending()))
    };
    let send = || door.send(Method::PUT, "/v2/a/manifests/large", &[], stuck());
    let mut held: Vec<_> = (0..40).map(|_| Box::pin(send())).collect();
    let admission = door.admission.clone();
    let places = admission.large_transfers.places();
    let mut polls = 0;
    // One caller may have all permits but the two that are reserved for others; the rest wait with what one read returned.
    while places.taken() < 14 || places.waiting() < 26 {
        for one in &mut held {
            assert!(one.as_mut().now_or_never().is_none());
        }
        tokio::task::yield_now().await;
        polls += 1;
        assert!(polls < 100_000, "{} taken", places.taken());
    }
    assert_eq!(places.taken(), 14);
    assert_eq!(admission.large_manifests.taken(), 0);
    assert_eq!(admission.requests.taken(), 0);
    // Slow senders do not keep others from the permits: a few bodies are kept in memory, the others are cut.
    let mut all = Box::pin(join_all(held));
    let while_they_send = tokio::time::timeout(Duration::from_secs(20), &mut all).await;
    assert!(while_they_send.is_err());
    assert_eq!((places.taken(), places.waiting()), (0, 0));
    let config =
        json!({"mediaType": media::CONFIG, "digest": door.push("a", b"{}").await, "size": 2});
    let small = json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "config": config, "layers": []});
    let put = door.put_manifest("a", "small", &small).await;
    assert_eq!(put.status, StatusCode::CREATED);
    let mut large = small;
    large["annotations"] = json!({"a": "a".repeat(64 << 10)});
    let put = door.put_manifest("a", "large", &large).await;
    assert_eq!(put.status, StatusCode::CREATED);
    assert_eq!(places.taken(), 0);
    // After a minute all have ended.
    let over = all.await;
    let cut = over
        .iter()
        .filter(|reply| reply.status != StatusCode::REQUEST_TIMEOUT);
    assert_eq!(cut.count(), 24);
}
