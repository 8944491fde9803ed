//! The daemon under test, as a child that can be killed, drained and started again on the same store and state.
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use super::process::{Server, answers_ok, free_port};
use super::scratch::Scratch;
use super::servers::Registry;
use super::tools;

/// How clients have to show who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Not at all.
    Anonymous,
    /// By name and password with each request.
    Basic,
    /// By a token, which name and password buy at the door's token endpoint.
    Token,
    /// As [`Self::Basic`], by a user who has every right on [`Self::GRANTED`] and none on any other repository.
    Tenant,
}

impl Access {
    pub(crate) const ALL: [Self; 4] = [Self::Anonymous, Self::Basic, Self::Token, Self::Tenant];

    /// The repositories of [`Self::Tenant`], as grants spell them.
    pub(crate) const GRANTED: [&str; 2] = ["team/*", "conformance/*"];

    /// The daemon's configuration file: empty, or with the users of `htpasswd`.
    fn configuration(self, htpasswd: &Path) -> String {
        let offer = match self {
            Self::Anonymous => return String::new(),
            Self::Basic | Self::Tenant => "basic",
            Self::Token => "bearer",
        };
        let grants: Vec<String> = match self {
            Self::Tenant => {
                let rule = |repositories| format!("{} = {repositories} : *", Registry::USER);
                Self::GRANTED.into_iter().map(rule).collect()
            }
            // Without a rule nobody may delete.
            _ => vec!["* = ** : *".to_owned()],
        };
        format!(
            "[auth]\nhtpasswd = \"{}\"\noffer = [\"{offer}\"]\ngrants = {grants:?}\n",
            htpasswd.display()
        )
    }
}

/// A daemon that is being put together.
#[derive(Debug)]
pub(crate) struct Start {
    store: String,
    access: Access,
    args: Vec<OsString>,
    env: Vec<(String, OsString)>,
}

impl Start {
    pub(crate) fn access(mut self, access: Access) -> Self {
        self.access = access;
        self
    }

    /// A folder in front of a remote store, in the daemon's own folder; `mode` is `write-through` or `write-back`.
    pub(crate) fn front(self, mode: &str) -> Self {
        // Relative to the folder that the daemon runs in.
        self.arg("--front").arg("front").arg("--mode").arg(mode)
    }

    pub(crate) fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Credentials that go with the store's URL.
    pub(crate) fn envs(mut self, pairs: &[(String, String)]) -> Self {
        let pairs = pairs.iter();
        self.env
            .extend(pairs.map(|(name, value)| (name.clone(), value.into())));
        self
    }

    /// Returns when the daemon is ready.
    pub(crate) fn start(self) -> Cachectld {
        let dir = Scratch::new("cachectld");
        let place = |name: &str| dir.path().join(name);
        let port = free_port();
        let mut command = Command::new(program());
        command.args(["--store", &self.store]);
        command.args(["--listen", &format!("127.0.0.1:{port}")]);
        command.arg("--socket").arg(dir.short().join("socket"));
        command.arg("--state").arg(place("state"));
        if self.access != Access::Anonymous {
            fs::write(place("htpasswd"), Registry::HTPASSWD).expect("a new file");
            let text = self.access.configuration(&place("htpasswd"));
            fs::write(place("cachectld.toml"), text).expect("a new file");
            command.arg("--config").arg(place("cachectld.toml"));
        }
        command.args(&self.args).env("RUST_BACKTRACE", "1");
        // No settings of this machine's user.
        command.env("HOME", dir.path());
        for folder in ["XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_STATE_HOME"] {
            command.env(folder, dir.path());
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        let server = Server::start("cachectld", dir, &command, || is_ready(port));
        Cachectld {
            server,
            command,
            port,
        }
    }
}

/// A daemon with a port, a socket and a state folder of its own, which survive its process.
#[derive(Debug)]
pub(crate) struct Cachectld {
    server: Server,
    command: Command,
    pub(crate) port: u16,
}

impl Cachectld {
    /// A daemon over the store with this URL, open to everybody unless [`Start::access`] says otherwise.
    pub(crate) fn over(store: &str) -> Start {
        Start {
            store: store.to_owned(),
            access: Access::Anonymous,
            args: Vec::new(),
            env: Vec::new(),
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.server.short_dir().join("socket")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.server.dir().join("state")
    }

    /// SIGKILL: a node that is taken away.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGTERM, and its way to the end; panics if that takes longer than `within`.
    pub(crate) fn terminate(&mut self, within: Duration) -> ExitStatus {
        self.server.terminate(within)
    }

    /// Starts it with the same arguments; kills it first if it runs.
    pub(crate) fn restart(&mut self) {
        let port = self.port;
        self.server.start_again(&self.command, || is_ready(port));
    }

    /// Starts it again so that it accepts images whose parts were never pushed.
    pub(crate) fn accept_incomplete_images(&mut self) {
        self.command.env("CACHECTLD_INCOMPLETE_IMAGES", "warn");
        self.restart();
    }

    /// All that it said, over every start.
    pub(crate) fn log(&self) -> String {
        self.server.log()
    }
}

fn is_ready(port: u16) -> bool {
    answers_ok("GET", port, "/readyz", b"")
}

/// The binary that cargo built, or the one that `CACHECTLD` names: to try another build with these tests.
fn program() -> PathBuf {
    let set = tools::setting("CACHECTLD").map(PathBuf::from);
    let built = || option_env!("CARGO_BIN_EXE_cachectld").map(PathBuf::from);
    set.or_else(built).expect("cargo builds cachectld")
}
