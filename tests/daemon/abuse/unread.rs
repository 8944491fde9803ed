//! Small answers that nobody reads, from several addresses, of which each may take reserved places.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use super::{CONNECTIONS, Victim, connect_from};

/// One answer of each API: a refused token, a token, an unknown path, numbers that are not for everybody.
const PATHS: [&str; 4] = ["/v2/", "/token?service=cachectld", "/nowhere", "/metrics"];
/// A token that is wrong.
const WRONG: &str = "Bearer wrong";

/// Holds more connections than there are, from addresses ending in 3 to 5, on each of which `requests` were sent, and waits
/// until all places are taken.
fn hold(victim: &Victim, requests: &[u8]) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for (last, count) in [(3, CONNECTIONS), (4, 15), (5, 15)] {
        for number in 0..count {
            let mut stream = connect_from(last, victim.address);
            let second = Duration::from_secs(1);
            stream.set_write_timeout(Some(second)).unwrap();
            // One that is one too many may be closed already, and one that is not read from may block.
            let _ = stream.write_all(requests);
            let reserved = CONNECTIONS / 8;
            let has_place = match last {
                3 => number < CONNECTIONS - reserved,
                4 => number < reserved,
                _ => false,
            };
            if has_place {
                stream.read_exact(&mut [0; 9]).unwrap();
            }
            held.push(stream);
        }
    }
    held
}

/// Requests of HTTP/2 for all [`PATHS`], by a client that takes no byte of any answer (RFC 9113, 6.5.2; RFC 7541, 6.2.2).
fn without_a_window(host: &str) -> Vec<u8> {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE = 0
    bytes.extend([0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]);
    for (stream, path) in (1..).step_by(2).zip(PATHS) {
        // :method GET, :scheme http, then literals: :authority, :path, authorization
        let mut head = vec![0x82, 0x86];
        for (name, value) in [(&[1][..], host), (&[4], path), (&[0x0f, 8], WRONG)] {
            head.extend(name);
            head.push(value.len() as u8);
            head.extend(value.as_bytes());
        }
        bytes.extend([0, 0, head.len() as u8, 1, 5, 0, 0, 0, stream]);
        bytes.extend(head);
    }
    bytes
}

#[test]
fn others_are_served_beside_small_answers_for_which_there_is_no_window() {
    let victim = Victim::start("");
    let requests = without_a_window(&victim.address.to_string());
    let _held = hold(&victim, &requests);
    victim.serves_others("answers without a window");
    victim
        .daemon
        .wait_for("Aborted a response that its client does not read");
}

#[test]
fn others_are_served_beside_small_answers_that_nobody_reads() {
    let victim = Victim::start("");
    let requests: String = PATHS
        .iter()
        .map(|path| {
            let head = victim.head(&format!("GET {path}"), 0);
            head.replacen("\r\n", &format!("\r\nAuthorization: {WRONG}\r\n"), 1)
        })
        .collect();
    let _held = hold(&victim, requests.repeat(150).as_bytes());
    victim.serves_others("answers that nobody reads");
}
