//! Fair sharing: places that callers take in turn, what they hold for long, whose share something counts to, and lines in the log.

pub mod caller;
mod key;
pub mod lines;
mod pool;
mod shares;

pub use key::Key;
pub use pool::{Demand, Full, Permit, Pool, Queue};
pub use shares::{Refused, Share, Shares};
