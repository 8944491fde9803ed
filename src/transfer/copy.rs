//! Copies a manifest with everything below it: children before parents, the root last, then its tag.
//!
//! An interrupted copy leaves blobs without a name in the target, which a second attempt skips. Blobs are checked against their
//! digest before they are stored. Memory: [`IN_MEMORY_BYTES`] for each request in flight; larger blobs pass through spool files,
//! [`SPOOLS`] at a time.

use std::{
    collections::HashSet,
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::{
    Error, Result,
    graph::{self, Children},
};
use crate::{
    artifact::{Descriptor, Manifest, Tag, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
    progress::{Phase, Progress},
    store::{self, Body, ByteStream, ErrorKind, Expect, Published, Put, RepoStore, SpoolWriter},
    task,
};

/// Blobs of at most this many bytes are copied in memory.
pub const IN_MEMORY_BYTES: u64 = 1 << 20;
/// Spool files at once.
pub const SPOOLS: usize = 4;
/// Pieces of a blob that are queued for the spool.
const PIECES_WAITING: usize = 8;
/// Maximum nesting of indexes: more than anybody uses, few enough to hold in memory.
const MAX_DEPTH: usize = 8;
/// A copy that takes longer checks again whether the skipped blobs still exist (half of the shortest usual grace
/// would suffice; an hour is cheap).
const LOOK_AGAIN: Duration = Duration::from_hours(1);

/// Source, target and options of a copy.
#[derive(Clone)]
pub struct Options {
    /// Has the content.
    pub from: Arc<dyn RepoStore>,
    /// Gets it.
    pub to: Arc<dyn RepoStore>,
    /// Folder for spools: on the target's own file system, if it has one.
    pub spool_dir: PathBuf,
    /// Requests in flight at once.
    pub concurrency: usize,
    /// Receives progress.
    pub progress: Progress,
}

/// Counts of a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CopyReport {
    /// Blobs stored in the target.
    pub blobs_moved: u64,
    /// Their bytes.
    pub bytes_moved: u64,
    /// Bytes of blobs that the target had.
    pub bytes_saved: u64,
}

/// Result of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    /// Whether the tag was written, or its condition failed; everything below it is stored in both cases.
    pub published: Published,
    /// Counts.
    pub report: CopyReport,
    /// Manifests of an unknown type: they were copied without the content that they name.
    pub unknown: Vec<Digest>,
}

/// Copies `root` with everything below it, then writes `tag`, if there is one, under its condition.
///
/// # Errors
/// Nothing is published under the tag then. `Missing` and `Damaged` are errors of the source.
pub async fn copy(
    options: &Options,
    root: &Manifest,
    tag: Option<(&Tag, &Expect)>,
) -> Result<Copied> {
    let job = Copier::new(options);
    let started = Instant::now();
    job.below(root).await?;
    if started.elapsed() > LOOK_AGAIN {
        job.seen.lock().clear();
        job.below(root).await?;
    }
    let (tag, expect) = match tag {
        Some((tag, expect)) => (Some(tag), expect),
        None => (None, &Expect::Anything),
    };
    let published = options.to.publish(root, tag, expect).await?;
    Ok(Copied {
        published,
        report: job.report(),
        unknown: job.unknown.into_inner(),
    })
}

/// Copies everything below `root` but not `root` itself; for callers that publish another manifest over the same blobs.
///
/// # Errors
/// As [`copy`].
pub async fn copy_below(options: &Options, root: &Manifest) -> Result<CopyReport> {
    let job = Copier::new(options);
    job.below(root).await?;
    Ok(job.report())
}

struct Copier<'a> {
    options: &'a Options,
    spools: Semaphore,
    /// Blobs and manifests that are done or in progress.
    seen: Mutex<HashSet<Digest>>,
    unknown: Mutex<Vec<Digest>>,
    blobs_moved: AtomicU64,
    bytes_moved: AtomicU64,
    bytes_saved: AtomicU64,
}

/// Remaining work, last first.
enum Step {
    /// Read a child manifest and copy everything below it.
    Enter(Descriptor, usize),
    /// Everything below it is stored: store it.
    Leave(Manifest),
}

impl<'a> Copier<'a> {
    fn new(options: &'a Options) -> Self {
        Self {
            options,
            spools: Semaphore::new(SPOOLS),
            seen: Mutex::default(),
            unknown: Mutex::default(),
            blobs_moved: AtomicU64::new(0),
            bytes_moved: AtomicU64::new(0),
            bytes_saved: AtomicU64::new(0),
        }
    }

    fn report(&self) -> CopyReport {
        CopyReport {
            blobs_moved: self.blobs_moved.load(Ordering::Relaxed),
            bytes_moved: self.bytes_moved.load(Ordering::Relaxed),
            bytes_saved: self.bytes_saved.load(Ordering::Relaxed),
        }
    }

    async fn below(&self, root: &Manifest) -> Result<()> {
        let mut left = Vec::new();
        self.open(root, 0, &mut left).await?;
        while let Some(step) = left.pop() {
            match step {
                Step::Leave(manifest) => {
                    let to = &self.options.to;
                    to.publish(&manifest, None, &Expect::Anything).await?;
                }
                Step::Enter(desc, depth) => {
                    if !self.seen.lock().insert(desc.digest) {
                        continue;
                    }
                    if depth > MAX_DEPTH {
                        let why = format!("indexes are nested more than {MAX_DEPTH} deep");
                        return Err(Error::Damaged {
                            digest: desc.digest,
                            why,
                        });
                    }
                    let manifest =
                        read_manifest(&*self.options.from, &desc)
                            .await?
                            .ok_or(Error::Missing {
                                digest: desc.digest,
                                parent: root.digest,
                            })?;
                    left.push(Step::Leave(manifest.clone()));
                    self.open(&manifest, depth, &mut left).await?;
                }
            }
        }
        Ok(())
    }

    /// Copies the blobs of a manifest, and adds the manifests that it names to the remaining work.
    async fn open(&self, manifest: &Manifest, depth: usize, left: &mut Vec<Step>) -> Result<()> {
        let Children {
            manifests,
            blobs,
            known,
        } = graph::children(manifest)
            .await
            .map_err(|why| Error::Damaged {
                digest: manifest.digest,
                why,
            })?;
        if !known {
            self.unknown.lock().push(manifest.digest);
        }
        left.extend(
            manifests
                .into_iter()
                .rev()
                .map(|d| Step::Enter(d, depth + 1)),
        );
        stream::iter(blobs)
            .map(|desc| self.blob(desc, manifest.digest))
            .buffer_unordered(self.options.concurrency.max(1))
            .try_collect()
            .await
    }

    async fn blob(&self, desc: Descriptor, parent: Digest) -> Result<()> {
        if !self.seen.lock().insert(desc.digest) {
            return Ok(());
        }
        let Options {
            from, to, progress, ..
        } = self.options;
        // A blob of another size is damaged; writing it again repairs it if the store can.
        if to.stat(&desc.digest).await? == Some(desc.size) {
            self.bytes_saved.fetch_add(desc.size, Ordering::Relaxed);
            return Ok(());
        }
        let damaged = |why: String| Error::Damaged {
            digest: desc.digest,
            why,
        };
        let small = desc.size <= IN_MEMORY_BYTES;
        let _spool = if small {
            None
        } else {
            Some(self.spools.acquire().await.expect("it is never closed"))
        };
        let stream = match from.get(&desc, 0..desc.size).await {
            Ok(Some(stream)) => stream,
            Ok(None) => {
                return Err(Error::Missing {
                    digest: desc.digest,
                    parent,
                });
            }
            Err(e) if e.kind == ErrorKind::Corrupt => return Err(damaged(e.message)),
            Err(e) => return Err(e.into()),
        };
        let body = if small {
            let bytes = match store::collect(stream, desc.size).await {
                Err(e) if e.kind == ErrorKind::Corrupt => return Err(damaged(e.message)),
                bytes => bytes?,
            };
            if !desc.digest.matches(&bytes) {
                return Err(damaged("its bytes do not match its digest".to_owned()));
            }
            Body::Bytes(bytes)
        } else {
            match self.spool(&desc, stream).await {
                Err(e) if e.kind == ErrorKind::Corrupt => return Err(damaged(e.message)),
                body => body?,
            }
        };
        match to.put(&desc, &body).await? {
            Put::Stored => {
                self.blobs_moved.fetch_add(1, Ordering::Relaxed);
                self.bytes_moved.fetch_add(desc.size, Ordering::Relaxed);
                progress.advance(Phase::Upload, desc.size);
            }
            Put::Existed => {
                self.bytes_saved.fetch_add(desc.size, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Writes a stream to a spool file, with checks.
    async fn spool(&self, desc: &Descriptor, mut stream: ByteStream) -> store::Result<Body> {
        let (out, mut arrived) = mpsc::channel::<Bytes>(PIECES_WAITING);
        let (dir, want) = (self.options.spool_dir.clone(), desc.clone());
        let writing = task::blocking(move || -> store::Result<Body> {
            let mut spool = SpoolWriter::create(&dir)?;
            let mut hasher = want.digest.hasher();
            let sha256 = matches!(want.digest, Digest::Sha256(_));
            while let Some(piece) = arrived.blocking_recv() {
                if !sha256 {
                    hasher.update(&piece);
                }
                spool.write_all(&piece).map_err(|e| {
                    store::Error::io("spool", crate::fs::Error::new("write", spool.path(), e))
                })?;
            }
            let spool = spool.finish();
            let digest = if sha256 {
                spool.digest()
            } else {
                hasher.finish()
            };
            if spool.size() != want.size {
                let why = format!("expected {} bytes, received {}", want.size, spool.size());
                return Err(store::Error::corrupt("read", why));
            }
            if digest != want.digest {
                let why = "its bytes do not match its digest";
                return Err(store::Error::corrupt("read", why));
            }
            Ok(Body::Spool(Arc::new(spool)))
        });
        let reading = async move {
            let mut came = 0;
            while let Some(piece) = stream.next().await {
                let piece = piece?;
                came += piece.len() as u64;
                // A stream longer than promised must not fill the disk; if the writer is gone, it reports the reason.
                if came > desc.size || out.send(piece).await.is_err() {
                    break;
                }
            }
            Ok::<_, store::Error>(came)
        };
        let (read, written) = tokio::join!(reading, writing);
        if read? > desc.size {
            let why = "received more bytes than its size";
            return Err(store::Error::corrupt("read", why));
        }
        written
    }
}

/// Reads a manifest by its descriptor, whether the store has it as a manifest or only as a blob (like an image layout below an
/// index).
///
/// # Errors
/// `Damaged` if it exists and does not match the descriptor.
pub async fn read_manifest(store: &dyn RepoStore, desc: &Descriptor) -> Result<Option<Manifest>> {
    let damaged = |why: String| Error::Damaged {
        digest: desc.digest,
        why,
    };
    if desc.size > MAX_MANIFEST_BYTES {
        return Err(damaged(format!(
            "a manifest of {} bytes is over the limit",
            desc.size
        )));
    }
    let manifest = match store.resolve(&desc.digest.into()).await {
        Ok(Some(resolved)) => resolved.manifest,
        Ok(None) => match store.get(desc, 0..desc.size).await {
            Ok(Some(stream)) => Manifest {
                media_type: desc.media_type.clone(),
                bytes: store::collect(stream, desc.size).await?,
                digest: desc.digest,
            },
            Ok(None) => return Ok(None),
            Err(e) if e.kind == ErrorKind::Corrupt => return Err(damaged(e.message)),
            Err(e) => return Err(e.into()),
        },
        Err(e) if e.kind == ErrorKind::Corrupt => return Err(damaged(e.message)),
        Err(e) => return Err(e.into()),
    };
    if manifest.bytes.len() as u64 != desc.size || !desc.digest.matches(&manifest.bytes) {
        return Err(damaged("its bytes do not match its descriptor".to_owned()));
    }
    Ok(Some(manifest))
}

#[cfg(test)]
mod tests;
