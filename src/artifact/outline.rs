//! What any manifest or index says of its neighbours, whatever it is good for: what it names, what it refers to.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Manifest, media};
use crate::digest::Digest;

/// A manifest's neighbours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outline {
    /// What must be there for it to be whole: config and layers, or manifests of an index. Layers that come from elsewhere
    /// (non-distributable, or with `urls`) are not among them; in document order, repeated where it repeats them.
    pub children: Vec<Digest>,
    /// The manifest that it refers to.
    pub subject: Option<Digest>,
    /// What kind of artifact it is (distribution spec, "Listing Referrers"): its own word, or its config's media type.
    pub artifact_type: Option<String>,
    /// Its annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Why bytes are no manifest.
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
    /// A format of before 2016, which has no digests of its own.
    #[error("manifests of schema version 1 are not supported")]
    SchemaOne,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Child>,
    layers: Option<Vec<Child>>,
    manifests: Option<Vec<Child>>,
    subject: Option<Child>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Child {
    media_type: Option<String>,
    digest: Digest,
    /// Read only so that what is no size is refused.
    #[serde(rename = "size")]
    _size: Option<u64>,
    urls: Option<Vec<String>>,
}

impl Child {
    fn comes_from_elsewhere(&self) -> bool {
        let media_type = self.media_type.as_deref().unwrap_or_default();
        media_type.contains(".nondistributable.")
            || media_type.contains(".foreign.")
            || self.urls.as_ref().is_some_and(|u| !u.is_empty())
    }
}

impl Outline {
    /// Reads it; fields that it does not know may say anything.
    pub fn of(manifest: &Manifest) -> Result<Self, NoManifest> {
        let doc: Document =
            serde_json::from_slice(&manifest.bytes).map_err(|e| NoManifest::Json(e.to_string()))?;
        if doc.schema_version == Some(1) {
            return Err(NoManifest::SchemaOne);
        }
        if let Some(said) = doc.media_type.filter(|t| *t != manifest.media_type) {
            let sent = manifest.media_type.clone();
            return Err(NoManifest::MediaType { said, sent });
        }
        let is_index = matches!(
            manifest.media_type.as_str(),
            media::IMAGE_INDEX | media::DOCKER_LIST
        );
        let config_type = doc.config.as_ref().and_then(|c| c.media_type.clone());
        let named = doc.artifact_type.filter(|t| !t.is_empty());
        let all = [
            doc.config.into_iter().collect(),
            doc.layers.unwrap_or_default(),
            doc.manifests.unwrap_or_default(),
        ];
        Ok(Self {
            children: all
                .into_iter()
                .flatten()
                .filter(|c| !c.comes_from_elsewhere())
                .map(|c| c.digest)
                .collect(),
            subject: doc.subject.map(|s| s.digest),
            artifact_type: named.or(config_type.filter(|_| !is_index)),
            annotations: doc.annotations.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(media_type: &str, json: &str) -> Result<Outline, NoManifest> {
        Outline::of(&Manifest::new(media_type, json.to_owned()))
    }

    fn d(n: u8) -> Digest {
        Digest::sha256_of(&[n])
    }

    #[test]
    fn children_are_what_must_be_there() {
        let json = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/c","digest":"{}","size":1}},"layers":[
            {{"mediaType":"a/l","digest":"{}","size":1}},
            {{"mediaType":"application/vnd.oci.image.layer.nondistributable.v1.tar","digest":"{}","size":1}},
            {{"mediaType":"a/l","digest":"{}","size":1,"urls":["https://x"]}}],
            "subject":{{"digest":"{}"}},"annotations":{{"k":"v"}},"x":{{"y":[1]}}}}"#,
            d(1),
            d(2),
            d(3),
            d(4),
            d(5)
        );
        let found = outline(media::IMAGE_MANIFEST, &json).unwrap();
        assert_eq!(found.children, [d(1), d(2)]);
        assert_eq!(found.subject, Some(d(5)));
        assert_eq!(found.artifact_type.as_deref(), Some("a/c"));
        assert_eq!(found.annotations["k"], "v");
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for (size, is_one) in [
            ("0", true),
            ("9007199254740993", true),
            ("-1", false),
            ("1e30", false),
            ("1180591620717411303424", false),
            ("\"1\"", false),
        ] {
            let json = format!(r#"{{"manifests":[{{"digest":"{}","size":{size}}}]}}"#, d(1));
            assert_eq!(outline(media::IMAGE_INDEX, &json).is_ok(), is_one, "{size}");
        }
    }

    #[test]
    fn index_without_artifact_type_has_none() {
        let json = format!(r#"{{"manifests":[{{"digest":"{}"}}]}}"#, d(1));
        let found = outline(media::IMAGE_INDEX, &json).unwrap();
        assert_eq!((found.children, found.artifact_type), (vec![d(1)], None));
    }

    #[test]
    fn what_is_no_manifest_says_why() {
        let sent = media::IMAGE_MANIFEST;
        assert!(matches!(outline(sent, "[]"), Err(NoManifest::Json(_))));
        assert!(matches!(outline(sent, ""), Err(NoManifest::Json(_))));
        assert!(matches!(
            outline(sent, r#"{"layers":[{"digest":"sha256:1"}]}"#),
            Err(NoManifest::Json(_))
        ));
        assert!(matches!(
            outline(sent, r#"{"mediaType":"a/b"}"#),
            Err(NoManifest::MediaType { .. })
        ));
        assert_eq!(
            outline(sent, r#"{"schemaVersion":1}"#),
            Err(NoManifest::SchemaOne)
        );
    }
}
