//! The columns of a table of contents: values of one field lie together, so that they compress well.

use crate::artifact::wire::{Reader, Result, Writer};

/// The columns in their stored order; each is stored with its length in bytes.
#[derive(Debug, Default)]
pub(super) struct Columns<C> {
    /// Per frame: stored length, decoded length.
    pub(super) frame_sizes: C,
    /// Per frame: BLAKE3 of the stored bytes.
    pub(super) frame_hashes: C,
    /// Per object: length.
    pub(super) object_sizes: C,
    /// Per object: index of its frame minus that of the previous object.
    pub(super) object_frames: C,
    /// Per object: where it starts, [`super::gap`].
    pub(super) object_gaps: C,
    /// Per object: [`super::HASH_BLAKE3`] or [`super::HASH_SHA256`].
    pub(super) object_hash_kinds: C,
    /// Per object: its hash.
    pub(super) object_hashes: C,
    /// Per object of another pack: length.
    pub(super) foreign_sizes: C,
    /// Per object of another pack: as `object_hash_kinds`.
    pub(super) foreign_hash_kinds: C,
    /// Per object of another pack: its hash.
    pub(super) foreign_hashes: C,
    /// Per entry: kind and flags, one byte.
    pub(super) tags: C,
    /// Per entry: number of bytes that its path shares with the previous one.
    pub(super) path_shared: C,
    /// Per entry: number of the other bytes of its path.
    pub(super) path_sizes: C,
    /// Per entry: these bytes.
    pub(super) path_bytes: C,
    /// Per entry: mode.
    pub(super) modes: C,
    /// Per entry: user and group.
    pub(super) owners: C,
    /// Per entry: seconds of its time minus those of the previous entry, signed.
    pub(super) seconds: C,
    /// Per entry: nanoseconds of its time.
    pub(super) nanos: C,
    /// Per file that does not consist of one object with its identity: number of objects, and if there are any, the kind of its
    /// content's hash, and the hash.
    pub(super) contents: C,
    /// Per reference to an object: its index minus the previous reference plus 1, signed.
    pub(super) references: C,
    /// Per entry that has them: target of a link, size and data runs of a sparse file, attributes, needed entry.
    pub(super) rest: C,
}

impl<C> Columns<C> {
    /// Makes each column, in the stored order.
    fn each(mut next: impl FnMut() -> Result<C>) -> Result<Self> {
        Ok(Self {
            frame_sizes: next()?,
            frame_hashes: next()?,
            object_sizes: next()?,
            object_frames: next()?,
            object_gaps: next()?,
            object_hash_kinds: next()?,
            object_hashes: next()?,
            foreign_sizes: next()?,
            foreign_hash_kinds: next()?,
            foreign_hashes: next()?,
            tags: next()?,
            path_shared: next()?,
            path_sizes: next()?,
            path_bytes: next()?,
            modes: next()?,
            owners: next()?,
            seconds: next()?,
            nanos: next()?,
            contents: next()?,
            references: next()?,
            rest: next()?,
        })
    }

    /// The columns in the stored order.
    fn in_order(&self) -> [&C; 21] {
        [
            &self.frame_sizes,
            &self.frame_hashes,
            &self.object_sizes,
            &self.object_frames,
            &self.object_gaps,
            &self.object_hash_kinds,
            &self.object_hashes,
            &self.foreign_sizes,
            &self.foreign_hash_kinds,
            &self.foreign_hashes,
            &self.tags,
            &self.path_shared,
            &self.path_sizes,
            &self.path_bytes,
            &self.modes,
            &self.owners,
            &self.seconds,
            &self.nanos,
            &self.contents,
            &self.references,
            &self.rest,
        ]
    }
}

impl Columns<Writer> {
    /// Appends all columns to a document.
    pub(super) fn write(&self, to: &mut Writer) {
        for column in self.in_order() {
            to.bytes(&column.0);
        }
    }
}

impl<'a> Columns<Reader<'a>> {
    /// Splits a document into its columns.
    pub(super) fn split(from: &mut Reader<'a>) -> Result<Self> {
        Self::each(|| {
            let len = from.count(1)?;
            Ok(Reader::new(from.raw(len)?))
        })
    }

    /// Returns true if every column was read to its end.
    pub(super) fn are_read(&self) -> bool {
        self.in_order().iter().all(|column| column.left() == 0)
    }
}
