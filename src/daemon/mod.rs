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
pub mod current_config;
pub mod drain;
mod drained_body;
pub mod error;
mod frames;
mod idle;
pub mod limit;
pub mod listen;
mod notify;
pub mod observability;
mod port_owner;
mod protocol;
mod prune_marks;
mod reload;
mod run;
mod scrub;
mod service;
pub mod socket;
mod state;
mod tiers;
pub mod tls;
mod writes;

pub use run::main;
