//! Whatever a stranger sends or holds, somebody at another address is served beside it.
//!
//! Each test holds half as many connections, or streams, again as the daemon allows, all from 127.0.0.1, for as long as the
//! other one, from 127.0.0.2, takes. What is asserted is that the other one is served meanwhile, not how fast; that is printed.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream},
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use sha2::{Digest as _, Sha256};

use super::{
    Daemon, cachectld,
    process::{answer, file},
};
use crate::support::node::Node;

mod cheap;
mod streams;
mod unread;

/// Most connections, and requests, of the daemon; and how many are held.
const CONNECTIONS: usize = 24;
const REQUESTS: usize = 16;
const HELD: usize = CONNECTIONS + CONNECTIONS / 2;
/// Slow clients that must be held before the other one asks: some of them always give way.
const SLOW: usize = 8;

/// `ci`, whose password is `correct horse`, at cost 8: some 0.1 s where nothing is optimized.
const USERS: &str = "ci:$2y$08$NTUHu5nGMZB3AZBWTMbVjOy.nEgLirY4xi7TGv3JlIgN2jTUumoHi";

/// Its header with the password of `ci`.
const PASSWORD: &str = "Authorization: Basic Y2k6Y29ycmVjdCBob3JzZQ==\r\n";

/// A daemon in which everybody may pull and push, whoever they are; passwords and tokens are understood.
struct Victim {
    daemon: Daemon,
    address: SocketAddrV4,
    _node: Node,
}

impl Victim {
    fn start(more: &str) -> Self {
        let node = Node::new();
        let users = file(&node, "users", USERS);
        let config = format!(
            "max_connections = {CONNECTIONS}\nmax_requests = {REQUESTS}\n{more}\n[auth]\nhtpasswd = \"{users}\"\n\
             trust_local = \"nobody\"\nanonymous = \"push\"\n"
        );
        let config = file(&node, "c.toml", &config);
        let mut command = cachectld(&node);
        command.args(["--listen", "127.0.0.1:0", "--config", &config]);
        let daemon = Daemon::run(command);
        let address = daemon.address().parse().unwrap();
        Self {
            daemon,
            address,
            _node: node,
        }
    }

    /// Holds connections on each of which `request` was sent.
    fn hold(&self, request: &str) -> Vec<TcpStream> {
        let held = (0..HELD).map(|_| {
            let mut stream = TcpStream::connect(self.address).unwrap();
            // One that is one too many may be closed already.
            let _ = stream.write_all(request.as_bytes());
            stream
        });
        held.collect()
    }

    /// Sends a request from 127.0.0.2 and returns its status.
    fn ask(&self, head: &str, body: &[u8]) -> u16 {
        let mut stream = other(self.address);
        let host = self.address;
        let length = body.len();
        let head = format!(
            "{head} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        answer(stream).0
    }

    /// Requires that somebody at another address can log in, push and pull.
    fn serves_others(&self, beside: &str) {
        let blob = fastrand::u64(..).to_le_bytes();
        let digest = const_hex::encode(Sha256::digest(blob));
        let push = format!("POST /v2/other/blobs/uploads/?digest=sha256:{digest}");
        assert_eq!(self.ask(&push, &blob), 201, "{beside}");
        let pull = format!("GET /v2/other/blobs/sha256:{digest}");
        assert_eq!(self.ask(&pull, b""), 200, "{beside}");
        let token = "GET /token?service=cachectld&scope=repository:other:pull";
        assert_eq!(self.ask(token, b""), 200, "{beside}");
    }

    /// Waits until so many clients are in a lane, as the metrics say.
    fn wait_for_clients(&self, lane: &str, least: usize) {
        let line = format!("cachectld_slow_clients{{lane=\"{lane}\"}} ");
        let mut last = 0;
        for _ in 0..1000 {
            let mut stream = other(self.address);
            let head = self.head("GET /metrics", 0);
            let more = format!("\r\n{PASSWORD}Connection: close\r\n\r\n");
            let head = head.replacen("\r\n\r\n", &more, 1);
            stream.write_all(head.as_bytes()).unwrap();
            let (status, said) = answer(stream);
            assert_eq!(status, 200, "{said}");
            let count = said.lines().find_map(|l| l.strip_prefix(&line));
            last = count.expect(&line).parse().unwrap();
            if last >= least {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("there are never {least} clients in the lane {lane}: {last}");
    }

    /// Begins an upload from 127.0.0.2 and returns where it goes on.
    fn begin(&self) -> String {
        let mut stream = other(self.address);
        let head = self.head("POST /v2/a/blobs/uploads/", 0);
        let head = head.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
        stream.write_all(head.as_bytes()).unwrap();
        super::process::header(&answer(stream).1, "location")
    }

    fn head(&self, line: &str, length: usize) -> String {
        let host = self.address;
        format!("{line} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n\r\n")
    }
}

/// A connection from 127.0.0.2.
fn other(to: SocketAddrV4) -> TcpStream {
    connect_from(2, to)
}

/// A connection from 127.0.0.`last`.
pub(super) fn connect_from(last: u8, to: SocketAddrV4) -> TcpStream {
    let own = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&own, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0)).unwrap();
    connect(&own, &to).unwrap();
    TcpStream::from(own)
}

#[test]
fn others_are_served_beside_halves_of_heads() {
    let victim = Victim::start("");
    let _held = victim.hold("GET /v2/ HTTP/1.1\r\nHost: ");
    victim.serves_others("halves of heads");
}

#[test]
fn others_are_served_beside_slow_requests_for_tokens() {
    let victim = Victim::start("");
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    let head = victim.head("POST /token", 60_000);
    let head = head.replacen("Content-Length", &format!("{form}Content-Length"), 1);
    let _held = victim.hold(&format!("{head}g"));
    victim.serves_others("slow requests for tokens");
}

#[test]
fn others_are_served_beside_wrong_passwords() {
    let victim = Victim::start("");
    // `ci:wrong`
    let wrong = format!(
        "GET /v2/ HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic Y2k6d3Jvbmc=\r\n\r\n",
        victim.address
    );
    let _held = victim.hold(&wrong.repeat(3));
    victim.serves_others("wrong passwords");
    // Who has a password is let in as well.
    let mut stream = other(victim.address);
    let host = victim.address;
    let request =
        format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\n{PASSWORD}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert_eq!(answer(stream).0, 200);
}

#[test]
fn others_are_served_beside_uploads_and_manifests_that_trickle() {
    let victim = Victim::start("");
    let digest = const_hex::encode(Sha256::digest(b"x"));
    let upload = format!("POST /v2/slow/blobs/uploads/?digest=sha256:{digest}");
    let held = victim.hold(&format!("{}b", victim.head(&upload, 1000)));
    victim.wait_for_clients("uploads", SLOW);
    victim.serves_others(&upload);
    drop(held);
    // Their connections give way to others after some seconds, so there is nothing to wait for.
    let manifest = "PUT /v2/slow/manifests/t";
    let _held = victim.hold(&format!("{}b", victim.head(manifest, 1000)));
    victim.serves_others(manifest);
}

/// From as many addresses as it takes to have all places, those too that are kept for callers with few.
#[test]
fn others_are_served_beside_slow_uploads_from_several_addresses() {
    let victim = Victim::start("");
    let digest = const_hex::encode(Sha256::digest(b"x"));
    let upload = format!("POST /v2/slow/blobs/uploads/?digest=sha256:{digest}");
    let request = format!("{}b", victim.head(&upload, 1000));
    let mut held = Vec::new();
    for address in 3..9 {
        for _ in 0..6 {
            let mut stream = connect_from(address, victim.address);
            let _ = stream.write_all(request.as_bytes());
            held.push(stream);
        }
    }
    victim.serves_others(&upload);
    drop(held);
}

#[test]
fn others_are_served_beside_responses_that_nobody_reads() {
    let victim = Victim::start("");
    let blob = vec![7; 24 << 20];
    let digest = const_hex::encode(Sha256::digest(&blob));
    let push = format!("POST /v2/big/blobs/uploads/?digest=sha256:{digest}");
    assert_eq!(victim.ask(&push, &blob), 201);
    let get = victim.head(&format!("GET /v2/big/blobs/sha256:{digest}"), 0);
    let _held = victim.hold(&get);
    victim.serves_others("responses that nobody reads");
}

#[test]
fn others_are_served_beside_connections_without_a_tls_handshake() {
    use rcgen::{CertifiedKey, generate_simple_self_signed};

    let node = Node::new();
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let cert = file(&node, "c.pem", &cert.pem());
    let key = file(&node, "k.pem", &signing_key.serialize_pem());
    let more = "listen = [\"https://127.0.0.1:0\", \"http://127.0.0.1:0\"]";
    let users = file(&node, "users", USERS);
    let config = format!(
        "max_connections = {CONNECTIONS}\n{more}\n[tls]\ncert = \"{cert}\"\nkey = \"{key}\"\n[auth]\nhtpasswd = \"{users}\"\n\
         trust_local = \"nobody\"\nanonymous = \"push\"\n"
    );
    let config = file(&node, "c.toml", &config);
    let mut command = cachectld(&node);
    command.args(["--config", &config]);
    let daemon = Daemon::run(command);
    let found = daemon.listeners();
    let address = |at: usize| found[at].0.split_once("://").unwrap().1.parse().unwrap();
    let (tls, plain): (SocketAddrV4, SocketAddrV4) = (address(0), address(1));
    let _held: Vec<_> = (0..HELD)
        .map(|_| TcpStream::connect(tls).unwrap())
        .collect();
    let victim = Victim {
        daemon,
        address: plain,
        _node: node,
    };
    victim.serves_others("connections without a TLS handshake");
}

#[test]
fn what_the_client_does_wrong_is_answered_logged_and_counted_as_its_own() {
    let victim = Victim::start("client_stall = \"1s\"");
    let send = |body: &str, chunked: bool| {
        let head = victim.head(&format!("PATCH {}", victim.begin()), 100);
        let head = if chunked {
            head.replacen("Content-Length: 100", "Transfer-Encoding: chunked", 1)
        } else {
            head
        };
        let mut stream = other(victim.address);
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .unwrap();
        stream
    };
    assert_eq!(answer(send("half", false)).0, 408);
    assert_eq!(answer(send("nonsense\r\n", true)).0, 400);
    drop(send("gone", false));
    let lines = victim.daemon.wait_for_times("Request body ended early", 3);
    assert!(
        lines["why"]
            .as_str()
            .unwrap()
            .contains("closed the connection"),
        "{lines:?}"
    );
    victim.daemon.wait_for_times("Request", 6);
    let outcomes: Vec<String> = victim
        .daemon
        .lines("Request")
        .iter()
        .filter(|l| l["method"] == "PATCH")
        .map(|l| l["outcome"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(outcomes, ["refused", "refused", "aborted"]);
}

#[test]
fn unfinished_uploads_of_one_caller_are_limited_in_number_and_bytes() {
    let victim = Victim::start("max_uploads = 2\nmax_upload_bytes = \"1KiB\"");
    let begin = "POST /v2/a/blobs/uploads/";
    // One more takes the place of the empty one that rested longest.
    let begun: Vec<String> = (0..3).map(|_| victim.begin()).collect();
    let patch = |number: usize| format!("PATCH {}", begun[number]);
    assert_eq!(victim.ask(&patch(0), b"x"), 404);
    assert_eq!(victim.ask(&patch(1), b"x"), 202);
    assert_eq!(victim.ask(&patch(2), b"x"), 202);
    assert_eq!(victim.ask(begin, b""), 403);
    let blob = b"whole";
    let digest = const_hex::encode(Sha256::digest(blob));
    let whole = format!("POST /v2/a/blobs/uploads/?digest=sha256:{digest}");
    assert_eq!(victim.ask(&whole, blob), 201);
    // Somebody else's are not among them.
    let mut stream = TcpStream::connect(victim.address).unwrap();
    let head = victim.head(begin, 0);
    stream.write_all(head.as_bytes()).unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 202");
    let blob = vec![1; 2000];
    let digest = const_hex::encode(Sha256::digest(&blob));
    let mut stream = TcpStream::connect(victim.address).unwrap();
    let line = format!("POST /v2/a/blobs/uploads/?digest=sha256:{digest}");
    let head = victim.head(&line, blob.len());
    let head = head.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&blob).unwrap();
    let (status, said) = answer(stream);
    assert_eq!(status, 403);
    assert!(said.contains("max_upload_bytes"), "{said}");
}

#[test]
fn request_with_two_hosts_is_refused_whoever_asks_for_what() {
    let victim = Victim::start("");
    for path in ["/v2/", "/token", "/healthz", "/metrics"] {
        let head = victim.head(&format!("GET {path}"), 0);
        let both = "\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let mut stream = other(victim.address);
        let head = head.replacen("\r\n\r\n", both, 1);
        stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(answer(stream).0, 400, "{path}");
    }
}
