//! The harness itself: servers answer, stores can be damaged, builds are counted right.
//!
//! When one of these fails, do not look at the product first.
use crate::support::e2e;
use crate::support::goproject::GoProject;
use crate::support::link::Link;
use crate::support::node::Node;
use crate::support::servers::{
    DebianRegistry, DistributionV3, Login, Minio, Registry, Toxic, Toxiproxy, Weed, http,
};
use crate::support::stores::{Backend, TestStore};
use std::time::{Duration, Instant};

#[test]
fn a_second_build_of_a_small_project_compiles_nothing() {
    let (node, project) = (Node::new(), GoProject::small());
    project.download(&node);
    assert_eq!(project.build(&node).compiled, project.packages(&node));
    assert_eq!(project.build(&node).compiled, 0);
    project.verify_modules_offline(&node);
    project.edit("main.go", 1);
    assert_eq!(project.build(&node).compiled, 1);
}

#[test]
fn a_cold_build_of_the_large_project_compiles_every_package() {
    if !e2e() {
        return;
    }
    let (node, project) = (Node::new(), GoProject::oras());
    project.download(&node);
    assert!(project.packages(&node) > 300);
    assert_eq!(project.build(&node).compiled, project.packages(&node));
    assert_eq!(project.build(&node).compiled, 0);
    project.verify_modules_offline(&node);
}

#[test]
fn a_registry_with_htpasswd_refuses_strangers() {
    let registry = DebianRegistry::start(Login::Htpasswd);
    let (status, _) = http("GET", registry.port, "/v2/", b"").expect("it is ready");
    assert_eq!(status, 401);
    let config =
        std::fs::read_to_string(registry.docker_config(&[registry.port]).join("config.json"));
    assert!(
        config
            .expect("it was just written")
            .contains(&registry.port.to_string())
    );
}

#[test]
fn a_server_is_gone_once_its_handle_is_dropped() {
    let registry = DebianRegistry::start(Login::Open);
    let port = registry.port;
    assert_eq!(http("GET", port, "/v2/", b"").expect("it is ready").0, 200);
    drop(registry);
    assert_eq!(http("GET", port, "/v2/", b""), None);
}

#[test]
fn a_link_carries_counts_is_cut_and_mended() {
    let registry = DebianRegistry::start(Login::Open);
    let link = Link::to(registry.port);
    let ask = || http("GET", link.port, "/v2/", b"");
    assert_eq!(ask().expect("it leads to the registry").0, 200);
    link.wait_for(100);
    link.cut();
    assert_eq!(ask(), None);
    link.mend();
    assert_eq!(ask().expect("it leads there again").0, 200);
}

#[test]
fn a_registry_that_is_killed_starts_again_with_what_it_had() {
    let mut registry = DebianRegistry::start(Login::Open);
    registry.kill();
    assert_eq!(http("GET", registry.port, "/v2/", b""), None);
    registry.restart();
    let (status, _) = http("GET", registry.port, "/v2/", b"").expect("it is ready");
    assert_eq!(status, 200);
}

#[test]
fn a_shared_server_outlives_the_thread_that_asked_for_it_first() {
    let port = std::thread::spawn(|| Weed::shared().port)
        .join()
        .expect("it starts");
    assert_eq!(
        http("GET", port, "/status", b"").expect("it still runs").0,
        200
    );
}

#[test]
fn blobs_in_a_bucket_can_be_listed_read_damaged_and_deleted() {
    damage(&TestStore::new(Backend::Seaweed));
    if e2e() {
        damage(&TestStore::new(Backend::Minio));
    }
}

fn damage(store: &TestStore) {
    let hex = "ab".repeat(32);
    assert_eq!(store.blobs(), []);
    store.overwrite(&hex, b"once");
    assert_eq!(
        (store.blobs(), store.read(&hex)),
        (vec![(hex.clone(), 4)], b"once".to_vec())
    );
    store.overwrite(&hex, br#"{"layers":[{"digest":"sha256:12"}]}"#);
    assert_eq!(store.packs_of(&hex), ["12"]);
    store.delete(&hex);
    assert_eq!(store.blobs(), []);
}

#[test]
fn the_servers_of_e2e_start_and_a_proxy_slows_them() {
    if !e2e() {
        return;
    }
    let registry = DistributionV3::start(Login::Open);
    let minio = Minio::shared();
    assert_eq!(
        http("GET", minio.port, "/minio/health/ready", b"")
            .expect("it is ready")
            .0,
        200
    );
    let proxy = Toxiproxy::start();
    let slow = proxy.proxy(registry.port, &[Toxic::RoundTripMs(200)]);
    let began = Instant::now();
    assert_eq!(
        http("GET", slow, "/v2/", b"")
            .expect("it leads to the registry")
            .0,
        200
    );
    assert!(
        began.elapsed() >= Duration::from_millis(200),
        "{:?}",
        began.elapsed()
    );
    assert!(Registry::url(slow, "a").starts_with("oci://127.0.0.1:"));
}
