//! The registry store against real registries: Debian's 2.8 always, distribution v3 under `make e2e`.
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cachectl::artifact::{Descriptor, Manifest, Reference, Tag, media};
use cachectl::redact::Secret;
use cachectl::store::by_tags::ByTags;
use cachectl::store::keys::Repo;
use cachectl::store::open::{self, Options};
use cachectl::store::registry::{Config, CredentialSources, Location, Registry as Store};
use cachectl::store::testing::conformance::{self, Subject};
use cachectl::store::wrap::{Retrying, retrying::Policy};
use cachectl::store::{
    BlobStore as _, Body, ErrorKind, Expect, Meet, Put, RepoStore as AnyStore, TagStore as _,
    Untag, net,
};

use crate::support::servers::{DebianRegistry, DistributionV3, Login, Registry};

async fn open_at(server: &Registry, repository: &str, config: Config) -> Store {
    let location = Location::parse(&Registry::url(server.port, repository)).unwrap();
    Store::open(&location, &config, &net::Common::default())
        .await
        .unwrap()
}

fn logged_in(server: &Registry) -> Config {
    Config {
        credentials: CredentialSources {
            files: vec![server.docker_config(&[server.port]).join("config.json")],
            ..CredentialSources::default()
        },
        ..Config::default()
    }
}

/// As it is used: Debian's registry answers 500 while it drops what another request has given up.
fn tried_again(store: Arc<dyn AnyStore>) -> Arc<dyn AnyStore> {
    Arc::new(Retrying::<dyn AnyStore>::new(store, Policy::default()))
}

async fn conforms(server: &Registry, config: Config) {
    let store = open_at(server, "team/conformance", config).await;
    conformance::run_all(async || Subject {
        store: tried_again(Arc::new(store.clone())),
        meet: Meet::SideTags,
        untag: Some(Arc::new(store.clone()) as Arc<dyn Untag>),
        sweep: None,
        spool_dir: None,
        keep: Box::new(()),
    })
    .await;
}

/// A daemon's view of the same registry: many repositories in one.
async fn holds_many_repositories(server: &Registry, config: Config) {
    let store = open_at(server, "team/many", config.clone()).await;
    let all = ByTags::new(store.clone());
    for repo in ["cachectl", "team/app"] {
        let one = Arc::new(all.in_repo(repo.parse().unwrap()));
        conformance::run_all(async || Subject {
            store: tried_again(one.clone()),
            meet: Meet::SideTags,
            untag: Some(one.clone() as Arc<dyn Untag>),
            sweep: None,
            spool_dir: None,
            keep: Box::new(()),
        })
        .await;
    }
    let url = Registry::url(server.port, "team/many");
    let options = Options {
        beside_doors: true,
        registry: config,
        ..Options::default()
    };
    let opened = open::open(&url.parse().unwrap(), &options).await.unwrap();
    let all = opened.facts().repositories.as_ref().unwrap();
    conformance::repositories::run(&**all).await;
    // Who uses the registry without a daemon sees its own names only, and those.
    all.repository(&Repo::cli())
        .put_manifest(&empty_index(), &[tag("gobuild.x")])
        .await
        .unwrap();
    let tags = store.tags("").await.unwrap();
    assert!(tags.contains(&tag("gobuild.x")), "{tags:?}");
    assert!(
        tags.iter().all(|t| !t.as_str().starts_with("_c.")),
        "{tags:?}"
    );
    assert!(!store.tags("_c.").await.unwrap().is_empty());
}

fn bytes(len: usize) -> (Descriptor, Body, Bytes) {
    let mut bytes = vec![0; len];
    fastrand::fill(&mut bytes);
    let bytes = Bytes::from(bytes);
    let desc = Descriptor::of("application/octet-stream", &bytes);
    (desc, Body::from(bytes.clone()), bytes)
}

fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

async fn resolve(store: &Store, name: &str) -> Option<Manifest> {
    let found = store.resolve(&Reference::from(tag(name))).await.unwrap();
    found.map(|r| r.manifest)
}

fn empty_index() -> Manifest {
    Manifest::new(
        media::IMAGE_INDEX,
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[]}}"#,
            media::IMAGE_INDEX
        ),
    )
}

/// Two tags of one manifest: one of them goes, the other stays.
async fn untag_spares_the_neighbour(store: &Store) {
    let manifest = empty_index();
    for name in ["gone", "stays"] {
        let name = tag(name);
        let published = store.publish(&manifest, Some(&name), &Expect::Anything);
        published.await.unwrap();
    }
    assert!(store.untag(&tag("gone")).await.unwrap());
    assert!(!store.untag(&tag("gone")).await.unwrap());
    assert_eq!(resolve(store, "gone").await, None);
    assert_eq!(resolve(store, "stays").await, Some(manifest));
}

async fn mounts_from_another_repository(server: &Registry, config: Config) {
    let there = open_at(server, "team/there", config.clone()).await;
    let here = Config {
        mount_from: vec!["team/nothing".to_owned(), "team/there".to_owned()],
        ..config
    };
    let here = open_at(server, "team/here", here).await;
    let (desc, body, _) = bytes(300_000);
    assert_eq!(there.put(&desc, &body).await.unwrap(), Put::Stored);
    assert_eq!(here.stat(&desc.digest).await.unwrap(), None);
    assert_eq!(here.put(&desc, &body).await.unwrap(), Put::Existed);
    assert_eq!(here.stat(&desc.digest).await.unwrap(), Some(300_000));
}

#[tokio::test]
async fn debian_registry_is_a_store() {
    let server = DebianRegistry::start(Login::Open);
    conforms(&server, Config::default()).await;
    holds_many_repositories(&server, Config::default()).await;
    untag_spares_the_neighbour(&open_at(&server, "team/untag", Config::default()).await).await;
    mounts_from_another_repository(&server, Config::default()).await;
}

#[tokio::test]
async fn debian_registry_with_passwords_is_a_store() {
    let server = DebianRegistry::start(Login::Htpasswd);
    conforms(&server, logged_in(&server)).await;
    mounts_from_another_repository(&server, logged_in(&server)).await;
    let wrong = Config {
        username: Some(Registry::USER.to_owned()),
        password: Some(Secret::new("wrong")),
        ..Config::default()
    };
    for config in [Config::default(), wrong] {
        let store = open_at(&server, "team/conformance", config).await;
        let (desc, body, _) = bytes(10);
        let e = store.stat(&desc.digest).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
        let e = store.put(&desc, &body).await.unwrap_err();
        assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    }
}

#[tokio::test]
async fn distribution_v3_is_a_store() {
    if !crate::support::e2e() {
        return;
    }
    for login in [Login::Open, Login::Htpasswd] {
        let server = DistributionV3::start(login);
        conforms(&server, logged_in(&server)).await;
        holds_many_repositories(&server, logged_in(&server)).await;
        untag_spares_the_neighbour(&open_at(&server, "team/untag", logged_in(&server)).await).await;
        mounts_from_another_repository(&server, logged_in(&server)).await;
    }
}

#[tokio::test]
async fn names_of_an_absent_repository_are_none() {
    let server = DebianRegistry::start(Login::Open);
    let store = open_at(&server, "never/written", Config::default()).await;
    assert!(store.tags("").await.unwrap().is_empty());
    assert_eq!(resolve(&store, "x").await, None);
    let near = store.clock().await.unwrap().secs - cachectl::entry::Time::now().secs;
    assert!(near.abs() < 5, "off by {near} s");
}

#[tokio::test]
async fn upload_through_a_link_that_is_cut_twice_succeeds() {
    let server = DebianRegistry::start(Login::Htpasswd);
    let proxy = cutting_proxy(server.port, 2, 3_000_000).await;
    let config = Config {
        credentials: CredentialSources {
            files: vec![
                server
                    .docker_config(&[server.port, proxy])
                    .join("config.json"),
            ],
            ..CredentialSources::default()
        },
        ..Config::default()
    };
    let location = Location::parse(&Registry::url(proxy, "team/cut")).unwrap();
    let store = Store::open(&location, &config, &net::Common::default())
        .await
        .unwrap();
    let (desc, body, _) = bytes(20_000_000);
    assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
    let direct = open_at(&server, "team/cut", config).await;
    assert_eq!(direct.stat(&desc.digest).await.unwrap(), Some(20_000_000));
}

/// Debian's registry cannot go on with a request that broke, so the blob must go in pieces, each by a connection of its own.
#[tokio::test]
async fn upload_through_a_link_that_cuts_every_connection_succeeds() {
    let server = DebianRegistry::start(Login::Open);
    let proxy = cutting_proxy(server.port, usize::MAX, 20_000_000).await;
    let location = Location::parse(&Registry::url(proxy, "team/cut")).unwrap();
    let store = Store::open(&location, &Config::default(), &net::Common::default())
        .await
        .unwrap();
    let direct = open_at(&server, "team/cut", Config::default()).await;
    for len in [60_000_000, 50_000_000] {
        let (desc, body, _) = bytes(len);
        assert_eq!(store.put(&desc, &body).await.unwrap(), Put::Stored);
        assert_eq!(direct.stat(&desc.digest).await.unwrap(), Some(len as u64));
    }
}

/// A port that leads to `to`; the first `cuts` connections end after so many bytes from the client.
async fn cutting_proxy(to: u16, cuts: usize, after: u64) -> u16 {
    use tokio::io::AsyncReadExt as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accept = async move {
        let mut links = Vec::new();
        loop {
            let (client, _) = listener.accept().await.unwrap();
            let limit = if links.len() < cuts { after } else { u64::MAX };
            links.push(cachectl::task::spawn("link", async move {
                let server = tokio::net::TcpStream::connect(("127.0.0.1", to))
                    .await
                    .unwrap();
                let (from_client, mut to_client) = client.into_split();
                let (mut from_server, mut to_server) = server.into_split();
                let mut limited = from_client.take(limit);
                let up = async {
                    let _ = tokio::io::copy(&mut limited, &mut to_server).await;
                    // What is on its way arrives before the end does.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                };
                let down = tokio::io::copy(&mut from_server, &mut to_client);
                tokio::select! {
                    () = up => {}
                    _ = down => {}
                }
            }));
        }
    };
    let running: cachectl::task::Task<()> = cachectl::task::spawn("proxy", accept);
    // It lives as long as the test's runtime.
    std::mem::forget(running);
    port
}
