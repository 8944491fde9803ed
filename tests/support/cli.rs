//! Runs the binary under test, and keeps everything it said.
use std::ffi::OsStr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::node::Node;
use super::stores::TestStore;

/// `cachectl` on `node`, with no arguments yet.
pub(crate) fn cachectl(node: &Node) -> Cachectl {
    let mut command = node.command(env!("CARGO_BIN_EXE_cachectl"));
    command.env("RUST_BACKTRACE", "1");
    Cachectl { command }
}

/// The user and group that [`Cachectl::unprivileged`] runs as.
pub(crate) const UNPRIVILEGED: u32 = 65534;

/// A run that is being put together.
#[derive(Debug)]
pub(crate) struct Cachectl {
    command: Command,
}

impl Cachectl {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Runs in `folder`, as a pipeline step runs in its checkout.
    pub(crate) fn inside(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Runs without root's right to read everything; what it writes to must be this user's ([`UNPRIVILEGED`]).
    pub(crate) fn unprivileged(self) -> Self {
        if !rustix::process::geteuid().is_root() {
            return self;
        }
        let mut command = Command::new("setpriv");
        let id = UNPRIVILEGED.to_string();
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"]);
        command
            .arg(self.command.get_program())
            .args(self.command.get_args());
        command.env_clear();
        for (name, value) in self.command.get_envs() {
            if let Some(value) = value {
                command.env(name, value);
            }
        }
        if let Some(folder) = self.command.get_current_dir() {
            command.current_dir(folder);
        }
        Self { command }
    }

    /// `--store` and the credentials it needs.
    pub(crate) fn store(mut self, store: &TestStore) -> Self {
        self.command.arg("--store").arg(store.url());
        self.command
            .envs(store.env().iter().map(|(name, value)| (name, value)));
        self
    }

    /// The same through another port: a wire's that leads to its server.
    pub(crate) fn store_through(mut self, store: &TestStore, port: u16) -> Self {
        self.command.arg("--store").arg(store.url_through(port));
        self.command
            .envs(store.env().iter().map(|(name, value)| (name, value)));
        self
    }

    /// Makes the run believe that it is `days` later. Times of files stay what they are.
    pub(crate) fn days_later(mut self, days: u32) -> Self {
        if days > 0 {
            self.command
                .env("LD_PRELOAD", super::tools::library("libfaketime.so.1"))
                .env("FAKETIME", format!("+{days}d"))
                .env("NO_FAKE_STAT", "1")
                // Waiting and measuring go by the true clock.
                .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        self
    }

    /// Starts it, for a test that kills it or lets it run beside others.
    pub(crate) fn start(mut self) -> Running {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = format!("{:?}", self.command.get_args().collect::<Vec<_>>());
        let child = self.command.spawn().expect("cargo built the binary");
        Running {
            line,
            child,
            began: Instant::now(),
        }
    }

    /// Runs it to its end.
    pub(crate) fn run(self) -> Outcome {
        self.start().wait()
    }

    /// Runs it with `--json` to its successful end.
    pub(crate) fn json(self) -> Value {
        self.arg("--json").run().success().json()
    }
}

/// A run under way.
#[derive(Debug)]
pub(crate) struct Running {
    line: String,
    child: Child,
    began: Instant,
}

impl Running {
    /// SIGKILL: what a node that is taken away does to its last step.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
    }

    pub(crate) fn has_ended(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(Some(_)))
    }

    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn wait(self) -> Outcome {
        let out = self.child.wait_with_output().expect("our own child");
        Outcome {
            line: self.line,
            status: out.status,
            stdout: String::from_utf8_lossy(&out.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&out.stderr).into_owned(),
            elapsed: self.began.elapsed(),
        }
    }
}

/// A run that has ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    line: String,
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) elapsed: Duration,
}

impl Outcome {
    /// Requires exit code 0.
    pub(crate) fn success(self) -> Self {
        self.code(0)
    }

    /// Requires this exit code.
    pub(crate) fn code(self, wanted: i32) -> Self {
        assert_eq!(self.status.code(), Some(wanted), "{self}");
        self
    }

    /// The one object of `--json`.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| {
            panic!("standard output is not one JSON value ({error})\n{self}")
        })
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            line,
            status,
            stdout,
            stderr,
            elapsed,
        } = self;
        write!(
            out,
            "cachectl {line}: {status} after {elapsed:?}\n--- stdout\n{stdout}--- stderr\n{stderr}"
        )
    }
}

/// A number of a `--json` report.
pub(crate) fn number(report: &Value, field: &str) -> u64 {
    report[field]
        .as_u64()
        .unwrap_or_else(|| panic!("no number `{field}` in {report}"))
}

/// A flag of a `--json` report.
pub(crate) fn flag(report: &Value, field: &str) -> bool {
    report[field]
        .as_bool()
        .unwrap_or_else(|| panic!("no flag `{field}` in {report}"))
}
