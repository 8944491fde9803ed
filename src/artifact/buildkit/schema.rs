//! The parts of a cache config, and its JSON: like Go's, with defaults where Go omits fields.
//!
//! moby/buildkit `cache/remotecache/v1/types/spec.go`.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use super::time::{Stamp, ZERO};
use crate::{artifact::bounded::List, digest::Digest, entry::Time};

/// A longer list is refused: about five times what fits the importer's limit.
pub(super) const MAX_ITEMS: usize = 50_000;
/// Prefix of keys that BuildKit never exports and its reader does not accept (`chains.go`, `Add`).
const UNCACHEABLE: &str = "random:";

/// A blob on top of its parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheLayer {
    /// Digest of the blob as stored (compressed); one blob may have several parents.
    pub blob: Digest,
    /// Index of the layer below; `None` at the bottom. In the document -1 means none, and **an absent field means 0**.
    #[serde(
        default = "first",
        skip_serializing_if = "is_first",
        serialize_with = "write_parent",
        deserialize_with = "read_parent"
    )]
    pub parent: Option<usize>,
    /// The descriptor of the blob, for backends without a manifest (s3, gha, azblob); absent for a registry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<LayerAnnotations>,
}

/// A layer's descriptor, for configs without a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LayerAnnotations {
    /// Media type of the blob.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Digest of the plain tar; the s3 and gha readers refuse a config without it.
    #[serde(default, rename = "diffID", skip_serializing_if = "Option::is_none")]
    pub diff_id: Option<Digest>,
    /// Stored bytes; 0 if not stated.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// When the layer was created; Go's zero time if not stated.
    #[serde(default = "zero", with = "moment")]
    pub created_at: Time,
}

/// One cache key: how it is found, and its results.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// File system states that are results of this key; mostly one or none.
    #[serde(
        default,
        rename = "layers",
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list"
    )]
    pub results: Vec<CacheResult>,
    /// More results, as explicit lists of layers (inline cache).
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list"
    )]
    pub chains: Vec<Chain>,
    /// The key: opaque.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// The alternatives for each input of the step: one per input must match. Empty for a root.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "list"
    )]
    pub inputs: Vec<Vec<Input>>,
}

/// A layer with all its parents, base first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheResult {
    /// Index of the topmost layer.
    #[serde(default)]
    pub layer: usize,
    /// When it was created; the newest one wins.
    #[serde(default = "zero", rename = "createdAt", with = "moment")]
    pub created_at: Time,
}

/// Layers, base first, regardless of their parents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Indexes of the layers.
    #[serde(default, deserialize_with = "list")]
    pub layers: Vec<usize>,
    /// When it was created.
    #[serde(default = "zero", rename = "createdAt", with = "moment")]
    pub created_at: Time,
}

/// One alternative of an input: the key that it must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Narrows the input to the files that are used; empty: all.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Index of the record.
    #[serde(default)]
    pub link: usize,
}

impl CacheRecord {
    /// Returns true if BuildKit's reader skips it.
    pub(super) fn is_uncacheable(&self) -> bool {
        self.digest.starts_with(UNCACHEABLE)
    }
}

/// `null` is an empty list, as in Go; a list that exceeds all limits is refused early, before it takes memory.
pub(super) fn list<'de, D: Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> Result<Vec<T>, D::Error> {
    let list = Option::<List<T, MAX_ITEMS>>::deserialize(d)?;
    Ok(list.map(|list| list.0).unwrap_or_default())
}

#[expect(clippy::unnecessary_wraps, reason = "the default of an optional field")]
fn first() -> Option<usize> {
    Some(0)
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn is_first(parent: &Option<usize>) -> bool {
    *parent == Some(0)
}

#[expect(clippy::ref_option, reason = "serde's signature")]
fn write_parent<S: Serializer>(parent: &Option<usize>, s: S) -> Result<S::Ok, S::Error> {
    match parent {
        Some(p) => s.serialize_u64(*p as u64),
        None => s.serialize_i64(-1),
    }
}

fn read_parent<'de, D: Deserializer<'de>>(d: D) -> Result<Option<usize>, D::Error> {
    match i64::deserialize(d)? {
        -1 => Ok(None),
        n => usize::try_from(n)
            .map(Some)
            .map_err(|_| Error::custom("a layer's parent is negative")),
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

fn zero() -> Time {
    ZERO
}

mod moment {
    use super::{Deserialize, Deserializer, Serialize, Serializer, Stamp, Time};

    pub(super) fn serialize<S: Serializer>(time: &Time, s: S) -> Result<S::Ok, S::Error> {
        Stamp(*time).serialize(s)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Time, D::Error> {
        Stamp::deserialize(d).map(|s| s.0)
    }
}
