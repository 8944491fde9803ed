//! Stores against real servers, and against servers that misbehave.
mod fake_s3;
mod s3;
mod s3_faults;
