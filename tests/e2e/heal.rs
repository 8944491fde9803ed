//! A pack that is gone or damaged is a miss that says so; the next export repairs it; the import after that is a hit.
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::support::cli::{cachectl, flag};
use crate::support::e2e;
use crate::support::gocache::GoCache;
use crate::support::node::Node;
use crate::support::scratch::Scratch;
use crate::support::stores::{Backend, TestStore};
use crate::support::tools::output_of;
use crate::support::tree;

#[derive(Clone, Copy, Debug)]
enum Damage {
    Deleted,
    Shortened,
    /// Same length, one bit different: only a hash can tell.
    Flipped,
}

const DAMAGES: [Damage; 3] = [Damage::Deleted, Damage::Shortened, Damage::Flipped];

impl Damage {
    fn inflict(self, store: &TestStore, hex: &str) {
        let mut bytes = store.read(hex);
        match self {
            Self::Deleted => return store.delete(hex),
            Self::Shortened => bytes.truncate(bytes.len() * 2 / 3),
            Self::Flipped => {
                // Among the frames: the table of contents at the end has checks of its own.
                let place = bytes.len() / 4;
                bytes[place] ^= 1;
            }
        }
        store.overwrite(hex, &bytes);
    }

    /// Whether an export can see it without reading the pack.
    fn shows_in_metadata(self) -> bool {
        matches!(self, Self::Deleted | Self::Shortened)
    }
}

fn export(node: &Node, tree: &Path, store: &TestStore) -> Value {
    let export = cachectl(node)
        .args(["export", "dir"])
        .arg(tree)
        .args(["--name", "heal", "--strict"]);
    export.store(store).json()
}

fn folder(backend: Backend) {
    if !e2e() {
        return;
    }
    let store = TestStore::new(backend);
    let first = Node::new();
    let original = first.path("tree");
    tree::make(&original, 6, 60);
    export(&first, &original, &store);
    // A second export, so that the snapshot rests on more than one pack.
    fs::write(
        original.join("later"),
        tree::bytes(&mut fastrand::Rng::with_seed(7), 300_000),
    )
    .expect("a new file");
    let mut report = export(&first, &original, &store);
    let wanted = tree::read(&original);

    for damage in DAMAGES {
        let count = packs(&store, &report).len();
        assert!(count > 0, "{report}");
        for number in 0..count {
            // Repairs may have changed what the snapshot rests on.
            let packs = packs(&store, &report);
            let Some(pack) = packs.get(number) else { break };
            let what = format!("{backend:?}, pack {number} of {count} {damage:?}");
            damage.inflict(&store, pack);

            let unlucky = Node::new();
            let target = unlucky.path("target");
            let import = |node: &Node, target: &Path| {
                cachectl(node)
                    .args(["import", "dir"])
                    .arg(target)
                    .args(["--name", "heal", "--json"])
                    .store(&store)
                    .run()
            };
            let outcome = import(&unlucky, &target).success();
            assert!(
                !flag(&outcome.json(), "hit"),
                "{what}: a false hit\n{outcome}"
            );
            assert!(
                outcome.stderr.contains("miss"),
                "{what}: a miss has to say so\n{outcome}"
            );
            assert!(!target.exists(), "{what}: a miss left something behind");

            report = if damage.shows_in_metadata() {
                // This node believes that its tree is in the store, unchanged.
                export(&first, &original, &store)
            } else {
                // This node met the damage. Its job went on without the cache, and made the tree.
                output_of(
                    std::process::Command::new("cp")
                        .arg("-a")
                        .arg(&original)
                        .arg(&target),
                );
                export(&unlucky, &target, &store)
            };

            let lucky = Node::new();
            let target = lucky.path("target");
            let outcome = import(&lucky, &target).success();
            assert!(
                flag(&outcome.json(), "hit"),
                "{what}: not repaired\n{outcome}"
            );
            tree::assert_same(&tree::read(&target), &wanted, &what);
        }
    }
}

/// The packs that the exported snapshot rests on.
fn packs(store: &TestStore, report: &Value) -> Vec<String> {
    store.packs_of(
        report["digest"]
            .as_str()
            .expect("an export that succeeded has a digest"),
    )
}

fn go_cache(backend: Backend) {
    if !e2e() {
        return;
    }
    let store = TestStore::new(backend);
    let project = Scratch::new("checkout");
    fs::write(
        project.path().join("go.mod"),
        "module example.invalid/heal\n\ngo 1.24\n",
    )
    .expect("a new file");
    let mut cache = GoCache::default();
    for number in 0..80 {
        cache.compile(&format!("package-{number}"), 300 + 2_000 * number);
    }
    let node_with_cache = || {
        let node = Node::new();
        cache.write(&node.gocache());
        node
    };
    let run = |node: &Node, verb: &str| {
        cachectl(node)
            .inside(project.path())
            .args([verb, "go", "--json"])
            .store(&store)
            .run()
            .success()
    };
    run(&node_with_cache(), "export");

    for damage in DAMAGES {
        for pack in store.packs() {
            let what = format!("{backend:?}, pack {pack} {damage:?}");
            damage.inflict(&store, &pack);
            let unlucky = Node::new();
            let outcome = run(&unlucky, "import");
            let kept = GoCache::read(&unlucky.gocache());
            assert!(
                kept.0
                    .iter()
                    .all(|(action, entry)| cache.0.get(action) == Some(entry)),
                "{what}: an entry came back changed\n{outcome}"
            );
            if kept != cache {
                assert!(
                    !outcome.stderr.is_empty(),
                    "{what}: a loss has to be told\n{outcome}"
                );
            }
            // The job compiles what is missing.
            cache.write(&unlucky.gocache());
            run(&unlucky, "export");

            let lucky = Node::new();
            let outcome = run(&lucky, "import");
            assert!(
                flag(&outcome.json(), "hit"),
                "{what}: not repaired\n{outcome}"
            );
            assert!(
                GoCache::read(&lucky.gocache()) == cache,
                "{what}: not whole again\n{outcome}"
            );
        }
    }
}

/// The manifest itself: a miss, and what is exported next takes its place.
fn manifest(backend: Backend) {
    if !e2e() {
        return;
    }
    let store = TestStore::new(backend);
    let node = Node::new();
    let original = node.path("tree");
    tree::make(&original, 8, 20);
    let mut report = export(&node, &original, &store);
    // A registry that cannot parse what it has answers 500, and nobody can tell that from a registry that is ill.
    let told = match backend {
        Backend::DebianRegistry => &DAMAGES[..1],
        _ => &DAMAGES[..],
    };
    for &damage in told {
        let what = format!("{backend:?}, manifest {damage:?}");
        let digest = report["digest"].as_str().expect("an export has a digest");
        damage.inflict(&store, digest.trim_start_matches("sha256:"));
        let import = |target: &Path| {
            let reader = Node::new();
            let import = cachectl(&reader).args(["import", "dir"]).arg(target);
            import
                .args(["--name", "heal", "--json"])
                .store(&store)
                .run()
        };
        let lost = Scratch::new("lost");
        let target = lost.path().join("target");
        // Where writers meet by side tags there may be another manifest of the same.
        if flag(&import(&target).success().json(), "hit") {
            tree::assert_same(&tree::read(&target), &tree::read(&original), &what);
        } else {
            assert!(!target.exists(), "{what}: a miss left something behind");
        }
        report = export(&node, &original, &store);
        let found = Scratch::new("found");
        let target = found.path().join("target");
        let outcome = import(&target).success();
        assert!(
            flag(&outcome.json(), "hit"),
            "{what}: not repaired: {outcome}"
        );
        tree::assert_same(&tree::read(&target), &tree::read(&original), &what);
    }
}

#[test]
fn damaged_manifests_heal_on_a_disk_store() {
    manifest(Backend::Disk);
}

#[test]
fn damaged_manifests_heal_in_an_oci_layout() {
    manifest(Backend::OciLayout);
}

#[test]
fn damaged_manifests_heal_on_seaweedfs() {
    manifest(Backend::Seaweed);
}

#[test]
fn damaged_manifests_heal_on_minio() {
    manifest(Backend::Minio);
}

#[test]
fn damaged_manifests_heal_on_debians_registry() {
    manifest(Backend::DebianRegistry);
}

#[test]
fn damaged_folders_heal_on_a_disk_store() {
    folder(Backend::Disk);
}

#[test]
fn damaged_folders_heal_in_an_oci_layout() {
    folder(Backend::OciLayout);
}

#[test]
fn damaged_folders_heal_on_seaweedfs() {
    folder(Backend::Seaweed);
}

#[test]
fn damaged_folders_heal_on_minio() {
    folder(Backend::Minio);
}

#[test]
fn damaged_folders_heal_on_debians_registry() {
    folder(Backend::DebianRegistry);
}

#[test]
fn damaged_folders_heal_on_distribution_v3() {
    folder(Backend::DistributionV3);
}

#[test]
fn damaged_go_caches_heal_on_a_disk_store() {
    go_cache(Backend::Disk);
}

#[test]
fn damaged_go_caches_heal_on_seaweedfs() {
    go_cache(Backend::Seaweed);
}

#[test]
fn damaged_go_caches_heal_on_debians_registry() {
    go_cache(Backend::DebianRegistry);
}
