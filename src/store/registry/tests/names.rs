//! Manifests and tags.

use super::{
    fake::{Act, Call, Fake, Reply, refuse, reply, with},
    *,
};
use crate::{
    artifact::{Manifest, Reference, Tag, media},
    digest::Digest,
    store::{Error, ErrorKind, Expect, TagStore as _, Untag as _},
};

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

fn manifest(id: u32) -> Manifest {
    Manifest::new(media::IMAGE_INDEX, format!("{{ \"id\": {id} }}"))
}

async fn publish(store: &Registry, m: &Manifest, name: &str) -> Result<()> {
    store
        .publish(m, Some(&tag(name)), &Expect::Anything)
        .await
        .map(|_| ())
}

async fn resolve(store: &Registry, reference: impl Into<Reference>) -> Result<Option<Manifest>> {
    let found = store.resolve(&reference.into()).await?;
    Ok(found.map(|r| r.manifest))
}

async fn changed(change: impl Fn(Reply) -> Reply + Clone + Send + Sync + 'static) -> Fake {
    Fake::start(move |call| {
        let change = change.clone();
        (call.name() == "GET manifests").then(|| Act::Change(Box::new(change)))
    })
    .await
}

#[tokio::test]
async fn manifest_keeps_its_bytes_and_media_type() {
    let fake = Fake::plain().await;
    let store = open(&fake).await;
    publish(&store, &manifest(1), "a").await.unwrap();
    let by_tag = store.resolve(&tag("a").into()).await.unwrap().unwrap();
    assert_eq!(by_tag.manifest, manifest(1));
    assert_eq!(by_tag.version.unwrap().0, manifest(1).digest.to_string());
    assert_eq!(
        resolve(&store, manifest(1).digest).await.unwrap(),
        Some(manifest(1))
    );
    assert_eq!(resolve(&store, tag("b")).await.unwrap(), None);
    let calls = fake.log();
    assert_eq!(calls[0].header("content-type"), media::IMAGE_INDEX);
    assert!(calls[1].header("accept").contains(media::IMAGE_MANIFEST));
}

#[tokio::test]
async fn a_tag_was_written_when_the_registry_says_so() {
    for (said, want) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
        ("yesterday", None),
    ] {
        let fake = changed(move |mut r: Reply| {
            let value = said.parse().unwrap();
            r.headers_mut().insert("last-modified", value);
            r
        })
        .await;
        let store = open(&fake).await;
        publish(&store, &manifest(1), "a").await.unwrap();
        let by_tag = store.resolve(&tag("a").into()).await.unwrap().unwrap();
        assert_eq!(by_tag.modified.map(|t| t.secs), want, "{said}");
        // For a manifest it says nothing of interest.
        let digest = manifest(1).digest.into();
        let by_digest = store.resolve(&digest).await.unwrap().unwrap();
        assert_eq!(by_digest.modified, None);
    }
}

#[tokio::test]
async fn manifest_that_is_not_what_it_should_be_is_corrupt() {
    let other = |_: Reply| with(200, &[("content-type", media::IMAGE_INDEX)], r#"{"id":2}"#);
    let header = |mut r: Reply| {
        r.headers_mut().insert(
            "docker-content-digest",
            Digest::sha256_of(b"x").to_string().parse().unwrap(),
        );
        r
    };
    let page = |_: Reply| with(200, &[("content-type", "text/html")], "<html>log in</html>");
    let packed = |mut r: Reply| {
        r.headers_mut()
            .insert("content-encoding", "gzip".parse().unwrap());
        r
    };
    let large = |_: Reply| {
        with(
            200,
            &[("content-type", media::IMAGE_INDEX)],
            format!("{{}}{}", " ".repeat(4 << 20)),
        )
    };
    let endless = |_: Reply| {
        let piece = Ok::<_, std::io::Error>(Bytes::from(vec![b' '; 1 << 20]));
        Reply::new(axum::body::Body::from_stream(
            futures_util::stream::repeat_with(move || {
                Ok::<_, std::io::Error>(piece.as_ref().unwrap().clone())
            }),
        ))
    };
    let digest = Reference::from(manifest(1).digest);
    let named = Reference::from(tag("a"));
    for (fake, reference, kind) in [
        (changed(other).await, &digest, ErrorKind::Corrupt),
        (changed(header).await, &named, ErrorKind::Corrupt),
        (changed(page).await, &named, ErrorKind::Unavailable),
        (changed(packed).await, &named, ErrorKind::Unavailable),
        (changed(large).await, &named, ErrorKind::Corrupt),
        (changed(endless).await, &named, ErrorKind::Corrupt),
    ] {
        let store = open(&fake).await;
        publish(&store, &manifest(1), "a").await.unwrap();
        let e = store.resolve(reference).await.unwrap_err();
        assert_eq!(e.kind, kind, "{e}");
    }
}

#[tokio::test]
async fn vague_media_type_gives_way_to_the_documents_own() {
    let fake = changed(|mut r| {
        r.headers_mut()
            .insert("content-type", "application/json".parse().unwrap());
        r
    })
    .await;
    let store = open(&fake).await;
    let m = Manifest::sniff(format!(r#"{{"mediaType":"{}"}}"#, media::DOCKER_LIST));
    publish(&store, &m, "a").await.unwrap();
    assert_eq!(resolve(&store, tag("a")).await.unwrap(), Some(m));
}

#[tokio::test]
async fn refused_manifest_says_why() {
    for (status, code, want) in [
        (400, "MANIFEST_BLOB_UNKNOWN", ErrorKind::Conflict),
        (404, "MANIFEST_BLOB_UNKNOWN", ErrorKind::Conflict),
        (400, "MANIFEST_INVALID", ErrorKind::Unsupported),
        (415, "UNSUPPORTED", ErrorKind::Unsupported),
        (413, "SIZE_INVALID", ErrorKind::Unsupported),
        (403, "DENIED", ErrorKind::Denied),
        (404, "NAME_UNKNOWN", ErrorKind::NoSuchStore),
    ] {
        let fake = Fake::start(move |_| Some(Act::Reply(refuse(status, code)))).await;
        let e = publish(&open(&fake).await, &manifest(1), "a")
            .await
            .unwrap_err();
        assert_eq!(e.kind, want, "{e}");
    }
    let fake = Fake::start(|_| {
        let other = Digest::sha256_of(b"x").to_string();
        Some(Act::Reply(with(
            201,
            &[("docker-content-digest", &other)],
            "",
        )))
    })
    .await;
    let e = publish(&open(&fake).await, &manifest(1), "a")
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
}

/// Sends `pages` one after the other, each linking to the next by `link`.
async fn paged(pages: &'static [&'static str], link: fn(&Call, usize) -> String) -> Fake {
    Fake::start(move |call| {
        let at: usize = call.query("page").first().map_or(0, |p| p.parse().unwrap());
        let tags = pages[at];
        let next = link(call, at + 1);
        let headers: &[(&str, &str)] = if at + 1 < pages.len() {
            &[("link", &next)]
        } else {
            &[]
        };
        Some(Act::Reply(with(
            200,
            headers,
            format!(r#"{{"name":"team/app","tags":{tags}}}"#),
        )))
    })
    .await
}

#[tokio::test]
async fn tags_are_read_page_by_page_sorted_and_filtered() {
    let relative = |_: &Call, n: usize| format!(r#"</v2/team/app/tags/list?page={n}>; rel="next""#);
    let absolute = |c: &Call, n: usize| {
        format!(
            "<http://{}/v2/team/app/tags/list?page={n}>; rel=next",
            c.header("host")
        )
    };
    let pages: &[&str] = &[
        r#"["b1","a2"]"#,
        r#"["a1","a2","..","a b","A1"]"#,
        "null",
        r#"["a0"]"#,
    ];
    for fake in [paged(pages, relative).await, paged(pages, absolute).await] {
        let store = open(&fake).await;
        assert_eq!(store.tags("a").await.unwrap(), ["a0", "a1", "a2"].map(tag));
        assert_eq!(fake.log().len(), 4);
        assert_eq!(fake.log()[0].query, "n=1000");
    }
}

#[tokio::test]
async fn list_that_goes_round_ends_and_a_page_is_not_an_empty_list() {
    let round = |_: &Call, _: usize| r#"</v2/team/app/tags/list?n=1000>; rel="next""#.to_owned();
    let fake = paged(&[r#"["a"]"#, "[]"], round).await;
    assert_eq!(open(&fake).await.tags("").await.unwrap(), [tag("a")]);
    let fake = Fake::start(|_| Some(Act::Reply(with(200, &[], "<html>")))).await;
    assert_eq!(
        open(&fake).await.tags("").await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    let fake = Fake::start(|_| Some(Act::Reply(refuse(404, "NAME_UNKNOWN")))).await;
    assert!(open(&fake).await.tags("").await.unwrap().is_empty());
}

#[tokio::test]
async fn tag_is_deleted_by_its_name_only() {
    let fake = Fake::plain().await;
    let store = open(&fake).await;
    publish(&store, &manifest(1), "a").await.unwrap();
    publish(&store, &manifest(1), "b").await.unwrap();
    assert!(store.untag(&tag("a")).await.unwrap());
    assert!(!store.untag(&tag("a")).await.unwrap());
    assert_eq!(resolve(&store, tag("b")).await.unwrap(), Some(manifest(1)));
    assert!(
        fake.log()
            .iter()
            .filter(|c| c.method == "DELETE")
            .all(|c| c.path.ends_with("/a"))
    );
}

#[tokio::test]
async fn tag_that_cannot_be_deleted_is_overwritten_and_then_missing() {
    // The last one is Debian's registry 2.8: it reports that the manifest does not exist although it does.
    for (status, code) in [
        (405, "UNSUPPORTED"),
        (400, "UNSUPPORTED"),
        (400, "DIGEST_INVALID"),
        (404, "MANIFEST_UNKNOWN"),
    ] {
        let fake = Fake::start(move |call| {
            (call.method == "DELETE").then(|| Act::Reply(refuse(status, code)))
        })
        .await;
        let store = open(&fake).await;
        publish(&store, &manifest(1), "a").await.unwrap();
        publish(&store, &manifest(1), "b").await.unwrap();
        assert!(store.untag(&tag("a")).await.unwrap());
        assert_eq!(resolve(&store, tag("a")).await.unwrap(), None);
        assert!(!store.untag(&tag("a")).await.unwrap());
        assert!(!store.untag(&tag("never")).await.unwrap());
        assert_eq!(resolve(&store, tag("b")).await.unwrap(), Some(manifest(1)));
        // The name can be used again.
        publish(&store, &manifest(2), "a").await.unwrap();
        assert_eq!(resolve(&store, tag("a")).await.unwrap(), Some(manifest(2)));
    }
    let fake = Fake::start(|call| (call.method == "DELETE").then(|| Act::Reply(reply(503)))).await;
    let store = open(&fake).await;
    publish(&store, &manifest(1), "a").await.unwrap();
    assert_eq!(
        store.untag(&tag("a")).await.unwrap_err().kind,
        ErrorKind::Unavailable
    );
    assert_eq!(resolve(&store, tag("a")).await.unwrap(), Some(manifest(1)));
}

/// The answer of a maintenance page, a captive portal or a wrong route to everything.
fn in_its_place(sort: usize, call: &Call) -> Act {
    let (media_type, body) = match sort {
        0 => ("text/html", "<html>back soon</html>"),
        1 => ("", ""),
        _ => ("application/json", r#"{"status":"down"}"#),
    };
    let length = body.len().to_string();
    // As a proxy does.
    let body = if call.method == "HEAD" { "" } else { body };
    Act::Reply(with(
        200,
        &[("content-type", media_type), ("content-length", &length)],
        body,
    ))
}

#[tokio::test]
async fn a_server_that_says_200_to_everything_is_no_registry() {
    for sort in 0..3 {
        let fake = Fake::start(move |call| Some(in_its_place(sort, call))).await;
        let store = open(&fake).await;
        let foreign = |what: &str, e: Error| {
            assert!(e.is_temporary(), "{sort} {what}: {e}");
        };
        let bytes = some_bytes(1000);
        foreign("stat", store.stat(&desc(&bytes).digest).await.unwrap_err());
        for size in [1000, 200_000] {
            let bytes = some_bytes(size);
            let body = Body::from(bytes.clone());
            foreign("put", store.put(&desc(&bytes), &body).await.unwrap_err());
        }
        let tag: Tag = "t".parse().unwrap();
        let resolved = store.resolve(&tag.clone().into()).await;
        foreign("resolve", resolved.unwrap_err());
        let manifest = Manifest::new(media::IMAGE_INDEX, r#"{"schemaVersion":2,"manifests":[]}"#);
        let resolved = store.resolve(&manifest.digest.into()).await;
        foreign("resolve", resolved.unwrap_err());
        let published = store.publish(&manifest, Some(&tag), &Expect::Anything);
        foreign("publish", published.await.unwrap_err());
        foreign("tags", store.tags("").await.unwrap_err());
        foreign("untag", store.untag(&tag).await.unwrap_err());
    }
}

/// The answer of an ingress without a back end, a wrong virtual host or a captive portal to everything.
fn not_found(sort: usize, call: &Call) -> Act {
    let (media_type, body) = match sort {
        0 => ("text/html", "<html>404</html>"),
        1 => ("text/plain", "default backend - 404"),
        2 => ("application/json", r#"{"errors":[{"status":"404"}]}"#),
        _ => ("", ""),
    };
    let body = if call.method == "HEAD" { "" } else { body };
    Act::Reply(with(404, &[("content-type", media_type)], body))
}

#[tokio::test]
async fn a_server_that_says_404_to_everything_is_no_registry() {
    for sort in 0..4 {
        let fake = Fake::start(move |call| Some(not_found(sort, call))).await;
        let store = open(&fake).await;
        let foreign = |what: &str, e: Error| {
            assert!(e.is_temporary(), "{sort} {what}: {e}");
            assert!(e.message.contains("in the registry's place"), "{e}");
        };
        let bytes = some_bytes(1000);
        foreign("stat", store.stat(&desc(&bytes).digest).await.unwrap_err());
        foreign("get", get(&store, &bytes, 0..1000).await.unwrap_err());
        foreign("get", get(&store, &bytes, 5..10).await.unwrap_err());
        foreign("put", put(&store, &bytes).await.unwrap_err());
        foreign("tag", resolve(&store, tag("t")).await.unwrap_err());
        let digest = manifest(1).digest;
        foreign("digest", resolve(&store, digest).await.unwrap_err());
        let published = publish(&store, &manifest(1), "t").await;
        foreign("publish", published.unwrap_err());
        foreign("tags", store.tags("").await.unwrap_err());
        foreign("untag", store.untag(&tag("t")).await.unwrap_err());
    }
}

#[tokio::test]
async fn a_registry_that_signs_what_is_missing_is_asked_nothing_more() {
    let fake = Fake::plain().await;
    let store = open(&fake).await;
    let bytes = some_bytes(10);
    assert_eq!(store.stat(&desc(&bytes).digest).await.unwrap(), None);
    assert!(store.get(&desc(&bytes), 0..10).await.unwrap().is_none());
    assert_eq!(resolve(&store, tag("t")).await.unwrap(), None);
    assert_eq!(fake.names(), ["HEAD blobs", "GET blobs", "GET manifests"]);
}

#[tokio::test]
async fn a_registry_that_signs_nothing_is_asked_once_whether_it_is_one() {
    for version in [200, 401] {
        let fake = Fake::start(move |call| {
            Some(Act::Reply(match (call.path.as_str(), version) {
                ("/v2/", 200) => with(200, &[], "{}"),
                ("/v2/", _) => with(401, &[("www-authenticate", "Basic realm=x")], ""),
                _ => reply(404),
            }))
        })
        .await;
        let store = open(&fake).await;
        for id in 0..5 {
            let digest = manifest(id).digest;
            assert_eq!(store.stat(&digest).await.unwrap(), None);
            assert_eq!(resolve(&store, digest).await.unwrap(), None);
        }
        let asked = fake.names().iter().filter(|n| *n == "GET /v2/").count();
        // Each is asked again only after a while, and this may be a slow machine.
        assert!((1..10).contains(&asked), "{asked}");
    }
}
