//! Bytes on their way into a store: re-openable, so that retrying is always correct.

use std::{
    fmt,
    fs::File,
    io::{self, Write},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt as _};

mod file;

pub use file::file_stream;

use super::{
    error::{Error, Result},
    pace::{Pace, paced},
};
use crate::{
    digest::{Digest, Sha256Hasher},
    fs, task,
};

/// Bytes of a blob as they arrive, in pieces of any size above 0.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// Bytes that can be read any number of times.
#[derive(Debug, Clone)]
pub enum Body {
    /// In memory: configs, manifests and other small contents.
    Bytes(Bytes),
    /// A finished spool file.
    Spool(Arc<Spool>),
    /// Another body, which is read at a pace.
    Paced(Arc<Paced>),
    /// Another body, of which somebody wants to know how much was read.
    Metered(Arc<Metered>),
}

/// Is told what was read of a body.
pub trait Meter: fmt::Debug + Send + Sync {
    /// Returns at once.
    fn read(&self, bytes: u64);
}

/// A body with a meter.
#[derive(Debug)]
pub struct Metered {
    body: Body,
    meter: Arc<dyn Meter>,
}

/// Where a body's bytes are.
pub(super) enum BodySource<'a> {
    Bytes(&'a Bytes),
    Spool(&'a Spool),
}

/// A body that is read at a pace.
#[derive(Debug)]
pub struct Paced {
    body: Body,
    pace: Arc<Pace>,
}

/// Collects a stream of exactly `len` bytes.
///
/// # Errors
/// `Corrupt` if there are fewer or more; stops reading at the first excess byte.
pub async fn collect(mut stream: ByteStream, len: u64) -> Result<Bytes> {
    let mut all = BytesMut::new();
    while let Some(piece) = stream.next().await {
        let piece = piece?;
        if all.is_empty() && piece.len() as u64 == len {
            return Ok(piece);
        }
        all.extend_from_slice(&piece);
        if all.len() as u64 > len {
            break;
        }
    }
    if all.len() as u64 != len {
        let why = format!("expected {len} bytes, received {}", all.len());
        return Err(Error::corrupt("read", why));
    }
    Ok(all.freeze())
}

impl Body {
    /// The number of bytes.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(b) => b.len() as u64,
            Self::Spool(s) => s.size,
            Self::Paced(p) => p.body.len(),
            Self::Metered(m) => m.body.len(),
        }
    }

    /// The same bytes; `meter` is told what stores read of them for sending, again for each attempt.
    #[must_use]
    pub fn metered(self, meter: Arc<dyn Meter>) -> Self {
        Self::Metered(Arc::new(Metered { body: self, meter }))
    }

    /// The same bytes, read no faster than `pace` allows.
    pub(super) fn paced(&self, pace: Arc<Pace>) -> Self {
        let body = self.clone();
        Self::Paced(Arc::new(Paced { body, pace }))
    }

    /// Where the bytes are, for readers on this machine, which need no pace.
    pub(super) fn source(&self) -> BodySource<'_> {
        match self {
            Self::Bytes(bytes) => BodySource::Bytes(bytes),
            Self::Spool(spool) => BodySource::Spool(spool),
            Self::Paced(p) => p.body.source(),
            Self::Metered(m) => m.body.source(),
        }
    }

    /// Returns true if there are no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Reads `range`, which must lie within the length, piece by piece.
    pub fn stream(&self, range: Range<u64>) -> ByteStream {
        match self {
            Self::Bytes(b) => {
                let piece = b.slice(range.start as usize..range.end as usize);
                if piece.is_empty() {
                    stream::empty().boxed()
                } else {
                    stream::iter([Ok(piece)]).boxed()
                }
            }
            Self::Spool(spool) => file_stream(spool.file.clone(), spool.path().to_owned(), range),
            Self::Paced(p) => paced(p.body.stream(range), p.pace.clone()),
            Self::Metered(m) => {
                let meter = m.meter.clone();
                let count = move |piece: &Result<Bytes>| {
                    meter.read(piece.as_ref().map_or(0, |piece| piece.len() as u64));
                };
                m.body.stream(range).inspect(count).boxed()
            }
        }
    }

    /// Reads `range` into memory; for parts of known, bounded size.
    pub async fn read(&self, range: Range<u64>) -> Result<Bytes> {
        match self {
            Self::Bytes(b) => Ok(b.slice(range.start as usize..range.end as usize)),
            Self::Spool(spool) => {
                let spool = spool.clone();
                task::blocking(move || read_at(&spool.file, spool.path(), range)).await
            }
            Self::Paced(p) => {
                p.pace.take(range.end - range.start).await;
                Box::pin(p.body.read(range)).await
            }
            Self::Metered(m) => {
                let bytes = Box::pin(m.body.read(range)).await?;
                m.meter.read(bytes.len() as u64);
                Ok(bytes)
            }
        }
    }
}

impl From<Bytes> for Body {
    fn from(b: Bytes) -> Self {
        Self::Bytes(b)
    }
}

fn read_at(file: &File, path: &Path, range: Range<u64>) -> Result<Bytes> {
    let mut buf = vec![0; (range.end - range.start) as usize];
    read_into(&mut buf, file, path, range.start)?;
    Ok(buf.into())
}

fn read_into(buf: &mut [u8], file: &File, path: &Path, at: u64) -> Result<()> {
    file.read_exact_at(buf, at)
        .map_err(|e| Error::io("read", fs::Error::new("read", path, e)))
}

/// A finished temporary file with the digest of its bytes; removed when the last handle is dropped.
#[derive(Debug)]
pub struct Spool {
    file: Arc<File>,
    path: tempfile::TempPath,
    digest: Digest,
    size: u64,
    /// Dropped after the file has been removed.
    _until_removed: Option<Box<dyn UntilRemoved>>,
}

/// A value that lives as long as a spool's file.
pub(super) trait UntilRemoved: fmt::Debug + Send + Sync {}

impl Spool {
    /// Takes over a complete file whose bytes were hashed while they were written; it is removed with the last handle.
    ///
    /// # Errors
    /// `Io` if `path` cannot be kept.
    pub(super) fn adopt(file: File, path: &Path, digest: Digest, size: u64) -> Result<Self> {
        let kept = tempfile::TempPath::try_from_path(path)
            .map_err(|e| Error::io("spool", fs::Error::new("take over", path, e)))?;
        Ok(Self {
            file: Arc::new(file),
            path: kept,
            digest,
            size,
            _until_removed: None,
        })
    }

    /// The same, which drops `until_removed` after its file has been removed.
    pub(super) fn keeping(self, until_removed: Box<dyn UntilRemoved>) -> Self {
        Self {
            _until_removed: Some(until_removed),
            ..self
        }
    }

    /// Path of the file while this lives; a store on the same file system may link it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The digest of the bytes: SHA-256, computed while they were written, unless they had been verified before.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Reads `range` of it; blocks.
    pub fn read_at(&self, range: Range<u64>) -> Result<Bytes> {
        read_at(&self.file, &self.path, range)
    }
}

/// A spool that is being written; if it is dropped unfinished, its file is removed.
pub struct SpoolWriter {
    file: File,
    path: tempfile::TempPath,
    digest: SpoolDigest,
    written: u64,
}

/// Where a spool's digest comes from.
enum SpoolDigest {
    /// The SHA-256 of its bytes, computed as they are written.
    Hashed(Sha256Hasher),
    /// The writer has verified it.
    Verified(Digest),
}

impl SpoolWriter {
    /// Starts one in the folder `dir`, which is created if missing.
    pub fn create(dir: &Path) -> Result<Self> {
        Self::create_with(dir, SpoolDigest::Hashed(Sha256Hasher::default()))
    }

    /// The same for bytes that are already verified: everything written hashes to `digest`.
    pub(super) fn create_verified(dir: &Path, digest: Digest) -> Result<Self> {
        Self::create_with(dir, SpoolDigest::Verified(digest))
    }

    fn create_with(dir: &Path, digest: SpoolDigest) -> Result<Self> {
        fs::make_dirs(dir).map_err(|e| Error::io("spool", e))?;
        let temp = tempfile::Builder::new()
            .prefix("spool-")
            .tempfile_in(dir)
            .map_err(|e| {
                Error::io(
                    "spool",
                    fs::Error::new("create a temporary file in", dir, e),
                )
            })?;
        let (file, path) = temp.into_parts();
        Ok(Self {
            file,
            path,
            digest,
            written: 0,
        })
    }

    /// Reserves disk space for `bytes`, if the file system supports it, so that writing them cannot fail for lack of space.
    ///
    /// # Errors
    /// `Full` if there is not enough space.
    pub(super) fn reserve(&self, bytes: u64) -> Result<()> {
        let reserved = fs::reserve(&self.file, bytes);
        reserved.map_err(|e| Error::io("spool", fs::Error::new("reserve space for", &self.path, e)))
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Finishes it.
    pub fn finish(self) -> Spool {
        Spool {
            file: Arc::new(self.file),
            path: self.path,
            digest: match self.digest {
                SpoolDigest::Hashed(hasher) => hasher.finish().into(),
                SpoolDigest::Verified(digest) => digest,
            },
            size: self.written,
            _until_removed: None,
        }
    }

    /// The error with the path added, which callers do not know.
    fn located(&self, e: io::Error) -> io::Error {
        match e.kind() {
            // Part of the contract of `Write`: the caller retries.
            io::ErrorKind::Interrupted => e,
            kind => io::Error::new(kind, fs::Error::new("write", self.path.to_path_buf(), e)),
        }
    }

    /// Path of the file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Write for SpoolWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let count = self.file.write(buf).map_err(|e| self.located(e))?;
        if let SpoolDigest::Hashed(hasher) = &mut self.digest {
            hasher.update(&buf[..count]);
        }
        self.written += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush().map_err(|e| self.located(e))
    }
}
