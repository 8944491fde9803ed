//! The main job on real things: Go projects, servers, kills, damage. `make e2e` runs these; `make test` says it skipped them.
//!
//! Only the binary and its documented forms are used here, so these tests know nothing of the rooms behind it.
mod aging;
mod buildkit;
mod buildkit_faults;
mod buildkit_merge;
mod clients;
mod conformance;
mod go_project;
mod harness;
mod heal;
mod incremental;
mod parallel;
