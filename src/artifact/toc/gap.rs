//! Where an object starts, as a number that is nearly always the same.
//!
//! In a tar, content starts after its header, which starts at the next block of 512 bytes after the content before. So the
//! number counts from that block's start and is odd (1025 after a header of one block); or it counts from the end of the
//! previous object and is even (0 between segments of one file).

/// A tar consists of blocks of this many bytes.
const BLOCK: u64 = 512;

/// The number for an object that starts at `offset`; the previous one in its frame ends at `base`.
pub(super) fn encode(base: u32, offset: u32) -> u64 {
    let block = u64::from(base).next_multiple_of(BLOCK);
    match u64::from(offset).checked_sub(block) {
        Some(gap) if gap > 0 && gap % BLOCK == 0 => 2 * gap + 1,
        _ => 2 * u64::from(offset - base),
    }
}

/// The start of an object; `None` if it does not fit 32 bits.
pub(super) fn decode(base: u32, number: u64) -> Option<u32> {
    let from = match number % 2 {
        0 => u64::from(base),
        _ => u64::from(base).next_multiple_of(BLOCK),
    };
    from.checked_add(number / 2)?.try_into().ok()
}
