//! Wrappers: each goes around any store and adds to it.
//!
//! - Holds: checking bytes, trying again, renewing what a prune has marked, guarding (limits, counts, names in errors, no writes).
//! - Enters: a store as `Arc<dyn RepoStore>`.
//! - Leaves: a store again; `open/stack.rs` says in which order they are stacked.
//! - Deliberately absent: what any one backend is like.
//!
//! Each file denies `clippy::missing_trait_methods`: a method that is added to a trait must be thought of in every wrapper.

pub mod counters;
mod damaged;
mod guarded;
mod limits;
mod readonly;
mod renewing;
pub mod retrying;
mod verified;

pub use damaged::DamagedBlobs;
pub use guarded::{Guard, Guarded};
pub use limits::{Limiter, Limits};
pub use readonly::ReadOnly;
pub use renewing::Renewing;
pub use retrying::Retrying;
pub use verified::Verified;

#[cfg(test)]
mod tests;
