//! The registry under test: an OCI registry on a loopback port, with a back door to its blobs.
//!
//! `CACHECTL_REGISTRY=distribution-v3` runs the same tests against CNCF distribution: when both fail, do not look at the
//! product first. What only cachectl promises starts with `if !ours() { return; }`.
use std::path::PathBuf;

use sha2::{Digest as _, Sha256};

use super::cachectld::{Access, Cachectld, Start};
use super::link::Link;
use super::process::http;
use super::scratch::Scratch;
use super::servers::{DistributionV3, Login, docker_config};
use super::stores::{Backend, TestStore};
use super::tools;

/// A program that serves `/v2/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Product {
    Cachectld,
    DistributionV3,
}

impl Product {
    /// The one that this run is about.
    pub(crate) fn under_test() -> Self {
        match tools::setting("CACHECTL_REGISTRY") {
            None => Self::Cachectld,
            Some(name) if name == "cachectld" => Self::Cachectld,
            Some(name) if name == "distribution-v3" => Self::DistributionV3,
            Some(name) => panic!("CACHECTL_REGISTRY={} is unknown", name.display()),
        }
    }

    /// The ways to log in that it knows.
    pub(crate) fn accesses(self) -> &'static [Access] {
        match self {
            Self::Cachectld => &Access::ALL,
            Self::DistributionV3 => &[Access::Anonymous, Access::Basic],
        }
    }
}

/// Whether cachectld is what is tested; says so if not.
pub(crate) fn ours() -> bool {
    let ours = Product::under_test() == Product::Cachectld;
    if !ours {
        tools::say("skipped: only cachectl promises this");
    }
    ours
}

/// A registry that has started.
#[derive(Debug)]
pub(crate) struct Door {
    pub(crate) port: u16,
    pub(crate) access: Access,
    /// Behind the daemon; of another product the registry itself.
    pub(crate) store: TestStore,
    /// `None`: the product is not ours.
    pub(crate) daemon: Option<Cachectld>,
    docker: Scratch,
}

impl Door {
    /// On a folder of this machine, open to everybody.
    pub(crate) fn start() -> Self {
        Self::with(Access::Anonymous)
    }

    /// On a folder of this machine.
    pub(crate) fn with(access: Access) -> Self {
        match Product::under_test() {
            Product::Cachectld => Self::over(TestStore::new(Backend::Disk), access),
            Product::DistributionV3 => {
                let login = match access {
                    Access::Anonymous => Login::Open,
                    Access::Basic => Login::Htpasswd,
                    Access::Token | Access::Tenant => {
                        panic!("distribution sells no tokens itself and knows no grants")
                    }
                };
                let registry = DistributionV3::start(login);
                let port = registry.port;
                Self::new(port, access, TestStore::of(registry), None)
            }
        }
    }

    /// A daemon of ours over `store`.
    pub(crate) fn over(store: TestStore, access: Access) -> Self {
        let daemon = Cachectld::over(store.url());
        let daemon = daemon.envs(store.env()).access(access).start();
        Self::new(daemon.port, access, store, Some(daemon))
    }

    /// A daemon of ours over a bucket, by a link that the test has in its hands.
    pub(crate) fn by_link(store: TestStore, link: &Link) -> Self {
        Self::far(Cachectld::over(&store.url_through(link.port)), store)
    }

    /// The same with a folder in front; `mode` is `write-through` or `write-back`.
    pub(crate) fn with_front(store: TestStore, link: &Link, mode: &str) -> Self {
        let start = Cachectld::over(&store.url_through(link.port));
        Self::far(start.front(mode), store)
    }

    fn far(start: Start, store: TestStore) -> Self {
        let daemon = start.envs(store.env()).start();
        Self::new(daemon.port, Access::Anonymous, store, Some(daemon))
    }

    fn new(port: u16, access: Access, store: TestStore, daemon: Option<Cachectld>) -> Self {
        let docker = Scratch::new("docker");
        let ports: &[u16] = match access {
            Access::Anonymous => &[],
            Access::Basic | Access::Token | Access::Tenant => &[port],
        };
        docker_config(docker.path(), ports);
        Self {
            port,
            access,
            store,
            daemon,
            docker,
        }
    }

    /// `127.0.0.1:<port>`, as references begin.
    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// A folder for `DOCKER_CONFIG` with the password, if one is needed.
    pub(crate) fn docker_config(&self) -> PathBuf {
        self.docker.path().to_owned()
    }

    /// Starts our daemon again so that it accepts images whose parts were never pushed.
    pub(crate) fn accept_incomplete_images(&mut self) {
        if let Some(daemon) = &mut self.daemon {
            daemon.accept_incomplete_images();
        }
    }

    /// SIGKILL: a node that is taken away.
    pub(crate) fn kill(&mut self) {
        match &mut self.daemon {
            Some(daemon) => daemon.kill(),
            None => self.store.server().kill(),
        }
    }

    /// Starts it again; kills it first if it runs.
    pub(crate) fn restart(&mut self) {
        match &mut self.daemon {
            Some(daemon) => daemon.restart(),
            None => self.store.server().restart(),
        }
    }
}

/// What a tag stands for: digest and text of the manifest. Of a registry that is open to everybody.
pub(crate) fn manifest(port: u16, repository: &str, tag: &str) -> Option<(String, String)> {
    let path = format!("/v2/{repository}/manifests/{tag}");
    match http("GET", port, &path, b"")? {
        (200, text) => {
            let digest = const_hex::encode(Sha256::digest(&text));
            Some((format!("sha256:{digest}"), text))
        }
        (404, _) => None,
        other => panic!("{path}: {other:?}"),
    }
}

/// The status with which a blob is answered that is read to its end.
pub(crate) fn blob(port: u16, repository: &str, hex: &str) -> Option<u16> {
    let path = format!("/v2/{repository}/blobs/sha256:{hex}");
    http("GET", port, &path, b"").map(|(status, _)| status)
}
