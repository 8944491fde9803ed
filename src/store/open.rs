//! Placeholder until the `stores` branch is merged (its version wins).
use super::{Meet, Store, Sweep, Untag};
use std::{path::PathBuf, sync::Arc};
/// An opened store with its abilities.
#[derive(Clone)]
pub struct Opened {
    /// The store, wrapped.
    pub store: Arc<dyn Store>,
    /// How writers meet.
    pub meet: Meet,
    /// Names can be taken away.
    pub untag: Option<Arc<dyn Untag>>,
    /// Blobs can be swept.
    pub sweep: Option<Arc<dyn Sweep>>,
    /// Where it is.
    pub url: String,
    /// Folder for spools on the store's own file system.
    pub spool_dir: Option<PathBuf>,
}
