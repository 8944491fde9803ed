//! Cuts the tar of a pack into frames and builds its table of contents, in order and without I/O.

use std::collections::HashMap;

use super::{FRAME_TARGET_BYTES, OWN_FRAME_BYTES, tar};
use crate::{
    artifact::toc::{Foreign, Frame, MAX_FRAME_BYTES, Object, ObjectId, Toc, TocEntry},
    digest::ContentId,
    entry::Entry,
};

/// Takes a full frame and gives an empty buffer for the next one.
pub(super) type Emit<'a> = &'a mut dyn FnMut(Vec<u8>) -> Vec<u8>;

/// A pack being assembled; frames are passed to the closure that the methods take.
#[derive(Debug, Default)]
pub(super) struct Assembler {
    frame: Vec<u8>,
    frames: u32,
    raw_bytes: u64,
    objects: Vec<Object>,
    places: HashMap<ContentId, u32>,
    entries: Vec<(Entry, ContentId, Vec<ObjectId>)>,
}

impl Assembler {
    /// Tar bytes so far.
    pub(super) fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    /// Returns true if nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.raw_bytes == 0 && self.entries.is_empty()
    }

    /// Starts a member: its header blocks, in a new frame if its content is big.
    pub(super) fn begin(&mut self, header: &[u8], content_len: u64, emit: Emit<'_>) {
        if content_len >= OWN_FRAME_BYTES || self.frame.len() + header.len() > FRAME_TARGET_BYTES {
            self.cut(emit);
        }
        self.push(header, emit);
    }

    /// Adds one object to the member's content.
    pub(super) fn object(&mut self, id: ObjectId, bytes: &[u8], emit: Emit<'_>) {
        if self.frame.len() >= FRAME_TARGET_BYTES
            || self.frame.len() + bytes.len() > MAX_FRAME_BYTES as usize
        {
            self.cut(emit);
        }
        let offset = self.frame.len() as u32;
        self.raw_bytes += bytes.len() as u64;
        self.frame.extend_from_slice(bytes);
        // Repeated content is written again, so that the tar is complete; readers use the first copy.
        self.places.entry(id.0).or_insert_with(|| {
            self.objects.push(Object {
                content: id.0,
                len: id.1,
                frame: self.frames,
                offset,
            });
            self.objects.len() as u32 - 1
        });
    }

    /// Ends a member of `content_len` bytes: pads its last block.
    pub(super) fn end(&mut self, content_len: u64, emit: Emit<'_>) {
        let zeros = [0; tar::BLOCK as usize];
        self.push(&zeros[..tar::padding(content_len)], emit);
        if self.frame.len() >= FRAME_TARGET_BYTES {
            self.cut(emit);
        }
    }

    /// Pads a member whose file turned out shorter than its header says.
    pub(super) fn fill(&mut self, mut missing: u64, emit: Emit<'_>) {
        let zeros = [0; 16 << 10];
        while missing > 0 {
            let n = missing.min(zeros.len() as u64);
            self.push(&zeros[..n as usize], emit);
            missing -= n;
        }
    }

    pub(super) fn list(&mut self, entry: Entry, content: ContentId, objects: Vec<ObjectId>) {
        self.entries.push((entry, content, objects));
    }

    /// Ends the tar.
    pub(super) fn finish(&mut self, emit: Emit<'_>) {
        self.push(&tar::END, emit);
        self.cut(emit);
    }

    /// The table of contents, once the written frames are known.
    pub(super) fn into_toc(self, generation: u32, frames: Vec<Frame>) -> Toc {
        let own = self.objects.len() as u32;
        let mut foreign: Vec<Foreign> = Vec::new();
        let mut foreign_places: HashMap<ContentId, u32> = HashMap::new();
        let mut entries = Vec::with_capacity(self.entries.len());
        for (entry, content, objects) in self.entries {
            let place = |(content, len): ObjectId| {
                self.places.get(&content).copied().unwrap_or_else(|| {
                    *foreign_places.entry(content).or_insert_with(|| {
                        foreign.push(Foreign { content, len });
                        own + foreign.len() as u32 - 1
                    })
                })
            };
            let objects = objects.into_iter().map(place).collect();
            entries.push(TocEntry {
                entry,
                content,
                objects,
            });
        }
        Toc {
            generation,
            frames,
            objects: self.objects,
            foreign,
            entries,
            ..Toc::default()
        }
    }

    fn push(&mut self, bytes: &[u8], emit: Emit<'_>) {
        for piece in bytes.chunks(FRAME_TARGET_BYTES) {
            if self.frame.len() + piece.len() > MAX_FRAME_BYTES as usize {
                self.cut(emit);
            }
            self.frame.extend_from_slice(piece);
            self.raw_bytes += piece.len() as u64;
        }
    }

    fn cut(&mut self, emit: Emit<'_>) {
        if !self.frame.is_empty() {
            self.frame = emit(std::mem::take(&mut self.frame));
            self.frames += 1;
        }
    }
}
