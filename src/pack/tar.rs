//! The tar form of a pack: GNU headers that GNU tar, bsdtar, Go and Python read.
//!
//! It is for other tools and for recovery: cachectl reads the table of contents, which alone has nanoseconds and attributes.

use ::tar::{EntryType, GnuExtSparseHeader, Header};

use crate::entry::{Entry, Extent, Kind};

/// A tar consists of blocks of this many bytes.
pub const BLOCK: u64 = 512;
/// Two empty blocks end it.
pub const END: [u8; 2 * BLOCK as usize] = [0; 2 * BLOCK as usize];

/// Zero bytes that fill up the last block of content.
pub fn padding(len: u64) -> usize {
    (len.next_multiple_of(BLOCK) - len) as usize
}

/// The header blocks of an entry; for a file its content follows.
pub fn header(entry: &Entry) -> Vec<u8> {
    let mut h = Header::new_gnu();
    let meta = &entry.meta;
    h.set_mode(meta.mode);
    h.set_uid(meta.uid.into());
    h.set_gid(meta.gid.into());
    h.set_mtime(u64::try_from(meta.mtime.secs).unwrap_or(0));
    h.set_size(entry.kind.content_len());
    let mut path = entry.path.as_bytes().to_vec();
    let mut out = Vec::new();
    let mut extents: &[Extent] = &[];
    match &entry.kind {
        Kind::File {
            size,
            extents: Some(runs),
        } => {
            h.set_entry_type(EntryType::GNUSparse);
            if let Some(gnu) = h.as_gnu_mut() {
                gnu.set_real_size(*size);
            }
            extents = runs;
        }
        Kind::File { .. } => h.set_entry_type(EntryType::Regular),
        Kind::Dir => {
            h.set_entry_type(EntryType::Directory);
            path.push(b'/');
        }
        Kind::Symlink(target) => {
            h.set_entry_type(EntryType::Symlink);
            set_link(&mut h, &mut out, target);
        }
        Kind::Hardlink(to) => {
            h.set_entry_type(EntryType::Link);
            set_link(&mut h, &mut out, to.as_bytes());
        }
    }
    finish(h, out, &path, extents, entry)
}

/// The header of an object stored as its own member: a segment of a changed big file.
pub fn object_header(name: &[u8], len: u64) -> Vec<u8> {
    let mut h = Header::new_gnu();
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h.set_size(len);
    h.set_entry_type(EntryType::Regular);
    let mut out = Vec::new();
    set_path(&mut h, &mut out, name);
    h.set_cksum();
    out.extend_from_slice(h.as_bytes());
    out
}

fn finish(
    mut h: Header,
    mut out: Vec<u8>,
    path: &[u8],
    extents: &[Extent],
    entry: &Entry,
) -> Vec<u8> {
    set_path(&mut h, &mut out, path);
    let mut rest = Vec::new();
    if let Kind::File {
        size,
        extents: Some(_),
    } = &entry.kind
    {
        rest = sparse_map(&mut h, extents, *size);
    }
    h.set_cksum();
    out.extend_from_slice(h.as_bytes());
    out.extend_from_slice(&rest);
    out
}

fn set_path(h: &mut Header, out: &mut Vec<u8>, path: &[u8]) {
    let name = &mut h.as_old_mut().name;
    if path.len() <= name.len() {
        name[..path.len()].copy_from_slice(path);
    } else {
        long_name(out, EntryType::GNULongName, path);
        let len = name.len();
        name.copy_from_slice(&path[..len]);
    }
}

fn set_link(h: &mut Header, out: &mut Vec<u8>, target: &[u8]) {
    let name = &mut h.as_old_mut().linkname;
    if target.len() <= name.len() {
        name[..target.len()].copy_from_slice(target);
    } else {
        long_name(out, EntryType::GNULongLink, target);
        let len = name.len();
        name.copy_from_slice(&target[..len]);
    }
}

/// The GNU form of a name over 100 bytes: a member before the member, whose content is the name and a NUL.
fn long_name(out: &mut Vec<u8>, kind: EntryType, name: &[u8]) {
    let mut h = Header::new_gnu();
    let magic = b"././@LongLink";
    h.as_old_mut().name[..magic.len()].copy_from_slice(magic);
    h.set_mode(0o644);
    h.set_uid(0);
    h.set_gid(0);
    h.set_mtime(0);
    h.set_size(name.len() as u64 + 1);
    h.set_entry_type(kind);
    h.set_cksum();
    out.extend_from_slice(h.as_bytes());
    out.extend_from_slice(name);
    out.resize(out.len() + 1 + padding(name.len() as u64 + 1), 0);
}

/// The old GNU sparse map: four runs in the header, 21 in each block after it; an empty run at the end fixes the size.
fn sparse_map(h: &mut Header, extents: &[Extent], size: u64) -> Vec<u8> {
    let mut runs: Vec<Extent> = extents.to_vec();
    if runs.last().is_none_or(|r| r.offset + r.len < size) {
        runs.push(Extent {
            offset: size,
            len: 0,
        });
    }
    let gnu = h.as_gnu_mut().expect("new_gnu makes a GNU header");
    let (first, more) = runs.split_at(runs.len().min(gnu.sparse.len()));
    for (slot, run) in gnu.sparse.iter_mut().zip(first) {
        slot.set_offset(run.offset);
        slot.set_length(run.len);
    }
    gnu.set_is_extended(!more.is_empty());
    let mut blocks = Vec::new();
    let mut left = more.chunks(21).peekable();
    while let Some(chunk) = left.next() {
        let mut block = GnuExtSparseHeader::new();
        for (slot, run) in block.sparse.iter_mut().zip(chunk) {
            slot.set_offset(run.offset);
            slot.set_length(run.len);
        }
        block.set_is_extended(left.peek().is_some());
        blocks.extend_from_slice(block.as_bytes());
    }
    blocks
}
