//! An OCI registry as a store: `oci://host[:port]/repository`; all names are tags of that one repository. It is also the client
//! of a daemon's registry API.
//!
//! - Holds: its own transport over `reqwest` (credentials, tokens, redirects, timeouts), downloads, uploads, manifests, tags.
//! - Enters: a URL, settings, descriptors with re-openable bodies, manifests as bytes.
//! - Leaves: streams of bytes, manifests, errors by kind.
//! - Deliberately absent: retries (the `Retrying` wrapper), concurrency (`Guarded`), checking whole blobs (`Verified`),
//!   environment variables (`config::load`).
//!
//! Protocol: OCI distribution spec 1.1; tokens: `distribution/distribution:docs/content/spec/auth`.

mod answer;
mod auth;
mod blobs;
mod challenge;
mod chunked;
mod cleanups;
mod client;
mod config;
mod connection;
mod control;
mod credentials;
mod daemon;
mod door;
mod error;
mod guard;
mod helper;
mod location;
mod manifests;
mod missing;
mod once;
mod outcome;
mod refusal;
mod request;
mod scopes;
mod session;
mod shared;
mod tags;
mod token;
mod transport;
mod upload;

#[cfg(test)]
mod tests;

pub use client::Registry;
pub use config::{Config, CredentialSources};
pub use control::{ControlBody, ControlWay};
pub use location::Location;

/// The header by which registries identify their API in each answer (distribution, `docs/content/spec/api.md`).
const API_VERSION: &str = "docker-distribution-api-version";
