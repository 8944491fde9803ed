//! Starting: without settings, with wrong ones, where somebody else is already.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    process::Command,
};

use super::{
    Daemon, cachectld, failure,
    process::{file, status},
};
use crate::support::{node::Node, tools};

#[test]
fn without_arguments_it_serves_or_says_who_has_the_port() {
    let node = Node::new();
    let daemon = Daemon::spawn(cachectld(&node));
    let began = std::time::Instant::now();
    while daemon.lines("Ready").is_empty() {
        // Port 5000 may be another program's, on the machine of whoever runs this test.
        if let Some(line) = daemon.lines("Startup failed").first() {
            let why = line["error"].as_str().unwrap();
            assert!(
                why.starts_with("cannot listen on 127.0.0.1:5000: "),
                "{why}"
            );
            return tools::cannot_show("the default address: port 5000 is taken");
        }
        assert!(began.elapsed() < std::time::Duration::from_mins(5));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    assert_eq!(daemon.address(), "127.0.0.1:5000");
    assert_eq!(daemon.status("GET", "/v2/"), 200);
    assert!(node.path("home/.cache/cachectl/blobs").is_dir());
    assert!(node.path("home/.local/state/cachectld/lock").is_file());
}

/// Nobody is asked before it is ready: a registry that is away is trouble of the requests that need it.
#[test]
fn a_registry_that_is_away_does_not_keep_it_from_starting() {
    for with_front in [false, true] {
        let node = Node::new();
        let front = node.path("front");
        let mut args = vec!["--store", "oci://127.0.0.1:1/team/caches"];
        if with_front {
            args.extend(["--front", front.to_str().unwrap(), "--mode", "write-back"]);
        }
        let daemon = Daemon::start(&node, &args);
        assert_eq!(daemon.status("GET", "/v2/"), 200);
        assert_eq!(daemon.status("GET", "/readyz"), 200);
    }
}

/// A job's `HOME` may be its workspace: what a pull request put there must not set up the daemon that the job starts.
#[test]
fn a_settings_file_of_a_ci_jobs_checkout_is_refused_until_somebody_names_it() {
    let node = Node::new();
    let own = node.path("home/.config/cachectl/cachectld.toml");
    fs::create_dir_all(own.parent().unwrap()).unwrap();
    fs::write(&own, "store = \"disk:/from/the/checkout\"\n").unwrap();
    // One in the working directory is not looked for at all.
    fs::write(node.path("home/cachectld.toml"), "nonsense").unwrap();
    let check = |vars: &[(&str, &str)]| {
        let mut check = cachectld(&node);
        check.arg("--check-config").envs(vars.iter().copied());
        check.output().unwrap()
    };
    let refused = check(&[("CI", "true")]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(2), "{said}");
    assert!(said.contains("is part of this CI job's checkout"), "{said}");
    let own = own.to_str().unwrap();
    for vars in [&[][..], &[("CI", "true"), ("CACHECTLD_CONFIG", own)]] {
        let checked = check(vars);
        let shown = String::from_utf8_lossy(&checked.stdout).into_owned();
        assert!(shown.contains("disk:/from/the/checkout"), "{shown}");
    }
}

#[test]
fn every_listener_is_named_and_answers() {
    let node = Node::new();
    let socket = node.path("s.sock");
    let daemon = Daemon::start(
        &node,
        &[
            "--listen",
            "127.0.0.2:0",
            "--admin-listen",
            "127.0.0.1:0",
            "--socket",
            socket.to_str().unwrap(),
            "--socket-mode",
            "0640",
        ],
    );
    let found = daemon.listeners();
    let serves: Vec<&str> = found.iter().map(|(_, serves)| &**serves).collect();
    assert_eq!(serves, ["doors", "doors", "doors", "admin"]);
    let address = |i: usize| found[i].0.strip_prefix("http://").unwrap();
    assert!(address(1).starts_with("127.0.0.2:"));
    for i in [0, 1] {
        assert_eq!(status(address(i), "GET", "/v2/"), 200);
        // Probes are apart.
        assert_eq!(status(address(i), "GET", "/readyz"), 404);
    }
    assert_eq!(status(address(3), "GET", "/readyz"), 200);
    assert_eq!(status(address(3), "GET", "/v2/"), 404);
    assert_eq!(found[2].0, format!("unix:{}", socket.display()));
    assert!(UnixStream::connect(&socket).is_ok());
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
}

#[test]
fn check_config_prints_what_would_hold_without_secrets() {
    let node = Node::new();
    let config = file(
        &node,
        "c.toml",
        "store = \"s3://bucket/p\"\nlisten = [\"127.0.0.1:7\"]\n[registry]\npassword = \"hunter2\"\n",
    );
    let done = cachectld(&node)
        .args(["--check-config", "--config", &config, "--upload-ttl", "2h"])
        .envs(nobody_there())
        .env("CACHECTLD_MAX_REQUESTS", "9")
        .output()
        .unwrap();
    let text = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{text}");
    let row = |key: &str| {
        let mut rows = text.lines().filter(|l| l.split(' ').next() == Some(key));
        let row = rows.next().unwrap().split_whitespace();
        row.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(row("store"), format!("store s3://bucket/p {config}:1"));
    assert_eq!(row("upload_ttl"), "upload_ttl 2h --upload-ttl");
    assert_eq!(
        row("max_requests"),
        "max_requests 9 $CACHECTLD_MAX_REQUESTS"
    );
    assert!(!text.contains("hunter2"), "{text}");
    assert!(text.contains("the store is not reachable now: "), "{text}");
    assert!(text.ends_with("\nOK: the settings are valid\n"), "{text}");
    assert!(!node.path("home/.local").exists(), "a check makes nothing");
}

#[test]
fn a_variable_that_hides_a_line_of_the_file_is_warned_of() {
    let node = Node::new();
    let text = "store = \"disk:one\"\nlog = \"warn\"\nmax_requests = 9\nlisten = [\"http://127.0.0.1:0\", \"127.0.0.1:0\"]\n";
    let config = file(&node, "cachectld.toml", text);
    let mut check = cachectld(&node);
    let done = check
        .args(["--check-config", "--config", &config, "--log", "info"])
        .env("CACHECTLD_STORE", "disk:two")
        .env("CACHECTLD_MAX_REQUESTS", "9")
        .output()
        .unwrap();
    let said = String::from_utf8(done.stderr).unwrap();
    assert_eq!(done.status.code(), Some(0), "{said}");
    let table = String::from_utf8(done.stdout).unwrap();
    assert!(
        table.contains(" http://127.0.0.1:0, 127.0.0.1:0 "),
        "{table}"
    );
    let warned: Vec<_> = said
        .lines()
        .filter(|l| l.contains("overrides the"))
        .collect();
    // Not of the same value, nor of a flag: whoever typed that knows.
    let [said] = warned[..] else {
        panic!("not one warning: {said}");
    };
    for words in ["CACHECTLD_STORE", "cachectld.toml:1"] {
        assert!(said.contains(words), "{said}");
    }
}

/// A bucket on a port where nobody listens.
fn nobody_there() -> [(&'static str, &'static str); 4] {
    [
        ("CACHECTLD_S3_ENDPOINT", "http://127.0.0.1:1"),
        ("CACHECTLD_S3_REGION", "x"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ]
}

#[test]
fn check_config_says_whether_a_folder_is_there() {
    let node = Node::new();
    let url = format!("disk:{}", node.path("store").display());
    let check = || {
        let mut check = cachectld(&node);
        let done = check.args(["--check-config", "--store", &url]).output();
        String::from_utf8(done.unwrap().stdout).unwrap()
    };
    let before = check();
    assert!(
        before.contains("does not exist yet") && !node.path("store").exists(),
        "{before}"
    );
    fs::create_dir(node.path("store")).unwrap();
    let after = check();
    assert!(
        after.ends_with("the store is reachable\nOK: the settings are valid\n"),
        "{after}"
    );
}

#[test]
fn credentials_in_a_wrong_setting_are_not_repeated() {
    let node = Node::new();
    for secret in [
        "AK:hunter2@127.0.0.1:5000",
        "http://AK:hunter2@127.0.0.1:5000",
        "HTTP://AK%3Ahunter2%40127.0.0.1:5000",
        "s3://AK%253Ahunter2%2540bucket",
    ] {
        for name in [
            "STORE",
            "LISTEN",
            "ADMIN_LISTEN",
            "ALLOWED_HOSTS",
            "EXTERNAL_URL",
            "OTLP_ENDPOINT",
            "MAX_REQUESTS",
            "SOCKET_MODE",
            "AUTH_GRANTS",
            "AUTH_OFFER",
            "LOG",
        ] {
            for json in ["--log-format=json", "--log-format=text"] {
                let mut wrong = cachectld(&node);
                wrong
                    .args(["--store", "disk:store", "--check-config", json])
                    .env(format!("CACHECTLD_{name}"), secret);
                let done = wrong.output().unwrap();
                let said = [done.stdout, done.stderr].concat();
                let said = String::from_utf8_lossy(&said);
                assert!(!said.contains("hunter2"), "{name} {secret}: {said}");
            }
        }
    }
}

#[test]
fn wrong_settings_end_with_2_and_say_where_and_what() {
    let node = Node::new();
    let broken = file(&node, "broken.toml", "[auth]\nhtpaswd = \"x\"\n");
    let loud = file(&node, "loud.toml", "log = \"cachectl=loud\"\n");
    let users = file(&node, "users.toml", "[auth]\nhtpasswd = \"missing\"\n");
    let keys = file(
        &node,
        "keys.toml",
        "[tls]\ncert = \"missing.pem\"\nkey = \"missing.key\"\n",
    );
    for (args, wants) in [
        (
            &["--config", &broken][..],
            &["broken.toml:2", "did you mean `auth.htpasswd`?"][..],
        ),
        (
            &["--config", "/nonexistent"],
            &["does not exist (--config)"],
        ),
        (&["--config", &loud], &["invalid `log` filter"]),
        (&["--config", &users], &["missing"]),
        (&["--config", &keys], &["missing.pem"]),
        (&["--listen", ":5000"], &["0.0.0.0 or [::]"]),
        (
            &["--store", "cachectld:/s"],
            &["which another daemon cannot use"],
        ),
        (&["--front", "f"], &["is useless", "leave out `front`"]),
        (&["--lisen", "x"], &["--listen"]),
        (&["--socket-group", "no such group"], &["no group `"]),
        (
            &["--listen", "0.0.0.0:0"],
            &["without authentication", "auth.insecure_no_auth"],
        ),
    ] {
        let mut check = cachectld(&node);
        check.arg("--check-config").args(args);
        let (code, said) = failure(check);
        assert_eq!(code, 2, "{args:?}: {said}");
        for want in wants {
            assert!(said.contains(want), "{args:?}: {said}");
        }
    }
    let mut mistyped = cachectld(&node);
    mistyped
        .arg("--check-config")
        .env("CACHECTLD_STOER", "disk:/x");
    let (code, said) = failure(mistyped);
    assert!(code == 2 && said.contains("`CACHECTLD_STORE`"), "{said}");
}

#[test]
fn variables_of_other_programs_are_warned_of_and_do_not_keep_it_from_starting() {
    let node = Node::new();
    let mut start = cachectld(&node);
    start
        .args(["--listen", "127.0.0.1:0"])
        .env("CACHECTLD_VERSION", "1.2")
        .env("CACHECTLD_SERVICE_HOST", "10.0.0.1");
    let daemon = Daemon::run(start);
    let warned = daemon.lines("Environment variable is not a setting and is ignored");
    assert_eq!(warned.len(), 1, "{warned:?}");
    assert_eq!(warned[0]["variable"], "CACHECTLD_VERSION");
}

#[test]
fn without_a_home_it_says_what_to_set() {
    let node = Node::new();
    let mut homeless = cachectld(&node);
    for variable in ["HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
        homeless.env_remove(variable);
    }
    let (code, said) = failure(homeless);
    assert_eq!(code, 2);
    assert!(said.contains("CACHECTLD_STATE_DIR"), "{said}");
}

#[test]
fn the_network_is_served_without_authentication_only_if_told() {
    let node = Node::new();
    let mut open = cachectld(&node);
    open.args(["--listen", "0.0.0.0:0"]);
    let (code, said) = failure(open);
    assert_eq!(code, 2, "{said}");
    assert!(said.contains("auth.insecure_no_auth"), "{said}");
    let mut told = cachectld(&node);
    told.args(["--listen", "0.0.0.0:0", "--insecure-no-auth"]);
    let daemon = Daemon::run(told);
    let port = daemon.address().rsplit_once(':').unwrap().1.to_owned();
    assert_eq!(status(&format!("127.0.0.1:{port}"), "GET", "/v2/"), 200);
}

#[test]
fn two_daemons_do_not_share_a_state_folder() {
    let node = Node::new();
    let first = Daemon::start(&node, &[]);
    let pid = first.wait_for("Ready")["pid"].to_string();
    let mut second = cachectld(&node);
    second.args(["--listen", "127.0.0.1:0", "--socket", "none"]);
    let (code, said) = failure(second);
    assert_eq!(code, 1);
    assert!(
        said.contains(&format!("another cachectld (pid {pid}) uses")),
        "{said}"
    );
    assert!(said.contains("--state"), "{said}");
    assert_eq!(first.status("GET", "/readyz"), 200);
}

#[test]
fn a_taken_port_names_who_has_it() {
    let node = Node::new();
    let first = Daemon::start(&node, &[]);
    let pid = first.wait_for("Ready")["pid"].to_string();
    let mut second = cachectld(&node);
    let state = node.path("other");
    second.args(["--listen", &first.address(), "--socket", "none"]);
    second.arg("--state").arg(state);
    let (code, said) = failure(second);
    assert_eq!(code, 1);
    let who = format!("cachectld (pid {pid}) already listens on it");
    assert!(said.contains(&who), "{said}");
}

#[test]
fn a_taken_socket_is_left_alone() {
    let node = Node::new();
    let first = Daemon::start(&node, &[]);
    let mut second = cachectld(&node);
    second.args(["--listen", "127.0.0.1:0", "--socket"]);
    second.arg(first.socket());
    second.arg("--state").arg(node.path("other"));
    let (code, said) = failure(second);
    assert_eq!(code, 1);
    assert!(said.contains("another program listens on it"), "{said}");
    assert!(UnixStream::connect(first.socket()).is_ok());
}

#[test]
fn the_socket_of_a_killed_daemon_is_replaced() {
    let node = Node::new();
    let mut first = Daemon::start(&node, &[]);
    let socket = first.socket();
    first.kill();
    assert!(socket.exists() && UnixStream::connect(&socket).is_err());
    let second = Daemon::start(&node, &[]);
    assert_eq!(second.socket(), socket);
    assert!(UnixStream::connect(&socket).is_ok());
}

#[test]
fn a_state_folder_that_is_read_only_says_so() {
    let node = Node::new();
    let folder = node.path("home/read-only");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
    let own = cachectld(&node);
    // Root writes to what it likes.
    let mut daemon = if rustix::process::geteuid().is_root() {
        let mut other = node.command("setpriv");
        other.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]);
        other.arg("--").arg(own.get_program());
        other
    } else {
        own
    };
    daemon.args(["--listen", "127.0.0.1:0", "--socket", "none", "--state"]);
    daemon.arg(folder.join("state"));
    let (code, said) = failure(daemon);
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("cannot use the state folder"), "{said}");
    assert!(said.contains("CACHECTLD_STATE_DIR"), "{said}");
}

#[test]
fn a_remote_that_is_away_does_not_keep_it_from_starting() {
    let node = Node::new();
    let mut command = cachectld(&node);
    command
        .args(["--listen", "127.0.0.1:0", "--store"])
        .arg("s3://bucket/p?region=us-east-1&endpoint=http://127.0.0.1:1")
        .env("AWS_ACCESS_KEY_ID", "a")
        .env("AWS_SECRET_ACCESS_KEY", "b")
        .env("CACHECTLD_RETRY_FOR", "0");
    let daemon = Daemon::run(command);
    assert_eq!(daemon.status("GET", "/livez"), 200);
    assert_eq!(daemon.status("GET", "/v2/"), 200);
    assert_eq!(daemon.status("GET", "/v2/app/manifests/latest"), 503);
}

#[test]
fn people_get_an_error_and_machines_a_line_of_the_log() {
    let node = Node::new();
    for (format, begins) in [("text", "error: cannot"), ("json", "{")] {
        let mut daemon = cachectld(&node);
        daemon.args(["--listen", "203.0.113.1:5000", "--insecure-no-auth"]);
        // Without the lines before it.
        daemon.args(["--log", "error", "--log-format", format]);
        let (code, said) = failure(daemon);
        assert_eq!(code, 1, "{said}");
        assert!(said.starts_with(begins), "{said}");
        assert!(said.contains("cannot listen on 203.0.113.1:5000"), "{said}");
    }
}

#[test]
fn with_few_open_files_it_takes_fewer_connections() {
    let node = Node::new();
    let own = cachectld(&node);
    let mut few: Command = node.command("sh");
    few.args(["-c", "ulimit -n 256; exec \"$0\" \"$@\""]);
    few.arg(own.get_program());
    few.args(["--listen", "127.0.0.1:0", "--max-connections", "500"]);
    let daemon = Daemon::run(few);
    let ready = daemon.wait_for("Ready");
    assert_eq!(ready["open_files"], 256);
    assert_eq!(ready["connections"], 48);
    assert_eq!(daemon.status("GET", "/v2/"), 200);
}

#[test]
fn rules_for_nobody_are_warned_of_at_the_start_and_by_a_check() {
    let node = Node::new();
    fs::write(node.path("tokens"), "ci 0123456789abcdef0123456789abcdef\n").unwrap();
    let command = || {
        let mut command = cachectld(&node);
        command
            .env("CACHECTLD_AUTH_TOKENS", node.path("tokens"))
            .env("CACHECTLD_AUTH_GRANTS", "ci,clint = Team/** : pull");
        command
    };
    let checked = command().arg("--check-config").output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(
        said.contains("auth.grants: no user or token is called `clint`"),
        "{said}"
    );
    assert!(
        said.contains("`Team/**` matches no repository: a name is lower case"),
        "{said}"
    );
    let mut running = command();
    running.args(["--listen", "127.0.0.1:0"]);
    Daemon::run(running).wait_for("auth.grants: no user or token is called `clint`");
}
