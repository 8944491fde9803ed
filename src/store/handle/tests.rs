//! Stores that tests assemble.

use super::*;

impl Store {
    /// A store of one repository.
    pub(crate) fn of<S: RepoStore + Untag + Sweep + 'static>(
        store: &Arc<S>,
        url: StoreUrl,
        meet: Meet,
    ) -> Self {
        let (untag, sweep) = (Some(store.clone() as _), Some(store.clone() as _));
        Self::new(store.clone(), untag, sweep, Facts::of(url, meet))
    }

    /// The same with other blobs and tags.
    pub(crate) fn with_contents(self, contents: Arc<dyn RepoStore>) -> Self {
        Self { contents, ..self }
    }

    /// The same with another ability to remove names.
    pub(crate) fn with_untag(self, untag: Arc<dyn Untag>) -> Self {
        let untag = Some(untag);
        Self { untag, ..self }
    }

    /// The same with another ability to sweep.
    pub(crate) fn with_sweep(self, sweep: Option<Arc<dyn Sweep>>) -> Self {
        Self { sweep, ..self }
    }

    /// The same with a check whether blobs may be written.
    pub(crate) fn with_push_check(self, check: Arc<dyn PushCheck>) -> Self {
        self.with(|facts| facts.push_check = Some(check))
    }

    /// The same at another URL.
    pub(crate) fn with_url(self, url: &str) -> Self {
        let url = url.parse().expect("a test knows what a URL is");
        self.with(|facts| facts.url = url)
    }

    /// The same with a folder for spools.
    pub(crate) fn with_spool_dir(self, spool_dir: Option<PathBuf>) -> Self {
        self.with(|facts| facts.spool_dir = spool_dir)
    }

    /// The same with other facts.
    pub(in crate::store) fn with(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(Arc::make_mut(&mut self.facts));
        self
    }
}
