//! Who does the work of listings and upkeep: this process at the store, or the daemon that stands before it.

use super::control::Daemon;
use crate::{
    ops::{self, Context, Reach, du, inspect, list, prune, remove, verify},
    store::registry::ControlWay,
};

/// A store to be looked after.
pub(crate) struct Upkeep {
    ctx: Context,
    daemon: Option<Daemon>,
}

impl Upkeep {
    /// Looks after the repositories that match one of `patterns`; after all without any.
    pub(crate) fn new(mut ctx: Context, patterns: &[String]) -> ops::Result<Self> {
        // What is no pattern is said here, whoever does the work.
        ctx.reach = Reach::everything().wanting(patterns)?;
        let speak = |way: &ControlWay| {
            let url = ctx.store.url().to_string();
            Daemon::new(way.clone(), url, ctx.progress.clone(), patterns)
        };
        let daemon = ctx.store.facts().control.as_ref().map(speak);
        Ok(Self { ctx, daemon })
    }

    /// The daemon, where the store is one.
    pub(crate) fn daemon(&self) -> Option<&Daemon> {
        self.daemon.as_ref()
    }

    pub(crate) async fn list(&self, name: Option<&str>) -> ops::Result<list::Report> {
        match &self.daemon {
            Some(daemon) => daemon.list(name).await,
            None => list::run(&self.ctx, name).await,
        }
    }

    pub(crate) async fn inspect(
        &self,
        name: &str,
        files: bool,
    ) -> ops::Result<Vec<inspect::Snapshot>> {
        match &self.daemon {
            Some(daemon) => daemon.inspect(name, files).await,
            None => inspect::run(&self.ctx, name, files).await,
        }
    }

    pub(crate) async fn remove(&self, options: &remove::Options) -> ops::Result<remove::Report> {
        match &self.daemon {
            Some(daemon) => daemon.remove(options).await,
            None => remove::run(&self.ctx, options).await,
        }
    }

    pub(crate) async fn prune(&self, options: &prune::Options) -> ops::Result<prune::Report> {
        match &self.daemon {
            Some(daemon) => daemon.prune(options).await,
            None => prune::run(&self.ctx, options).await,
        }
    }

    pub(crate) async fn du(&self, name: Option<&str>) -> ops::Result<du::Report> {
        match &self.daemon {
            Some(daemon) => daemon.du(name).await,
            None => du::run(&self.ctx, name).await,
        }
    }

    /// What is damaged is written down on this node, whoever found it: this node's next export mends it.
    pub(crate) async fn verify(
        &self,
        name: Option<&str>,
        depth: verify::Depth,
    ) -> ops::Result<verify::Report> {
        let Some(daemon) = &self.daemon else {
            return Box::pin(verify::run(&self.ctx, name, depth)).await;
        };
        let report = daemon.verify(name, depth).await?;
        verify::remember(&self.ctx, &report).await;
        Ok(report)
    }
}
