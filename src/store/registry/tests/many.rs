//! Many repositories in a single repository of a registry that refuses, loses, or cannot delete some of the content.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{
    fake::{Act, Call, Fake, refuse},
    *,
};
use crate::{
    artifact::{Manifest, Tag, media},
    store::{
        ErrorKind, Expect, Published, Records as _, TagStore as _, Untag as _,
        by_tags::ByTags,
        keys::{self, Repo},
        open,
        testing::conformance,
    },
};

fn repo(name: &str) -> Repo {
    name.parse().unwrap()
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

async fn publish(
    store: &impl crate::store::TagStore,
    manifest: &Manifest,
    name: &str,
) -> Result<Published> {
    let name = tag(name);
    store
        .publish(manifest, Some(&name), &Expect::Anything)
        .await
}

fn is_put(call: &Call) -> bool {
    call.name() == "PUT manifests"
}

/// A script sees the request before its body: our own writes are recognized by their names.
fn is_of_a_client(call: &Call) -> bool {
    is_put(call) && !call.path.contains("/_c.")
}

async fn conforms(fake: &Fake) {
    let url = format!("oci://{}/team/app", fake.addr).parse().unwrap();
    let options = open::Options {
        beside_doors: true,
        ..open::Options::default()
    };
    let opened = open::open(&url, &options).await.unwrap();
    conformance::repositories::run(&**opened.facts().repositories.as_ref().unwrap()).await;
}

#[tokio::test]
async fn registry_holds_many_repositories_whether_tags_go_or_not() {
    let fake = Fake::plain().await;
    conforms(&fake).await;
    assert!(!fake.model().tags.contains_key("_c.overwritten"));
    let cannot = Fake::start(|call| {
        (call.name() == "DELETE manifests").then(|| Act::Reply(refuse(405, "UNSUPPORTED")))
    });
    let cannot = cannot.await;
    conforms(&cannot).await;
    assert!(cannot.model().tags.contains_key("_c.overwritten"));
}

#[tokio::test]
async fn registry_that_takes_no_manifest_of_a_client_holds_them_all_the_same() {
    for (status, code) in [(404, "MANIFEST_BLOB_UNKNOWN"), (400, "MANIFEST_INVALID")] {
        let fake =
            Fake::start(move |call| is_of_a_client(call).then(|| Act::Reply(refuse(status, code))));
        let fake = fake.await;
        let manifest = Manifest::new("application/vnd.oci.image.manifest.v1+json", "{\"a\": 1}");
        let daemon = ByTags::new(open(&fake).await).in_repo(repo("app"));
        let done = publish(&daemon, &manifest, "v1").await;
        assert_eq!(done.unwrap(), Published::Done);
        // By another one, without any knowledge of it.
        let other = ByTags::new(open(&fake).await).in_repo(repo("app"));
        for reference in [tag("v1").into(), manifest.digest.into()] {
            let found = other.resolve(&reference).await.unwrap().unwrap();
            assert_eq!(found.manifest, manifest);
        }
        assert!(other.untag(&tag("v1")).await.unwrap());
        // The command line reads its own names without a daemon, so they point at manifests or do not exist.
        let own = ByTags::new(open(&fake).await).in_repo(Repo::cli());
        let done = publish(&own, &manifest, "v1").await;
        assert!(done.is_err());
    }
}

#[tokio::test]
async fn refusal_of_foreign_layers_is_one_though_it_looks_like_an_outage_and_an_outage_is_none() {
    let fake = Fake::start(|call| is_of_a_client(call).then(|| Act::Reply(refuse(500, "UNKNOWN"))));
    let fake = fake.await;
    let daemon = ByTags::new(open(&fake).await).in_repo(repo("app"));
    for (media_type, kept) in [
        (media::LAYER_FOREIGN_GZIP, true),
        (media::LAYER_GZIP, false),
    ] {
        let layer = Descriptor::of(media_type, b"layer");
        let doc = serde_json::json!({"schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "layers": [layer]});
        let manifest = Manifest::sniff(doc.to_string());
        let done = publish(&daemon, &manifest, "v1").await;
        match done {
            Ok(_) => assert!(kept, "{media_type}"),
            Err(e) => assert!(!kept && e.kind == ErrorKind::Unavailable, "{e}"),
        }
    }
}

#[tokio::test]
async fn empty_config_that_the_registry_collected_is_sent_again() {
    static LOST: AtomicBool = AtomicBool::new(false);
    let fake = Fake::start(|call| {
        let refused = is_put(call) && LOST.swap(false, Ordering::SeqCst);
        refused.then(|| Act::Reply(refuse(404, "MANIFEST_BLOB_UNKNOWN")))
    });
    let fake = fake.await;
    let all = ByTags::new(open(&fake).await);
    let key = |i: u8| keys::gone(&repo("app"), &crate::digest::Digest::sha256_of(&[i]));
    all.write_record(&key(1), "{}".into()).await.unwrap();
    let calls = fake.log().len();
    all.write_record(&key(2), "{}".into()).await.unwrap();
    assert_eq!(fake.names()[calls..], ["PUT manifests"]);
    fake.model().blobs.clear();
    LOST.store(true, Ordering::SeqCst);
    all.write_record(&key(3), "{}".into()).await.unwrap();
    assert_eq!(fake.model().blobs.len(), 1);
    for i in 1..=3 {
        let read = all.read_record(&key(i), 10).await.unwrap();
        assert_eq!(read, Some("{}".into()));
    }
}

#[tokio::test]
async fn what_others_put_where_records_lie_is_corrupt_and_never_believed() {
    let fake = Fake::plain().await;
    let registry = open(&fake).await;
    let all = ByTags::new(registry.clone());
    let (app, d) = (repo("app"), crate::digest::Digest::sha256_of(b"d"));
    let (gone, linked) = (keys::gone(&app, &d), keys::linked(&app, &d));
    all.write_record(&gone, "{}".into()).await.unwrap();
    let places = registry.tags("_c.").await.unwrap();
    let [place] = &places[..] else {
        panic!("{places:?}")
    };
    // A record with another key, one with too many bytes, an image.
    all.write_record(&linked, "{}".into()).await.unwrap();
    let places = registry.tags("_c.l.").await.unwrap();
    let other = registry.resolve(&places[0].clone().into()).await.unwrap();
    let image = Manifest::new(media::IMAGE_MANIFEST, "{\"layers\": []}");
    let long = format!(
        "{{\"annotations\": {{\"io.cachectl.record.key\": \"{gone}\", \"io.cachectl.record.bytes\": \"{}\"}}}}",
        "e30K".repeat(10_000)
    );
    let long = Manifest::new(media::IMAGE_MANIFEST, long);
    for manifest in [other.unwrap().manifest, image, long] {
        let put = registry.publish(&manifest, Some(place), &Expect::Anything);
        put.await.unwrap();
        let e = all.read_record(&gone, 100).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        assert!(e.to_string().contains(&gone), "{e}");
    }
    // It is overwritten like any other, and invalid places are ignored.
    all.write_record(&gone, "{\"a\":1}".into()).await.unwrap();
    let junk = Manifest::new(media::IMAGE_MANIFEST, "{}");
    for name in ["_c.t.a", "_c.m.x.y", "_c.m.aaaaaaaaaaaaaaaa.zz", "_c.z.a.b"] {
        publish(&registry, &junk, name).await.unwrap();
    }
    assert_eq!(all.repositories().await.unwrap(), []);
    let folder = gone.rsplit_once('/').unwrap().0;
    let listed = all.list_records(&format!("{folder}/")).await.unwrap();
    assert_eq!(listed.len(), 1);
    // They cannot be reached by the names of a repository.
    let own = all.in_repo(Repo::cli());
    assert!(own.resolve(&place.clone().into()).await.unwrap().is_none());
    assert!(!own.untag(place).await.unwrap());
    let e = own.publish(&junk, Some(place), &Expect::Anything).await;
    assert_eq!(e.unwrap_err().kind, ErrorKind::Invalid);
    assert_eq!(own.tags("_c.").await.unwrap(), []);
}
