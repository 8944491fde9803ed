//! Annotation keys, one constant each.

/// When the snapshot was created, RFC 3339 (image spec, `annotations.md`).
pub const CREATED: &str = "org.opencontainers.image.created";
/// When the snapshot was published, by the store's clock, RFC 3339.
pub const PUBLISHED: &str = "io.cachectl.published";
/// File name of a layer, which lets `oras pull` save it.
pub const TITLE: &str = "org.opencontainers.image.title";
/// Name of a manifest in an image layout's `index.json` (image spec, `image-layout.md`).
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Digest of a pack's table of contents, as stored in the pack.
pub const TOC_DIGEST: &str = "io.cachectl.toc.digest";
/// Where the table of contents starts in the pack, in bytes.
pub const TOC_OFFSET: &str = "io.cachectl.toc.offset";
/// Its length in the pack, in bytes.
pub const TOC_SIZE: &str = "io.cachectl.toc.size";
/// Key of a record that a daemon keeps in a store that has only blobs and tags.
pub const RECORD_KEY: &str = "io.cachectl.record.key";
/// Its bytes, base64.
pub const RECORD_BYTES: &str = "io.cachectl.record.bytes";
/// Digest of a layer's plain tar (its diffID); BuildKit's importer cannot use a layer without it.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";
/// Marks the manifest of a cache that a daemon merged from the parts of a tag.
pub const MERGED: &str = "io.cachectl.buildkit.merged";
/// Prefix of the annotations that say which repositories of a host hold a blob; BuildKit leaks them into cache manifests.
pub const DISTRIBUTION_SOURCE: &str = "containerd.io/distribution.source.";
