//! Descriptors, and manifests as the bytes that they are.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::media;
use crate::digest::Digest;

/// Largest manifest that we read: the maximum that registries accept, and more than we write.
pub const MAX_MANIFEST_BYTES: u64 = 4 << 20;

/// Points at content: its type, digest and stored size (image spec, `descriptor.md`).
///
/// We do not use `oci_spec`'s type because it keeps annotations in a hash map and so has no stable form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// Digest of the bytes as stored (compressed).
    pub digest: Digest,
    /// Number of bytes as stored.
    pub size: u64,
    /// What kind of artifact a manifest in an index is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Free-form properties.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// A descriptor without annotations.
    pub fn new(media_type: &str, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest,
            size,
            artifact_type: None,
            annotations: BTreeMap::new(),
        }
    }

    /// Describes `bytes` by their SHA-256.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self::new(media_type, Digest::sha256_of(bytes), bytes.len() as u64)
    }
}

/// The bytes of a manifest or index with their media type; never re-encoded, since its digest is of the bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Media type, as the registry sent it or the document says.
    pub media_type: String,
    /// The document.
    pub bytes: Bytes,
    /// SHA-256 of the bytes (or the digest by which it was requested, after a check).
    pub digest: Digest,
}

impl Manifest {
    /// Takes a manifest's bytes and hashes them.
    pub fn new(media_type: &str, bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::sha256_of(&bytes),
            bytes,
        }
    }

    /// Takes a manifest's bytes; the media type is the document's own `mediaType`, or that of an image manifest if it has none.
    pub fn sniff(bytes: impl Into<Bytes>) -> Self {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            media_type: Option<String>,
        }
        let bytes = bytes.into();
        let said = serde_json::from_slice::<Head>(&bytes)
            .ok()
            .and_then(|h| h.media_type);
        Self::new(said.as_deref().unwrap_or(media::IMAGE_MANIFEST), bytes)
    }

    /// The descriptor of the manifest itself.
    pub fn descriptor(&self) -> Descriptor {
        Descriptor::new(&self.media_type, self.digest, self.bytes.len() as u64)
    }
}
