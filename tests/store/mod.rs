//! Stores against real servers, and against servers that misbehave.
mod registry;
