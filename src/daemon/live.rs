//! The settings that hold now: what is asked anew for each use follows a reload.

use std::sync::Arc;

use tokio::sync::watch;

use crate::config::daemon::Config;

/// The settings that hold now.
#[derive(Clone)]
pub struct Live(watch::Receiver<Arc<Config>>);

impl Live {
    /// Settings, and where newer ones are sent to.
    pub(super) fn new(config: Config) -> (watch::Sender<Arc<Config>>, Self) {
        let (sender, receiver) = watch::channel(Arc::new(config));
        (sender, Self(receiver))
    }

    /// The settings that hold now; not to be kept.
    pub fn get(&self) -> Arc<Config> {
        self.0.borrow().clone()
    }
}
