//! The descriptors that manifests give for their blobs, as far as BuildKit can use them.

use std::collections::{HashMap, hash_map::Entry};

use super::{CacheManifest, Form, Part, time};
use crate::{
    artifact::{Descriptor, annotations, media},
    digest::Digest,
};

/// Names of layers: OCI's and Docker's (moby/buildkit `util/compression/compression.go`, `toOCILayerType`).
const NAMES: [(&str, &str); 5] = [
    (media::LAYER_TAR, media::DOCKER_LAYER_TAR),
    (media::LAYER_GZIP, media::DOCKER_LAYER_GZIP),
    (media::FULL_PACK, media::DOCKER_LAYER_ZSTD),
    (media::LAYER_FOREIGN, media::DOCKER_LAYER_FOREIGN),
    (media::LAYER_FOREIGN_GZIP, media::DOCKER_LAYER_FOREIGN_GZIP),
];

/// The annotations that BuildKit and its stargz snapshotter read, besides the diffID (moby/buildkit `cache/remotecache/v1/utils.go`,
/// `cache/blobs.go`): RFC 3339, a digest, a number. All others are left out of a merged manifest.
const CREATED_AT: &str = "buildkit/createdat";
const TOC_DIGEST: &str = "containerd.io/snapshot/stargz/toc.digest";
const PLAIN_SIZE: &str = "io.containers.estargz.uncompressed-size";
/// Bytes of such a time or number at most, and of a media type (RFC 6838 has 127 for each of its two names).
const MAX_TIME: usize = 40;
const MAX_MEDIA_TYPE: usize = 255;

/// The form of a manifest that holds the blobs of all `parts`.
///
/// An image if one of them is: its writer can read images, and registries accept them. Otherwise an index, or Docker's manifest
/// list if all parts are such lists.
pub(super) fn form(parts: &[&Part]) -> Form {
    let mut forms = parts.iter().map(|p| p.manifest.form());
    if parts.is_empty() || forms.clone().any(|f| f == Form::Image) {
        Form::Image
    } else if forms.all(|f| f == Form::DockerList) {
        Form::DockerList
    } else {
        Form::Index
    }
}

/// The descriptors of all blobs that BuildKit can use, with media types of `form`'s family.
///
/// Each is the descriptor from the first of `parts` that has one (the part pushed last, if they are ranked); those of other parts
/// are ignored.
pub(super) fn usable(parts: &[&Part], form: Form) -> HashMap<Digest, Descriptor> {
    let mut blobs: HashMap<Digest, Descriptor> = HashMap::new();
    for (digest, mut word) in parts.iter().flat_map(|p| said(&p.manifest)) {
        blobs.entry(digest).or_insert_with(|| {
            word.media_type = layer_type(&word.media_type, form).to_owned();
            word
        });
    }
    blobs
}

/// A manifest's descriptors of its layers, with OCI's media types.
///
/// A layer is left out if BuildKit cannot use one of its entries, or if two entries contradict each other in size, diffID or
/// media type: doubt is a miss, and does not affect other manifests.
pub(super) fn said(manifest: &CacheManifest) -> HashMap<Digest, Descriptor> {
    let mut words: HashMap<Digest, Option<Descriptor>> = HashMap::new();
    for layer in manifest.layers() {
        let word = word(layer);
        match words.entry(layer.digest) {
            Entry::Vacant(place) => {
                place.insert(word);
            }
            Entry::Occupied(mut known) => {
                let same = known.get().as_ref().zip(word.as_ref());
                if !same.is_some_and(|(a, b)| agree(a, b)) {
                    known.insert(None);
                }
            }
        }
    }
    let words = words.into_iter();
    words.filter_map(|(d, word)| Some((d, word?))).collect()
}

/// The part of an entry that BuildKit reads; `None` if BuildKit cannot use it: without a diffID, or with an invalid annotation.
fn word(layer: &Descriptor) -> Option<Descriptor> {
    if layer.media_type.len() > MAX_MEDIA_TYPE {
        return None;
    }
    let name = layer_type(&layer.media_type, Form::Image);
    let mut word = Descriptor::new(name, layer.digest, layer.size);
    for (key, value) in &layer.annotations {
        let is_valid = match key.as_str() {
            annotations::UNCOMPRESSED | TOC_DIGEST => value.parse::<Digest>().is_ok(),
            CREATED_AT => value.len() <= MAX_TIME && time::parse(value).is_some(),
            PLAIN_SIZE => value.len() <= MAX_TIME && value.parse::<u64>().is_ok(),
            _ => continue,
        };
        if !is_valid {
            return None;
        }
        word.annotations.insert(key.clone(), value.clone());
    }
    word.annotations
        .contains_key(annotations::UNCOMPRESSED)
        .then_some(word)
}

/// Returns true if two descriptors are of the same bytes and of the same plain tar.
pub(super) fn agree(one: &Descriptor, other: &Descriptor) -> bool {
    one.size == other.size && one.media_type == other.media_type && diff_id(one) == diff_id(other)
}

pub(super) fn diff_id(d: &Descriptor) -> Option<Digest> {
    d.annotations.get(annotations::UNCOMPRESSED)?.parse().ok()
}

/// The media type of a layer in a manifest of that form; a type that exists in one family only stays unchanged.
pub(super) fn layer_type(said: &str, form: Form) -> &str {
    let family = NAMES
        .iter()
        .find(|(oci, docker)| *oci == said || *docker == said);
    match family {
        Some((_, docker)) if form == Form::DockerList => docker,
        Some((oci, _)) => oci,
        None => said,
    }
}
