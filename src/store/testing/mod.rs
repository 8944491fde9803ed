//! Support for the tests of this crate and in `tests/`; no command or daemon uses it.
//!
//! - Holds: the suite that every store must pass, a store in memory, a wrapper that fails on purpose.
//! - Enters: a store as `Arc<dyn RepoStore>`.
//! - Leaves: a panic if a promise is broken.
//! - Deliberately absent: servers; those are in `tests/support`.

pub mod conformance;
mod faulty;
mod memory;

pub use faulty::{Faults, Faulty};
pub use memory::Memory;
