use std::{
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::*;
use crate::{
    artifact::Manifest,
    store::{self, Records, Repositories, Repository, record, records::Listed},
};

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
    // The subject need not exist.
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
    // Without an artifact type, the config's type is used.
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
        // A manifest recorded with another type is not read at all.
        assert_eq!(pages > 1, count > 0, "{pages} pages of {wanted}");
    }
    assert_eq!(door.admission.lists.taken(), 0);
}

/// Records of a slow store.
struct SlowRecords {
    inner: Arc<dyn Records>,
    takes: Duration,
    /// How often it listed a folder.
    listed: Arc<AtomicU32>,
}

#[async_trait::async_trait]
impl Records for SlowRecords {
    async fn read_record(&self, key: &str, limit: u64) -> store::Result<Option<Bytes>> {
        sleep(self.takes).await;
        self.inner.read_record(key, limit).await
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> store::Result<()> {
        self.inner.write_record(key, bytes).await
    }

    async fn remove_record(&self, key: &str) -> store::Result<()> {
        self.inner.remove_record(key).await
    }

    async fn list_records(&self, prefix: &str) -> store::Result<Vec<Listed>> {
        self.listed.fetch_add(1, Ordering::Relaxed);
        sleep(self.takes).await;
        self.inner.list_records(prefix).await
    }

    async fn any_record(&self, prefix: &str) -> store::Result<Option<String>> {
        sleep(self.takes).await;
        self.inner.any_record(prefix).await
    }

    async fn repositories(&self) -> store::Result<Vec<Repo>> {
        sleep(self.takes).await;
        self.inner.repositories().await
    }
}

/// Repositories whose records are slow.
struct Slow {
    inner: Arc<dyn Repositories>,
    takes: Duration,
    listed: Arc<AtomicU32>,
}

impl Repositories for Slow {
    fn repository(&self, name: &Repo) -> Repository {
        let slow = Repositories::records(self);
        self.inner.repository(name).with_records(slow)
    }

    fn records(&self) -> Arc<dyn Records> {
        Arc::new(SlowRecords {
            inner: self.inner.records(),
            takes: self.takes,
            listed: self.listed.clone(),
        })
    }
}

/// The door over the same store, each record of which takes this long; and how often it lists a folder.
fn slowed(door: Door, takes: Duration) -> (Door, Arc<AtomicU32>) {
    let listed = Arc::<AtomicU32>::default();
    let slow = Slow {
        inner: door.registry.repositories.clone(),
        takes,
        listed: listed.clone(),
    };
    let registry = door.registry.reading(Some(Arc::new(slow)));
    (Door { registry, ..door }, listed)
}

const SUBJECT: &str = "a subject";

/// Creates `count` manifests of a type that refer to a subject, as the store has them; returns the files of their bytes.
fn refer(door: &Door, kind: &str, count: usize) -> Vec<PathBuf> {
    let root = door.dir.path().join("store");
    let subject = Digest::sha256_of(SUBJECT.as_bytes());
    let referrers = root.join(format!("r/a/referrers/sha256-{}", subject.hex()));
    for dir in [
        &referrers,
        &root.join("r/a/manifests"),
        &root.join("blobs/sha256"),
    ] {
        std::fs::create_dir_all(dir).unwrap();
    }
    let mut files = Vec::new();
    for n in 0..count {
        let subject = json!({"mediaType": media::IMAGE_MANIFEST, "digest": subject, "size": 5});
        let document = json!({"schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": [], "subject": subject,
            "artifactType": kind, "annotations": {"n": n.to_string()}});
        let manifest = Manifest::sniff(document.to_string());
        let (hex, known) = (manifest.digest.hex(), record::Manifested::of(&manifest));
        let blob = root.join("blobs/sha256").join(&hex);
        std::fs::write(&blob, &manifest.bytes).unwrap();
        let manifests = root.join(format!("r/a/manifests/sha256-{hex}"));
        std::fs::write(manifests, record::encode(&known)).unwrap();
        std::fs::write(referrers.join(format!("sha256-{hex}")), "{}").unwrap();
        files.push(blob);
    }
    files
}

/// The referrers on each page of the subject of [`refer`], and the URL of the second page.
async fn referrers(door: &Door, query: &str) -> (Vec<Vec<String>>, String) {
    let subject = Digest::sha256_of(SUBJECT.as_bytes());
    let (mut pages, mut second) = (Vec::new(), String::new());
    let mut path = format!("/v2/a/referrers/{subject}{query}");
    loop {
        let page = door.get(&path).await;
        assert_eq!(page.status, StatusCode::OK, "{:?}", page.body);
        let filters = page.header("oci-filters-applied");
        assert_eq!(filters.is_empty(), query.is_empty());
        let json = page.json();
        let listed = json["manifests"].as_array().unwrap().iter();
        pages.push(listed.map(|m| m["digest"].to_string()).collect());
        let Some((link, rel)) = page.header("link").split_once(">; ") else {
            return (pages, second);
        };
        assert_eq!(rel, "rel=\"next\"");
        link[1..].clone_into(&mut path);
        if second.is_empty() {
            second.clone_from(&path);
        }
    }
}

#[tokio::test]
async fn a_page_of_referrers_reads_five_hundred_manifests_and_the_next_ones_have_the_rest_in_order()
{
    let door = Door::open().await;
    refer(&door, "application/x.a", 500);
    let (pages, _) = referrers(&door, "").await;
    assert_eq!(pages.len(), 1, "an honest set is in one page");
    refer(&door, "application/x.b", 520);
    let (pages, next) = referrers(&door, "").await;
    let counts: Vec<usize> = pages.iter().map(Vec::len).collect();
    assert_eq!(counts, [500, 500, 20]);
    let all = pages.concat();
    assert!(all.is_sorted_by(|a, b| a < b), "each once, and in order");
    assert!(next.contains("last=sha256"), "{next}");
    let (pages, next) = referrers(&door, "?artifactType=application/x.b").await;
    assert_eq!(pages.concat().len(), 520);
    assert!(next.contains("artifactType=application%2Fx.b"), "{next}");
}

#[tokio::test]
async fn a_filter_reads_no_manifest_of_another_type_unless_an_older_release_recorded_it() {
    let door = Door::open().await;
    // More than a page may read, whose bytes are lost: reading them would show.
    for lost in refer(&door, "application/x.other", 1200) {
        std::fs::remove_file(lost).unwrap();
    }
    let wanted = refer(&door, "application/x.wanted", 3);
    let asked = || door.asked.snapshot().get.requests;
    let before = asked();
    let (pages, _) = referrers(&door, "?artifactType=application/x.wanted").await;
    assert_eq!((pages.len(), pages[0].len()), (1, 3));
    assert_eq!(asked() - before, 3);
    for file in &wanted {
        let hex = file.file_name().unwrap().to_str().unwrap();
        let record = door
            .dir
            .path()
            .join("store/r/a/manifests")
            .join(format!("sha256-{hex}"));
        let mut older: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        let kind = older.as_object_mut().unwrap().remove("artifactType");
        assert_eq!(kind, Some(json!("application/x.wanted")));
        std::fs::write(&record, older.to_string()).unwrap();
    }
    for (kind, count) in [("wanted", 3), ("none", 0)] {
        let before = asked();
        let (pages, _) = referrers(&door, &format!("?artifactType=application/x.{kind}")).await;
        assert_eq!((pages.len(), pages[0].len()), (1, count));
        assert_eq!(asked() - before, 3, "{kind}");
    }
}

#[tokio::test]
async fn a_referrer_whose_record_is_damaged_is_left_out() {
    let door = Door::open().await;
    refer(&door, "application/x.a", 3);
    let manifests = door.dir.path().join("store/r/a/manifests");
    let one = std::fs::read_dir(manifests)
        .unwrap()
        .next()
        .unwrap()
        .unwrap();
    std::fs::write(one.path(), "").unwrap();
    assert_eq!(referrers(&door, "").await.0.concat().len(), 2);
    // An error of the store, not of a caller that asks for something else.
    let name = one.file_name().into_string().unwrap().replace('-', ":");
    let deleted = door.delete(&format!("/v2/a/manifests/{name}")).await;
    assert_eq!(
        (deleted.status.as_u16(), deleted.code().as_str()),
        (500, "UNKNOWN")
    );
}

#[tokio::test(start_paused = true)]
async fn a_list_of_a_slow_store_ends_a_page_after_three_seconds_and_each_gets_further() {
    let door = Door::open().await;
    refer(&door, "application/x.a", 100);
    for n in 0..100 {
        let from = door.dir.path().join("store/r/a");
        let to = door.dir.path().join(format!("store/r/repo-{n:02}"));
        std::fs::create_dir_all(to.join("manifests")).unwrap();
        let one = std::fs::read_dir(from.join("manifests"))
            .unwrap()
            .next()
            .unwrap()
            .unwrap();
        std::fs::copy(one.path(), to.join("manifests").join(one.file_name())).unwrap();
    }
    for takes in [Duration::from_secs(1), Duration::from_secs(10)] {
        let (door, _) = slowed(Door::over(door.dir.clone(), false).await, takes);
        for path in [
            format!("/v2/a/referrers/{}", Digest::sha256_of(SUBJECT.as_bytes())),
            format!(
                "/v2/a/referrers/{}?artifactType=application/x.none",
                Digest::sha256_of(SUBJECT.as_bytes())
            ),
            "/v2/_catalog".to_owned(),
        ] {
            let began = Instant::now();
            let page = door.get(&path).await;
            // The names, then either three seconds or the first answer.
            let longest = takes + takes.max(Duration::from_secs(3));
            let took = began.elapsed();
            assert!(
                took < longest + Duration::from_millis(100),
                "{path}: {took:?}"
            );
            assert!(!page.header("link").is_empty(), "{path}");
            assert_eq!(door.admission.lists.taken(), 0);
        }
        let (pages, _) = referrers(&door, "").await;
        assert_eq!(pages.concat().len(), 100);
        let (_, earlier) = pages.split_last().unwrap();
        assert!(earlier.iter().all(|page| !page.is_empty()));
        let pages = catalog(&door, "/v2/_catalog").await;
        assert_eq!(pages.concat().len(), 101);
    }
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
async fn a_catalog_asks_whether_a_repository_holds_anything_and_not_for_all_of_it() {
    let door = Door::open().await;
    for repo in ["a", "b", "c/d"] {
        let document = image(&door, repo, &[]).await;
        door.put_manifest(repo, "v1", &document).await;
    }
    // Listing everything reports a key that is not a manifest's record.
    let odd = door.dir.path().join("store/r/odd/manifests");
    std::fs::create_dir_all(&odd).unwrap();
    let (door, listed) = slowed(door, Duration::ZERO);
    assert_eq!(catalog(&door, "/v2/_catalog").await, [["a", "b", "c/d"]]);
    assert_eq!(listed.load(Ordering::Relaxed), 0);
    std::fs::write(odd.join("notes"), "").unwrap();
    assert_eq!(catalog(&door, "/v2/_catalog").await, [["a", "b", "c/d"]]);
    assert_eq!(listed.load(Ordering::Relaxed), 1);
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
        // Nor do pages show others.
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
