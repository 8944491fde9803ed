//! Wrappers: one behaviour each, over any store.
//!
//! - Holds: checking, trying again, limits, counting, naming, refusing writes.
//! - Enters: a store as `Arc<dyn Store>`.
//! - Leaves: a store again; [`super::open`] says in which order they are stacked.
//! - Deliberately absent: what any one backend is like.
//!
//! Each file denies `clippy::missing_trait_methods`: a method that is added to a trait must be thought of in every wrapper.

mod damaged;
pub mod limited;
pub mod metered;
pub mod named;
pub mod readonly;
pub mod renewing;
pub mod retrying;
pub mod verified;

pub use damaged::DamagedBlobs;
pub use limited::Limited;
pub use metered::Metered;
pub use named::Named;
pub use readonly::ReadOnly;
pub use renewing::Renewing;
pub use retrying::Retrying;
pub use verified::Verified;

#[cfg(test)]
mod tests;
