//! The end: what is under way is finished, within a time; a second signal does not wait.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use super::{
    Daemon,
    process::{BODY, answer, cachectld, exchange, half_an_upload, header, status},
};
use crate::support::{node::Node, process::free_port};

/// Waits until nobody listens any more.
fn refused(address: &str) {
    let began = Instant::now();
    while TcpStream::connect(address).is_ok() {
        assert!(began.elapsed() < Duration::from_mins(5), "it still listens");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn an_idle_daemon_ends_at_once_and_takes_its_socket_along() {
    let node = Node::new();
    for signal in [Signal::TERM, Signal::INT] {
        let mut daemon = Daemon::start(&node, &[]);
        let socket = daemon.socket();
        // A connection that rests is closed, not waited for.
        let _idle = TcpStream::connect(daemon.address()).unwrap();
        daemon.signal(signal);
        assert_eq!(daemon.wait().code(), Some(0));
        daemon.wait_for("Ended");
        assert!(!socket.exists());
    }
}

#[test]
fn a_log_that_nobody_reads_stops_neither_requests_nor_the_end() {
    let node = Node::new();
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = cachectld(&node);
    command.args(["--listen", &address]);
    let mut daemon = Daemon::unread(command);
    while TcpStream::connect(&address).is_err() {
        assert!(!daemon.has_ended());
        std::thread::sleep(Duration::from_millis(5));
    }
    let (done, all) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Some lines more than a pipe holds.
        for _ in 0..600 {
            assert_eq!(status(&address, "GET", "/v2/"), 200);
        }
        done.send(()).unwrap();
    });
    all.recv_timeout(Duration::from_mins(1))
        .expect("every request is answered");
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn an_upload_under_way_is_finished_and_goes_on_after_a_restart() {
    let node = Node::new();
    let mut daemon = Daemon::start(&node, &[]);
    let address = daemon.address();
    let mut stream = half_an_upload(&daemon);
    daemon.signal(Signal::TERM);
    daemon.wait_for("Draining");
    refused(&address);
    assert!(!daemon.has_ended());
    stream.write_all(&BODY[8..]).unwrap();
    let (code, head) = answer(stream);
    assert_eq!(code, 202, "{head}");
    assert_eq!(daemon.wait().code(), Some(0));
    // Where the upload was, another process goes on.
    let daemon = Daemon::start(&node, &[]);
    let at = header(&head, "location");
    let (path, query) = at.split_once('?').unwrap_or((&at, ""));
    let digest = cachectl::digest::Digest::sha256_of(BODY);
    let finish = match query {
        "" => format!("{path}?digest={digest}"),
        query => format!("{path}?{query}&digest={digest}"),
    };
    assert_eq!(daemon.status("PUT", &finish), 201);
    let blob = format!("/v2/app/blobs/{digest}");
    assert_eq!(daemon.status("HEAD", &blob), 200);
}

#[test]
fn a_request_that_does_not_end_is_cut_off_in_time() {
    let node = Node::new();
    let mut daemon = Daemon::start(&node, &["--drain-timeout", "300ms"]);
    let _stream = half_an_upload(&daemon);
    daemon.signal(Signal::TERM);
    // The rest of that upload never comes.
    assert_eq!(daemon.wait().code(), Some(1));
    let line = daemon.wait_for(
        "Stopped before everything was finished: raise drain_timeout if this happens often",
    );
    assert_eq!(line["connections"], 1);
}

#[test]
fn a_second_signal_does_not_wait() {
    let node = Node::new();
    let mut daemon = Daemon::start(&node, &["--drain-timeout", "1h"]);
    let _stream = half_an_upload(&daemon);
    daemon.signal(Signal::TERM);
    daemon.wait_for("Draining");
    assert!(!daemon.has_ended());
    daemon.signal(Signal::INT);
    assert_eq!(daemon.wait().code(), Some(130));
}

#[test]
fn probes_and_numbers_at_addresses_of_their_own_show_how_it_drains() {
    let node = Node::new();
    let args = ["--admin-listen", "127.0.0.1:0", "--drain-timeout", "1h"];
    let mut daemon = Daemon::start(&node, &args);
    let listeners = daemon.listeners();
    let admin = listeners.iter().find(|(_, serves)| serves == "admin");
    let admin = admin.unwrap().0.strip_prefix("http://").unwrap().to_owned();
    assert_eq!(status(&admin, "GET", "/readyz"), 200);
    let mut stream = half_an_upload(&daemon);
    daemon.signal(Signal::TERM);
    refused(&daemon.address());
    for _ in 0..2 {
        assert_eq!(status(&admin, "GET", "/readyz"), 503);
        assert_eq!(status(&admin, "GET", "/livez"), 200);
        let asked = format!("GET /metrics HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n");
        let (code, numbers) = exchange(TcpStream::connect(&admin).unwrap(), &asked);
        assert_eq!(code, 200);
        assert!(numbers.contains("cachectld_draining 1"), "{numbers}");
    }
    stream.write_all(&BODY[8..]).unwrap();
    assert_eq!(answer(stream).0, 202);
    assert_eq!(daemon.wait().code(), Some(0));
    refused(&admin);
}

#[test]
fn readiness_ends_where_draining_begins() {
    let node = Node::new();
    let mut daemon = Daemon::start(&node, &["--drain-timeout", "1h"]);
    let address = daemon.address();
    assert_eq!(status(&address, "GET", "/readyz"), 200);
    let mut stream = half_an_upload(&daemon);
    daemon.signal(Signal::TERM);
    refused(&address);
    stream.write_all(&BODY[8..]).unwrap();
    let (code, head) = answer(stream);
    assert_eq!(code, 202);
    assert!(
        head.to_ascii_lowercase().contains("connection: close"),
        "{head}"
    );
    assert_eq!(daemon.wait().code(), Some(0));
}
