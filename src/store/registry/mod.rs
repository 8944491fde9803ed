//! An OCI registry as a store: `oci://host[:port]/repository`, all names are tags of that one repository. A daemon's registry
//! door is one too.
//!
//! - Holds: one own transport over `reqwest` (credentials, tokens, redirects, patience), downloads, uploads, manifests, tags.
//! - Enters: a URL, settings, descriptors with re-openable bodies, manifests as bytes.
//! - Leaves: streams of bytes, manifests, errors by kind.
//! - Deliberately absent: trying again (the `Retrying` wrapper), concurrency (`Guarded`), checking whole blobs (`Verified`),
//!   environment variables (`config::load`).
//!
//! Protocol: OCI distribution spec 1.1; tokens: `distribution/distribution:docs/content/spec/auth`. What registries do beside
//! the specs is in reference/oci-and-s3.md §1 and §2.3.

mod auth;
mod blobs;
mod challenge;
mod chunked;
mod client;
mod config;
mod control;
mod credentials;
mod daemon;
mod error;
mod guard;
mod helper;
mod location;
mod manifests;
mod missing;
mod scopes;
mod session;
mod tags;
mod token;
mod transport;
mod upload;
mod wire;

#[cfg(test)]
mod tests;

pub use client::Registry;
pub use config::{Config, CredentialSources};
pub use control::{ControlBody, ControlWay};
pub use location::Location;
