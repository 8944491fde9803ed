//! All integration tests, one binary: what a user or a store sees from outside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops here")]

mod cli;
mod daemon;
mod e2e;
mod format;
mod observability;
mod rooms;
mod store;
mod support;
