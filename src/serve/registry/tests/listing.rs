use super::*;

fn names(reply: &Reply) -> Vec<String> {
    serde_json::from_value(reply.json()["tags"].clone()).unwrap()
}

#[tokio::test]
async fn repository_that_is_not_there_has_no_tags_but_a_list_of_referrers() {
    let door = Door::open().await;
    let reply = door.get("/v2/nobody/tags/list").await;
    assert_eq!(
        (reply.status, reply.code().as_str()),
        (StatusCode::NOT_FOUND, "NAME_UNKNOWN")
    );
    let reply = door
        .get(&format!("/v2/nobody/referrers/{}", Digest::sha256_of(b"x")))
        .await;
    assert_eq!(reply.status, StatusCode::OK);
    assert_eq!(reply.header("content-type"), media::IMAGE_INDEX);
    assert_eq!(reply.json()["manifests"], json!([]));
}

#[tokio::test]
async fn tags_are_listed_by_bytes_and_in_pages() {
    let door = Door::open().await;
    let document = image(&door, "a", &[]).await;
    for tag in ["b", "A", "c", "a", "_x"] {
        door.put_manifest("a", tag, &document).await;
    }
    assert_eq!(
        names(&door.get("/v2/a/tags/list").await),
        ["A", "_x", "a", "b", "c"]
    );
    let mut path = "/v2/a/tags/list?n=2".to_owned();
    let mut seen = Vec::new();
    loop {
        let page = door.get(&path).await;
        assert!(names(&page).len() <= 2);
        seen.extend(names(&page));
        let Some((link, rel)) = page.header("link").split_once(">; ") else {
            break;
        };
        assert_eq!(rel, "rel=\"next\"");
        link[1..].clone_into(&mut path);
    }
    assert_eq!(seen, ["A", "_x", "a", "b", "c"]);
    assert_eq!(names(&door.get("/v2/a/tags/list?last=a").await), ["b", "c"]);
    let none = door.get("/v2/a/tags/list?n=0").await;
    assert_eq!((names(&none).len(), none.header("link")), (0, ""));
    assert_eq!(
        door.get("/v2/a/tags/list?n=x").await.status,
        StatusCode::BAD_REQUEST
    );
}

#[tokio::test]
async fn referrers_are_described_filtered_and_forgotten_with_their_manifest() {
    let door = Door::open().await;
    // The subject need not be there.
    let subject = Digest::sha256_of(b"later");
    let mut document = image(&door, "a", &[]).await;
    document["subject"] = json!({"mediaType": media::IMAGE_MANIFEST, "digest": subject, "size": 5});
    document["annotations"] = json!({"k": "v"});
    let plain = document.clone();
    document["artifactType"] = json!("application/x.sbom");
    for (tag, document) in [("one", &plain), ("two", &document)] {
        let put = door.put_manifest("a", tag, document).await;
        assert_eq!(put.header("oci-subject"), subject.to_string());
    }
    let path = format!("/v2/a/referrers/{subject}");
    let all = door.get(&path).await.json()["manifests"].clone();
    assert_eq!(all.as_array().unwrap().len(), 2);
    let found = door
        .get(&format!("{path}?artifactType=application/x.sbom"))
        .await;
    assert_eq!(found.header("oci-filters-applied"), "artifactType");
    let only = &found.json()["manifests"];
    assert_eq!(only.as_array().unwrap().len(), 1);
    assert_eq!(only[0]["digest"], json!(digest_of(&document)));
    assert_eq!(only[0]["annotations"]["k"], "v");
    // Without a word of its own, the config's type says what it is.
    let of_config = door
        .get(&format!(
            "{path}?artifactType=application/vnd.oci.image.config.v1%2Bjson"
        ))
        .await;
    assert_eq!(
        of_config.json()["manifests"][0]["digest"],
        json!(digest_of(&plain))
    );
    door.delete(&format!("/v2/a/manifests/{}", digest_of(&document)))
        .await;
    let left = door.get(&path).await.json();
    assert_eq!(left["manifests"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_page_of_referrers_reads_so_many_bytes_and_the_next_ones_have_the_rest() {
    let door = Door::open().await;
    let subject = json!({"mediaType": media::IMAGE_MANIFEST, "digest": Digest::sha256_of(b"later"), "size": 5});
    for n in 0..6 {
        let document = json!({"schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": [], "subject": subject,
            "artifactType": "application/x.large", "annotations": {"a": "x".repeat(3_900_000), "n": n.to_string()}});
        let put = door.put_manifest("a", &format!("t{n}"), &document).await;
        assert_eq!(put.status, StatusCode::CREATED);
    }
    for (wanted, count) in [("application/x.large", 6), ("application/x.none", 0)] {
        let path = format!("/v2/a/referrers/{}", Digest::sha256_of(b"later"));
        let mut next = Some(format!("{path}?artifactType={wanted}"));
        let (mut pages, mut found) = (0, Vec::new());
        while let Some(path) = next {
            let page = door.get(&path).await;
            assert_eq!(page.status, StatusCode::OK);
            pages += 1;
            for manifest in page.json()["manifests"].as_array().unwrap() {
                found.push(manifest["digest"].to_string());
            }
            let link = page.headers.get("link").map(|l| l.to_str().unwrap());
            next = link.map(|l| l[1..l.find('>').unwrap()].to_owned());
        }
        found.dedup();
        assert_eq!(found.len(), count);
        assert!(pages > 1, "all was read for one page of {wanted}");
    }
    assert_eq!(door.registry.admission.lists.taken(), 0);
}

/// What pages of `path` list, one after the other.
async fn catalog(door: &Door, path: &str) -> Vec<Vec<String>> {
    let (mut pages, mut path) = (Vec::new(), path.to_owned());
    loop {
        let page = door.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{:?}", page.body);
        pages.push(serde_json::from_value(page.json()["repositories"].clone()).unwrap());
        let Some((link, rel)) = page.header("link").split_once(">; ") else {
            return pages;
        };
        assert_eq!(rel, "rel=\"next\"");
        link[1..].clone_into(&mut path);
    }
}

#[tokio::test]
async fn repositories_are_listed_in_pages_and_those_that_hold_nothing_are_not() {
    let door = Door::open().await;
    assert_eq!(catalog(&door, "/v2/_catalog").await, [[""; 0]]);
    for repo in ["b/x", "a", "c", "gone", "b"] {
        let document = image(&door, repo, &[]).await;
        door.put_manifest(repo, "v1", &document).await;
    }
    let document = image(&door, "gone", &[]).await;
    door.delete(&format!("/v2/gone/manifests/{}", digest_of(&document)))
        .await;
    assert_eq!(
        catalog(&door, "/v2/_catalog").await,
        [["a", "b", "b/x", "c"]]
    );
    let pages = catalog(&door, "/v2/_catalog?n=2").await;
    assert_eq!(pages, [vec!["a", "b"], vec!["b/x", "c"], vec![]]);
    assert_eq!(catalog(&door, "/v2/_catalog?last=b").await, [["b/x", "c"]]);
    assert_eq!(catalog(&door, "/v2/_catalog?n=0").await, [[""; 0]]);
    let bad = door.get("/v2/_catalog?n=x").await;
    assert_eq!(bad.status, StatusCode::BAD_REQUEST);
    let put = door.send(Method::PUT, "/v2/_catalog", &[], "").await;
    assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn repositories_that_a_caller_may_not_read_are_not_listed() {
    let door = Door::open().await;
    for repo in ["a/x", "a/y", "b/x", "c"] {
        let document = image(&door, repo, &[]).await;
        door.put_manifest(repo, "v1", &document).await;
    }
    let door = super::sharing::tenants_at(door).await;
    for (name, wanted) in [
        ("a", &["a/x", "a/y"][..]),
        ("b", &["b/x"]),
        ("admin", &["a/x", "a/y", "b/x", "c"]),
    ] {
        let tenant = super::sharing::Tenant { door: &door, name };
        let get = |path| tenant.send_as(Method::GET, path, "", "");
        let all = get("/v2/_catalog").await;
        assert_eq!(all.json()["repositories"], json!(wanted), "{name}");
        // Neither do pages tell of others.
        let page = get("/v2/_catalog?n=1").await;
        assert_eq!(page.json()["repositories"], json!(wanted[..1]), "{name}");
        let link = page.header("link");
        assert_eq!(link.is_empty(), wanted.len() == 1, "{name}: {link}");
    }
    let nobody = door.get("/v2/_catalog").await;
    let challenge = nobody.header("www-authenticate");
    assert_eq!(nobody.status, StatusCode::UNAUTHORIZED);
    assert!(
        challenge.is_empty() || challenge.contains("scope=\"registry:catalog:*\""),
        "{challenge}"
    );
}
