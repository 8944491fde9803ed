//! Counters of the tiers.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

macro_rules! numbers {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Running counts.
        #[derive(Debug, Default)]
        pub(super) struct Counts {
            $(pub(super) $name: AtomicU64,)*
        }

        /// Counts since the start, at one moment.
        #[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
        pub struct Numbers {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Counts {
            /// The current counts; each is right, though they may not be of exactly the same moment.
            pub(super) fn numbers(&self) -> Numbers {
                Numbers { $($name: self.$name.load(Relaxed),)* }
            }
        }
    };
}

numbers! {
    /// Reads of blobs that were in front.
    hits,
    /// Reads of blobs that were not.
    misses,
    /// Started downloads of whole blobs into the front.
    fills,
    /// Reads that joined such a download.
    joined,
    /// Such downloads that failed.
    fills_failed,
    /// Evicted blobs.
    evicted_blobs,
    /// Their bytes.
    evicted_bytes,
    /// Blobs that were sent to the remote in the background.
    sent_blobs,
    /// Their bytes.
    sent_bytes,
    /// Failed attempts to send for another reason than an outage.
    send_errors,
    /// Entries added to the queue.
    queued,
    /// Entries of the queue that the remote has now.
    replayed,
    /// Those of them that were merged with the tag's content in the remote.
    merged,
    /// Tags that another writer had changed meanwhile, and that were left unchanged.
    left_alone,
}

pub(super) fn add(count: &AtomicU64, n: u64) {
    count.fetch_add(n, Relaxed);
}

impl Counts {
    pub(super) fn evicted(&self, blobs: u64, bytes: u64) {
        add(&self.evicted_blobs, blobs);
        add(&self.evicted_bytes, bytes);
    }
}
