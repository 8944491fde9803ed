//! Blobs of a tree: hashed on arrival, visible when complete and durable.

use std::{
    fs::File,
    io,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use super::{Temp, Tree, split};
use crate::{
    artifact::{Descriptor, Manifest, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
    entry::Time,
    fs::{self, Cached},
    store::{
        Body, ByteStream, Put, Spool, StoredBlob,
        body::{BodySource, file_stream},
        check_body_blocking, check_range,
        error::{Error, ErrorKind, Result},
        keys,
        marked::FOUND_SECS,
    },
};

/// How much is read, hashed and written at once: larger writes cost more system time, not less.
const PIECE_BYTES: u64 = 1 << 20;

fn io_of(op: &'static str) -> impl Fn(fs::Error) -> Error {
    move |e| Error::io(op, e)
}

fn stopped() -> Error {
    // Nobody is left to see it.
    Error::unavailable("put", "it was aborted")
}

impl Tree {
    /// `stat` of a blob's file, whatever its bytes are.
    pub(in crate::store) fn stat_blob(
        &self,
        op: &'static str,
        digest: &Digest,
    ) -> Result<Option<fs::Stat>> {
        let key = keys::blob(digest);
        let (folder, name) = split(&key);
        let Some(dir) = self.dir_if_there(folder).map_err(io_of(op))? else {
            return Ok(None);
        };
        stat_file(op, &dir, name)
    }

    /// The stored size of a blob.
    pub(in crate::store) fn blob_size(&self, digest: &Digest) -> Result<Option<u64>> {
        Ok(self.stat_vetted("stat", digest)?.map(|s| s.size))
    }

    /// A blob that may be used, as far as that is known without waiting for a disk.
    fn blob_at_hand(&self, digest: &Digest) -> Cached<(File, fs::Stat)> {
        let found = fs::open_cached(self.root(), &keys::blob(digest));
        found.and_then(|(file, stat)| {
            if self.vetted().is_none_or(|v| v.knows_now(digest, &stat)) {
                Cached::There((file, stat))
            } else {
                Cached::Unknown
            }
        })
    }

    /// [`Self::blob_size`] without waiting for a disk.
    pub(in crate::store) fn blob_size_at_hand(&self, digest: &Digest) -> Cached<u64> {
        let found = self.blob_at_hand(digest);
        found.and_then(|(_, stat)| Cached::There(stat.size))
    }

    /// [`Self::blob_range`] without waiting for a disk; errors count as unknown, too.
    pub(in crate::store) fn blob_range_at_hand(
        &self,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Cached<ByteStream> {
        if check_range("get", desc, &range).is_err() {
            return Cached::Unknown;
        }
        let found = self.blob_at_hand(&desc.digest);
        found.and_then(|(file, stat)| {
            if stat.size != desc.size {
                return Cached::Unknown;
            }
            let path = self.path(&keys::blob(&desc.digest));
            Cached::There(file_stream(Arc::new(file), path, range))
        })
    }

    /// `stat` of a blob's file, if it may be used.
    fn stat_vetted(&self, op: &'static str, digest: &Digest) -> Result<Option<fs::Stat>> {
        let stat = self.stat_blob(op, digest)?;
        self.vet_stat(op, digest, stat)
    }

    fn vet_stat(
        &self,
        op: &'static str,
        digest: &Digest,
        stat: Option<fs::Stat>,
    ) -> Result<Option<fs::Stat>> {
        match (&stat, self.vetted()) {
            (Some(s), Some(vetted)) if !vetted.knows(digest, s) => {
                Ok(self.vet(op, digest)?.map(|(_, stat)| stat))
            }
            _ => Ok(stat),
        }
    }

    pub(super) fn open_blob(
        &self,
        op: &'static str,
        digest: &Digest,
    ) -> Result<Option<(File, fs::Stat)>> {
        let key = keys::blob(digest);
        let (folder, name) = split(&key);
        let open = || -> fs::Result<(File, fs::Stat)> {
            let dir = self.dir(folder)?;
            let file = dir.open_file(name.as_bytes())?;
            let stat = fs::stat_file(&file)
                .map_err(|e| fs::Error::new("stat", dir.at(name.as_bytes()), e))?;
            Ok((file, stat))
        };
        match fs::missing_is_none(open()).map_err(io_of(op))? {
            Some((file, stat)) if stat.is_file() => Ok(Some((file, stat))),
            Some(_) => Err(Error::corrupt(
                op,
                format!("`{}` is not a file", self.path(&key).display()),
            )),
            None => Ok(None),
        }
    }

    /// Reads a range of a blob, which must have the size in `desc`.
    pub(in crate::store) fn blob_range(
        &self,
        desc: &Descriptor,
        range: Range<u64>,
    ) -> Result<Option<ByteStream>> {
        check_range("get", desc, &range)?;
        match self.vet("get", &desc.digest)? {
            None => Ok(None),
            Some((file, stat)) if stat.size == desc.size => {
                let path = self.path(&keys::blob(&desc.digest));
                Ok(Some(file_stream(Arc::new(file), path, range)))
            }
            Some((_, stat)) => Err(Error::other_size(stat.size, desc.size)),
        }
    }

    /// Reads a manifest and checks its bytes; `None` if it does not exist.
    pub(in crate::store) fn read_manifest(
        &self,
        op: &'static str,
        digest: &Digest,
        media_type: String,
    ) -> Result<Option<Manifest>> {
        match self.read(op, &keys::blob(digest), MAX_MANIFEST_BYTES)? {
            None => Ok(None),
            Some(bytes) if digest.matches(&bytes) => Ok(Some(Manifest {
                media_type,
                bytes: bytes.into(),
                digest: *digest,
            })),
            Some(_) => Err(Error::corrupt(
                op,
                format!("the bytes of manifest {digest} are damaged; export again to repair it"),
            )),
        }
    }

    /// Stores a manifest's bytes, replacing damaged ones.
    pub(in crate::store) fn put_manifest(&self, manifest: &Manifest) -> Result<()> {
        let desc = manifest.descriptor();
        let there = self.read_manifest("publish", &desc.digest, String::new());
        let (body, never) = (Body::Bytes(manifest.bytes.clone()), AtomicBool::new(false));
        if there.is_err_and(|e| e.kind == ErrorKind::Corrupt) {
            return self.replace_blob(&desc, &body, &never);
        }
        self.put_blob(&desc, &body, &never).map(drop)
    }

    /// Makes a blob count as written now; `false` if it does not exist.
    pub(in crate::store) fn renew_blob(&self, digest: &Digest) -> Result<bool> {
        let Some((file, before)) = self.open_blob("renew", digest)? else {
            return Ok(false);
        };
        match fs::set_file_mtime(&file, Time::now()).and_then(|()| fs::stat_file(&file)) {
            Ok(after) => {
                if let Some(vetted) = self.vetted() {
                    vetted.renewed(digest, &before, &after);
                }
                Ok(true)
            }
            Err(e) => {
                let path = self.path(&keys::blob(digest));
                Err(Error::io("renew", fs::Error::new("set times of", path, e)))
            }
        }
    }

    /// Returns true if a blob exists with that size and no concurrent sweep can remove it: a sweep removes what was not written
    /// for the grace time, of which [`FOUND_SECS`] is half.
    fn is_found(&self, desc: &Descriptor, dir: &fs::Dir, name: &str) -> Result<bool> {
        let stat = self.vet_stat("stat", &desc.digest, stat_file("stat", dir, name)?)?;
        // With another size it is damaged, whatever caused that; the right bytes replace it.
        let Some(stat) = stat.filter(|s| s.size == desc.size) else {
            return Ok(false);
        };
        let is_young = Time::now().secs - stat.mtime.secs < FOUND_SECS;
        // Another user's file: if it cannot be renewed it is written again.
        Ok(is_young || self.renew_blob(&desc.digest).unwrap_or(false))
    }

    /// Stores `body` under `desc.digest`; aborted without a trace when `stop` is set.
    pub(in crate::store) fn put_blob(
        &self,
        desc: &Descriptor,
        body: &Body,
        stop: &AtomicBool,
    ) -> Result<Put> {
        check_body_blocking("put", desc, body)?;
        let key = keys::blob(&desc.digest);
        let (folder, name) = split(&key);
        let dir = self.make_dir(folder).map_err(io_of("put"))?;
        if self.is_found(desc, &dir, name)? {
            return Ok(Put::Existed);
        }
        self.write_blob(desc, body, stop, &dir, name)?;
        Ok(Put::Stored)
    }

    /// As [`Self::put_blob`], replacing an existing blob.
    pub(in crate::store) fn replace_blob(
        &self,
        desc: &Descriptor,
        body: &Body,
        stop: &AtomicBool,
    ) -> Result<()> {
        check_body_blocking("put", desc, body)?;
        let key = keys::blob(&desc.digest);
        let (folder, name) = split(&key);
        let dir = self.make_dir(folder).map_err(io_of("put"))?;
        self.write_blob(desc, body, stop, &dir, name)
    }

    fn write_blob(
        &self,
        desc: &Descriptor,
        body: &Body,
        stop: &AtomicBool,
        dir: &fs::Dir,
        name: &str,
    ) -> Result<()> {
        let mode = mode_for_blobs(dir)?;
        if let BodySource::Spool(spool) = body.source()
            && matches!(desc.digest, Digest::Sha256(_))
            && self.link_spool(spool, dir, name, mode)?
        {
            return self.came(&desc.digest, dir, name);
        }
        let mut temp = self.temp("put")?;
        copy(desc, body, &mut temp, stop)?;
        if stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        temp.commit("put", mode, dir, name)?;
        self.came(&desc.digest, dir, name)
    }

    /// A blob that was hashed on arrival need not be hashed before it is read.
    fn came(&self, digest: &Digest, dir: &fs::Dir, name: &str) -> Result<()> {
        if let Some(vetted) = self.vetted()
            && let Some(stat) = stat_file("put", dir, name)?
        {
            vetted.learn(digest, &stat);
        }
        Ok(())
    }

    /// Links the spool's file to the blob's name; `false` if the file system cannot (another one, no links).
    fn link_spool(&self, spool: &Spool, dir: &fs::Dir, name: &str, mode: u32) -> Result<bool> {
        let path = spool.path();
        let (Some(folder), Some(from)) = (path.parent(), path.file_name()) else {
            return Ok(false);
        };
        let from_dir = fs::Dir::open(folder).map_err(io_of("put"))?;
        let from = from.as_encoded_bytes();
        let file = from_dir.open_file(from).map_err(io_of("put"))?;
        let prepare = || -> io::Result<()> {
            fs::set_file_mode(&file, mode)?;
            // A sweep uses the time when the blob arrived, not when the spool was filled.
            fs::set_file_mtime(&file, Time::now())?;
            file.sync_all()
        };
        prepare().map_err(|e| Error::io("put", fs::Error::new("sync", path, e)))?;
        match from_dir.hard_link(from, dir, name.as_bytes()) {
            Ok(()) => {}
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if self.replace_by_link(&from_dir, from, dir, name).is_err() {
                    return Ok(false);
                }
            }
            // If a link is impossible for any other reason (another device, too many links, no such call), a copy may work.
            Err(_) => return Ok(false),
        }
        dir.sync().map_err(io_of("put"))?;
        Ok(true)
    }

    /// A second link can replace a used name only by way of a third one.
    fn replace_by_link(
        &self,
        from_dir: &fs::Dir,
        from: &[u8],
        dir: &fs::Dir,
        name: &str,
    ) -> fs::Result<()> {
        let temp_dir = self.make_dir(&self.temp)?;
        let temp = format!("{}{:016x}", super::TEMP_PREFIX, fastrand::u64(..));
        from_dir.hard_link(from, &temp_dir, temp.as_bytes())?;
        let renamed = temp_dir.rename(temp.as_bytes(), dir, name.as_bytes());
        // Renaming onto a link to the same file does nothing at all, so the name may still exist.
        temp_dir.remove_file(temp.as_bytes())?;
        renamed
    }

    /// Every blob, sorted by digest; files not named by a digest are not ours.
    pub(in crate::store) fn list_blobs(&self) -> Result<Vec<StoredBlob>> {
        let mut blobs = Vec::new();
        for algorithm in self.list("list", keys::BLOBS)? {
            for hex in self.list("list", &format!("{}{algorithm}", keys::BLOBS))? {
                let key = format!("{}{algorithm}/{hex}", keys::BLOBS);
                let Some(keys::Key::Blob(digest)) = keys::parse(&key) else {
                    continue;
                };
                if let Some(stat) = self.stat_blob("list", &digest)? {
                    blobs.push(StoredBlob {
                        digest,
                        size: stat.size,
                        modified: stat.mtime,
                    });
                }
            }
        }
        blobs.sort_unstable_by_key(|b| b.digest);
        Ok(blobs)
    }

    /// Removes a blob that was not written since; returns its size, or `None` if it is kept or did not exist.
    pub(in crate::store) fn remove_blob(
        &self,
        digest: &Digest,
        unless_newer_than: Time,
    ) -> Result<Option<u64>> {
        match self.stat_blob("remove", digest)? {
            Some(stat) if stat.mtime <= unless_newer_than => {
                if let Some(vetted) = self.vetted() {
                    vetted.forget(digest);
                }
                let removed = self.remove("remove", &keys::blob(digest))?;
                Ok(removed.then_some(stat.size))
            }
            _ => Ok(None),
        }
    }
}

/// `stat` of a name, if it is a regular file.
fn stat_file(op: &'static str, dir: &fs::Dir, name: &str) -> Result<Option<fs::Stat>> {
    let stat = dir.stat(name.as_bytes()).map_err(io_of(op))?;
    Ok(stat.filter(fs::Stat::is_file))
}

/// Blobs are read-only, for everybody who may list them: a spool's file is private at first, a copy follows the umask.
fn mode_for_blobs(dir: &fs::Dir) -> Result<u32> {
    Ok(dir.stat_self().map_err(io_of("put"))?.mode() & 0o444)
}

fn check(want: &Digest, got: &Digest) -> Result<()> {
    if want == got {
        return Ok(());
    }
    let message = format!("the bytes hash to {got}");
    Err(Error::corrupt("put", message).at("", want))
}

fn copy(desc: &Descriptor, body: &Body, to: &mut Temp, stop: &AtomicBool) -> Result<()> {
    let mut hasher = desc.digest.hasher();
    let mut at = 0;
    while at < desc.size {
        if stop.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let end = desc.size.min(at + PIECE_BYTES);
        let piece = match body.source() {
            BodySource::Bytes(b) => b.slice(at as usize..end as usize),
            BodySource::Spool(s) => s.read_at(at..end)?,
        };
        hasher.update(&piece);
        to.write("put", &piece)?;
        at = end;
    }
    check(&desc.digest, &hasher.finish())
}
