//! OCI documents: the form in which a cache is stored.
//!
//! - Holds: descriptors, manifests, tags and names, the config of a snapshot, the table of contents of a pack, the parts of a
//!   snapshot, and the cache manifests and configs of BuildKit.
//! - Enters: entries and digests, or the bytes of a document.
//! - Leaves: bytes of a document, or the typed document after every check that needs no I/O.
//! - Deliberately absent: files, network, async, and how a cache is used.

pub mod annotations;
pub mod bounded;
pub mod buildkit;
pub mod config;
pub mod descriptor;
pub mod fold;
pub mod media;
pub mod mentions;
pub mod name;
pub mod outline;
pub mod reference;
pub mod snapshot;
pub mod spelled;
pub mod toc;
mod version;
pub mod wire;

#[cfg(test)]
mod memory_tests;

pub use descriptor::{Descriptor, Manifest};
pub use reference::{Reference, Tag};
