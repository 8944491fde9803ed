//! What integration tests stand on: real servers, real Go projects, nodes that start empty, and the binary under test.
//!
//! Enters: nothing but the tools that `make deps` and `make deps-e2e` put in one folder.
//! Leaves: handles that clean up after themselves; everything lives under cargo's own temporary folder.
//! Absent on purpose: imitations of servers, and silent skips. A missing tool is a failure that names its make target.
#![allow(
    dead_code,
    reason = "a shelf: not every handle is used by every set of tests that is compiled in"
)]

pub(crate) mod buildkit;
pub(crate) mod buildx;
pub(crate) mod cachectld;
pub(crate) mod cli;
pub(crate) mod clients;
pub(crate) mod conformance;
pub(crate) mod door;
pub(crate) mod gocache;
pub(crate) mod goproject;
pub(crate) mod image;
pub(crate) mod later;
pub(crate) mod link;
pub(crate) mod node;
pub(crate) mod process;
pub(crate) mod project;
pub(crate) mod round_robin;
pub(crate) mod scratch;
pub(crate) mod servers;
pub(crate) mod stores;
pub(crate) mod tools;
pub(crate) mod tree;

/// Whether the long tests run; without, says so on standard error.
///
/// A test that needs it starts with `if !e2e() { return; }`.
pub(crate) fn e2e() -> bool {
    let wanted = tools::setting("CACHECTL_E2E").is_some_and(|value| value == "1");
    if !wanted {
        tools::say("skipped: needs make e2e");
    }
    wanted
}
