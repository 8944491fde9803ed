//! How much runs at once, and how fast.

use super::*;

/// Counts how many calls are inside at once.
struct Busy {
    inner: Memory,
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Busy {
    async fn work(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(2)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl BlobStore for Busy {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.work().await;
        self.inner.stat(digest).await
    }
    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        self.work().await;
        self.inner.get(desc, range).await
    }
    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        self.work().await;
        self.inner.put(desc, body).await
    }
}

#[async_trait]
impl TagStore for Busy {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.work().await;
        self.inner.resolve(reference).await
    }
    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        self.work().await;
        self.inner.publish(manifest, tag, expect).await
    }
    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.work().await;
        self.inner.tags(prefix).await
    }
    async fn clock(&self) -> Result<Time> {
        self.work().await;
        self.inner.clock().await
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_than_allowed_run_at_once_and_a_stream_holds_its_place() {
    let busy = Arc::new(Busy {
        inner: Memory::new(),
        now: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let limits = Limits {
        concurrency: 3,
        ..Limits::default()
    };
    let store = limited(busy.clone(), limits);
    let (desc, body) = blob(&data(10, 1));
    store.put(&desc, &body).await.unwrap();
    join_all((0..20).map(|_| store.stat(&desc.digest))).await;
    assert_eq!(busy.most.load(Ordering::SeqCst), 3);

    let mut open = Vec::new();
    for _ in 0..3 {
        open.push(store.get(&desc, 0..10).await.unwrap().unwrap());
    }
    let waits = tokio::time::timeout(Duration::from_millis(20), store.stat(&desc.digest));
    assert!(waits.await.is_err(), "open streams hold no place");
    open.pop();
    assert_eq!(store.stat(&desc.digest).await.unwrap(), Some(10));
}

#[tokio::test(start_paused = true)]
async fn streams_that_nobody_reads_keep_no_places_where_clients_decide_how_fast_they_are_read() {
    let (memory, desc) = memory_with(&data(10, 1)).await;
    let limits = Limits {
        concurrency: 2,
        with_streams: false,
        bandwidth: None,
    };
    let store = limited(memory, limits);
    let mut open = Vec::new();
    for _ in 0..5 {
        let opened = tokio::time::timeout(Duration::from_secs(1), store.get(&desc, 0..10));
        open.push(opened.await.unwrap().unwrap().unwrap());
    }
    assert_eq!(store.stat(&desc.digest).await.unwrap(), Some(10));
    let pieces: Vec<_> = open.remove(0).try_collect().await.unwrap();
    assert_eq!(pieces.concat().len(), 10);
}

#[tokio::test(start_paused = true)]
async fn bandwidth_holds_over_all_transfers_of_a_direction() {
    let (memory, desc) = memory_with(&data(20_000, 1)).await;
    let limits = Limits {
        concurrency: 8,
        bandwidth: Some(200_000),
        ..Limits::default()
    };
    let store = limited(memory, limits);
    let began = Instant::now();
    let reads = (0..4).map(|_| whole(&*store, &desc));
    assert!(join_all(reads).await.iter().all(Result::is_ok));
    // 80 kB at 200 kB/s are 400 ms; the last piece is not waited for, and 100 ms may have been saved up.
    assert!(
        began.elapsed() >= Duration::from_millis(190),
        "{:?}",
        began.elapsed()
    );
    let began = Instant::now();
    for seed in 2..5 {
        let (desc, body) = blob(&data(20_000, seed));
        store.put(&desc, &body).await.unwrap();
    }
    assert!(
        began.elapsed() >= Duration::from_millis(90),
        "{:?}",
        began.elapsed()
    );
}

/// Sends what it gets in pieces, like a remote store, and reads it to the end.
struct Sink(Memory);

#[async_trait]
impl BlobStore for Sink {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        self.0.stat(digest).await
    }
    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let all = self.0.get(desc, range).await?;
        // As they come from a socket.
        let cut = |bytes: Bytes| {
            let pieces: Vec<_> = bytes.chunks(16 << 10).map(Bytes::copy_from_slice).collect();
            stream::iter(pieces.into_iter().map(Ok))
        };
        Ok(all.map(|all| all.map_ok(cut).try_flatten().boxed()))
    }
    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let pieces = body.stream(0..desc.size).try_collect::<Vec<_>>().await?;
        assert_eq!(pieces.concat().len() as u64, desc.size);
        Ok(Put::Stored)
    }
}

#[async_trait]
impl TagStore for Sink {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        self.0.resolve(reference).await
    }
    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        self.0.publish(manifest, tag, expect).await
    }
    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        self.0.tags(prefix).await
    }
    async fn clock(&self) -> Result<Time> {
        self.0.clock().await
    }
}

#[tokio::test(start_paused = true)]
async fn bandwidth_of_a_remote_store_is_exact_to_5_percent_for_one_transfer_and_for_many() {
    const RATE: u64 = 1_000_000;
    let bytes = data(4_000_000, 1);
    for at_once in [1, 16] {
        let (memory, _) = memory_with(&bytes).await;
        let (desc, body) = blob(&bytes.slice(..bytes.len() / at_once));
        memory.put(&desc, &body).await.unwrap();
        let limits = Limits {
            bandwidth: Some(RATE),
            ..Limits::default()
        };
        let store = guarded(
            Arc::new(Sink(Arc::into_inner(memory).unwrap())),
            Guard {
                limiter: Limiter::new(limits),
                counters: Arc::new(Counters::of(Tier::Remote)),
                ..Guard::default()
            },
        );
        let (began, want) = (Instant::now(), bytes.len() as f64 / RATE as f64);
        let puts = (0..at_once).map(|_| store.put(&desc, &body));
        assert!(join_all(puts).await.iter().all(Result::is_ok));
        let up = began.elapsed().as_secs_f64() / want;
        assert!((0.95..1.05).contains(&up), "{at_once} up: {up}");
        let began = Instant::now();
        let gets = (0..at_once).map(|_| whole(&*store, &desc));
        assert!(join_all(gets).await.iter().all(Result::is_ok));
        let down = began.elapsed().as_secs_f64() / want;
        assert!((0.95..1.05).contains(&down), "{at_once} down: {down}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_or_is_late_gets_fewer_requests_at_once() {
    let (memory, desc) = memory_with(&data(10, 1)).await;
    let late = Error::new(ErrorKind::Throttled, "stat", "slow down");
    let store = Arc::new(Scripted::new(memory).fails_with(vec![late]));
    let limiter = Limiter::new(Limits::default());
    let width = limiter.places();
    let contact = Contact::noting(Trouble::default()).reducing(width.clone());
    let store: Arc<dyn RepoStore> = store;
    let retrying = Retrying::sharing(store, QUICK, contact);
    retrying.stat(&desc.digest).await.unwrap();
    assert_eq!(width.now(), 8);
}

#[tokio::test(start_paused = true)]
async fn with_a_bandwidth_no_more_is_asked_for_than_a_second_brings() {
    let (memory, desc) = memory_with(&data(4000, 1)).await;
    let limits = Limits {
        bandwidth: Some(10_000),
        ..Limits::default()
    };
    let store = limited(memory.clone(), limits);
    let mut open = Vec::new();
    for _ in 0..2 {
        open.push(store.get(&desc, 0..4000).await.unwrap());
    }
    let third = tokio::time::timeout(Duration::from_secs(9), store.get(&desc, 0..4000));
    assert!(third.await.is_err(), "12 kB are asked for");
    open.pop();
    store.get(&desc, 0..4000).await.unwrap();
    // A request for more than a second brings waits until nothing else is asked for, and then is made.
    let slow = Limits {
        bandwidth: Some(1000),
        ..Limits::default()
    };
    let store = limited(memory, slow);
    assert!(store.get(&desc, 0..4000).await.unwrap().is_some());
}
