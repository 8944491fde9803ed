//! From a URL to a store with its abilities: the only place where a backend is chosen. `stack` adds the wrappers around it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    Meet, PushCheck, Records, RepoStore, Repositories, Store, StoreUrl, Sweep, Untag,
    by_tags::{ByTags, Flat},
    disk::{self, Disk},
    error::{Error, Result},
    handle::Facts,
    keys::Repo,
    layout::Layout,
    marked::{Beside, MarkedBlobs},
    net, registry, s3,
    scrub::Scrubber,
    wrap::{
        DamagedBlobs, Guard, Limiter, Limits, Retrying,
        counters::{Counters, Tier},
        retrying::{Contact, Policy, Trouble},
    },
};

mod stack;

use stack::{InRepo, Parts, Stack, StackedRepos};

/// How a store is used.
#[derive(Debug, Clone)]
pub struct Options {
    /// Refuses every write, and leaves no trace in a folder.
    pub read_only: bool,
    /// A new folder is accessible to this user only.
    pub private: bool,
    /// Concurrent operations.
    pub concurrency: usize,
    /// Bytes per second in each direction; `None`: no limit.
    pub bandwidth: Option<u64>,
    /// Maximum time for all attempts of one operation at a remote.
    pub retry_for: Duration,
    /// How remotes are reached.
    pub net: net::Common,
    /// Maximum wait for another process's lock on a folder.
    pub lock_wait: Duration,
    /// Whether whole blobs are hashed when they are read; a daemon on its own disk hashes them on arrival instead.
    pub verified: bool,
    /// File in which a store in a folder records which of its blobs were hashed since they were written; `None`: it does not
    /// check.
    pub vetted: Option<PathBuf>,
    /// Doors of a daemon will be open on it, even while it is pruned: see [`super::marked`]. A store with one flat list of tags
    /// then gets many repositories by [`super::by_tags`].
    pub beside_doors: bool,
    /// Records why requests to a remote are retried.
    pub trouble: Trouble,
    /// Settings for S3; those in the URL take precedence.
    pub s3: s3::Config,
    /// Settings for registries.
    pub registry: registry::Config,
}

impl Default for Options {
    fn default() -> Self {
        let limits = Limits::default();
        Self {
            read_only: false,
            private: false,
            concurrency: limits.concurrency,
            bandwidth: limits.bandwidth,
            retry_for: net::RETRY_FOR,
            net: net::Common::default(),
            lock_wait: disk::Settings::default().lock_wait,
            verified: true,
            vetted: None,
            beside_doors: false,
            trouble: Trouble::default(),
            s3: s3::Config::default(),
            registry: registry::Config::default(),
        }
    }
}

impl Options {
    fn folder(&self) -> disk::Settings {
        disk::Settings {
            read_only: self.read_only,
            private: self.private,
            lock_wait: self.lock_wait,
        }
    }

    fn policy(&self) -> Policy {
        Policy {
            retry_for: self.retry_for,
            stall: self.net.stall,
            ..Policy::default()
        }
    }
}

/// A backend without wrappers.
struct Backend {
    /// The command line's own repository, with the records of all repositories if there are others.
    cli: Parts,
    /// `None`: there are no others.
    in_repo: Option<InRepo>,
    meet: Meet,
    push_check: Option<Arc<dyn PushCheck>>,
    sweep: Option<Arc<dyn Sweep>>,
    spool_dir: Option<PathBuf>,
    read_only: bool,
    control: Option<registry::ControlWay>,
    scrubber: Option<Scrubber>,
    /// The variable with the proxy through which it is reached.
    proxy: Option<&'static str>,
}

impl Backend {
    /// A single repository, with no ability except removing its tags.
    fn of<S: RepoStore + Untag + 'static>(store: &Arc<S>, meet: Meet) -> Self {
        Self {
            cli: Parts::of(store.clone()),
            in_repo: None,
            meet,
            push_check: None,
            sweep: None,
            spool_dir: None,
            read_only: false,
            control: None,
            scrubber: None,
            proxy: None,
        }
    }

    /// The same with the repositories that `in_repo` opens.
    fn many<S: RepoStore + Untag + 'static>(
        self,
        records: Arc<dyn Records>,
        in_repo: impl Fn(Repo) -> S + Send + Sync + 'static,
    ) -> Self {
        let in_repo = move |repo| Parts::of(Arc::new(in_repo(repo)));
        Self {
            cli: Parts {
                records: Some(records),
                ..in_repo(Repo::cli())
            },
            in_repo: Some(Arc::new(in_repo)),
            ..self
        }
    }

    /// The same with the repositories that a daemon keeps in `flat`. The command line needs none and uses no records, which
    /// would cost additional requests.
    fn many_by_tags(self, flat: impl Flat + 'static, options: &Options) -> Self {
        if !options.beside_doors {
            return self;
        }
        let all = ByTags::new(flat);
        self.many(Arc::new(all.clone()), move |repo| all.in_repo(repo))
    }
}

/// Opens a store. Missing folders are created, unless `read_only`; no request is sent to remotes yet.
///
/// # Errors
/// `Invalid` for invalid options, `NoSuchStore` for a folder that does not exist and may not be created, `Timeout` while
/// another process sweeps, `Unsupported` for features that this build does not include.
pub async fn open(url: &StoreUrl, options: &Options) -> Result<Store> {
    let url = absolute(url)?;
    let backend = match &url {
        StoreUrl::Disk(root) => open_disk(root, options).await?,
        StoreUrl::Layout(root) => open_layout(root, options).await?,
        StoreUrl::Registry(location) => open_registry(location, options).await?,
        StoreUrl::S3(location) => open_s3(location, options).await?,
        StoreUrl::Daemon(location) => open_daemon(location, options).await?,
    };
    Ok(stacked(backend, url, options))
}

/// Checks whether a registry or daemon answers at `url` at all; for other stores, opening or reading them shows it.
///
/// # Errors
/// `NoSuchStore` if something else answers.
pub async fn ping(url: &StoreUrl, options: &Options) -> Result<()> {
    match url {
        StoreUrl::Registry(location) | StoreUrl::Daemon(location) => {
            let net = &options.net;
            let door = registry::Registry::open(location, &options.registry, net).await?;
            door.ping().await
        }
        _ => Ok(()),
    }
}

/// Makes folders and sockets independent of the working directory.
fn absolute(url: &StoreUrl) -> Result<StoreUrl> {
    let whole = |path: &Path| {
        std::path::absolute(path)
            .map_err(|e| Error::io("open", crate::fs::Error::new("find", path, e)))
    };
    Ok(match url {
        StoreUrl::Disk(path) => StoreUrl::Disk(whole(path)?),
        StoreUrl::Layout(path) => StoreUrl::Layout(whole(path)?),
        StoreUrl::Daemon(location) => StoreUrl::Daemon(location.clone().with_socket(whole)?),
        other => other.clone(),
    })
}

async fn open_disk(root: &Path, options: &Options) -> Result<Backend> {
    let mut store = Disk::open(root, Repo::cli(), &options.folder()).await?;
    let mut scrubber = None;
    if let Some(table) = &options.vetted {
        let (vetting, its) = store.vetting(table.clone()).await;
        (store, scrubber) = (vetting, Some(its));
    }
    let store = Arc::new(store);
    let backend = Backend {
        sweep: Some(store.clone()),
        spool_dir: store.spool_dir(),
        read_only: store.is_read_only(),
        scrubber,
        ..Backend::of(&store, Meet::CompareAndSwap)
    };
    Ok(backend.many(store.clone(), move |repo| store.in_repo(repo)))
}

async fn open_layout(root: &Path, options: &Options) -> Result<Backend> {
    let mut store = Layout::open(root, &options.folder()).await?;
    let mut scrubber = None;
    if let Some(table) = &options.vetted {
        let (vetting, its) = store.vetting(table.clone()).await;
        (store, scrubber) = (vetting, Some(its));
    }
    let store = Arc::new(store);
    let backend = Backend {
        sweep: Some(store.clone()),
        spool_dir: store.spool_dir(),
        read_only: store.is_read_only(),
        scrubber,
        ..Backend::of(&store, Meet::CompareAndSwap)
    };
    Ok(backend.many_by_tags(Layout::clone(&store), options))
}

async fn open_s3(location: &s3::Location, options: &Options) -> Result<Backend> {
    let store = s3::S3::open(location, &options.s3, &options.net).await?;
    let store = Arc::new(store);
    let backend = Backend {
        push_check: Some(store.clone()),
        sweep: Some(store.clone()),
        proxy: store.proxy(),
        ..Backend::of(&store, Meet::SideTags)
    };
    Ok(backend.many(store.clone(), move |repo| store.in_repo(repo)))
}

async fn open_registry(location: &registry::Location, options: &Options) -> Result<Backend> {
    let store = registry::Registry::open(location, &options.registry, &options.net).await?;
    Ok(behind_registry(store.clone()).many_by_tags(store, options))
}

/// A daemon is a registry with an additional control API.
async fn open_daemon(location: &registry::Location, options: &Options) -> Result<Backend> {
    let net = &options.net;
    let door = registry::Registry::open(location, &options.registry, net).await?;
    Ok(Backend {
        control: Some(registry::ControlWay::new(&door, location, net).await?),
        ..behind_registry(door)
    })
}

/// The registry collects its own garbage, so the store cannot be swept. Missing support for ranges is detected at the first
/// one; the registry then sends the whole blob.
fn behind_registry(store: registry::Registry) -> Backend {
    let store = Arc::new(store);
    Backend {
        push_check: Some(store.clone()),
        proxy: store.proxy(),
        ..Backend::of(&store, Meet::SideTags)
    }
}

/// Adds the wrappers around a backend.
fn stacked(backend: Backend, url: StoreUrl, options: &Options) -> Store {
    let tier = url.tier();
    let counters = Arc::new(Counters::of(tier));
    let limits = Limits {
        concurrency: options.concurrency,
        // Clients of the doors read at their own pace; the doors limit their number.
        with_streams: !options.beside_doors,
        bandwidth: options.bandwidth,
    };
    let limiter = Limiter::new(limits);
    let retries = (tier == Tier::Remote).then(|| {
        let contact = Contact::noting(options.trouble.clone());
        let contact = contact.through(backend.proxy);
        (options.policy(), contact.reducing(limiter.places()))
    });
    let writable = !options.read_only && !backend.read_only;
    let mut sweep = backend.sweep.filter(|_| writable);
    if let Some((policy, contact)) = &retries {
        sweep = sweep.map(|s| Arc::new(Retrying::sharing(s, *policy, contact.clone())) as _);
    }
    let beside_doors = sweep.clone().filter(|_| options.beside_doors);
    let marked = beside_doors.is_some().then(Arc::<MarkedBlobs>::default);
    let stack = Arc::new(Stack {
        retries,
        verified: options.verified,
        damaged: options
            .beside_doors
            .then(|| DamagedBlobs::replaced_by(sweep.clone())),
        renewing: marked.clone().zip(beside_doors),
        writable,
        guard: Arc::new(Guard {
            name: url.to_string(),
            counters: counters.clone(),
            limiter,
            read_only: options.read_only,
        }),
    });
    if let Some(marked) = &marked {
        sweep = sweep.map(|s| Arc::new(Beside::new(s, marked.clone())) as _);
    }
    let cli = stack.around(backend.cli);
    let repositories = backend.in_repo.zip(cli.records).map(|(in_repo, records)| {
        Arc::new(StackedRepos {
            in_repo,
            records,
            stack,
        }) as Arc<dyn Repositories>
    });
    let facts = Facts {
        push_check: backend.push_check.filter(|_| writable),
        spool_dir: backend.spool_dir,
        metrics: vec![counters],
        is_verified: options.verified,
        repositories,
        marked,
        control: backend.control,
        scrubber: backend.scrubber,
        ..Facts::of(url, backend.meet)
    };
    let untag = Some(cli.untag).filter(|_| writable);
    Store::new(cli.store, untag, sweep, facts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        artifact::{Descriptor, Manifest},
        store::{Body, ErrorKind, Expect, testing::conformance},
    };

    fn url(s: &str) -> StoreUrl {
        s.parse().unwrap()
    }

    #[tokio::test]
    async fn opened_folders_are_stores() {
        for scheme in ["disk", "oci-layout"] {
            Box::pin(conformance::run_all(async || {
                let dir = tempfile::tempdir().unwrap();
                let url = url(&format!("{scheme}:{}", dir.path().display()));
                let opened = open(&url, &Options::default()).await.unwrap();
                assert_eq!(*opened.url(), url);
                conformance::Subject {
                    store: opened.contents().clone(),
                    meet: opened.facts().meet,
                    untag: opened.untag().cloned(),
                    sweep: opened.sweep().cloned(),
                    spool_dir: opened.facts().spool_dir.clone(),
                    keep: Box::new(dir),
                }
            }))
            .await;
        }
    }

    #[tokio::test]
    async fn opened_folders_hold_many_repositories() {
        for (scheme, beside_doors) in [("disk", true), ("disk", false), ("oci-layout", true)] {
            let dir = tempfile::tempdir().unwrap();
            let url = url(&format!("{scheme}:{}", dir.path().display()));
            let options = Options {
                beside_doors,
                ..Options::default()
            };
            let opened = open(&url, &options).await.unwrap();
            let all = opened.facts().repositories.as_ref().unwrap();
            conformance::repositories::run(&**all).await;
        }
    }

    #[tokio::test]
    async fn read_only_store_has_no_abilities_and_refuses_writes() {
        let dir = tempfile::tempdir().unwrap();
        let url = url(&format!("disk:{}", dir.path().display()));
        let bytes = bytes::Bytes::from_static(b"bytes");
        let desc = Descriptor::of("x/y", &bytes);
        let body = Body::Bytes(bytes);
        let opened = open(&url, &Options::default()).await.unwrap();
        opened.put(&desc, &body).await.unwrap();
        let options = Options {
            read_only: true,
            ..Options::default()
        };
        let opened = open(&url, &options).await.unwrap();
        assert!(opened.untag().is_none() && opened.sweep().is_none());
        assert!(opened.facts().spool_dir.is_none());
        let other = opened.repository(&"team/app".parse().unwrap()).unwrap();
        assert_eq!(other.tags().await.unwrap(), []);
        let refused = other.delete_tag(&"t".parse().unwrap()).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::Denied);
        assert_eq!(opened.stat(&desc.digest).await.unwrap(), Some(5));
        let m = Manifest::sniff("{}");
        let published = opened.publish(&m, None, &Expect::Anything).await;
        let e = published.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Denied);
        assert!(
            e.to_string().contains("--read-only") && e.to_string().contains("disk:/"),
            "{e}"
        );
        assert_eq!(opened.facts().metrics[0].snapshot().publish.errors, 1);
    }

    #[tokio::test]
    async fn folder_and_socket_have_one_name() {
        let opened = absolute(&url("disk:x/y")).unwrap();
        assert_eq!(
            opened,
            StoreUrl::Disk(std::env::current_dir().unwrap().join("x/y"))
        );
        let opened = absolute(&url("cachectld:x.sock")).unwrap();
        let path = std::env::current_dir().unwrap().join("x.sock");
        assert_eq!(opened.to_string(), format!("cachectld:{}", path.display()));
    }

    #[tokio::test]
    async fn daemon_is_a_registry_with_a_control_api_and_is_asked_nothing_yet() {
        let opened = open(&url("cachectld:/nowhere.sock"), &Options::default())
            .await
            .unwrap();
        assert_eq!(opened.facts().meet, Meet::SideTags);
        assert!(opened.facts().control.is_some() && opened.sweep().is_none());
        let e = opened.tags("").await.unwrap_err();
        assert!(e.to_string().contains("cachectld:/nowhere.sock"), "{e}");
    }
}
