//! Questions that every store asks before it does anything.

use std::ops::Range;

use super::error::{Error, ErrorKind, Result};
use crate::artifact::{Descriptor, Manifest, descriptor::MAX_MANIFEST_BYTES};

/// Refuses a range that does not lie within the blob.
///
/// # Errors
/// `Invalid`: it is the caller's mistake.
pub(super) fn check_range(op: &'static str, desc: &Descriptor, range: &Range<u64>) -> Result<()> {
    if range.start <= range.end && range.end <= desc.size {
        return Ok(());
    }
    let (start, end, size) = (range.start, range.end, desc.size);
    Err(Error::new(
        ErrorKind::Invalid,
        op,
        format!("bytes {start} to {end} were asked for of a blob of {size}"),
    ))
}

/// Refuses a manifest whose bytes are not what its digest says, or that no reader would take.
///
/// # Errors
/// `Corrupt` or `Invalid`.
pub(super) fn check_manifest(manifest: &Manifest) -> Result<()> {
    if manifest.bytes.len() as u64 > MAX_MANIFEST_BYTES {
        let size = manifest.bytes.len();
        return Err(Error::new(
            ErrorKind::Invalid,
            "publish",
            format!("a manifest of {size} bytes is over the limit of {MAX_MANIFEST_BYTES}"),
        ));
    }
    if !manifest.digest.matches(&manifest.bytes) {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "publish",
            "the manifest's bytes are not what its digest says",
        ));
    }
    Ok(())
}
