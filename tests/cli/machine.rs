//! What the machine around a run does to it: a terminal, proxies, limits, full disks, files that others hold.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{XattrFlags, getxattr, setxattr},
    process::{Pid, Signal, kill_process},
};

use super::{daemon::Daemon, node_with_tree, run, words};
use crate::support::{cli::UNPRIVILEGED, gocache::GoCache, node::Node, tools};

/// A command at a terminal, to which `answer` is typed; what is shown there, and its exit code.
fn at_a_terminal(node: &Node, line: &str, answer: &str) -> (String, Option<i32>) {
    let command = format!("{} {line}", env!("CARGO_BIN_EXE_cachectl"));
    let mut child = node
        .command("script")
        .args(["-qec", &command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script comes with util-linux");
    let mut typed = child.stdin.take().unwrap();
    typed.write_all(answer.as_bytes()).unwrap();
    drop(typed);
    let out = child.wait_with_output().unwrap();
    let shown = String::from_utf8_lossy(&out.stdout).into_owned();
    (shown, out.status.code())
}

#[test]
fn rm_asks_at_a_terminal_and_deletes_nothing_unless_it_is_told_yes() {
    let node = node_with_tree();
    run(&node, "export dir tree --name n").success();
    for no in ["n\n", "\n", "Yes, but\n", ""] {
        let (shown, code) = at_a_terminal(&node, "rm n", no);
        assert!(
            shown.contains("Delete this cache? [y/N]") && shown.contains("nothing was deleted"),
            "{no:?}: {shown}"
        );
        assert_eq!(code, Some(1), "{no:?}");
        run(&node, "ls n").success();
    }
    for (line, answer) in [("rm n", "y\n"), ("rm n --yes", "")] {
        run(&node, "export dir tree --name n").success();
        let (shown, code) = at_a_terminal(&node, line, answer);
        assert_eq!(shown.contains("[y/N]"), !answer.is_empty(), "{shown}");
        assert_eq!(code, Some(0), "{shown}");
        run(&node, "ls n").code(1);
    }
}

/// A proxy that lets nothing through, and how often it was asked.
fn proxy() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(
                b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            );
        }
    });
    (port, asked)
}

#[test]
fn stores_that_no_proxy_names_are_asked_directly_and_others_through_the_proxy() {
    let node = Node::new();
    let (port, asked) = proxy();
    let stores = [
        "oci://cache.invalid:5000/x?insecure=true",
        "s3://bucket?endpoint=http://cache.invalid:5000&region=x&path_style=true",
    ];
    for store in stores {
        for (no_proxy, is_proxied) in [
            ("127.0.0.1", true),
            ("cache.invalid:1", true),
            ("cache.invalid", false),
            ("cache.invalid:5000", false),
            ("*.invalid", false),
            ("*", false),
            ("127.0.0.1, *", false),
        ] {
            asked.store(0, Ordering::SeqCst);
            let mut line = words(&node, &format!("ls --retry-for 0 --store {store}"))
                .env("AWS_ACCESS_KEY_ID", "key")
                .env("AWS_SECRET_ACCESS_KEY", "secret");
            for name in ["http_proxy", "https_proxy", "all_proxy"] {
                for name in [name.to_owned(), name.to_uppercase()] {
                    line = line.env(&name, format!("http://127.0.0.1:{port}"));
                }
            }
            let outcome = line
                .env("NO_PROXY", no_proxy)
                .env("no_proxy", no_proxy)
                .run()
                .code(1);
            let was_asked = asked.load(Ordering::SeqCst) > 0;
            assert_eq!(was_asked, is_proxied, "{store} {no_proxy}: {outcome}");
        }
    }
}

#[test]
fn a_proxy_that_does_not_do_is_named_by_its_variable_and_never_shown() {
    let node = Node::new();
    for (store, scheme) in [
        ("oci://cache.invalid:5000/x?insecure=true", "HTTP"),
        ("oci://cache.invalid:5000/x", "HTTPS"),
        (
            "s3://bucket?endpoint=http://cache.invalid:5000&region=x&path_style=true",
            "HTTP",
        ),
    ] {
        for (variable, proxy, wanted) in [
            (
                format!("{scheme}_PROXY"),
                "http://me:hunter2@127.0.0.1:1",
                true,
            ),
            (
                "ALL_PROXY".to_owned(),
                "http://me:hunter2@127.0.0.1:1",
                true,
            ),
            (format!("{scheme}_PROXY"), "http://[hunter2", false),
        ] {
            let mut line = words(&node, &format!("ls --retry-for 0 --store {store}"))
                .env("AWS_ACCESS_KEY_ID", "key")
                .env("AWS_SECRET_ACCESS_KEY", "secret");
            for name in ["http_proxy", "https_proxy", "all_proxy"] {
                line = line.env(name, "").env(&name.to_uppercase(), "");
            }
            let outcome = line.env(&variable, proxy).run().code(1);
            let through = format!("through the proxy of ${variable}");
            assert_eq!(outcome.stderr.contains(&through), wanted, "{outcome}");
            let ignored = format!("`{variable}` is not a proxy URL and is ignored");
            assert_eq!(outcome.stderr.contains(&ignored), !wanted, "{outcome}");
            assert!(!outcome.stderr.contains("hunter2"), "{outcome}");
        }
    }
}

#[test]
fn a_limit_of_the_size_of_files_and_a_folder_that_was_removed_end_no_build() {
    let node = node_with_tree();
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(64 << 10)
        .collect();
    fs::write(node.path("home/tree/big"), noise).unwrap();
    run(&node, "export dir tree --name t").success();
    let shell = |script: &str| {
        let mut command = node.command("sh");
        command.args(["-c", script, env!("CARGO_BIN_EXE_cachectl")]);
        let out = command.output().unwrap();
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        (out.status.code(), said)
    };
    for (what, trouble) in [
        ("import dir y --name t", "warning: miss: "),
        (
            "export dir tree --name u --store disk:new",
            "warning: not exported: ",
        ),
    ] {
        let (code, said) = shell(&format!("ulimit -f 8; exec \"$0\" {what}"));
        assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
        assert!(
            said.contains(trouble) && said.contains("File too large"),
            "{said}"
        );
    }
    let gone = "mkdir gone; cd gone; rmdir ../gone; exec \"$0\" import dir";
    let (code, said) = shell(&format!("{gone} \"$HOME/y\" --name t --require-hit"));
    assert_eq!((code, &*said), (Some(0), ""));
    assert!(node.path("home/y/big").exists());
    let (code, said) = shell(&format!("{gone} y --name t"));
    assert_eq!((code, said.lines().count()), (Some(0), 1), "{said}");
}

#[test]
fn an_import_of_a_go_cache_changes_no_file_that_is_linked_to_from_outside() {
    let node = Node::new();
    let mut cache = GoCache::default();
    cache.compile("a", 3000);
    cache.compile("b", 3000);
    cache.write(&node.gocache());
    run(&node, "export gobuild --name g").success();
    let files = || {
        let shards = fs::read_dir(node.gocache()).unwrap();
        let files = shards.flat_map(|shard| fs::read_dir(shard.unwrap().path()).unwrap());
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let outputs: Vec<_> = files()
        .into_iter()
        .filter(|path| path.to_str().unwrap().ends_with("-d"))
        .collect();
    let long_ago = SystemTime::now() - Duration::from_hours(72);
    for output in &outputs {
        let file = fs::File::open(output).unwrap();
        file.set_modified(long_ago).unwrap();
    }
    let mine = node.path("home/mine");
    fs::hard_link(&outputs[0], &mine).unwrap();
    setxattr(&mine, "user.test", b"v", XattrFlags::empty()).unwrap();
    if rustix::process::geteuid().is_root() {
        chown(&mine, Some(UNPRIVILEGED), Some(UNPRIVILEGED)).unwrap();
    }
    fs::set_permissions(&mine, fs::Permissions::from_mode(0o640)).unwrap();
    let state = || {
        let meta = fs::metadata(&mine).unwrap();
        let ours = (meta.ino(), meta.mode(), meta.uid(), meta.gid());
        (ours, fs::read(&mine).unwrap())
    };
    let before = state();
    run(&node, "import gobuild --name g --require-hit").success();
    let time = |path: &std::path::Path| fs::metadata(path).unwrap().modified().unwrap();
    assert_eq!(time(&mine), long_ago);
    assert!(state() == before, "mode, owner or content changed");
    assert_eq!(getxattr(&mine, "user.test", &mut [0; 8]), Ok(1));
    // A copy took its place; the other one, which nobody else has, is renewed where it stands.
    assert_ne!(time(&outputs[0]), long_ago);
    assert_ne!(time(&outputs[1]), long_ago);
    assert_eq!(GoCache::read(&node.gocache()), cache);
}

#[test]
fn a_go_cache_that_lost_a_part_is_a_hit_and_under_strict_a_failure() {
    let node = Node::new();
    let mut cache = GoCache::default();
    for label in ["a", "b"] {
        cache.compile(label, 3000);
        cache.write(&node.gocache());
        run(&node, "export gobuild --name g").success();
    }
    let shown = words(&node, "inspect g --json").run().success().json();
    let packs = shown["snapshots"][0]["packs"].as_array().unwrap();
    assert_eq!(packs.len(), 2, "{shown}");
    let lost = packs[0]["digest"].as_str().unwrap().replace(':', "/");
    fs::remove_file(node.path("home/.cache/cachectl/blobs").join(lost)).unwrap();
    let other = Node::new();
    let store = format!("disk:{}", node.path("home/.cache/cachectl").display());
    let line = format!("import gobuild --name g --store {store}");
    run(&other, &format!("{line} --strict")).code(1);
    let outcome = words(&other, &format!("{line} --json")).run().success();
    assert_eq!(outcome.json()["hit"], true, "{outcome}");
    assert_eq!(GoCache::read(&other.gocache()).0.len(), 1);
    let checked = run(&node, "verify g").code(1);
    assert!(checked.stdout.contains("1 fault"), "{checked}");
}

#[test]
fn verify_counts_manifests_and_blobs_in_words() {
    let node = node_with_tree();
    run(&node, "export dir tree --name n").success();
    let said = run(&node, "verify").success().stdout;
    let (counted, rest) = said.split_once(" checked (structure): no faults").unwrap();
    assert!(rest.starts_with("; "), "{said}");
    let counted: Vec<&str> = counted.split(", ").collect();
    let words: Vec<&str> = counted
        .iter()
        .map(|part| part.split_once(' ').unwrap().1)
        .collect();
    assert_eq!(words, ["manifest", "blob", "entries"], "{said}");
}

/// A server that takes connections and never says a word.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("oci://{}/x", listener.local_addr().unwrap());
    (listener, url)
}

#[test]
fn an_interrupted_command_says_what_it_leaves() {
    const UNPUBLISHED: &str = "; nothing half-done was published";
    let node = node_with_tree();
    for (line, left) in [
        ("export dir tree --name n --store {store}", UNPUBLISHED),
        ("import dir y --name n --store {store}", ""),
        ("copy {store} disk:copied", UNPUBLISHED),
        ("prune --max-age 1d --store {store}", ""),
        ("rm n --store {store}", ""),
        (
            "flush --daemon {daemon}",
            "; the daemon continues to upload",
        ),
        ("ls --store {store}", ""),
        ("verify --store {store}", ""),
        ("du --store {store}", ""),
        ("inspect n --store {store}", ""),
    ] {
        // Of its own, so that what it takes is this command's connection.
        let (listener, url) = silent_server();
        let daemon = format!("cachectld+http://{}", listener.local_addr().unwrap());
        let line = line.replace("{store}", &url).replace("{daemon}", &daemon);
        let running = words(&node, &format!("{line} --stall 1h --budget 5m")).start();
        let _held = listener.accept().unwrap();
        let pid = Pid::from_raw(running.process_id().cast_signed()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        let outcome = running.wait().code(143);
        let said = outcome.stderr.lines().last().unwrap();
        assert_eq!(said, format!("cachectl: interrupted{left}"), "{outcome}");
    }
    assert!(!node.path("home/y").exists());
}

#[test]
fn a_low_soft_limit_of_open_files_is_raised() {
    let node = Node::new();
    let (listener, url) = silent_server();
    let script = "ulimit -S -n 100; exec \"$0\" ls --stall 1h --budget 5m --store \"$1\"";
    let mut child = node
        .command("sh")
        .args(["-c", script, env!("CARGO_BIN_EXE_cachectl"), &url])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _held = listener.accept().unwrap();
    let limits = fs::read_to_string(format!("/proc/{}/limits", child.id())).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    let files = limits.lines().find(|l| l.starts_with("Max open files"));
    let files: Vec<&str> = files.unwrap().split_whitespace().collect();
    let [soft, hard] = [files[3], files[4]].map(|n| n.parse().unwrap_or(u64::MAX));
    assert!(soft > 100 && soft <= hard, "{limits}");
}

/// Runs a command, as words of a shell in which `$0` is `cachectl` and `$1` a file system mounted with `options`; what it says, `None`
/// where the machine lets nobody mount one.
fn on_a_small_disk(node: &Node, options: &str, command: &str) -> Option<String> {
    let disk = node.path("full");
    fs::create_dir_all(&disk).unwrap();
    let script = format!("mount -t tmpfs -o {options} none \"$1\" || exit 77; exec {command}");
    let mut shell: Command = node.command("unshare");
    shell.args(["-m", "sh", "-c", &script, env!("CARGO_BIN_EXE_cachectl")]);
    let out = shell.arg(&disk).output().unwrap();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    if out.status.code() == Some(77) || said.contains("unshare") {
        return None;
    }
    assert_eq!(out.status.code(), Some(0), "{command}: {said}");
    Some(said)
}

#[test]
fn a_full_disk_is_told_with_its_path() {
    let node = node_with_tree();
    let mut random = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(4 << 20)
        .collect();
    fs::write(node.path("home/tree/noise"), noise).unwrap();
    run(&node, "export dir tree --name t --store disk:s").success();
    // A store that has no place of its own for what is unfinished.
    let daemon = Daemon::start(&[]);
    let spooled = format!(
        "env CACHECTL_TEMP_DIR=\"$1\" \"$0\" export dir tree --name n --store {}",
        daemon.http()
    );
    let no_space = "No space left on device";
    for (options, command, why) in [
        (
            "size=1m",
            "\"$0\" export dir tree --name n --store \"disk:$1/s\"",
            no_space,
        ),
        ("size=1m", spooled.as_str(), no_space),
        (
            "size=1m",
            "\"$0\" import dir \"$1/y\" --name t --store disk:s",
            " are free",
        ),
        // How many files still fit is not known before.
        (
            "nr_inodes=4",
            "\"$0\" import dir \"$1/y\" --name t --store disk:s",
            no_space,
        ),
    ] {
        let Some(said) = on_a_small_disk(&node, options, command) else {
            return tools::cannot_show("what a full disk does: no right to mount a file system");
        };
        assert_eq!(said.lines().count(), 1, "{command}: {said}");
        let path = node.path("full").display().to_string();
        assert!(
            said.contains(why) && said.contains(&path),
            "{command}: {said}"
        );
    }
}

#[test]
fn a_bucket_that_refuses_the_connection_is_told_in_plain_words() {
    let node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    // Nobody listens there any more.
    drop(listener);
    let bucket = format!("s3://bucket?endpoint=http://{at}&region=x&path_style=true");
    let outcome = words(&node, &format!("ls --retry-for 0 --store {bucket}"))
        .env("AWS_ACCESS_KEY_ID", "key")
        .env("AWS_SECRET_ACCESS_KEY", "secret")
        .run()
        .code(1);
    let said = ": cannot connect: Connection refused (os error 111)\n";
    assert!(outcome.stderr.contains(said), "{outcome}");
}
