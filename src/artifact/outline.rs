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

use super::{Manifest, annotations::Few, media};
use crate::digest::Digest;

/// What a digest stands for in the document that names it.
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
    /// Its size in bytes, if the document says it.
    pub size: Option<u64>,
    /// Its media type; empty if the document says none.
    pub media_type: String,
    /// What it stands for.
    pub role: Role,
    /// It is a layer that may be absent here, since it comes from somewhere else: its type is non-distributable, or it has `urls`.
    /// It never proves that its bytes belong to the repository.
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

/// A manifest's neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// Every digest in descriptor position, in the order config, layers, manifests, blobs, `fsLayers`; repeated where the document
    /// repeats it. `subject` is not among them.
    pub named: Vec<Named>,
    /// The manifest that it refers to. It need not exist.
    pub subject: Option<Digest>,
    /// What kind of artifact it is (distribution spec, "Listing Referrers"): its own word, or its config's media type.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
    /// It has the fields of an image and of an index; two readers could see two different documents (CVE-2021-41190).
    pub is_ambiguous: bool,
}

/// Why bytes are not a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoManifest {
    /// Not the JSON of one.
    #[error("it is not a manifest: {0}")]
    Json(String),
    /// The document contradicts the media type that it was given.
    #[error("its `mediaType` is `{said}`, but it was sent as `{sent}`")]
    MediaType {
        /// By the document.
        said: String,
        /// By the sender.
        sent: String,
    },
    /// It lacks what its media type requires.
    #[error("it is not a manifest of its type: {0}")]
    Lacks(&'static str),
    /// A format of before 2016, which has no digests of its own.
    #[error("manifests of schema version 1 are not supported")]
    SchemaOne,
}

/// Annotations of a manifest at most.
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
    annotations: Option<Few<MAX_ANNOTATIONS>>,
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

/// What JSON has as an object: serde's structs are read from lists of their fields' values too, which no other reader understands.
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

/// Whether there is any URL. A document may have a million of them, so they are not kept.
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

    /// As an entry of an index, whose media type alone tells what it is.
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
    /// Reads a manifest; fields that are not known here may hold anything.
    ///
    /// # Errors
    /// Documents that are not a manifest's, or not of the manifest's media type.
    pub fn of(manifest: &Manifest) -> Result<Self, NoManifest> {
        let doc = Document::of(manifest)?;
        Ok(Self::of_document(doc, &manifest.media_type))
    }

    /// As [`Self::of`], for a document that is pushed: one of an image's or index's media type must have the fields that make it one
    /// (image spec `manifest.md`, `image-index.md`), as far as other registries insist on them too. Stored ones are not judged by this.
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

    /// As [`Self::of`], whatever the document says of its own type and version: for stored bytes, which nobody may refuse any more.
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

    /// What must be there for the manifest to be whole: everything but layers from elsewhere.
    pub fn children(&self) -> impl Iterator<Item = &Named> {
        self.named.iter().filter(|n| !n.elsewhere)
    }

    /// The digests that the document names only as layers from elsewhere.
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
    /// Reads one that says nothing of its type, or the manifest's.
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

    /// What a document of this media type must have and this one does not. `layers` may be missing: programs in Go write `null` for an
    /// empty list.
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
