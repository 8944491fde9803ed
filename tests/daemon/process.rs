//! `cachectld` as a child whose log is read while it runs.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Map, Value};

use crate::support::node::Node;

/// A machine that compiles beside us is slow.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(5);

/// `cachectld` on `node`, with no arguments yet.
pub(super) fn cachectld(node: &Node) -> Command {
    node.command(env!("CARGO_BIN_EXE_cachectld"))
}

/// A running daemon; killed when dropped.
pub(super) struct Daemon {
    child: Child,
    log: Arc<Mutex<Vec<Map<String, Value>>>>,
}

impl Daemon {
    /// On a free loopback port and the default socket; returns when it is ready.
    pub(super) fn start(node: &Node, args: &[&str]) -> Self {
        let mut command = cachectld(node);
        command.args(["--listen", "127.0.0.1:0"]).args(args);
        Self::run(command)
    }

    /// As `command` says; returns when it is ready.
    pub(super) fn run(command: Command) -> Self {
        let daemon = Self::spawn(command);
        daemon.wait_for("Ready");
        daemon
    }

    /// As `command` says; returns at once.
    pub(super) fn spawn(command: Command) -> Self {
        let mut daemon = Self::unread(command);
        let (said, kept) = (daemon.child.stderr.take().unwrap(), daemon.log.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(said).lines().map_while(Result::ok) {
                kept.lock().unwrap().push(fields(&line));
            }
        });
        daemon
    }

    /// As `command` says; nobody reads its log. Returns at once.
    pub(super) fn unread(mut command: Command) -> Self {
        command
            .args(["--log-format", "json"])
            .stdin(Stdio::null())
            .stderr(Stdio::piped());
        Self {
            child: command.spawn().expect("cargo built the binary"),
            log: Arc::default(),
        }
    }

    /// The lines with this message, so far.
    pub(super) fn lines(&self, message: &str) -> Vec<Map<String, Value>> {
        let log = self.log.lock().unwrap();
        let lines = log.iter().filter(|l| l["message"] == message);
        lines.cloned().collect()
    }

    /// What it says until it is ready.
    pub(super) fn first_words(&self) -> Vec<String> {
        self.wait_for("Ready");
        let log = self.log.lock().unwrap();
        let said = log
            .iter()
            .map(|l| l["message"].as_str().unwrap().to_owned());
        let mut said: Vec<String> = said.collect();
        let ready = said.iter().position(|message| message == "Ready").unwrap();
        said.truncate(ready + 1);
        said
    }

    /// The first line with this message, now or soon.
    pub(super) fn wait_for(&self, message: &str) -> Map<String, Value> {
        self.wait_for_times(message, 1)
    }

    /// The `times`th line with this message.
    pub(super) fn wait_for_times(&self, message: &str, times: usize) -> Map<String, Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(line) = self.lines(message).get(times - 1) {
                return line.clone();
            }
            assert!(
                Instant::now() < deadline,
                "it never said `{message}` {times} times: {:#?}",
                self.log.lock().unwrap()
            );
            std::thread::sleep(POLL);
        }
    }

    /// Waits until it is ready; `false` if it ends before.
    pub(super) fn gets_ready(&mut self) -> bool {
        let deadline = Instant::now() + PATIENCE;
        while self.lines("Ready").is_empty() {
            if self.has_ended() {
                return false;
            }
            assert!(Instant::now() < deadline, "it is never ready");
            std::thread::sleep(POLL);
        }
        true
    }

    /// Where it says that it listens, with what it serves there.
    pub(super) fn listeners(&self) -> Vec<(String, String)> {
        self.wait_for("Ready");
        let text = |line: &Map<String, Value>, key| line[key].as_str().unwrap().to_owned();
        let lines = self.lines("Listening");
        lines
            .iter()
            .map(|l| (text(l, "url"), text(l, "serves")))
            .collect()
    }

    /// `127.0.0.1:<port>` of the first listener.
    pub(super) fn address(&self) -> String {
        let (url, _) = self.listeners().remove(0);
        url.split_once("://").unwrap().1.to_owned()
    }

    pub(super) fn socket(&self) -> PathBuf {
        let found = self.listeners().into_iter();
        let mut sockets = found.filter_map(|(url, _)| Some(url.strip_prefix("unix:")?.into()));
        sockets.next().expect("it listens on a socket")
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("our own child, not waited for");
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(super) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Waits for its end.
    pub(super) fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(POLL);
        }
    }

    /// Status of a request without a body to the first listener.
    pub(super) fn status(&self, method: &str, path: &str) -> u16 {
        status(&self.address(), method, path)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a line says: its fields, wherever in it they stand, and its message; a line that is no JSON is a message.
fn fields(line: &str) -> Map<String, Value> {
    let Ok(Value::Object(mut top)) = serde_json::from_str(line) else {
        return Map::from_iter([("message".to_owned(), Value::from(line))]);
    };
    if let Some(Value::Object(inner)) = top.remove("fields") {
        top.extend(inner);
    }
    top.entry("message").or_insert(Value::Null);
    top
}

/// Status of a request without a body.
pub(super) fn status(address: &str, method: &str, path: &str) -> u16 {
    let stream = TcpStream::connect(address).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (status, _) = exchange(stream, &request);
    status
}

/// Sends a request that ends its connection; status and head of the answer.
pub(super) fn exchange(mut stream: TcpStream, request: &str) -> (u16, String) {
    stream.write_all(request.as_bytes()).unwrap();
    answer(stream)
}

/// Status and all of the answer on a connection that ends with it.
pub(super) fn answer(mut stream: TcpStream) -> (u16, String) {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).expect("an answer of HTTP");
    (status.parse().unwrap(), answer)
}

/// Runs `command`, which must fail; its exit code and what it said.
pub(super) fn failure(mut command: Command) -> (i32, String) {
    let done = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success(), "{said}");
    (done.status.code().unwrap_or(-1), said)
}

/// Writes a file on the node; its path.
pub(super) fn file(node: &Node, name: &str, text: &str) -> String {
    let path = node.path(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// The bytes of an upload.
pub(super) const BODY: &[u8] = b"sixteen bytes in";

/// Begins an upload and sends the first half of its bytes.
pub(super) fn half_an_upload(daemon: &Daemon) -> TcpStream {
    let address = daemon.address();
    let begin = format!(
        "POST /v2/app/blobs/uploads/ HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    let (code, head) = exchange(TcpStream::connect(&address).unwrap(), &begin);
    assert_eq!(code, 202, "{head}");
    let location = header(&head, "location");
    let mut stream = TcpStream::connect(&address).unwrap();
    write!(
        stream,
        "PATCH {location} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n",
        BODY.len()
    )
    .unwrap();
    // The daemon asks for the body once it reads it: from then on the request is under way.
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"));
    stream.write_all(&BODY[..8]).unwrap();
    stream
}

/// A header of an answer.
pub(super) fn header(head: &str, name: &str) -> String {
    let value = head.lines().find_map(|line| {
        let (found, value) = line.split_once(':')?;
        found.eq_ignore_ascii_case(name).then(|| value.trim())
    });
    value.expect("it is there").to_owned()
}
