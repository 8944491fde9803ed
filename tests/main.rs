//! All integration tests, one binary: what a user or a store sees from outside.

mod cli;
mod e2e;
mod rooms;
mod store;
mod support;
