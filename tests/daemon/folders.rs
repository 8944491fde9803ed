//! Folders of the daemon's own: where nothing can be written, and where a job carries what is around them.

use std::fs;

use super::{Daemon, failure};
use crate::support::{cli::cachectl, node::Node, tools};

#[test]
fn a_check_finds_a_read_only_file_system_on_which_it_would_not_start() {
    let node = Node::new();
    let mount = node.path("mount");
    fs::create_dir_all(&mount).unwrap();
    let script = "mount -t tmpfs -o ro none \"$1\" || exit 77; shift; exec \"$@\"";
    for folder in ["state", "store", "front", "socket"] {
        for check in [&["--check-config"][..], &[]] {
            let place = |name: &str| {
                let above = if name == folder {
                    &mount
                } else {
                    &node.path("")
                };
                above.join("below").join(name).display().to_string()
            };
            let mut command = node.command("unshare");
            command.args(["-m", "sh", "-c", script, "sh"]).arg(&mount);
            command.arg(env!("CARGO_BIN_EXE_cachectld")).args(check);
            command.args(["--listen", "127.0.0.1:0", "--state", &place("state")]);
            command.args(["--socket", &place("socket")]);
            match folder {
                "front" => {
                    command.args(["--store", "oci://127.0.0.1:1/x", "--front", &place("front")])
                }
                _ => command.args(["--store", &format!("disk:{}", place("store"))]),
            };
            let (code, said) = failure(command);
            if code == 77 {
                return tools::cannot_show("a read-only file system: no right to mount one");
            }
            assert!(
                code == 1 || code == 2 && check.is_empty(),
                "{folder}: {code} {said}"
            );
            assert!(said.contains("Read-only file system"), "{folder}: {said}");
        }
    }
}

#[test]
fn a_daemons_folders_in_a_carried_folder_are_left_out() {
    let node = Node::new();
    let tree = node.path("home/tree");
    fs::create_dir_all(&tree).unwrap();
    fs::write(tree.join("f"), "x").unwrap();
    let below = |name: &str| tree.join(name).display().to_string();
    // Its remote is not there, which keeps it from nothing.
    let daemon = Daemon::start(
        &node,
        &[
            "--store",
            "oci://127.0.0.1:1/team/caches",
            "--front",
            &below("front"),
            "--state",
            &below("state"),
        ],
    );
    assert!(tree.join("front").is_dir() && tree.join("state").is_dir());
    let export = || {
        let words = "export dir tree --name t --store disk:store";
        cachectl(&node).args(words.split(' ')).json()
    };
    let first = export();
    assert_eq!(first["snapshots"][0]["entries"], 1, "{first:#}");
    drop(daemon);
    assert_eq!(export()["snapshots"][0]["unchanged"], true);
}
