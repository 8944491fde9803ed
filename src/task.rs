//! The only bridge between async and blocking code, and the only place that starts tasks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::Semaphore,
};
use tracing::Instrument as _;

/// Maximum size of a document that is parsed without another thread, in about a millisecond.
const SHORT: usize = 64 << 10;
/// Longer documents that are parsed concurrently, for all callers: each takes a processor, and several times its own size of
/// memory.
const PARSERS: usize = 4;

static PARSING: Semaphore = Semaphore::const_new(PARSERS);

/// Number of threads of a runtime. Set explicitly, since it panics if `TOKIO_WORKER_THREADS`, which is not meant for us, is not
/// a number.
pub fn workers() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

/// Makes writing a file beyond this process's size limit (`ulimit -f`) an error of the write, instead of a signal that ends the
/// process. Programs that it starts get the signal. Must be called within a runtime.
pub fn outlive_file_limit() {
    let number = rustix::process::Signal::XFSZ.as_raw();
    // The listener is not needed: the handler stays. If this fails, nothing changes.
    let _ = signal(SignalKind::from_raw(number));
}

/// Runs blocking `work` on a separate thread; a panic in it is resumed in the caller.
///
/// Dropping the future does not stop the work.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let span = tracing::Span::current();
    #[expect(clippy::disallowed_methods, reason = "this is the wrapper")]
    let task = tokio::task::spawn_blocking(move || span.in_scope(work));
    match task.await {
        Ok(value) => value,
        Err(e) => std::panic::resume_unwind(e.into_panic()),
    }
}

/// Parses an untrusted document of `bytes` bytes: a short one immediately, a longer one on a separate thread, a few at once. So
/// no document blocks the threads that serve others.
pub async fn parse<T: Send + 'static>(
    bytes: usize,
    read: impl FnOnce() -> T + Send + 'static,
) -> T {
    if bytes <= SHORT {
        return read();
    }
    let place = PARSING.acquire().await.expect("it is never closed");
    // It belongs to the work, which continues even if nobody waits for it any more.
    blocking(move || {
        let _place = place;
        read()
    })
    .await
}

/// Tells blocking work whether anybody is still waiting for it.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Returns true if nobody is waiting any more.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// As [`blocking`], for long work: its [`Stop`] is set as soon as the future is dropped, and the work must check it often.
pub async fn stoppable<T: Send + 'static>(work: impl FnOnce(&Stop) -> T + Send + 'static) -> T {
    struct OnDrop(Stop);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.0.store(true, Ordering::Relaxed);
        }
    }
    let stop = Stop::default();
    let _on_drop = OnDrop(stop.clone());
    blocking(move || work(&stop)).await
}

/// Starts a named task that carries the current span; it is stopped when the handle is dropped.
pub fn spawn<T: Send + 'static>(
    name: &'static str,
    work: impl Future<Output = T> + Send + 'static,
) -> Task<T> {
    let span = tracing::debug_span!("task", name);
    #[expect(clippy::disallowed_methods, reason = "this is the wrapper")]
    let handle = tokio::spawn(work.instrument(span));
    Task(Some(handle))
}

/// A running task; dropping it stops it at its next `.await`.
#[derive(Debug)]
pub struct Task<T>(Option<tokio::task::JoinHandle<T>>);

impl<T> Task<T> {
    /// Waits for its value; a panic in it is resumed in the caller.
    pub async fn join(mut self) -> T {
        let handle = self
            .0
            .as_mut()
            .expect("only `detach` takes it, and that ends the task's handle");
        match handle.await {
            Ok(value) => value,
            // The handle is ours alone and is aborted only on drop, so it cannot have been cancelled.
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }

    /// Lets it continue without anybody waiting: for best-effort clean-up where nobody can wait.
    pub fn detach(mut self) {
        self.0 = None;
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use super::*;

    #[tokio::test]
    async fn a_long_document_is_parsed_on_a_thread_of_its_own_and_a_short_one_is_not() {
        let serving = thread::current().id();
        let id = || thread::current().id();
        assert_eq!(parse(SHORT, id).await, serving);
        assert_ne!(parse(SHORT + 1, id).await, serving);
    }

    #[tokio::test]
    async fn stoppable_work_learns_that_its_caller_is_gone() {
        let (began, begun) = mpsc::channel();
        let (end, ended) = mpsc::channel();
        let work = stoppable(move |stop| {
            began.send(()).unwrap();
            while !stop.is_set() {
                std::thread::yield_now();
            }
            end.send(()).unwrap();
        });
        let work = spawn("stoppable work", work);
        blocking(move || begun.recv().unwrap()).await;
        drop(work);
        blocking(move || ended.recv().unwrap()).await;
    }
}
