//! The daemon: rooms put together, listeners opened, work drained.
//!
//! - Holds: set-up from settings, TLS, listening, work in the background, stopping.
//! - Enters: checked settings, listeners, signals.
//! - Leaves: a running service; at its end nothing that was acknowledged is lost.
//! - Deliberately absent: what any protocol says.

pub mod tls;
