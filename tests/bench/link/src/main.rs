//! A link for benchmarks: passes TCP connections on to a server at the rate and the delay of a network.
//!
//! All connections share one rate in each direction, which they get in turn, piece by piece; bytes arrive a delay after they
//! were sent. A connection has at most a window of bytes on their way, counted until its sender could know that they arrived.
//! The network never loses a byte, and no connection starts slowly.
//!
//! `link PORT RATE DELAY WINDOW`: the server's port on this machine, bytes per second in each direction, milliseconds in each
//! direction, bytes. It prints the port it listens on; then, for each line on standard input, the traffic since the line
//! before as JSON. It ends with its input.

use std::{
    io::{Error, ErrorKind, Read as _, Result, Write as _, stdin, stdout},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::{Duration, Instant},
};

mod flow;
mod lane;

use flow::Flow;
use lane::Lane;

/// Bytes that one connection sends before it is another's turn.
const PIECE_BYTES: usize = 64 << 10;

/// Both directions.
struct Link {
    up: Lane,
    down: Lane,
    delay: Duration,
    window: usize,
    /// Connections now, and the most at once since the last report.
    open: AtomicUsize,
    most: AtomicUsize,
}

fn main() -> Result<()> {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .map(|text| {
            text.parse()
                .map_err(|e| Error::new(ErrorKind::InvalidInput, e))
        })
        .collect::<Result<_>>()?;
    let [port, rate, delay, window] = numbers[..] else {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            "expected: PORT RATE DELAY WINDOW",
        ));
    };
    let link = Arc::new(Link {
        up: Lane::new(rate),
        down: Lane::new(rate),
        delay: Duration::from_millis(delay),
        window: window as usize,
        open: AtomicUsize::new(0),
        most: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    print(&listener.local_addr()?.port().to_string())?;
    let (up, down) = (link.clone(), link.clone());
    thread::spawn(move || up.up.send_forever(up.delay));
    thread::spawn(move || down.down.send_forever(down.delay));
    let accepting = link.clone();
    thread::spawn(move || {
        for client in listener.incoming().map_while(Result::ok) {
            let link = accepting.clone();
            // A broken connection is closed, which its user notices.
            thread::spawn(move || link.carry(&client, port as u16));
        }
    });
    for line in stdin().lines() {
        line?;
        let most = link.most.swap(link.open.load(Relaxed), Relaxed);
        print(&format!(
            r#"{{"up":{},"down":{},"connections":{most}}}"#,
            link.up.report(),
            link.down.report()
        ))?;
    }
    Ok(())
}

fn print(line: &str) -> Result<()> {
    let mut out = stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

impl Link {
    fn carry(&self, client: &TcpStream, port: u16) -> Result<()> {
        let open = self.open.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(open, Relaxed);
        let carried = self.both_ways(client, port);
        self.open.fetch_sub(1, Relaxed);
        carried
    }

    fn both_ways(&self, client: &TcpStream, port: u16) -> Result<()> {
        let server = TcpStream::connect(("127.0.0.1", port))?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        // The handshake: the client's first bytes leave once it has the server's answer.
        thread::sleep(2 * self.delay);
        thread::scope(|scope| {
            let up = scope.spawn(|| self.one_way(&self.up, client, &server));
            let down = self.one_way(&self.down, &server, client);
            let up = up.join().unwrap_or_else(|_| Err(Error::other("panicked")));
            down.and(up)
        })
    }

    fn one_way(&self, lane: &Lane, from: &TcpStream, to: &TcpStream) -> Result<()> {
        let flow = Arc::new(Flow::new(self.window));
        thread::scope(|scope| {
            let writing = scope.spawn(|| {
                let written = self.write(&flow, to);
                // Whoever still sends must learn that nobody receives.
                if written.is_err() {
                    let _ = from.shutdown(Shutdown::Both);
                    flow.stop();
                }
                written
            });
            let read = read(lane, &flow, from);
            writing
                .join()
                .unwrap_or_else(|_| Err(Error::other("panicked")))
                .and(read)
        })
    }

    fn write(&self, flow: &Flow, mut to: &TcpStream) -> Result<()> {
        loop {
            let (due, piece) = flow.next_sent();
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if piece.is_empty() {
                return to.shutdown(Shutdown::Write);
            }
            to.write_all(&piece)?;
            flow.arrived(piece.len(), due.max(Instant::now()) + self.delay);
        }
    }
}

fn read(lane: &Lane, flow: &Arc<Flow>, mut from: &TcpStream) -> Result<()> {
    loop {
        let Some(room) = flow.room() else {
            return Ok(());
        };
        let mut piece = vec![0; room.min(PIECE_BYTES)];
        let read = from.read(&mut piece);
        // A broken connection ends for its other side, too.
        piece.truncate(*read.as_ref().unwrap_or(&0));
        let is_end = piece.is_empty();
        if flow.push(piece) {
            lane.queue(flow);
        }
        if is_end {
            return read.map(drop);
        }
    }
}
