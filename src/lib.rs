//! cachectl carries build caches between CI nodes as content-addressed OCI artifacts.
//!
//! The modules, in the order of the data flow (`ARCHITECTURE.md` shows it; `tests/rooms.rs` defines which module may use
//! which):
//!
//! - [`source`]: caches on disk, read as entries and restored: Go's build and module caches, any folder.
//! - [`pack`]: entries to packs and back, on all cores.
//! - [`artifact`]: the documents: table of contents, config, manifest, tags; folding and closure. No I/O.
//! - [`store`]: blobs and tags on disk, in an image layout, in S3, in a registry, behind small traits; wrappers with one
//!   behaviour each.
//! - [`transfer`]: from store to store, by descriptors.
//! - [`ops`]: the verbs: plain options in, plain reports out.
//! - [`proto`]: the control API's messages, converted from and to options and reports.
//! - [`serve`], [`daemon`]: the daemon's doors, one per protocol; how they are assembled, listen and stop.
//! - [`config`], [`cli`], [`telemetry`]: settings with their origin; arguments, terminal and exit codes; logs.
//! - [`digest`], [`entry`], [`fs`], [`task`], [`lately`], [`memory`], [`random`], [`redact`], [`progress`], [`trace`],
//!   [`metrics`], [`fair`]: shared basics, without product knowledge.

pub mod artifact;
pub mod backoff;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod digest;
pub mod entry;
pub mod fair;
pub mod fs;
pub mod lately;
pub mod manual;
pub mod memory;
pub mod metrics;
pub mod ops;
pub mod pack;
pub mod progress;
pub mod proto;
pub mod random;
pub mod redact;
pub mod serve;
pub mod source;
pub mod store;
pub mod task;
pub mod telemetry;
pub mod trace;
pub mod transfer;
