//! Cache manifests: which blob is the config, which blobs are layers; and the same manifest without missing layers.
//!
//! Both forms and how to distinguish them: moby/buildkit `cache/remotecache/import.go` (`Resolve`), `export.go`
//! (`ExportableCache`), `util/imageutil/config.go` (`DetectManifestBlobMediaType`).

use std::{collections::HashSet, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::{
    artifact::{
        Descriptor, Manifest, bounded, media,
        outline::Outline,
        wire::{Malformed, Result, bad},
    },
    digest::Digest,
};

/// Maximum annotations of an entry, and of all entries: BuildKit writes four for each layer.
const MAX_OF_ENTRY: usize = 100;
const MAX_OF_ALL: usize = 100_000;
/// Maximum fields of the document; the specification defines eight.
const MAX_FIELDS: usize = 1000;

/// What a cache manifest looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// An OCI image manifest whose config is the cache config (`image-manifest=true`, the default since BuildKit 0.21).
    Image,
    /// An OCI index whose entries are the layers and, last, the config: blobs, not manifests (`image-manifest=false`).
    Index,
    /// The same as Docker's manifest list (`oci-mediatypes=false`).
    DockerList,
}

impl Form {
    /// The media type of a manifest of that form.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Image => media::IMAGE_MANIFEST,
            Self::Index => media::IMAGE_INDEX,
            Self::DockerList => media::DOCKER_LIST,
        }
    }
}

/// A manifest that BuildKit wrote by `--cache-to type=registry` or `type=local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheManifest {
    form: Form,
    config: Descriptor,
    layers: Vec<Descriptor>,
    elsewhere: HashSet<Digest>,
    manifest: Manifest,
}

impl CacheManifest {
    /// Reads a manifest whose config (or one of whose entries) is a BuildKit cache config; `None` for any other document: an
    /// image, a cachectl snapshot, not JSON at all.
    ///
    /// # Errors
    /// When it claims to be a cache manifest and is invalid: BuildKit's importer would refuse it, or an entry has no digest, size
    /// or media type.
    pub fn read(manifest: &Manifest) -> Result<Option<Self>> {
        let Ok(document) = serde_json::from_slice::<Document>(&manifest.bytes) else {
            return Ok(None);
        };
        let image = document.all("config").any(is_cache_config);
        let entries = document
            .all("manifests")
            .filter_map(|m| serde_json::from_str::<Vec<&RawValue>>(m.get()).ok());
        let index = entries.flatten().any(is_cache_config);
        if !image && !index {
            return Ok(None);
        }
        let form = document.form(&manifest.media_type)?;
        let (config, layers) = match form {
            Form::Image => {
                let config = document.one("config").expect("it was looked at");
                (descriptor("its config", config)?, document.list("layers")?)
            }
            Form::Index | Form::DockerList => {
                let (configs, layers): (Vec<_>, Vec<_>) = document
                    .list("manifests")?
                    .into_iter()
                    .partition(|d| d.media_type == media::BUILDKIT_CONFIG);
                let Some((first, others)) = configs.split_first() else {
                    return bad("the cache manifest has no config");
                };
                if others.iter().any(|d| d.digest != first.digest) {
                    return bad("the cache manifest has two configs");
                }
                (first.clone(), layers)
            }
        };
        let outline = Outline::of_stored(manifest)
            .map_err(|e| Malformed(format!("the cache manifest: {e}")))?;
        let proven: HashSet<Digest> = outline
            .named
            .iter()
            .filter(|named| named.grants_sight())
            .map(|named| named.digest)
            .collect();
        let unproven = [&config].into_iter().chain(&layers).map(|d| d.digest);
        Ok(Some(Self {
            elsewhere: unproven.filter(|d| !proven.contains(d)).collect(),
            form,
            config,
            layers,
            manifest: manifest.clone(),
        }))
    }

    /// Its form.
    pub fn form(&self) -> Form {
        self.form
    }

    /// The cache config.
    pub fn config(&self) -> &Descriptor {
        &self.config
    }

    /// The layers in the document's order; a digest may occur several times.
    pub fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// Config and layers that the document declares to be elsewhere (`urls`, non-distributable): its pusher need not have
    /// been able to read them. This cache must not serve them.
    pub fn elsewhere(&self) -> &HashSet<Digest> {
        &self.elsewhere
    }

    /// The manifest as it was read.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The same document without the layers whose blobs are lost, and thus with another digest; the unchanged manifest if
    /// none is lost.
    ///
    /// BuildKit then drops the results that need them and uses the rest. The config stays even if it is in `lost`, and every
    /// other field is kept unchanged, known or not. The result depends only on the manifest and on which of its layers are lost,
    /// so replicas agree.
    pub fn without(&self, lost: &HashSet<Digest>) -> Manifest {
        if !self.layers.iter().any(|l| lost.contains(&l.digest)) {
            return self.manifest.clone();
        }
        let document: Document =
            serde_json::from_slice(&self.manifest.bytes).expect("it was read before");
        let cut = if self.form == Form::Image {
            "layers"
        } else {
            "manifests"
        };
        let mut text = String::with_capacity(self.manifest.bytes.len());
        for (at, (key, value)) in document.0.iter().enumerate() {
            text.push(if at == 0 { '{' } else { ',' });
            text.push_str(&serde_json::to_string(key).expect("a string can always be written"));
            text.push(':');
            if key == cut {
                push_kept(&mut text, value, lost);
            } else {
                text.push_str(value.get());
            }
        }
        text.push('}');
        Manifest::new(&self.manifest.media_type, text)
    }
}

fn push_kept(text: &mut String, entries: &RawValue, lost: &HashSet<Digest>) {
    let entries: Vec<&RawValue> = serde_json::from_str(entries.get()).expect("it was read before");
    let kept = entries.into_iter().filter(|e| {
        let d = descriptor("an entry", e).expect("it was read before");
        d.media_type == media::BUILDKIT_CONFIG || !lost.contains(&d.digest)
    });
    text.push('[');
    for (at, entry) in kept.enumerate() {
        if at > 0 {
            text.push(',');
        }
        text.push_str(entry.get());
    }
    text.push(']');
}

/// The fields of a JSON object, unparsed, in their order.
struct Document<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Document<'a> {
    fn all(&self, key: &str) -> impl Iterator<Item = &'a RawValue> {
        self.0
            .iter()
            .filter(move |(k, _)| k == key)
            .map(|(_, v)| *v)
    }

    fn one(&self, key: &str) -> Option<&'a RawValue> {
        self.all(key).next()
    }

    /// The form, determined like BuildKit does, from the existing fields; `sent` is the media type that came with the bytes.
    fn form(&self, sent: &str) -> Result<Form> {
        for key in ["mediaType", "config", "layers", "manifests"] {
            if self.all(key).count() > 1 {
                return bad(format!("the cache manifest has two fields `{key}`"));
            }
        }
        let is_image = self.one("config").is_some() || self.one("layers").is_some();
        if is_image && self.one("manifests").is_some() {
            return bad("the cache manifest is both an image and an index");
        }
        let said: Option<String> = match self.one("mediaType") {
            Some(raw) => serde_json::from_str(raw.get())
                .map_err(|e| Malformed(format!("the cache manifest's media type: {e}")))?,
            None => None,
        };
        let form = match said.as_deref().unwrap_or(sent) {
            _ if is_image => Form::Image,
            media::DOCKER_LIST => Form::DockerList,
            _ => Form::Index,
        };
        let other = match said.as_deref() {
            Some(media::IMAGE_MANIFEST | media::DOCKER_MANIFEST) => !is_image,
            Some(media::IMAGE_INDEX | media::DOCKER_LIST) => is_image,
            _ => false,
        };
        if other {
            return bad("the cache manifest states another media type than that of its content");
        }
        Ok(form)
    }

    fn list(&self, key: &str) -> Result<Vec<Descriptor>> {
        let Some(raw) = self.one(key) else {
            return Ok(Vec::new());
        };
        let entries: Option<Vec<&RawValue>> = serde_json::from_str(raw.get())
            .map_err(|e| Malformed(format!("`{key}` of the cache manifest: {e}")))?;
        let mut count = 0;
        let entries = entries.into_iter().flatten().enumerate();
        entries
            .map(|(at, e)| {
                let entry = descriptor(&format!("`{key}[{at}]`"), e)?;
                count += entry.annotations.len();
                if count > MAX_OF_ALL {
                    return bad(format!(
                        "the cache manifest has over {MAX_OF_ALL} annotations"
                    ));
                }
                Ok(entry)
            })
            .collect()
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Document<'a> {
    fn deserialize<D: Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object of at most {MAX_FIELDS} fields")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Self::Value, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                    if fields.len() > MAX_FIELDS {
                        return Err(de::Error::invalid_length(fields.len(), &self));
                    }
                }
                Ok(fields)
            }
        }
        d.deserialize_map(Fields).map(Document)
    }
}

fn is_cache_config(raw: &RawValue) -> bool {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: String,
    }
    serde_json::from_str::<Typed>(raw.get()).is_ok_and(|t| t.media_type == media::BUILDKIT_CONFIG)
}

fn descriptor(what: &str, raw: &RawValue) -> Result<Descriptor> {
    /// Like our descriptor, with `null` where Go accepts it.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Fields {
        media_type: String,
        digest: Digest,
        size: u64,
        artifact_type: Option<String>,
        annotations: Option<bounded::Map<MAX_OF_ENTRY>>,
    }
    let fields: Fields = serde_json::from_str(raw.get())
        .map_err(|e| Malformed(format!("{what} of the cache manifest: {e}")))?;
    Ok(Descriptor {
        media_type: fields.media_type,
        digest: fields.digest,
        size: fields.size,
        artifact_type: fields.artifact_type,
        annotations: fields.annotations.map(|a| a.0).unwrap_or_default(),
    })
}
