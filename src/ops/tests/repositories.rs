//! Listings and upkeep over all repositories of a store: builders' pushes beside the command line's own caches.

use std::time::Duration;

use serde_json::json;

use super::{
    copying::opened,
    looking::{export_as, tree},
    *,
};
use crate::{
    artifact::{Descriptor, Manifest, Tag, media},
    ops::{
        Reach, cache_tags::CacheTags, copy, du, inspect, list, prune, remove, sight::Sights, verify,
    },
    store::{Body, Repository},
};

/// A disk store with a cachectl folder cache, and in `f/x` a BuildKit cache of two parts (`c`) and an image (`v1`) with a signature.
struct Shelf {
    world: World,
    ctx: Context,
    /// The layer that only the cache has, and that of the image.
    cached: Descriptor,
    layer: Descriptor,
    signature: Manifest,
}

async fn shelf() -> Shelf {
    // Boxed: exports have big futures.
    Box::pin(filled()).await
}

async fn filled() -> Shelf {
    let world = World::new(Meet::CompareAndSwap);
    let root = world.path("stores", "shelf");
    let ctx = opened(&world, StoreUrl::Disk(root)).await;
    export_as(
        &ctx,
        &tree(&world, "a", &[("file", b"content")]),
        "ours",
        "",
    )
    .await;
    let repo = repository(&ctx, "f/x");
    let tags = CacheTags::default();
    let cached = put(&repo, media::LAYER_GZIP, b"layer one").await;
    for (n, layer) in [&cached, &put(&repo, media::LAYER_GZIP, b"layer two").await]
        .into_iter()
        .enumerate()
    {
        let manifest = cache(&repo, layer, n).await;
        tags.push(&repo, &manifest, &[tag("c")]).await.unwrap();
    }
    let layer = put(&repo, media::LAYER_GZIP, b"layer of the image").await;
    let config = put(&repo, media::IMAGE_CONFIG, b"{}").await;
    let image = manifest(&json!({"config": config, "layers": [layer]}));
    tags.push(&repo, &image, &[tag("v1")]).await.unwrap();
    let empty = put(&repo, media::EMPTY, b"{}").await;
    let signature = manifest(&json!({
        "artifactType": "a/signature", "config": empty, "layers": [empty], "subject": image.descriptor(),
    }));
    repo.put_manifest(&signature, &[]).await.unwrap();
    Shelf {
        world,
        ctx,
        cached,
        layer,
        signature,
    }
}

impl Shelf {
    /// The same store as seen by a caller with rights to `team` only.
    fn granted(&self, team: &'static str) -> Context {
        Context {
            reach: Reach::granted(move |repo| repo.as_str() == team, Arc::default()),
            ..self.ctx.clone()
        }
    }

    /// The same store, limited to these repositories.
    fn chosen(&self, pattern: &str) -> Context {
        let reach = Reach::everything().wanting(&[pattern.to_owned()]);
        Context {
            reach: reach.unwrap(),
            ..self.ctx.clone()
        }
    }

    fn damage(&self, blob: &Descriptor) {
        let blobs = self.world.path("stores", "shelf/blobs/sha256");
        let path = blobs.join(blob.digest.hex());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[3] ^= 1;
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
}

fn repository(ctx: &Context, name: &str) -> Repository {
    let repositories = ctx.store.facts().repositories.as_ref().unwrap();
    repositories.repository(&name.parse().unwrap())
}

fn tag(tag: &str) -> Tag {
    tag.parse().unwrap()
}

async fn put(repo: &Repository, media_type: &str, bytes: &'static [u8]) -> Descriptor {
    let desc = Descriptor::of(media_type, bytes);
    let body = Body::Bytes(bytes.into());
    repo.put_blob(&desc, &body).await.unwrap();
    desc
}

fn manifest(document: &serde_json::Value) -> Manifest {
    let mut document = document.clone();
    document["schemaVersion"] = json!(2);
    document["mediaType"] = json!(media::IMAGE_MANIFEST);
    Manifest::new(media::IMAGE_MANIFEST, document.to_string())
}

/// A cache of one step, as BuildKit exports it.
async fn cache(repo: &Repository, layer: &Descriptor, n: usize) -> Manifest {
    let config = json!({
        "layers": [{"blob": layer.digest, "parent": -1}],
        "records": [{
            "digest": Digest::sha256_of(&[n as u8]),
            "layers": [{"layer": 0, "createdAt": format!("2026-11-23T04:02:{n:02}Z")}],
        }],
    })
    .to_string();
    let desc = Descriptor::of(media::BUILDKIT_CONFIG, config.as_bytes());
    let body = Body::Bytes(config.into());
    repo.put_blob(&desc, &body).await.unwrap();
    let mut layer = layer.clone();
    let diff_id = Digest::sha256_of(&layer.size.to_le_bytes()).to_string();
    let key = "containerd.io/uncompressed".to_owned();
    layer.annotations.insert(key, diff_id);
    manifest(&json!({"config": desc, "layers": [layer]}))
}

fn rows(report: &list::Report) -> Vec<(&str, &str)> {
    let rows = report.rows.iter();
    rows.map(|r| (r.name.as_str(), r.kind.as_str())).collect()
}

const ALL: [(&str, &str); 3] = [("ours", "dir"), ("f/x:c", "buildkit"), ("f/x:v1", "image")];

fn nothing() -> prune::Options {
    prune::Options {
        max_age: None,
        max_size: None,
        keep: None,
        grace: Duration::ZERO,
        now: false,
        dry_run: false,
    }
}

/// With manifests in `f/y` that claim sizes which nothing has.
async fn shelf_with_made_up_sizes() -> Shelf {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/y");
    let config = put(&repo, media::EMPTY, b"[]").await;
    for (n, size) in [9_000_000_000_000_000_000, u64::MAX, 0]
        .into_iter()
        .enumerate()
    {
        let layer = put(&repo, media::LAYER_GZIP, b"seven b").await;
        let layer = Descriptor::new("a/b", layer.digest, size);
        let document = manifest(&json!({"config": config, "layers": [layer]}));
        repo.put_manifest(&document, &[tag(&format!("big{n}"))])
            .await
            .unwrap();
    }
    shelf
}

#[tokio::test(flavor = "multi_thread")]
async fn du_shows_what_the_store_has_and_not_what_a_writer_made_up() {
    let shelf = shelf_with_made_up_sizes().await;
    let report = du::run(&shelf.ctx, None).await.unwrap();
    let store = report.store.unwrap().bytes;
    assert!(report.bytes <= store, "{report:?}");
    let big = report.rows.iter().filter(|r| r.repository == "f/y");
    let big: Vec<u64> = big.map(|r| r.bytes).collect();
    assert_eq!(big.len(), 3);
    assert!(big.iter().all(|b| *b > 9 && *b < 1000), "{big:?}");
    // A caller who does not see the whole store gets the sizes that the manifests claim.
    let part = du::run(&shelf.granted("f/y"), None).await.unwrap();
    assert_eq!((part.rows[0].bytes, part.store), (u64::MAX, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn sizes_that_a_writer_made_up_make_no_name_leave() {
    let shelf = shelf_with_made_up_sizes().await;
    let options = prune::Options {
        max_size: Some(1 << 20),
        ..nothing()
    };
    let whole = prune::run(&shelf.ctx, &options).await.unwrap();
    assert_eq!(whole.tags, Vec::<String>::new());
    // For a caller who does not see the whole store, each blob is looked up.
    let part = prune::run(&shelf.granted("f/y"), &options).await.unwrap();
    assert_eq!(part.tags, Vec::<String>::new());
    // Only stored blobs count, once for all that name them.
    let stored: u64 = shelf
        .ctx
        .store
        .sweep()
        .unwrap()
        .blobs()
        .await
        .unwrap()
        .iter()
        .map(|b| b.size)
        .sum();
    let exact = prune::Options {
        max_size: Some(stored),
        ..options.clone()
    };
    assert_eq!(
        prune::run(&shelf.ctx, &exact).await.unwrap().tags,
        Vec::<String>::new()
    );
    let none = prune::Options {
        max_size: Some(1),
        ..options
    };
    assert!(prune::run(&shelf.ctx, &none).await.unwrap().tags.len() > 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn listing_names_tags_of_all_repositories_within_reach() {
    let shelf = shelf().await;
    let all = list::run(&shelf.ctx, None).await.unwrap();
    assert_eq!((rows(&all), all.broken.len()), (ALL.to_vec(), 0));
    let image = &all.rows[2];
    assert_eq!((image.repository.as_str(), image.packs), ("f/x", 2));
    // The layer and the config; what the signature has is the config's bytes again.
    assert_eq!(image.stored_bytes, shelf.layer.size + 2);
    assert!(image.pushed.is_some());
    let named = list::run(&shelf.ctx, Some("f/x:v1")).await.unwrap();
    assert_eq!(rows(&named), ALL[2..]);
    for (ctx, want) in [
        (shelf.granted("f/x"), &ALL[1..]),
        (shelf.granted("cachectl"), &ALL[..1]),
        (shelf.granted("f/y"), &[]),
        (shelf.chosen("f/*"), &ALL[1..]),
        (shelf.chosen("f*"), &[]),
    ] {
        assert_eq!(rows(&list::run(&ctx, None).await.unwrap()), want);
    }
    let foreign = list::run(&shelf.granted("cachectl"), Some("f/x:v1")).await;
    assert_eq!(rows(&foreign.unwrap()), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn inspection_shows_blobs_parts_and_referrers() {
    let shelf = shelf().await;
    let found = inspect::run(&shelf.ctx, "f/x:c", false).await.unwrap();
    let outside = found[0].outside.as_ref().unwrap();
    assert_eq!((outside.records, outside.layers), (Some(2), Some(2)));
    assert_eq!(outside.parts.len(), 2);
    let layers = found[0].packs.iter();
    let layers = layers.filter(|p| p.media_type.as_deref() == Some(media::LAYER_GZIP));
    assert_eq!(layers.count(), 2);
    let found = inspect::run(&shelf.ctx, "f/x:v1", false).await.unwrap();
    let outside = found[0].outside.as_ref().unwrap();
    assert_eq!(outside.referrers, [shelf.signature.digest]);
    let digest = shelf.signature.digest.to_string();
    let by_digest =
        |ctx: Context| async move { inspect::run(&ctx, &digest, false).await.unwrap().len() };
    assert_eq!(by_digest.clone()(shelf.ctx.clone()).await, 1);
    assert_eq!(by_digest(shelf.granted("cachectl")).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_that_of_all_repositories_and_nothing_that_is_needed_is_left_over() {
    let shelf = shelf().await;
    let all = du::run(&shelf.ctx, None).await.unwrap();
    assert_eq!((all.rows.len(), all.broken.len()), (3, 0));
    let whole = all.store.unwrap();
    assert_eq!((all.blobs, all.bytes), (whole.blobs, whole.bytes));
    let one = du::run(&shelf.chosen("f/**"), Some("f/x:c")).await.unwrap();
    assert_eq!(one.rows.len(), 1);
    assert_eq!(one.rows[0].own_bytes, one.rows[0].bytes);
    let tenant = du::run(&shelf.granted("f/x"), None).await.unwrap();
    assert_eq!((tenant.rows.len(), tenant.store), (2, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn verifying_reads_every_blob_and_finds_what_is_damaged_or_missing() {
    use verify::Depth;
    let shelf = shelf().await;
    let clean = verify::run(&shelf.ctx, None, Depth::Data).await.unwrap();
    assert_eq!((clean.snapshots, clean.faults.len()), (3, 0), "{clean:?}");
    assert!(clean.bytes_read > shelf.layer.size + shelf.cached.size);
    shelf.damage(&shelf.cached);
    let quick = verify::run(&shelf.ctx, None, Depth::Structure).await;
    assert_eq!(quick.unwrap().faults, []);
    for depth in [Depth::Digests, Depth::Data] {
        let found = verify::run(&shelf.ctx, None, depth).await.unwrap();
        assert_eq!(found.faults.len(), 1, "{found:?}");
        assert_eq!(found.faults[0].what, "tag f/x:c");
        let why = &found.faults[0].why;
        assert!(why.contains(&shelf.cached.digest.to_string()), "{why}");
    }
    let other = verify::run(&shelf.granted("cachectl"), None, Depth::Data).await;
    assert_eq!(other.unwrap().faults, []);
    let blobs = shelf.world.path("stores", "shelf/blobs/sha256");
    std::fs::remove_file(blobs.join(shelf.signature.digest.hex())).unwrap();
    let found = verify::run(&shelf.ctx, Some("f/x:v1"), Depth::Structure).await;
    let faults = found.unwrap().faults;
    assert!(
        faults.len() == 1 && faults[0].why.contains("referrer"),
        "{faults:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_layer_that_only_an_earlier_push_of_a_merged_tag_names_is_no_fault() {
    use verify::Depth;
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/x");
    let verified = async || {
        let found = verify::run(&shelf.ctx, Some("f/x:c"), Depth::Structure).await;
        found.unwrap().faults
    };
    let blobs = shelf.world.path("stores", "shelf/blobs/sha256");
    std::fs::remove_file(blobs.join(shelf.cached.digest.hex())).unwrap();
    // The tag's current manifest still names it.
    assert_eq!(verified().await.len(), 1);
    let layer = put(&repo, media::LAYER_GZIP, b"layer three").await;
    let next = cache(&repo, &layer, 2).await;
    let tags = CacheTags::default();
    tags.push(&repo, &next, &[tag("c")]).await.unwrap();
    assert_eq!(verified().await, []);
    // What it names, and its referrers, stay a fault.
    std::fs::remove_file(blobs.join(layer.digest.hex())).unwrap();
    assert_eq!(verified().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_a_tag_takes_its_parts_and_needs_it_within_reach() {
    let shelf = shelf().await;
    for ctx in [shelf.granted("cachectl"), shelf.chosen("cachectl")] {
        let none = remove::run(&ctx, &removing("f/x:c", false)).await.unwrap();
        assert_eq!(none, remove::Report::default());
    }
    let gone = remove::run(&shelf.ctx, &removing("f/x:c", false))
        .await
        .unwrap();
    assert_eq!(gone.tags, ["f/x:c"]);
    let repo = repository(&shelf.ctx, "f/x");
    assert_eq!(repo.parts(&tag("c")).await.unwrap(), []);
    assert_eq!(
        rows(&list::run(&shelf.ctx, None).await.unwrap()),
        [ALL[0], ALL[2]]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_tags_go_from_the_repositories_within_reach_and_blobs_only_for_who_may_everything() {
    let shelf = shelf().await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let old = prune::Options {
        max_age: Some(Duration::from_millis(1)),
        ..nothing()
    };
    let none = prune::run(&shelf.granted("f/y"), &old).await.unwrap();
    assert_eq!((none.tags.len(), none.blobs), (0, 0));
    let rehearsed = prune::Options {
        dry_run: true,
        ..old.clone()
    };
    let all = prune::run(&shelf.ctx, &rehearsed).await.unwrap();
    assert_eq!(all.tags.len(), 3, "{all:?}");
    assert!(all.blobs > 8, "{all:?}");
    let team = prune::run(&shelf.granted("f/x"), &old).await.unwrap();
    assert_eq!(team.tags, ["f/x:c", "f/x:v1"]);
    assert!(!team.sweep_failed && team.blobs == 0, "{team:?}");
    assert!(team.not_swept.unwrap().contains("a grant of all actions"));
    assert_eq!(rows(&list::run(&shelf.ctx, None).await.unwrap()), ALL[..1]);
    let swept = prune::run(&shelf.ctx, &nothing()).await.unwrap();
    assert!(swept.blobs > 8, "{swept:?}");
    let left = du::run(&shelf.ctx, None).await.unwrap();
    assert_eq!(left.blobs, left.store.unwrap().blobs);
}

#[tokio::test(flavor = "multi_thread")]
async fn keep_counts_the_tags_of_each_repository() {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/x");
    tokio::time::sleep(Duration::from_millis(20)).await;
    let newest = manifest(&json!({"config": shelf.layer, "layers": []}));
    repo.put_manifest(&newest, &[tag("v2")]).await.unwrap();
    let keep = prune::Options {
        keep: Some(1),
        ..nothing()
    };
    let report = prune::run(&shelf.ctx, &keep).await.unwrap();
    assert_eq!(report.tags, ["f/x:c", "f/x:v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_a_live_manifest_outlives_a_sweep_and_goes_with_it() {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/x");
    let kept = async || repo.known(&shelf.signature.digest).await.unwrap().is_some();
    let loose = manifest(&json!({"config": shelf.layer, "layers": []}));
    repo.put_manifest(&loose, &[]).await.unwrap();
    let swept = prune::run(&shelf.ctx, &nothing()).await.unwrap();
    // The untagged manifest, and the first cache's fold is the part itself.
    assert_eq!(swept.blobs, 1, "{swept:?}");
    assert!(kept().await);
    remove::run(&shelf.ctx, &removing("f/x:v1", false))
        .await
        .unwrap();
    prune::run(&shelf.ctx, &nothing()).await.unwrap();
    assert!(!kept().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_content_of_another_repository_does_not_tell_whether_it_is_in_use() {
    let shelf = shelf().await;
    let images = repository(&shelf.ctx, "f/x");
    let image = images.manifest(&tag("v1").into()).await.unwrap().unwrap();
    let image = image.manifest.descriptor();
    let unknown = |n: u8| Descriptor::of(media::IMAGE_MANIFEST, &[n]);
    let repo = repository(&shelf.ctx, "f/y");
    let config = put(&repo, media::EMPTY, b"[]").await;
    let refers = async |n: usize, subject: &Descriptor| {
        let document = json!({"config": config, "layers": [], "subject": subject, "annotations": {"n": n.to_string()}});
        let referrer = manifest(&document);
        repo.put_manifest(&referrer, &[]).await.unwrap();
        referrer.digest
    };
    // What a tag of this repository mentions: another user's manifest, and a nonexistent one.
    let mentions = json!({"config": config, "layers": [], "annotations": {"a": image.digest, "b": unknown(0).digest},
        "odd": {"manifests": [image, unknown(1)]}});
    let mentions = manifest(&mentions);
    repo.put_manifest(&mentions, &[tag("own")]).await.unwrap();
    let (stay, go) = (
        [
            refers(0, &mentions.descriptor()).await,
            refers(1, &image).await,
            refers(2, &unknown(0)).await,
        ],
        [
            refers(3, &shelf.layer).await,
            refers(4, &shelf.cached).await,
            refers(5, &unknown(2)).await,
        ],
    );
    // A referrer of a referrer is kept as long.
    let twice = Descriptor::new(media::IMAGE_MANIFEST, stay[1], 1);
    let twice = refers(6, &twice).await;
    prune::run(&shelf.ctx, &nothing()).await.unwrap();
    let kept = async |digest: &Digest| repo.known(digest).await.unwrap().is_some();
    for digest in stay.iter().chain([&twice]) {
        assert!(kept(digest).await, "{digest}");
    }
    for (n, digest) in go.iter().enumerate() {
        assert!(!kept(digest).await, "{n}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_swept_manifest_doubted_stays_closed() {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/y");
    let mut borrowed = serde_json::to_value(&shelf.cached).unwrap();
    let laundered = manifest(&json!({"layers": [borrowed]}));
    repo.put_manifest(&laundered, &[tag("own")]).await.unwrap();
    borrowed["urls"] = json!(["https://x"]);
    let doubter = manifest(&json!({"layers": [borrowed]}));
    repo.put_manifest(&doubter, &[]).await.unwrap();
    prune::run(&shelf.ctx, &nothing()).await.unwrap();
    assert_eq!(repo.known(&doubter.digest).await.unwrap(), None);
    let sights = Sights::default();
    assert!(!sights.sees(&repo, &shelf.cached.digest).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_manifest_mentions_is_looked_up_in_the_listing_and_asked_for_nowhere() {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/y");
    let unknown = |n: u32| Descriptor::of(media::IMAGE_MANIFEST, &n.to_le_bytes());
    let unknown: Vec<Descriptor> = (0..2000).map(unknown).collect();
    let document = manifest(&json!({"config": shelf.layer, "layers": [], "odd": unknown}));
    repo.put_manifest(&document, &[tag("odd")]).await.unwrap();
    let asked = || shelf.ctx.store.facts().metrics[0].snapshot().stat.requests;
    let before = asked();
    let swept = prune::run(&shelf.ctx, &nothing()).await.unwrap();
    assert_eq!(swept.not_swept, None);
    assert!(asked() - before < 20, "{} stats", asked() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tombstone_goes_with_what_it_hides() {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/x");
    let loose = put(&repo, media::LAYER_GZIP, b"loose").await;
    for digest in [loose.digest, shelf.layer.digest] {
        assert!(repo.delete_blob(&digest).await.unwrap());
    }
    prune::run(&shelf.ctx, &nothing()).await.unwrap();
    assert_eq!(repo.tombstones().await.unwrap(), [shelf.layer.digest]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_and_records_of_merges_go_with_their_manifests() {
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/x");
    let tags = CacheTags::default();
    let served = tags
        .resolve(&repo, &tag("c").into())
        .await
        .unwrap()
        .unwrap();
    let parts = repo.parts(&tag("c")).await.unwrap();
    let lose = |digest: &Digest| {
        let blobs = shelf.world.path("stores", "shelf/blobs/sha256");
        std::fs::remove_file(blobs.join(digest.hex())).unwrap();
    };
    let an_hour_older = || {
        let folder = shelf.world.path("stores", "shelf/r/f%2Fx/parts/c");
        for part in std::fs::read_dir(folder).unwrap() {
            let file = std::fs::File::open(part.unwrap().path()).unwrap();
            let old = std::time::SystemTime::now() - Duration::from_hours(2);
            file.set_modified(old).unwrap();
        }
    };
    // A merged manifest that the tag was served as before.
    let now = repo.store().clock().await.unwrap();
    let earlier = crate::entry::Time {
        secs: now.secs - 7200,
        ..now
    };
    let old = Digest::sha256_of(b"pruned since");
    for made in [earlier, now] {
        let fold = crate::store::record::Folded::of(vec![parts[0].digest], made);
        let digest = if made == now { parts[1].digest } else { old };
        repo.add_fold(&tag("c"), &digest, &fold).await.unwrap();
    }
    lose(&parts[1].digest);
    prune::run(&shelf.ctx, &nothing()).await.unwrap();
    assert_eq!(
        repo.parts(&tag("c")).await.unwrap(),
        parts,
        "it may be on its way"
    );
    let mut kept = vec![served.digest, parts[1].digest];
    kept.sort_by_key(Digest::to_string);
    assert_eq!(repo.folds(&tag("c")).await.unwrap(), kept);
    an_hour_older();
    prune::run(&shelf.ctx, &nothing()).await.unwrap();
    let left = repo.parts(&tag("c")).await.unwrap();
    assert_eq!(
        left.iter().map(|p| p.digest).collect::<Vec<_>>(),
        [parts[0].digest]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_keep_repositories_and_say_where_there_is_no_room() {
    let shelf = shelf().await;
    let to = StoreUrl::Disk(shelf.world.path("stores", "copy"));
    let to = opened(&shelf.world, to).await;
    let one = copy::run(&shelf.ctx, &to, Some("f/x:v1")).await.unwrap();
    assert!(one.found && one.tags.contains(&"f/x:v1".to_owned()));
    let all = copy::run(&shelf.ctx, &to, None).await.unwrap();
    assert_eq!((all.tags.len(), all.left_out.len()), (2, 0), "{all:?}");
    assert_eq!(rows(&list::run(&to, None).await.unwrap()), ALL);
    let found = verify::run(&to, None, verify::Depth::Data).await.unwrap();
    assert_eq!((found.snapshots, found.faults.len()), (3, 0), "{found:?}");
    let shown = inspect::run(&to, "f/x:v1", false).await.unwrap();
    let outside = shown[0].outside.as_ref().unwrap();
    assert_eq!(outside.referrers, [shelf.signature.digest]);

    let layout = StoreUrl::Layout(shelf.world.path("stores", "layout"));
    let layout = opened(&shelf.world, layout).await;
    let some = copy::run(&shelf.ctx, &layout, None).await.unwrap();
    assert_eq!((some.tags.len(), some.left_out.len()), (1, 1));
    assert_eq!(some.left_out[0].what, "repository f/x");
    let chosen = Context {
        reach: shelf.chosen("f/**").reach,
        ..layout
    };
    let refused = prune::run(&chosen, &nothing()).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("holds only one"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_in_the_command_lines_own_repository_is_never_pruned() {
    let shelf = shelf().await;
    let own = repository(&shelf.ctx, "cachectl");
    let image = manifest(&json!({"config": shelf.layer, "layers": []}));
    own.put_manifest(&image, &[tag("latest")]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await;
    let old = prune::Options {
        max_age: Some(Duration::from_millis(1)),
        ..nothing()
    };
    let report = prune::run(&shelf.ctx, &old).await.unwrap();
    assert!(!report.tags.contains(&"latest".to_owned()), "{report:?}");
    let own = shelf.chosen("cachectl");
    let left = list::run(&own, None).await.unwrap();
    assert_eq!(rows(&left), [("latest", "other")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn layers_that_are_missing_or_have_another_size_are_told_by_verify_and_inspect() {
    use verify::Depth;
    let shelf = shelf().await;
    let repo = repository(&shelf.ctx, "f/x");
    let tags = CacheTags::default();
    let config = put(&repo, media::IMAGE_CONFIG, b"{}").await;
    let wrong = Descriptor {
        size: shelf.layer.size + 5,
        ..shelf.layer.clone()
    };
    let absent = Descriptor::of(media::LAYER_GZIP, b"never pushed");
    let image = manifest(&json!({"config": config, "layers": [wrong, absent]}));
    tags.push(&repo, &image, &[tag("odd")]).await.unwrap();
    let both = manifest(&json!({"config": config, "layers": [shelf.layer, wrong]}));
    tags.push(&repo, &both, &[tag("both")]).await.unwrap();
    let faults = async |name: &str| {
        let found = verify::run(&shelf.ctx, Some(name), Depth::Structure).await;
        let faults = found.unwrap().faults.into_iter().map(|f| f.why);
        faults.collect::<Vec<_>>().join("; ")
    };
    let (size, other) = (shelf.layer.size, wrong.size);
    let odd = faults("f/x:odd").await;
    assert!(
        odd.contains(&format!("has {size} bytes, not {other}")),
        "{odd}"
    );
    assert!(odd.contains("is missing"), "{odd}");
    let both = faults("f/x:both").await;
    assert!(
        both.contains(&format!(
            "has {other} bytes according to it, but {size} according to another"
        )),
        "{both}"
    );
    let found = inspect::run(&shelf.ctx, "f/x:odd", false).await.unwrap();
    let row = &found[0].row;
    assert_eq!((row.packs, row.stored_bytes), (2, size + config.size));
    let sizes: Vec<u64> = found[0].packs.iter().map(|p| p.stored_bytes).collect();
    assert_eq!(sizes, [config.size, size, 0]);
}
