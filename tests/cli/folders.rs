//! `export dir` and `import dir` where a folder holds what is not the cache's: cachectl's own folders, excluded paths, links.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
};

use super::{complaints, run, words};
use crate::support::{cli::UNPRIVILEGED, node::Node, tools};

fn write(node: &Node, path: &str, text: &str) {
    let path = node.path("home").join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn read(node: &Node, path: &str) -> String {
    fs::read_to_string(node.path("home").join(path)).unwrap()
}

fn names(node: &Node, store: &str) -> String {
    run(node, &format!("ls --store {store}")).success().stdout
}

#[test]
fn a_store_in_the_carried_folder_is_neither_carried_nor_rolled_back() {
    for scheme in ["disk", "oci-layout"] {
        let node = Node::new();
        let store = format!("{scheme}:.cache/store");
        write(&node, ".cache/pip/f", "p");
        write(&node, "o/f", "v1");
        run(&node, &format!("export dir o --name o --store {store}")).success();
        let cache = format!("export dir .cache --name cache --store {store}");
        let first = words(&node, &cache).json();
        write(&node, "o/f", "v2");
        run(&node, &format!("export dir o --name o --store {store}")).success();
        // It does not grow by itself.
        let again = words(&node, &cache).json();
        assert_eq!(first["snapshots"][0]["entries"], 2, "{first:#}");
        assert_eq!(again["snapshots"][0]["unchanged"], true, "{again:#}");
        for more in ["", "--mirror"] {
            run(
                &node,
                &format!("import dir .cache --name cache --store {store} {more}"),
            )
            .success();
        }
        run(&node, &format!("import dir y --name o --store {store}")).success();
        assert_eq!(read(&node, "y/f"), "v2", "{scheme}");
    }
}

/// Gives all below the node to the user that unprivileged runs are.
pub(super) fn give_away(node: &Node) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut all = vec![node.path("")];
    while let Some(path) = all.pop() {
        std::os::unix::fs::chown(&path, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
        if path.is_dir() {
            all.extend(fs::read_dir(path).unwrap().map(|e| e.unwrap().path()));
        }
    }
}

#[test]
fn root_is_warned_of_a_store_that_belongs_to_another_user() {
    if !rustix::process::geteuid().is_root() {
        return tools::cannot_show("a warning to root: these tests do not run as root");
    }
    let node = Node::new();
    write(&node, "w/f", "1");
    let export = "export dir w --name w --store disk:s";
    assert!(complaints(&run(&node, export).success()).is_empty());
    let root = node.path("home/s");
    std::os::unix::fs::chown(&root, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    for line in [
        export,
        "import dir x --name w --store disk:s",
        "ls --store disk:s",
    ] {
        let warned = run(&node, line).success();
        let about = complaints(&warned);
        let [said] = about[..] else {
            panic!("not one warning: {warned}");
        };
        for words in ["belongs to another user", "/home/s", "owner=65534"] {
            assert!(said.contains(words), "{words}: {warned}");
        }
    }
    // To that user it is no news.
    give_away(&node);
    let own = words(&node, "ls --store disk:s").unprivileged().run();
    assert!(complaints(&own.success()).is_empty());
}

#[test]
fn a_folder_of_which_nothing_can_be_read_empties_no_name() {
    let node = Node::new();
    write(&node, "ch/log", "1");
    give_away(&node);
    let export = "export dir ch --name ch --store disk:s";
    words(&node, export).unprivileged().run().success();
    let log = node.path("home/ch/log");
    fs::set_permissions(&log, fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = words(&node, export).unprivileged().run().success();
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(
        outcome.stderr.contains("not exported: nothing in"),
        "{outcome}"
    );
    assert!(outcome.stderr.contains("log: "), "{outcome}");
    let strict = words(&node, &format!("{export} --strict")).unprivileged();
    strict.run().code(1);
    write(&node, "y/keep", "2");
    run(
        &node,
        "import dir y --name ch --store disk:s --mirror --require-hit",
    )
    .success();
    assert_eq!(read(&node, "y/log"), "1");
}

#[test]
fn a_folder_that_cannot_be_listed_is_not_carried_as_an_empty_one() {
    let node = Node::new();
    write(&node, "ch/sub/f", "1");
    write(&node, "ch/g", "2");
    give_away(&node);
    let sub = node.path("home/ch/sub");
    fs::set_permissions(&sub, fs::Permissions::from_mode(0o000)).unwrap();
    let outcome = words(&node, "export dir ch --name ch --store disk:s").unprivileged();
    let outcome = outcome.run().success();
    assert!(
        outcome.stderr.contains("sub: the folder cannot be listed"),
        "{outcome}"
    );
    run(&node, "import dir y --name ch --store disk:s --require-hit").success();
    assert_eq!(read(&node, "y/g"), "2");
    assert!(!node.path("home/y/sub").exists());
    fs::set_permissions(&sub, fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn a_mirroring_import_leaves_stores_and_state_alone_whatever_is_excluded() {
    let node = Node::new();
    write(&node, "w/b/o", "1");
    let inside = |line: &str| {
        words(&node, line)
            .inside(&node.path("home/w"))
            .env("CACHECTL_STATE_DIR", node.path("home/w/.state"))
            .run()
            .success()
    };
    // Another store, which this run does not use: known by its mark.
    inside("export dir b --name b --store disk:other");
    inside("export dir b --name b --store disk:.store");
    inside("export dir . --name w --store disk:.store --exclude .store");
    inside("import dir . --name w --store disk:.store --mirror");
    assert!(names(&node, "disk:w/.store").contains(" b "));
    assert!(names(&node, "disk:w/other").contains(" b "));
    assert!(node.path("home/w/.state").is_dir());
    // Elsewhere nothing of them arrives.
    inside("import dir ../y --name w --store disk:.store");
    for own in [".store", "other", ".state"] {
        assert!(!node.path("home/y").join(own).exists(), "{own}");
    }
    assert_eq!(read(&node, "y/b/o"), "1");
}

#[test]
fn what_an_old_snapshot_has_of_our_folders_is_not_restored_and_said() {
    let node = Node::new();
    // As an export without this rule made it: a folder where the store of the import will be.
    write(&node, "w/.store/tags/o", "old");
    write(&node, "w/f", "1");
    run(&node, "export dir w --name w --store disk:elsewhere").success();
    fs::remove_dir_all(node.path("home/w")).unwrap();
    let outcome = words(&node, "import dir w --name w --store disk:elsewhere")
        .env("CACHECTL_STATE_DIR", node.path("home/w/.store"))
        .run()
        .success();
    assert_eq!(read(&node, "w/f"), "1");
    assert!(!node.path("home/w/.store/tags").exists());
    let said = complaints(&outcome);
    assert!(
        said.iter().any(|l| l.contains("cachectl's own folders")),
        "{outcome}"
    );
    assert!(outcome.stdout.contains("hit"), "{outcome}");
}

#[test]
fn a_store_is_not_a_folder_to_carry() {
    let node = Node::new();
    write(&node, "o/f", "1");
    for store in ["disk:s", "oci-layout:l"] {
        run(&node, &format!("export dir o --name o --store {store}")).success();
        let (_, folder) = store.split_once(':').unwrap();
        for verb in ["export", "import"] {
            for other in [store, "disk:third"] {
                let line = format!("{verb} dir {folder} --name x --store {other}");
                let outcome = run(&node, &line).code(2);
                assert!(outcome.stderr.contains("belongs to cachectl"), "{outcome}");
            }
        }
    }
    // Nor one that is only about to become cachectl's.
    fs::write(
        node.path("home/cachectl.toml"),
        "state_dir = \"state\"\ntemp_dir = \"temp\"\n",
    )
    .unwrap();
    for new in ["state", "temp"] {
        for path in [new.into(), node.path("home").join(new)] {
            let path = path.display();
            let line = format!("import dir {path} --name o --store disk:s --config cachectl.toml");
            let outcome = run(&node, &line).code(2);
            assert!(outcome.stderr.contains("belongs to cachectl"), "{outcome}");
            assert!(!node.path("home").join(new).join("f").exists());
        }
    }
}

#[test]
fn an_import_writes_no_excluded_path_and_what_it_links_to_stays_out() {
    let node = Node::new();
    write(&node, "x/local.cfg", "CACHE");
    write(&node, "x/sub/a.tmp", "CACHE");
    write(&node, "x/keep", "k");
    fs::hard_link(node.path("home/x/local.cfg"), node.path("home/x/z")).unwrap();
    run(&node, "export dir x --name e").success();
    write(&node, "y/local.cfg", "MINE");
    for mirror in ["", "--mirror"] {
        let line = format!("import dir y --name e --exclude local.cfg --exclude sub/ {mirror}");
        let outcome = run(&node, &line).success();
        assert_eq!(read(&node, "y/local.cfg"), "MINE");
        assert_eq!(read(&node, "y/keep"), "k");
        assert!(!node.path("home/y/sub").exists() && !node.path("home/y/z").exists());
        assert!(
            outcome.stderr.contains("hard link to `local.cfg`"),
            "{outcome}"
        );
    }
}

#[test]
fn an_import_changes_no_file_that_is_linked_to_from_outside() {
    let node = Node::new();
    write(&node, "x/f", "c");
    let mode = |path: &str, mode| {
        let path = node.path("home").join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    mode("x/f", 0o755);
    fs::hard_link(node.path("home/x/f"), node.path("home/x/g")).unwrap();
    run(&node, "export dir x --name h").success();
    write(&node, "pool/f", "c");
    mode("pool/f", 0o644);
    fs::create_dir(node.path("home/y")).unwrap();
    fs::hard_link(node.path("home/pool/f"), node.path("home/y/f")).unwrap();
    let stat = || fs::metadata(node.path("home/pool/f")).unwrap();
    let before = stat();
    run(&node, "import dir y --name h").success();
    let after = stat();
    assert_eq!(
        (after.mode(), after.mtime(), after.mtime_nsec()),
        (before.mode(), before.mtime(), before.mtime_nsec())
    );
    let (f, g) = ("home/y/f", "home/y/g");
    let placed = fs::metadata(node.path(f)).unwrap();
    assert_eq!(placed.mode() & 0o777, 0o755);
    assert_eq!(placed.ino(), fs::metadata(node.path(g)).unwrap().ino());
    // A file with no more names than the snapshot gives it is mended in place.
    mode("y/f", 0o600);
    run(&node, "import dir y --name h").success();
    let mended = fs::metadata(node.path(f)).unwrap();
    assert_eq!((mended.ino(), mended.mode() & 0o777), (placed.ino(), 0o755));
}

#[test]
fn few_open_files_are_enough() {
    let node = Node::new();
    for i in 0..400 {
        write(&node, &format!("x/{i}/f"), &i.to_string());
    }
    run(&node, "export dir x --name many").success();
    let outcome = node
        .command("sh")
        .args([
            "-c",
            "ulimit -n 128; exec \"$0\" import dir y --name many",
            env!("CARGO_BIN_EXE_cachectl"),
        ])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&outcome.stderr);
    assert!(outcome.status.success() && said.is_empty(), "{said}");
    assert_eq!(read(&node, "y/399/f"), "399");
}

#[test]
fn variables_of_other_programs_are_warned_about_and_near_ones_refused() {
    let node = Node::new();
    write(&node, "o/f", "1");
    let with = |line: &str, name: &str, value: &str| words(&node, line).env(name, value).run();
    for verb in ["export", "import"] {
        let line = format!("{verb} dir o --name o");
        for foreign in ["VERSION", "CHECKSUM", "JOB", "READ_ONLY_TOKEN"] {
            let foreign = format!("CACHECTL_{foreign}");
            let outcome = with(&line, &foreign, "1.2.3").success();
            assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
            let said = format!("`{foreign}` is not a setting");
            assert!(outcome.stderr.contains(&said), "{outcome}");
        }
        with(&format!("{line} --strict"), "CACHECTL_VERSION", "1.2.3").code(2);
        for near in [
            "CACHECTL_READONLY",
            "CACHECTL_READ_ONLY_MODE",
            "CACHECTL_STROE",
        ] {
            with(&line, near, "1").code(2);
        }
        with(&line, "CACHECTL_READ_ONLY", "maybe").code(2);
    }
    for bad in ["1700000000.5", "now", "-1"] {
        let outcome = with("export dir o --name o", "SOURCE_DATE_EPOCH", bad).success();
        assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
        assert!(
            outcome.stderr.contains("SOURCE_DATE_EPOCH is ignored"),
            "{outcome}"
        );
    }
}

#[test]
fn an_owner_with_capitals_is_lowered_with_a_note() {
    let node = Node::new();
    write(&node, "o/f", "1");
    let registry = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = registry.local_addr().unwrap();
    let running = words(&node, "import dir o --name o --retry-for 0")
        .env("CACHECTL_STORE", format!("oci://{at}/My-Org/ci-cache"))
        .start();
    let mut asked = [0; 25];
    let (mut stream, _) = registry.accept().unwrap();
    std::io::Read::read_exact(&mut stream, &mut asked).unwrap();
    let asked = String::from_utf8_lossy(&asked).into_owned();
    assert!(asked.contains("/v2/my-org/ci-cache"), "{asked}");
    drop((stream, registry));
    let outcome = running.wait().success();
    assert!(
        outcome
            .stderr
            .contains("note: repository names are lower case: using repository `my-org/ci-cache`"),
        "{outcome}"
    );
}

#[test]
fn outputs_begin_a_line_and_a_name_that_is_not_there_is_1() {
    let node = Node::new();
    write(&node, "o/f", "1");
    run(&node, "export dir o --name o").success();
    write(&node, "out", "before=1");
    words(&node, "import dir o --name o")
        .env("GITHUB_OUTPUT", node.path("home/out"))
        .run()
        .success();
    assert!(read(&node, "out").starts_with("before=1\ncache-hit=true\n"));
    run(&node, "ls o").success();
    run(&node, "ls nothing").code(1);
    run(&node, "ls nothing --json").code(1);
}

#[test]
fn a_folder_that_an_import_makes_is_as_private_as_it_was() {
    let node = Node::new();
    write(&node, "x/f", "1");
    let dir = |path: &str| node.path("home").join(path);
    let chmod = |path: &str, mode| {
        fs::set_permissions(dir(path), fs::Permissions::from_mode(mode)).unwrap();
    };
    let looks = |path: &str| {
        let stat = fs::metadata(dir(path)).unwrap();
        (stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec())
    };
    chmod("x", 0o700);
    let before = looks("x");
    run(&node, "export dir x --name p").success();
    run(&node, "import dir fresh --name p").success();
    assert_eq!(looks("fresh"), before);
    // An existing one keeps its own.
    fs::create_dir(dir("old")).unwrap();
    chmod("old", 0o750);
    run(&node, "import dir old --name p").success();
    assert_eq!(looks("old").0, 0o750);
    // A change of its time alone is none, one of its permissions is.
    fs::write(dir("x/g"), "").unwrap();
    fs::remove_file(dir("x/g")).unwrap();
    let unchanged = |want: bool| {
        let report = words(&node, "export dir x --name p").json();
        assert_eq!(report["snapshots"][0]["unchanged"], want, "{report:#}");
    };
    unchanged(true);
    chmod("x", 0o755);
    unchanged(false);
    unchanged(true);
}
