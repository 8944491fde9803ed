//! Several builds export to one tag, and what one of them wrote is not lost to the other.
//!
//! BuildKit itself replaces the tag: an export keeps only what its own build touched, and one from a builder that got its
//! layers by an import, and does not name that import again, writes less than it was given.
//!
//! Seen on the way:
//! - Such a builder knows the layers of the image that it made, and those alone: the stages they were copied from are gone
//!   from its export. One that made no image knows nothing, runs everything again and writes a whole cache.
//! - A COPY onto nothing has the same key on every platform, a RUN has not: two platforms share a part of their caches.
use std::collections::BTreeSet;

use crate::support::buildkit::{Builder, Built};
use crate::support::cachectld::{Access, Cachectld};
use crate::support::door::{Door, manifest, ours};
use crate::support::e2e;
use crate::support::project::Project;
use crate::support::stores::{Backend, TestStore};

fn from(port: u16) -> String {
    format!("type=registry,ref=127.0.0.1:{port}/team/app:cache")
}

fn to(port: u16) -> String {
    format!("{},mode=max", from(port))
}

/// What a build is of: a stage, and a platform.
type What<'a> = (&'a str, &'a str);

fn export(builder: &Builder, door: &Door, project: &Project, (stage, platform): What<'_>) -> Built {
    let build = builder.build(project).target(stage).platform(platform);
    build.export(to(door.port)).run().success()
}

fn all_are_found(door: &Door, project: &Project, builds: &[(What<'_>, &Built)]) {
    for (what, right) in builds {
        let (stage, platform) = *what;
        let builder = Builder::new(door);
        let found = builder.build(project).target(stage).platform(platform);
        let found = found.import(from(door.port)).run().success().all_cached();
        assert!(found.files() == right.files(), "{what:?}\n{found}");
    }
}

/// Each of the builds on a builder of its own, one after the other.
fn one_after_the_other(builds: &[What<'_>]) {
    if !e2e() || !ours() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let done: Vec<_> = builds
        .iter()
        .map(|&what| (what, export(&Builder::new(&door), &door, &project, what)))
        .collect();
    let done: Vec<_> = done.iter().map(|(what, built)| (*what, built)).collect();
    all_are_found(&door, &project, &done);
}

const AMD64: &str = "linux/amd64";
const I386: &str = "linux/386";

#[test]
fn two_targets_share_a_tag() {
    one_after_the_other(&[("left", AMD64), ("right", AMD64)]);
}

#[test]
fn two_platforms_share_a_tag() {
    one_after_the_other(&[("app", AMD64), ("app", I386)]);
}

#[test]
fn two_targets_on_two_platforms_share_a_tag() {
    one_after_the_other(&[("left", AMD64), ("right", I386), ("right", AMD64)]);
}

fn at_the_same_time(door: &Door, other: u16) {
    let project = Project::stages();
    let (left, right) = (
        Builder::with(&[door.port], door.docker_config()),
        Builder::with(&[other], door.docker_config()),
    );
    let first = left.build(&project).target("left").export(to(door.port));
    let second = right.build(&project).target("right").export(to(other));
    let (first, second) = (first.start(), second.start());
    let (first, second) = (first.wait().success(), second.wait().success());
    let builds = [(("left", AMD64), &first), (("right", AMD64), &second)];
    all_are_found(door, &project, &builds);
}

#[test]
fn two_builds_export_to_a_tag_at_the_same_time() {
    if !e2e() || !ours() {
        return;
    }
    let door = Door::start();
    at_the_same_time(&door, door.port);
}

#[test]
fn two_builds_export_to_a_tag_at_the_same_time_through_two_daemons() {
    through_two_daemons(Backend::Minio);
}

#[test]
fn two_builds_export_to_a_tag_at_the_same_time_through_two_daemons_over_a_registry() {
    through_two_daemons(Backend::DebianRegistry);
}

fn through_two_daemons(backend: Backend) {
    if !e2e() || !ours() {
        return;
    }
    let door = Door::over(TestStore::new(backend), Access::Anonymous);
    let other = Cachectld::over(door.store.url()).envs(door.store.env());
    let other = other.start();
    at_the_same_time(&door, other.port);
}

#[test]
fn an_export_from_a_builder_that_only_imported_takes_nothing_away() {
    if !e2e() || !ours() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let app = ("app", AMD64);
    let right = export(&Builder::new(&door), &door, &project, app);
    let importer = Builder::new(&door);
    let import = || importer.build(&project).import(from(door.port)).run();
    import().success().all_cached();
    // It has the layers of the image now, and of the other steps it knows nothing.
    let exported = importer.build(&project).export(to(door.port)).run();
    exported.success().all_cached();
    all_are_found(&door, &project, &[(app, &right)]);
    for stage in ["left", "right"] {
        let builder = Builder::new(&door);
        let built = builder.build(&project).target(stage);
        built.import(from(door.port)).run().success().all_cached();
    }
}

#[test]
fn images_under_one_tag_are_replaced_and_never_merged() {
    if !e2e() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let (name, builder) = (
        format!("{}/team/app:image", door.host()),
        Builder::new(&door),
    );
    for stage in ["left", "right"] {
        let pushed = builder.build(&project).target(stage).push(&name).run();
        let pushed = pushed.success();
        let digest = manifest(door.port, "team/app", "image")
            .expect("it was pushed")
            .0;
        assert_eq!(digest, pushed.digest(), "{pushed}");
    }
}

#[test]
fn a_changed_source_adds_to_the_tag_and_the_unchanged_one_is_still_found() {
    if !e2e() || !ours() {
        return;
    }
    let (door, old, new) = (Door::start(), Project::stages(), Project::stages());
    new.write("left", b"a changed left hand\n");
    let app = ("app", AMD64);
    let before = export(&Builder::new(&door), &door, &old, app);
    let after = export(&Builder::new(&door), &door, &new, app);
    assert!(before.files() != after.files());
    all_are_found(&door, &new, &[(app, &after)]);
    all_are_found(&door, &old, &[(app, &before)]);
}

#[test]
fn a_known_cache_that_is_pushed_again_takes_nothing_away() {
    if !e2e() || !ours() {
        return;
    }
    let (door, project) = (Door::start(), Project::stages());
    let (left, right) = (Builder::new(&door), Builder::new(&door));
    let first = export(&left, &door, &project, ("left", AMD64));
    let second = export(&right, &door, &project, ("right", AMD64));
    let layers = || {
        let (_, manifest) = manifest(door.port, "team/app", "cache").expect("it was pushed");
        let manifest: serde_json::Value = serde_json::from_str(&manifest).expect("JSON");
        let layers = manifest["layers"].as_array().expect("layers").iter();
        layers
            .map(|l| l["digest"].to_string())
            .collect::<BTreeSet<_>>()
    };
    let before = layers();
    export(&left, &door, &project, ("left", AMD64));
    // It is the newest again: where both have a result for one step, its own counts now.
    assert_eq!(layers(), before);
    let builds = [(("left", AMD64), &first), (("right", AMD64), &second)];
    all_are_found(&door, &project, &builds);
}
