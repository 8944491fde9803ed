//! What is below a manifest: image manifests, indexes and Docker's forms of both.
//!
//! Image spec `manifest.md`, `image-index.md`; Docker's "Image Manifest V 2, Schema 2". BuildKit writes its cache as an
//! index whose children are blobs, told from manifests by their media type alone.

use std::collections::HashSet;

use serde::Deserialize;

use crate::{
    artifact::{Descriptor, Manifest, media},
    digest::Digest,
};

/// What a manifest names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Children {
    /// Manifests and indexes, in the document's order.
    pub manifests: Vec<Descriptor>,
    /// Everything else: config first, then layers, in the document's order.
    pub blobs: Vec<Descriptor>,
    /// Whether the document is of a type that is understood; of others no children are known.
    pub known: bool,
}

/// Says whether content of this media type is a manifest with children of its own.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        media::IMAGE_MANIFEST | media::IMAGE_INDEX | media::DOCKER_MANIFEST | media::DOCKER_LIST
    )
}

/// Says whether a layer may be absent from where it was published ("non-distributable", image spec `layer.md`).
pub fn may_be_absent(media_type: &str) -> bool {
    media_type.contains("nondistributable") || media_type.contains("rootfs.foreign")
}

#[derive(Deserialize)]
struct Document {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

/// The children of a manifest.
///
/// # Errors
/// In words, when it is of a known type and not well-formed, or is image and index at once.
pub fn children(manifest: &Manifest) -> Result<Children, String> {
    if !is_manifest(&manifest.media_type) {
        return Ok(Children::default());
    }
    let doc: Document =
        serde_json::from_slice(&manifest.bytes).map_err(|e| format!("not a manifest: {e}"))?;
    // Two readers could see two different things in it (CVE-2021-41190).
    if doc.manifests.is_some() && (doc.layers.is_some() || doc.config.is_some()) {
        return Err("it is an image and an index at once".to_owned());
    }
    let listed = doc.manifests.into_iter().flatten();
    let (manifests, mut blobs): (Vec<_>, Vec<_>) = listed.partition(|d| is_manifest(&d.media_type));
    blobs.extend(doc.config);
    blobs.extend(doc.layers.into_iter().flatten());
    Ok(Children {
        manifests,
        blobs,
        known: true,
    })
}

/// What a marking run must keep for a manifest: more than its children, whatever its type.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Every digest that stands anywhere in the document as a string of its own.
    pub all: HashSet<Digest>,
    /// Those that are manifests by their descriptor: to be read as well.
    pub manifests: HashSet<Digest>,
    /// Those that are JSON of another type, and may be manifests of a type that is not known here.
    pub documents: HashSet<Digest>,
}

/// Everything that a manifest mentions, of whatever type: who removes blobs must rather keep too much.
///
/// # Errors
/// In words, when the document is not JSON: then nobody knows what it needs.
pub fn mentions(bytes: &[u8]) -> Result<Mentions, String> {
    let doc: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| format!("not a manifest: {e}"))?;
    let mut found = Mentions::default();
    let mut left = vec![&doc];
    while let Some(value) = left.pop() {
        match value {
            serde_json::Value::String(text) => found.all.extend(text.parse::<Digest>()),
            serde_json::Value::Array(items) => left.extend(items),
            serde_json::Value::Object(fields) => {
                let text = |key: &str| fields.get(key).and_then(serde_json::Value::as_str);
                if let (Some(media_type), Some(Ok(digest))) =
                    (text("mediaType"), text("digest").map(str::parse))
                {
                    if is_manifest(media_type) {
                        found.manifests.insert(digest);
                    } else if media_type.contains("json") && !media_type.contains("config") {
                        // Configs are leaves, and those of big snapshots are long.
                        found.documents.insert(digest);
                    }
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(media_type: &str, of: &str) -> serde_json::Value {
        serde_json::to_value(Descriptor::of(media_type, of.as_bytes())).unwrap()
    }

    fn manifest(media_type: &str, doc: &serde_json::Value) -> Manifest {
        Manifest::new(media_type, serde_json::to_vec(doc).unwrap())
    }

    #[test]
    fn image_manifest_has_config_then_layers() {
        for media_type in [media::IMAGE_MANIFEST, media::DOCKER_MANIFEST] {
            let doc = serde_json::json!({
                "layers": [descriptor("a/layer", "1"), descriptor("a/layer", "2")],
                "config": descriptor("a/config", "c"),
            });
            let found = children(&manifest(media_type, &doc)).unwrap();
            assert!(found.known && found.manifests.is_empty());
            let order: Vec<_> = found.blobs.iter().map(|d| d.digest).collect();
            let want = ["c", "1", "2"].map(|b| Digest::sha256_of(b.as_bytes()));
            assert_eq!(order, want);
        }
    }

    #[test]
    fn children_of_a_buildkit_index_are_blobs_and_manifests_by_media_type() {
        let doc = serde_json::json!({ "manifests": [
            descriptor("application/vnd.oci.image.layer.v1.tar+gzip", "layer"),
            descriptor(media::IMAGE_MANIFEST, "image"),
            descriptor(media::DOCKER_LIST, "list"),
            descriptor("application/vnd.buildkit.cacheconfig.v0", "config"),
        ]});
        let found = children(&manifest(media::IMAGE_INDEX, &doc)).unwrap();
        assert_eq!(found.blobs.len(), 2);
        assert_eq!(found.manifests.len(), 2);
    }

    #[test]
    fn a_document_of_two_types_and_one_that_is_none_are_refused() {
        let both = serde_json::json!({ "manifests": [], "layers": [] });
        assert!(children(&manifest(media::IMAGE_INDEX, &both)).is_err());
        assert!(children(&Manifest::new(media::IMAGE_MANIFEST, "<html>")).is_err());
        let huge = serde_json::json!({ "layers": [{ "mediaType": "a/b", "digest": "sha256:0", "size": -1 }] });
        assert!(children(&manifest(media::IMAGE_MANIFEST, &huge)).is_err());
    }

    #[test]
    fn an_unknown_type_has_no_known_children() {
        let found = children(&Manifest::new("application/x-other", "anything")).unwrap();
        assert_eq!(found, Children::default());
    }

    #[test]
    fn mentions_are_found_anywhere_in_any_document() {
        let index = descriptor(media::IMAGE_INDEX, "index");
        let doc = serde_json::json!({
            "fsLayers": [{ "blobSum": Digest::sha256_of(b"v1").to_string() }],
            "deep": { "er": [[index, descriptor("application/x+json", "other")]] },
            "config": descriptor(media::CONFIG, "config"),
        });
        let found = mentions(&serde_json::to_vec(&doc).unwrap()).unwrap();
        assert_eq!(found.all.len(), 4);
        assert_eq!(
            found.manifests,
            HashSet::from([Digest::sha256_of(b"index")])
        );
        assert_eq!(
            found.documents,
            HashSet::from([Digest::sha256_of(b"other")])
        );
        assert!(mentions(b"").is_err());
    }
}
