//! What can go wrong at a store, in kinds that callers act on.

use std::{fmt, time::Duration};

use crate::progress::span;

/// What sort of trouble it is; says whether to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store itself (bucket, repository, host) does not exist. A missing blob or tag is `None`, not this.
    NoSuchStore,
    /// We are known but may not do this.
    Denied,
    /// Credentials are missing, wrong or expired.
    Unauthenticated,
    /// The store asks us to slow down.
    Throttled,
    /// No answer, or no more bytes, in time.
    Timeout,
    /// The store or the way to it is down for now: reset, 5xx, cut body.
    Unavailable,
    /// Bytes do not match their digest or size, or an answer makes no sense.
    Corrupt,
    /// A precondition did not hold.
    Conflict,
    /// This store cannot do this.
    Unsupported,
    /// What was asked for makes no sense: bad URL, bad option.
    Invalid,
    /// No room: disk full, quota.
    Full,
    /// Trouble with a local file.
    Io,
}

impl ErrorKind {
    /// Says whether the same request may go through a little later.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Throttled | Self::Timeout | Self::Unavailable)
    }
}

/// A failed store operation: what, where, why, after how many tries.
#[derive(Debug)]
pub struct Error {
    /// What sort of trouble.
    pub kind: ErrorKind,
    /// What was tried: `get`, `put`, `resolve` …
    pub op: &'static str,
    /// The store's URL, without secrets.
    pub store: String,
    /// Digest, tag or key that it was about; empty where it was about the store.
    pub key: String,
    /// What happened, in words, without secrets.
    pub message: String,
    /// Tries made.
    pub attempts: u32,
    /// Time spent on all tries.
    pub elapsed: Duration,
    /// How long the store asked us to wait.
    pub retry_after: Option<Duration>,
    /// Nothing was heard of the store: no connection, or no answer.
    pub unheard: bool,
    /// The store answers other requests: only this one fails, so that it is no outage.
    pub alone: bool,
    /// The blob has another size than whoever asked says: that may be what is wrong, and the blob whole.
    pub other_size: bool,
    /// The cause below.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of the first try, without a cause below.
    pub fn new(kind: ErrorKind, op: &'static str, message: impl Into<String>) -> Self {
        Self {
            kind,
            op,
            store: String::new(),
            key: String::new(),
            message: message.into(),
            attempts: 1,
            elapsed: Duration::ZERO,
            retry_after: None,
            unheard: false,
            alone: false,
            other_size: false,
            source: None,
        }
    }

    /// A blob that has `size` bytes where its reader's descriptor says `wanted`; `Corrupt`.
    pub(super) fn other_size(size: u64, wanted: u64) -> Self {
        let why = format!("it has {size} bytes, not the {wanted} of its descriptor");
        Self {
            other_size: true,
            ..Self::new(ErrorKind::Corrupt, "get", why)
        }
    }

    /// Trouble with a local file; a full disk is told from the rest.
    pub fn io(op: &'static str, e: crate::fs::Error) -> Self {
        let full = matches!(
            e.kind(),
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
        );
        let kind = match e.kind() {
            _ if full => ErrorKind::Full,
            std::io::ErrorKind::PermissionDenied | std::io::ErrorKind::ReadOnlyFilesystem => {
                ErrorKind::Denied
            }
            _ => ErrorKind::Io,
        };
        Self::new(kind, op, e.to_string()).caused_by(e)
    }

    /// Says whether a file of this machine's is what failed, not a store that was asked.
    pub fn is_of_file(&self) -> bool {
        let source = self.source.as_deref();
        source.is_some_and(<dyn std::error::Error + Send + Sync>::is::<crate::fs::Error>)
    }

    /// Says whether what was read is damaged, or a file that this user may not read: nobody is helped by trying again, and the rest
    /// of the store may be whole.
    pub fn is_unreadable(&self) -> bool {
        self.kind == ErrorKind::Corrupt || self.kind == ErrorKind::Denied && self.is_of_file()
    }

    /// Adds where it happened, unless that is known already.
    #[must_use]
    pub fn at(mut self, store: &str, key: impl fmt::Display) -> Self {
        if self.store.is_empty() {
            store.clone_into(&mut self.store);
        }
        if self.key.is_empty() {
            self.key = key.to_string();
        }
        self
    }

    /// Adds that nothing was heard of the store.
    #[must_use]
    pub fn unheard(mut self) -> Self {
        self.unheard = true;
        self
    }

    /// Adds that the store answers other requests.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Adds the cause below.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same for whoever tells of it, without the cause below.
    pub(super) fn told(&self) -> Self {
        Self {
            kind: self.kind,
            op: self.op,
            store: self.store.clone(),
            key: self.key.clone(),
            message: self.message.clone(),
            attempts: self.attempts,
            elapsed: self.elapsed,
            retry_after: self.retry_after,
            unheard: self.unheard,
            alone: self.alone,
            other_size: self.other_size,
            source: None,
        }
    }

    /// Says whether the same request may go through a little later, as soon as the store is reachable.
    pub fn is_temporary(&self) -> bool {
        self.kind.is_temporary() && !self.alone
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.op)?;
        if !self.key.is_empty() {
            write!(f, " {}", self.key)?;
        }
        if !self.store.is_empty() {
            // What is opened is the store itself, not something in it.
            let is_object = self.key.is_empty() && self.op == "open";
            write!(f, "{} {}", if is_object { "" } else { " at" }, self.store)?;
        }
        write!(f, ": {}", self.message)?;
        if self.attempts > 1 {
            write!(f, ", {} attempts in {}", self.attempts, span(self.elapsed))?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        // The message already says what an I/O error below says; a reader of the chain wants the next thing.
        self.source.as_deref().and_then(|s| s.source())
    }
}
