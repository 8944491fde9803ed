//! A caller that may read only some repositories cannot get the blobs of others by knowing their digests.

use super::*;

/// A manifest type without any requirements beyond those of every document.
const KIND: &str = "application/vnd.example.kept.v1+json";

/// A door where `a` may do everything in `a/**`, `b` in `b/**`, and `admin` everywhere.
async fn tenants() -> Door {
    tenants_at(Door::open().await).await
}

pub(super) async fn tenants_at(mut door: Door) -> Door {
    let tokens = door.dir.path().join("tokens");
    std::fs::write(
        &tokens,
        "a token-of-a-0123456789\nb token-of-b-0123456789\nreader token-of-reader-0123456789\nadmin token-of-admin-0123456789\n",
    )
    .unwrap();
    let all = &auth::Action::ALL[..];
    let grant = |name: &str, repositories: &str, actions: &[auth::Action]| auth::Rule {
        principals: vec![name.to_owned()],
        repositories: vec![repositories.to_owned()],
        actions: actions.to_vec(),
    };
    let config = auth::Config {
        tokens: Some(tokens),
        grants: vec![
            grant("a", "a/**", all),
            grant("b", "b/**", all),
            grant("reader", "a/**", &[auth::Action::Pull]),
            grant("admin", "**", all),
        ],
        ..auth::Config::default()
    };
    door.peer = Peer::tcp([10, 0, 0, 1].into());
    door.gateway = gateway(door.dir.path(), config, &door.admission).await;
    door
}

pub(super) struct Tenant<'d> {
    pub(super) door: &'d Door,
    pub(super) name: &'static str,
}

impl Tenant<'_> {
    async fn send(&self, method: Method, path: &str, body: &str) -> Reply {
        let read = serde_json::from_str::<Value>(body).unwrap_or_default();
        let media_type = read["mediaType"].as_str().unwrap_or(KIND);
        self.send_as(method, path, media_type, body).await
    }

    pub(super) async fn send_as(
        &self,
        method: Method,
        path: &str,
        media_type: &str,
        body: &str,
    ) -> Reply {
        let token = format!("Bearer token-of-{}-0123456789", self.name);
        let headers = [("authorization", &*token), ("content-type", media_type)];
        self.door
            .send(method, path, &headers, body.to_owned())
            .await
    }

    async fn push(&self, repo: &str, bytes: &str) -> Digest {
        let digest = Digest::sha256_of(bytes.as_bytes());
        let path = format!("/v2/{repo}/blobs/uploads/?digest={digest}");
        assert_eq!(
            self.send(Method::POST, &path, bytes).await.status,
            StatusCode::CREATED
        );
        digest
    }
}

fn naming(layer: &Digest) -> String {
    json!({"schemaVersion": 2, "mediaType": KIND,
        "layers": [{"mediaType": "a/b", "digest": layer, "size": 6}]})
    .to_string()
}

#[tokio::test]
async fn digest_alone_opens_nothing_of_another_tenant() {
    let door = tenants().await;
    let (a, b) = (
        Tenant {
            door: &door,
            name: "a",
        },
        Tenant {
            door: &door,
            name: "b",
        },
    );
    let secret = a.push("a/x", "secret").await;
    assert_eq!(
        a.send(Method::GET, &format!("/v2/a/x/blobs/{secret}"), "")
            .await
            .body,
        "secret"
    );
    for (method, path) in [
        (Method::HEAD, format!("/v2/b/x/blobs/{secret}")),
        (Method::GET, format!("/v2/b/x/blobs/{secret}")),
    ] {
        assert_eq!(
            b.send(method, &path, "").await.status,
            StatusCode::NOT_FOUND
        );
    }
    let denied = b
        .send(Method::GET, &format!("/v2/a/x/blobs/{secret}"), "")
        .await;
    assert!(matches!(
        denied.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
    ));
    for query in ["", "&from=a/x"] {
        let path = format!("/v2/b/x/blobs/uploads/?mount={secret}{query}");
        assert_eq!(
            b.send(Method::POST, &path, "").await.status,
            StatusCode::ACCEPTED,
            "{query}"
        );
    }
    let named = b
        .send(Method::PUT, "/v2/b/x/manifests/v1", &naming(&secret))
        .await;
    assert_eq!(
        (named.status, named.code().as_str()),
        (StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN")
    );
    let get = b
        .send(Method::GET, &format!("/v2/b/x/blobs/{secret}"), "")
        .await;
    assert_eq!(get.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn other_bytes_of_the_same_size_do_not_open_a_blob_of_another_tenant() {
    let door = tenants().await;
    let (a, b) = (tenant(&door, "a"), tenant(&door, "b"));
    let secret = a.push("a/x", "secret").await;
    let mut sha512 = Digest::Sha512([0; 64]).hasher();
    sha512.update(b"secret");
    let sha512 = sha512.finish();
    let path = format!("/v2/a/x/blobs/uploads/?digest={sha512}");
    let pushed = a.send(Method::POST, &path, "secret").await;
    assert_eq!(pushed.status, StatusCode::CREATED);
    for (there, missing) in [
        (secret, Digest::sha256_of(b"nobody")),
        (sha512, Digest::Sha512([7; 64])),
    ] {
        let mut answers = Vec::new();
        for digest in [there, missing] {
            let whole = format!("/v2/b/x/blobs/uploads/?digest={digest}");
            let whole = b.send(Method::POST, &whole, "others").await;
            let begun = b.send(Method::POST, "/v2/b/x/blobs/uploads/", "").await;
            let place = begun.headers[header::LOCATION].to_str().unwrap().to_owned();
            let sent = b.send(Method::PATCH, &place, "others").await;
            let place = sent.headers[header::LOCATION].to_str().unwrap().to_owned();
            let chunked = b
                .send(Method::PUT, &format!("{place}&digest={digest}"), "")
                .await;
            let read = b
                .send(Method::GET, &format!("/v2/b/x/blobs/{digest}"), "")
                .await;
            let of = |reply: &Reply| (reply.status, reply.code());
            answers.push([of(&whole), of(&chunked), of(&read)]);
        }
        let wrong = (StatusCode::BAD_REQUEST, "DIGEST_INVALID".to_owned());
        let unknown = (StatusCode::NOT_FOUND, "BLOB_UNKNOWN".to_owned());
        assert_eq!(answers[0], [wrong.clone(), wrong, unknown]);
        assert_eq!(answers[0], answers[1]);
    }
}

#[tokio::test]
async fn tenant_reads_what_he_pushed_and_what_manifests_of_his_repository_name() {
    let door = tenants().await;
    let (a, b) = (
        Tenant {
            door: &door,
            name: "a",
        },
        Tenant {
            door: &door,
            name: "b",
        },
    );
    a.push("a/x", "common").await;
    let common = b.push("b/x", "common").await;
    let path = format!("/v2/b/x/blobs/{common}");
    assert_eq!(b.send(Method::GET, &path, "").await.body, "common");
    assert_eq!(
        b.send(Method::PUT, "/v2/b/x/manifests/v1", &naming(&common))
            .await
            .status,
        StatusCode::CREATED
    );
    // As left by a release that did not record checked manifests.
    let image = Digest::sha256_of(naming(&common).as_bytes());
    for digest in [&common, &image] {
        let key = crate::store::keys::linked(&"b/x".parse().unwrap(), digest);
        std::fs::remove_file(door.dir.path().join("store").join(key)).unwrap();
    }
    assert_eq!(
        b.send(Method::GET, &path, "").await.body,
        "common",
        "named by a manifest"
    );
}

fn tenant<'d>(door: &'d Door, name: &'static str) -> Tenant<'d> {
    Tenant { door, name }
}

/// A manifest whose `position` names a digest by `descriptor`.
fn at(position: &str, descriptor: &Value) -> String {
    let mut document = json!({"schemaVersion": 2, "mediaType": KIND});
    document[position] = match position {
        "config" | "subject" => descriptor.clone(),
        _ => json!([descriptor]),
    };
    document.to_string()
}

#[tokio::test]
async fn every_position_but_layers_from_elsewhere_and_the_subject_must_be_visible() {
    let door = tenants().await;
    let (a, b) = (tenant(&door, "a"), tenant(&door, "b"));
    let secret = a.push("a/x", "secret").await;
    let missing = Digest::sha256_of(b"missing");
    let described = |digest: &Digest, media_type: &str, urls: bool| {
        let mut d = json!({"mediaType": media_type, "digest": digest, "size": 6});
        if urls {
            d["urls"] = json!(["https://x"]);
        }
        d
    };
    let (lay, far) = (media::LAYER_GZIP, media::LAYER_FOREIGN);
    for (position, media_type, urls, status) in [
        ("layers", lay, false, StatusCode::BAD_REQUEST),
        ("layers", lay, true, StatusCode::CREATED),
        ("layers", far, false, StatusCode::CREATED),
        ("subject", lay, false, StatusCode::CREATED),
        ("config", "a/c", false, StatusCode::BAD_REQUEST),
        ("config", "a/c", true, StatusCode::BAD_REQUEST),
        ("config", far, true, StatusCode::BAD_REQUEST),
        ("manifests", "", true, StatusCode::BAD_REQUEST),
        (
            "manifests",
            media::IMAGE_MANIFEST,
            true,
            StatusCode::BAD_REQUEST,
        ),
        (
            "manifests",
            media::BUILDKIT_CONFIG,
            true,
            StatusCode::BAD_REQUEST,
        ),
        ("blobs", lay, true, StatusCode::BAD_REQUEST),
    ] {
        for (n, digest) in [&secret, &missing].into_iter().enumerate() {
            let document = at(position, &described(digest, media_type, urls));
            let tag = format!("/v2/b/x/manifests/{position}-{n}");
            let put = b.send(Method::PUT, &tag, &document).await;
            let what = format!("{position} {media_type} {urls} {n}");
            assert_eq!(put.status, status, "{what}: {:?}", put.body);
            assert_eq!(put.header("warning"), "", "{what}");
            if status == StatusCode::BAD_REQUEST {
                assert_eq!(put.code(), "MANIFEST_BLOB_UNKNOWN", "{what}");
            }
            let get = b
                .send(Method::GET, &format!("/v2/b/x/blobs/{digest}"), "")
                .await;
            assert_eq!(get.status, StatusCode::NOT_FOUND, "{what}");
        }
    }
    let fs = json!({"schemaVersion": 2, "fsLayers": [{"blobSum": secret}]}).to_string();
    let put = b.send(Method::PUT, "/v2/b/x/manifests/fs", &fs).await;
    assert_eq!(put.code(), "MANIFEST_BLOB_UNKNOWN");
}

#[tokio::test]
async fn deleting_a_blob_of_another_tenant_is_answered_as_deleting_nothing() {
    let door = tenants().await;
    let (a, b) = (tenant(&door, "a"), tenant(&door, "b"));
    let secret = a.push("a/x", "secret").await;
    let own = b.push("b/x", "own").await;
    let missing = Digest::sha256_of(b"missing");
    let mut replies = Vec::new();
    for digest in [&secret, &missing] {
        let path = format!("/v2/b/x/blobs/{digest}");
        let reply = b.send(Method::DELETE, &path, "").await;
        let said = String::from_utf8_lossy(&reply.body).into_owned();
        replies.push((reply.status, said.replace(&digest.to_string(), "")));
    }
    assert_eq!(replies[0], replies[1]);
    assert_eq!(replies[0].0, StatusCode::NOT_FOUND);
    let path = format!("/v2/b/x/blobs/{own}");
    let reply = b.send(Method::DELETE, &path, "").await;
    assert_eq!(reply.status, StatusCode::ACCEPTED);
}

#[tokio::test]
async fn foreign_layer_is_not_read_by_way_of_a_merged_cache() {
    let door = tenants().await;
    let (a, b) = (tenant(&door, "a"), tenant(&door, "b"));
    let secret = a.push("a/x", "secret").await;
    for n in 0..2 {
        let own = format!("layer {n}");
        let lay = b.push("b/x", &own).await;
        let config = json!({
            "layers": [{"blob": secret, "parent": -1}, {"blob": lay, "parent": -1}],
            "records": [{"digest": Digest::sha256_of(&[n]),
                "layers": [{"layer": 1, "createdAt": format!("2026-11-23T04:02:0{n}Z")}]}],
        })
        .to_string();
        let desc = b.push("b/x", &config).await;
        let layer = |digest: &Digest, size: usize| {
            let id = json!({crate::artifact::annotations::UNCOMPRESSED: digest});
            json!({"mediaType": media::LAYER_GZIP, "digest": digest, "size": size, "annotations": id})
        };
        let mut borrowed = layer(&secret, 6);
        borrowed["urls"] = json!(["http://x/"]);
        let document = json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST,
            "config": {"mediaType": media::BUILDKIT_CONFIG, "digest": desc, "size": config.len()},
            "layers": [borrowed, layer(&lay, own.len())]})
        .to_string();
        let put = b.send(Method::PUT, "/v2/b/x/manifests/cache", &document);
        assert_eq!(put.await.status, StatusCode::CREATED);
    }
    let served = b.send(Method::GET, "/v2/b/x/manifests/cache", "").await;
    assert_eq!(served.status, StatusCode::OK);
    let read = b
        .send(Method::GET, &format!("/v2/b/x/blobs/{secret}"), "")
        .await;
    assert_eq!(read.status, StatusCode::NOT_FOUND);
    let config = served.json()["config"]["digest"].clone();
    let path = format!("/v2/b/x/blobs/{}", config.as_str().unwrap());
    let read = b.send(Method::GET, &path, "").await;
    assert_eq!(read.status, StatusCode::OK, "the daemon wrote its config");
}

#[tokio::test]
async fn what_an_administrator_pushed_is_read_and_stays_visible_to_who_built_on_it() {
    let door = tenants().await;
    let (admin, b) = (tenant(&door, "admin"), tenant(&door, "b"));
    let base = admin.push("b/x", "base").await;
    let links = door.dir.path().join("store/r/b%2Fx/linked");
    let image = naming(&base);
    let put = admin.send(Method::PUT, "/v2/b/x/manifests/base", &image);
    assert_eq!(put.await.status, StatusCode::CREATED);
    let path = format!("/v2/b/x/blobs/{base}");
    assert_eq!(b.send(Method::GET, &path, "").await.body, "base");
    assert!(
        !links.exists(),
        "neither an administrator's push nor a read leaves a record"
    );
    let index = json!({"schemaVersion": 2, "mediaType": KIND,
        "layers": [{"mediaType": "a/b", "digest": base, "size": 4}], "annotations": {"by": "b"}})
    .to_string();
    let put = b.send(Method::PUT, "/v2/b/x/manifests/mine", &index);
    assert_eq!(put.await.status, StatusCode::CREATED);
    let by_digest = format!("/v2/b/x/manifests/{}", Digest::sha256_of(image.as_bytes()));
    let deleted = admin.send(Method::DELETE, &by_digest, "").await;
    assert_eq!(deleted.status, StatusCode::ACCEPTED);
    door.registry.sights().forget_all();
    assert_eq!(b.send(Method::GET, &path, "").await.body, "base");
}

#[tokio::test]
async fn what_an_older_release_let_in_stays_closed_when_its_owner_deletes_or_pushes_what_doubts_it()
{
    for method in [Method::DELETE, Method::PUT] {
        let door = tenants().await;
        let (admin, b) = (tenant(&door, "admin"), tenant(&door, "b"));
        let secret = admin.push("a/x", "secret").await;
        let own = door.registry.repository(&"b/x".parse().unwrap());
        let mut elsewhere = json!({"mediaType": "a/b", "digest": secret, "size": 6});
        elsewhere["urls"] = json!(["https://x"]);
        let doubter = json!({"schemaVersion": 2, "mediaType": KIND, "layers": [elsewhere]});
        let doubter = doubter.to_string();
        for document in [&naming(&secret), &doubter] {
            let manifest = crate::artifact::Manifest::new(KIND, document.clone());
            own.put_manifest(&manifest, &[]).await.unwrap();
        }
        let path = format!(
            "/v2/b/x/manifests/{}",
            Digest::sha256_of(doubter.as_bytes())
        );
        let reply = b.send(method.clone(), &path, &doubter).await;
        assert!(reply.status.is_success(), "{method}: {}", reply.status);
        door.registry.sights().forget_all();
        let blob = format!("/v2/b/x/blobs/{secret}");
        let read = b.send(Method::GET, &blob, "").await;
        assert_eq!(read.status, StatusCode::NOT_FOUND, "{method}");
    }
}

#[tokio::test]
async fn documents_that_a_sweep_could_not_read_are_refused() {
    let door = tenants().await;
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    for name in ["admin", "b"] {
        let who = tenant(&door, name);
        for body in [
            format!(r#"{{"schemaVersion":2,"x":{deep}}}"#),
            r#"{"schemaVersion":2,"a":"\ud800"}"#.to_owned(),
            r#"{"schemaVersion":2,"a":1e999}"#.to_owned(),
        ] {
            let put = who.send(Method::PUT, "/v2/b/x/manifests/odd", &body).await;
            assert_eq!(
                (put.status, put.code().as_str()),
                (StatusCode::BAD_REQUEST, "MANIFEST_INVALID"),
                "{name} {body}"
            );
        }
    }
}
