//! The cache config: layers, and the records (cache keys) whose results they are.
//!
//! Schema: moby/buildkit `cache/remotecache/v1/types/spec.go`; checks of its reader: `cache/remotecache/v1/parse.go`.

use serde::{Deserialize, Serialize};

use super::{
    order::links_first,
    schema::{CacheLayer, CacheRecord, Input, MAX_ITEMS, list},
    time,
};
use crate::artifact::wire::{Malformed, Result, bad};

/// Largest config that we read. BuildKit's importer takes 1 MiB, its exporter writes any size: a larger config can still be
/// merged.
pub const MAX_CONFIG_BYTES: usize = 4 << 20;
/// A config with more indexes than this, of any kind, is refused.
const MAX_LINKS: usize = 200_000;

/// A document with more objects and lists than this is refused before it is parsed: as many as the limits on layers, records and
/// links allow, each with its own brackets.
const MAX_OPENINGS: usize = MAX_LINKS + 3 * MAX_ITEMS;

/// A cache config that BuildKit's reader accepts: every index is in range, there are no loops, every input has an alternative.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CacheConfig {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    layers: Vec<CacheLayer>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    records: Vec<CacheRecord>,
}

impl CacheConfig {
    /// Takes layers and records.
    ///
    /// # Errors
    /// When BuildKit's reader would refuse them, or they are too many.
    pub fn new(layers: Vec<CacheLayer>, records: Vec<CacheRecord>) -> Result<Self> {
        let config = Self::closed(layers, records)?;
        config.check_size()?;
        Ok(config)
    }

    /// As [`CacheConfig::new`], without the limits on their number.
    pub(super) fn closed(layers: Vec<CacheLayer>, records: Vec<CacheRecord>) -> Result<Self> {
        check_layers(&layers)?;
        for (at, record) in records.iter().enumerate() {
            check_record(at, record, &layers, &records)?;
        }
        let config = Self { layers, records };
        if config.inputs_first().len() < config.records.len() {
            return bad("its records link to each other in a loop");
        }
        Ok(config)
    }

    /// Reads the document; unknown keys are ignored.
    ///
    /// Stricter than BuildKit about documents that no exporter writes: blob digests must be valid, and unused layers must be
    /// valid too.
    ///
    /// # Errors
    /// When it is not a config, BuildKit's reader would refuse it, or it is larger than [`MAX_CONFIG_BYTES`].
    pub fn read(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        struct Document {
            #[serde(default, deserialize_with = "list")]
            layers: Vec<CacheLayer>,
            #[serde(default, deserialize_with = "list")]
            records: Vec<CacheRecord>,
        }
        if bytes.len() > MAX_CONFIG_BYTES {
            let (len, max) = (bytes.len(), MAX_CONFIG_BYTES);
            return bad(format!("the cache config has {len} bytes, more than {max}"));
        }
        check_openings(bytes)?;
        let document: Document =
            serde_json::from_slice(bytes).map_err(|e| Malformed(format!("cache config: {e}")))?;
        Self::new(document.layers, document.records)
            .map_err(|e| Malformed(format!("cache config: {e}")))
    }

    /// The document, in the form that BuildKit's reader accepts.
    pub fn write(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers can always be written")
    }

    /// # Errors
    /// When it exceeds one of our limits.
    pub(super) fn check_size(&self) -> Result<()> {
        let links = |r: &CacheRecord| {
            let chained: usize = r.chains.iter().map(|c| c.layers.len() + 1).sum();
            let inputs: usize = r.inputs.iter().map(|i| i.len() + 1).sum();
            r.results.len() + chained + inputs
        };
        let (n, m) = (self.layers.len(), self.records.len());
        if n > MAX_ITEMS || m > MAX_ITEMS {
            return bad(format!(
                "{n} layers and {m} records are more than {MAX_ITEMS}"
            ));
        }
        let total: usize = self.records.iter().map(links).sum();
        if total > MAX_LINKS {
            return bad(format!("{total} links are more than {MAX_LINKS}"));
        }
        Ok(())
    }

    /// The indexes of the records, each after all records that it links to.
    pub(super) fn inputs_first(&self) -> Vec<usize> {
        let inputs = |at: usize| self.records[at].inputs.iter().flatten();
        links_first(self.records.len(), |at| inputs(at).map(|i| i.link))
    }

    /// The layers; in no order, one blob may occur several times.
    pub fn layers(&self) -> &[CacheLayer] {
        &self.layers
    }

    /// The records, in no order.
    pub fn records(&self) -> &[CacheRecord] {
        &self.records
    }
}

/// Counts brackets outside of strings: three bytes of a document may be an item of forty.
fn check_openings(bytes: &[u8]) -> Result<()> {
    let (mut openings, mut in_string, mut escaped) = (0_usize, false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => openings += 1,
            _ => {}
        }
    }
    if openings > MAX_OPENINGS {
        return bad(format!(
            "the cache config has {openings} objects and lists, more than {MAX_OPENINGS}"
        ));
    }
    Ok(())
}

fn check_layers(layers: &[CacheLayer]) -> Result<()> {
    let outside = |l: &CacheLayer| l.parent.is_some_and(|p| p >= layers.len());
    if let Some(at) = layers.iter().position(outside) {
        return bad(format!("layer {at} has a parent that does not exist"));
    }
    // The number of the first walk that visited the layer; 0: not visited. A walk that meets its own number is in a loop.
    let mut walks = vec![0_usize; layers.len()];
    for start in 0..layers.len() {
        let mut next = Some(start);
        while let Some(at) = next.filter(|at| walks[*at] == 0 || walks[*at] == start + 1) {
            if walks[at] == start + 1 {
                return bad(format!("layer {at} is its own parent's parent"));
            }
            walks[at] = start + 1;
            next = layers[at].parent;
        }
    }
    Ok(())
}

fn check_record(
    at: usize,
    record: &CacheRecord,
    layers: &[CacheLayer],
    records: &[CacheRecord],
) -> Result<()> {
    let named = record.results.iter().map(|r| &r.layer);
    let mut named = named.chain(record.chains.iter().flat_map(|c| &c.layers));
    if let Some(layer) = named.find(|l| **l >= layers.len()) {
        return bad(format!(
            "record {at} names layer {layer}, which does not exist"
        ));
    }
    let times = record.results.iter().map(|r| r.created_at);
    let mut times = times.chain(record.chains.iter().map(|c| c.created_at));
    if times.any(|t| !time::fits(t)) {
        return bad(format!("record {at} has a result with a year out of range"));
    }
    if record.inputs.iter().any(Vec::is_empty) {
        return bad(format!("record {at} has an input without alternatives"));
    }
    for Input { link, .. } in record.inputs.iter().flatten() {
        match records.get(*link) {
            None => {
                return bad(format!(
                    "record {at} links to record {link}, which does not exist"
                ));
            }
            Some(r) if r.is_uncacheable() => {
                return bad(format!(
                    "record {at} links to record {link}, whose key is not cacheable"
                ));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
