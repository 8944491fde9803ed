//! A real Go project's caches cross every kind of store, and the second node compiles nothing.
use std::sync::OnceLock;

use crate::support::cli::{cachectl, flag, number};
use crate::support::goproject::{Build, GoProject};
use crate::support::node::Node;
use crate::support::stores::{Backend, TestStore};
use crate::support::{e2e, tools::say};

/// The node that did the work once for all of these tests; exports only read it.
fn built() -> &'static (Node, GoProject, Build) {
    static BUILT: OnceLock<(Node, GoProject, Build)> = OnceLock::new();
    BUILT.get_or_init(|| {
        let (node, project) = (Node::new(), GoProject::oras());
        project.download(&node);
        let cold = project.build(&node);
        assert_eq!(cold.compiled, project.packages(&node));
        (node, project, cold)
    })
}

fn second_node_compiles_nothing(backend: Backend) {
    if !e2e() {
        return;
    }
    let (first, project, cold) = built();
    let store = TestStore::new(backend);
    let exported = cachectl(first)
        .inside(project.path())
        .args(["export", "go", "--strict"])
        .store(&store)
        .json();
    assert!(number(&exported, "entries") > 1_000, "{exported}");
    assert!(number(&exported, "blobs_moved") > 0, "{exported}");

    // Another machine: another home, another checkout.
    let (second, checkout) = (Node::new(), GoProject::oras());
    let import = || {
        cachectl(&second)
            .inside(checkout.path())
            .args(["import", "go", "--require-hit"])
            .store(&store)
            .json()
    };
    let imported = import();
    assert!(flag(&imported, "hit"), "{imported}");
    assert_eq!(number(&imported, "entries"), number(&exported, "entries"));
    assert_eq!(number(&imported, "bytes"), number(&exported, "bytes"));

    let warm = checkout.build_with(&second, &[("GOPROXY", "off")]);
    assert_eq!(warm.compiled, 0, "packages compiled after the import");
    checkout.verify_modules_offline(&second);

    let again = import();
    let (once, twice) = (
        number(&imported, "bytes_moved"),
        number(&again, "bytes_moved"),
    );
    assert!(
        twice * 20 < once,
        "an import of what is there fetched {twice} of {once} bytes"
    );
    assert_eq!(checkout.build(&second).compiled, 0);
    say(&format!(
        "{backend:?}: cold {:.1?}, export {} ms, import {} ms, warm {:.1?}, {once} bytes for {}",
        cold.elapsed,
        number(&exported, "elapsed_ms"),
        number(&imported, "elapsed_ms"),
        warm.elapsed,
        number(&imported, "bytes"),
    ));
}

#[test]
fn go_caches_cross_a_disk_store() {
    second_node_compiles_nothing(Backend::Disk);
}

#[test]
fn go_caches_cross_an_oci_layout() {
    second_node_compiles_nothing(Backend::OciLayout);
}

#[test]
fn go_caches_cross_seaweedfs() {
    second_node_compiles_nothing(Backend::Seaweed);
}

#[test]
fn go_caches_cross_minio() {
    second_node_compiles_nothing(Backend::Minio);
}

#[test]
fn go_caches_cross_debians_registry_with_htpasswd() {
    second_node_compiles_nothing(Backend::DebianRegistry);
}

#[test]
fn go_caches_cross_distribution_v3() {
    second_node_compiles_nothing(Backend::DistributionV3);
}
