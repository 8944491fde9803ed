//! Standard error of a daemon: a separate thread writes it, so that a slow or stopped reader does not block anything.
//!
//! The buffer is bounded; lines beyond that are dropped and counted, and the log reports how many as soon as the reader
//! continues.

use std::{
    io::{self, Write},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

/// Maximum bytes in the buffer; each line counts [`PER_LINE`] more.
const MOST_BYTES: usize = 4 << 20;
/// Overhead of a line besides its bytes.
const PER_LINE: usize = 64;

static OF_PROCESS: OnceLock<Lines> = OnceLock::new();

/// From now on [`write()`] only passes lines to a thread that writes them. Dropped lines are reported in the log.
pub(super) fn start() {
    OF_PROCESS.get_or_init(|| {
        Lines::start(io::stderr(), |dropped| {
            tracing::warn!(
                dropped,
                "Dropped log lines: the reader of standard error is too slow"
            );
        })
    });
}

/// Writes to standard error, ignoring errors: there is nowhere to report them.
pub fn write(text: &[u8]) {
    match OF_PROCESS.get() {
        Some(lines) => lines.write(text),
        None => drop(io::stderr().lock().write_all(text)),
    }
}

/// Waits until all earlier lines are written, for at most `limit`.
pub fn flush(limit: Duration) {
    if let Some(lines) = OF_PROCESS.get() {
        lines.flush(limit);
    }
}

enum WriterMessage {
    Line(Vec<u8>),
    /// Everything before it has been written.
    Reached(SyncSender<()>),
}

#[derive(Default)]
struct Counts {
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

/// Lines for a writer that may block.
struct Lines {
    items: Sender<WriterMessage>,
    counts: Arc<Counts>,
}

impl Lines {
    /// Writes to `to` on a separate thread, which calls `told` with the number of dropped lines.
    fn start(to: impl Write + Send + 'static, told: impl Fn(u64) + Send + 'static) -> Self {
        let (items, queue) = channel();
        let counts = Arc::new(Counts::default());
        let shared = counts.clone();
        let thread = thread::Builder::new().name("log".to_owned());
        // Without a thread nothing is written, which is better than no daemon: lines are dropped when the buffer is full.
        drop(thread.spawn(move || copy(&queue, to, &shared, told)));
        Self { items, counts }
    }

    fn write(&self, line: &[u8]) {
        let size = line.len() + PER_LINE;
        let counts = &*self.counts;
        if counts.waiting.fetch_add(size, Relaxed) + size > MOST_BYTES {
            counts.waiting.fetch_sub(size, Relaxed);
            counts.dropped.fetch_add(1, Relaxed);
            return;
        }
        // Fails only if the thread could not be started.
        drop(self.items.send(WriterMessage::Line(line.to_vec())));
    }

    /// Waits until all earlier lines are written; returns false if that takes longer than `limit`.
    fn flush(&self, limit: Duration) -> bool {
        let (reached, wait) = sync_channel(1);
        let sent = self.items.send(WriterMessage::Reached(reached));
        sent.is_ok() && wait.recv_timeout(limit).is_ok()
    }
}

fn copy(queue: &Receiver<WriterMessage>, mut to: impl Write, counts: &Counts, told: impl Fn(u64)) {
    for item in queue {
        match item {
            WriterMessage::Line(line) => {
                // It is not our problem if the reader is gone.
                drop(to.write_all(&line));
                counts.waiting.fetch_sub(line.len() + PER_LINE, Relaxed);
            }
            WriterMessage::Reached(reached) => {
                let _ = reached.try_send(());
            }
        }
        // There is space for the line that reports it.
        if counts.waiting.load(Relaxed) < MOST_BYTES / 2 {
            match counts.dropped.swap(0, Relaxed) {
                0 => {}
                dropped => told(dropped),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, sync::mpsc};

    use parking_lot::Mutex;

    use super::*;

    #[test]
    fn a_reader_that_has_stopped_holds_nobody_up_and_is_told_what_it_missed() {
        const LINES: usize = 20_000;
        let (mut reader, writer) = io::pipe().unwrap();
        let missed = Arc::new(Mutex::new(0));
        let noted = missed.clone();
        let lines = Lines::start(writer, move |dropped| *noted.lock() += dropped);
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        for _ in 0..LINES {
            lines.write(&line);
        }
        assert!(!lines.flush(Duration::ZERO));
        assert!(lines.counts.waiting.load(Relaxed) <= MOST_BYTES);
        // The thread ends when nothing more can come, and with it the pipe.
        drop(lines);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        let (written, missed) = (text.lines().count(), *missed.lock());
        assert!(missed > 0 && text.lines().all(|l| l.len() == 1023));
        assert_eq!(written as u64 + missed, LINES as u64);
    }

    #[test]
    fn what_was_written_is_out_when_it_was_waited_for() {
        /// Writes nothing before it is let go.
        struct Held(mpsc::Receiver<()>, Arc<Mutex<Vec<u8>>>);
        impl Write for Held {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let _ = self.0.recv();
                self.1.lock().extend(bytes);
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let out = Arc::<Mutex<Vec<u8>>>::default();
        let (hold, held) = mpsc::channel();
        let lines = Lines::start(Held(held, out.clone()), |_| {});
        lines.write(b"the last ");
        lines.write(b"words\n");
        assert!(!lines.flush(Duration::from_millis(1)));
        drop(hold);
        assert!(lines.flush(Duration::MAX));
        assert_eq!(*out.lock(), b"the last words\n");
    }
}
