//! A wire to a server whose clock a test sets on: every time that the server tells is so many days later.
//!
//! It knows nothing of HTTP but how times are spelled in it. All of one server's times move together, so they keep their order.
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

/// How a time begins, and how many bytes it then has.
const SPELLED: [(&[u8], usize); 3] = [
    (b"\r\nDate: ", 29),
    (b"\r\nLast-Modified: ", 29),
    (b"<LastModified>", 24),
];
/// What may be the start of a time waits so long for the rest of it.
const REST: Duration = Duration::from_millis(20);

/// A loopback port that leads to a server.
#[derive(Debug)]
pub(crate) struct Later {
    pub(crate) port: u16,
    days: Arc<AtomicU64>,
}

impl Later {
    pub(crate) fn to(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let days = Arc::new(AtomicU64::new(0));
        let shared = Arc::clone(&days);
        // It ends with the process: nobody connects to it once its test is over.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                join(client, server, &shared);
            }
        });
        Self { port, days }
    }

    /// Makes it so many days later than it is.
    pub(crate) fn set(&self, days: u32) {
        self.days.store(days.into(), Ordering::SeqCst);
    }
}

fn join(client: TcpStream, server: u16, days: &Arc<AtomicU64>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
        return;
    };
    let clone = |s: &TcpStream| s.try_clone().expect("a descriptor");
    let (mut asks, mut asked) = (clone(&client), clone(&server));
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut asks, &mut asked);
        drop(asked.shutdown(Shutdown::Write));
    });
    let days = Arc::clone(days);
    std::thread::spawn(move || answer(server, client, &days));
}

fn answer(mut from: TcpStream, mut to: TcpStream, days: &AtomicU64) {
    from.set_read_timeout(Some(REST)).expect("it is a socket");
    let mut buffer = vec![0; 64 * 1024];
    let mut held = Vec::new();
    loop {
        let ready = match from.read(&mut buffer) {
            Ok(0) => break,
            Ok(length) => {
                held.extend_from_slice(&buffer[..length]);
                set_on(&mut held, days.load(Ordering::SeqCst))
            }
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => held.len(),
            Err(_) => break,
        };
        if to.write_all(&held[..ready]).is_err() {
            break;
        }
        held.drain(..ready);
    }
    drop(to.write_all(&held));
    drop(to.shutdown(Shutdown::Both));
    drop(from.shutdown(Shutdown::Both));
}

/// Changes all whole times, and says how many bytes may go: what follows may be the start of one.
fn set_on(bytes: &mut [u8], days: u64) -> usize {
    let mut ready = bytes.len();
    let mut at = 0;
    while at < ready {
        for (start, length) in SPELLED {
            let have = bytes.len() - at;
            let shared = start.len().min(have);
            if bytes[at..at + shared] != start[..shared] {
                continue;
            }
            if have < start.len() + length {
                ready = at;
                break;
            }
            let time = &mut bytes[at + start.len()..][..length];
            if let Some(later) = later(time, days) {
                time.copy_from_slice(later.as_bytes());
            }
        }
        at += 1;
    }
    ready
}

fn later(time: &[u8], days: u64) -> Option<String> {
    let text = std::str::from_utf8(time).ok()?;
    let on = |at: SystemTime| at + Duration::from_hours(24 * days);
    let later = if let Ok(at) = httpdate::parse_http_date(text) {
        httpdate::fmt_http_date(on(at))
    } else {
        let at = humantime::parse_rfc3339(text).ok()?;
        humantime::format_rfc3339_millis(on(at)).to_string()
    };
    (later.len() == time.len()).then_some(later)
}
