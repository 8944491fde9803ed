//! One stored frame by itself: what it decodes to, and whether that holds the objects that it should.

use crate::{
    artifact::toc::{Frame, Object},
    digest::Sha256,
};

/// Decodes a frame after a look at its digest; what went wrong, in words that follow its name.
pub fn decode(frame: &Frame, stored: &[u8]) -> Result<Vec<u8>, String> {
    if stored.len() != frame.len as usize || Sha256::of(stored) != frame.digest {
        return Err("does not match its digest".to_owned());
    }
    // The capacity is the bound: what decodes to more is refused by zstd.
    match zstd::bulk::decompress(stored, frame.raw_len as usize) {
        Ok(bytes) if bytes.len() == frame.raw_len as usize => Ok(bytes),
        Ok(bytes) => Err(format!(
            "decodes to {} bytes, not {}",
            bytes.len(),
            frame.raw_len
        )),
        Err(e) => Err(format!("cannot be decoded: {e}")),
    }
}

/// Says whether an object is in its decoded frame, and right.
pub fn holds(decoded: &[u8], o: &Object) -> bool {
    let bytes = decoded
        .get(o.offset as usize..)
        .and_then(|b| b.get(..o.len as usize));
    bytes.is_some_and(|b| Sha256::of(b) == o.digest)
}
