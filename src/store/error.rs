//! Errors of stores, in kinds that callers act on.

use std::{fmt, time::Duration};

use crate::progress::span;

/// The kind of error; determines whether to retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The store itself (bucket, repository, host) does not exist. A missing blob or tag is `None`, not this.
    NoSuchStore,
    /// The credentials are valid, but do not permit this.
    Denied,
    /// Credentials are missing, wrong or expired.
    Unauthenticated,
    /// The store asks us to slow down.
    Throttled,
    /// No answer, or no more bytes, in time.
    Timeout,
    /// The store or the connection to it is temporarily down: reset, 5xx, truncated body.
    Unavailable,
    /// Bytes do not match their digest or size, or an answer is invalid.
    Corrupt,
    /// A precondition did not hold.
    Conflict,
    /// This store cannot do this.
    Unsupported,
    /// The request is invalid: bad URL, bad option.
    Invalid,
    /// No space left: disk full, quota.
    Full,
    /// An error of a local file.
    Io,
}

impl ErrorKind {
    /// Returns true if the same request may succeed a little later.
    pub fn is_temporary(self) -> bool {
        matches!(self, Self::Throttled | Self::Timeout | Self::Unavailable)
    }
}

/// A failed store operation: what, where, why, after how many tries.
#[derive(Debug)]
pub struct Error {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The operation: `get`, `put`, `resolve` …
    pub op: &'static str,
    /// The store's URL, without secrets.
    pub store: String,
    /// The digest, tag or key concerned; empty if the error concerns the store itself.
    pub key: String,
    /// What happened, without secrets.
    pub message: String,
    /// Number of attempts.
    pub attempts: u32,
    /// Time spent on all attempts.
    pub elapsed: Duration,
    /// How long the store asked us to wait.
    pub retry_after: Option<Duration>,
    /// The store did not respond at all: no connection, or no answer.
    pub unheard: bool,
    /// The store answers other requests: only this one fails, so it is no outage.
    pub alone: bool,
    /// The blob's size differs from the one that the caller gave: that one may be wrong, and the blob intact.
    pub other_size: bool,
    /// The underlying cause.
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result of a store operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Constructors by kind, as [`Error::new`].
macro_rules! constructors {
    ($($name:ident = $kind:ident;)+) => {
        impl Error {
            $(
                #[doc = concat!("[`ErrorKind::", stringify!($kind), "`]; as [`Error::new`].")]
                pub fn $name(op: &'static str, message: impl Into<String>) -> Self {
                    Self::new(ErrorKind::$kind, op, message)
                }
            )+
        }
    };
}
constructors! {
    conflict = Conflict;
    corrupt = Corrupt;
    denied = Denied;
    full = Full;
    invalid = Invalid;
    timeout = Timeout;
    unavailable = Unavailable;
    unsupported = Unsupported;
}

impl Error {
    /// An error of the first attempt, without a cause.
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

    /// A blob has `size` bytes instead of `wanted`, the size in its reader's descriptor; `Corrupt`.
    pub(super) fn other_size(size: u64, wanted: u64) -> Self {
        let why = format!("it has {size} bytes, not the {wanted} of its descriptor");
        Self {
            other_size: true,
            ..Self::new(ErrorKind::Corrupt, "get", why)
        }
    }

    /// An error of a local file; a full disk gets its own kind.
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

    /// Returns true if a local file caused the error, not a request to a store.
    pub fn is_of_file(&self) -> bool {
        let source = self.source.as_deref();
        source.is_some_and(<dyn std::error::Error + Send + Sync>::is::<crate::fs::Error>)
    }

    /// Returns true if the data read is damaged, or a file that this user may not read: a retry is useless, and the rest of the
    /// store may be intact.
    pub fn is_unreadable(&self) -> bool {
        self.kind == ErrorKind::Corrupt || self.kind == ErrorKind::Denied && self.is_of_file()
    }

    /// Adds the place, unless it is known already.
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

    /// Marks that the store did not respond at all.
    #[must_use]
    pub fn unheard(mut self) -> Self {
        self.unheard = true;
        self
    }

    /// Marks that the store answers other requests.
    #[must_use]
    pub fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// Adds the underlying cause.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        self.source = Some(source.into());
        self
    }

    /// A copy for others that report it, without the underlying cause.
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

    /// Returns true if the same request may succeed a little later, as soon as the store is reachable.
    pub fn is_temporary(&self) -> bool {
        self.kind.is_temporary() && !self.alone
    }
}

/// What was read; `None` also if it is damaged.
pub fn corrupt_is_none<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(e) if e.kind == ErrorKind::Corrupt => Ok(None),
        other => other,
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {}", self.op)?;
        if !self.key.is_empty() {
            write!(f, " {}", self.key)?;
        }
        if !self.store.is_empty() {
            // The store itself was opened, not an object in it.
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
        // The message already includes the text of the I/O error; continue the chain with that error's cause.
        self.source.as_deref().and_then(|s| s.source())
    }
}
