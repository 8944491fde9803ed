//! The rest of an upload in pieces, continuing at the registry's offset (spec, "Pushing a blob in chunks").

use std::{sync::atomic::Ordering, time::Duration};

use tracing::debug;

use super::{
    answer::Answer,
    blobs,
    outcome::{Outcome, Way, stored},
    refusal::Refusal,
    request::Payload,
    session::{self, Offset, Session},
};
use crate::{
    artifact::Descriptor,
    backoff::Backoff,
    store::{Body, Error, ErrorKind, Result},
};

/// Smallest piece that is tried if the registry, or a proxy in front of it, refuses larger ones.
const MIN_CHUNK_BYTES: u64 = 64 << 10;
/// Maximum number of consecutive failures without progress.
const MAX_BARREN: u32 = 5;
/// Pauses between them, unless the registry specifies one.
const PAUSES: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
/// Maximum wait that the registry may request; longer ones are left to the caller.
const MAX_ASKED_PAUSE: Duration = Duration::from_mins(1);

/// Sends the rest from `at` on, and finishes the upload.
pub(super) async fn send(
    session: Session,
    desc: &Descriptor,
    body: &Body,
    at: u64,
) -> Result<Outcome> {
    let mut upload = Upload::new(session, desc, body);
    upload.at = at;
    upload.run().await
}

/// Sends all of it in pieces of at most `bytes`.
pub(super) async fn carefully(
    session: Session,
    desc: &Descriptor,
    body: &Body,
    bytes: u64,
) -> Result<Outcome> {
    let mut upload = Upload::new(session, desc, body);
    upload.chunk = upload.chunk.min(bytes).max(upload.session.min_chunk);
    upload.run().await
}

/// Continues after the error `broke`, at the registry's offset.
pub(super) async fn resume(
    session: Session,
    desc: &Descriptor,
    body: &Body,
    broke: Error,
) -> Result<Outcome> {
    let mut upload = Upload::new(session, desc, body);
    match upload.recover(broke).await? {
        // No progress in this session: a new one is cheaper than finding out whether it is empty.
        Found::At(0, error) | Found::Unknown(error) => Ok(Outcome::Broke(Way::Stream, error)),
        Found::Lost(error) => Ok(upload.lost(error)),
        Found::At(..) => upload.run().await,
    }
}

struct Upload<'a> {
    session: Session,
    desc: &'a Descriptor,
    body: &'a Body,
    /// Bytes that the registry has.
    at: u64,
    chunk: u64,
    /// Failures since the last progress.
    barren: u32,
    pieces: u32,
    /// One of its requests broke off.
    broke: bool,
}

/// The next step after a piece.
enum Next {
    Go,
    Lost(Error),
}

/// The registry's state after a failure, with that failure.
enum Found {
    At(u64, Error),
    /// It no longer knows the session.
    Lost(Error),
    /// It cannot tell.
    Unknown(Error),
}

impl<'a> Upload<'a> {
    fn new(session: Session, desc: &'a Descriptor, body: &'a Body) -> Self {
        let chunk = session.shared().chunk_bytes.max(session.min_chunk);
        Self {
            session,
            desc,
            body,
            at: 0,
            chunk,
            barren: 0,
            pieces: 0,
            broke: false,
        }
    }

    async fn run(mut self) -> Result<Outcome> {
        while self.at < self.desc.size {
            if let Next::Lost(error) = self.piece().await? {
                return Ok(self.lost(error));
            }
        }
        self.close().await
    }

    /// The consequence if the registry no longer knows the session.
    fn lost(&self, error: Error) -> Outcome {
        if self.broke {
            Outcome::dropped(error)
        } else {
            Outcome::lost(error)
        }
    }

    async fn piece(&mut self) -> Result<Next> {
        let end = self.desc.size.min(self.at.saturating_add(self.chunk));
        let answer = match self.session.patch(self.body, self.at..end, true).await {
            Ok(answer) => answer,
            Err(e) if e.is_temporary() => return self.again(e).await,
            Err(e) => return Err(e),
        };
        if answer.status.is_success() {
            self.pieces += 1;
            return self.took(&answer, end);
        }
        let Refusal { status, error, .. } = answer.refusal("put").await;
        match status.as_u16() {
            404 => {
                self.session.forget();
                Ok(Next::Lost(error))
            }
            413 => self.smaller(error),
            416 => {
                let before = self.at;
                match self.recover(error).await? {
                    Found::Lost(error) => Ok(Next::Lost(error)),
                    Found::At(at, _) if at != before => Ok(Next::Go),
                    // The offset was correct, so the size is the problem: GHCR accepts 4 MiB (§2.3).
                    Found::At(_, error) | Found::Unknown(error) => self.smaller(error),
                }
            }
            _ if error.is_temporary() => self.again(error).await,
            _ => Err(error),
        }
    }

    fn took(&mut self, answer: &Answer, end: u64) -> Result<Next> {
        self.session.moved(answer)?;
        let next = match session::taken(answer) {
            // `0-0` means none or one byte.
            Some(0) if end == 1 => 1,
            Some(taken) => taken,
            None => end,
        };
        if next > end || next < self.at {
            let message = format!(
                "the registry reports {next} bytes, after bytes {} to {end} were sent",
                self.at
            );
            return Err(Error::corrupt("put", message));
        }
        self.barren = if next == self.at { self.barren + 1 } else { 0 };
        self.at = next;
        if self.barren >= MAX_BARREN {
            let message = format!("the registry accepts nothing after byte {next}");
            return Err(Error::unavailable("put", message));
        }
        Ok(Next::Go)
    }

    fn smaller(&mut self, refused: Error) -> Result<Next> {
        let half = self.chunk.min(self.desc.size) / 2;
        if half < MIN_CHUNK_BYTES.max(self.session.min_chunk) {
            return Err(refused);
        }
        debug!(bytes = half, "Using smaller pieces");
        self.chunk = half;
        Ok(Next::Go)
    }

    async fn again(&mut self, failed: Error) -> Result<Next> {
        match self.recover(failed).await? {
            Found::At(..) => Ok(Next::Go),
            Found::Lost(error) | Found::Unknown(error) => Ok(Next::Lost(error)),
        }
    }

    /// Waits, then asks the registry for its offset.
    ///
    /// distribution answers 404 if a request broke in its middle: its `_state` contains the offset before it. Registries that
    /// keep partial data continue there.
    ///
    /// # Errors
    /// `failed`, if there has been no progress for too long.
    async fn recover(&mut self, failed: Error) -> Result<Found> {
        let mut failed = failed;
        self.broke = true;
        loop {
            self.barren += 1;
            let pause = PAUSES.pause(self.barren - 1);
            let pause = failed.retry_after.unwrap_or(pause);
            if self.barren > MAX_BARREN || pause > MAX_ASKED_PAUSE {
                return Err(failed);
            }
            tokio::time::sleep(pause).await;
            match self.session.offset().await {
                Ok(Offset::At(at)) if at > self.desc.size => {
                    let message = format!("the registry reports {at} bytes of {}", self.desc.size);
                    return Err(Error::corrupt("put", message));
                }
                Ok(Offset::At(at)) => {
                    debug!(at, error = %failed, "Upload continues");
                    if at > self.at {
                        self.barren = 0;
                    }
                    self.at = at;
                    return Ok(Found::At(at, failed));
                }
                Ok(Offset::Lost) => return Ok(Found::Lost(failed)),
                Err(e) if e.is_temporary() => failed = e,
                Err(_) => return Ok(Found::Unknown(failed)),
            }
        }
    }

    async fn close(mut self) -> Result<Outcome> {
        loop {
            let failed = match self
                .session
                .close(&self.desc.digest, Payload::Nothing)
                .await
            {
                Ok(answer) if answer.status.is_success() => {
                    return stored(&mut self.session, self.desc, answer).await;
                }
                Ok(answer) => {
                    let refusal = answer.refusal("put").await;
                    if refusal.error.is_temporary() || refusal.status.as_u16() == 404 {
                        refusal.error
                    } else {
                        return Err(self.put_together_wrongly(refusal));
                    }
                }
                Err(e) if e.is_temporary() => e,
                Err(e) => return Err(e),
            };
            // Only the answer may have been lost, not the upload.
            if blobs::is_there(&self.session.shared().clone(), self.desc)
                .await
                .unwrap_or(false)
            {
                self.session.forget();
                return Ok(Outcome::Stored);
            }
            match self.recover(failed).await? {
                Found::At(at, _) if at == self.desc.size => {}
                Found::At(_, error) | Found::Lost(error) | Found::Unknown(error) => {
                    return Ok(self.lost(error));
                }
            }
        }
    }

    /// Some registries keep only the last of several pieces (§2.3, Artifactory): a case for another attempt, not a corrupt
    /// cache.
    fn put_together_wrongly(&self, refusal: Refusal) -> Error {
        let is_wrong = refusal.says("DIGEST_INVALID");
        let mut error = refusal.error;
        if self.pieces > 1 && is_wrong {
            error.kind = ErrorKind::Unavailable;
            self.session
                .shared()
                .careful_bytes
                .store(0, Ordering::Relaxed);
            error.message = format!(
                "the registry joined {} pieces incorrectly: {}",
                self.pieces, error.message
            );
        }
        error
    }
}
