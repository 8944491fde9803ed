//! The verbs together, over the memory store: once with compare-and-swap, and once with side tags.

use std::{path::Path, sync::Arc};

use super::{
    Context, Created, Target, export,
    import::{self, Hit},
    load,
};
use crate::{
    digest::Digest,
    memory::MemoryBudget,
    progress,
    source::{
        Source,
        dir::{self, Dir},
    },
    store::{Meet, Store, StoreUrl, testing::Memory},
};

/// Makes a store of blobs alone for a test that never asks it about tags.
macro_rules! without_tags {
    ($store:ty) => {
        #[async_trait::async_trait]
        impl $crate::store::TagStore for $store {
            async fn resolve(
                &self,
                _: &$crate::artifact::Reference,
            ) -> $crate::store::Result<Option<$crate::store::Resolved>> {
                unreachable!()
            }

            async fn publish(
                &self,
                _: &$crate::artifact::Manifest,
                _: Option<&$crate::artifact::Tag>,
                _: &$crate::store::Expect,
            ) -> $crate::store::Result<$crate::store::Published> {
                unreachable!()
            }

            async fn tags(&self, _: &str) -> $crate::store::Result<Vec<$crate::artifact::Tag>> {
                unreachable!()
            }

            async fn clock(&self) -> $crate::store::Result<$crate::entry::Time> {
                unreachable!()
            }
        }
    };
}
pub(super) use without_tags;

mod beside;
mod bombs;
mod budget;
mod claims;
mod compacting;
mod copying;
mod dirs;
mod emptied;
mod forging;
mod fronts;
mod go;
mod hostile;
mod indexed;
mod limits;
mod looking;
mod modules;
mod programs;
mod pruning;
mod replacing;
mod repositories;
mod rounds;
mod sides;
mod tagged;
mod times;
mod verifying;

/// Options that remove everything of a name.
pub(super) fn removing(name: &str, dry_run: bool) -> super::remove::Options {
    super::remove::Options {
        name: name.to_owned(),
        only: crate::artifact::name::Only::default(),
        dry_run,
    }
}

/// A store and two nodes that share nothing else.
pub(super) struct World {
    pub(super) memory: Arc<Memory>,
    pub(super) meet: Meet,
    temp: tempfile::TempDir,
}

impl World {
    pub(super) fn new(meet: Meet) -> Self {
        Self {
            memory: Arc::new(Memory::new()),
            meet,
            temp: tempfile::tempdir().unwrap(),
        }
    }

    /// A node's context; nodes of other names have other states.
    pub(super) fn node(&self, name: &str) -> Context {
        Context {
            store: Store::of(&self.memory, StoreUrl::Disk("memory".into()), self.meet),
            reach: crate::ops::Reach::everything(),
            progress: progress::silent(),
            state_dir: Some(self.temp.path().join(name).join("state")),
            temp_dir: self.temp.path().join("tmp"),
            threads: 2,
            concurrency: 4,
            tables: load::Tables::within(MemoryBudget::of_command()),
            budget: None,
        }
    }

    /// A folder of a node.
    pub(super) fn path(&self, node: &str, name: &str) -> std::path::PathBuf {
        let path = self.temp.path().join(node).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        path
    }
}

pub(super) fn dir(root: &Path) -> Arc<dyn Source> {
    Arc::new(Dir::new(root, &dir::Options::default()).unwrap())
}

pub(super) fn exporting(source: &Arc<dyn Source>) -> export::Options {
    export::Options {
        source: source.clone(),
        target: Target {
            name: "n".into(),
            scope: "default".into(),
            key: String::new(),
        },
        merge: false,
        allow_empty: true,
        flatten: false,
        replace: false,
        max_age_days: 7,
        max_size: None,
        level: Some(3),
        created: Created::Now,
    }
}

pub(super) fn importing(source: &Arc<dyn Source>) -> import::Options {
    import::Options {
        source: source.clone(),
        name: "n".into(),
        scopes: vec!["default".into()],
        key: String::new(),
        restore_keys: Vec::new(),
        digest: None,
        how: crate::ops::restore::How::default(),
    }
}

pub(super) async fn export_dir(node: &Context, root: &Path) -> export::Report {
    export::run(node, &exporting(&dir(root))).await.unwrap()
}

pub(super) async fn import_dir(node: &Context, root: &Path) -> import::Report {
    import::run(node, &importing(&dir(root))).await.unwrap()
}

pub(super) fn packs_of(memory: &Memory) -> Vec<Digest> {
    memory.packs()
}

pub(super) fn is_hit(report: &import::Report) -> bool {
    report.hit == Some(Hit::Exact) && !report.partial
}
