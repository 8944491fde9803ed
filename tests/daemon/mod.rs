//! The daemon's process as whoever runs it meets it: start, settings, signals, sockets, exit codes.

mod abuse;
mod browsers;
mod caches;
mod documents;
mod ending;
mod folders;
mod limits;
mod numbers;
mod outages;
mod process;
mod reloading;
mod starting;
mod tls;

use process::{Daemon, cachectld, failure};
