//! What is below a manifest: image manifests, indexes and Docker's forms of both.
//!
//! Image spec `manifest.md`, `image-index.md`; Docker's "Image Manifest V 2, Schema 2". BuildKit writes its cache as an index
//! whose children are blobs, distinguished from manifests by their media type alone.

use std::collections::HashSet;

use crate::{
    artifact::{
        Descriptor, Manifest, media, mentions,
        outline::{Named, Outline, Role},
    },
    digest::Digest,
    task,
};

/// The children of a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Children {
    /// Manifests and indexes, in the document's order.
    pub manifests: Vec<Descriptor>,
    /// Everything else except layers stored elsewhere: config first, then layers, in the document's order.
    pub blobs: Vec<Descriptor>,
    /// Whether these are certainly all children: the document is of a known type, or mentions no other digest.
    pub known: bool,
}

/// The children of a manifest, which is parsed aside if it is long.
///
/// Layers stored elsewhere ([`Named::elsewhere`]) are not included, whether a store has them or not: nobody checked that the
/// pusher may read them.
///
/// # Errors
/// A message, when it is of a known type and not well-formed, or is both image and index.
pub async fn children(manifest: &Manifest) -> Result<Children, String> {
    let manifest = manifest.clone();
    task::parse(manifest.bytes.len(), move || children_of(&manifest)).await
}

fn children_of(manifest: &Manifest) -> Result<Children, String> {
    if !media::is_manifest(&manifest.media_type) {
        return Ok(of_unknown(manifest));
    }
    let outline = Outline::of_stored(manifest).map_err(|e| e.to_string())?;
    // Two readers could interpret it differently (CVE-2021-41190).
    if outline.is_ambiguous {
        return Err("it is both an image and an index".to_owned());
    }
    let mut children = Children {
        known: true,
        ..Children::default()
    };
    for named in outline.children() {
        let list = match named.role {
            Role::Manifest => &mut children.manifests,
            Role::Config | Role::Layer | Role::Blob => &mut children.blobs,
        };
        list.push(descriptor(named)?);
    }
    Ok(children)
}

/// The descriptors in a document of another type: the artifact manifest of image spec 1.1-rc (`blobs`), and any document similar
/// to a known one. Empty if it cannot be read.
fn of_unknown(manifest: &Manifest) -> Children {
    let Ok(outline) = Outline::of_stored(manifest) else {
        return Children::default();
    };
    if outline.is_ambiguous {
        return Children::default();
    }
    let mut children = Children {
        known: mentions_no_other(manifest, &outline),
        ..Children::default()
    };
    for named in outline.children() {
        let Some(size) = named.size else {
            children.known = false;
            continue;
        };
        let media_type = match named.media_type.as_str() {
            "" => "application/octet-stream",
            said => said,
        };
        let list = match named.role {
            Role::Manifest => &mut children.manifests,
            Role::Config | Role::Layer | Role::Blob => &mut children.blobs,
        };
        list.push(Descriptor::new(media_type, named.digest, size));
    }
    children
}

/// Returns true if every digest in a document is in `outline`.
fn mentions_no_other(manifest: &Manifest, outline: &Outline) -> bool {
    let mut known: HashSet<Digest> = outline.named.iter().map(|n| n.digest).collect();
    known.extend(outline.subject);
    let mut is_known = true;
    let read = mentions::read(&manifest.bytes, &mut |digest, _| {
        is_known &= known.contains(&digest);
    });
    read.is_ok() && is_known
}

fn descriptor(named: &Named) -> Result<Descriptor, String> {
    let digest = named.digest;
    match named.size {
        Some(size) if !named.media_type.is_empty() => {
            Ok(Descriptor::new(&named.media_type, digest, size))
        }
        _ => Err(format!("it names {digest} without a media type or size")),
    }
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
            let found = children_of(&manifest(media_type, &doc)).unwrap();
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
        let found = children_of(&manifest(media::IMAGE_INDEX, &doc)).unwrap();
        assert_eq!(found.blobs.len(), 2);
        assert_eq!(found.manifests.len(), 2);
    }

    #[test]
    fn a_document_of_two_types_and_one_that_is_none_are_refused() {
        let both = serde_json::json!({ "manifests": [], "layers": [] });
        assert!(children_of(&manifest(media::IMAGE_INDEX, &both)).is_err());
        assert!(children_of(&Manifest::new(media::IMAGE_MANIFEST, "<html>")).is_err());
        let huge = serde_json::json!({ "layers": [{ "mediaType": "a/b", "digest": "sha256:0", "size": -1 }] });
        assert!(children_of(&manifest(media::IMAGE_MANIFEST, &huge)).is_err());
    }

    #[test]
    fn an_unknown_type_has_no_known_children() {
        let found = children_of(&Manifest::new("application/x-other", "anything")).unwrap();
        assert_eq!(found, Children::default());
    }

    #[test]
    fn children_of_an_unknown_type_are_what_it_has_in_the_places_of_descriptors() {
        let artifact = "application/vnd.oci.artifact.manifest.v1+json";
        let doc = serde_json::json!({
            "blobs": [descriptor("a/sbom", "1")],
            "subject": descriptor(media::IMAGE_MANIFEST, "s"),
        });
        let found = children_of(&manifest(artifact, &doc)).unwrap();
        assert!(found.known && found.manifests.is_empty(), "{found:?}");
        assert_eq!(found.blobs[0].digest, Digest::sha256_of(b"1"));

        let doc = serde_json::json!({
            "layers": [{ "size": 1, "digest": Digest::sha256_of(b"2") }],
            "manifests_of_mine": [descriptor("a/b", "3")],
        });
        let found = children_of(&manifest("application/x-own+json", &doc)).unwrap();
        assert_eq!(found.blobs[0].digest, Digest::sha256_of(b"2"));
        assert!(!found.known, "what is named elsewhere may be needed too");
        let leaf = serde_json::json!({ "note": "names nothing" });
        assert!(
            children_of(&manifest("application/x-own+json", &leaf))
                .unwrap()
                .known
        );
    }

    #[test]
    fn layers_from_elsewhere_are_left_out() {
        let mut borrowed = descriptor("a/layer", "1");
        borrowed["urls"] = serde_json::json!(["https://x"]);
        let doc = serde_json::json!({
            "config": descriptor("a/config", "c"),
            "layers": [borrowed, descriptor(media::LAYER_FOREIGN, "2"), descriptor("a/layer", "3")],
        });
        let found = children_of(&manifest(media::IMAGE_MANIFEST, &doc)).unwrap();
        let order: Vec<_> = found.blobs.iter().map(|d| d.digest).collect();
        assert_eq!(order, ["c", "3"].map(|b| Digest::sha256_of(b.as_bytes())));
    }

    #[test]
    fn child_without_size_or_media_type_is_refused() {
        for child in [
            serde_json::json!({ "mediaType": "a/b", "digest": Digest::sha256_of(b"1") }),
            serde_json::json!({ "size": 1, "digest": Digest::sha256_of(b"1") }),
        ] {
            let doc = serde_json::json!({ "layers": [child] });
            assert!(children_of(&manifest(media::IMAGE_MANIFEST, &doc)).is_err());
        }
    }
}
