//! A real BuildKit writes its cache through the registry door, and another one that has nothing finds all of it.
//!
//! Seen on the way, with BuildKit 0.34:
//! - `cached` is said once for a step; when its layer is then fetched the same step starts again without it, so a client
//!   that looks at the last word only (`--progress=plain` does) shows DONE where nothing ran.
//! - A cache export takes the layers that the output made, whatever `compression` it was given: both have to say `zstd`.
//! - Distribution v3 refuses `image-manifest=false`: the index that BuildKit writes lists layers, which are no manifests there.
//! - An image that is built from a cache alone has the digest of the first one: the dates in it are the layers' own.
use crate::support::buildkit::{Builder, Built};
use crate::support::buildx::Buildx;
use crate::support::cachectld::{Access, Cachectld};
use crate::support::cli::{cachectl, number};
use crate::support::clients::Client;
use crate::support::door::{Door, Product, ours};
use crate::support::e2e;
use crate::support::node::Node;
use crate::support::project::Project;
use crate::support::scratch::Scratch;
use crate::support::stores::{Backend, TestStore};

fn to(door: &Door, name: &str) -> String {
    format!("type=registry,ref={}/{name},mode=max", door.host())
}

fn from(door: &Door, name: &str) -> String {
    format!("type=registry,ref={}/{name}", door.host())
}

/// Builds with a builder that has nothing but this cache: all of it is found, and makes the same image.
fn finds_all(door: &Door, cache: &str, project: &Project, wanted: &Built) {
    let built = Builder::new(door).build(project).import(cache).run();
    let built = built.success().all_cached();
    assert_eq!(built.digest(), wanted.digest(), "{built}");
    assert_eq!(built.files(), wanted.files(), "{built}");
}

/// The harness: a step that runs is not taken for one that was cached, nor the other way round.
#[test]
fn a_builder_that_has_nothing_runs_everything_and_then_nothing() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let builder = Builder::new(&door);
    let first = builder.build(&project).run().success();
    assert_eq!(first.executed(), first.instructions().len(), "{first}");
    let ran = first
        .instructions()
        .iter()
        .filter(|step| step.ran())
        .count();
    assert_eq!(ran, 4, "{first}");
    let again = builder.build(&project).run().success().all_cached();
    assert_eq!(again.digest(), first.digest());
    builder.prune();
    let again = builder.build(&project).run().success();
    assert_eq!(again.executed(), first.executed(), "{again}");
    assert!(again.files() == first.files(), "{again}");
    // A cache that is not there is an ERROR step and no more.
    let nowhere = builder
        .build(&project)
        .import(from(&door, "no:cache"))
        .run();
    let nowhere = nowhere.success();
    assert!(nowhere.import_error().is_some(), "{nowhere}");
}

#[test]
fn another_builder_finds_every_step_and_makes_the_same_image() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    for (compression, media) in [("gzip", "tar+gzip"), ("zstd", "tar+zstd")] {
        for (shape, kind) in shapes() {
            let name = format!("team/app:{compression}-{shape}");
            let to = format!(
                "{},image-manifest={shape},compression={compression}",
                to(&door, &name)
            );
            let first = Builder::new(&door);
            let first = first.build(&project).compression(compression).export(to);
            let first = first.run().success();
            assert_eq!(first.executed(), first.instructions().len(), "{first}");
            let types = first.layer_types();
            assert!(types.iter().all(|t| t.ends_with(media)), "{types:?}");
            let said = first.cache().to_string();
            assert!(said.contains(kind), "{said}");
            finds_all(&door, &from(&door, &name), &project, &first);
        }
    }
}

/// What `image-manifest` may be, and what it makes of a cache.
fn shapes() -> &'static [(&'static str, &'static str)] {
    let both = &[("true", "image.manifest.v1"), ("false", "image.index.v1")];
    match Product::under_test() {
        Product::Cachectld => both,
        Product::DistributionV3 => &both[..1],
    }
}

#[test]
fn a_builder_that_only_looks_fetches_no_layer() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let first = Builder::new(&door);
    let first = first.build(&project).export(to(&door, "a:cache")).run();
    first.success();
    let looks = Builder::new(&door);
    let looks = looks.build(&project).import(from(&door, "a:cache"));
    looks.without_output().run().success().all_cached();
}

#[test]
fn an_unchanged_export_leaves_the_cache_as_it_is() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let builder = Builder::new(&door);
    let export = || builder.build(&project).export(to(&door, "a:cache")).run();
    let (first, again) = (export().success(), export().success());
    assert_eq!(first.cache_digest(), again.cache_digest());
    finds_all(&door, &from(&door, "a:cache"), &project, &first);
}

#[test]
fn builders_log_in() {
    if !e2e() {
        return;
    }
    for &access in Product::under_test().accesses() {
        let (door, project) = (Door::with(access), Project::stages());
        let builder = Builder::new(&door);
        let first = builder
            .build(&project)
            .export(to(&door, "team/app:cache"))
            .run()
            .success();
        finds_all(&door, &from(&door, "team/app:cache"), &project, &first);
        if access == Access::Anonymous {
            continue;
        }
        let nobody = Scratch::new("nobody");
        let stranger = Builder::with(&[door.port], nobody.path().to_owned());
        let built = stranger
            .build(&project)
            .import(from(&door, "team/app:cache"));
        let built = built.run().success();
        assert!(built.import_error().is_some(), "{access:?}: {built}");
        assert_eq!(built.executed(), built.instructions().len(), "{built}");
    }
}

/// A user who has rights on some repositories only builds as anybody else does: two exports to one tag, an import by a builder that
/// has nothing, and a deletion.
#[test]
fn a_tenant_exports_merges_imports_and_deletes() {
    if !e2e() || !ours() {
        return;
    }
    let (door, project) = (Door::with(Access::Tenant), Project::stages());
    let stages = ["left", "right"].map(|stage| {
        let builder = Builder::new(&door);
        let build = builder.build(&project).target(stage);
        let built = build.export(to(&door, "team/app:cache")).run().success();
        (stage, built)
    });
    for (stage, right) in &stages {
        let builder = Builder::new(&door);
        let build = builder.build(&project).target(stage);
        let found = build.import(from(&door, "team/app:cache")).run();
        let found = found.success().all_cached();
        assert!(found.files() == right.files(), "{stage}\n{found}");
    }
    let crane = Client::new("crane");
    crane.login(&door);
    crane.run(["delete", &format!("{}/team/app:cache", door.host())]);
    let builder = Builder::new(&door);
    let gone = builder.build(&project);
    let gone = gone.import(from(&door, "team/app:cache")).run().success();
    assert!(gone.import_error().is_some(), "{gone}");
    // What is not granted is refused, whether it is there or not.
    let builder = Builder::new(&door);
    let build = builder.build(&project).export(to(&door, "other/app:cache"));
    assert!(!build.run().status.success());
}

#[test]
fn buildx_exports_and_imports() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let cache = format!("{}/team/app:cache", door.host());
    let (a, b) = (Builder::new(&door), Builder::new(&door));
    let first = Buildx::new(&a, &door);
    let first = first.build(
        &project,
        &["--cache-to", &format!("type=registry,ref={cache},mode=max")],
    );
    assert!(first.cached.is_empty(), "{first:?}");
    // Short for type=registry.
    let second = Buildx::new(&b, &door).build(&project, &["--cache-from", &cache]);
    assert!(second.executed.is_empty(), "{second:?}");
    assert_eq!(second.cached.len(), first.executed.len(), "{second:?}");
    assert_eq!(second.digest, first.digest);
}

#[test]
fn a_folder_that_buildkit_wrote_is_copied_to_the_door() {
    if !e2e() {
        return;
    }
    let (door, project, node) = (Door::start(), Project::stages(), Node::new());
    let (folder, first) = exported_folder(&door, &project);
    let copied = cachectl(&node)
        .env("DOCKER_CONFIG", door.docker_config())
        .arg("copy")
        .arg(layout(&folder))
        .arg(format!("oci://{}/team/app", door.host()))
        .json();
    assert!(number(&copied, "blobs_moved") > 5, "{copied}");
    finds_all(&door, &from(&door, "team/app:latest"), &project, &first);
}

#[test]
fn a_cache_behind_the_door_is_copied_to_a_folder() {
    if !e2e() {
        return;
    }
    let (door, project, node) = (Door::start(), Project::stages(), Node::new());
    let builder = Builder::new(&door);
    let first = builder
        .build(&project)
        .export(to(&door, "team/app:cache"))
        .run()
        .success();
    let folder = Scratch::new("folder");
    let copied = cachectl(&node)
        .arg("copy")
        .arg(format!("oci://{}/team/app", door.host()))
        .arg(layout(&folder))
        .json();
    assert!(number(&copied, "blobs_moved") > 5, "{copied}");
    let local = format!("type=local,src={},tag=cache", folder.path().display());
    finds_all(&door, &local, &project, &first);
}

#[test]
fn a_folder_that_buildkit_wrote_is_copied_under_the_daemon() {
    if !e2e() || !ours() {
        return;
    }
    // The daemon serves what the command line put into its store: in the repository that is the command line's own.
    let (store, project, node) = (
        TestStore::new(Backend::Disk),
        Project::stages(),
        Node::new(),
    );
    let (folder, first) = exported_folder(&Door::start(), &project);
    cachectl(&node)
        .arg("copy")
        .args([&layout(&folder), store.url()])
        .json();
    let door = Door::over(store, Access::Anonymous);
    finds_all(&door, &from(&door, "cachectl:latest"), &project, &first);
}

#[test]
fn a_folder_that_buildkit_wrote_travels_as_a_folder() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let (folder, first) = exported_folder(&door, &project);
    let (here, there) = (Node::new(), Node::new());
    let store = format!("oci://{}/team/folders", door.host());
    cachectl(&here)
        .args(["export", "dir"])
        .arg(folder.path().join("cache"))
        .args(["--name", "buildkit", "--strict", "--store", &store])
        .run()
        .success();
    cachectl(&there)
        .args(["import", "dir", "cache", "--name", "buildkit"])
        .args(["--require-hit", "--store", &store])
        .run()
        .success();
    let local = format!("type=local,src={}", there.path("home/cache").display());
    finds_all(&door, &local, &project, &first);
}

/// A folder `cache` that a first build exported to.
fn exported_folder(door: &Door, project: &Project) -> (Scratch, Built) {
    let folder = Scratch::new("folder");
    let dest = folder.path().join("cache");
    let to = format!("type=local,dest={},mode=max", dest.display());
    let first = Builder::new(door).build(project).export(to).run();
    (folder, first.success())
}

fn layout(folder: &Scratch) -> String {
    let inner = folder.path().join("cache");
    let place = if inner.exists() {
        inner
    } else {
        folder.path().to_owned()
    };
    format!("oci-layout:{}", place.display())
}

fn two_daemons_over(backend: Backend) {
    if !e2e() || !ours() {
        return;
    }
    let (project, door) = (
        Project::stages(),
        Door::over(TestStore::new(backend), Access::Anonymous),
    );
    let other = Cachectld::over(door.store.url()).envs(door.store.env());
    let other = other.start();
    let writer = Builder::new(&door);
    let first = writer
        .build(&project)
        .export(to(&door, "team/app:cache"))
        .run()
        .success();
    let reader = Builder::with(&[other.port], door.docker_config());
    let cache = format!("type=registry,ref=127.0.0.1:{}/team/app:cache", other.port);
    let built = reader.build(&project).import(cache).run();
    let built = built.success().all_cached();
    assert_eq!(built.digest(), first.digest(), "{built}");
    // And back: what was written through the other one is there at once, with nothing pruned for a tag seen before.
    let more = Project::stages();
    more.write("left", b"another left hand\n");
    let to = format!(
        "type=registry,ref=127.0.0.1:{}/team/app:cache,mode=max",
        other.port
    );
    let second = reader.build(&more).export(to).run().success();
    finds_all(&door, &from(&door, "team/app:cache"), &more, &second);
}

#[test]
fn what_one_daemon_wrote_another_one_reads_on_seaweedfs() {
    two_daemons_over(Backend::Seaweed);
}

#[test]
fn what_one_daemon_wrote_another_one_reads_on_minio() {
    two_daemons_over(Backend::Minio);
}

#[test]
fn what_one_daemon_wrote_another_one_reads_over_debians_registry() {
    two_daemons_over(Backend::DebianRegistry);
}

#[test]
fn what_one_daemon_wrote_another_one_reads_over_distribution_v3() {
    two_daemons_over(Backend::DistributionV3);
}
