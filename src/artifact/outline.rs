//! The one reader of what a manifest or index names: for the registry API, merging, the verbs and the sweep.
//!
//! Positions: image spec `manifest.md` (`config`, `layers`, `subject`) and `image-index.md` (`manifests`); the artifact
//! manifest of image spec 1.1-rc (`blobs`); Docker's "Image Manifest V 2, Schema 1" (`fsLayers`).

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    marker::PhantomData,
};

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Manifest, bounded, media};
use crate::digest::Digest;

/// The role of a digest in the document that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The config of an image or artifact.
    Config,
    /// A layer: one of `layers` or `fsLayers`, or an entry of an index with the media type of a layer, as BuildKit writes its cache.
    Layer,
    /// An entry of an index with the media type of a manifest.
    Manifest,
    /// Another entry of an index, or one of `blobs`.
    Blob,
}

/// A digest in descriptor position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// The digest.
    pub digest: Digest,
    /// Its size in bytes, if stated.
    pub size: Option<u64>,
    /// Its media type; empty if not stated.
    pub media_type: String,
    /// Its role.
    pub role: Role,
    /// It is a layer that may be absent here, since it is stored elsewhere: its type is non-distributable, or it has `urls`. It
    /// never proves that its bytes belong to the repository.
    pub elsewhere: bool,
    grants_sight: bool,
}

impl Named {
    /// Returns true if this position was checked by every release when the document was pushed, so that a stored manifest proves
    /// that its pusher could read the content: `config`, `layers` and `manifests`, without `urls` and of a distributable type.
    pub fn grants_sight(&self) -> bool {
        self.grants_sight
    }
}

/// The references of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Every digest in descriptor position, in the order config, layers, manifests, blobs, `fsLayers`; with repetitions.
    /// `subject` is not included.
    pub named: Vec<Named>,
    /// The manifest that it refers to. It need not exist.
    pub subject: Option<Digest>,
    /// The artifact type (distribution spec, "Listing Referrers"): its own field, or its config's media type.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// It has the fields of both an image and an index; two readers could interpret it differently (CVE-2021-41190).
    pub is_ambiguous: bool,
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoManifest {
    /// It is not the JSON of a manifest.
    #[error("it is not a manifest: {0}")]
    Json(String),
    /// The document contradicts the media type that came with it.
    #[error("its `mediaType` is `{said}`, but it was sent as `{sent}`")]
    MediaType {
        /// By the document.
        said: String,
        /// By the sender.
        sent: String,
    },
    /// It lacks fields that its media type requires.
    #[error("it is not a manifest of its type: {0}")]
    Lacks(&'static str),
    /// A format from before 2016, which has no digests.
    #[error("manifests of schema version 1 are not supported")]
    SchemaOne,
}

/// Maximum annotations of a manifest: each takes ten times as much memory as it does in the document.
const MAX_ANNOTATIONS: usize = 10_000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Object<Child>>,
    layers: Option<Vec<Object<Child>>>,
    manifests: Option<Vec<Object<Child>>>,
    blobs: Option<Vec<Object<Child>>>,
    fs_layers: Option<Vec<Object<FsLayer>>>,
    subject: Option<Object<Child>>,
    annotations: Option<bounded::Map<MAX_ANNOTATIONS>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Child {
    media_type: Option<String>,
    digest: Digest,
    size: Option<u64>,
    #[serde(default)]
    urls: Urls,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct FsLayer {
    blob_sum: Digest,
}

/// A JSON object: serde's structs can also be read from lists of their fields' values, which no other reader accepts.
struct Object<T>(T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Map<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Map<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        d.deserialize_map(Map(PhantomData))
    }
}

/// Whether there are any URLs. A document may have a million of them, so they are not stored.
#[derive(Default)]
struct Urls(bool);

impl<'de> Deserialize<'de> for Urls {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Urls;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of URLs")
            }

            fn visit_unit<E>(self) -> Result<Urls, E> {
                Ok(Urls(false))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Urls, A::Error> {
                let mut any = false;
                while seq.next_element::<String>()?.is_some() {
                    any = true;
                }
                Ok(Urls(any))
            }
        }
        d.deserialize_any(Any)
    }
}

impl Child {
    fn named(self, role: Role, is_known_position: bool) -> Named {
        let media_type = self.media_type.unwrap_or_default();
        let is_remote = self.urls.0 || media::is_nondistributable(&media_type);
        Named {
            digest: self.digest,
            size: self.size,
            media_type,
            role,
            elsewhere: is_remote && role == Role::Layer,
            grants_sight: !is_remote && is_known_position,
        }
    }

    /// As an entry of an index, whose role depends on its media type alone.
    fn listed(self) -> Named {
        let role = match self.media_type.as_deref().unwrap_or_default() {
            t if media::is_manifest(t) => Role::Manifest,
            t if media::is_layer(t) => Role::Layer,
            _ => Role::Blob,
        };
        self.named(role, true)
    }
}

impl FsLayer {
    fn named(self) -> Named {
        Named {
            digest: self.blob_sum,
            size: None,
            media_type: String::new(),
            role: Role::Layer,
            elsewhere: false,
            grants_sight: false,
        }
    }
}

impl Outline {
    /// Reads a manifest; unknown fields may contain anything.
    ///
    /// # Errors
    /// When the document is not a manifest, or not of the given media type.
    pub fn of(manifest: &Manifest) -> Result<Self, NoManifest> {
        let doc = Document::of(manifest)?;
        Ok(Self::of_document(doc, &manifest.media_type))
    }

    /// As [`Self::of`], for a document that is being pushed: one with the media type of an image or index must have the required
    /// fields (image spec `manifest.md`, `image-index.md`), as far as other registries require them too. This does not apply to
    /// stored documents.
    ///
    /// # Errors
    /// Those of [`Self::of`], and [`NoManifest::Lacks`].
    pub fn of_pushed(manifest: &Manifest) -> Result<Self, NoManifest> {
        let doc = Document::of(manifest)?;
        match doc.lacks(&manifest.media_type) {
            Some(what) => Err(NoManifest::Lacks(what)),
            None => Ok(Self::of_document(doc, &manifest.media_type)),
        }
    }

    /// As [`Self::of`], ignoring the document's own type and version: for stored bytes, which must not be refused any more.
    ///
    /// # Errors
    /// [`NoManifest::Json`].
    pub fn of_stored(manifest: &Manifest) -> Result<Self, NoManifest> {
        Ok(Self::of_document(
            parse(&manifest.bytes)?,
            &manifest.media_type,
        ))
    }

    fn of_document(doc: Document, media_type: &str) -> Self {
        let is_index = matches!(media_type, media::IMAGE_INDEX | media::DOCKER_LIST);
        let config_type = doc.config.as_ref().and_then(|c| c.0.media_type.clone());
        let own_type = doc.artifact_type.filter(|t| !t.is_empty());
        let is_image = doc.config.is_some() || doc.layers.is_some();
        let is_ambiguous = is_image && doc.manifests.is_some();
        let mut named = Vec::new();
        named.extend(doc.config.map(|c| c.0.named(Role::Config, true)));
        let layers = doc.layers.into_iter().flatten();
        named.extend(layers.map(|c| c.0.named(Role::Layer, true)));
        let manifests = doc.manifests.into_iter().flatten();
        named.extend(manifests.map(|c| c.0.listed()));
        let blobs = doc.blobs.into_iter().flatten();
        named.extend(blobs.map(|c| c.0.named(Role::Blob, false)));
        let fs_layers = doc.fs_layers.into_iter().flatten();
        named.extend(fs_layers.map(|l| l.0.named()));
        Self {
            named,
            subject: doc.subject.map(|s| s.0.digest),
            artifact_type: own_type.or(config_type.filter(|_| !is_index)),
            annotations: doc.annotations.map(|a| a.0).unwrap_or_default(),
            is_ambiguous,
        }
    }

    /// Everything that must exist for the manifest to be complete: all but layers stored elsewhere.
    pub fn children(&self) -> impl Iterator<Item = &Named> {
        self.named.iter().filter(|n| !n.elsewhere)
    }

    /// The digests that the document names only as layers stored elsewhere.
    pub fn only_elsewhere(&self) -> BTreeSet<Digest> {
        let children: BTreeSet<Digest> = self.children().map(|n| n.digest).collect();
        let elsewhere = self.named.iter().filter(|n| n.elsewhere);
        elsewhere
            .map(|n| n.digest)
            .filter(|d| !children.contains(d))
            .collect()
    }
}

impl Document {
    /// Reads a document whose own media type is absent or equals the manifest's.
    fn of(manifest: &Manifest) -> Result<Self, NoManifest> {
        let doc = parse(&manifest.bytes)?;
        if doc.schema_version == Some(1) {
            return Err(NoManifest::SchemaOne);
        }
        if let Some(said) = doc.media_type.clone().filter(|t| *t != manifest.media_type) {
            let sent = manifest.media_type.clone();
            return Err(NoManifest::MediaType { said, sent });
        }
        Ok(doc)
    }

    /// The required field for this media type that the document lacks. `layers` may be missing: programs in Go write `null` for
    /// an empty list.
    fn lacks(&self, media_type: &str) -> Option<&'static str> {
        let is_image = matches!(media_type, media::IMAGE_MANIFEST | media::DOCKER_MANIFEST);
        let is_index = matches!(media_type, media::IMAGE_INDEX | media::DOCKER_LIST);
        if (is_image || is_index) && self.schema_version != Some(2) {
            return Some("`schemaVersion` must be 2");
        }
        if is_image && self.config.is_none() {
            return Some("`config` is missing");
        }
        (is_index && self.manifests.is_none()).then_some("`manifests` is missing")
    }
}

fn parse(bytes: &[u8]) -> Result<Document, NoManifest> {
    let read: Object<Document> =
        serde_json::from_slice(bytes).map_err(|e| NoManifest::Json(e.to_string()))?;
    Ok(read.0)
}

#[cfg(test)]
mod tests;
