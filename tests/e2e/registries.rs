//! Daemons over a registry of somebody else, and over an image layout: what one of them took another one gives, whatever died meanwhile.
use std::path::Path;

use crate::support::cachectld::{Access, Cachectld};
use crate::support::cli::cachectl;
use crate::support::clients::Client;
use crate::support::door::{Door, manifest, ours};
use crate::support::e2e;
use crate::support::image::Image;
use crate::support::link::Link;
use crate::support::node::Node;
use crate::support::servers::{DebianRegistry, Login, Registry, http};
use crate::support::stores::{Backend, TestStore};

const BACKENDS: [Backend; 3] = [
    Backend::DebianRegistry,
    Backend::DistributionV3,
    Backend::OciLayout,
];

fn oci(folder: &Path) -> String {
    format!("oci:{}:{}", folder.display(), Image::TAG)
}

fn push(skopeo: &Client, image: &Image, port: u16, name: &str) {
    let to = format!("docker://127.0.0.1:{port}/{name}");
    skopeo.run([
        "copy",
        "--dest-tls-verify=false",
        &oci(&image.layout()),
        &to,
    ]);
}

fn pull(skopeo: &Client, image: &Image, port: u16, name: &str) {
    let back = skopeo.path(&format!("back-{port}-{:x}", fastrand::u64(..)));
    let from = format!("docker://127.0.0.1:{port}/{name}");
    skopeo.run(["copy", "--src-tls-verify=false", &from, &oci(&back)]);
    image.assert_is_in(&back);
}

fn another(store: &TestStore) -> Cachectld {
    Cachectld::over(store.url()).envs(store.env()).start()
}

#[test]
fn what_one_daemon_took_another_one_gives_and_a_kill_loses_nothing() {
    if !e2e() || !ours() {
        return;
    }
    let long = format!("team/{}:v1", ["long.name__x"; 12].join("/"));
    for backend in BACKENDS {
        let mut door = Door::over(TestStore::new(backend), Access::Anonymous);
        let skopeo = Client::new("skopeo");
        let (first, second) = (Image::new(), Image::new());
        push(&skopeo, &first, door.port, "team/app:v1");
        push(&skopeo, &second, door.port, &long);
        door.kill();
        if backend == Backend::DebianRegistry || backend == Backend::DistributionV3 {
            // The registry too.
            door.store.server().kill();
            door.store.server().restart();
        }
        // One that has nothing of its own.
        let other = another(&door.store);
        pull(&skopeo, &first, other.port, "team/app:v1");
        pull(&skopeo, &second, other.port, &long);
        drop(other);
        door.restart();
        pull(&skopeo, &first, door.port, "team/app:v1");
        push(&skopeo, &second, door.port, "team/app:v1");
        pull(&skopeo, &second, door.port, "team/app:v1");
    }
}

#[test]
fn an_image_is_an_image_to_whoever_looks_into_the_registry() {
    if !e2e() || !ours() {
        return;
    }
    let mut store = TestStore::of(DebianRegistry::start(Login::Open));
    let port = store.server().port;
    let door = Door::over(store, Access::Anonymous);
    let (skopeo, image) = (Client::new("skopeo"), Image::new());
    push(&skopeo, &image, door.port, "team/app:v1");
    pull(&skopeo, &image, port, "team/caches:_c.t.team_2fapp.v1");
}

#[test]
fn the_command_line_finds_in_the_registry_what_it_gave_the_daemon_and_the_daemon_what_it_put_there()
{
    if !e2e() || !ours() {
        return;
    }
    for backend in BACKENDS {
        let door = Door::over(TestStore::new(backend), Access::Anonymous);
        let (through, straight) = (
            format!("cachectld+http://{}", door.host()),
            door.store.url(),
        );
        for (name, give, take) in [("a", &*through, straight), ("b", straight, &*through)] {
            let (here, there) = (Node::new(), Node::new());
            std::fs::create_dir_all(here.path("home/tree")).expect("a new folder");
            std::fs::write(here.path("home/tree/file"), name).expect("a new file");
            let run = |node: &Node, args: &[&str], store: &str| {
                let mut command = cachectl(node);
                for (key, value) in door.store.env() {
                    command = command.env(key, value);
                }
                command.args(args).args(["--store", store]).run().success();
            };
            run(
                &here,
                &["export", "dir", "tree", "--name", name, "--strict"],
                give,
            );
            run(
                &there,
                &["import", "dir", "tree", "--name", name, "--require-hit"],
                take,
            );
            let came = std::fs::read(there.path("home/tree/file")).expect("it was restored");
            assert_eq!(came, name.as_bytes(), "{backend:?}");
        }
    }
}

#[test]
fn tags_that_were_deleted_are_gone_everywhere() {
    if !e2e() || !ours() {
        return;
    }
    for backend in BACKENDS {
        let door = Door::over(TestStore::new(backend), Access::Anonymous);
        let (skopeo, image) = (Client::new("skopeo"), Image::new());
        for tag in ["v1", "v2"] {
            push(&skopeo, &image, door.port, &format!("team/app:{tag}"));
        }
        let deleted = http("DELETE", door.port, "/v2/team/app/manifests/v1", b"");
        assert_eq!(deleted.map(|a| a.0), Some(202), "{backend:?}");
        let other = another(&door.store);
        for port in [door.port, other.port] {
            assert_eq!(manifest(port, "team/app", "v1"), None, "{backend:?}");
            let (_, tags) = http("GET", port, "/v2/team/app/tags/list", b"").expect("an answer");
            assert!(tags.contains(r#"["v2"]"#), "{backend:?}: {tags}");
            pull(&skopeo, &image, port, "team/app:v2");
        }
    }
}

#[test]
fn a_folder_in_front_answers_while_the_registry_is_away_and_sends_what_it_took_later() {
    if !e2e() || !ours() {
        return;
    }
    for mode in ["write-through", "write-back"] {
        let mut store = TestStore::of(DebianRegistry::start(Login::Open));
        let registry = store.server().port;
        let link = Link::to(registry);
        let url = Registry::url(link.port, "team/caches");
        let mut daemon = Cachectld::over(&url).front(mode).start();
        let skopeo = Client::new("skopeo");
        let (first, second) = (Image::new(), Image::new());
        push(&skopeo, &first, daemon.port, "team/app:v1");
        link.cut();
        pull(&skopeo, &first, daemon.port, "team/app:v1");
        // It starts, and is ready, without the registry too.
        daemon.restart();
        pull(&skopeo, &first, daemon.port, "team/app:v1");
        if mode == "write-back" {
            push(&skopeo, &second, daemon.port, "team/app:v2");
        }
        link.mend();
        if mode == "write-back" {
            let flushed = cachectl(&Node::new())
                .args(["flush", "--wait"])
                .env("CACHECTL_DAEMON", daemon.socket())
                .run();
            flushed.success();
        }
        let other = Cachectld::over(&Registry::url(registry, "team/caches")).start();
        pull(&skopeo, &first, other.port, "team/app:v1");
        if mode == "write-back" {
            pull(&skopeo, &second, other.port, "team/app:v2");
        }
    }
}
