//! Programs that run beside a test: started, watched until they are ready, gone with the test in whatever way it ends.
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::scratch::Scratch;
use super::tools;

/// Servers answer within a second or ten; a machine that compiles beside us may need more.
const READY_WITHIN: Duration = Duration::from_secs(90);
/// Distribution gives a tag only to who names the media type of its manifest.
const ACCEPT: &str = "Accept: application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";
const POLL: Duration = Duration::from_millis(25);

/// A child that is killed on drop, and by the kernel when the test process ends.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    child: Child,
    dir: Scratch,
}

impl Server {
    /// Starts `command`, which writes only below `dir`, and returns when `ready` says so.
    pub(super) fn start(
        name: &'static str,
        dir: Scratch,
        command: &Command,
        ready: impl Fn() -> bool,
    ) -> Self {
        let child = spawn(command, &dir);
        let mut server = Self { name, child, dir };
        server.wait_until(ready);
        server
    }

    /// Starts `command` in the place of the child that was killed or has ended, and with the same folder.
    pub(super) fn start_again(&mut self, command: &Command, ready: impl Fn() -> bool) {
        self.kill();
        self.child = spawn(command, &self.dir);
        self.wait_until(ready);
    }

    fn wait_until(&mut self, ready: impl Fn() -> bool) {
        let name = self.name;
        let deadline = Instant::now() + READY_WITHIN;
        while !ready() {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                panic!("{name} ended with {status}:\n{}", self.log_tail());
            }
            assert!(
                Instant::now() < deadline,
                "{name} is not ready after {READY_WITHIN:?}:\n{}",
                self.log_tail()
            );
            std::thread::sleep(POLL);
        }
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// [`Scratch::short`] of its folder: for sockets.
    pub(super) fn short_dir(&self) -> PathBuf {
        self.dir.short()
    }

    /// SIGKILL, and waits until it is gone; one that has ended already stays so.
    pub(super) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// SIGTERM, and waits until it has ended; panics if that takes longer than `within`.
    pub(super) fn terminate(&mut self, within: Duration) -> ExitStatus {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM)
            .expect("our own child, not waited for");
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().expect("our own child") {
                return status;
            }
            assert!(
                Instant::now() < deadline,
                "{} still runs {within:?} after SIGTERM:\n{}",
                self.name,
                self.log_tail()
            );
            std::thread::sleep(POLL);
        }
    }

    /// All that it said since the first start.
    pub(super) fn log(&self) -> String {
        let text = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    pub(super) fn log_tail(&self) -> String {
        let text = self.log();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            tools::say(&format!(
                "last lines of {}:\n{}",
                self.name,
                self.log_tail()
            ));
        }
    }
}

fn spawn(command: &Command, dir: &Scratch) -> Child {
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.path().join("log"))
        .expect("a file in a folder of our own");
    // The kernel's signal comes when the *thread* that started the child ends, and tests are threads: hence the
    // one starter thread that lives as long as the process.
    let mut tied = Command::new("setpriv");
    tied.args(["--pdeathsig", "KILL", "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(key, value)| Some((key, value?))),
        )
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("one more descriptor"))
        .stderr(log);
    start_from_lasting_thread(tied)
}

fn start_from_lasting_thread(command: Command) -> Child {
    type Order = (Command, Sender<std::io::Result<Child>>);
    static STARTER: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (sender, orders) = channel::<Order>();
        std::thread::Builder::new()
            .name("starter".into())
            .spawn(move || {
                for (mut command, answer) in orders {
                    drop(answer.send(command.spawn()));
                }
            })
            .expect("one more thread");
        Mutex::new(sender)
    });
    let (answer, child) = channel();
    starter
        .lock()
        .expect("sending does not panic")
        .send((command, answer))
        .expect("the starter lives as long as the process");
    child
        .recv()
        .expect("the starter answers every order")
        .expect("setpriv of util-linux is on PATH: run `make deps`")
}

/// `program` with a mount table and a process table of its own: what a builder mounts and runs goes when it goes, even by
/// SIGKILL. Needs root.
pub(super) fn contained(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--pid", "--fork", "--kill-child=KILL"]);
    command.arg("--mount-proc").arg("--").arg(program);
    command
}

/// A port that nobody listens on.
///
/// Below the range the kernel takes for outgoing connections, so that none of those can take it before the server
/// does, and from a block that is this process's alone, so that no other test run does either.
pub(crate) fn free_port() -> u16 {
    static BLOCK: OnceLock<(u16, File)> = OnceLock::new();
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let (first, _locked) = BLOCK.get_or_init(claim_ports);
    loop {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % PORTS;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Ports of one test process.
const PORTS: u16 = 1_000;

/// The first port of a block that no other test process of this machine has, and what keeps it so.
fn claim_ports() -> (u16, File) {
    let claim = |first: u16| {
        let name = format!("cachectl-ports-{first}");
        let lock = File::create(std::env::temp_dir().join(name)).ok()?;
        lock.try_lock().ok().map(|()| (first, lock))
    };
    (15_000..30_000)
        .step_by(usize::from(PORTS))
        .find_map(claim)
        .expect("fewer than 15 test runs at once")
}

/// Status and body of one plain HTTP/1.0 request to a loopback server; `None` while nobody answers.
pub(crate) fn http(method: &str, port: u16, path: &str, body: &[u8]) -> Option<(u16, String)> {
    let stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    exchange(stream, method, &format!("127.0.0.1:{port}"), path, body)
}

/// The same through a unix socket.
pub(super) fn http_by_socket(method: &str, socket: &Path, path: &str) -> Option<(u16, String)> {
    let stream = UnixStream::connect(socket).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .ok()?;
    exchange(stream, method, "localhost", path, b"")
}

fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    host: &str,
    path: &str,
    body: &[u8],
) -> Option<(u16, String)> {
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {host}\r\n{ACCEPT}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    )
    .ok()?;
    stream.write_all(body).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((status, body.to_owned()))
}

pub(super) fn answers_ok(method: &str, port: u16, path: &str, body: &[u8]) -> bool {
    matches!(http(method, port, path, body), Some((200..=299, _)))
}
