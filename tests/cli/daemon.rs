//! A daemon as the store: blobs through its registry door, upkeep through its control API.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpListener,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use super::{complaints, node_with_tree, outputs::same_as_documented, run, strings, words};
use crate::support::{
    cachectld::{Access, Cachectld},
    cli::{Cachectl, cachectl, flag, number},
    gocache::GoCache,
    node::Node,
    scratch::Scratch,
    servers::{Registry, free_port},
};

/// A `cachectld` over a disk store of its own.
pub(super) struct Daemon {
    child: Child,
    dir: Scratch,
    /// Below the system's temporary folder: paths of sockets must be short.
    sockets: tempfile::TempDir,
    pub(super) port: u16,
}

impl Daemon {
    pub(super) fn start(more: &[&str]) -> Self {
        let (dir, sockets) = (Scratch::new("daemon"), tempfile::tempdir().unwrap());
        let port = free_port();
        let socket = sockets.path().join("s");
        let child = Command::new(env!("CARGO_BIN_EXE_cachectld"))
            .arg("--store")
            .arg(format!("disk:{}", dir.path().join("store").display()))
            .arg("--state")
            .arg(dir.path().join("state"))
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .arg("--socket")
            .arg(&socket)
            .args(more)
            .env("HOME", dir.path())
            .stderr(fs::File::create(dir.path().join("log")).unwrap())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self {
            child,
            dir,
            sockets,
            port,
        };
        let deadline = Instant::now() + Duration::from_mins(5);
        while UnixStream::connect(&socket).is_err() {
            assert!(Instant::now() < deadline, "{}", daemon.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        daemon
    }

    pub(super) fn socket(&self) -> String {
        self.sockets.path().join("s").display().to_string()
    }

    pub(super) fn http(&self) -> String {
        format!("cachectld+http://127.0.0.1:{}", self.port)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    /// `cachectl` with these words and this daemon.
    pub(super) fn words(&self, node: &Node, line: &str) -> Cachectl {
        words(node, line).env("CACHECTL_DAEMON", self.socket())
    }

    /// Its store's folder.
    pub(super) fn store(&self) -> PathBuf {
        self.dir.path().join("store")
    }

    /// Makes all blobs old enough to be marked.
    pub(super) fn age_blobs(&self) {
        for blob in fs::read_dir(self.store().join("blobs/sha256")).unwrap() {
            let file = fs::File::open(blob.unwrap().path()).unwrap();
            let then = std::time::SystemTime::now() - Duration::from_hours(48);
            file.set_modified(then).unwrap();
        }
    }

    /// The one blob that is this pack or layer.
    pub(super) fn blob(&self, digest: &str) -> PathBuf {
        self.dir
            .path()
            .join("store/blobs")
            .join(digest.replace(':', "/"))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[test]
fn caches_go_from_node_to_node_through_a_daemon() {
    let daemon = Daemon::start(&[]);
    let (first, second) = (node_with_tree(), Node::new());
    let mut cache = GoCache::default();
    cache.compile("a", 50_000);
    cache.compile("b", 3000);
    cache.write(&first.gocache());
    let dir = daemon
        .words(&first, "export dir tree --name t --strict")
        .json();
    assert_eq!(dir["store"], format!("cachectld:{}", daemon.socket()));
    daemon
        .words(&first, "export gobuild --name g --strict")
        .json();

    let imported = cachectl(&second)
        .args(["import", "dir", "tree", "--name", "t", "--require-hit"])
        .args(["--daemon", &daemon.http()])
        .json();
    assert_eq!(imported["digest"], dir["digest"]);
    assert_eq!(fs::read(second.path("home/tree/b")).unwrap(), b"second");
    cachectl(&second)
        .args(["import", "gobuild", "--name", "g", "--require-hit"])
        .args(["--store", &daemon.http()])
        .run()
        .success();
    assert_eq!(GoCache::read(&second.gocache()), cache);

    // What another node adds is merged with what the first has.
    let mut more = GoCache::default();
    more.compile("c", 7000);
    more.write(&second.gocache());
    daemon
        .words(&second, "export gobuild --name g --strict")
        .json();
    let third = Node::new();
    daemon
        .words(&third, "import gobuild --name g --require-hit")
        .run()
        .success();
    cache.0.extend(more.0);
    assert_eq!(GoCache::read(&third.gocache()), cache);
}

#[test]
fn a_daemons_store_is_looked_at_and_looked_after_by_the_daemon() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    let json = |line: &str| daemon.words(&node, line).json();
    let exported = json("export dir tree --name t");

    let list = json("ls");
    same_as_documented("ls", &list);
    assert_eq!(list["snapshots"][0]["digest"], exported["digest"]);
    let text = daemon.words(&node, "ls").run().success().stdout;
    assert!(text.starts_with("KIND") && text.contains(" t "), "{text}");

    let shown = json("inspect t --files");
    same_as_documented("inspect", &shown);
    let files = shown["snapshots"][0]["files"].as_array().unwrap();
    assert!(files.iter().any(|f| f["path"] == "a"), "{shown}");

    let report = json("verify t --data");
    same_as_documented("verify", &report);
    assert!(flag(&report, "ok") && number(&report, "bytes_read") > 0);

    let usage = json("du");
    same_as_documented("du", &usage);
    assert!(number(&usage, "store_bytes") >= number(&usage, "stored_bytes"));

    let status = json("status");
    same_as_documented("status", &status);
    assert_eq!(status["version"], env!("CARGO_PKG_VERSION"));
    let listeners = strings(&status["listeners"]);
    assert!(listeners.contains(&format!("http://127.0.0.1:{}", daemon.port).as_str()));
    let text = daemon.words(&node, "status").run().success().stdout;
    assert!(text.contains("queue      none"), "{text}");

    let flushed = json("flush --wait");
    same_as_documented("flush", &flushed);
    assert!(flushed["queue"].is_null());

    same_as_documented("prune", &json("prune --dry-run"));
    // The head, and the side tag by which it was published.
    let rehearsed = json("rm t --dry-run");
    assert_eq!(strings(&rehearsed["tags"]).len(), 2);
    assert_eq!(json("rm t")["tags"], rehearsed["tags"]);
    assert!(json("ls")["snapshots"].as_array().unwrap().is_empty());
    for line in ["rm t", "inspect t", "verify t", "du t"] {
        let outcome = daemon.words(&node, line).run().code(1);
        assert!(outcome.stderr.contains("is named `t`"), "{line}: {outcome}");
    }
}

#[test]
fn a_daemon_prunes_beside_its_open_doors() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    daemon.words(&node, "export dir tree --name t").json();
    for grace in ["0", "59m"] {
        let outcome = daemon
            .words(&node, &format!("prune --grace {grace}"))
            .run()
            .code(2);
        assert!(outcome.stderr.contains("at least 1h"), "{outcome}");
    }
    daemon.words(&node, "rm t").run().success();
    daemon.age_blobs();
    let marked = daemon.words(&node, "prune --grace 1h").json();
    assert!(
        number(&marked, "marked") >= 3 && number(&marked, "blobs") == 0,
        "{marked}"
    );
    let again = daemon.words(&node, "prune --grace 1h").json();
    assert_eq!(number(&again, "marked") + number(&again, "blobs"), 0);
    // Somebody exports the same again: what is marked is used, and no byte is sent for it.
    let exported = daemon
        .words(&node, "export dir tree --name t --strict")
        .json();
    assert_eq!(number(&exported, "bytes_moved"), 0, "{exported}");
    let other = Node::new();
    daemon
        .words(&other, "import dir x --name t --require-hit")
        .run()
        .success();
}

#[test]
fn copies_with_folders_are_made_here_and_with_remotes_by_the_daemon() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    daemon.words(&node, "export dir tree --name t").json();
    let from = format!("cachectld:{}", daemon.socket());
    let folder = format!("disk:{}", node.path("copy").display());
    let here = words(&node, &format!("copy {from} {folder}")).json();
    same_as_documented("copy", &here);
    assert_eq!(
        (here["by"].as_str(), strings(&here["tags"]).len()),
        (Some("here"), 1)
    );

    // Its own registry door will do for a remote.
    let remote = format!("oci://127.0.0.1:{}/backup", daemon.port);
    let there = words(&node, &format!("copy {from} {remote}")).json();
    assert_eq!(
        (there["by"].as_str(), strings(&there["tags"]).len()),
        (Some("daemon"), 1)
    );
    let backup = words(&node, &format!("ls --store {remote}")).json();
    assert_eq!(backup["snapshots"][0]["name"], "t");

    // Folders of the daemon's machine it does not open.
    let line = format!("copy {from} {folder}2 --by daemon");
    let refused = run(&node, &line).code(1);
    assert!(refused.stderr.contains("--allow-path"), "{refused}");
    assert!(!node.path("copy2").exists());
    let line = format!("copy {folder} disk:x --by daemon");
    assert!(
        run(&node, &line)
            .code(2)
            .stderr
            .contains("neither FROM nor TO")
    );
}

#[test]
fn a_daemon_that_allows_paths_copies_to_folders_of_its_machine() {
    let daemon = Daemon::start(&["--allow-path"]);
    let node = node_with_tree();
    daemon.words(&node, "export dir tree --name t").json();
    let folder = format!("oci-layout:{}", node.path("copy").display());
    let line = format!("copy cachectld:{} {folder} --by daemon", daemon.socket());
    let copied = words(&node, &line).json();
    assert_eq!(
        (copied["by"].as_str(), strings(&copied["tags"]).len()),
        (Some("daemon"), 1)
    );
    let second = Node::new();
    run(
        &second,
        &format!("import dir x --name t --require-hit --store {folder}"),
    )
    .success();
}

#[test]
fn damage_that_the_daemon_finds_is_mended_by_this_nodes_next_export() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    daemon.words(&node, "export dir tree --name t").json();
    let shown = daemon.words(&node, "inspect t").json();
    let pack = shown["snapshots"][0]["packs"][0]["digest"]
        .as_str()
        .unwrap();
    let path = daemon.blob(pack);
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();

    let report = daemon
        .words(&node, "verify t --data --json")
        .run()
        .code(1)
        .json();
    assert!(!report["faults"].as_array().unwrap().is_empty(), "{report}");
    let second = Node::new();
    let missed = daemon
        .words(&second, "import dir x --name t")
        .run()
        .success();
    assert!(missed.stderr.contains("miss"), "{missed}");

    daemon
        .words(&node, "export dir tree --name t --strict")
        .json();
    daemon
        .words(&second, "import dir x --name t --require-hit")
        .run()
        .success();
}

#[test]
fn over_tcp_who_may_do_everything_prunes_and_others_do_not() {
    let secrets = tempfile::tempdir().unwrap();
    let (tokens, config) = (secrets.path().join("tokens"), secrets.path().join("c.toml"));
    fs::write(
        &tokens,
        "admin token-of-admin-0123\nci token-of-ci-01234567\n",
    )
    .unwrap();
    let grants = r#"grants = ["admin = ** : *", "ci = cachectl : pull, push"]"#;
    fs::write(&config, format!("[auth]\ntokens = {tokens:?}\n{grants}\n")).unwrap();
    let daemon = Daemon::start(&["--config", config.to_str().unwrap()]);
    let node = Node::new();
    let prune = |name: &str, token: &str| {
        words(&node, "prune --dry-run")
            .env("CACHECTL_DAEMON", daemon.http())
            .env("CACHECTL_REGISTRY_USERNAME", name)
            .env("CACHECTL_REGISTRY_PASSWORD", token)
    };
    prune("admin", "token-of-admin-0123").run().success();
    let refused = prune("ci", "token-of-ci-01234567").run().code(1);
    assert!(refused.stderr.contains("may not"), "{refused}");
    let unknown = prune("admin", "token-of-nobody-0123").run().code(1);
    assert!(unknown.stderr.contains("wrong"), "{unknown}");
}

#[test]
fn a_daemon_that_is_not_there_is_a_miss_or_an_error_that_says_where() {
    let node = node_with_tree();
    let nowhere = node.path("nowhere.sock").display().to_string();
    let with = |line: &str| words(&node, line).env("CACHECTL_DAEMON", &nowhere);
    let missed = with("import dir x --name t --retry-for 1s").run().success();
    assert!(
        missed.stderr.contains("continuing without the cache"),
        "{missed}"
    );
    for line in ["ls", "status", "flush --wait", "prune", "du"] {
        let failed = with(&format!("{line} --retry-for 1s")).run().code(1);
        assert!(failed.stderr.contains("nowhere.sock"), "{failed}");
        assert!(
            failed.stderr.contains("whether the daemon runs"),
            "{failed}"
        );
    }
}

#[test]
fn what_is_for_daemons_alone_says_so() {
    let node = Node::new();
    for line in ["status", "flush"] {
        let outcome = run(&node, line).code(2);
        assert!(outcome.stderr.contains("--daemon"), "{outcome}");
    }
    let two = run(&node, "ls --store disk:/x --daemon /d.sock").code(2);
    assert!(two.stderr.contains("two stores"), "{two}");
    let odd = run(&node, "ls --daemon host:5000").code(2);
    assert!(
        odd.stderr.contains("`daemon` cannot be `host:5000`"),
        "{odd}"
    );
    // A flag is nearer than a variable.
    let nearer = words(&node, "env --store disk:/x")
        .env("CACHECTL_DAEMON", "/d.sock")
        .json();
    assert_eq!(nearer["store"], "disk:/x");
    let set = words(&node, "env").env("CACHECTL_DAEMON", "/d.sock").json();
    assert_eq!(set["store"], "cachectld:/d.sock");
    assert_eq!(set["store_origin"], "$CACHECTL_DAEMON");
}

#[test]
fn a_proxy_that_speaks_http_1_alone_is_told_of() {
    let node = Node::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Ends with the test's process.
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut head = [0; 3];
            let answer = match stream.read_exact(&mut head) {
                Ok(()) if &head == b"GET" => "200 OK",
                _ => "400 Bad Request",
            };
            let text =
                format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop(stream.write_all(text.as_bytes()));
            drop(stream.shutdown(std::net::Shutdown::Write));
            // Closed with bytes unread, a socket takes its answer back.
            drop(std::io::copy(&mut stream, &mut std::io::sink()));
        }
    });
    let url = format!("cachectld+http://127.0.0.1:{port}");
    let outcome = run(&node, &format!("ls --store {url} --stall 2s")).code(1);
    assert!(outcome.stderr.contains(&url), "{outcome}");
    assert!(outcome.stderr.contains("must speak HTTP/2"), "{outcome}");
}

#[test]
fn buildx_setup_says_what_a_builder_needs() {
    let node = Node::new();
    let loopback = words(&node, "buildx-setup").json();
    same_as_documented("buildx-setup", &loopback);
    assert!(strings(&loopback["create"]).contains(&"network=host"));
    let text = run(&node, "buildx-setup").success().stdout;
    assert!(
        text.contains("[registry.\"127.0.0.1:5000\"]\n  http = true"),
        "{text}"
    );
    assert!(
        text.contains("ref=127.0.0.1:5000/app:cache,mode=max"),
        "{text}"
    );
    let far = words(&node, "buildx-setup --address 10.0.0.7:5000").json();
    assert!(!strings(&far["create"]).contains(&"network=host"), "{far}");
    run(&node, "buildx-setup --address 0.0.0.0:5000").code(2);

    let daemon = Daemon::start(&[]);
    let address = format!("127.0.0.1:{}", daemon.port);
    let asked = daemon.words(&node, "buildx-setup").json();
    assert_eq!(asked["address"], address);
    let named = words(&node, &format!("buildx-setup --daemon {}", daemon.http())).json();
    assert_eq!(named["address"], address);
}

#[test]
fn buildx_setup_runs_docker_once_for_a_builder() {
    let node = Node::new();
    let bin = node.path("bin");
    fs::create_dir(&bin).unwrap();
    let docker = bin.join("docker");
    // Knows a builder once it was made, and keeps what it was told.
    let script = "#!/bin/sh\n\
        case $2 in\n\
        inspect) test -e \"$HOME/made\" ;;\n\
        create) echo \"$@\" > \"$HOME/made\"; while [ $# -gt 1 ]; do [ $1 = --buildkitd-config ] && cat $2 > \"$HOME/config\"; shift; done ;;\n\
        esac\n";
    fs::write(&docker, script).unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let line = "buildx-setup --run --use --builder b --address 10.0.0.7:5000";
    words(&node, line).env("PATH", &path).run().success();
    let made = fs::read_to_string(node.path("home/made")).unwrap();
    assert!(
        made.starts_with("buildx create --name b --driver docker-container"),
        "{made}"
    );
    assert!(made.contains("--use"), "{made}");
    let config = fs::read_to_string(node.path("home/config")).unwrap();
    assert!(config.contains("http = true"), "{config}");
    let again = words(&node, line).env("PATH", &path).run().code(1);
    assert!(
        again.stderr.contains("builder `b` already exists"),
        "{again}"
    );
    let none = words(&node, line).env("PATH", "/nonexistent").run().code(1);
    assert!(none.stderr.contains("cannot run docker"), "{none}");
}

/// At an address that is this machine's and is not called loopback.
#[test]
fn passwords_over_plain_http_are_warned_of_once_unless_that_was_allowed() {
    let node = node_with_tree();
    let store = format!("disk:{}", node.path("behind").display());
    let daemon = Cachectld::over(&store).access(Access::Basic).start();
    let export = |host: &str, insecure: &str| {
        words(&node, "export dir tree --name t --strict")
            .env(
                "CACHECTL_DAEMON",
                format!("cachectld+http://{host}:{}", daemon.port),
            )
            .env("CACHECTL_REGISTRY_USERNAME", Registry::USER)
            .env("CACHECTL_REGISTRY_PASSWORD", Registry::PASSWORD)
            .env("CACHECTL_REGISTRY_INSECURE", insecure)
            .run()
            .success()
    };
    let warned = export("0.0.0.0", "false");
    let [said] = complaints(&warned)[..] else {
        panic!("not one warning: {warned}");
    };
    assert!(said.contains("are sent over plain http"), "{warned}");
    assert!(said.contains("registry.insecure"), "{warned}");
    assert!(!said.contains(Registry::PASSWORD));
    for (host, insecure) in [("0.0.0.0", "true"), ("127.0.0.1", "false")] {
        let quiet = export(host, insecure);
        assert!(complaints(&quiet).is_empty(), "{host}: {quiet}");
    }
}
