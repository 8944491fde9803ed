//! Decodes a single stored frame, and checks that it holds the expected objects.

use crate::artifact::toc::{Frame, Object};

/// Checks a frame's hash and decodes it; the error is worded to follow the frame's name.
pub fn decode(frame: &Frame, stored: &[u8]) -> Result<Vec<u8>, String> {
    if stored.len() != frame.len as usize || !frame.hash.matches(stored) {
        return Err("does not match its hash".to_owned());
    }
    // The capacity is the limit: zstd refuses to decode to more.
    match zstd::bulk::decompress(stored, frame.raw_len as usize) {
        Ok(bytes) if bytes.len() == frame.raw_len as usize => Ok(bytes),
        Ok(bytes) => Err(format!(
            "decodes to {} bytes instead of {}",
            bytes.len(),
            frame.raw_len
        )),
        Err(e) => Err(format!("cannot be decoded: {e}")),
    }
}

/// Returns true if an object is in its decoded frame, and intact.
pub fn holds(decoded: &[u8], o: &Object) -> bool {
    let bytes = decoded
        .get(o.offset as usize..)
        .and_then(|b| b.get(..o.len as usize));
    bytes.is_some_and(|b| o.content.matches(b))
}
