//! The result of one attempt to send a blob.

use reqwest::StatusCode;

use super::{answer::Answer, blobs, error, session::Session};
use crate::{
    artifact::Descriptor,
    store::{Error, ErrorKind, Result},
};

/// How a blob is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// One PUT with all of it.
    Whole = 0,
    /// One PATCH with all of it, then PUT.
    Stream = 1,
    /// PATCH by PATCH, then PUT.
    Pieces = 2,
}

/// The result of one attempt.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The blob is stored.
    Stored,
    /// The registry does not, or no longer, know the session; nothing of it is left. With its answer.
    Lost(Error),
    /// It dropped the session because a request broke off in its middle.
    Dropped(Error),
    /// This registry does not accept it in this way.
    NotSo(Way),
    /// The connection broke, with this error; for this blob another way can continue after the next break.
    Broke(Way, Error),
}

impl Outcome {
    /// A lost session is no reason to give up, whatever the registry's words for it.
    pub(super) fn lost(said: Error) -> Self {
        Self::Lost(gone(said))
    }

    /// The same, if a request had broken off before.
    pub(super) fn dropped(broke: Error) -> Self {
        Self::Dropped(gone(broke))
    }
}

fn gone(mut said: Error) -> Error {
    said.kind = ErrorKind::Unavailable;
    said.message = format!("the upload was lost: {}", said.message);
    said
}

/// Checks a success, and asks again if its status is not the specified one.
pub(super) async fn stored(
    session: &mut Session,
    desc: &Descriptor,
    answer: Answer,
) -> Result<Outcome> {
    answer.check_digest("put", &desc.digest)?;
    session.forget();
    let shared = session.shared().clone();
    if answer.status == StatusCode::CREATED || blobs::is_there(&shared, desc).await? {
        return Ok(Outcome::Stored);
    }
    let why = format!(
        "the registry answered {} to the upload, but does not have the blob",
        answer.status
    );
    Err(error::foreign("put", why))
}
