//! Media types and artifact types, one constant each.

/// OCI image manifest (image spec, `manifest.md`).
pub const IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// OCI image index (image spec, `image-index.md`).
pub const IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's image manifest, schema 2.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A layer that is a zstd-compressed tar (image spec, `layer.md`): a full pack.
pub const FULL_PACK: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
/// Our config (design §6.1).
pub const CONFIG: &str = "application/vnd.cachectl.config.v1+json";
/// Stands where there is nothing to say (image spec, "Guidance for an Empty Descriptor").
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The artifact type of a snapshot of `kind` (`gobuild`, `gomod`, `dir`).
pub fn artifact_type(kind: &str) -> String {
    format!("application/vnd.cachectl.{kind}.v1")
}
