//! The daemon's process as whoever runs it meets it: start, settings, signals, sockets, exit codes.

mod documents;
mod ending;
mod process;
mod reloading;
mod starting;

use process::{Daemon, cachectld, failure};
