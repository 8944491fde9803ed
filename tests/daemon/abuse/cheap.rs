//! What costs its sender a few bytes, and nobody a login: frames without data, lines in the log, codings that only
//! some understand.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
};

use super::{Victim, answer, other};

/// Types of frames (RFC 9113, 6).
const PRIORITY: u8 = 2;
const SETTINGS: u8 = 4;
const PING: u8 = 6;

fn frame(kind: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, payload.len() as u8, kind, 0, 0, 0, 0, stream];
    bytes.extend(payload);
    bytes
}

/// Sends these frames and a ping on a new connection; says whether the ping was answered before the connection ended.
fn is_answered(victim: &Victim, frames: &[u8]) -> bool {
    let mut stream = TcpStream::connect(victim.address).unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(frame(SETTINGS, 0, b""));
    bytes.extend(frames);
    bytes.extend(frame(PING, 0, b"a ping.."));
    // It may be ended already.
    let _ = stream.write_all(&bytes);
    loop {
        let mut head = [0; 9];
        if stream.read_exact(&mut head).is_err() {
            return false;
        }
        if head[3] == PING {
            return true;
        }
        let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
        if stream.read_exact(&mut payload).is_err() {
            return false;
        }
    }
}

#[test]
fn connection_that_sends_frames_which_move_nothing_is_ended() {
    let victim = Victim::start("");
    let priority = frame(PRIORITY, 1, &[0, 0, 0, 0, 1]);
    assert!(is_answered(&victim, &priority.repeat(500)));
    for cheap in [
        priority,
        frame(SETTINGS, 0, b""),
        frame(0xee, 1, b"unknown"),
    ] {
        assert!(!is_answered(&victim, &cheap.repeat(5000)));
    }
    victim.serves_others("frames without data");
}

#[test]
fn refused_requests_fill_the_log_neither_by_their_number_nor_by_their_paths() {
    let victim = Victim::start("");
    let refused = victim.head(&format!("GET /v2/{}", "~".repeat(60_000)), 0);
    let last = refused.replacen("\r\n\r\n", "\r\nConnection: close\r\n\r\n", 1);
    let mut stream = TcpStream::connect(victim.address).unwrap();
    let mut reader = stream.try_clone().unwrap();
    let reading = std::thread::spawn(move || {
        let mut answers = Vec::new();
        reader.read_to_end(&mut answers).unwrap();
        answers
    });
    for request in std::iter::repeat_n(&refused, 499).chain([&last]) {
        stream.write_all(request.as_bytes()).unwrap();
    }
    let answers = reading.join().unwrap();
    let answers = String::from_utf8_lossy(&answers);
    assert_eq!(answers.matches("HTTP/1.1 404").count(), 500);
    // Another caller's line comes after all of them.
    victim.serves_others("refused requests");
    victim.daemon.wait_for_times("Request", 100);
    victim.daemon.wait_for_times("Request", 203);
    let lines = victim.daemon.lines("Request");
    let refused = lines.iter().filter(|l| l["outcome"] == "miss");
    assert!((200..=400).contains(&refused.clone().count()));
    for line in refused {
        assert_eq!(line["path"].as_str().unwrap().chars().count(), 257);
    }
}

#[test]
fn body_that_is_encoded_in_an_unknown_way_is_refused() {
    let victim = Victim::start("");
    for coding in [
        "x, chunked",
        "chunked, chunked",
        "chunked\r\nTransfer-Encoding: chunked",
    ] {
        let head = victim.head(&format!("PATCH {}", victim.begin()), 1);
        let coding = format!("Transfer-Encoding: {coding}");
        let head = head.replacen("Content-Length: 1", &coding, 1);
        let mut stream = other(victim.address);
        let request = format!("{head}1\r\nb\r\n0\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        assert_eq!(answer(stream).0, 501, "{coding}");
    }
}
