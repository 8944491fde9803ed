//! Finds what a scan has and a snapshot lacks: by metadata where the node index or a file name proves it, otherwise by hashing.

use std::{cell::OnceCell, collections::HashSet, path::PathBuf};

use super::LeftOut;
use crate::{
    artifact::{
        snapshot::{At, Places, Snapshot},
        toc::TocEntry,
    },
    digest::{ContentHasher, ContentId},
    entry::Kind,
    pack::item::{ContentPlan, PackItem},
    source::{Item, Known, KnownContent, Source, SourceKind},
};

/// Where the content to pack is read from.
#[derive(Debug, Clone)]
pub enum From {
    /// In the cache itself, as it was scanned.
    Scanned,
    /// In the cache itself.
    Item(Box<Item>),
    /// In a fetched file.
    File(PathBuf),
}

/// An item to pack.
#[derive(Debug, Clone)]
pub struct New {
    /// Index in the scan, if it comes from the scan.
    pub item: Option<usize>,
    /// Where its content is.
    pub from: From,
    /// What is handed to the packer.
    pub pack: PackItem,
}

/// The outcome.
#[derive(Debug, Default)]
pub struct Diff {
    /// Items that the snapshot already has unchanged: index in the scan, and location.
    pub kept: Vec<(usize, At)>,
    /// Those of them whose content nobody read: nothing proves that it is that of the snapshot.
    pub unread: HashSet<usize>,
    /// Items to be packed, in the order of packing.
    pub new: Vec<New>,
    /// Items that cannot be exported.
    pub left_out: Vec<LeftOut>,
}

enum Verdict {
    Keep(At),
    /// The snapshot has what the item should be; whether it is that need not be known to keep the snapshot's.
    KeepUnread(At),
    New(ContentPlan),
    /// The snapshot has a file of the same length under that path: only hashing can tell.
    Hash(At),
    LeftOut(String),
}

/// Compares `items` with `base` (closed); completes the items that are new. Blocks; reads contents only where no metadata proves them.
pub fn diff(
    source: &dyn Source,
    items: &mut [Item],
    base: Option<&Snapshot>,
    known: &dyn Known,
    threads: usize,
) -> Diff {
    debug_assert!(items.is_sorted_by(|a, b| a.entry.path < b.entry.path));
    let judge = Judge {
        source,
        base,
        objects: OnceCell::new(),
        known,
    };
    let mut stored = InOrder::new(base);
    let mut out = Diff::default();
    let mut hash = Vec::new();
    for (i, item) in items.iter_mut().enumerate() {
        let held = stored.at(item.entry.path.as_bytes());
        let verdict = judge.verdict(item, held);
        if matches!(verdict, Verdict::KeepUnread(_)) {
            out.unread.insert(i);
        }
        match verdict {
            Verdict::Keep(at) | Verdict::KeepUnread(at) => {
                // One copy of the path suffices.
                if let Some((_, stored)) = held {
                    item.entry.path = stored.entry.path.clone();
                }
                out.kept.push((i, at));
            }
            Verdict::New(content) => out.new.push(new(i, item, content)),
            Verdict::Hash(at) => hash.push((i, at)),
            // No need to report it.
            Verdict::LeftOut(why) if why.is_empty() => {}
            Verdict::LeftOut(why) => out.left_out.push(LeftOut {
                what: item.entry.path.to_string(),
                why,
            }),
        }
    }
    drop(stored);
    let items = &*items;
    for ((i, at), content) in hash.iter().zip(hash_all(source, items, &hash, threads)) {
        let item = &items[*i];
        match (base, content) {
            (Some(base), Some(content)) if base.entry(*at).content == content => {
                if judge.same_meta(base.entry(*at), item) {
                    out.kept.push((*i, *at));
                } else {
                    out.new.push(new(*i, item, kept_content(base, *at)));
                }
            }
            // The packer may still read what cannot be read now, and reports why not.
            _ => out.new.push(new(*i, item, ContentPlan::Read)),
        }
    }
    sort(source.kind(), items, &mut out.new);
    out
}

fn new(i: usize, item: &Item, content: ContentPlan) -> New {
    New {
        item: Some(i),
        from: From::Scanned,
        pack: PackItem {
            entry: item.entry.clone(),
            claim: item.claim,
            content,
        },
    }
}

/// Go's build cache by modification time, which keeps outputs of one build together; everything else by path.
fn sort(kind: SourceKind, items: &[Item], new: &mut [New]) {
    match kind {
        SourceKind::GoBuild => new.sort_by(|a, b| {
            let key = |n: &New| {
                crate::source::gobuild::pack_order_key(&items[n.item.unwrap_or_default()])
            };
            key(a).cmp(&key(b))
        }),
        _ => new.sort_by_key(|n| n.item),
    }
}

/// The live entries of a closed snapshot, looked up by paths in ascending order.
struct InOrder<'a> {
    base: Option<&'a Snapshot>,
    rest: std::iter::Peekable<std::vec::IntoIter<At>>,
}

impl<'a> InOrder<'a> {
    fn new(base: Option<&'a Snapshot>) -> Self {
        let all = base.map(Snapshot::live_by_path).unwrap_or_default();
        Self {
            base,
            rest: all.into_iter().peekable(),
        }
    }

    /// The entry at `path`, which must not sort before the path of the last call.
    fn at(&mut self, path: &[u8]) -> Option<(At, &'a TocEntry)> {
        let base = self.base?;
        let before = |at: &At| base.entry(*at).entry.path.as_bytes() < path;
        while self.rest.next_if(before).is_some() {}
        let at = *self.rest.peek()?;
        let held = base.entry(at);
        (held.entry.path.as_bytes() == path).then_some((at, held))
    }
}

struct Judge<'a> {
    source: &'a dyn Source,
    base: Option<&'a Snapshot>,
    /// Where the objects of `base` are; only content whose path `base` does not have needs it.
    objects: OnceCell<Places>,
    known: &'a dyn Known,
}

impl Judge<'_> {
    fn objects(&self) -> &Places {
        let all = || self.base.map(Snapshot::objects).unwrap_or_default();
        self.objects.get_or_init(all)
    }

    fn verdict(&self, item: &mut Item, held: Option<(At, &TocEntry)>) -> Verdict {
        let known = if item.entry.kind.is_file() {
            self.known.content(&item.entry.path, &item.stat)
        } else {
            None
        };
        if let (Some((at, held)), Some(known)) = (held, known)
            && held.content == known.content
            && held.entry.kind.content_len() == known.len
            && (!item.complete || self.same_meta(held, item))
        {
            return Verdict::Keep(at);
        }
        if !item.complete
            && let Err(why) = self.source.complete(item)
        {
            return Verdict::LeftOut(why);
        }
        if item.entry.kind.content_len() == 0 {
            return match held {
                Some((at, held)) if self.same_meta(held, item) => Verdict::Keep(at),
                _ => Verdict::New(ContentPlan::None),
            };
        }
        match (held, known) {
            (Some((at, held)), _) if item.claim == Some(held.content) && same_len(held, item) => {
                Verdict::KeepUnread(at)
            }
            (Some((at, held)), _) if item.entry.needs.is_some() => {
                // An action entry is defined by its id, output and time; of two, the later one counts.
                if (held.entry.meta.mtime, &held.entry.needs)
                    >= (item.entry.meta.mtime, &item.entry.needs)
                {
                    Verdict::KeepUnread(at)
                } else {
                    Verdict::New(ContentPlan::Read)
                }
            }
            (_, Some(known)) => Verdict::New(self.content_of(held, known)),
            (Some((at, held)), None) if item.claim.is_none() && same_len(held, item) => {
                Verdict::Hash(at)
            }
            _ => Verdict::New(ContentPlan::Read),
        }
    }

    /// The content is known: the packs may hold it, under this path or another.
    fn content_of(&self, held: Option<(At, &TocEntry)>, known: KnownContent) -> ContentPlan {
        if let (Some((at, held)), Some(base)) = (held, self.base)
            && held.content == known.content
        {
            return kept_content(base, at);
        }
        match u32::try_from(known.len) {
            Ok(len) if self.objects().contains_key(&(known.content, len)) => ContentPlan::Kept {
                content: known.content,
                objects: vec![(known.content, len)],
            },
            _ => ContentPlan::Read,
        }
    }

    fn same_meta(&self, held: &TocEntry, item: &Item) -> bool {
        if self.source.kind().is_go() {
            held.entry.kind == item.entry.kind
        } else {
            held.entry == item.entry
        }
    }
}

fn same_len(held: &TocEntry, item: &Item) -> bool {
    held.entry.kind == item.entry.kind
}

/// The content of an entry, to be reused for an entry with the same content.
fn kept_content(base: &Snapshot, at: At) -> ContentPlan {
    let toc = &base.packs[at.pack].toc;
    let e = base.entry(at);
    ContentPlan::Kept {
        content: e.content,
        objects: e.objects.iter().map(|o| toc.object(*o)).collect(),
    }
}

/// The identity of each item's content, in order; `None` if it could not be read.
fn hash_all(
    source: &dyn Source,
    items: &[Item],
    which: &[(usize, At)],
    threads: usize,
) -> Vec<Option<ContentId>> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    let mut found: Vec<Option<ContentId>> = vec![None; which.len()];
    let work = || {
        let mut mine = Vec::new();
        loop {
            let i = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let Some((item, _)) = which.get(i) else {
                return mine;
            };
            mine.push((i, hash_one(source, &items[*item])));
        }
    };
    let all: Vec<_> = std::thread::scope(|scope| {
        let spawned: Vec<_> = (0..threads.clamp(1, which.len().max(1)))
            .map(|_| scope.spawn(work))
            .collect();
        let joined = spawned
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|e| std::panic::resume_unwind(e)));
        joined.flatten().collect()
    });
    for (i, content) in all {
        found[i] = content;
    }
    found
}

fn hash_one(source: &dyn Source, item: &Item) -> Option<ContentId> {
    let Kind::File { .. } = item.entry.kind else {
        return None;
    };
    let mut content = source.open(item).ok()?;
    let mut hasher = ContentHasher::blake3();
    let mut buffer = vec![0; 256 << 10];
    let mut len = 0;
    loop {
        match content.read(&mut buffer).ok()? {
            0 => break,
            n => {
                hasher.update(&buffer[..n]);
                len += n as u64;
            }
        }
    }
    content.settle().ok()?;
    (len == item.entry.kind.content_len()).then(|| hasher.finish())
}
