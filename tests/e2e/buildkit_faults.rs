//! Faults under a build: the cache is lost, damaged, away or killed, and the build goes on and is right.
//!
//! The rows are those of what BuildKit was seen to do: an import that cannot be had is an ERROR step and nothing more, but
//! once a manifest was read, a layer of it that cannot be had fails the build. So it is the door that has to look.
//!
//! Seen on the way: an export with `mode=max` fetches, too, what it does not have and the door has lost: then it is the export
//! that fails the build, of an image that needs nothing of it.
use std::time::{Duration, Instant};

use crate::support::buildkit::{Builder, Built};
use crate::support::cachectld::{Access, Cachectld};
use crate::support::door::{Door, blob, manifest, ours};
use crate::support::e2e;
use crate::support::link::Link;
use crate::support::project::Project;
use crate::support::stores::{Backend, TestStore};

/// Something is wrong with the test if a build has not come so far by then.
const PATIENCE: Duration = Duration::from_mins(5);
/// Longer than BuildKit tries by itself.
const OUTAGE: Duration = Duration::from_secs(20);
/// Takes about three seconds over a link of [`SLOW`].
const HEAVY: usize = 48 << 20;
const SLOW: u64 = 16 << 20;
/// So far is a transfer when something happens to it.
const MIDDLE: u64 = 16 << 20;

fn reference(port: u16) -> String {
    format!("type=registry,ref=127.0.0.1:{port}/team/app:cache")
}

fn export(builder: &Builder, port: u16, project: &Project) -> Built {
    let to = format!("{},mode=max", reference(port));
    builder.build(project).export(to).run().success()
}

/// A build on a new builder that imports the cache, and makes the right files, from it or not.
fn import(door: &Door, project: &Project, right: &Built) -> Built {
    let builder = Builder::new(door);
    let built = builder.build(project).import(reference(door.port)).run();
    let built = built.success();
    assert!(built.files() == right.files(), "other files\n{built}");
    built
}

fn hex(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

/// Takes the layers away one by one: each time the next build runs what it cannot have, and its export repairs the cache.
fn lost_layers(store: TestStore) {
    let project = Project::stages();
    let door = Door::over(store, Access::Anonymous);
    let mut right = export(&Builder::new(&door), door.port, &project);
    let count = door.store.packs_of(&right.cache_digest()).len();
    assert!(count > 5, "{count} layers in\n{right}");
    for number in 0..count {
        let layers = door.store.packs_of(&right.cache_digest());
        let Some(lost) = layers.get(number) else {
            break;
        };
        door.store.delete(lost);
        let unlucky = Builder::new(&door);
        let import = reference(door.port);
        let to = format!("{import},mode=max");
        let built = unlucky.build(&project).import(import).export(to).run();
        let built = built.success();
        assert!(built.files() == right.files(), "layer {number}\n{built}");
        right = built;
        self::import(&door, &project, &right).all_cached();
    }
}

#[test]
fn a_layer_that_is_lost_on_disk_is_built_again() {
    if e2e() && ours() {
        lost_layers(TestStore::new(Backend::Disk));
    }
}

#[test]
fn a_layer_that_is_lost_in_a_bucket_is_built_again() {
    if e2e() && ours() {
        lost_layers(TestStore::new(Backend::Seaweed));
    }
}

#[test]
fn a_lost_config_is_a_miss_and_a_lost_manifest_is_stored_again() {
    if !e2e() || !ours() {
        return;
    }
    for what in ["config", "manifest"] {
        let (door, project) = (Door::start(), Project::stages());
        let right = export(&Builder::new(&door), door.port, &project);
        let digest = right.cache_digest();
        let manifest = door.store.read(hex(&digest));
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        let config = manifest["config"]["digest"].as_str().expect("a config");
        let lost = if what == "config" { config } else { &digest };
        door.store.delete(hex(lost));
        let built = import(&door, &project, &right);
        if what == "config" {
            assert_eq!(built.executed(), built.instructions().len());
        } else {
            // The daemon remembers what it served last.
            built.all_cached();
        }
        // A builder that still has it all puts it back.
        let right = export(&Builder::new(&door), door.port, &project);
        import(&door, &project, &right).all_cached();
    }
}

#[test]
fn a_layer_that_a_crash_damaged_is_never_served() {
    if !e2e() || !ours() {
        return;
    }
    let (mut door, project) = (Door::start(), Project::stages());
    let mut right = export(&Builder::new(&door), door.port, &project);
    for shortened in [true, false] {
        door.kill();
        for layer in door.store.packs_of(&right.cache_digest()) {
            let mut bytes = door.store.read(&layer);
            let middle = bytes.len() / 2;
            if shortened {
                bytes.truncate(middle);
            } else {
                bytes[middle] ^= 1;
            }
            door.store.overwrite(&layer, &bytes);
        }
        door.restart();
        import(&door, &project, &right);
        right = export(&Builder::new(&door), door.port, &project);
        import(&door, &project, &right).all_cached();
    }
}

#[test]
fn a_layer_that_is_damaged_in_a_bucket_costs_one_build_at_most() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Seaweed);
    let (door, project) = (Door::over(store, Access::Anonymous), Project::stages());
    let right = export(&Builder::new(&door), door.port, &project);
    let damaged = &door.store.packs_of(&right.cache_digest())[0];
    let mut bytes = door.store.read(damaged);
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    door.store.overwrite(damaged, &bytes);
    // Only reading shows it, and a small one is read before it is answered.
    assert_eq!(blob(door.port, "team/app", damaged), Some(404));
    import(&door, &project, &right);
    let right = export(&Builder::new(&door), door.port, &project);
    import(&door, &project, &right).all_cached();
}

#[test]
fn a_remote_that_is_away_is_a_miss_until_it_is_back() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Minio);
    let link = Link::to(store.port());
    let (door, project) = (Door::by_link(store, &link), Project::stages());
    let right = export(&Builder::new(&door), door.port, &project);
    link.cut();
    import(&door, &project, &right);
    link.mend();
    import(&door, &project, &right).all_cached();
}

#[test]
fn a_remote_that_goes_away_in_mid_pull_and_comes_back_is_only_a_delay() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Minio);
    let link = Link::slow(store.port(), SLOW);
    let (door, project) = (Door::by_link(store, &link), Project::heavy(HEAVY));
    let right = export(&Builder::new(&door), door.port, &project);
    let reader = Builder::new(&door);
    link.wait_for(0);
    let build = reader.build(&project).import(reference(door.port)).start();
    link.wait_for(MIDDLE);
    link.interrupt(OUTAGE);
    let built = build.wait().success().all_cached();
    assert_eq!(built.digest(), right.digest());
}

#[test]
fn a_remote_that_goes_away_while_an_empty_front_is_filled_is_only_a_delay() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Minio);
    let link = Link::slow(store.port(), SLOW);
    let far = Cachectld::over(store.url()).envs(store.env()).start();
    let (door, project) = (
        Door::with_front(store, &link, "write-through"),
        Project::heavy(HEAVY),
    );
    let writer = Builder::with(&[far.port], door.docker_config());
    let right = export(&writer, far.port, &project);
    let reader = Builder::new(&door);
    link.wait_for(0);
    let build = reader.build(&project).import(reference(door.port)).start();
    link.wait_for(MIDDLE);
    link.interrupt(OUTAGE);
    let built = build.wait().success().all_cached();
    assert_eq!(built.digest(), right.digest());
}

#[test]
fn a_remote_that_goes_away_in_mid_export_and_comes_back_is_only_a_delay() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Minio);
    let link = Link::slow(store.port(), SLOW);
    let (door, project) = (Door::by_link(store, &link), Project::heavy(HEAVY));
    let writer = Builder::new(&door);
    let to = format!("{},mode=max", reference(door.port));
    let build = writer.build(&project).export(to).start();
    link.wait_for(MIDDLE);
    link.interrupt(OUTAGE);
    let right = build.wait().success();
    let built = import(&door, &project, &right).all_cached();
    assert_eq!(built.digest(), right.digest());
}

#[test]
fn a_folder_in_front_serves_what_it_has_while_the_remote_is_away() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Minio);
    let link = Link::to(store.port());
    let door = Door::with_front(store, &link, "write-through");
    let project = Project::stages();
    let right = export(&Builder::new(&door), door.port, &project);
    link.cut();
    let built = import(&door, &project, &right).all_cached();
    assert_eq!(built.digest(), right.digest());
}

#[test]
fn an_export_while_the_remote_is_away_survives_a_kill_and_arrives() {
    if !e2e() || !ours() {
        return;
    }
    let store = TestStore::new(Backend::Minio);
    let link = Link::to(store.port());
    let far = Cachectld::over(store.url()).envs(store.env()).start();
    let mut door = Door::with_front(store, &link, "write-back");
    let project = Project::stages();
    link.cut();
    let right = export(&Builder::new(&door), door.port, &project);
    import(&door, &project, &right).all_cached();
    door.restart();
    import(&door, &project, &right).all_cached();
    let cache = reference(far.port);
    link.mend();
    let until = Instant::now() + PATIENCE;
    while manifest(far.port, "team/app", "cache").is_none() {
        assert!(Instant::now() < until, "the tag never arrived");
        std::thread::sleep(Duration::from_millis(100));
    }
    let reader = Builder::with(&[far.port], door.docker_config());
    let built = reader.build(&project).import(cache).run().success();
    assert_eq!(built.all_cached().digest(), right.digest());
}

#[test]
fn a_door_that_is_killed_in_mid_export_and_starts_again_loses_nothing() {
    if !e2e() {
        return;
    }
    let (mut door, project) = (Door::start(), Project::heavy(HEAVY));
    let link = Link::slow(door.port, SLOW);
    let writer = Builder::with(&[link.port], door.docker_config());
    let to = format!("{},mode=max", reference(link.port));
    let build = writer.build(&project).export(to).start();
    link.wait_for(MIDDLE);
    door.kill();
    door.restart();
    let right = build.wait().success();
    let built = import(&door, &project, &right).all_cached();
    assert_eq!(built.digest(), right.digest());
}

#[test]
fn a_door_that_is_killed_in_mid_export_and_stays_away_leaves_the_last_cache_readable() {
    if !e2e() {
        return;
    }
    let (mut door, project) = (Door::start(), Project::heavy(HEAVY));
    let link = Link::slow(door.port, SLOW);
    let writer = Builder::with(&[link.port], door.docker_config());
    let right = export(&writer, link.port, &project);
    let changed = Project::heavy(HEAVY);
    let mut bytes = vec![0; HEAVY];
    fastrand::Rng::with_seed(12).fill(&mut bytes);
    changed.write("blob", &bytes);
    link.wait_for(0);
    // The builder's own word for a cache that must not fail the build.
    let to = format!("{},mode=max,ignore-error=true", reference(link.port));
    let build = writer.build(&changed).export(to).start();
    link.wait_for(MIDDLE);
    door.kill();
    build.wait().success();
    door.restart();
    let built = import(&door, &project, &right).all_cached();
    assert_eq!(built.digest(), right.digest());
}

#[test]
fn a_door_that_is_killed_in_mid_pull_and_starts_again_is_only_a_delay() {
    if !e2e() {
        return;
    }
    let (mut door, project) = (Door::start(), Project::heavy(HEAVY));
    let right = export(&Builder::new(&door), door.port, &project);
    let link = Link::slow(door.port, SLOW);
    let reader = Builder::with(&[link.port], door.docker_config());
    let build = reader.build(&project).import(reference(link.port)).start();
    link.wait_for(MIDDLE);
    door.kill();
    door.restart();
    let built = build.wait().success().all_cached();
    assert_eq!(built.digest(), right.digest());
}
