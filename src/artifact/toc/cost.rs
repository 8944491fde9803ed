//! The memory cost of reading a table of contents, in bytes, counted before they are allocated.
//!
//! Each cost covers the decoded form and the structures that the verbs build from it while the table is in memory: maps by path
//! and by digest, the survey and the plan of a restore. The encoded form is up to forty times smaller, so limits on its bytes are
//! not enough.

use super::{Foreign, Frame, Object, Toc, TocEntry};
use crate::entry::Kind;

/// A table itself: its layer, its slot in every list of packs.
pub(super) const TABLE: u64 = 4096;
/// An entry without what it owns.
pub(super) const ENTRY: u64 = size_of::<TocEntry>() as u64 + 48;
/// A frame.
pub(super) const FRAME: u64 = size_of::<Frame>() as u64;
/// An object, with its slot in one map by digest.
pub(super) const OBJECT: u64 = size_of::<Object>() as u64 + 72;
/// An object of another pack.
pub(super) const FOREIGN: u64 = size_of::<Foreign>() as u64;
/// An object in the list of an entry, with its piece of a restore plan.
pub(super) const REFERENCE: u64 = 4 + 28;
/// The same for an entry with several objects: verifying lists their digests.
pub(super) const ONE_OF_SEVERAL: u64 = REFERENCE + 32;
/// A data run of a sparse file, with its piece of a restore plan.
pub(super) const RUN: u64 = 16 + 24;
/// An extended attribute without its bytes.
pub(super) const XATTR: u64 = 32;

/// Bytes of a separate allocation, rounded up like an allocator does.
pub(super) const fn owned(len: usize) -> u64 {
    let len = len as u64;
    len.next_multiple_of(8) + len / 8
}

/// The objects of an entry.
pub(super) fn references(count: usize) -> u64 {
    let each = if count > 1 { ONE_OF_SEVERAL } else { REFERENCE };
    count as u64 * each
}

/// A whole table, as [`Toc::decode`] counts it.
pub(super) fn of(toc: &Toc) -> u64 {
    let lists = toc.frames.len() as u64 * FRAME
        + toc.objects.len() as u64 * OBJECT
        + toc.foreign.len() as u64 * FOREIGN;
    TABLE + lists + toc.entries.iter().map(of_entry).sum::<u64>()
}

fn of_entry(e: &TocEntry) -> u64 {
    let kind = match &e.entry.kind {
        Kind::File { extents, .. } => extents.as_ref().map_or(0, |r| r.len() as u64 * RUN),
        Kind::Dir => 0,
        Kind::Symlink(to) => owned(to.len()),
        Kind::Hardlink(to) => owned(to.as_bytes().len()),
    };
    let xattr =
        |(name, value): &(Box<[u8]>, Box<[u8]>)| XATTR + owned(name.len()) + owned(value.len());
    let needs = e.entry.needs.as_ref();
    ENTRY
        + owned(e.entry.path.as_bytes().len())
        + kind
        + e.entry.xattrs.iter().map(xattr).sum::<u64>()
        + needs.map_or(0, |n| owned(n.as_bytes().len()))
        + references(e.objects.len())
}
