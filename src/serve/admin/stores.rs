//! Statistics that stores collect themselves, shown as metrics.

use std::{fmt, sync::Arc};

use prometheus_client::{
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{MetricType, counter::ConstCounter},
};

use crate::{
    metrics::Collector,
    store::wrap::counters::{Counters, Snapshot},
};

/// The stores of a daemon, read at each scrape.
#[derive(Debug)]
pub struct Stores(Vec<Arc<Counters>>);

type Label = (&'static str, &'static str);

/// One value: the store's tier, the labels that distinguish it, and the number.
struct Row(&'static str, Vec<Label>, u64);

impl Stores {
    /// Shows the counts of each; no two stores have the same tier.
    pub fn new(counters: Vec<Arc<Counters>>) -> Self {
        Self(counters)
    }

    fn tiers(&self) -> Vec<(&'static str, Snapshot)> {
        let tiers = self.0.iter();
        tiers.map(|c| (c.tier().as_str(), c.snapshot())).collect()
    }
}

/// What one metric shows for a tier.
type Rows = fn(&Snapshot) -> Vec<(Vec<Label>, u64)>;

impl Collector for Stores {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let tiers = self.tiers();
        let mut show = |name, help, rows: Rows| {
            let rows = tiers.iter().flat_map(|(tier, seen)| {
                let rows = rows(seen).into_iter();
                rows.map(|(labels, value)| Row(tier, labels, value))
            });
            family(&mut encoder, name, help, rows)
        };
        show(
            "store_operations",
            "Operations asked of a store, by outcome",
            operations,
        )?;
        show(
            "store_bytes",
            "Bytes of blobs and manifests read from and written to a store",
            |s| {
                directed(
                    &[("read", s.bytes_in), ("written", s.bytes_out)],
                    "direction",
                )
            },
        )?;
        show(
            "store_puts",
            "Blobs written to a store, by whether it already had them",
            |s| directed(&[("stored", s.stored), ("existed", s.existed)], "result"),
        )?;
        show(
            "store_existed_bytes",
            "Bytes of blobs that a store already had when they were written to it",
            |s| vec![(Vec::new(), s.existed_bytes)],
        )?;
        show(
            "store_conflicts",
            "Compare-and-swap failures when publishing tags",
            |s| vec![(Vec::new(), s.conflicts)],
        )?;
        show(
            "store_broken_streams",
            "Reads that failed after the first byte",
            |s| vec![(Vec::new(), s.broken_streams)],
        )?;
        show(
            "verification_failures",
            "Content that did not match its digest or size, by when that was detected",
            |s| {
                directed(
                    &[("read", s.corrupt_reads), ("write", s.corrupt_writes)],
                    "found_at",
                )
            },
        )
    }
}

fn directed(values: &[(&'static str, u64)], label: &'static str) -> Vec<(Vec<Label>, u64)> {
    let row = |(value, count): &(&'static str, u64)| (vec![(label, *value)], *count);
    values.iter().map(row).collect()
}

fn operations(seen: &Snapshot) -> Vec<(Vec<Label>, u64)> {
    let all = [
        ("stat", seen.stat),
        ("get", seen.get),
        ("put", seen.put),
        ("resolve", seen.resolve),
        ("publish", seen.publish),
        ("tags", seen.tags),
    ];
    let mut rows = Vec::new();
    for (operation, op) in all {
        let ok = op.requests - op.misses - op.errors;
        for (outcome, count) in [("ok", ok), ("miss", op.misses), ("error", op.errors)] {
            rows.push((vec![("operation", operation), ("outcome", outcome)], count));
        }
    }
    rows
}

fn family(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    rows: impl Iterator<Item = Row>,
) -> fmt::Result {
    let mut metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for Row(tier, mut labels, value) in rows {
        labels.insert(0, ("tier", tier));
        ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}
