//! The current settings: values that are queried at each use follow a reload.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::daemon::Config;

/// The current settings.
#[derive(Clone)]
pub struct CurrentConfig(watch::Receiver<Arc<Config>>);

impl CurrentConfig {
    /// Settings, and the channel for newer ones.
    pub(super) fn new(config: Config) -> (watch::Sender<Arc<Config>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(config));
        (sender, Self(receiver))
    }

    /// The current settings; not to be stored.
    pub fn get(&self) -> Arc<Config> {
        self.0.borrow().clone()
    }
}
