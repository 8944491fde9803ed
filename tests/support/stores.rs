//! The stores that tests run against, each empty, with a back door to damage what lies in it.
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls;
use serde_json::Value;

use super::scratch::Scratch;
use super::servers::{DebianRegistry, DistributionV3, Login, Minio, Registry, S3Server, Weed};

/// The kinds of store that the project promises to work with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Disk,
    OciLayout,
    Seaweed,
    Minio,
    DebianRegistry,
    DistributionV3,
}

impl Backend {
    /// All six; two of them need `make deps-e2e`.
    pub(crate) const ALL: [Self; 6] = [
        Self::Disk,
        Self::OciLayout,
        Self::Seaweed,
        Self::Minio,
        Self::DebianRegistry,
        Self::DistributionV3,
    ];
}

/// One empty store.
#[derive(Debug)]
pub(crate) struct TestStore {
    pub(crate) backend: Backend,
    url: String,
    env: Vec<(String, String)>,
    place: Place,
}

/// Where its blobs can be reached behind its back.
#[derive(Debug)]
enum Place {
    /// `blobs/sha256/<hex>` below a folder.
    Folder(Scratch),
    /// The same below a prefix of a bucket.
    Bucket {
        server: &'static S3Server,
        prefix: String,
    },
    /// A registry of our own.
    Registry(Box<Registry>),
}

impl TestStore {
    pub(crate) fn new(backend: Backend) -> Self {
        let (url, env, place) = match backend {
            Backend::Disk | Backend::OciLayout => {
                let scratch = Scratch::new("store");
                let scheme = if backend == Backend::Disk {
                    "disk"
                } else {
                    "oci-layout"
                };
                // A path that does not exist yet: the first export makes it.
                let url = format!("{scheme}:{}", scratch.path().join("store").display());
                (url, Vec::new(), Place::Folder(scratch))
            }
            Backend::Seaweed => bucket(Weed::shared()),
            Backend::Minio => bucket(Minio::shared()),
            Backend::DebianRegistry => registry(DebianRegistry::start(Login::Htpasswd)),
            Backend::DistributionV3 => registry(DistributionV3::start(Login::Open)),
        };
        Self {
            backend,
            url,
            env,
            place,
        }
    }

    /// A registry with its back door.
    pub(crate) fn of(server: Registry) -> Self {
        let (url, env, place) = registry(server);
        Self {
            backend: Backend::DistributionV3,
            url,
            env,
            place,
        }
    }

    /// The URL of the same bucket or registry through another port: a proxy's that leads to the server.
    pub(crate) fn url_through(&self, port: u16) -> String {
        match &self.place {
            Place::Bucket { prefix, .. } => S3Server::url(port, prefix),
            Place::Registry(registry) => {
                let (own, other) = (format!(":{}/", registry.port), format!(":{port}/"));
                self.url.replacen(&own, &other, 1)
            }
            Place::Folder(_) => unreachable!("a folder is not far away"),
        }
    }

    /// The server of a registry.
    pub(crate) fn server(&mut self) -> &mut Registry {
        match &mut self.place {
            Place::Registry(registry) => registry,
            _ => unreachable!("only a registry is one"),
        }
    }

    /// The port that the server listens on.
    pub(crate) fn port(&self) -> u16 {
        match &self.place {
            Place::Bucket { server, .. } => server.port,
            Place::Registry(registry) => registry.port,
            Place::Folder(_) => unreachable!("a folder has no server"),
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The credentials that go with the URL.
    pub(crate) fn env(&self) -> &[(String, String)] {
        &self.env
    }

    /// Every blob: lower-case hex of its digest, and its size as stored.
    pub(crate) fn blobs(&self) -> Vec<(String, u64)> {
        let mut found: Vec<_> = match &self.place {
            Place::Folder(scratch) => files(&scratch.path().join("store/blobs/sha256")),
            Place::Registry(registry) => walk_registry(registry),
            Place::Bucket { server, prefix } => {
                let start = format!("{prefix}/blobs/sha256/");
                let mut keys = list(server, &start);
                for (key, _) in &mut keys {
                    *key = key.split_off(start.len());
                }
                keys
            }
        };
        found.retain(|(name, _)| name.len() == 64);
        found.sort();
        found
    }

    /// The bytes of a blob, unchecked.
    pub(crate) fn read(&self, hex: &str) -> Vec<u8> {
        match &self.place {
            Place::Bucket { server, prefix } => wait(async {
                let object = client(server)
                    .get_object()
                    .bucket(S3Server::BUCKET)
                    .key(key(prefix, hex));
                let body = object.send().await.expect("the blob is there").body;
                body.collect()
                    .await
                    .expect("a server on this machine")
                    .to_vec()
            }),
            _ => fs::read(self.file(hex)).expect("the blob is there"),
        }
    }

    /// Puts other bytes where a blob was.
    pub(crate) fn overwrite(&self, hex: &str, bytes: &[u8]) {
        match &self.place {
            Place::Bucket { server, prefix } => wait(async {
                let object = client(server)
                    .put_object()
                    .bucket(S3Server::BUCKET)
                    .key(key(prefix, hex));
                object
                    .body(ByteStream::from(bytes.to_vec()))
                    .send()
                    .await
                    .expect("our own bucket");
            }),
            _ => fs::write(self.file(hex), bytes).expect("our own folder"),
        }
    }

    /// Takes a blob away.
    pub(crate) fn delete(&self, hex: &str) {
        match &self.place {
            Place::Bucket { server, prefix } => wait(async {
                let object = client(server)
                    .delete_object()
                    .bucket(S3Server::BUCKET)
                    .key(key(prefix, hex));
                object.send().await.expect("our own bucket");
            }),
            _ => fs::remove_file(self.file(hex)).expect("the blob is there"),
        }
    }

    /// The packs that the manifest under `digest` names, in its order.
    pub(crate) fn packs_of(&self, digest: &str) -> Vec<String> {
        let hex = digest.strip_prefix("sha256:").unwrap_or(digest);
        layers(&self.read(hex)).unwrap_or_else(|| panic!("{digest} is not a manifest"))
    }

    /// The packs of every manifest in the store that are still there.
    pub(crate) fn packs(&self) -> Vec<String> {
        let blobs = self.blobs();
        let named: std::collections::BTreeSet<_> = blobs
            .iter()
            .filter(|(_, size)| *size < 1024 * 1024)
            .filter_map(|(hex, _)| layers(&self.read(hex)))
            .flatten()
            .collect();
        blobs
            .into_iter()
            .map(|(hex, _)| hex)
            .filter(|hex| named.contains(hex))
            .collect()
    }

    fn file(&self, hex: &str) -> PathBuf {
        match &self.place {
            Place::Folder(scratch) => scratch.path().join("store/blobs/sha256").join(hex),
            Place::Registry(registry) => registry
                .data()
                .join(format!("blobs/sha256/{}/{hex}/data", &hex[..2])),
            Place::Bucket { .. } => unreachable!("a bucket has no files"),
        }
    }
}

fn unique(purpose: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{purpose}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

fn bucket(server: &'static S3Server) -> (String, Vec<(String, String)>, Place) {
    let prefix = unique("prefix");
    (
        S3Server::url(server.port, &prefix),
        S3Server::env(),
        Place::Bucket { server, prefix },
    )
}

fn registry(registry: Registry) -> (String, Vec<(String, String)>, Place) {
    let config = registry.docker_config(&[registry.port]);
    let env = vec![("DOCKER_CONFIG".to_owned(), config.display().to_string())];
    (
        Registry::url(registry.port, "team/caches"),
        env,
        Place::Registry(Box::new(registry)),
    )
}

fn key(prefix: &str, hex: &str) -> String {
    format!("{prefix}/blobs/sha256/{hex}")
}

/// The layers of an image manifest; `None` if the bytes are something else.
fn layers(bytes: &[u8]) -> Option<Vec<String>> {
    let manifest: Value = serde_json::from_slice(bytes).ok()?;
    let layers = manifest.get("layers")?.as_array()?;
    Some(
        layers
            .iter()
            .filter_map(|layer| {
                layer["digest"]
                    .as_str()?
                    .strip_prefix("sha256:")
                    .map(str::to_owned)
            })
            .collect(),
    )
}

fn files(folder: &std::path::Path) -> Vec<(String, u64)> {
    fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| {
            let size = entry.metadata().map_or(0, |meta| meta.len());
            (entry.file_name().to_string_lossy().into_owned(), size)
        })
        .collect()
}

fn walk_registry(registry: &Registry) -> Vec<(String, u64)> {
    let root = registry.data().join("blobs/sha256");
    files(&root)
        .into_iter()
        .flat_map(|(shard, _)| files(&root.join(shard)))
        .filter_map(|(hex, _)| {
            let data = root.join(format!("{}/{hex}/data", &hex[..2]));
            Some((hex, fs::metadata(data).ok()?.len()))
        })
        .collect()
}

fn list(server: &S3Server, prefix: &str) -> Vec<(String, u64)> {
    wait(async {
        let mut pages = client(server)
            .list_objects_v2()
            .bucket(S3Server::BUCKET)
            .prefix(prefix)
            .into_paginator()
            .send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            for object in page.expect("our own bucket").contents() {
                let size =
                    u64::try_from(object.size().unwrap_or(0)).expect("sizes are not negative");
                found.push((object.key().expect("objects have keys").to_owned(), size));
            }
        }
        found
    })
}

/// A client of the SDK's own, to look at a bucket behind a store's back.
pub(crate) fn client(server: &S3Server) -> aws_sdk_s3::Client {
    let http = aws_smithy_http_client::Builder::new()
        .tls_provider(tls::Provider::Rustls(
            tls::rustls_provider::CryptoMode::Ring,
        ))
        .build_https();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .endpoint_url(format!("http://127.0.0.1:{}", server.port))
        .force_path_style(true)
        .credentials_provider(Credentials::new(
            S3Server::ACCESS_KEY,
            S3Server::SECRET_KEY,
            None,
            None,
            "tests",
        ))
        .http_client(http)
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// Tests are plain functions; the S3 client is not.
fn wait<T>(future: impl Future<Output = T>) -> T {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a machine that runs tests has threads")
        })
        .block_on(future)
}
