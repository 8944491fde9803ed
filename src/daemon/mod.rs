//! The daemon process: serves doors on sockets, from startup to shutdown.
//!
//! - Holds: what is opened at startup, the accept loop, TLS, reloading, background work, draining.
//! - Enters: a command line, an environment, signals.
//! - Leaves: a running service that ends on request; an exit code.
//! - Deliberately absent: protocols and authorization (`serve`), storage of bytes (`store`), the meaning of settings
//!   (`config`).

mod args;
mod arrivals;
pub mod background;
pub mod build;
mod check;
pub mod drain;
pub mod error;
mod frames;
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
