//! A wire between two programs that a test can slow down, cut and mend, and that counts what went through.
//!
//! Toxiproxy does more to the bytes; this one tells a test when so many of them have passed, so that a fault happens in
//! the middle of a transfer and not some seconds after its start.
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest time that a test waits for bytes to come.
const PATIENCE: Duration = Duration::from_mins(1);

/// A loopback port that leads to another one.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) port: u16,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    to: u16,
    bytes_per_second: Option<u64>,
    cut: AtomicBool,
    passed: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Link {
    pub(crate) fn to(port: u16) -> Self {
        Self::lay(port, None)
    }

    /// One that lets about so many bytes a second through in each direction of each connection.
    pub(crate) fn slow(port: u16, bytes_per_second: u64) -> Self {
        Self::lay(port, Some(bytes_per_second))
    }

    fn lay(to: u16, bytes_per_second: Option<u64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let state = Arc::new(State {
            to,
            bytes_per_second,
            cut: AtomicBool::new(false),
            passed: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let shared = Arc::clone(&state);
        // It ends with the process: nobody connects to it once its test is over.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                shared.join(client);
            }
        });
        Self { port, state }
    }

    /// Returns when so many bytes have passed since the last call, in both directions together.
    pub(crate) fn wait_for(&self, bytes: u64) {
        let until = Instant::now() + PATIENCE;
        while self.state.passed.load(Ordering::SeqCst) < bytes {
            assert!(Instant::now() < until, "{bytes} bytes never came");
            std::thread::sleep(Duration::from_millis(2));
        }
        self.state.passed.store(0, Ordering::SeqCst);
    }

    /// Ends every connection, and each new one at once.
    pub(crate) fn cut(&self) {
        self.state.cut.store(true, Ordering::SeqCst);
        for stream in self
            .state
            .open
            .lock()
            .expect("nobody panics with it")
            .drain(..)
        {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    pub(crate) fn mend(&self) {
        self.state.cut.store(false, Ordering::SeqCst);
    }

    /// Cuts it for that long.
    pub(crate) fn interrupt(&self, time: Duration) {
        self.cut();
        std::thread::sleep(time);
        self.mend();
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.cut();
    }
}

impl State {
    fn join(self: &Arc<Self>, client: TcpStream) {
        if self.cut.load(Ordering::SeqCst) {
            return;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", self.to)) else {
            return;
        };
        for (from, to) in [(&client, &server), (&server, &client)] {
            let (from, to) = (from.try_clone(), to.try_clone());
            let (from, to) = (from.expect("a descriptor"), to.expect("a descriptor"));
            let state = Arc::clone(self);
            std::thread::spawn(move || state.carry(from, to));
        }
        let mut open = self.open.lock().expect("nobody panics with it");
        open.extend([client, server]);
    }

    /// Carries bytes until either side ends; then the other side hears of it too.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(length @ 1..) = from.read(&mut buffer) {
            if let Some(rate) = self.bytes_per_second {
                std::thread::sleep(Duration::from_secs_f64(length as f64 / rate as f64));
            }
            if to.write_all(&buffer[..length]).is_err() {
                break;
            }
            self.passed.fetch_add(length as u64, Ordering::SeqCst);
        }
        drop(from.shutdown(Shutdown::Read));
        drop(to.shutdown(Shutdown::Write));
    }
}
