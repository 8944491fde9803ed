//! What an operator sees of a running daemon: numbers that Prometheus' own tool accepts, probes that answer under load, lines
//! that a machine reads.
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::support::cachectld::Cachectld;
use crate::support::e2e;
use crate::support::scratch::Scratch;
use crate::support::servers::http;
use crate::support::tools::{built, say};

/// A daemon on a folder of its own.
struct Node {
    daemon: Cachectld,
    _store: Scratch,
}

impl Node {
    fn start() -> Self {
        let store = Scratch::new("operations");
        let url = format!("disk:{}", store.path().display());
        Self {
            daemon: Cachectld::over(&url)
                .arg("--log-format")
                .arg("json")
                .start(),
            _store: store,
        }
    }

    fn get(&self, path: &str) -> (u16, String) {
        http("GET", self.daemon.port, path, b"").expect("it is ready")
    }

    /// Pushes a blob; its path.
    fn push(&self, bytes: &[u8]) -> String {
        let digest = format!("sha256:{}", const_hex::encode(Sha256::digest(bytes)));
        let path = format!("/v2/team/app/blobs/uploads/?digest={digest}");
        let (status, said) = http("POST", self.daemon.port, &path, bytes).expect("it is ready");
        assert_eq!(status, 201, "{said}");
        format!("/v2/team/app/blobs/{digest}")
    }
}

/// Downloads something and throws it away, at little cost; the bytes that came, with their head.
fn drain(port: u16, path: &str) -> u64 {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it is ready");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n").expect("it reads");
    let (mut buffer, mut came) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer).expect("it goes on") {
            0 => return came,
            n => came += n as u64,
        }
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics() {
    if !e2e() {
        return;
    }
    let node = Node::start();
    let blob = node.push(b"some bytes");
    assert_eq!(node.get(&blob).0, 200);
    assert_eq!(node.get("/v2/team/app/manifests/none").0, 404);
    let (status, text) = node.get("/metrics");
    assert_eq!(status, 200);
    assert!(text.contains("cachectld_lookups_total"), "{text}");
    assert!(!text.contains("team/app"), "names are no labels");
    let mut promtool = Command::new(built("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed");
    let mut stdin = promtool.stdin.take().expect("it is piped");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let out = promtool.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success() && said.is_empty(), "{said}\n{text}");
}

#[test]
fn probes_answer_within_50_ms_while_blobs_are_served() {
    if !e2e() {
        return;
    }
    let node = Node::start();
    let blob = node.push(&vec![7; 32 << 20]);
    let (stop, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut took = Vec::new();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert!(drain(node.daemon.port, &blob) > 32 << 20);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(5) {
            let asked = Instant::now();
            assert_eq!(node.get("/readyz").0, 200);
            took.push(asked.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    took.sort_unstable();
    let [median, p95] = [took.len() / 2, took.len() * 95 / 100].map(|at| took[at]);
    say(&format!(
        "{} probes beside {} blobs of 32 MiB: median {median:?}, 95 % {p95:?}",
        took.len(),
        served.load(Ordering::Relaxed)
    ));
    assert!(served.load(Ordering::Relaxed) > 16);
    // The clients share the daemon's cores, so the slowest few say more about them; and unoptimised code about itself.
    let limit = Duration::from_millis(if cfg!(debug_assertions) { 500 } else { 50 });
    assert!(p95 < limit, "{p95:?}");
}

#[test]
fn every_line_of_the_log_is_json_and_a_request_has_its_ids() {
    if !e2e() {
        return;
    }
    let mut node = Node::start();
    let blob = node.push(b"logged");
    node.get(&blob);
    let ended = node.daemon.terminate(Duration::from_secs(30));
    assert!(ended.success(), "{ended}");
    let log = node.daemon.log();
    let lines: Vec<Value> = log
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect();
    for line in &lines {
        for key in ["timestamp", "level", "target", "message"] {
            assert!(line[key].is_string(), "no {key} in {line}");
        }
    }
    let of_blob = |l: &&Value| l["fields"]["path"] == blob.as_str();
    let request = lines.iter().find(of_blob).expect("a line for the request");
    assert_eq!(request["message"], "Request");
    assert_eq!(request["trace_id"].as_str().map(str::len), Some(32));
    assert!(request["request_id"].is_string());
    assert_eq!(request["fields"]["route"], "/v2/{name}/blobs/{digest}");
    assert_eq!(request["fields"]["bytes_out"], 6);
}
