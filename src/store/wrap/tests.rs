use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::join_all, stream};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{
    counters::{self, Counters, OpSnapshot, Tier},
    retrying::{Contact, Policy, Trouble},
    *,
};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    backoff::Backoff,
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Meet, Published, Put, RepoStore,
        Resolved, Result, TagStore, Untag,
        testing::{Faults, Faulty, Memory, conformance},
    },
};

mod limiting;
mod retries;

const QUICK: Policy = Policy {
    retry_for: Duration::from_secs(5),
    first_contact: Duration::from_secs(2),
    stall: Duration::from_millis(200),
    pauses: Backoff::new(Duration::from_millis(1), Duration::from_millis(2)),
};

fn data(len: usize, seed: u64) -> Bytes {
    let mut rng = fastrand::Rng::with_seed(seed);
    (0..len).map(|_| rng.u8(..)).collect()
}

fn blob(bytes: &Bytes) -> (Descriptor, Body) {
    (Descriptor::of("x/y", bytes), Body::Bytes(bytes.clone()))
}

fn manifest(id: u64) -> Manifest {
    Manifest::sniff(format!("{{\"schemaVersion\":2,\"id\":{id}}}"))
}

fn tag(s: &str) -> Tag {
    s.parse().unwrap()
}

async fn memory_with(bytes: &Bytes) -> (Arc<Memory>, Descriptor) {
    let memory = Arc::new(Memory::new());
    let (desc, body) = blob(bytes);
    memory.put(&desc, &body).await.unwrap();
    (memory, desc)
}

async fn whole(store: &dyn RepoStore, desc: &Descriptor) -> Result<Option<Vec<u8>>> {
    let Some(stream) = store.get(desc, 0..desc.size).await? else {
        return Ok(None);
    };
    let pieces: Vec<Bytes> = stream.try_collect().await?;
    Ok(Some(pieces.concat()))
}

type Answer = Box<dyn Fn(Range<u64>) -> Result<Option<ByteStream>> + Send + Sync>;

/// A store that gives the answers it was told to, in turn, and then what `inner` says.
struct Scripted {
    inner: Arc<Memory>,
    gets: Mutex<Vec<Answer>>,
    asked: Mutex<Vec<Range<u64>>>,
    errors: Mutex<Vec<Error>>,
    calls: AtomicUsize,
    hangs: bool,
}

impl Scripted {
    fn new(inner: Arc<Memory>) -> Self {
        Self {
            inner,
            gets: Mutex::default(),
            asked: Mutex::default(),
            errors: Mutex::default(),
            calls: AtomicUsize::new(0),
            hangs: false,
        }
    }

    fn get_answers(
        mut self,
        answer: impl Fn(Range<u64>) -> Result<Option<ByteStream>> + Send + Sync + 'static,
    ) -> Self {
        self.gets.get_mut().push(Box::new(answer));
        self
    }

    fn fails_with(mut self, errors: Vec<Error>) -> Self {
        self.errors = Mutex::new(errors);
        self
    }

    async fn call(&self) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let mut errors = self.errors.lock();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.remove(0))
        }
    }
}

#[async_trait]
impl BlobStore for Scripted {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.call().await?;
        self.inner.stat(digest).await
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.call().await?;
        self.asked.lock().push(range.clone());
        let answer = {
            let mut gets = self.gets.lock();
            (!gets.is_empty()).then(|| gets.remove(0))
        };
        match answer {
            Some(answer) => answer(range),
            None => self.inner.get(desc, range).await,
        }
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.call().await?;
        self.inner.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for Scripted {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.call().await?;
        self.inner.resolve(reference).await
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        // Done, and only then the error: an answer that got lost.
        let done = self.inner.publish(manifest, tag, expect).await;
        self.call().await?;
        done
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.call().await?;
        self.inner.tags(prefix).await
    }

    async fn clock(&self) -> Result<Time> {
        self.call().await?;
        self.inner.clock().await
    }
}

#[async_trait]
impl Untag for Scripted {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        let done = self.inner.untag(tag).await;
        self.call().await?;
        done
    }
}

fn temporary() -> Error {
    Error::unavailable("get", "for now")
}

#[expect(clippy::unnecessary_wraps, reason = "the shape of an answer")]
fn pieces(items: Vec<Result<Bytes>>) -> Result<Option<ByteStream>> {
    Ok(Some(stream::iter(items).boxed()))
}

fn guarded(store: Arc<dyn RepoStore>, guard: Guard) -> Arc<Guarded> {
    Arc::new(Guarded::new(store, guard))
}

fn limited(store: Arc<dyn RepoStore>, limits: Limits) -> Arc<Guarded> {
    let limiter = Limiter::new(limits);
    guarded(
        store,
        Guard {
            limiter,
            ..Guard::default()
        },
    )
}

fn counted(store: Arc<dyn RepoStore>, counters: &Arc<Counters>) -> Arc<Guarded> {
    let counters = counters.clone();
    guarded(
        store,
        Guard {
            counters,
            ..Guard::default()
        },
    )
}

fn subject(store: Arc<dyn RepoStore>, memory: Arc<Memory>) -> conformance::Subject {
    conformance::Subject {
        store,
        meet: Meet::CompareAndSwap,
        untag: Some(memory.clone()),
        sweep: None,
        spool_dir: None,
        keep: Box::new(memory),
    }
}

#[tokio::test]
async fn every_wrapper_over_memory_is_a_store() {
    type Wrap = fn(Arc<dyn RepoStore>) -> Arc<dyn RepoStore>;
    let wraps: [Wrap; 5] = [
        |s| Arc::new(Verified::new(s)),
        |s| Arc::new(Verified::remembering(s, DamagedBlobs::replaced_by(None))),
        |s| Arc::new(Retrying::new(s, QUICK)),
        |s| {
            limited(
                s,
                Limits {
                    concurrency: 2,
                    with_streams: true,
                    bandwidth: Some(10 << 30),
                },
            )
        },
        |s| Arc::new(Faulty::new(s, Faults::NONE, 1)),
    ];
    for wrap in wraps {
        conformance::run_all(async || {
            let memory = Arc::new(Memory::new());
            subject(wrap(memory.clone()), memory)
        })
        .await;
    }
}

#[tokio::test]
async fn retrying_over_faults_is_a_store() {
    let faults = Faults {
        // The suite's ranges have no one above them who would check.
        corrupt: 0.0,
        // Whether bytes moved cannot be told after a lost answer, and the suite asks.
        lose_ack: 0.0,
        ..Faults::BAD_DAY
    };
    for seed in 0..2 {
        conformance::run_all(async || {
            let memory = Arc::new(Memory::new());
            let faulty = Arc::new(Faulty::new(memory.clone(), faults, seed));
            subject(
                Arc::new(Retrying::<dyn RepoStore>::new(faulty, QUICK)),
                memory,
            )
        })
        .await;
    }
}

/// What cannot be: wrong bytes, a name that points at what nobody published under it.
#[tokio::test]
async fn under_faults_every_outcome_is_right_bytes_a_miss_or_an_error() {
    let blobs: Vec<Bytes> = [0, 1, 1000, 70_000, 3 << 20, 9 << 20]
        .iter()
        .map(|n| data(*n, 7))
        .collect();
    let (mut right, mut wrong) = (0, 0);
    for seed in 0..30 {
        let memory = Arc::new(Memory::new());
        let faulty = Arc::new(Faulty::new(memory.clone(), Faults::BAD_DAY, seed));
        let policy = Policy {
            retry_for: Duration::from_millis(20),
            ..QUICK
        };
        let store = Verified::new(Arc::new(Retrying::<dyn RepoStore>::new(faulty, policy)));
        let name = tag("t");
        let mut published = Vec::new();
        for (i, bytes) in blobs.iter().enumerate() {
            let (desc, body) = blob(bytes);
            let stored = store.put(&desc, &body).await.is_ok();
            assert!(
                !stored || memory.stat(&desc.digest).await.unwrap() == Some(desc.size),
                "an acknowledged blob is not there"
            );
            match whole(&store, &desc).await {
                Ok(Some(read)) => {
                    assert!(read == *bytes, "seed {seed}: wrong bytes of blob {i}");
                    right += 1;
                }
                Ok(None) => assert!(
                    !stored,
                    "seed {seed}: blob {i} was acknowledged and is a miss"
                ),
                Err(_) => wrong += 1,
            }
            let m = manifest(i as u64);
            published.push(m.clone());
            let done = store.publish(&m, Some(&name), &Expect::Anything).await;
            match store.resolve(&name.clone().into()).await {
                Ok(Some(found)) => {
                    assert!(
                        published.contains(&found.manifest),
                        "seed {seed}: a manifest nobody wrote"
                    );
                    if done.is_ok() {
                        assert_eq!(
                            found.manifest, m,
                            "seed {seed}: an acknowledged tag was lost"
                        );
                    }
                }
                Ok(None) => assert!(done.is_err() && i == 0, "seed {seed}: a tag was lost"),
                Err(_) => wrong += 1,
            }
        }
    }
    // Both sides of the coin were seen, or the test shows nothing.
    assert!(right > 30 && wrong > 3, "{right} right, {wrong} errors");
}

#[tokio::test]
async fn same_seed_gives_the_same_faults() {
    let outcomes = async |seed| {
        let (memory, desc) = memory_with(&data(5000, 1)).await;
        let faulty = Faulty::new(memory, Faults::BAD_DAY, seed);
        let mut seen = Vec::new();
        for _ in 0..20 {
            seen.push(match whole(&faulty, &desc).await {
                Ok(found) => found.map(|b| Digest::sha256_of(&b).to_string()),
                Err(e) => Some(e.to_string()),
            });
        }
        seen
    };
    assert_eq!(outcomes(5).await, outcomes(5).await);
    assert_ne!(outcomes(5).await, outcomes(6).await);
}

#[tokio::test]
async fn small_damaged_blob_is_fetched_once_more() {
    let bytes = data(1000, 1);
    let (memory, desc) = memory_with(&bytes).await;
    let mut flipped = bytes.to_vec();
    flipped[500] ^= 1;
    let damages: [Vec<u8>; 4] = [
        flipped,
        bytes[..999].to_vec(),
        [&bytes[..], b"x"].concat(),
        Vec::new(),
    ];
    for damage in damages {
        for (times, healed) in [(1, true), (2, false)] {
            let mut scripted = Scripted::new(memory.clone());
            for _ in 0..times {
                let damage = Bytes::from(damage.clone());
                scripted = scripted.get_answers(move |_| pieces(vec![Ok(damage.clone())]));
            }
            let store = Verified::new(Arc::new(scripted));
            match whole(&store, &desc).await {
                Ok(read) => assert!(healed && read.as_deref() == Some(&bytes[..])),
                Err(e) => assert!(!healed && e.kind == ErrorKind::Corrupt, "{e}"),
            }
        }
    }
}

#[tokio::test]
async fn large_damaged_blob_never_ends_well() {
    let bytes = data(5 << 20, 1);
    let desc = Descriptor::of("x/y", &bytes);
    let half = bytes.len() / 2;
    let mut flipped = bytes.to_vec();
    flipped[0] ^= 1;
    for (damage, fine) in [
        (bytes.to_vec(), true),
        (flipped, false),
        (bytes[..bytes.len() - 1].to_vec(), false),
        ([&bytes[..], b"x"].concat(), false),
    ] {
        let damage = Bytes::from(damage);
        let scripted = Scripted::new(Arc::new(Memory::new()))
            .get_answers(move |_| pieces(vec![Ok(damage.slice(..half)), Ok(damage.slice(half..))]));
        let store = Verified::new(Arc::new(scripted));
        let mut stream = store.get(&desc, 0..desc.size).await.unwrap().unwrap();
        let (mut came, mut error) = (0, None);
        while let Some(piece) = stream.next().await {
            match piece {
                Ok(piece) => came += piece.len(),
                Err(e) => error = Some(e.kind),
            }
        }
        assert_eq!(error, (!fine).then_some(ErrorKind::Corrupt));
        assert_eq!(
            came == bytes.len(),
            fine,
            "{came} bytes of a damaged blob were handed out"
        );
    }
}

#[tokio::test]
async fn verified_refuses_false_writes_before_they_leave() {
    let scripted = Arc::new(Scripted::new(Arc::new(Memory::new())));
    let store = Verified::new(scripted.clone());
    let (desc, _) = blob(&data(10, 1));
    let (_, other) = blob(&data(10, 2));
    assert_eq!(
        store.put(&desc, &other).await.unwrap_err().kind,
        ErrorKind::Corrupt
    );
    let mut m = manifest(1);
    m.digest = manifest(2).digest;
    let e = store
        .publish(&m, None, &Expect::Anything)
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt);
    assert_eq!(scripted.calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn requests_bytes_and_outcomes_are_counted() {
    let counters = Arc::new(Counters::default());
    let (memory, desc) = memory_with(&data(100, 1)).await;
    let cut = Scripted::new(memory)
        .get_answers(|_| pieces(vec![Ok(Bytes::from_static(b"12")), Err(temporary())]));
    let store = counted(Arc::new(cut), &counters);
    assert!(whole(&*store, &desc).await.is_err());
    whole(&*store, &desc).await.unwrap();
    let (new, body) = blob(&data(50, 2));
    assert!(whole(&*store, &new).await.unwrap().is_none());
    store.put(&new, &body).await.unwrap();
    store.put(&new, &body).await.unwrap();
    let (_, wrong) = blob(&data(10, 3));
    store.put(&new, &wrong).await.unwrap_err();
    let (m, t) = (manifest(1), tag("t"));
    store.publish(&m, Some(&t), &Expect::Absent).await.unwrap();
    store.publish(&m, Some(&t), &Expect::Absent).await.unwrap();
    store.resolve(&tag("none").into()).await.unwrap();
    let seen = counters.snapshot();
    let of = |requests, misses, errors| OpSnapshot {
        requests,
        misses,
        errors,
    };
    assert_eq!((seen.get, seen.put), (of(3, 1, 0), of(3, 0, 1)));
    assert_eq!((seen.publish, seen.resolve), (of(2, 0, 0), of(1, 1, 0)));
    assert_eq!(
        (
            seen.stored,
            seen.existed,
            seen.conflicts,
            seen.broken_streams
        ),
        (1, 1, 1, 1)
    );
    assert_eq!(
        (seen.bytes_in, seen.bytes_out),
        (102, 50 + m.bytes.len() as u64)
    );
}

#[tokio::test]
async fn damage_is_told_from_other_trouble() {
    let counters = Arc::new(Counters::default());
    let (memory, desc) = memory_with(&data(100, 1)).await;
    let broken = Scripted::new(memory.clone()).get_answers(|_| pieces(vec![Err(temporary())]));
    let store = counted(Arc::new(broken), &counters);
    assert!(whole(&*store, &desc).await.is_err());
    assert_eq!(counters.snapshot().corrupt_reads, 0);
    // Whoever asks chooses the size that it says.
    let wrong = Descriptor::new("a/b", desc.digest, 99);
    let store = counted(memory.clone(), &counters);
    assert!(whole(&*store, &wrong).await.is_err());
    assert_eq!(counters.snapshot().corrupt_reads, 0);
    memory.damage(&desc.digest, data(100, 2));
    let store = counted(Arc::new(Verified::new(memory)), &counters);
    assert!(whole(&*store, &desc).await.is_err());
    let (new, _) = blob(&data(50, 3));
    let (_, wrong) = blob(&data(50, 4));
    store.put(&new, &wrong).await.unwrap_err();
    let seen = counters.snapshot();
    assert_eq!((seen.corrupt_reads, seen.corrupt_writes), (1, 1));
}

#[tokio::test]
async fn work_knows_which_store_had_what_it_asked_for() {
    let (near, known) = memory_with(&data(100, 1)).await;
    let (far, other) = memory_with(&data(100, 2)).await;
    let near = counted(near, &Arc::new(Counters::of(Tier::Local)));
    let far = counted(far, &Arc::new(Counters::of(Tier::Remote)));
    let (far, near) = (&far, &near);
    let ask = |desc: Descriptor| async move {
        if near.stat(&desc.digest).await.unwrap().is_none() {
            far.stat(&desc.digest).await.unwrap();
        }
    };
    assert_eq!(counters::watched(ask(known)).await.1, Some(Tier::Local));
    assert_eq!(counters::watched(ask(other)).await.1, Some(Tier::Remote));
    let (nowhere, _) = blob(&data(10, 3));
    assert_eq!(counters::watched(ask(nowhere)).await.1, None);
}

#[tokio::test]
async fn read_only_store_reads_and_refuses_writes_with_a_hint() {
    let (memory, desc) = memory_with(&data(100, 1)).await;
    memory
        .publish(&manifest(1), Some(&tag("t")), &Expect::Absent)
        .await
        .unwrap();
    let guard = Guard {
        name: "memory:".to_owned(),
        read_only: true,
        ..Guard::default()
    };
    let store = guarded(memory.clone(), guard);
    assert!(whole(&*store, &desc).await.unwrap().is_some());
    assert_eq!(store.tags("").await.unwrap(), [tag("t")]);
    let (new, body) = blob(&data(50, 2));
    let put = store.put(&new, &body).await.unwrap_err();
    let publish = store
        .publish(&manifest(2), Some(&tag("t")), &Expect::Anything)
        .await
        .unwrap_err();
    for e in [put, publish] {
        assert_eq!(e.kind, ErrorKind::Denied);
        assert!(e.to_string().contains("--read-only"), "{e}");
        assert!(e.store == "memory:" && !e.key.is_empty(), "{e}");
    }
    assert_eq!(memory.stat(&new.digest).await.unwrap(), None);
}

#[tokio::test]
async fn error_of_a_wrapper_below_gets_the_stores_name() {
    let (memory, desc) = memory_with(&data(5 << 20, 1)).await;
    memory.damage(&desc.digest, data(5 << 20, 2));
    let verified = Arc::new(Verified::new(memory));
    let guard = Guard {
        name: "s3://bucket".to_owned(),
        ..Guard::default()
    };
    let e = whole(&*guarded(verified, guard), &desc).await.unwrap_err();
    assert_eq!(
        (e.kind, e.store.as_str()),
        (ErrorKind::Corrupt, "s3://bucket")
    );
    assert_eq!(e.key, desc.digest.to_string());
}
