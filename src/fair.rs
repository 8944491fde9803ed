//! Fair sharing between callers: request slots, long-held resources, identification of callers, and log lines.

pub mod caller;
mod key;
pub mod lines;
mod pool;
mod shares;

pub use key::Key;
pub use pool::{Demand, Full, Permit, Pool, Queue};
pub use shares::{Refused, Share, Shares};
