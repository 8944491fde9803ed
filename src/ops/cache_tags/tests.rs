#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    artifact::{Descriptor, Reference, media},
    store::{
        Body, Repositories, StoreUrl,
        open::{self, Options},
    },
};

mod budgets;
mod contradicting;
mod deleting;
mod serving;
mod settling;
mod times;

struct World {
    dir: tempfile::TempDir,
    repositories: Arc<dyn Repositories>,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let url: StoreUrl = format!("disk:{}", dir.path().display()).parse().unwrap();
        let opened = open::open(&url, &Options::default()).await.unwrap();
        Self {
            dir,
            repositories: opened.facts().repositories.clone().unwrap(),
        }
    }

    fn repo(&self) -> Repository {
        self.repositories.repository(&"team/app".parse().unwrap())
    }

    /// Makes everything pushed so far count as pushed ten seconds earlier.
    fn age_records(&self) {
        let parts = self.dir.path().join("r/team%2Fapp/parts/cache");
        for part in std::fs::read_dir(parts).into_iter().flatten() {
            let path = part.unwrap().path();
            let file = std::fs::File::open(path).unwrap();
            let written = file.metadata().unwrap().modified().unwrap();
            file.set_modified(written - Duration::from_secs(10))
                .unwrap();
        }
    }

    /// Does what a prune does to a manifest: removes its bytes and its record.
    async fn sweep(&self, digest: &Digest) {
        self.lose(digest);
        assert!(self.repo().forget_manifest(digest).await.unwrap());
    }

    fn lose(&self, digest: &Digest) {
        std::fs::remove_file(self.dir.path().join("blobs/sha256").join(digest.hex())).unwrap();
    }
}

async fn put(repo: &Repository, media_type: &str, bytes: Vec<u8>) -> Descriptor {
    let desc = Descriptor::of(media_type, &bytes);
    repo.put_blob(&desc, &Body::Bytes(bytes.into()))
        .await
        .unwrap();
    desc
}

fn layer_bytes(name: &str) -> Vec<u8> {
    format!("layer {name}").into_bytes()
}

fn layer(name: &str) -> Digest {
    Digest::sha256_of(&layer_bytes(name))
}

/// A cache with one step per name, each based on the previous one, as BuildKit exports it, created at second `at`.
async fn cache(repo: &Repository, names: &[&str], at: u32) -> Manifest {
    let (layers, config) = documents(repo, names, at).await;
    manifest(repo, layers, &config).await
}

async fn manifest(repo: &Repository, layers: Vec<Descriptor>, config: &Value) -> Manifest {
    let config = put(
        repo,
        media::BUILDKIT_CONFIG,
        config.to_string().into_bytes(),
    )
    .await;
    let document = json!({
        "schemaVersion": 2, "mediaType": media::IMAGE_MANIFEST, "config": config, "layers": layers,
    });
    Manifest::new(media::IMAGE_MANIFEST, document.to_string())
}

/// Layers, and the config of such a cache.
async fn documents(repo: &Repository, names: &[&str], at: u32) -> (Vec<Descriptor>, Value) {
    let (mut layers, mut records, mut described) = (Vec::new(), Vec::new(), Vec::new());
    for (n, name) in names.iter().enumerate() {
        let mut desc = put(repo, media::LAYER_GZIP, layer_bytes(name)).await;
        desc.annotations.insert(
            "containerd.io/uncompressed".to_owned(),
            Digest::sha256_of(name.as_bytes()).to_string(),
        );
        layers.push(json!({"blob": desc.digest, "parent": n as i64 - 1}));
        described.push(desc);
        let inputs: Vec<Value> = (n > 0)
            .then(|| json!([{"link": n - 1}]))
            .into_iter()
            .collect();
        records.push(json!({
            "digest": Digest::sha256_of(format!("key {name}").as_bytes()),
            "layers": [{"layer": n, "createdAt": format!("2026-11-23T04:02:{at:02}Z")}],
            "inputs": inputs,
        }));
    }
    let config = json!({"layers": layers, "records": records});
    (described, config)
}

fn tag() -> Tag {
    "cache".parse().unwrap()
}

async fn push(tags: &CacheTags, repo: &Repository, manifest: &Manifest) -> Pushed {
    tags.push(repo, manifest, &[tag()]).await.unwrap()
}

async fn read(tags: &CacheTags, repo: &Repository) -> Option<Manifest> {
    resolve(tags, repo, &Reference::Tag(tag())).await
}

async fn resolve(tags: &CacheTags, repo: &Repository, asked: &Reference) -> Option<Manifest> {
    tags.resolve(repo, asked).await.unwrap()
}

/// By its digest, at a daemon that remembers nothing.
async fn by_digest(repo: &Repository, digest: &Digest) -> Option<Manifest> {
    resolve(&CacheTags::default(), repo, &Reference::Digest(*digest)).await
}

fn names_of(manifest: &Manifest) -> BTreeSet<Digest> {
    let layers = layers(&readable(manifest).unwrap());
    layers.into_iter().map(|(digest, _)| digest).collect()
}

fn set(names: &[&str]) -> BTreeSet<Digest> {
    names.iter().map(|n| layer(n)).collect()
}

fn without_merging(shrink: ShrinkGuard) -> CacheTags {
    CacheTags::new(Settings {
        merge: GlobSet::empty(),
        shrink,
        ..Settings::default()
    })
}

#[tokio::test]
async fn one_export_is_served_as_it_was_pushed() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let pushed = cache(&repo, &["a", "b"], 1).await;
    push(&tags, &repo, &pushed).await;
    assert_eq!(read(&tags, &repo).await, Some(pushed));
}

#[tokio::test]
async fn two_builds_that_export_to_one_tag_do_not_erase_each_other() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let (one, two) = (
        cache(&repo, &["a", "b"], 1).await,
        cache(&repo, &["a", "c"], 2).await,
    );
    push(&tags, &repo, &one).await;
    push(&tags, &repo, &two).await;
    let served = read(&tags, &repo).await.unwrap();
    assert_eq!(names_of(&served), set(&["a", "b", "c"]));
    let by_digest = resolve(&tags, &repo, &Reference::Digest(served.digest)).await;
    assert_eq!(
        by_digest.as_ref(),
        Some(&served),
        "stored before anybody hears of it"
    );
    // Another daemon, which remembers nothing, agrees.
    assert_eq!(
        read(&CacheTags::default(), &repo).await,
        Some(served.clone())
    );
    push(&tags, &repo, &one).await;
    assert_eq!(
        read(&tags, &repo).await,
        Some(served),
        "a known part changes nothing"
    );
}

#[tokio::test]
async fn export_of_an_import_only_builder_loses_nothing() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let whole = cache(&repo, &["a", "b", "c", "d"], 1).await;
    push(&tags, &repo, &whole).await;
    let small = cache(&repo, &["a"], 2).await;
    push(&tags, &repo, &small).await;
    let served = read(&tags, &repo).await.unwrap();
    assert_eq!(names_of(&served), set(&["a", "b", "c", "d"]));
}

#[tokio::test]
async fn part_that_a_newer_one_contains_is_dropped() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    let more = cache(&repo, &["a", "b"], 2).await;
    push(&tags, &repo, &more).await;
    let parts = repo.parts(&tag()).await.unwrap();
    assert_eq!(
        parts.iter().map(|p| p.digest).collect::<Vec<_>>(),
        [more.digest]
    );
    assert_eq!(read(&tags, &repo).await, Some(more));
}

#[tokio::test]
async fn oldest_parts_go_above_the_limit() {
    let world = World::new().await;
    let tags = CacheTags::new(Settings {
        max_parts: 2,
        ..Settings::default()
    });
    let repo = world.repo();
    for (n, name) in ["a", "b", "c", "d"].iter().enumerate() {
        push(&tags, &repo, &cache(&repo, &[name], n as u32).await).await;
    }
    assert_eq!(repo.parts(&tag()).await.unwrap().len(), 2);
    assert!(names_of(&read(&tags, &repo).await.unwrap()).contains(&layer("d")));
}

#[tokio::test]
async fn parts_that_were_let_go_do_not_come_back_by_what_the_tag_points_at() {
    let names = ["a", "b", "c", "d", "e", "f"];
    for (max_parts, max_age, left) in [(2, 9999, &names[4..]), (9, 1, &names[5..])] {
        let world = World::new().await;
        let tags = CacheTags::new(Settings {
            max_parts,
            max_age: Duration::from_secs(max_age),
            ..Settings::default()
        });
        let repo = world.repo();
        for (n, name) in names.iter().enumerate() {
            world.age_records();
            push(&tags, &repo, &cache(&repo, &[name], n as u32).await).await;
        }
        assert_eq!(names_of(&read(&tags, &repo).await.unwrap()), set(left));
        let others = CacheTags::default();
        assert_eq!(names_of(&read(&others, &repo).await.unwrap()), set(left));
        let dropped = tags.counts().dropped_parts.load(Ordering::Relaxed);
        assert_eq!(dropped > 0, max_parts == 2);
    }
}

#[tokio::test]
async fn what_somebody_else_wrote_into_a_tag_stays_one_of_its_parts() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    let foreign = cache(&repo, &["x"], 2).await;
    repo.put_manifest(&foreign, &[tag()]).await.unwrap();
    for (n, name) in ["b", "c"].iter().enumerate() {
        push(&tags, &repo, &cache(&repo, &[name], 3 + n as u32).await).await;
    }
    let all = names_of(&read(&tags, &repo).await.unwrap());
    assert_eq!(all, set(&["a", "b", "c", "x"]));
}

#[tokio::test]
async fn cache_is_served_without_what_was_lost_and_whole_again_when_it_is_back() {
    let world = World::new().await;
    let (tags, repo) = (without_merging(ShrinkGuard::Off), world.repo());
    let pushed = cache(&repo, &["a", "b"], 1).await;
    push(&tags, &repo, &pushed).await;
    world.lose(&layer("b"));
    let served = read(&tags, &repo).await.unwrap();
    assert_eq!(names_of(&served), set(&["a"]));
    assert_ne!(served.digest, pushed.digest);
    let asked = |d| Reference::Digest(d);
    assert_eq!(
        resolve(&tags, &repo, &asked(served.digest)).await,
        Some(served)
    );
    assert_eq!(
        resolve(&tags, &repo, &asked(pushed.digest)).await,
        None,
        "by its old digest it would promise too much"
    );
    put(&repo, media::LAYER_GZIP, layer_bytes("b")).await;
    assert_eq!(read(&tags, &repo).await, Some(pushed));
}

#[tokio::test]
async fn cache_without_its_config_is_unknown() {
    let world = World::new().await;
    for tags in [CacheTags::default(), without_merging(ShrinkGuard::Off)] {
        let repo = world.repo();
        let pushed = cache(&repo, &["a"], 1).await;
        push(&tags, &repo, &pushed).await;
        world.lose(&readable(&pushed).unwrap().config().digest);
        let by_tag = read(&tags, &repo).await;
        assert!(by_tag.is_none(), "{by_tag:?}");
        let by_digest = resolve(&tags, &repo, &Reference::Digest(pushed.digest)).await;
        assert_eq!(by_digest, None);
    }
}

#[tokio::test]
async fn a_layer_that_is_lost_right_after_a_look_is_not_named_at_the_next() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let pushed = cache(&repo, &["a", "b"], 1).await;
    push(&tags, &repo, &pushed).await;
    assert_eq!(read(&tags, &repo).await, Some(pushed));
    world.lose(&layer("b"));
    assert_eq!(names_of(&read(&tags, &repo).await.unwrap()), set(&["a"]));
}

#[tokio::test]
async fn a_config_that_is_brought_again_brings_the_tag_back() {
    let world = World::new().await;
    for names in [&["a"] as &[_], &["a", "b"]] {
        let (tags, repo) = (CacheTags::default(), world.repo());
        let pushed = cache(&repo, names, 1).await;
        push(&tags, &repo, &pushed).await;
        let whole = read(&tags, &repo).await;
        let config = readable(&pushed).unwrap().config().digest;
        world.lose(&config);
        assert_eq!(read(&tags, &repo).await, None);
        assert_eq!(read(&tags, &repo).await, None);
        // The same bytes under the same digests.
        assert_eq!(cache(&repo, names, 1).await, pushed);
        assert_eq!(read(&tags, &repo).await, whole);
        world.lose(&config);
        cache(&repo, names, 1).await;
        push(&tags, &repo, &pushed).await;
        assert_eq!(read(&tags, &repo).await, whole);
    }
}

#[tokio::test]
async fn a_merged_config_that_is_lost_is_made_anew() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let merged = read(&tags, &repo).await.unwrap();
    let config = readable(&merged).unwrap().config().digest;
    world.lose(&config);
    assert_eq!(read(&tags, &repo).await, Some(merged));
    assert!(repo.stat_blob(&config).await.unwrap().is_some());
}

#[tokio::test]
async fn lost_part_is_left_out_and_the_others_are_served() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    let (one, two) = (cache(&repo, &["a"], 1).await, cache(&repo, &["b"], 2).await);
    push(&tags, &repo, &one).await;
    push(&tags, &repo, &two).await;
    world.lose(&one.digest);
    let after = CacheTags::default();
    assert!(names_of(&read(&after, &repo).await.unwrap()).contains(&layer("b")));
}

#[tokio::test]
async fn image_takes_a_tag_over_and_deleting_the_tag_takes_all_parts() {
    let world = World::new().await;
    let (tags, repo) = (CacheTags::default(), world.repo());
    push(&tags, &repo, &cache(&repo, &["a"], 1).await).await;
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    let image = Manifest::new(media::IMAGE_MANIFEST, r#"{"schemaVersion":2,"layers":[]}"#);
    push(&tags, &repo, &image).await;
    assert_eq!(read(&tags, &repo).await, Some(image));
    push(&tags, &repo, &cache(&repo, &["c"], 3).await).await;
    push(&tags, &repo, &cache(&repo, &["d"], 3).await).await;
    assert_eq!(
        names_of(&read(&tags, &repo).await.unwrap()),
        set(&["c", "d"])
    );
    assert!(repo.delete_tag(&tag()).await.unwrap());
    assert_eq!(read(&tags, &repo).await, None);
    assert!(repo.parts(&tag()).await.unwrap().is_empty());
}

#[tokio::test]
async fn cache_that_was_there_before_merging_becomes_a_part() {
    let world = World::new().await;
    let repo = world.repo();
    push(
        &without_merging(ShrinkGuard::Off),
        &repo,
        &cache(&repo, &["a"], 1).await,
    )
    .await;
    let tags = CacheTags::default();
    push(&tags, &repo, &cache(&repo, &["b"], 2).await).await;
    assert_eq!(
        names_of(&read(&tags, &repo).await.unwrap()),
        set(&["a", "b"])
    );
}

#[tokio::test]
async fn shrinking_export_is_refused_or_let_through_as_set() {
    for guard in [ShrinkGuard::Off, ShrinkGuard::Warn, ShrinkGuard::Refuse] {
        let world = World::new().await;
        let (tags, repo) = (without_merging(guard), world.repo());
        let whole = cache(&repo, &["a", "b", "c", "d"], 1).await;
        push(&tags, &repo, &whole).await;
        let small = cache(&repo, &["a"], 2).await;
        let pushed = push(&tags, &repo, &small).await;
        let refused = matches!(pushed, Pushed::Refused(_));
        assert_eq!(refused, guard == ShrinkGuard::Refuse);
        let served = read(&tags, &repo).await.unwrap();
        assert_eq!(served, if refused { whole } else { small });
        let counts = tags.counts();
        let counted = (
            counts.shrunk.load(Ordering::Relaxed),
            counts.shrinks_refused.load(Ordering::Relaxed),
        );
        assert_eq!(
            counted,
            (u64::from(guard == ShrinkGuard::Warn), u64::from(refused))
        );
    }
}
