//! What people are told, and what is taken for what they meant.

use std::{fs, os::unix::fs::PermissionsExt as _};

use super::{complaints, node_with_tree, run, store, words};
use crate::support::node::Node;

#[test]
fn an_import_that_finds_no_store_makes_none_and_is_a_plain_miss() {
    let node = node_with_tree();
    let there = node.path("there");
    fs::create_dir(&there).unwrap();
    fs::write(there.join("mine"), "1").unwrap();
    for scheme in ["disk", "oci-layout"] {
        for (name, before) in [("missing", None), ("there", Some(1))] {
            let root = node.path(name);
            let line = format!(
                "import dir y --name t --strict --store {scheme}:{}",
                root.display()
            );
            let outcome = run(&node, &line).success();
            let says = format!(
                "cachectl: miss: there is no store at {scheme}:{}",
                root.display()
            );
            assert!(outcome.stderr.starts_with(&says), "{outcome}");
            assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
            let after = fs::read_dir(&root).ok().map(Iterator::count);
            assert_eq!(after, before, "{scheme}:{name}");
            run(&node, &format!("{line} --require-hit")).code(3);
        }
    }
    // What is there and cannot be a store is trouble.
    fs::create_dir(node.path("odd")).unwrap();
    fs::write(node.path("odd/blobs"), "").unwrap();
    let line = format!(
        "import dir y --name t --strict --store disk:{}",
        node.path("odd").display()
    );
    run(&node, &line).code(1);
}

#[test]
fn an_empty_key_is_refused_as_a_flag_and_absent_as_a_variable() {
    let node = node_with_tree();
    for verb in ["export dir tree", "import dir y"] {
        let line = format!("{verb} --name t --store {}", store(&node));
        let outcome = words(&node, &line).args(["--key", ""]).run().code(2);
        assert!(
            outcome.stderr.starts_with("error: --key is empty\n"),
            "{outcome}"
        );
        words(&node, &line).env("CACHECTL_KEY", "").run().success();
    }
}

#[test]
fn without_a_home_a_build_goes_on() {
    let node = node_with_tree();
    let bare = |line: &str| {
        let mut command = words(&node, line);
        for name in [
            "HOME",
            "XDG_CACHE_HOME",
            "XDG_CONFIG_HOME",
            "XDG_STATE_HOME",
        ] {
            command = command.env(name, "");
        }
        command
    };
    for line in [
        "export dir tree --name t",
        "import dir y --name t",
        "import go --name t",
    ] {
        let outcome = bare(line).run().success();
        assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
        assert!(outcome.stderr.contains("no default one"), "{outcome}");
        assert!(outcome.stderr.contains("set CACHECTL_STORE"), "{outcome}");
    }
    bare("ls").run().code(1);
    bare(&format!(
        "export dir tree --name t --strict --store {}",
        store(&node)
    ))
    .run()
    .success();
}

#[test]
fn a_warning_says_what_to_do() {
    let node = Node::new();
    let outcome = run(&node, &format!("import go --store {}", store(&node))).success();
    assert_eq!(complaints(&outcome).len(), 1, "{outcome}");
    assert!(
        outcome
            .stderr
            .contains("(hint: run it in the folder of go.mod, or add --name NAME)"),
        "{outcome}"
    );
}

#[test]
fn what_people_type_is_understood_or_said_better() {
    let node = node_with_tree();
    let at = store(&node);
    run(&node, &format!("export dir tree --name t --store {at}")).success();
    let version = run(&node, "version").success().stdout;
    assert_eq!(version, run(&node, "--version").success().stdout);
    assert_eq!(
        run(&node, &format!("list --store {at}")).success().stdout,
        run(&node, &format!("ls --store {at}")).success().stdout
    );
    for (line, says) in [
        (
            "export go --restore-key x",
            "--restore-key is a flag of `import`",
        ),
        ("ls --store ghcr.io/org/cache", "`oci://HOST/REPOSITORY`"),
        ("ls --store gs://bucket", "S3-compatible API"),
    ] {
        let outcome = run(&node, line).code(2);
        assert!(outcome.stderr.contains(says), "{outcome}");
        assert!(!outcome.stderr.contains("as a value"), "{outcome}");
    }
}

#[test]
fn env_shows_what_holds_what_was_changed_and_whether_the_store_answers() {
    let node = node_with_tree();
    let at = store(&node);
    let value = |text: &str, key: &str| {
        let row = text
            .lines()
            .find(|l| l.split_whitespace().next() == Some(key));
        row.map(|l| l.split_whitespace().nth(1).unwrap().to_owned())
    };
    let all = words(&node, "env")
        .env("CACHECTL_JOBS", "3")
        .run()
        .success()
        .stdout;
    let settings = all.split("SETTING").nth(1).unwrap();
    let tmp = node.path("tmp").display().to_string();
    assert_eq!(value(settings, "temp_dir"), Some(tmp));
    assert_eq!(value(settings, "scope").as_deref(), Some("default"));
    assert_eq!(value(settings, "jobs").as_deref(), Some("3"));
    assert!(settings.lines().count() > 40);
    let by_ci = words(&node, "env")
        .env("GITLAB_CI", "true")
        .env("CI_COMMIT_BRANCH", "topic")
        .env("CI_DEFAULT_BRANCH", "main")
        .run()
        .success()
        .stdout;
    let settings = by_ci.split("SETTING").nth(1).unwrap();
    let row = settings.lines().find(|l| l.starts_with("scope ")).unwrap();
    assert!(
        row.contains(" topic ") && row.contains("$CI_COMMIT_BRANCH"),
        "{row}"
    );

    let changed = words(&node, "env --changed")
        .env("CACHECTL_JOBS", "3")
        .run();
    let changed = changed.success().stdout;
    let settings: Vec<_> = changed.split("SETTING").nth(1).unwrap().lines().collect();
    assert!(
        settings.len() == 2 && settings[1].starts_with("jobs "),
        "{changed}"
    );
    let report = words(&node, "env --changed").json();
    assert_eq!(report["settings"].as_array().unwrap().len(), 0);
    assert_eq!(report["store_reachable"], serde_json::Value::Null);

    let check = format!("env --check --store {at}");
    let missing = run(&node, &check).success().stdout;
    assert!(missing.contains("the first export creates it"), "{missing}");
    assert!(!node.path("store").exists());
    run(&node, &format!("export dir tree --name t --store {at}")).success();
    assert!(
        run(&node, &check)
            .success()
            .stdout
            .contains("reachable and readable")
    );
    for store in ["oci", "cachectld+http"] {
        let at = answers_nothing_but_404();
        let repo = if store == "oci" {
            "/x?insecure=true"
        } else {
            ""
        };
        let check = format!("env --check --store {store}://{at}{repo}");
        let other = run(&node, &check).code(1);
        assert!(
            other.stderr.contains("the server is not a registry"),
            "{other}"
        );
    }
    let gone = "env --check --json --store oci://127.0.0.1:1/x --retry-for 0";
    let gone = run(&node, gone).code(1);
    assert_eq!(gone.json()["store_reachable"], false, "{gone}");
}

/// A web server that has none of the paths it is asked for; it lives as long as the tests.
fn answers_nothing_but_404() -> std::net::SocketAddr {
    use std::io::{BufRead as _, BufReader, Write as _};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let head = BufReader::new(&stream).lines();
            let _ = head
                .take_while(|l| l.as_ref().is_ok_and(|l| !l.is_empty()))
                .count();
            let answer = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    at
}

#[test]
fn an_exclude_pattern_from_elsewhere_than_the_folder_is_warned_of() {
    let node = Node::new();
    fs::create_dir_all(node.path("home/web/out")).unwrap();
    fs::write(node.path("home/web/out/x"), b"x").unwrap();
    let at = format!("disk:{}", node.path("store").display());
    let whole = node.path("home/web/out").display().to_string();
    let export = |pattern: &str| {
        let words = format!("export dir web --name w --store {at} --exclude {pattern}");
        run(&node, &words).success().stderr
    };
    for pattern in ["web/out", whole.as_str()] {
        let said = export(pattern);
        assert!(said.contains("matches nothing in"), "{pattern}: {said}");
        assert!(said.contains("(`/out`)"), "{pattern}: {said}");
    }
    fs::create_dir_all(node.path("home/web/web/out")).unwrap();
    for pattern in ["web/out", "/out", "*.o"] {
        let said = export(pattern);
        assert!(!said.contains("matches nothing"), "{pattern}: {said}");
    }
}

#[test]
fn docker_without_buildx_is_named_as_such() {
    let node = Node::new();
    let docker = node.path("bin/docker");
    fs::create_dir(node.path("bin")).unwrap();
    fs::write(
        &docker,
        "#!/bin/sh\necho \"unknown flag: --name\nUsage: docker [OPTIONS] COMMAND\" >&2; exit 125\n",
    )
    .unwrap();
    fs::set_permissions(&docker, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", node.path("bin").display());
    let outcome = words(&node, "buildx-setup --run")
        .env("PATH", &path)
        .run()
        .code(1);
    assert!(
        outcome
            .stderr
            .starts_with("error: docker buildx is not installed\n"),
        "{outcome}"
    );
}
