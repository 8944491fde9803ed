//! A CI node: a home of its own, empty caches, and an environment that nothing of this machine leaks into.
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::scratch::Scratch;
use super::tools;

/// What passes from this machine into a node: how to find programs and to reach module proxies.
const PASSED: &[&str] = &[
    "PATH",
    "TZ",
    "LANG",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CC",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "all_proxy",
];

/// Settings of the `go` command that may stand in a user's configuration, which a node's empty home does not have.
const GO_SETTINGS: &[&str] = &[
    "GOPROXY",
    "GOSUMDB",
    "GONOSUMDB",
    "GONOPROXY",
    "GOPRIVATE",
    "GOFLAGS",
    "GOTOOLCHAIN",
    "GOINSECURE",
];

/// One node. Its folders are gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Node {
    dir: Scratch,
}

impl Node {
    /// A node that has never run a job.
    pub(crate) fn new() -> Self {
        let dir = Scratch::new("node");
        for folder in ["home", "tmp"] {
            fs::create_dir(dir.path().join(folder)).expect("a new folder");
        }
        Self { dir }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The node's folder by a short name.
    pub(crate) fn short(&self) -> PathBuf {
        self.dir.short()
    }

    pub(crate) fn gocache(&self) -> PathBuf {
        self.path("home/.cache/go-build")
    }

    pub(crate) fn gomodcache(&self) -> PathBuf {
        self.path("home/go/pkg/mod")
    }

    /// A command that runs on this node, in its home.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env_clear().current_dir(self.path("home"));
        command.envs(
            PASSED
                .iter()
                .filter_map(|name| Some((name, tools::setting(name)?))),
        );
        // A company's proxy must not be asked for the servers of these tests.
        command
            .env("NO_PROXY", "127.0.0.1,localhost")
            .env("no_proxy", "127.0.0.1,localhost");
        command.envs(go_settings().iter().map(|(name, value)| (name, value)));
        for (name, place) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("XDG_CACHE_HOME", "home/.cache"),
            ("XDG_CONFIG_HOME", "home/.config"),
            ("XDG_STATE_HOME", "home/.local/state"),
            ("XDG_DATA_HOME", "home/.local/share"),
        ] {
            command.env(name, self.path(place));
        }
        command
            .env("GOCACHE", self.gocache())
            .env("GOMODCACHE", self.gomodcache());
        command
    }

    /// The `go` command on this node, in `folder`.
    pub(crate) fn go(&self, folder: &Path) -> Command {
        let mut command = self.command("go");
        command.current_dir(folder);
        command
    }
}

/// Asked once from the machine's own `go`; empty where there is none, so that tests without Go run anywhere.
fn go_settings() -> &'static [(String, OsString)] {
    static SETTINGS: OnceLock<Vec<(String, OsString)>> = OnceLock::new();
    SETTINGS.get_or_init(|| {
        let Ok(answer) = Command::new("go")
            .arg("env")
            .arg("-json")
            .args(GO_SETTINGS)
            .output()
        else {
            return Vec::new();
        };
        let values: std::collections::BTreeMap<String, String> =
            serde_json::from_slice(&answer.stdout)
                .expect("`go env -json` prints one object of strings");
        values
            .into_iter()
            .map(|(name, value)| (name, value.into()))
            .collect()
    })
}
