//! The examples, read by the tools of those who will paste them. `make deps-e2e TOOLS=linters` installs these.
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::e2e;
use crate::support::scratch::Scratch;
use crate::support::tools::{built, folder, output_of};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of an example that end so, sorted.
fn files(dir: &str, end: &str) -> Vec<PathBuf> {
    let dir = repository().join("examples").join(dir);
    let mut found: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|e| panic!("{}: {e}", dir.display()))
        .map(|item| item.expect("it can be listed").path())
        .filter(|path| path.to_string_lossy().ends_with(end))
        .collect();
    found.sort();
    assert!(
        !found.is_empty(),
        "{}/*{end} are not where they were",
        dir.display()
    );
    found
}

/// Runs a linter in the repository; panics with what it found.
fn lint<I: IntoIterator<Item: AsRef<OsStr>>>(program: &str, args: I) -> String {
    let tools = folder().join("bin");
    let path = std::env::join_paths([tools, "/usr/bin".into(), "/bin".into()]);
    let mut command = Command::new(built(program));
    command
        .args(args)
        .current_dir(repository())
        // actionlint asks shellcheck about what is in `run:`.
        .env("PATH", path.expect("no colon in it"));
    output_of(&mut command)
}

/// A Python script of the tests, with the modules that the linters brought along.
fn python(script: &str, args: &[PathBuf]) -> String {
    let program = folder().join("venv/bin/python");
    let script = repository().join("tests").join(script);
    output_of(Command::new(program).arg(script).args(args))
}

#[test]
fn prometheus_takes_the_rules_and_they_fire_as_they_should() {
    if !e2e() {
        return;
    }
    lint(
        "promtool",
        ["check", "rules", "examples/observability/alerts.yml"],
    );
    lint(
        "promtool",
        ["check", "config", "examples/observability/prometheus.yml"],
    );
    lint(
        "promtool",
        ["test", "rules", "tests/observability/alerts.test.yml"],
    );
}

#[test]
fn kubernetes_takes_the_manifests() {
    if !e2e() {
        return;
    }
    for version in ["1.30.0", "1.37.0"] {
        let mut args = vec!["--strict".into(), "-k".into(), version.into()];
        args.extend(files("k8s", ".yaml"));
        lint("kubernetes-validate", args);
    }
    let mut args: Vec<PathBuf> = ["score", "--output-format", "ci"].map(Into::into).into();
    args.extend(files("k8s", ".yaml"));
    let found = lint("kube-score", args);
    let bad: Vec<_> = found.lines().filter(|l| !l.starts_with("[OK]")).collect();
    let bad: Vec<_> = bad.iter().filter(|l| !l.starts_with("[SKIPPED]")).collect();
    assert!(bad.is_empty(), "{bad:#?}");
}

#[test]
fn network_policies_let_builds_reach_names_and_the_cache_and_nothing_else() {
    if !e2e() {
        return;
    }
    python("k8s/policies.py", &files("k8s", ".yaml"));
}

#[test]
fn the_daemon_takes_the_settings_of_the_manifests() {
    if !e2e() {
        return;
    }
    let manifest = fs::read_to_string(repository().join("examples/k8s/config.yaml"));
    let manifest = manifest.expect("it is there");
    let (_, settings) = manifest
        .split_once("cachectld.toml: |\n")
        .expect("it holds settings");
    let settings: Vec<_> = settings
        .lines()
        .map(|l| l.trim_start_matches("    "))
        .collect();
    let secrets = Scratch::new("secrets");
    let place = secrets.path().display().to_string();
    let settings = settings.join("\n").replace("/etc/cachectl-secrets", &place);
    let long = "0123456789abcdef".repeat(3);
    for (name, text) in [
        ("tokens", format!("ci {long}\nmain {long}x\n")),
        ("signing-key", long.clone()),
        ("cachectld.toml", settings),
    ] {
        fs::write(secrets.path().join(name), text).expect("a new file");
    }
    let program = env!("CARGO_BIN_EXE_cachectld");
    let shown = output_of(
        Command::new(program)
            .args(["--check-config", "--config"])
            .arg(secrets.path().join("cachectld.toml"))
            .env_clear()
            // It asks the bucket: on a port where nobody listens.
            .env("CACHECTLD_S3_ENDPOINT", "http://127.0.0.1:1")
            .env("AWS_ACCESS_KEY_ID", "x")
            .env("AWS_SECRET_ACCESS_KEY", "x")
            .env("HOME", secrets.path()),
    );
    assert!(
        shown.contains("s3://ci-cache/buildkit") && shown.contains("0.0.0.0:5001"),
        "{shown}"
    );
}

#[test]
fn ci_systems_take_their_files() {
    if !e2e() {
        return;
    }
    let workflows = files("github-actions", ".yml");
    lint("actionlint", &workflows);
    let mut args: Vec<PathBuf> = ["--offline", "--persona", "pedantic"]
        .map(Into::into)
        .into();
    args.extend(workflows.clone());
    lint("zizmor", args);
    for (schema, files) in [
        ("vendor.github-workflows", workflows),
        ("vendor.gitlab-ci", files("gitlab", ".gitlab-ci.yml")),
    ] {
        let mut args: Vec<PathBuf> = ["--builtin-schema", schema].map(Into::into).into();
        args.extend(files);
        lint("check-jsonschema", args);
    }
    lint(
        "yamllint",
        [
            "--strict",
            "-c",
            "tests/yamllint.yml",
            "examples",
            "tests/observability",
        ],
    );
}

#[test]
fn shell_in_the_examples_is_sound() {
    if !e2e() {
        return;
    }
    let inside = Scratch::new("scripts");
    let mut args = vec![inside.path().to_owned()];
    args.extend(files("gitlab", ".gitlab-ci.yml"));
    args.extend(files("tekton", ".yaml"));
    args.extend(files("k8s", ".yaml"));
    args.extend(files("jenkins", "Jenkinsfile"));
    let written = python("examples/scripts.py", &args);
    assert!(written.lines().count() > 5, "{written}");
    lint("shellcheck", written.lines());
    lint("shellcheck", files("buildx", ".sh"));
}

#[test]
fn buildx_reads_the_bake_file() {
    if !e2e() {
        return;
    }
    let printed = lint(
        "buildx",
        ["bake", "--print", "-f", "examples/buildx/docker-bake.hcl"],
    );
    assert!(
        printed.contains("127.0.0.1:5000/team/app:cache"),
        "{printed}"
    );
}

#[test]
fn systemd_takes_the_unit_and_finds_it_locked_down() {
    if !e2e() {
        return;
    }
    let dir = Scratch::new("systemd");
    let copied = |path: PathBuf| {
        let unit = fs::read_to_string(&path).expect("it is there");
        // systemd wants the programs to be there.
        let here = unit
            .replace("/usr/local/bin/cachectld", "/bin/true")
            .replace("/usr/local/bin/cachectl", "/bin/true");
        let copy = dir.path().join(path.file_name().expect("a file"));
        fs::write(&copy, here).expect("a new file");
        copy
    };
    let services: Vec<_> = files("systemd", ".service")
        .into_iter()
        .map(copied)
        .collect();
    let timers: Vec<_> = files("systemd", ".timer").into_iter().map(copied).collect();
    let verify = Command::new(built("systemd-analyze"))
        .arg("verify")
        .args(services.iter().chain(&timers))
        .output();
    let verify = verify.expect("it is installed");
    let said = String::from_utf8_lossy(&verify.stderr);
    let ours: Vec<_> = said.lines().filter(|l| l.contains("cachectld")).collect();
    assert!(verify.status.success() && ours.is_empty(), "{said}");
    let mut security = Command::new(built("systemd-analyze"));
    output_of(
        security
            .args(["security", "--offline=true", "--threshold=20"])
            .args(&services),
    );
}

#[test]
fn the_containerfile_is_sound() {
    if !e2e() {
        return;
    }
    lint("hadolint", files("container", "Containerfile"));
}
