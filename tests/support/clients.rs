//! The programs that people push and pull with, each in a home of its own, and a real docker engine.
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::buildkit::path_with_tools;
use super::door::Door;
use super::node::Node;
use super::process::{Server, contained, http_by_socket};
use super::scratch::Scratch;
use super::servers::Registry;
use super::tools;

/// One program with a home in which nobody has logged in.
#[derive(Debug)]
pub(crate) struct Client {
    program: &'static str,
    /// Before every other argument.
    always: Vec<OsString>,
    node: Node,
}

impl Client {
    pub(crate) fn new(program: &'static str) -> Self {
        let node = Node::new();
        fs::create_dir(node.path("run")).expect("a new folder");
        // podman's kin want it to be there.
        fs::write(node.path("home/auth.json"), "{}").expect("a new file");
        Self {
            program,
            always: Vec::new(),
            node,
        }
    }

    /// `podman` or `buildah`, whose images are kept in its home, without mounts that a kill would leave behind.
    pub(crate) fn with_images(program: &'static str) -> Self {
        let mut client = Self::new(program);
        let run = client.node.short().join("run/images");
        for (flag, place) in [("--root", client.node.path("images")), ("--runroot", run)] {
            client.always.extend([flag.into(), place.into()]);
        }
        client
            .always
            .extend(["--storage-driver", "vfs"].map(Into::into));
        // Its locks would be in memory that all podmans of the machine share.
        let settings = client.node.path("home/containers.conf");
        fs::write(&settings, "[engine]\nlock_type = \"file\"\n").expect("a new file");
        if program == "podman" {
            client.always.push("--tmpdir".into());
            client.always.push(client.node.path("run/libpod").into());
        }
        client
    }

    /// `docker`, as a client of this engine.
    pub(crate) fn of(engine: &Dockerd) -> Self {
        let mut client = Self::new("docker");
        client.always = vec!["--host".into(), engine.address().into()];
        client
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.node.path(&format!("home/{below}"))
    }

    /// Runs it in its home and returns what it printed; fails the test if it fails.
    #[track_caller]
    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        self.feed(args, b"")
    }

    /// The same with this on its standard input.
    #[track_caller]
    pub(crate) fn feed<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> String {
        let (fine, said) = self.outcome(args, input);
        assert!(fine, "{said}");
        said
    }

    /// Requires that it fails, and returns what it said.
    #[track_caller]
    pub(crate) fn fail<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> String {
        let (fine, said) = self.outcome(args, b"");
        assert!(!fine, "it should have failed: {said}");
        said
    }

    fn outcome<A: AsRef<OsStr>>(
        &self,
        args: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> (bool, String) {
        let mut command = self.command();
        command.args(args);
        // A file, so that nobody waits for a program that does not read.
        let file = self.node.path("tmp/input");
        fs::write(&file, input).expect("our own folder");
        command.stdin(Stdio::from(fs::File::open(file).expect("just written")));
        let out = command.output().expect("the program starts");
        let mut said = String::from_utf8_lossy(&out.stdout).into_owned();
        if !out.status.success() {
            let stderr = String::from_utf8_lossy(&out.stderr);
            let args: Vec<_> = command.get_args().collect();
            let program = self.program;
            said = format!("{program} {args:?}: {}\n{said}{stderr}", out.status);
        }
        (out.status.success(), said)
    }

    fn command(&self) -> Command {
        let program = tools::built(self.program);
        let mut command = match self.program {
            "skopeo" | "podman" | "buildah" => {
                // As root they keep where a blob was seen, and short names, in files of the whole machine.
                let mut command = self.node.command("unshare");
                command.args(["--mount", "--", "sh", "-c", OWN_FOLDERS]);
                command.arg(program).arg(self.path("machine"));
                command
            }
            _ => self.node.command(program),
        };
        command.env("PATH", path_with_tools());
        command.env("XDG_RUNTIME_DIR", self.node.path("run"));
        // As root, podman and its kin would share a file below /run.
        command.env("REGISTRY_AUTH_FILE", self.path("auth.json"));
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.args(&self.always);
        command
    }

    /// Logs in, by the program's own way, with the tests' name and password.
    #[track_caller]
    pub(crate) fn login(&self, door: &Door) {
        let (host, user) = (door.host(), Registry::USER);
        let verb: &[&str] = match self.program {
            "crane" => &["auth", "login"],
            "regctl" => &["registry", "login"],
            "oras" => &["login", "--plain-http"],
            "docker" => &["login"],
            _ => &["login", "--tls-verify=false"],
        };
        let stdin = match self.program {
            "regctl" => "--pass-stdin",
            _ => "--password-stdin",
        };
        let mut args = verb.to_vec();
        args.extend(["-u", user, stdin, &host]);
        self.feed(args, Registry::PASSWORD.as_bytes());
    }
}

/// Runs `$0` with folders of its own, below `$1`, in the place of the machine's.
const OWN_FOLDERS: &str = r#"
own=$1; shift
for folder in /var/lib/containers /var/cache/containers; do
    mkdir -p "$folder" "$own$folder" && mount --bind "$own$folder" "$folder" || exit
done
exec "$0" "$@""#;

/// A docker engine: Debian's `dockerd`, unpacked, with its data in a folder of its own.
#[derive(Debug)]
pub(crate) struct Dockerd(Server);

impl Dockerd {
    pub(crate) fn start() -> Self {
        let dir = Scratch::new("dockerd");
        let place = |name: &str| dir.short().join(name).into_os_string();
        // Without it the machine's own settings would be read.
        fs::write(dir.path().join("daemon.json"), "{}").expect("a new file");
        let mut command = contained(&tools::built("dockerd"));
        for (flag, name) in [
            ("--config-file", "daemon.json"),
            ("--data-root", "data"),
            ("--exec-root", "exec"),
            ("--pidfile", "pid"),
        ] {
            command.arg(flag).arg(place(name));
        }
        let socket = dir.short().join("socket");
        command.args(["--host", &format!("unix://{}", socket.display())]);
        // Images are pushed and pulled, nothing runs: no bridge, no rules in the machine's firewall.
        command.args(["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        command.env("PATH", path_with_tools());
        Self(Server::start("dockerd", dir, &command, || {
            matches!(http_by_socket("GET", &socket, "/_ping"), Some((200, _)))
        }))
    }

    fn address(&self) -> String {
        format!("unix://{}", self.0.short_dir().join("socket").display())
    }
}
