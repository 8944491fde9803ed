//! Caches that daemons merge, deleted by what a reader knows of them, and lost in the store: at one daemon, after its restart,
//! at another one over the same store, and with a folder in front.

use std::fs;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::support::{
    cachectld::Cachectld,
    servers::http,
    stores::{Backend, TestStore},
};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", const_hex::encode(Sha256::digest(bytes)))
}

/// The doors of one store.
struct Client(u16);

impl Client {
    fn of(daemon: &Cachectld) -> Self {
        Self(daemon.port)
    }

    fn blob(&self, bytes: &[u8]) -> Value {
        let digest = digest(bytes);
        let path = format!("/v2/team/app/blobs/uploads/?digest={digest}");
        let (status, said) = http("POST", self.0, &path, bytes).unwrap();
        assert_eq!(status, 201, "{said}");
        json!({ "digest": digest, "size": bytes.len() })
    }

    /// Pushes a cache of one key and one layer, as BuildKit would.
    fn push(&self, name: &str) -> u16 {
        let layer = format!("layer {name}").into_bytes();
        let mut layer = self.blob(&layer);
        layer["mediaType"] = "application/vnd.oci.image.layer.v1.tar+gzip".into();
        layer["annotations"] = json!({ "containerd.io/uncompressed": digest(name.as_bytes()) });
        let config = json!({
            "layers": [{ "blob": layer["digest"], "parent": -1 }],
            "records": [{
                "digest": digest(format!("key {name}").as_bytes()),
                "layers": [{ "layer": 0, "createdAt": "2026-11-23T04:02:00Z" }],
            }],
        });
        let mut config = self.blob(config.to_string().as_bytes());
        config["mediaType"] = "application/vnd.buildkit.cacheconfig.v0".into();
        let document = json!({
            "schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": [layer],
        });
        let path = "/v2/team/app/manifests/cache";
        let answer = http("PUT", self.0, path, document.to_string().as_bytes());
        answer.unwrap().0
    }

    fn get(&self, reference: &str) -> (u16, String) {
        let path = format!("/v2/team/app/manifests/{reference}");
        http("GET", self.0, &path, b"").unwrap()
    }

    fn delete(&self, reference: &str) -> u16 {
        let path = format!("/v2/team/app/manifests/{reference}");
        http("DELETE", self.0, &path, b"").unwrap().0
    }

    /// The digest that the tag is served under; all that it names can be fetched.
    fn served(&self) -> String {
        let (status, text) = self.get("cache");
        assert_eq!(status, 200, "{text}");
        let digest = digest(text.as_bytes());
        assert_eq!(self.get(&digest), (200, text.clone()));
        let document: Value = serde_json::from_str(&text).unwrap();
        let layers = document["layers"].as_array().unwrap().iter();
        for named in layers.chain([&document["config"]]) {
            let blob = named["digest"].as_str().unwrap();
            let path = format!("/v2/team/app/blobs/{blob}");
            assert_eq!(http("GET", self.0, &path, b"").unwrap().0, 200, "{blob}");
        }
        digest
    }

    fn layers(&self) -> usize {
        let document: Value = serde_json::from_str(&self.get("cache").1).unwrap();
        document["layers"].as_array().unwrap().len()
    }

    fn tags(&self) -> String {
        http("GET", self.0, "/v2/team/app/tags/list", b"")
            .unwrap()
            .1
    }

    fn is_gone(&self, digest: &str) {
        assert_eq!((self.get("cache").0, self.get(digest).0), (404, 404));
        assert_eq!(self.tags(), r#"{"name":"team/app","tags":[]}"#);
    }
}

/// Two daemons over one store.
fn two(store: &TestStore) -> [Cachectld; 2] {
    [(); 2].map(|()| Cachectld::over(store.url()).envs(store.env()).start())
}

#[test]
fn a_merged_cache_that_is_deleted_by_its_digest_is_gone_everywhere() {
    let store = TestStore::new(Backend::Disk);
    let [mut one, other] = two(&store);
    let (a, b) = (Client::of(&one), Client::of(&other));
    assert_eq!((a.push("x"), b.push("y")), (201, 201));
    let served = a.served();
    assert_eq!((b.served(), a.layers()), (served.clone(), 2));
    // The other daemon, which has it in mind as well, and one that has just started.
    assert_eq!(a.delete(&served), 202);
    a.is_gone(&served);
    b.is_gone(&served);
    assert_eq!(b.delete(&served), 404);
    one.restart();
    a.is_gone(&served);
    // Nothing comes back with the next export, and nothing of it holds the store.
    assert_eq!(b.push("z"), 201);
    assert_eq!((a.layers(), a.served()), (1, b.served()));
    let folder = store.url().strip_prefix("disk:").unwrap().to_owned();
    let parts = fs::read_dir(format!("{folder}/r/team%2Fapp/parts/cache")).unwrap();
    assert_eq!(parts.count(), 1);
}

#[test]
fn deletion_at_a_daemon_that_has_just_started_leaves_what_was_pushed_since() {
    let store = TestStore::new(Backend::Disk);
    let [one, mut other] = two(&store);
    let (a, b) = (Client::of(&one), Client::of(&other));
    assert_eq!((a.push("x"), a.push("y")), (201, 201));
    let served = a.served();
    assert_eq!(a.push("z"), 201);
    other.restart();
    assert_eq!(b.delete(&served), 202);
    for client in [&a, &b] {
        assert_eq!(client.get(&served).0, 404);
        client.served();
        assert_eq!(client.layers(), 1);
        assert_eq!(client.tags(), r#"{"name":"team/app","tags":["cache"]}"#);
    }
}

#[test]
fn a_cache_without_a_lost_layer_is_deleted_and_survives_a_prune_as_it_is_served() {
    let store = TestStore::new(Backend::Disk);
    let [mut one, other] = two(&store);
    let (a, b) = (Client::of(&one), Client::of(&other));
    assert_eq!((a.push("x"), a.push("y")), (201, 201));
    let folder = store.url().strip_prefix("disk:").unwrap().to_owned();
    let blob = |digest: &str| format!("{folder}/blobs/sha256/{}", &digest["sha256:".len()..]);
    fs::remove_file(blob(&digest(b"layer y"))).unwrap();
    let served = a.served();
    assert_eq!((b.served(), a.layers()), (served.clone(), 1));
    // What a sweep removes, while both remember it.
    fs::remove_file(blob(&served)).unwrap();
    let record = format!(
        "{folder}/r/team%2Fapp/manifests/{}",
        served.replace(':', "-")
    );
    fs::remove_file(record).unwrap();
    assert_eq!((a.served(), b.served()), (served.clone(), served.clone()));
    one.restart();
    assert_eq!(a.served(), served);
    assert_eq!(b.delete(&served), 202);
    a.is_gone(&served);
    b.is_gone(&served);
}

/// The same over what is shared by daemons on several machines, and with a folder in front of it.
fn deletion_by_digest_is_the_same(backend: Backend, front: Option<&str>) {
    let store = TestStore::new(backend);
    let start = || {
        let start = Cachectld::over(store.url()).envs(store.env());
        match front {
            Some(mode) => start.front(mode).start(),
            None => start.start(),
        }
    };
    let (one, mut other) = (start(), start());
    let (a, b) = (Client::of(&one), Client::of(&other));
    assert_eq!((a.push("x"), b.push("y")), (201, 201));
    let served = a.served();
    assert_eq!(b.served(), served);
    other.restart();
    assert_eq!(b.delete(&served), 202);
    a.is_gone(&served);
    b.is_gone(&served);
    assert_eq!((a.push("z"), a.push("w")), (201, 201));
    let served = b.served();
    assert_eq!((b.layers(), a.served()), (2, served.clone()));
    assert_eq!(b.push("v"), 201);
    assert_eq!(a.delete(&served), 202);
    assert_eq!((b.layers(), a.served()), (1, b.served()));
}

#[test]
fn over_a_bucket_deletion_by_digest_is_the_same() {
    deletion_by_digest_is_the_same(Backend::Seaweed, None);
}

#[test]
fn over_a_registry_deletion_by_digest_is_the_same() {
    deletion_by_digest_is_the_same(Backend::DebianRegistry, None);
}

#[test]
fn with_a_folder_in_front_of_a_bucket_deletion_by_digest_is_the_same() {
    for mode in ["write-through", "write-back"] {
        deletion_by_digest_is_the_same(Backend::Seaweed, Some(mode));
    }
}

#[test]
fn image_and_cache_under_one_tag_are_told_of() {
    let store = TestStore::new(Backend::Disk);
    let mut daemon = Cachectld::over(store.url()).start();
    let client = Client::of(&daemon);
    let image = json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [],
    });
    let push_image = || {
        let path = "/v2/team/app/manifests/cache";
        let answer = http("PUT", daemon.port, path, image.to_string().as_bytes());
        assert_eq!(answer.unwrap().0, 201);
    };
    push_image();
    push_image();
    assert_eq!((client.push("x"), client.push("y")), (201, 201));
    push_image();
    daemon.terminate(std::time::Duration::from_mins(1));
    let log = daemon.log();
    for text in [
        "A BuildKit cache replaces an image or another manifest",
        "now points at another manifest",
    ] {
        assert_eq!(log.matches(text).count(), 1, "{text}: {log}");
    }
}
