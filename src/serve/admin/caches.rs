//! Statistics of BuildKit cache manifests, shown as metrics.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::{metrics::Collector, ops::cache_tags::CacheTags};

/// The counts of a registry's cache tags, read at each scrape.
pub struct Caches(Arc<CacheTags>);

impl Caches {
    /// Shows the counts of `tags`.
    pub fn new(tags: Arc<CacheTags>) -> Self {
        Self(tags)
    }
}

impl fmt::Debug for Caches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.counts().fmt(f)
    }
}

impl Collector for Caches {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.0.counts();
        for (name, help, count) in [
            (
                "merged_manifests",
                "Cache manifests merged from the exports of several builds to one tag",
                &counts.merged,
            ),
            (
                "merge_dropped_records",
                "Records left out of merged cache manifests for lack of space",
                &counts.dropped_records,
            ),
            (
                "merge_dropped_parts",
                "Exports dropped from a tag that exceeded its limit of parts, bytes or records",
                &counts.dropped_parts,
            ),
            (
                "pruned_manifests",
                "Cache manifests served without lost layers",
                &counts.pruned,
            ),
        ] {
            let counter = ConstCounter::new(count.load(Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, MetricType::Counter)?)?;
        }
        let help = "Exports that would replace a cache by a small part of it, by action taken";
        let name = "shrinking_exports";
        let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (action, count) in [
            ("allowed", &counts.shrunk),
            ("refused", &counts.shrinks_refused),
        ] {
            let counter = ConstCounter::new(count.load(Relaxed));
            counter.encode(metric.encode_family(&[("action", action)])?)?;
        }
        Ok(())
    }
}
