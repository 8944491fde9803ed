//! Wrappers: each wraps any store and adds one behaviour.
//!
//! - Holds: verifying bytes, retrying, renewing what a prune has marked, guarding (limits, counts, names in errors, no writes).
//! - Enters: a store as `Arc<dyn RepoStore>`.
//! - Leaves: a store again; `open/stack.rs` defines the order in which they are stacked.
//! - Deliberately absent: properties of any one backend.
//!
//! Each file denies `clippy::missing_trait_methods`: every wrapper must handle each method that is added to a trait.

pub mod counters;
mod damaged;
mod guarded;
mod limits;
mod readonly;
mod renewing;
pub mod retrying;
mod verified;
pub mod width;

pub use damaged::DamagedBlobs;
pub use guarded::{Guard, Guarded};
pub use limits::{Limiter, Limits};
pub use readonly::ReadOnly;
pub use renewing::Renewing;
pub use retrying::Retrying;
pub use verified::Verified;
pub use width::Width;

#[cfg(test)]
mod tests;
