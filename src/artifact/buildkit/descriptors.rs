//! What several manifests say about their blobs, and whether they agree.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use super::{Form, Part};
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

/// The form of a manifest that holds the blobs of all `parts`.
///
/// An image if one of them is: its writer can read images, and registries take them. Else an index, and only where all are Docker's
/// manifest lists, such a list.
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
/// Annotations are those of all parts, the later by its bytes where two differ; those that say where a blob may be mounted from are
/// left out, since they are of another registry. A blob is not among them if no part says its diffID, which the importer needs, or
/// if two parts contradict each other in size, diffID or media type: one of them is wrong, and doubt is a miss.
pub(super) fn usable(parts: &[&Part], form: Form) -> HashMap<Digest, Descriptor> {
    let mut blobs: HashMap<Digest, Descriptor> = HashMap::new();
    let mut disputed: HashSet<Digest> = HashSet::new();
    for said in parts.iter().flat_map(|p| p.manifest.layers()) {
        let mut ours = Descriptor::new(layer_type(&said.media_type, form), said.digest, said.size);
        let kept = said
            .annotations
            .iter()
            .filter(|(k, _)| !k.starts_with(annotations::DISTRIBUTION_SOURCE));
        ours.annotations = kept.map(|(k, v)| (k.clone(), v.clone())).collect();
        match blobs.entry(said.digest) {
            Entry::Vacant(place) => {
                place.insert(ours);
            }
            Entry::Occupied(mut known) => {
                if !unite(known.get_mut(), ours) {
                    disputed.insert(said.digest);
                }
            }
        }
    }
    blobs.retain(|digest, d| !disputed.contains(digest) && diff_id(d).is_some());
    blobs
}

/// Adds what `other` says of the same blob; false where it says another thing.
fn unite(known: &mut Descriptor, other: Descriptor) -> bool {
    let ids = (diff_id(known), diff_id(&other));
    let differ = matches!(ids, (Some(a), Some(b)) if a != b);
    for (key, value) in other.annotations {
        let place = known.annotations.entry(key).or_default();
        if *place < value {
            *place = value;
        }
    }
    !differ && known.size == other.size && known.media_type == other.media_type
}

pub(super) fn diff_id(d: &Descriptor) -> Option<Digest> {
    d.annotations.get(annotations::UNCOMPRESSED)?.parse().ok()
}

/// The name that a layer has in a manifest of that form; one that only one family has stays as it is.
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
