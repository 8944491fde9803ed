//! The daemon's doors: what build tools speak, answered from a store.
//!
//! - Holds: one folder for each protocol, and who may go through which door ([`auth`]).
//! - Enters: requests, with who is at the other end of the connection.
//! - Leaves: answers in the protocol's own words; what a door needs done is done by `ops`, `transfer` and `store`.
//! - Deliberately absent: listening, TLS, how a store keeps bytes.

pub mod auth;
