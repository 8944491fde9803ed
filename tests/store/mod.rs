//! Stores against real servers, and against servers that misbehave.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on shall say where and end"
)]
mod fake_s3;
mod registry;
mod s3;
mod s3_credentials;
mod s3_faults;
