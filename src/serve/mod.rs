//! The doors: protocols that build tools already speak, answered from stores.
//!
//! - Holds: one folder a protocol, and who may come in.
//! - Enters: HTTP requests, with what is known of the connection they came by.
//! - Leaves: responses in the protocol's own terms.
//! - Deliberately absent: how a store keeps bytes, retries, hashing, building of manifests, sockets.

pub mod admin;
pub mod admission;
pub mod auth;
pub mod browsers;
pub mod control;
pub mod observe;
pub mod pause;
pub mod registry;
