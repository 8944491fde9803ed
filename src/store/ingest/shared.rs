//! Uploads that any of several daemons may continue.
//!
//! Over a bucket, chunks are stored as pieces, `uploads/<id>.<offset>`, before they are acknowledged, and the client gets the
//! offset in the `Location`. The daemon that gets the last request assembles them, from its own disk if it has received all of
//! them. An upload in one request, as BuildKit sends it, stores no piece.

use std::{
    collections::{HashMap, HashSet},
    ops::Range,
    path::Path,
    sync::Arc,
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::{
    sync::{Notify, OwnedMutexGuard},
    time::{Instant, timeout_at},
};

mod finished;
mod late;
mod pieces;

use super::{Appended, Evict, Ingests, OVER_QUOTA, Quota, UploadId};
use crate::{
    entry::Time,
    store::{
        Body, ByteStream, Spool,
        error::{Error, ErrorKind, Result},
        keys::{self, Repo},
        records::{Listed, Records},
    },
    task,
};
pub use finished::Finished;
use finished::filler;
use pieces::{GONE, Pieces, end};

const PIECE_BYTES: usize = 4 << 20;
/// Bytes that must arrive before a piece gets a slot.
const LEAST_BYTES: usize = 16 << 10;
/// A piece ends after a pause of this length, and after this total time: others wait for its slot.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(10);

/// The uploads of a daemon.
pub struct Uploads {
    local: Ingests,
    pieces: Option<Pieces>,
}

impl Uploads {
    /// Uploads in the folder `dir`; with `records`, those of all daemons with the same records. If a local folder
    /// `outlives_outages` of the store of the records, uploads continue with the bytes in `dir` during an outage.
    pub fn open(
        dir: &Path,
        records: Option<Arc<dyn Records>>,
        outlives_outages: bool,
    ) -> Result<Self> {
        let local = Ingests::open(dir, records.is_some())?;
        let is_away = local.store_is_away.clone();
        let pieces = records.map(|records| Pieces::new(records, outlives_outages, is_away));
        Ok(Self { local, pieces })
    }

    /// Number of uploads on this machine's disk ([`Ingests::count`]).
    pub fn count(&self) -> usize {
        self.local.count()
    }

    /// Calls `evict` when the disk is full, before uploads are removed.
    pub fn evict_first(&self, evict: Box<Evict>) {
        // Later callers have the same disk.
        self.local.evict.get_or_init(|| evict);
    }

    /// Changes the limits of each owner.
    pub fn set_quota(&self, quota: Quota) {
        self.local.owners.set(quota);
    }

    /// Records owners in the file `path`, and reads the owners of an earlier process's uploads from it. Blocks.
    ///
    /// # Errors
    /// `Io` if the file cannot be read or written.
    pub fn remember_owners(&self, path: &Path) -> Result<()> {
        let is_shared = self.pieces.is_some();
        self.local.owners.remember(path, |id| {
            let found = self.local.left(id);
            // Bytes in a bucket are counted by [`Self::count_bytes`].
            found.or(is_shared.then_some((0, Duration::ZERO)))
        })
    }

    /// Begins an upload of `owner` to `repo`; `is_whole`: the same request will end it.
    ///
    /// # Errors
    /// `Denied`, with the operation [`super::OVER_QUOTA`], if that owner has too many.
    pub async fn begin(
        self: &Arc<Self>,
        repo: &Repo,
        owner: &str,
        is_whole: bool,
    ) -> Result<UploadId> {
        let id = UploadId::new(repo);
        if let Some(given_up) = self.local.owners.begin(&id, owner, is_whole)? {
            self.give_up(&given_up).await;
        }
        let uploads = self.clone();
        // An upload that ends with its first request needs no owner after a restart.
        let save = move || {
            if !is_whole {
                uploads.local.owners.save();
            }
        };
        if self.pieces.is_some() {
            if !is_whole {
                task::blocking(save).await;
            }
        } else {
            let begun = self.local.begin_and(&id, save).await;
            begun.inspect_err(|_| self.local.owners.forget(&id))?;
        }
        Ok(id)
    }

    /// Removes an upload in favour of others of its owner.
    async fn give_up(&self, id: &UploadId) {
        tracing::info!(upload = %id, "Dropped an unfinished upload in favor of others of its owner");
        if let Err(error) = self.cancel(id).await {
            tracing::warn!(%error, "Could not remove an unfinished upload; it stays until it expires");
        }
    }

    /// A body that counts towards its owner's bytes, and ends when the upload is removed in favour of others.
    fn owned(
        self: &Arc<Self>,
        id: &UploadId,
        give_up: Arc<Notify>,
        body: ByteStream,
    ) -> ByteStream {
        let (uploads, id) = (self.clone(), id.clone());
        let next = move |mut body: ByteStream| {
            let (uploads, id, give_up) = (uploads.clone(), id.clone(), give_up.clone());
            async move {
                let piece = tokio::select! {
                    biased;
                    piece = body.try_next() => piece?,
                    () = give_up.notified() => {
                        return Err(filler().at("", &id));
                    }
                };
                let Some(piece) = piece else {
                    return Ok(None);
                };
                while let Some(given_up) = uploads.local.owners.grow(&id, piece.len() as u64)? {
                    uploads.give_up(&given_up).await;
                }
                Ok(Some((piece, body)))
            }
        };
        stream::try_unfold(body, next).boxed()
    }

    /// Gives up an upload that may not grow; where there is no room for it, what is here of it.
    async fn give_up_refused<T>(&self, id: &UploadId, done: Result<T>) -> Result<T> {
        match &done {
            Err(e) if e.kind == ErrorKind::Full && self.pieces.is_some() => {
                self.local.drop_copy(id).await?;
            }
            Err(e) if e.kind == ErrorKind::Full || e.op == OVER_QUOTA => {
                self.cancel(id).await?;
            }
            _ => {}
        }
        done
    }

    /// The number of received bytes of an upload; `None` if there is no such upload.
    pub async fn size(&self, id: &UploadId) -> Result<Option<u64>> {
        match &self.pieces {
            None => self.local.size(id).await,
            Some(pieces) => {
                let here = self.local.length(id).await?;
                Ok(self.known(pieces, id, here).await?.map(|start| start.size))
            }
        }
    }

    /// The size of an upload according to the store, or according to the bytes `here` if the daemon has more because of an
    /// outage.
    async fn known(
        &self,
        pieces: &Pieces,
        id: &UploadId,
        here: Option<u64>,
    ) -> Result<Option<Start>> {
        if pieces.is_over(id) {
            return Ok(None);
        }
        let listed = match pieces.list(id).await {
            Ok(Some(listed)) => listed,
            Ok(None) => return Ok(None),
            Err(e) if pieces.outlives(&e) => {
                let here = here.or(self.local.owners.is_new(id).then_some(0));
                return here.map(|size| Some(Start::at(size))).ok_or(e);
            }
            Err(e) => return Err(e),
        };
        // Only for uploads with a file here: anybody may ask for invented uploads.
        if here.is_some() && pieces.sent(id).is_none_or(|sent| sent < end(&listed)) {
            pieces.note_sent(id, end(&listed));
        }
        Ok(Some(match here {
            Some(size) if pieces.outlive_outages && size > end(&listed) => Start::at(size),
            _ => Start {
                size: end(&listed),
                pieces: Some(listed),
            },
        }))
    }

    /// Where the next bytes of an upload must be appended, or why none are accepted. The offset that a client `said` is checked
    /// in the store, unless this daemon has received that many bytes, or the same request begins and ends (`is_last`) the upload.
    async fn start(
        &self,
        id: &UploadId,
        said: Option<u64>,
        is_last: bool,
    ) -> Result<std::result::Result<Start, Appended>> {
        let here = self.local.size(id).await?;
        let Some(pieces) = &self.pieces else {
            let start = here.map(Start::at);
            return Ok(start.ok_or(Appended::Unknown));
        };
        if let Some(said) = said
            && (here == Some(said) && pieces.sent(id).is_some()
                || (here.is_none() && said == 0 && is_last && self.may_be_new(id)))
        {
            return Ok(Ok(Start::at(said)));
        }
        let Some(start) = self.known(pieces, id, here).await? else {
            return Ok(Err(Appended::Unknown));
        };
        if said.is_some_and(|said| said != start.size) {
            return Ok(Err(Appended::OutOfOrder(start.size)));
        }
        Ok(Ok(start))
    }

    /// Whether nothing may have come of an upload: as far as is known here.
    fn may_be_new(&self, id: &UploadId) -> bool {
        let owners = &self.local.owners;
        owners.is_new(id) || !owners.contains(id)
    }

    /// Appends `body`; with a `range` only if that begins at the end of the upload, and is as long as the body. `at` is the size
    /// of the upload that the client knows: over a bucket nothing is appended if that is wrong.
    ///
    /// Bytes received before an error are kept, so that the client can continue from there; except if the upload exceeds its
    /// owner's quota.
    pub async fn append(
        self: &Arc<Self>,
        (id, owner): (&UploadId, &str),
        at: Option<u64>,
        range: Option<Range<u64>>,
        body: ByteStream,
    ) -> Result<Appended> {
        let _turn = self.turn(id).await?;
        // The client may have missed a response: the range states where the bytes belong.
        let said = range.as_ref().map(|r| r.start).or(at);
        let start = match self.start(id, said, false).await? {
            Ok(start) => start.size,
            Err(other) => return Ok(self.not_sent(id, other)),
        };
        self.admit(id, owner).await?;
        let active = self.local.owners.active(id, owner, start);
        let body = self.owned(id, active.give_up(), body);
        let appended = self.append_pieces(id, start, range, body).await;
        if matches!(appended, Ok(Appended::Unknown)) {
            self.local.owners.forget(id);
        }
        self.give_up_refused(id, appended).await
    }

    /// Counts an upload begun by another daemon, or by nobody, towards the limits of `owner`.
    async fn admit(&self, id: &UploadId, owner: &str) -> Result<()> {
        if self.pieces.is_some()
            && !self.local.owners.contains(id)
            && let Some(given_up) = self.local.owners.begin(id, owner, false)?
        {
            self.give_up(&given_up).await;
        }
        Ok(())
    }

    /// Waits for the turn of a request that sends to an upload. Uploads kept only here have their own lock ([`Ingests::append`]).
    async fn turn(&self, id: &UploadId) -> Result<Option<OwnedMutexGuard<()>>> {
        match &self.pieces {
            Some(pieces) => pieces.turn(id).await.map(Some),
            None => Ok(None),
        }
    }

    /// Records that nothing was accepted.
    fn not_sent(&self, id: &UploadId, why: Appended) -> Appended {
        if why == Appended::Unknown {
            self.local.owners.forget(id);
        }
        why
    }

    async fn append_pieces(
        &self,
        id: &UploadId,
        start: u64,
        range: Option<Range<u64>>,
        body: ByteStream,
    ) -> Result<Appended> {
        let Some(pieces) = &self.pieces else {
            return self.local.append(id, range, body).await;
        };
        let mut here = self.is_here(id, start).await?;
        if here {
            self.catch_up(pieces, id, start).await?;
        }
        let mut rest = stream_of(body);
        let mut size = start;
        loop {
            // A slot is for bytes in memory: a slow client holds one only briefly.
            let (first, ended) = gather(&mut rest, LEAST_BYTES, None).await;
            let _place = pieces.place().await;
            let (piece, broken) = match ended {
                Some(_) => (first, ended),
                None => gather(&mut rest, PIECE_BYTES / 2, Some(first)).await,
            };
            if !piece.is_empty() {
                let length = piece.len() as u64;
                if range.as_ref().is_some_and(|r| size + length > r.end) {
                    return Ok(Appended::WrongLength(size));
                }
                // One after the other: the bytes left here by an interrupted request never exceed those in the store.
                let alone = match pieces.write(id, size, piece.clone()).await {
                    Ok(()) => None,
                    Err(e) if here && pieces.outlives(&e) => Some(e),
                    Err(e) => return Err(e),
                };
                let kept = if here {
                    if alone.is_some() {
                        self.local.set_ahead(id, |_| true).await?;
                    }
                    self.keep(id, piece).await
                } else {
                    Ok(())
                };
                match (alone, kept) {
                    (None, kept) => here = here && kept.is_ok(),
                    (Some(_), Ok(())) => {
                        tracing::debug!(upload = %id, "Chunk is stored only locally while the store is unreachable");
                    }
                    (Some(_), Err(full)) if full.kind == ErrorKind::Full => return Err(full),
                    (Some(away), Err(_)) => return Err(away),
                }
                size += length;
            }
            match broken {
                Some(Err(e)) => return Err(e),
                Some(Ok(())) => break,
                None => {}
            }
        }
        Ok(match range {
            Some(range) if range.end != size => Appended::WrongLength(size),
            _ => Appended::Size(size),
        })
    }

    /// Appends the last bytes and ends the upload: its bytes, with their SHA-256.
    ///
    /// # Errors
    /// As [`Self::append`]; in `Err` of the inner result if the upload still exists.
    pub async fn finish(
        self: &Arc<Self>,
        (id, owner): (&UploadId, &str),
        at: Option<u64>,
        range: Option<Range<u64>>,
        body: Option<ByteStream>,
    ) -> Result<std::result::Result<Finished, Appended>> {
        let _turn = self.turn(id).await?;
        let said = at.or(range.as_ref().map(|r| r.start));
        let start = match self.start(id, said, true).await? {
            Ok(start) => start,
            Err(other) => return Ok(Err(self.not_sent(id, other))),
        };
        self.admit(id, owner).await?;
        let active = self.local.owners.active(id, owner, start.size);
        let body = body.map(|body| self.owned(id, active.give_up(), body));
        let finished = self.finish_pieces(id, start, range, body).await;
        if matches!(finished, Ok(Err(Appended::Unknown))) {
            self.local.owners.forget(id);
        }
        let finished = self.give_up_refused(id, finished).await?;
        Ok(finished.map(|spool| Finished::new(self, owner, spool)))
    }

    async fn finish_pieces(
        &self,
        id: &UploadId,
        start: Start,
        range: Option<Range<u64>>,
        body: Option<ByteStream>,
    ) -> Result<std::result::Result<Spool, Appended>> {
        if let Some(pieces) = &self.pieces {
            if range.as_ref().is_some_and(|r| r.start != start.size) {
                return Ok(Err(Appended::OutOfOrder(start.size)));
            }
            if self.is_here(id, start.size).await? {
                // Once it has ended, what the store lacks would be lost with it if the store refuses the blob.
                self.catch_up(pieces, id, start.size).await?;
            } else {
                self.local.drop_file(id).await?;
                self.local.begin_as(id).await?;
                self.fetch(pieces, id, start.pieces.unwrap_or_default())
                    .await?;
            }
        }
        if let Some(body) = body {
            match self.local.append(id, range, body).await? {
                Appended::Size(_) => {}
                other => return Ok(Err(other)),
            }
        }
        Ok(self.local.finish(id).await?.ok_or(Appended::Unknown))
    }

    /// Removes the rest of a finished upload; `at` is its size before its last request.
    pub async fn forget(&self, id: &UploadId, at: Option<u64>, given_up: bool) -> Result<()> {
        let Some(pieces) = &self.pieces else {
            return Ok(());
        };
        pieces.forget_sent(id);
        // All of it came in the last request: the store has nothing of it.
        if at == Some(0) {
            return Ok(());
        }
        let cleared = async {
            if given_up {
                pieces.give_up(id).await?;
            }
            pieces.clear(id).await
        };
        match cleared.await {
            Err(e) if pieces.outlives(&e) => {
                pieces.note_over(id);
                Ok(())
            }
            done => done,
        }
    }

    /// Ends an upload and removes its bytes; `false` if there was none.
    pub async fn cancel(&self, id: &UploadId) -> Result<bool> {
        let is_known = self.local.owners.contains(id);
        let is_here = self.local.cancel(id).await? || is_known;
        self.local.owners.forget(id);
        let Some(pieces) = &self.pieces else {
            return Ok(is_here);
        };
        let there = match pieces.list(id).await {
            // Even without a piece another daemon may have begun it.
            Ok(listed) => listed.is_some(),
            Err(e) if pieces.outlives(&e) && is_here => true,
            Err(e) => return Err(e),
        };
        if there {
            self.forget(id, None, true).await?;
        }
        Ok(there)
    }

    /// Removes an upload that was begun by a request which should also have ended it: no client knows of it, and nothing of it is
    /// elsewhere.
    ///
    /// # Errors
    /// `Conflict` if that request still sends to it.
    pub async fn drop_unheard(&self, id: &UploadId) -> Result<()> {
        self.local.cancel(id).await?;
        self.local.owners.forget(id);
        if let Some(pieces) = &self.pieces {
            pieces.forget_sent(id);
        }
        Ok(())
    }

    /// Removes uploads that received nothing for `age`; returns how many.
    /// `now` is the time by the store's clock.
    pub async fn expire(&self, age: Duration, now: Time) -> Result<u64> {
        let mut count = self.local.expire(age).await?;
        if let Some(pieces) = &self.pieces {
            pieces.keep_sent(|id| self.local.owners.contains(id));
            let mut listed = pieces.records.list_records(keys::UPLOADS).await?;
            self.local.owners.found(&sizes(&listed));
            // What received something here lately, even if the store does not know, is not idle.
            let here: HashSet<UploadId> = self.local.list(|_| true).await?.into_iter().collect();
            listed.retain(|piece| upload_of(piece).is_none_or(|(id, _)| !here.contains(&id)));
            // First, since it needs no room in a full store.
            count += pieces.expire(listed, age, now).await?;
            let cleared = pieces.clear_over().await;
            self.settle_resting(pieces).await?;
            cleared?;
        }
        Ok(count)
    }

    /// Counts the bytes that an earlier process, or another daemon, has received for uploads whose owner is known here.
    pub async fn count_bytes(&self) -> Result<()> {
        if let Some(pieces) = &self.pieces {
            let listed = pieces.records.list_records(keys::UPLOADS).await?;
            self.local.owners.found(&sizes(&listed));
        }
        Ok(())
    }

    /// Returns true if this daemon has all of the first `start` bytes; if that is 0, creates the upload.
    async fn is_here(&self, id: &UploadId, start: u64) -> Result<bool> {
        match self.local.size(id).await? {
            Some(size) => Ok(size == start),
            None if start == 0 => {
                self.local.begin_as(id).await?;
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Stores a piece here too. This is only an optimization, unless the store is unreachable: without it the pieces are fetched.
    async fn keep(&self, id: &UploadId, piece: Bytes) -> Result<()> {
        let length = piece.len() as u64;
        let body = Body::Bytes(piece).stream(0..length);
        let kept = match self.local.append(id, None, body).await {
            Ok(Appended::Size(_)) => Ok(()),
            Ok(_) => Err(Error::conflict("upload", "it is not on this node").at("", id)),
            Err(error) => Err(error),
        };
        kept.inspect_err(|error| tracing::warn!(%error, "Could not keep a local copy of an upload"))
    }

    /// Fetches the listed pieces, one at a time: each takes a slot.
    async fn fetch(&self, pieces: &Pieces, id: &UploadId, listed: Vec<Range<u64>>) -> Result<()> {
        for piece in listed {
            let _place = pieces.place().await;
            let key = keys::upload(&format!("{id}.{:020}", piece.start));
            let most = 2 * PIECE_BYTES as u64;
            let bytes = pieces.records.read_record(&key, most).await?;
            let bytes = bytes.filter(|b| b.len() as u64 == piece.end - piece.start);
            let bytes = bytes
                .ok_or_else(|| Error::conflict("upload", "a piece of it is missing").at("", id))?;
            let length = bytes.len() as u64;
            let body = Body::Bytes(bytes).stream(0..length);
            self.local.append(id, None, body).await?;
        }
        Ok(())
    }
}

/// Where an upload continues.
struct Start {
    size: u64,
    /// The bytes that the store has, if it was asked.
    pieces: Option<Vec<Range<u64>>>,
}

impl Start {
    fn at(size: u64) -> Self {
        Self { size, pieces: None }
    }
}

/// The upload of a piece, and its offset or [`GONE`].
fn upload_of(piece: &Listed) -> Option<(UploadId, &str)> {
    let (id, rest) = piece.key.strip_prefix(keys::UPLOADS)?.rsplit_once('.')?;
    Some((id.parse().ok()?, rest))
}

/// Bytes of all pieces of each upload that was not given up.
fn sizes(listed: &[Listed]) -> HashMap<UploadId, u64> {
    let mut found: HashMap<UploadId, u64> = HashMap::new();
    let mut gone = Vec::new();
    for piece in listed {
        let Some((id, rest)) = upload_of(piece) else {
            continue;
        };
        if rest == GONE {
            gone.push(id);
        } else {
            let bytes = found.entry(id).or_default();
            *bytes = bytes.saturating_add(piece.size.unwrap_or(0));
        }
    }
    for id in gone {
        found.remove(&id);
    }
    found
}

fn stream_of(body: ByteStream) -> ByteStream {
    // A chunk from the network may be longer than one of our pieces.
    body.map_ok(|mut bytes| {
        let mut cut = Vec::new();
        while bytes.len() > PIECE_BYTES {
            cut.push(Ok(bytes.split_to(PIECE_BYTES)));
        }
        cut.push(Ok(bytes));
        stream::iter(cut)
    })
    .try_flatten()
    .boxed()
}

/// Collects one piece; also returns how the body ended, or `None` if it has not.
///
/// With a `first` part, which holds a slot, only as long as more arrives without a pause.
async fn gather(
    body: &mut ByteStream,
    enough: usize,
    first: Option<Bytes>,
) -> (Bytes, Option<Result<()>>) {
    let is_hasty = first.is_some();
    let mut piece = first.map_or_else(BytesMut::new, BytesMut::from);
    let until = Instant::now() + LONGEST;
    // Another one could make it too long.
    while piece.len() <= enough {
        let next = if is_hasty {
            let pause = until.min(Instant::now() + PAUSE);
            match timeout_at(pause, body.try_next()).await {
                Ok(next) => next,
                Err(_) => break,
            }
        } else {
            body.try_next().await
        };
        match next {
            Ok(Some(bytes)) => piece.extend_from_slice(&bytes),
            Ok(None) => return (piece.freeze(), Some(Ok(()))),
            Err(e) => return (piece.freeze(), Some(Err(e))),
        }
    }
    (piece.freeze(), None)
}

#[cfg(test)]
mod tests;
