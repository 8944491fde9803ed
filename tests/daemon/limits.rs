//! How much at once: what is above a limit waits, and is answered in the end.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use rustix::process::Signal;
use sha2::{Digest as _, Sha256};

use super::{
    Daemon,
    abuse::connect_from,
    cachectld,
    process::{BODY, answer, exchange, file, half_an_upload, header, status},
};
use crate::support::{
    node::Node,
    stores::{Backend, TestStore},
    tools,
};

/// A daemon with a limit of one.
fn with_one(node: &Node, variable: &str) -> Daemon {
    let mut command = cachectld(node);
    command.args(["--listen", "127.0.0.1:0"]).env(variable, "1");
    Daemon::run(command)
}

/// Asks for the base, on a connection that is not waited for.
fn ask(address: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /v2/ HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    stream
}

/// Requires that no answer comes; what has not come after this is not on its way.
fn waits(stream: &mut TcpStream) {
    let moment = Duration::from_millis(300);
    stream.set_read_timeout(Some(moment)).unwrap();
    assert!(stream.read(&mut [0; 1]).is_err(), "it was answered");
    stream.set_read_timeout(None).unwrap();
}

#[test]
fn an_answer_says_how_long_it_is() {
    let daemon = with_one(&Node::new(), "CACHECTLD_MAX_REQUESTS");
    let (status, answer) = answer(ask(&daemon.address()));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert_eq!(status, 200);
    assert_eq!(header(head, "content-length"), body.len().to_string());
}

#[test]
fn upload_that_waits_for_its_client_takes_no_place_from_others() {
    let node = Node::new();
    let daemon = with_one(&node, "CACHECTLD_MAX_REQUESTS");
    let address = daemon.address();
    let mut upload = half_an_upload(&daemon);
    assert_eq!(answer(ask(&address)).0, 200);
    assert_eq!(status(&address, "GET", "/livez"), 200);
    upload.write_all(&BODY[8..]).unwrap();
    // The connection stays open, so not all that comes is waited for.
    let mut status = [0; 12];
    upload.read_exact(&mut status).unwrap();
    assert_eq!(&status, b"HTTP/1.1 202");
}

#[test]
fn connections_above_the_limit_wait_until_one_ends() {
    let node = Node::new();
    let daemon = with_one(&node, "CACHECTLD_MAX_CONNECTIONS");
    let address = daemon.address();
    let first = TcpStream::connect(&address).unwrap();
    let mut second = ask(&address);
    waits(&mut second);
    drop(first);
    assert_eq!(answer(second).0, 200);
}

#[test]
fn half_a_request_does_not_keep_others_out() {
    let node = Node::new();
    let daemon = with_one(&node, "CACHECTLD_MAX_CONNECTIONS");
    let address = daemon.address();
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.write_all(b"GET /v2/ HTTP/1.1\r\nHost: ").unwrap();
    assert_eq!(answer(ask(&address)).0, 200);
    // Who sends a body however slowly is not in the way.
    let mut upload = half_an_upload(&daemon);
    let mut waiting = ask(&address);
    waits(&mut waiting);
    upload.write_all(&BODY[8..]).unwrap();
    assert_eq!(answer(upload).0, 202);
    assert_eq!(answer(waiting).0, 200);
}

#[test]
fn who_still_sends_sees_the_answer() {
    let node = Node::new();
    let daemon = Daemon::start(&node, &[]);
    let address = daemon.address();
    let mut stream = TcpStream::connect(&address).unwrap();
    let body = vec![b' '; 64 << 20];
    let head = format!(
        "PUT /v2/a/manifests/t HTTP/1.1\r\nHost: {address}\r\nContent-Length: {}\r\nContent-Type: a/b\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    assert_eq!(answer(stream).0, 413);
}

/// A daemon whose folder `small` is a file system of so many MiB; `None` without the right to mount one.
fn on_small_disk(node: &Node, mib: u32, small: &str, args: &[&str]) -> Option<Daemon> {
    on_small_disk_with(&[], node, mib, small, args)
}

/// The same with these variables.
fn on_small_disk_with(
    env: &[(String, String)],
    node: &Node,
    mib: u32,
    small: &str,
    args: &[&str],
) -> Option<Daemon> {
    let small = node.path(small);
    std::fs::create_dir_all(&small).unwrap();
    let script =
        format!("mount -t tmpfs -o size={mib}m none \"$1\" || exit 77; shift; exec \"$@\"");
    let mut command = node.command("unshare");
    command
        .args(["-m", "sh", "-c", &script, "sh"])
        .arg(&small)
        .arg(env!("CARGO_BIN_EXE_cachectld"))
        .args(["--listen", "127.0.0.1:0"])
        .args(args)
        .envs(env.iter().cloned());
    let mut daemon = Daemon::spawn(command);
    // Not root, or a sandbox without mounts.
    daemon.gets_ready().then_some(daemon)
}

const NO_MOUNT: &str = "what a full disk does: no right to mount a file system";

#[test]
fn a_full_disk_does_not_stay_full_of_uploads() {
    let node = Node::new();
    let store = format!("disk:{}", node.path("store").display());
    let Some(daemon) = on_small_disk(&node, 16, "store", &["--store", &store]) else {
        return tools::cannot_show(NO_MOUNT);
    };
    let address = daemon.address();
    let ready = || said(&address, "/readyz");
    assert_eq!(push(&address, 24 << 20), 507);
    assert!(ready().contains("pushes are refused: the store is full"));
    assert_eq!(push(&address, 8 << 20), 201);
    assert!(ready().ends_with("ok\n"));
}

#[test]
fn a_push_is_taken_where_the_folder_in_front_fills_its_disk() {
    let (far, node) = (Node::new(), Node::new());
    let far = Daemon::start(&far, &[]);
    let store = format!("oci://{}/far", far.address());
    let front = node.path("front");
    let args = ["--store", &store, "--front", front.to_str().unwrap()];
    let Some(daemon) = on_small_disk(&node, 64, "front", &args) else {
        return tools::cannot_show(NO_MOUNT);
    };
    let address = daemon.address();
    // Smaller ones do not look for room before they come.
    for mib in 0..15 {
        assert_eq!(push(&address, (3 << 20) + (512 << 10) + mib), 201);
    }
    // More than is free, and more than the front leaves free.
    assert_eq!(push(&address, 24 << 20), 201);
}

#[test]
fn chunked_uploads_that_nobody_ends_leave_room_for_pushes() {
    let node = Node::new();
    let bucket = TestStore::new(Backend::Seaweed);
    let front = node.path("front");
    let args = ["--store", bucket.url(), "--front", front.to_str().unwrap()];
    let Some(daemon) = on_small_disk_with(bucket.env(), &node, 64, "front", &args) else {
        return tools::cannot_show(NO_MOUNT);
    };
    let address = daemon.address();
    for _ in 0..2 {
        assert_eq!(begin_and_send(&address, 70 << 20).0, 202);
    }
    let other = || connect_from(2, address.parse().unwrap());
    assert_eq!(push_over(other(), &address, 100_000), 201);
    assert_eq!(push_over(other(), &address, 24 << 20), 201);
    // What has more than half of the disk goes through it once.
    let body = vec![7; 35 << 20];
    let (status, place) = begin_and_send(&address, body.len());
    assert_eq!(status, 202);
    let digest = const_hex::encode(Sha256::digest(&body));
    let join = if place.contains('?') { '&' } else { '?' };
    let request = format!(
        "PUT {place}{join}digest=sha256:{digest} HTTP/1.1\r\nHost: {address}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    );
    assert_eq!(
        exchange(TcpStream::connect(&address).unwrap(), &request).0,
        201
    );
}

#[test]
fn a_cold_blob_is_read_past_a_disk_that_is_full_of_uploads() {
    let (far, node) = (Node::new(), Node::new());
    let bucket = TestStore::new(Backend::Seaweed);
    let mut other = cachectld(&far);
    other.args(["--listen", "127.0.0.1:0", "--store", bucket.url()]);
    other.envs(bucket.env().iter().cloned());
    let other = Daemon::run(other);
    let bytes = 9 << 20;
    assert_eq!(push(&other.address(), bytes), 201);
    let front = node.path("front");
    let args = ["--store", bucket.url(), "--front", front.to_str().unwrap()];
    let Some(daemon) = on_small_disk_with(bucket.env(), &node, 64, "front", &args) else {
        return tools::cannot_show(NO_MOUNT);
    };
    let address = daemon.address();
    assert_eq!(begin_and_send(&address, 60 << 20).0, 202);
    let digest = const_hex::encode(Sha256::digest(vec![7; bytes]));
    for _ in 0..2 {
        let said = said(&address, &format!("/v2/a/blobs/sha256:{digest}"));
        assert_eq!(said.chars().filter(|c| *c == '\u{7}').count(), bytes);
    }
}

/// Begins an upload and sends so many bytes; the status, and where it goes on.
fn begin_and_send(address: &str, bytes: usize) -> (u16, String) {
    let head = |line: &str, length: usize| {
        format!(
            "{line} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
        )
    };
    let begun = exchange(
        TcpStream::connect(address).unwrap(),
        &head("POST /v2/a/blobs/uploads/", 0),
    );
    let place = header(&begun.1, "location");
    let mut stream = TcpStream::connect(address).unwrap();
    stream
        .write_all(head(&format!("PATCH {place}"), bytes).as_bytes())
        .unwrap();
    stream.write_all(&vec![7; bytes]).unwrap();
    let (status, said) = answer(stream);
    let place = if status == 202 {
        header(&said, "location")
    } else {
        place
    };
    (status, place)
}

/// What it says to a GET.
fn said(address: &str, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    exchange(TcpStream::connect(address).unwrap(), &request).1
}

/// Pushes a blob of so many bytes.
fn push(address: &str, bytes: usize) -> u16 {
    push_over(TcpStream::connect(address).unwrap(), address, bytes)
}

/// The same over this connection.
fn push_over(mut stream: TcpStream, address: &str, bytes: usize) -> u16 {
    let body = vec![7; bytes];
    let digest = const_hex::encode(Sha256::digest(&body));
    let head = format!(
        "POST /v2/a/blobs/uploads/?digest=sha256:{digest} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body).unwrap();
    answer(stream).0
}

#[test]
fn a_reload_lets_more_in() {
    let node = Node::new();
    let config = file(&node, "c.toml", "max_connections = 1\n");
    let daemon = Daemon::start(&node, &["--config", &config]);
    let address = daemon.address();
    let _first = TcpStream::connect(&address).unwrap();
    let mut second = ask(&address);
    waits(&mut second);
    file(&node, "c.toml", "max_connections = 2\n");
    daemon.signal(Signal::HUP);
    assert_eq!(answer(second).0, 200);
}
