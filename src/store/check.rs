//! Checks that every store makes before it does anything.

use std::ops::Range;

use super::{
    body::{Body, BodySource},
    error::{Error, Result},
};
use crate::{
    artifact::{Descriptor, Manifest, descriptor::MAX_MANIFEST_BYTES},
    digest::Digest,
    task,
};

/// Contents in memory of up to this size are hashed without a separate thread.
const HASH_INLINE: u64 = 64 << 10;
/// Bytes of a file that are hashed in one step.
const HASH_BYTES: u64 = 1 << 20;

/// Refuses a range that does not lie within the blob.
///
/// # Errors
/// `Invalid`: it is the caller's mistake.
pub(super) fn check_range(op: &'static str, desc: &Descriptor, range: &Range<u64>) -> Result<()> {
    if range.start <= range.end && range.end <= desc.size {
        return Ok(());
    }
    let (start, end, size) = (range.start, range.end, desc.size);
    Err(Error::invalid(
        op,
        format!("bytes {start} to {end} were requested of a blob of {size} bytes"),
    ))
}

/// Refuses a manifest whose bytes do not match its digest, or that no reader would accept.
///
/// # Errors
/// `Corrupt` or `Invalid`.
pub(super) fn check_manifest(manifest: &Manifest) -> Result<()> {
    if manifest.bytes.len() as u64 > MAX_MANIFEST_BYTES {
        let size = manifest.bytes.len();
        return Err(Error::invalid(
            "publish",
            format!("a manifest of {size} bytes exceeds the limit of {MAX_MANIFEST_BYTES}"),
        ));
    }
    if !manifest.digest.matches(&manifest.bytes) {
        return Err(Error::corrupt(
            "publish",
            "the manifest's bytes do not match its digest",
        ));
    }
    Ok(())
}

/// Refuses a body that does not match its descriptor. A store calls this before it looks for the blob and before it sends the
/// first byte: a caller without the bytes must not learn whether the blob exists, and wrong bytes never become visible.
///
/// # Errors
/// `Corrupt`; `Io` if the body cannot be read.
pub(super) async fn check_body(op: &'static str, desc: &Descriptor, body: &Body) -> Result<()> {
    // What was spooled was hashed while it was written.
    let is_long = match body.source() {
        BodySource::Spool(_) => !matches!(desc.digest, Digest::Sha256(_)),
        BodySource::Bytes(_) => body.len() > HASH_INLINE,
    };
    if !is_long {
        return check_body_blocking(op, desc, body);
    }
    let (desc, body) = (desc.clone(), body.clone());
    task::blocking(move || check_body_blocking(op, &desc, &body)).await
}

/// As [`check_body`]; may block.
pub(super) fn check_body_blocking(op: &'static str, desc: &Descriptor, body: &Body) -> Result<()> {
    let (want, size) = (desc.digest, body.len());
    let wrong = |why: String| Err(Error::corrupt(op, why).at("", want));
    if size != desc.size {
        return wrong(format!(
            "the body has {size} bytes, but its descriptor says {}",
            desc.size
        ));
    }
    let is = match (body.source(), want) {
        (BodySource::Spool(spool), Digest::Sha256(_)) => spool.digest(),
        (BodySource::Bytes(bytes), _) => {
            let mut hasher = want.hasher();
            hasher.update(bytes);
            hasher.finish()
        }
        (BodySource::Spool(spool), _) => {
            let (mut hasher, mut at) = (want.hasher(), 0);
            while at < size {
                let end = size.min(at + HASH_BYTES);
                hasher.update(&spool.read_at(at..end)?);
                at = end;
            }
            hasher.finish()
        }
    };
    if is == want {
        return Ok(());
    }
    wrong(format!("the bytes hash to {is}"))
}
