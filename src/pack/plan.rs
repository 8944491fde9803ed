//! Plans which frames are needed for which entries, and where their bytes belong.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    artifact::{
        snapshot::{At, Snapshot},
        toc::Frame,
    },
    digest::ContentId,
    entry::{EntryPath, Extent, Kind},
};

/// An entry to restore: a regular file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub at: At,
    /// Hash the whole content and compare it; the frames' own hashes are always compared.
    pub check: bool,
}

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePlan {
    /// Its path below the root.
    pub path: EntryPath,
    /// Which entry of the snapshot it is.
    pub entry: At,
    /// Length with holes.
    pub size: u64,
    /// Bytes to write.
    pub content_len: u64,
    /// It has holes: its length is set before anything is written.
    pub sparse: bool,
    /// The expected identity of the content, if it is to be checked.
    pub check: Option<ContentId>,
}

/// Bytes of a decoded frame that belong to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where they start in the decoded frame.
    pub offset: u32,
    /// How many.
    pub len: u32,
    /// Index of the file.
    pub file: u32,
    /// Where they start in the file.
    pub at: u64,
}

/// A needed frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FramePlan {
    /// Which.
    pub frame: Frame,
    /// The pieces of it and their places, by file, in the order of the file.
    pub pieces: Vec<Piece>,
}

/// The frames needed from one pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackPlan {
    /// Index of the pack in the snapshot.
    pub pack: usize,
    /// Frames in the pack's order.
    pub frames: Vec<FramePlan>,
}

/// The files and frames of a restore.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Files to write, in the requested order.
    pub files: Vec<FilePlan>,
    /// Packs from which frames are needed, in the order of the snapshot.
    pub packs: Vec<PackPlan>,
}

impl Plan {
    /// Stored bytes of all frames.
    pub fn stored_bytes(&self) -> u64 {
        self.packs
            .iter()
            .flat_map(|p| &p.frames)
            .map(|f| u64::from(f.frame.len))
            .sum()
    }

    /// Bytes that will be written.
    pub fn content_bytes(&self) -> u64 {
        self.files.iter().map(|f| f.content_len).sum()
    }
}

/// Plans the restore of `wanted`, which must be regular files of a closed snapshot.
///
/// Entries whose objects are missing get no pieces for them; unpacking reports them as incomplete.
pub fn plan(snapshot: &Snapshot, wanted: &[Wanted]) -> Plan {
    plan_outside(snapshot, wanted, &HashSet::new())
}

/// The same without the packs at the indexes `spent`: files get no pieces for content that only those hold.
pub fn plan_outside(snapshot: &Snapshot, wanted: &[Wanted], spent: &HashSet<usize>) -> Plan {
    let objects = snapshot.objects_outside(spent);
    let mut files = Vec::with_capacity(wanted.len());
    let mut frames: BTreeMap<(usize, u32), Vec<Piece>> = BTreeMap::new();
    for w in wanted {
        let e = snapshot.entry(w.at);
        let Kind::File { size, extents } = &e.entry.kind else {
            continue;
        };
        let file = files.len() as u32;
        files.push(FilePlan {
            path: e.entry.path.clone(),
            entry: w.at,
            size: *size,
            content_len: e.entry.kind.content_len(),
            sparse: extents.is_some(),
            check: w.check.then_some(e.content),
        });
        let mut content_at = 0;
        let mut holes = extents.as_deref().map(Holes::new);
        for o in &e.objects {
            let id = snapshot.packs[w.at.pack].toc.object(*o);
            let len = id.1;
            if let Some((pack, i)) = objects.get(&id) {
                let object = snapshot.packs[*pack].toc.objects[*i];
                let pieces = frames.entry((*pack, object.frame)).or_default();
                match &mut holes {
                    None => add(
                        pieces,
                        Piece {
                            offset: object.offset,
                            len,
                            file,
                            at: content_at,
                        },
                    ),
                    Some(holes) => holes.spread(object.offset, len, |offset, len, at| {
                        add(
                            pieces,
                            Piece {
                                offset,
                                len,
                                file,
                                at,
                            },
                        );
                    }),
                }
            }
            content_at += u64::from(len);
        }
    }
    Plan {
        files,
        packs: by_pack(snapshot, frames),
    }
}

/// Adds a piece, merged with the previous one if they are contiguous.
fn add(pieces: &mut Vec<Piece>, piece: Piece) {
    if let Some(last) = pieces.last_mut()
        && last.file == piece.file
        && last.offset + last.len == piece.offset
        && last.at + u64::from(last.len) == piece.at
    {
        last.len += piece.len;
    } else {
        pieces.push(piece);
    }
}

fn by_pack(snapshot: &Snapshot, frames: BTreeMap<(usize, u32), Vec<Piece>>) -> Vec<PackPlan> {
    let mut packs: Vec<PackPlan> = Vec::new();
    let mut places: HashMap<usize, usize> = HashMap::new();
    for ((pack, frame), pieces) in frames {
        let place = *places.entry(pack).or_insert_with(|| {
            packs.push(PackPlan {
                pack,
                frames: Vec::new(),
            });
            packs.len() - 1
        });
        let frame = snapshot.packs[pack].toc.frames[frame as usize];
        packs[place].frames.push(FramePlan { frame, pieces });
    }
    packs
}

/// Walks through the data runs of a sparse file along with its content.
struct Holes<'a> {
    runs: &'a [Extent],
    done: u64,
}

impl<'a> Holes<'a> {
    fn new(runs: &'a [Extent]) -> Self {
        Self { runs, done: 0 }
    }

    fn spread(&mut self, mut offset: u32, mut len: u32, mut each: impl FnMut(u32, u32, u64)) {
        while let Some((run, rest)) = self.runs.split_first().filter(|_| len > 0) {
            let now = u64::from(len).min(run.len - self.done) as u32;
            each(offset, now, run.offset + self.done);
            (offset, len) = (offset + now, len - now);
            self.done += u64::from(now);
            if self.done == run.len {
                (self.runs, self.done) = (rest, 0);
            }
        }
    }
}
