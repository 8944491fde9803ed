//! Who may read some repositories only does not get the blobs of others by knowing their digests.

use super::*;

/// A door where `a` may do everything in `a/**`, `b` in `b/**`.
async fn tenants() -> Door {
    let mut door = Door::open().await;
    let tokens = door.dir.path().join("tokens");
    std::fs::write(
        &tokens,
        "a token-of-a-0123456789\nb token-of-b-0123456789\n",
    )
    .unwrap();
    let config: auth::Config = serde_json::from_value(json!({
        "tokens": tokens,
        "grants": [
            {"principals": ["a"], "repositories": ["a/**"], "actions": ["pull", "push"]},
            {"principals": ["b"], "repositories": ["b/**"], "actions": ["pull", "push"]},
        ],
    }))
    .unwrap();
    door.peer = Peer::tcp([10, 0, 0, 1].into());
    door.registry.authority = authority(door.dir.path(), config).await;
    door
}

struct Tenant<'d> {
    door: &'d Door,
    name: &'static str,
}

impl Tenant<'_> {
    async fn send(&self, method: Method, path: &str, body: &str) -> Reply {
        let token = format!("Bearer token-of-{}-0123456789", self.name);
        let headers = [
            ("authorization", &*token),
            ("content-type", media::IMAGE_MANIFEST),
        ];
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
    json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST,
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
    let key = crate::store::keys::linked(&"b/x".parse().unwrap(), &common);
    std::fs::remove_file(door.dir.path().join("store").join(key)).unwrap();
    assert_eq!(
        b.send(Method::GET, &path, "").await.body,
        "common",
        "named by a manifest"
    );
}
