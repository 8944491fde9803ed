//! The daemon: doors on sockets, from the first byte to the last.
//!
//! - Holds: what is opened at start, the accept loop, draining, background work.
//! - Enters: a checked configuration, listeners.
//! - Leaves: a running service that ends when it is told to.
//! - Deliberately absent: protocols (`serve`), how bytes are kept (`store`).

pub mod build;
pub mod listen;
pub mod tls;
