//! How much at once: what is above a limit waits, and is answered in the end.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use rustix::process::Signal;

use super::{
    Daemon, cachectld,
    process::{BODY, answer, file, half_an_upload, status},
};
use crate::support::node::Node;

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
fn requests_above_the_limit_wait_and_probes_do_not() {
    let node = Node::new();
    let daemon = with_one(&node, "CACHECTLD_MAX_REQUESTS");
    let address = daemon.address();
    let mut upload = half_an_upload(&daemon);
    let mut second = ask(&address);
    waits(&mut second);
    assert_eq!(status(&address, "GET", "/livez"), 200);
    upload.write_all(&BODY[8..]).unwrap();
    assert_eq!(answer(second).0, 200);
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
