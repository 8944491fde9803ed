//! How many packs are sent at once.

use std::{ops::Range, sync::atomic::AtomicUsize};

use async_trait::async_trait;
use tokio::{sync::Barrier, time::sleep};

use super::*;
use crate::{
    artifact::{Descriptor, toc::Toc},
    digest::Digest,
    ops::tests::without_tags,
    pack::TocAt,
    progress,
    store::{BlobStore, ByteStream, Result, SpoolWriter},
};

/// Takes blobs once enough of them have come together, the largest first.
struct Meeting {
    all_here: Barrier,
    now: AtomicUsize,
    most: AtomicUsize,
    already_has: bool,
    /// Of the time for each byte less than a hundred.
    unit: Duration,
}

impl Meeting {
    fn of(count: usize) -> Self {
        Self {
            all_here: Barrier::new(count),
            now: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
            already_has: false,
            unit: Duration::from_millis(1),
        }
    }
}

#[async_trait]
impl BlobStore for Meeting {
    async fn stat(&self, _: &Digest) -> Result<Option<u64>> {
        unreachable!()
    }

    async fn get(&self, _: &Descriptor, _: Range<u64>) -> Result<Option<ByteStream>> {
        unreachable!()
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        self.all_here.wait().await;
        sleep(self.unit * (100 - desc.size as u32)).await;
        self.now.fetch_sub(1, Ordering::SeqCst);
        if self.already_has {
            return Ok(Put::Existed);
        }
        store::collect(body.stream(0..desc.size), desc.size).await?;
        Ok(Put::Stored)
    }
}

without_tags!(Meeting);

/// Sends packs of 1, 2 … `count` bytes; returns their sizes as they are reported.
async fn send(store: &Arc<Meeting>, count: u64, level: &Level) -> (Vec<u64>, Moved) {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn RepoStore> = store.clone();
    let progress = progress::silent();
    let (mut sending, mut packs) = (Sending::new(level), Vec::new());
    for size in 1..=count {
        let mut spool = SpoolWriter::create(dir.path()).unwrap();
        std::io::Write::write_all(&mut spool, &vec![7; size as usize]).unwrap();
        let written = Written {
            toc: Toc::default(),
            toc_at: TocAt {
                digest: Digest::sha256_of(b""),
                offset: 0,
                size: 0,
            },
            size,
        };
        while !sending.has_room() {
            sending.settle_one(&progress).await.unwrap();
        }
        let pack = (spool.finish(), written);
        packs.push(sending.begin(&store, &progress, pack, 0));
    }
    sending.settle(&progress).await.unwrap();
    let sizes = packs.iter().map(|pack| pack.layer.descriptor.size);
    (sizes.collect(), sending.done().0)
}

#[tokio::test(start_paused = true)]
async fn packs_are_sent_together_and_reported_in_their_order() {
    let store = Arc::new(Meeting::of(2));
    let (sizes, moved) = send(&store, 2, &Level::default()).await;
    assert_eq!(sizes, [1, 2]);
    assert_eq!((moved.blobs_moved, moved.bytes_moved), (2, 3));
}

#[tokio::test(start_paused = true)]
async fn no_more_packs_than_the_limit_are_sent_at_once() {
    let store = Arc::new(Meeting::of(1));
    let (sizes, _) = send(&store, 30, &Level::default()).await;
    assert_eq!(sizes, (1..=30).collect::<Vec<_>>());
    assert_eq!(store.most.load(Ordering::SeqCst), PACKS_SENDING);
    let slow = Arc::new(Meeting {
        unit: Duration::from_secs(1),
        ..Meeting::of(1)
    });
    send(&slow, 30, &Level::default()).await;
    assert_eq!(slow.most.load(Ordering::SeqCst), PACKS_AT_FIRST);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_the_link_once_packs_are_stored_whether_they_were_sent_or_not() {
    for already_has in [false, true] {
        let auto = Auto::new(1);
        let store = Arc::new(Meeting {
            already_has,
            ..Meeting::of(1)
        });
        send(&store, 5, &Level::Auto(auto.clone())).await;
        assert_eq!(auto.waiting(), 0);
    }
}
