//! The doors: protocols that build tools already speak, answered from stores.
//!
//! - Holds: one folder per protocol, each a [`Door`](door::Door); the single entry point to all of them ([`gateway`]), and
//!   authentication.
//! - Enters: HTTP requests, with what is known of their connection.
//! - Leaves: responses in the protocol's own terms.
//! - Deliberately absent: how a store keeps bytes, retries, hashing, building of manifests, sockets.

pub mod admin;
pub mod admission;
pub mod auth;
mod browsers;
mod coding;
pub mod control;
pub mod door;
pub mod gateway;
pub mod hold;
pub mod observe;
pub mod pause;
pub mod pushes_blocked;
pub mod range;
pub mod refusal;
pub mod registry;
pub mod tokens;
