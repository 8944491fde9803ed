//! cachectl carries build caches between CI nodes as content-addressed OCI artifacts.
pub mod artifact;
pub mod cli;
pub mod config;
pub mod digest;
pub mod entry;
pub mod fs;
pub mod ops;
pub mod pack;
pub mod progress;
pub mod redact;
pub mod source;
pub mod store;
pub mod task;
pub mod telemetry;
