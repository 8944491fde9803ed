//! Many writers of one name at once, some of them killed: nothing that was acknowledged is lost, nothing is made up.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::cli::{Cachectl, cachectl};
use crate::support::gocache::GoCache;
use crate::support::node::Node;
use crate::support::scratch::Scratch;
use crate::support::stores::{Backend, TestStore};
use crate::support::{e2e, tools::say, tree};

const WRITERS: usize = 16;
const KILLED: usize = 6;
const ROUNDS: u64 = 2;

/// Starts all of `exports` at once, kills some at random moments, and says which succeeded. Those that nobody
/// killed have to.
fn race(exports: Vec<Cachectl>, alone: Duration, rng: &mut fastrand::Rng) -> BTreeSet<usize> {
    let mut order: Vec<_> = (0..exports.len()).collect();
    rng.shuffle(&mut order);
    let began = Instant::now();
    let mut running: Vec<_> = exports
        .into_iter()
        .map(|export| export.arg("--strict").start())
        .collect();
    // Anywhere between the first instruction and well past the end that so many at once may need.
    let span = alone * WRITERS as u32;
    let mut kills: Vec<_> = order[..KILLED]
        .iter()
        .map(|&who| (span.mul_f64(rng.f64()), who))
        .collect();
    kills.sort();
    for &(when, who) in &kills {
        std::thread::sleep(when.saturating_sub(began.elapsed()));
        running[who].kill();
    }
    let mut succeeded = BTreeSet::new();
    for (who, run) in running.into_iter().enumerate() {
        let outcome = run.wait();
        if outcome.status.success() {
            succeeded.insert(who);
        } else {
            let killed = kills.iter().any(|&(_, victim)| victim == who);
            assert!(killed, "writer {who} was left alone and failed: {outcome}");
        }
    }
    say(&format!(
        "{} of {} writers succeeded in {:.1?}",
        succeeded.len(),
        WRITERS,
        began.elapsed()
    ));
    succeeded
}

/// Different in each run, so that many runs see many moments; printed, so that one can be looked at again.
fn seeded(what: &str) -> fastrand::Rng {
    let seed = crate::support::tools::setting("CACHECTL_SEED")
        .and_then(|seed| seed.to_str()?.parse().ok())
        .unwrap_or_else(|| fastrand::u64(..));
    say(&format!("{what}: CACHECTL_SEED={seed}"));
    fastrand::Rng::with_seed(seed)
}

/// A checkout that does nothing but give the caches their name.
fn checkout(module: &str) -> Scratch {
    let dir = Scratch::new("checkout");
    fs::write(
        dir.path().join("go.mod"),
        format!("module {module}\n\ngo 1.24\n"),
    )
    .expect("a new file");
    dir
}

fn go_caches(backend: Backend) {
    if !e2e() {
        return;
    }
    let mut rng = seeded(&format!("Go caches on {backend:?}"));
    let store = TestStore::new(backend);
    let project = checkout("example.invalid/parallel");
    let export = |node: &Node| {
        cachectl(node)
            .inside(project.path())
            .args(["export", "go"])
            .store(&store)
    };

    // One alone, under another name: how long an export takes here.
    let (lone, other) = (Node::new(), checkout("example.invalid/alone"));
    overlapping(&mut rng, 99).write(&lone.gocache());
    let alone = cachectl(&lone)
        .inside(other.path())
        .args(["export", "go", "--strict"])
        .store(&store);
    let alone = alone.run().success().elapsed;

    let (mut written, mut promised) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let caches: Vec<_> = (0..WRITERS as u64)
            .map(|who| overlapping(&mut rng, round * 100 + who))
            .collect();
        let nodes: Vec<_> = caches
            .iter()
            .map(|cache| {
                let node = Node::new();
                cache.write(&node.gocache());
                node
            })
            .collect();
        let succeeded = race(nodes.iter().map(export).collect(), alone, &mut rng);
        promised.extend(succeeded.iter().map(|&who| caches[who].clone()));
        written.extend(caches);

        let reader = Node::new();
        let import =
            cachectl(&reader)
                .inside(project.path())
                .args(["import", "go", "--require-hit"]);
        import.store(&store).run().success();
        let found = GoCache::read(&reader.gocache());
        check_go(&found, &promised, &written);
    }
}

/// A cache that shares most of its entries with its neighbours, has some alone, and differs in one.
fn overlapping(rng: &mut fastrand::Rng, who: u64) -> GoCache {
    let mut cache = GoCache::default();
    for number in (0..60).filter(|_| rng.bool()) {
        cache.compile(&format!("shared-{number}"), 500 + 1_500 * number);
    }
    for number in 0..8 {
        cache.compile(&format!("own-{who}-{number}"), rng.usize(100..40_000));
    }
    cache.compile(&format!("large-{}", who % 3), 700_000);
    cache.link(&format!("program-{}", who % 3), 300_000);
    cache.insert(
        "contested",
        1_700_000_000_000_000_000 + who,
        format!("by {who}").into_bytes(),
    );
    cache
}

fn check_go(found: &GoCache, promised: &[GoCache], written: &[GoCache]) {
    for (action, entry) in &found.0 {
        assert!(
            written
                .iter()
                .any(|cache| cache.0.get(action) == Some(entry)),
            "nobody exported {} as it came back",
            const_hex::encode(action)
        );
    }
    let contested = GoCache::action("contested");
    for (action, entry) in promised.iter().flat_map(|cache| &cache.0) {
        let found = found.0.get(action);
        if *action == contested {
            // The newest entry time wins, so a later one of a killed writer may stand here.
            assert!(
                found.is_some_and(|(time, _)| *time >= entry.0),
                "an older output won"
            );
        } else {
            assert_eq!(found, Some(entry), "{} is lost", const_hex::encode(action));
        }
    }
}

fn merged_folders(backend: Backend) {
    if !e2e() {
        return;
    }
    let mut rng = seeded(&format!("merged folders on {backend:?}"));
    let store = TestStore::new(backend);
    let alone = folder_writer(&mut rng, 99)
        .export(&store, "alone")
        .arg("--strict")
        .run()
        .success()
        .elapsed;
    let (mut written, mut promised) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let writers: Vec<_> = (0..WRITERS as u64)
            .map(|who| folder_writer(&mut rng, round * 100 + who))
            .collect();
        let exports = writers
            .iter()
            .map(|writer| writer.export(&store, "merged").arg("--merge"))
            .collect();
        let succeeded = race(exports, alone, &mut rng);
        let trees: Vec<_> = writers
            .iter()
            .map(|writer| tree::contents(&writer.tree))
            .collect();
        promised.extend(succeeded.iter().map(|&who| trees[who].clone()));
        written.extend(trees);

        let found = tree::contents(&import_folder(&store, "merged").1);
        for (name, content) in &found {
            assert!(
                written.iter().any(|tree| tree.get(name) == Some(content)),
                "nobody exported {} as it came back",
                name.display()
            );
        }
        for (name, content) in promised.iter().flatten() {
            let found = found
                .get(name)
                .unwrap_or_else(|| panic!("{} is lost", name.display()));
            assert!(
                name == "contested" || found == content,
                "{} is not what was exported",
                name.display()
            );
        }
    }
}

fn replaced_folders(backend: Backend) {
    if !e2e() {
        return;
    }
    let mut rng = seeded(&format!("replaced folders on {backend:?}"));
    let store = TestStore::new(backend);
    let alone = folder_writer(&mut rng, 99)
        .export(&store, "alone")
        .arg("--strict")
        .run()
        .success()
        .elapsed;
    for round in 0..ROUNDS {
        let writers: Vec<_> = (0..WRITERS as u64)
            .map(|who| folder_writer(&mut rng, round * 100 + who))
            .collect();
        let exports = writers
            .iter()
            .map(|writer| writer.export(&store, "replaced"))
            .collect();
        race(exports, alone, &mut rng);
        let found = tree::read(&import_folder(&store, "replaced").1);
        let same = writers
            .iter()
            .filter(|writer| tree::read(&writer.tree) == found)
            .count();
        assert_eq!(
            same,
            1,
            "what came back is one writer's tree of this round: {:?}",
            found.keys()
        );
    }
}

struct FolderWriter {
    node: Node,
    tree: PathBuf,
}

impl FolderWriter {
    fn export(&self, store: &TestStore, name: &str) -> Cachectl {
        let export = cachectl(&self.node).args(["export", "dir"]).arg(&self.tree);
        export.args(["--name", name]).store(store)
    }
}

fn folder_writer(rng: &mut fastrand::Rng, who: u64) -> FolderWriter {
    let node = Node::new();
    let tree = node.path("tree");
    let mut files = BTreeMap::new();
    for number in (0..30_u64).filter(|_| rng.bool()) {
        let mut same = fastrand::Rng::with_seed(number);
        files.insert(
            format!("shared/{number}"),
            tree::bytes(&mut same, 200 + 900 * number as usize),
        );
    }
    for number in 0..6 {
        let length = rng.usize(1..30_000);
        files.insert(format!("own-{who}/{number}"), tree::bytes(rng, length));
    }
    files.insert("contested".into(), format!("by {who}").into_bytes());
    for (name, content) in files {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().expect("below the tree")).expect("a folder of the test");
        fs::write(path, content).expect("a new file");
    }
    FolderWriter { node, tree }
}

fn import_folder(store: &TestStore, name: &str) -> (Node, PathBuf) {
    let reader = Node::new();
    let target = reader.path("target");
    let import = cachectl(&reader)
        .args(["import", "dir"])
        .arg(&target)
        .args(["--name", name, "--require-hit"]);
    import.store(store).run().success();
    (reader, target)
}

#[test]
fn parallel_exports_of_go_caches_to_a_disk_store_lose_nothing() {
    go_caches(Backend::Disk);
}

#[test]
fn parallel_exports_of_go_caches_to_seaweedfs_lose_nothing() {
    go_caches(Backend::Seaweed);
}

#[test]
fn parallel_exports_of_go_caches_to_minio_lose_nothing() {
    go_caches(Backend::Minio);
}

#[test]
fn parallel_exports_of_go_caches_to_a_registry_lose_nothing() {
    go_caches(Backend::DebianRegistry);
}

#[test]
fn parallel_exports_of_merged_folders_to_a_disk_store_lose_nothing() {
    merged_folders(Backend::Disk);
}

#[test]
fn parallel_exports_of_merged_folders_to_seaweedfs_lose_nothing() {
    merged_folders(Backend::Seaweed);
}

#[test]
fn parallel_exports_of_merged_folders_to_minio_lose_nothing() {
    merged_folders(Backend::Minio);
}

#[test]
fn parallel_exports_of_merged_folders_to_a_registry_lose_nothing() {
    merged_folders(Backend::DebianRegistry);
}

#[test]
fn a_folder_on_a_disk_store_is_one_writers_tree() {
    replaced_folders(Backend::Disk);
}

#[test]
fn a_folder_on_seaweedfs_is_one_writers_tree() {
    replaced_folders(Backend::Seaweed);
}

#[test]
fn a_folder_on_minio_is_one_writers_tree() {
    replaced_folders(Backend::Minio);
}

#[test]
fn a_folder_on_a_registry_is_one_writers_tree() {
    replaced_folders(Backend::DebianRegistry);
}
