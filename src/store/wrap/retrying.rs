//! Retries operations that may succeed a little later, and resumes downloads that break or stall.
//!
//! Pauses grow from 0.2 s to 10 s, with jitter; the server's `Retry-After` is honoured up to 60 s. All attempts of an operation
//! share one time budget; a download that makes progress starts a new one. A store that has never responded is given up sooner:
//! it is more likely to be unreachable, or its address wrong, than busy.
#![deny(clippy::missing_trait_methods)]

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep};

use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag},
    backoff::Backoff,
    digest::Digest,
    entry::Time,
    store::{
        BlobStore, Body, ByteStream, Error, ErrorKind, Expect, Known, Pointer, Published, Put,
        Records, RepoStore, Resolved, Result, StoredBlob, Sweep, TagStore, Untag,
        keys::Repo,
        net::{self, Watch},
        records::Listed,
    },
};

use super::Width;

/// How long to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Maximum time for all attempts of one operation, including pauses; zero means one attempt.
    pub retry_for: Duration,
    /// The same while the store has never responded.
    pub first_contact: Duration,
    /// Maximum time without a byte of a download. Small answers may take three times as long.
    pub stall: Duration,
    /// Pauses, if the server does not specify one.
    pub pauses: Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            retry_for: net::RETRY_FOR,
            first_contact: Duration::from_secs(10),
            stall: net::STALL,
            pauses: Backoff::new(Duration::from_millis(200), Duration::from_secs(10)),
        }
    }
}

/// Maximum pause that a server may request.
const LONGEST_ASKED: Duration = Duration::from_mins(1);
/// Bytes that count as progress.
const PROGRESS_BYTES: u64 = 64 << 10;

/// Whether a store has ever responded; shared by all its users.
#[derive(Debug, Clone, Default)]
pub struct Contact {
    heard: Arc<AtomicBool>,
    trouble: Trouble,
    /// The variable with the proxy in use.
    proxy: Option<&'static str>,
    /// The number of concurrent requests, which failures reduce.
    width: Option<Arc<Width>>,
}

/// Why requests to a store are being retried: for callers that give up before the last attempt.
#[derive(Debug, Clone, Default)]
pub struct Trouble(Arc<Mutex<Option<Error>>>);

impl Trouble {
    /// The error of the last attempt; `None` once an attempt has succeeded.
    pub fn last(&self) -> Option<Error> {
        self.0.lock().as_ref().map(Error::told)
    }
}

impl Contact {
    /// A store that has not responded yet; reasons for retries are recorded in `trouble`.
    pub fn noting(trouble: Trouble) -> Self {
        Self {
            heard: Arc::default(),
            trouble,
            proxy: None,
            width: None,
        }
    }

    /// The same for a store that is reached through the proxy of an environment variable, if one is given.
    #[must_use]
    pub fn through(self, proxy: Option<&'static str>) -> Self {
        Self { proxy, ..self }
    }

    /// The same for a store whose failures reduce `width`.
    #[must_use]
    pub fn reducing(self, width: Arc<Width>) -> Self {
        Self {
            width: Some(width),
            ..self
        }
    }

    fn note<T>(&self, result: &Result<T>) {
        if !result.as_ref().is_err_and(|e| e.unheard) {
            self.heard.store(true, Ordering::Relaxed);
        }
    }

    fn heard(&self) -> bool {
        self.heard.load(Ordering::Relaxed)
    }
}

/// The attempts of an operation so far.
struct Tries {
    policy: Policy,
    contact: Contact,
    began: Instant,
    deadline: Instant,
    made: u32,
    /// Failures since its last progress.
    in_a_row: u32,
    moved: u64,
}

impl Tries {
    fn new(policy: Policy, contact: Contact) -> Self {
        let began = Instant::now();
        Self {
            policy,
            contact,
            began,
            deadline: began + policy.retry_for,
            made: 0,
            in_a_row: 0,
            moved: 0,
        }
    }

    /// Waits before the next attempt.
    ///
    /// # Errors
    /// `e` itself, with the number of attempts, if there must not be another.
    async fn after(&mut self, mut e: Error) -> Result<()> {
        self.made += 1;
        if let Some(width) = &self.contact.width {
            width.failed(&e);
        }
        // The proxy may be what did not respond. Its URL may contain a password.
        if let Some(proxy) = self.contact.proxy.filter(|_| e.unheard) {
            e.message = format!("{}, through the proxy of ${proxy}", e.message);
        }
        let own = self.policy.pauses.pause(self.in_a_row);
        self.in_a_row += 1;
        self.moved = 0;
        let asked = e.retry_after.unwrap_or_default().min(LONGEST_ASKED);
        let pause = own.max(asked);
        let mut deadline = self.deadline;
        if !self.contact.heard() {
            deadline = deadline.min(self.began + self.policy.first_contact);
        }
        if !e.is_temporary() || Instant::now() + pause >= deadline {
            return Err(Error {
                attempts: self.made,
                elapsed: self.began.elapsed(),
                ..e
            });
        }
        tracing::debug!(op = e.op, attempt = self.made, pause_ms = pause.as_millis() as u64, error = %e, "Retrying");
        *self.contact.trouble.0.lock() = Some(Error {
            attempts: self.made,
            elapsed: self.began.elapsed(),
            ..e
        });
        sleep(pause).await;
        Ok(())
    }

    /// Notes that an attempt succeeded.
    fn mended(&self) {
        if self.made > 0 {
            *self.contact.trouble.0.lock() = None;
        }
    }

    /// Notes that this many bytes were received.
    fn progress(&mut self, bytes: u64) {
        self.moved += bytes;
        if self.in_a_row > 0 && self.moved >= PROGRESS_BYTES {
            self.in_a_row = 0;
            self.mended();
            self.deadline = Instant::now() + self.policy.retry_for;
        }
    }
}

/// Waits for a small answer.
async fn answer<T>(
    op: &'static str,
    policy: Policy,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    net::within(op, policy.stall * 3, work).await?
}

/// A store, or an ability of one, with retries.
pub struct Retrying<S: ?Sized> {
    inner: Arc<S>,
    policy: Policy,
    contact: Contact,
}

impl<S: ?Sized + Send + Sync> Retrying<S> {
    /// Retries failed operations of `inner`.
    pub fn new(inner: Arc<S>, policy: Policy) -> Self {
        Self::sharing(inner, policy, Contact::default())
    }

    /// The same for one of several abilities of a store, which share the knowledge whether it has ever responded.
    pub fn sharing(inner: Arc<S>, policy: Policy, contact: Contact) -> Self {
        Self {
            inner,
            policy,
            contact,
        }
    }

    fn tries(&self) -> Tries {
        Tries::new(self.policy, self.contact.clone())
    }

    /// Runs `work` until it succeeds or must not be retried; also returns how many attempts had failed before.
    async fn run<T, F>(&self, work: impl Fn() -> F + Send + Sync) -> Result<(T, u32)>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let mut tries = self.tries();
        loop {
            let done = work().await;
            self.contact.note(&done);
            match done {
                Ok(value) => {
                    tries.mended();
                    return Ok((value, tries.made));
                }
                Err(e) => tries.after(e).await?,
            }
        }
    }

    /// As [`Self::run`], each attempt limited to the time of a small answer.
    async fn ask<T, F>(
        &self,
        op: &'static str,
        work: impl Fn() -> F + Send + Sync,
    ) -> Result<(T, u32)>
    where
        F: Future<Output = Result<T>> + Send,
        T: Send,
    {
        let policy = self.policy;
        self.run(|| answer(op, policy, work())).await
    }
}

#[async_trait]
impl BlobStore for Retrying<dyn RepoStore> {
    async fn stat(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.ask("stat", || self.inner.stat(digest)).await?.0)
    }

    async fn get(&self, desc: &Descriptor, range: Range<u64>) -> Result<Option<ByteStream>> {
        let (found, made) = self
            .ask("get", || self.inner.get(desc, range.clone()))
            .await?;
        Ok(found.map(|stream| {
            let mut tries = self.tries();
            tries.made = made;
            let state = Download {
                inner: self.inner.clone(),
                stream: Some(stream),
                desc: desc.clone(),
                left: range,
                tries,
                watch: Watch::new("get", self.policy.stall),
            };
            stream::try_unfold(state, |mut d| async move {
                Ok(d.next().await?.map(|piece| (piece, d)))
            })
            .boxed()
        }))
    }

    async fn put(&self, desc: &Descriptor, body: &Body) -> Result<Put> {
        Ok(self.run(|| self.inner.put(desc, body)).await?.0)
    }
}

/// A download that is reopened where it broke off.
struct Download {
    inner: Arc<dyn RepoStore>,
    stream: Option<ByteStream>,
    desc: Descriptor,
    left: Range<u64>,
    tries: Tries,
    watch: Watch,
}

impl Download {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.left.is_empty() {
                return Ok(None);
            }
            match self.piece().await {
                Ok(piece) if piece.is_empty() => {}
                Ok(piece) => {
                    let bytes = piece.len() as u64;
                    if bytes > self.left.end - self.left.start {
                        return Err(
                            self.error(ErrorKind::Corrupt, "received more bytes than requested")
                        );
                    }
                    self.left.start += bytes;
                    self.tries.progress(bytes);
                    return Ok(Some(piece));
                }
                Err(e) => {
                    self.stream = None;
                    self.watch = Watch::new("get", self.tries.policy.stall);
                    self.tries.after(e).await?;
                }
            }
        }
    }

    async fn piece(&mut self) -> Result<Bytes> {
        let policy = self.tries.policy;
        let stream = match &mut self.stream {
            Some(stream) => stream,
            none => {
                let again = answer("get", policy, self.inner.get(&self.desc, self.left.clone()));
                match again.await? {
                    Some(stream) => none.insert(stream),
                    None => {
                        return Err(
                            self.error(ErrorKind::Corrupt, "it was deleted during the read")
                        );
                    }
                }
            }
        };
        let next = self.watch.next(stream.next()).await;
        next.map_err(|e| e.at("", self.desc.digest))?
            .unwrap_or_else(|| {
                let left = self.left.end - self.left.start;
                let why = format!("it ended {left} bytes early");
                Err(self.error(ErrorKind::Unavailable, &why))
            })
    }

    fn error(&self, kind: ErrorKind, message: &str) -> Error {
        Error::new(kind, "get", message).at("", self.desc.digest)
    }
}

#[async_trait]
impl TagStore for Retrying<dyn RepoStore> {
    async fn resolve(&self, reference: &Reference) -> Result<Option<Resolved>> {
        Ok(self
            .ask("resolve", || self.inner.resolve(reference))
            .await?
            .0)
    }

    async fn resolve_known(&self, tag: &Tag, known: Known<'_>) -> Result<Option<Resolved>> {
        let asked = self.ask("resolve", || self.inner.resolve_known(tag, known));
        Ok(asked.await?.0)
    }

    async fn stage(&self, manifest: &Manifest) -> Result<()> {
        self.ask("publish", || self.inner.stage(manifest)).await?;
        Ok(())
    }

    async fn pointer(&self, tag: &Tag) -> Result<Option<Pointer>> {
        let asked = self.ask("resolve", || self.inner.pointer(tag)).await;
        Ok(asked?.0)
    }

    async fn publish(
        &self,
        manifest: &Manifest,
        tag: Option<&Tag>,
        expect: &Expect,
    ) -> Result<Published> {
        let publish = || self.inner.publish(manifest, tag, expect);
        let (done, failed) = self.ask("publish", publish).await?;
        let Some(tag) = tag.filter(|_| failed > 0 && done == Published::Conflict) else {
            return Ok(done);
        };
        // An attempt that seemed to fail may have succeeded: then the conflict is with ourselves.
        let found = self.resolve(&Reference::Tag(tag.clone())).await?;
        Ok(match found {
            Some(found) if found.manifest.digest == manifest.digest => Published::Done,
            _ => Published::Conflict,
        })
    }

    async fn tags(&self, prefix: &str) -> Result<Vec<Tag>> {
        Ok(self.run(|| self.inner.tags(prefix)).await?.0)
    }

    async fn tags_dated(&self, prefix: &str) -> Result<Vec<(Tag, Option<Time>)>> {
        Ok(self.run(|| self.inner.tags_dated(prefix)).await?.0)
    }

    async fn clock(&self) -> Result<Time> {
        Ok(self.ask("clock", || self.inner.clock()).await?.0)
    }
}

#[async_trait]
impl Untag for Retrying<dyn Untag> {
    async fn untag(&self, tag: &Tag) -> Result<bool> {
        let (there, failed) = self.ask("remove tag", || self.inner.untag(tag)).await?;
        // An attempt that seemed to fail may have removed it.
        Ok(there || failed > 0)
    }
}

#[async_trait]
impl Records for Retrying<dyn Records> {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let read = self.ask("read record", || self.inner.read_record(key, limit));
        Ok(read.await?.0)
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        // Not `ask`: a piece of an upload may take its time, and the backend watches for stalls.
        self.run(|| self.inner.write_record(key, bytes.clone()))
            .await?;
        Ok(())
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        let removed = self.ask("remove record", || self.inner.remove_record(key));
        removed.await?;
        Ok(())
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        Ok(self.run(|| self.inner.list_records(prefix)).await?.0)
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        Ok(self.run(|| self.inner.any_record(prefix)).await?.0)
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        Ok(self.run(|| self.inner.repositories()).await?.0)
    }
}

#[async_trait]
impl Sweep for Retrying<dyn Sweep> {
    async fn blobs(&self) -> Result<Vec<StoredBlob>> {
        Ok(self.run(|| self.inner.blobs()).await?.0)
    }

    async fn roots(&self) -> Result<Vec<Digest>> {
        Ok(self.run(|| self.inner.roots()).await?.0)
    }

    async fn read_mark(&self, name: &str) -> Result<Option<Bytes>> {
        Ok(self.run(|| self.inner.read_mark(name)).await?.0)
    }

    async fn marks(&self) -> Result<Vec<String>> {
        Ok(self.run(|| self.inner.marks()).await?.0)
    }

    async fn write_mark(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.run(|| self.inner.write_mark(name, bytes.clone()))
            .await?;
        Ok(())
    }

    async fn remove_mark(&self, name: &str) -> Result<()> {
        self.run(|| self.inner.remove_mark(name)).await?;
        Ok(())
    }

    async fn replace(&self, desc: &Descriptor, body: &Body) -> Result<()> {
        self.run(|| self.inner.replace(desc, body)).await?;
        Ok(())
    }

    async fn remove(&self, digests: &[Digest], unless_newer_than: Time) -> Result<(u64, u64)> {
        Ok(self
            .run(|| self.inner.remove(digests, unless_newer_than))
            .await?
            .0)
    }

    async fn abandon_uploads(&self, limit: Time) -> Result<u64> {
        Ok(self.run(|| self.inner.abandon_uploads(limit)).await?.0)
    }

    async fn renew(&self, digest: &Digest) -> Result<bool> {
        Ok(self.run(|| self.inner.renew(digest)).await?.0)
    }

    async fn lock_alone(&self) -> Result<Option<Box<dyn Send>>> {
        self.inner.lock_alone().await
    }
}
