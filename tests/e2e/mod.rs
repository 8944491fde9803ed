//! The main job on real things: Go projects, servers, kills, damage. `make e2e` runs these; `make test` says it skipped them.
//!
//! Only the binaries and their documented forms are used here, so these tests know nothing of the rooms behind them.
//!
//! `buildkit*`, `clients` and `conformance` knock on the registry door as their makers wrote them. They run as root: builders
//! mount. `CACHECTL_REGISTRY=distribution-v3` puts CNCF distribution in the daemon's place, `CACHECTLD=<file>` another build.
mod aging;
mod buildkit;
mod buildkit_faults;
mod buildkit_merge;
mod clients;
mod conformance;
mod examples;
mod go_project;
mod go_run;
mod harness;
mod heal;
mod incremental;
mod operations;
mod parallel;
mod registries;
