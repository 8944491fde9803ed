//! BuildKit's remote cache as documents: read, pruned, merged, compared.
//!
//! - Holds: cache manifests (their layers and which blob is the config) and cache configs (the graph of cache keys and their results).
//! - Enters: bytes that a builder pushed; the digests that a store has lost.
//! - Leaves: manifests and configs that BuildKit's importer accepts, or the reason why it would not.
//! - Deliberately absent: stores, tags, policies, time; anything that decides *when* to prune or merge.
//!
//! Facts are from moby/buildkit at 73ed6825 (2026-08-21): `cache/remotecache/v1/types/spec.go` (schema),
//! `cache/remotecache/v1/{parse,chains,utils}.go` (reader, joining of records, writer), `cache/remotecache/{import,export}.go` (manifests).

mod chains;
mod claims;
mod config;
mod contains;
mod descriptors;
mod extent;
mod fold;
mod graph;
mod loops;
mod manifest;
mod merge;
mod order;
mod part;
mod schema;
mod time;
mod trim;
mod write;

pub use claims::{Claim, Claims};
pub use config::{CacheConfig, MAX_CONFIG_BYTES};
pub use contains::contains;
pub use extent::{Extent, Shrink, shrinks};
pub use manifest::{CacheManifest, Form};
pub use merge::{Dropped, Limits, Merged, merge};
pub use part::Part;
pub use schema::{CacheLayer, CacheRecord, CacheResult, Chain, Input, LayerAnnotations};
pub use write::is_merged;

#[cfg(test)]
mod tests;
