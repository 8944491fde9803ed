//! The daemon: doors on sockets, from the first byte to the last.
//!
//! - Holds: what is opened at start, the accept loop, TLS, reloading, background work, draining.
//! - Enters: a command line, an environment, signals.
//! - Leaves: a running service that ends when it is told to; an exit code.
//! - Deliberately absent: protocols and who may come in (`serve`), how bytes are kept (`store`), what a setting is (`config`).

mod args;
mod arrivals;
pub mod background;
pub mod build;
mod check;
pub mod drain;
pub mod error;
mod frames;
mod held;
mod idle;
pub mod limit;
mod linger;
pub mod listen;
pub mod live;
mod marks;
mod notify;
mod protocol;
mod reload;
mod run;
mod scrub;
mod service;
pub mod shown;
pub mod socket;
mod state;
mod tiers;
pub mod tls;
mod who;
mod writes;

pub use run::main;
