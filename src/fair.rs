//! Fair sharing: places that callers take in turn, whose share something counts to, and lines in the log.

mod key;
pub mod lines;
mod pool;

pub use key::Key;
pub use pool::{Demand, Full, Permit, Pool, Queue};
