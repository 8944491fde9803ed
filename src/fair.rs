//! Fair sharing: places that callers take in turn, and whose share something counts to.

mod key;
mod pool;

pub use key::Key;
pub use pool::{Demand, Full, Permit, Pool, Queue};
