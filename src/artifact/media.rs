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
/// A layer that is a plain tar (image spec, `layer.md`).
pub const LAYER_TAR: &str = "application/vnd.oci.image.layer.v1.tar";
/// A layer that is a gzip-compressed tar.
pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// A layer that registries must not redistribute, plain (image spec, `layer.md`, deprecated).
pub const LAYER_FOREIGN: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// The same, gzip-compressed.
pub const LAYER_FOREIGN_GZIP: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
/// The same, zstd-compressed.
pub const LAYER_FOREIGN_ZSTD: &str = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd";
/// Docker's name of [`LAYER_TAR`].
pub const DOCKER_LAYER_TAR: &str = "application/vnd.docker.image.rootfs.diff.tar";
/// Docker's name of [`LAYER_GZIP`].
pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// Docker's name of [`FULL_PACK`].
pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
/// Docker's name of [`LAYER_FOREIGN`].
pub const DOCKER_LAYER_FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
/// Docker's name of [`LAYER_FOREIGN_GZIP`].
pub const DOCKER_LAYER_FOREIGN_GZIP: &str =
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// Config of a BuildKit cache (moby/buildkit `cache/remotecache/v1/types/spec.go`).
pub const BUILDKIT_CONFIG: &str = "application/vnd.buildkit.cacheconfig.v0";
/// Our config (docs/format.md, 2).
pub const CONFIG: &str = "application/vnd.cachectl.config.v1+json";
/// Artifact type of a record that a daemon keeps in a store that has only blobs and tags (docs/format.md).
pub const RECORD: &str = "application/vnd.cachectl.record.v1";
/// Placeholder for an empty config or layer (image spec, "Guidance for an Empty Descriptor").
pub const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The artifact type of a snapshot of `kind` (`gobuild`, `gomod`, `dir`).
pub fn artifact_type(kind: &str) -> String {
    format!("application/vnd.cachectl.{kind}.v1")
}
/// The config of an image (image spec `config.md`).
pub const IMAGE_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Docker's name of [`IMAGE_CONFIG`].
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// Returns true if content of this media type is a manifest with children of its own.
pub fn is_manifest(media_type: &str) -> bool {
    matches!(
        media_type,
        IMAGE_MANIFEST | IMAGE_INDEX | DOCKER_MANIFEST | DOCKER_LIST
    )
}

/// Returns true for a manifest that names a config and layers, and no other manifests.
pub fn is_image_manifest(media_type: &str) -> bool {
    matches!(media_type, IMAGE_MANIFEST | DOCKER_MANIFEST)
}

/// Returns true if a manifest with a config of this media type is an image, OCI's or Docker's.
pub fn is_image_config(media_type: &str) -> bool {
    matches!(media_type, IMAGE_CONFIG | DOCKER_CONFIG)
}

/// Returns true if this is the media type of a layer of an image, OCI's or Docker's, in any compression.
pub fn is_layer(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.oci.image.layer.")
        || media_type.starts_with("application/vnd.docker.image.rootfs.")
}

/// Returns true if registries need not have content of this media type (image spec `layer.md`, "Non-Distributable Layers"; Docker's
/// foreign layers).
pub fn is_nondistributable(media_type: &str) -> bool {
    media_type.contains(".nondistributable.") || media_type.contains(".foreign.")
}
