//! A remote store that is stopped where it is, with a folder in front: it takes connections and never answers.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    process::{Command, Output},
};

use cachectl::digest::Digest;
use rustix::process::Signal;

use super::{
    Daemon,
    process::{cachectld, exchange},
};
use crate::support::{
    node::Node,
    servers::{Minio, S3Server, free_port},
};

const UNREACHABLE: &str = "The remote store is unreachable; the local cache directory serves reads and keeps writes for it";
const BACK: &str = "The remote store is back";

/// A daemon with a folder in front of a server, which is stopped and goes on.
struct Scene {
    server: S3Server,
    node: Node,
}

impl Scene {
    fn new() -> Self {
        Self {
            server: Minio::start(),
            node: Node::new(),
        }
    }

    fn command(&self) -> Command {
        let mut command = cachectld(&self.node);
        let url = S3Server::url(self.server.port, "outages");
        command.args(["--store", &url, "--listen", "127.0.0.1:0"]);
        command.args(["--admin-listen", "127.0.0.1:0"]);
        command.envs(S3Server::env());
        command
    }

    fn start(&self) -> Daemon {
        let mut command = self.command();
        command.arg("--front").arg(self.node.path("front"));
        command.args(["--mode", "write-back", "--drain-timeout", "1s"]);
        Daemon::run(command)
    }

    fn cachectl(&self, daemon: &Daemon, line: &str) -> Output {
        let mut command = self.node.command(env!("CARGO_BIN_EXE_cachectl"));
        command.args(line.split(' ')).arg("--daemon");
        command.arg(daemon.socket()).output().unwrap()
    }

    /// What a daemon without a folder in front finds at the remote.
    fn behind(&self, tag: &str) -> (u16, String) {
        let mut command = self.command();
        command.arg("--state").arg(self.node.path("behind"));
        command.arg("--socket").arg(self.node.path("behind.sock"));
        get(&Daemon::run(command), &format!("manifests/{tag}"))
    }
}

fn request(daemon: &Daemon, method: &str, path: &str, body: &str) -> (u16, String) {
    let address = daemon.address();
    let request = format!(
        "{method} /v2/team/app/{path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/vnd.oci.image.index.v1+json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(TcpStream::connect(&address).unwrap(), &request)
}

fn get(daemon: &Daemon, path: &str) -> (u16, String) {
    request(daemon, "GET", path, "")
}

fn push(daemon: &Daemon, tag: &str, note: &str) -> u16 {
    let body =
        format!("{{\"schemaVersion\":2,\"manifests\":[],\"annotations\":{{\"note\":\"{note}\"}}}}");
    request(daemon, "PUT", &format!("manifests/{tag}"), &body).0
}

/// Pushes an image of which config and layer are one blob.
fn push_image(daemon: &Daemon, blob: &Digest, size: usize) -> u16 {
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let named = |of: &str| {
        format!(
            "{{\"mediaType\":\"application/vnd.oci.image.{of}\",\"digest\":\"{blob}\",\"size\":{size}}}"
        )
    };
    let body = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{kind}\",\"config\":{},\"layers\":[{}]}}",
        named("config.v1+json"),
        named("layer.v1.tar")
    );
    let address = daemon.address();
    let request = format!(
        "PUT /v2/team/app/manifests/image HTTP/1.1\r\nHost: {address}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{body}",
        body.len()
    );
    exchange(TcpStream::connect(&address).unwrap(), &request).0
}

fn probe(daemon: &Daemon) -> (u16, String) {
    let listeners = daemon.listeners();
    let admin = listeners.iter().find(|(_, serves)| serves == "admin");
    let address = admin.unwrap().0.strip_prefix("http://").unwrap().to_owned();
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(TcpStream::connect(&address).unwrap(), &request)
}

#[test]
fn a_store_that_is_stopped_is_unreachable_for_everybody_and_everything_goes_on() {
    let scene = Scene::new();
    let daemon = scene.start();
    let bytes = "only the remote has these";
    let digest = Digest::sha256_of(bytes.as_bytes());
    let upload = format!("blobs/uploads/?digest={digest}");
    assert_eq!(request(&daemon, "POST", &upload, bytes).0, 201);
    assert_eq!(push(&daemon, "t", "first"), 201);
    let flushed = scene.cachectl(&daemon, "flush --wait");
    assert!(flushed.status.success(), "{flushed:?}");
    // As if it had been evicted.
    fs::remove_file(
        scene
            .node
            .path(&format!("front/blobs/sha256/{}", digest.hex())),
    )
    .unwrap();

    scene.server.pause(true);
    // Whoever asks first has no patience at all.
    let mut impatient = TcpStream::connect(daemon.address()).unwrap();
    impatient
        .write_all(b"GET /v2/team/app/manifests/t HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        .unwrap();
    drop(impatient);
    let (code, found) = get(&daemon, "manifests/t");
    assert!(code == 200 && found.contains("first"), "{code} {found}");
    daemon.wait_for(UNREACHABLE);
    // Known to all: none of these asks the remote any more.
    assert_eq!(push(&daemon, "t", "second"), 201);
    let (code, found) = get(&daemon, "manifests/t");
    assert!(code == 200 && found.contains("second"), "{code} {found}");
    assert_eq!(get(&daemon, "manifests/unknown").0, 404);
    // Whether the remote has what an image names cannot be told for now, so it is believed.
    assert_eq!(push_image(&daemon, &digest, bytes.len()), 201);
    let (code, said) = probe(&daemon);
    assert!(code == 200 && said.contains("the remote store"), "{said}");
    let status = scene.cachectl(&daemon, "status");
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains("2 tags and"), "{said}");
    assert!(said.contains("the remote store is unreachable"), "{said}");

    let flush = scene.cachectl(&daemon, "flush --wait --budget 2s");
    let said = String::from_utf8_lossy(&flush.stderr).into_owned();
    assert_eq!(flush.status.code(), Some(1), "{said}");
    // As it goes, and at the end.
    let reasons = said.matches("the remote store is unreachable").count();
    assert!(reasons >= 2, "{said}");
    assert!(!said.contains("--max-size"), "{said}");

    // Bytes that only the remote has are held until it is back.
    let (code, found) = std::thread::scope(|scope| {
        let held = scope.spawn(|| get(&daemon, &format!("blobs/{digest}")));
        daemon.wait_for("Request waits for the store, up to this long");
        scene.server.pause(false);
        held.join().unwrap()
    });
    assert!(code == 200 && found.ends_with(bytes), "{code} {found}");
    daemon.wait_for(BACK);
    let flushed = scene.cachectl(&daemon, "flush --wait");
    assert!(flushed.status.success(), "{flushed:?}");
    let (code, found) = scene.behind("t");
    assert!(code == 200 && found.contains("second"), "{code} {found}");
}

#[test]
fn a_daemon_that_ends_while_its_store_is_stopped_keeps_what_it_acknowledged() {
    let scene = Scene::new();
    let mut daemon = scene.start();
    assert_eq!(push(&daemon, "t", "first"), 201);
    scene.server.pause(true);
    daemon.wait_for(UNREACHABLE);
    assert_eq!(push(&daemon, "t", "second"), 201);
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(1));
    let line = daemon.wait_for(
        "Stopped with queued writes, since the remote store is unreachable; they are safe on disk, and uploaded after the next start",
    );
    assert!(!line["error"].as_str().unwrap().is_empty(), "{line:?}");
    scene.server.pause(false);
    let daemon = scene.start();
    let flushed = scene.cachectl(&daemon, "flush --wait");
    assert!(flushed.status.success(), "{flushed:?}");
    let (code, found) = scene.behind("t");
    assert!(code == 200 && found.contains("second"), "{code} {found}");
}

#[test]
fn the_log_says_where_and_why_a_store_is_unreachable() {
    let (node, port) = (Node::new(), free_port());
    let mut command = cachectld(&node);
    command.args(["--store", &S3Server::url(port, "outages")]);
    command
        .args(["--listen", "127.0.0.1:0"])
        .envs(S3Server::env());
    let daemon = Daemon::run(command);
    daemon.wait_for("Store is unreachable");
    let line = daemon.wait_for("The store's late answer is an error");
    let error = line["error"].as_str().unwrap();
    assert!(error.contains(&port.to_string()), "{error}");
    assert!(error.contains("refused"), "{error}");
}

#[test]
fn a_caller_who_fills_the_local_folder_while_the_store_is_unreachable_is_refused_before_others() {
    let node = Node::new();
    let front = node.path("front");
    // Nobody listens there.
    let store = format!("oci://127.0.0.1:{}/team/caches", free_port());
    let args = ["--store", &store, "--front", front.to_str().unwrap()];
    let more = ["--mode", "write-back", "--front-max-size", "8MiB"];
    let daemon = Daemon::start(&node, &[&args[..], &more[..]].concat());
    let bytes = |n: usize| n.to_string().repeat(1 << 20);
    let upload = |n: usize| {
        let digest = Digest::sha256_of(bytes(n).as_bytes());
        format!("blobs/uploads/?digest={digest}")
    };
    // One address has a third at most.
    for n in 0..3 {
        assert_eq!(request(&daemon, "POST", &upload(n), &bytes(n)).0, 201);
    }
    let (status, said) = request(&daemon, "POST", &upload(3), &bytes(3));
    assert_eq!(status, 507, "{said}");
    assert!(
        said.contains("too many bytes of this caller wait"),
        "{said}"
    );
    // What it sent before is still there for it.
    assert_eq!(request(&daemon, "POST", &upload(0), &bytes(0)).0, 201);
    let mut other = UnixStream::connect(daemon.socket()).unwrap();
    let head = format!(
        "POST /v2/team/app/{} HTTP/1.1\r\nHost: localhost",
        upload(3)
    );
    let length = bytes(3).len();
    write!(
        other,
        "{head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    other.write_all(bytes(3).as_bytes()).unwrap();
    let mut said = String::new();
    other.read_to_string(&mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
}
