use std::ops::Range;

use async_trait::async_trait;

use super::*;
use crate::{
    artifact::{Reference, media},
    entry::Time,
    progress,
    store::{
        BlobStore, Resolved, TagStore,
        testing::{Faults, Faulty, Memory},
    },
};

/// Writes down what is stored and named, in order.
#[derive(Default)]
struct Recorder {
    inner: Memory,
    log: Mutex<Vec<Digest>>,
}

#[async_trait]
impl BlobStore for Recorder {
    async fn stat(&self, digest: &Digest) -> store::Result<Option<u64>> {
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> store::Result<Option<ByteStream>> {
        self.inner.get(desc, range).await
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> store::Result<Put> {
        self.log.lock().push(desc.digest);
        self.inner.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for Recorder {
    async fn resolve(&self, reference: &Reference) -> store::Result<Option<Resolved>> {
        self.inner.resolve(reference).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> store::Result<Published> {
        self.log.lock().push(manifest.digest);
        self.inner.publish(manifest, tag, expect).await
    }

    async fn tags(&self, prefix: &str) -> store::Result<Vec<Tag>> {
        self.inner.tags(prefix).await
    }

    async fn clock(&self) -> store::Result<Time> {
        self.inner.clock().await
    }
}

fn options(from: &Arc<Memory>, to: Arc<dyn RepoStore>, dir: &tempfile::TempDir) -> Options {
    Options {
        from: from.clone(),
        to,
        spool_dir: dir.path().join("spool"),
        concurrency: 3,
        progress: progress::silent(),
    }
}

fn big(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| rng.u8(..))
        .take(3 << 20)
        .collect()
}

async fn blob(store: &Memory, media_type: &str, bytes: impl Into<Bytes>) -> Descriptor {
    let bytes = bytes.into();
    let desc = Descriptor::of(media_type, &bytes);
    store.put(&desc, &Body::Bytes(bytes)).await.unwrap();
    desc
}

fn document(media_type: &str, doc: &serde_json::Value) -> Manifest {
    Manifest::new(media_type, serde_json::to_vec(doc).unwrap())
}

/// An index over an image and, as BuildKit does it, over blobs; the image of two layers, one of them big.
struct Sample {
    root: Manifest,
    image: Manifest,
    blobs: Vec<Descriptor>,
}

async fn sample(store: &Memory) -> Sample {
    let mut blobs = vec![
        blob(store, "a/config", "config").await,
        blob(store, "a/layer", "layer").await,
        blob(store, "a/layer", big(1)).await,
        blob(store, "application/vnd.buildkit.cacheconfig.v0", "cache").await,
    ];
    let image = document(
        media::IMAGE_MANIFEST,
        &serde_json::json!({ "config": blobs[0], "layers": [blobs[1], blobs[2]] }),
    );
    store
        .publish(&image, None, &Expect::Anything)
        .await
        .unwrap();
    let root = document(
        media::IMAGE_INDEX,
        &serde_json::json!({ "manifests": [image.descriptor(), blobs[1], blobs[3]] }),
    );
    blobs.sort_by_key(|d| d.digest);
    Sample { root, image, blobs }
}

fn tag() -> Tag {
    "t".parse().unwrap()
}

#[tokio::test]
async fn children_come_before_parents_and_the_tag_last() {
    let (from, to, dir) = (
        Arc::new(Memory::new()),
        Arc::new(Recorder::default()),
        tempfile::tempdir().unwrap(),
    );
    let s = sample(&from).await;
    let copied = copy(
        &options(&from, to.clone(), &dir),
        &s.root,
        Some((&tag(), &Expect::Absent)),
    )
    .await
    .unwrap();
    assert_eq!(copied.published, Published::Done);
    assert_eq!(copied.report.blobs_moved, 4);
    assert_eq!(
        copied.report.bytes_moved,
        s.blobs.iter().map(|d| d.size).sum::<u64>()
    );
    let log = to.log.lock().clone();
    let at = |d: &Digest| log.iter().position(|l| l == d).unwrap();
    assert_eq!(log.len(), 6, "each once: {log:?}");
    let config_and_layers = s.blobs.iter().filter(|d| d.media_type.starts_with("a/"));
    for desc in config_and_layers {
        assert!(at(&desc.digest) < at(&s.image.digest));
    }
    assert_eq!(at(&s.root.digest), 5);
    let there = to.inner.resolve(&tag().into()).await.unwrap().unwrap();
    assert_eq!(there.manifest, s.root);
    assert!(
        std::fs::read_dir(dir.path().join("spool"))
            .unwrap()
            .next()
            .is_none(),
        "no spool is left"
    );
}

#[tokio::test]
async fn what_is_there_is_not_moved_again() {
    let (from, to, dir) = (
        Arc::new(Memory::new()),
        Arc::new(Memory::new()),
        tempfile::tempdir().unwrap(),
    );
    let s = sample(&from).await;
    let options = options(&from, to.clone(), &dir);
    copy(&options, &s.root, None).await.unwrap();
    to.lose(&s.blobs[0].digest);
    to.damage(&s.blobs[1].digest, "short");
    let again = copy(&options, &s.root, Some((&tag(), &Expect::Anything)))
        .await
        .unwrap();
    let moved: u64 = s.blobs[..2].iter().map(|d| d.size).sum();
    let saved: u64 = s.blobs[2..].iter().map(|d| d.size).sum();
    let want = CopyReport {
        blobs_moved: 2,
        bytes_moved: moved,
        bytes_saved: saved,
    };
    assert_eq!(again.report, want);
}

#[tokio::test]
async fn a_missing_or_damaged_child_publishes_nothing() {
    for (i, damage) in [
        (0, None),
        (1, None),
        (2, None),
        (3, None),
        (0, Some(())),
        (3, Some(())),
    ] {
        let (from, to, dir) = (
            Arc::new(Memory::new()),
            Arc::new(Memory::new()),
            tempfile::tempdir().unwrap(),
        );
        let s = sample(&from).await;
        let desc = &s.blobs[i];
        match damage {
            None => assert!(from.lose(&desc.digest)),
            Some(()) => from.flip(&desc.digest, 2),
        }
        let failed = copy(
            &options(&from, to.clone(), &dir),
            &s.root,
            Some((&tag(), &Expect::Anything)),
        )
        .await;
        match (failed.unwrap_err(), damage) {
            (Error::Missing { digest, .. }, None) | (Error::Damaged { digest, .. }, Some(())) => {
                assert_eq!(digest, desc.digest);
            }
            (e, _) => panic!("{e}"),
        }
        assert_eq!(to.tags("").await.unwrap(), []);
        assert_eq!(to.stat(&s.root.digest).await.unwrap(), None);
        assert_eq!(to.stat(&desc.digest).await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_child_that_is_only_a_blob_is_read_as_a_manifest_all_the_same() {
    let (from, to, dir) = (
        Arc::new(Memory::new()),
        Arc::new(Memory::new()),
        tempfile::tempdir().unwrap(),
    );
    let layer = blob(&from, "a/layer", "layer").await;
    let image = document(
        media::IMAGE_MANIFEST,
        &serde_json::json!({ "config": layer, "layers": [] }),
    );
    blob(&from, media::IMAGE_MANIFEST, image.bytes.clone()).await;
    let root = document(
        media::IMAGE_INDEX,
        &serde_json::json!({ "manifests": [image.descriptor()] }),
    );
    copy(&options(&from, to.clone(), &dir), &root, None)
        .await
        .unwrap();
    assert_eq!(to.stat(&layer.digest).await.unwrap(), Some(layer.size));
    let there = to.resolve(&image.digest.into()).await.unwrap().unwrap();
    assert_eq!(there.manifest.media_type, media::IMAGE_MANIFEST);
}

#[tokio::test]
async fn an_unknown_type_is_copied_with_what_it_describes_and_the_rest_is_said() {
    let (from, to, dir) = (
        Arc::new(Memory::new()),
        Arc::new(Memory::new()),
        tempfile::tempdir().unwrap(),
    );
    let layer = blob(&from, "a/layer", "1").await;
    let mut doc = serde_json::json!({ "blobs": [layer] });
    let root = document("application/x-other", &doc);
    let opts = options(&from, to.clone(), &dir);
    let whole = copy(&opts, &root, None).await.unwrap();
    assert_eq!(whole.unknown, []);
    assert_eq!(to.stat(&layer.digest).await.unwrap(), Some(layer.size));
    doc["y"] = Digest::sha256_of(b"somewhere else").to_string().into();
    let root = document("application/x-other", &doc);
    let copied = copy(
        &options(&from, to.clone(), &dir),
        &root,
        Some((&tag(), &Expect::Anything)),
    )
    .await
    .unwrap();
    assert_eq!(copied.unknown, [root.digest]);
    assert!(to.resolve(&tag().into()).await.unwrap().is_some());
}

#[tokio::test]
async fn a_tag_that_moved_meanwhile_is_left_alone() {
    let (from, to, dir) = (
        Arc::new(Memory::new()),
        Arc::new(Memory::new()),
        tempfile::tempdir().unwrap(),
    );
    let s = sample(&from).await;
    let other = document(media::IMAGE_INDEX, &serde_json::json!({ "manifests": [] }));
    to.publish(&other, Some(&tag()), &Expect::Absent)
        .await
        .unwrap();
    let copied = copy(
        &options(&from, to.clone(), &dir),
        &s.root,
        Some((&tag(), &Expect::Absent)),
    )
    .await
    .unwrap();
    assert_eq!(copied.published, Published::Conflict);
    let there = to.resolve(&tag().into()).await.unwrap().unwrap();
    assert_eq!(there.manifest.digest, other.digest);
}

#[tokio::test]
async fn a_copy_that_was_cut_off_is_finished_by_the_next() {
    let mut failures = 0;
    for seed in 0..20 {
        let (from, to, dir) = (
            Arc::new(Memory::new()),
            Arc::new(Memory::new()),
            tempfile::tempdir().unwrap(),
        );
        let s = sample(&from).await;
        let faulty = Arc::new(Faulty::new(
            to.clone(),
            Faults {
                error: 0.2,
                lose_ack: 0.1,
                ..Faults::NONE
            },
            seed,
        ));
        let bad = Options {
            from: Arc::new(Faulty::new(from.clone(), Faults::BAD_DAY, seed)),
            ..options(&from, faulty, &dir)
        };
        if copy(&bad, &s.root, Some((&tag(), &Expect::Anything)))
            .await
            .is_err()
        {
            failures += 1;
        }
        if !to.tags("").await.unwrap().is_empty() {
            // Whatever went wrong: a tag means that all is there.
            for desc in &s.blobs {
                assert_eq!(
                    to.stat(&desc.digest).await.unwrap(),
                    Some(desc.size),
                    "seed {seed}"
                );
            }
        }
        let good = options(&from, to.clone(), &dir);
        copy(&good, &s.root, Some((&tag(), &Expect::Anything)))
            .await
            .unwrap();
        for desc in &s.blobs {
            let got = to.get(desc, 0..desc.size).await.unwrap().unwrap();
            assert!(
                desc.digest
                    .matches(&store::collect(got, desc.size).await.unwrap())
            );
        }
    }
    assert!(failures > 5, "the faults did something: {failures}");
}
