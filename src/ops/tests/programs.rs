//! Programs of `go run` and `go tool` in Go's build cache.

use std::{
    os::unix::fs::{MetadataExt as _, PermissionsExt},
    path::PathBuf,
};

use super::{
    go::{cache, put},
    *,
};

/// Puts a program as `go run` does; returns the paths of its action entry and of its folder.
fn put_program(root: &Path, action: &str, name: &str, bytes: &[u8]) -> (PathBuf, PathBuf) {
    let (act, folder) = put(root, action, bytes, 1);
    std::fs::remove_file(&folder).unwrap();
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join(name);
    std::fs::write(&program, bytes).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    (act, folder)
}

async fn export_go(world: &World, node: &str) -> export::Report {
    let root = world.path(node, "go-build");
    let options = exporting(&cache(&root, "go1"));
    export::run(&world.node(node), &options).await.unwrap()
}

async fn import_go(world: &World, node: &str, mirror: bool) -> import::Report {
    let root = world.path(node, "go-build");
    let mut options = importing(&cache(&root, "go1"));
    options.how.mirror = mirror;
    import::run(&world.node(node), &options).await.unwrap()
}

fn names(folder: &Path) -> Vec<String> {
    let names = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = names
        .map(|n| n.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The place of the same file on another node.
fn on(world: &World, node: &str, path: &Path) -> PathBuf {
    let below = path.strip_prefix(world.path("one", "go-build")).unwrap();
    world.path(node, "go-build").join(below)
}

/// Puts something into the place of a program's folder.
type Before = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn a_program_is_restored_whatever_was_in_its_place() {
    let world = World::new(Meet::SideTags);
    // Larger than one object.
    let bytes: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
    let (act, folder) = put_program(&world.path("one", "go-build"), "link", "hello", &bytes);
    put(&world.path("one", "go-build"), "compile", b"archive", 1);
    assert_eq!(export_go(&world, "one").await.entries, 4);
    let before: [(&str, Before); 5] = [
        ("nothing", |_| ()),
        ("empty", |folder| std::fs::create_dir_all(folder).unwrap()),
        ("damaged", |folder| {
            std::fs::create_dir_all(folder).unwrap();
            std::fs::write(folder.join("hello"), vec![7; 400_000]).unwrap();
        }),
        ("file", |folder| {
            std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
            std::fs::write(folder, b"no program").unwrap();
        }),
        ("link", |folder| {
            std::fs::create_dir_all(folder.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink("/etc/passwd", folder).unwrap();
        }),
    ];
    for (node, before) in before {
        let there = on(&world, node, &folder);
        before(&there);
        let report = import_go(&world, node, false).await;
        assert!(is_hit(&report), "{node}: {report:?}");
        assert_eq!(names(&there), ["hello"], "{node}");
        let program = there.join("hello");
        assert_eq!(std::fs::read(&program).unwrap(), bytes, "{node}");
        let mode = std::fs::metadata(&program).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o755, "{node}");
        assert!(on(&world, node, &act).is_file());
        let age = std::fs::symlink_metadata(&there).unwrap().modified();
        let age = age.unwrap().elapsed().unwrap();
        assert!(age.as_secs() >= 3600, "{node}: its next use is recorded");
        let again = import_go(&world, node, false).await;
        assert_eq!((again.moved.bytes_moved, again.entries_restored), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_program_is_not_exported() {
    let world = World::new(Meet::SideTags);
    let (_, folder) = put_program(&world.path("one", "go-build"), "link", "hello", b"program");
    put(&world.path("one", "go-build"), "compile", b"archive", 1);
    std::fs::write(folder.join("hello"), b"PROGRAM").unwrap();
    let report = export_go(&world, "one").await;
    assert_eq!(report.entries, 2, "{report:?}");
    let mut whys = report.left_out.iter().map(|l| l.what.as_str());
    assert!(whys.any(|what| what.ends_with("-d/hello")), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_several_names_of_a_program_serves_all_its_actions() {
    let world = World::new(Meet::SideTags);
    let mut acts = Vec::new();
    let mut folder = PathBuf::new();
    for (node, action, name) in [("one", "a", "foo"), ("two", "b", "bar")] {
        let root = world.path(node, "go-build");
        let (act, at) = put_program(&root, action, name, b"program");
        acts.push(act.strip_prefix(&root).unwrap().to_owned());
        folder = at.strip_prefix(&root).unwrap().to_owned();
        export_go(&world, node).await;
    }
    // Here it stands by a name of its own.
    put_program(&world.path("four", "go-build"), "c", "third", b"program");
    for (node, name) in [("three", "foo"), ("four", "third")] {
        for mirror in [false, true] {
            let report = import_go(&world, node, mirror).await;
            assert!(is_hit(&report), "{report:?}");
            let root = world.path(node, "go-build");
            assert_eq!(names(&root.join(&folder)), [name]);
            assert!(acts.iter().all(|act| root.join(act).is_file()));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_removes_programs_and_leaves_folders_with_other_files() {
    let world = World::new(Meet::SideTags);
    put(&world.path("one", "go-build"), "compile", b"archive", 1);
    export_go(&world, "one").await;
    let root = world.path("two", "go-build");
    let (act, gone) = put_program(&root, "link", "hello", b"program");
    let (_, stays) = put_program(&root, "other", "hello", b"another");
    std::fs::write(stays.join("notes"), b"mine").unwrap();
    assert!(is_hit(&import_go(&world, "two", true).await));
    assert!(!gone.exists() && !act.exists());
    assert_eq!(names(&stays), ["hello", "notes"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_other_files_is_left_alone_and_its_action_is_not_restored() {
    let world = World::new(Meet::SideTags);
    let (act, folder) = put_program(&world.path("one", "go-build"), "link", "hello", b"program");
    put(&world.path("one", "go-build"), "compile", b"archive", 1);
    export_go(&world, "one").await;
    for mirror in [false, true] {
        let there = on(&world, "two", &folder);
        std::fs::create_dir_all(&there).unwrap();
        std::fs::write(there.join("notes"), b"mine").unwrap();
        let report = import_go(&world, "two", mirror).await;
        assert!(report.hit.is_some() && report.blocked, "{report:?}");
        assert_eq!(names(&there), ["notes"]);
        assert!(!on(&world, "two", &act).exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_leaves_with_the_last_action_that_needs_it() {
    let world = World::new(Meet::CompareAndSwap);
    let root = world.path("one", "go-build");
    put_program(&root, "link", "hello", b"program");
    assert_eq!(export_go(&world, "one").await.entries, 2);
    // The action has another program by now.
    let (_, second) = put(&root, "link", b"program, edited", 2);
    std::fs::remove_file(&second).unwrap();
    std::fs::create_dir(&second).unwrap();
    std::fs::write(second.join("hello"), b"program, edited").unwrap();
    assert_eq!(export_go(&world, "one").await.entries, 2);
    assert!(is_hit(&import_go(&world, "two", false).await));
    let there = on(&world, "two", &second);
    assert_eq!(
        std::fs::read(there.join("hello")).unwrap(),
        b"program, edited"
    );
}
