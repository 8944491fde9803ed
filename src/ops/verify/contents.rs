//! Contents of several objects: hashed while the packs stream past, as long as their objects arrive in order; the rest is fetched.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::{Context, Result};
use crate::{
    artifact::{
        snapshot::{Places, Snapshot},
        toc::{Frame, Object, ObjectId},
    },
    digest::{ContentHasher, ContentId},
    entry::EntryPath,
    pack::frame,
    store::ErrorKind,
    task,
};

/// The expected identity of a content, and its objects.
pub(super) type Id = (ContentId, Box<[ObjectId]>);

/// Contents in progress.
#[derive(Default)]
pub(super) struct Contents {
    items: Vec<ContentCheck>,
    /// Items, by the object that they wait for.
    waiting: HashMap<ObjectId, Vec<usize>>,
}

struct ContentCheck {
    path: EntryPath,
    id: Id,
    /// Objects that are hashed.
    next: usize,
    hasher: ContentHasher,
}

impl ContentCheck {
    fn awaits(&self) -> Option<ObjectId> {
        self.id.1.get(self.next).copied()
    }
}

impl Contents {
    /// The contents of all live entries that are more than one object, except those `known` to be intact.
    pub(super) fn of(snapshot: &Snapshot, known: &HashSet<Id>) -> Self {
        let mut contents = Self::default();
        let mut seen = HashSet::new();
        for (at, e) in snapshot.live().filter(|(_, e)| e.objects.len() > 1) {
            let objects: Box<[ObjectId]> = snapshot.object_ids(at).collect();
            let id = (e.content, objects);
            if known.contains(&id) || !seen.insert(id.clone()) {
                continue;
            }
            contents
                .waiting
                .entry(id.1[0])
                .or_default()
                .push(contents.items.len());
            contents.items.push(ContentCheck {
                path: e.entry.path.clone(),
                id,
                next: 0,
                hasher: e.content.hasher(),
            });
        }
        contents
    }

    /// Takes a decoded frame, with its intact objects in order.
    pub(super) async fn pass(&mut self, bytes: Vec<u8>, objects: Vec<Object>) {
        if self.waiting.is_empty() || !objects.iter().any(|o| self.waiting.contains_key(&o.id())) {
            return;
        }
        let mut all = std::mem::take(self);
        *self = task::blocking(move || {
            for o in &objects {
                all.object(o, &bytes[o.offset as usize..][..o.len as usize]);
            }
            all
        })
        .await;
    }

    fn object(&mut self, object: &Object, bytes: &[u8]) {
        for i in self.waiting.remove(&object.id()).unwrap_or_default() {
            let item = &mut self.items[i];
            // A segment may follow itself, as in runs of one byte.
            while item.awaits() == Some(object.id()) {
                item.hasher.update(bytes);
                item.next += 1;
            }
            if let Some(next) = item.awaits() {
                self.waiting.entry(next).or_default().push(i);
            }
        }
    }

    /// Fetches what did not arrive in order; returns the bytes read, and the wrong contents with reasons. Intact ones become `known`.
    pub(super) async fn finish(
        self,
        ctx: &Context,
        snapshot: &Snapshot,
        known: &mut HashSet<Id>,
    ) -> Result<(u64, Vec<(EntryPath, String)>)> {
        let places = snapshot.objects();
        let places = &places;
        let mut rest = stream::iter(self.items)
            .map(|item| fetch(ctx, snapshot, places, item))
            .buffered(ctx.threads.max(1));
        let (mut bytes, mut wrong) = (0, Vec::new());
        while let Some(done) = rest.next().await {
            let (item, read, why) = done?;
            bytes += read;
            match why {
                Some(why) => wrong.push((item.path, why)),
                None => {
                    known.insert(item.id);
                }
            }
        }
        Ok((bytes, wrong))
    }
}

/// Fetches the rest of a content; returns the bytes read, and its fault if any.
async fn fetch(
    ctx: &Context,
    snapshot: &Snapshot,
    places: &Places,
    mut item: ContentCheck,
) -> Result<(ContentCheck, u64, Option<String>)> {
    let mut reader = Reader::new(ctx, snapshot);
    while let Some(id) = item.awaits() {
        let found = match places.get(&id) {
            Some((pack, object)) => reader.object(*pack, *object).await?,
            None => Err("one of its objects is in no pack".to_owned()),
        };
        match found {
            Ok(bytes) => item.hasher.update(&bytes),
            Err(why) => return Ok((item, reader.bytes, Some(why))),
        }
        item.next += 1;
    }
    let right = item.hasher.clone().finish() == item.id.0;
    let why = (!right).then(|| "its content does not match its digest".to_owned());
    Ok((item, reader.bytes, why))
}

/// Reads objects one after the other; keeps the last frame, which usually holds the next object too.
pub(in crate::ops) struct Reader<'a> {
    ctx: &'a Context,
    snapshot: &'a Snapshot,
    last: Option<((usize, u32), Bytes)>,
    bytes: u64,
}

impl<'a> Reader<'a> {
    pub(in crate::ops) fn new(ctx: &'a Context, snapshot: &'a Snapshot) -> Self {
        Self {
            ctx,
            snapshot,
            last: None,
            bytes: 0,
        }
    }

    /// The bytes of an object, or why the pack does not hold it.
    ///
    /// # Errors
    /// When the store cannot be asked.
    pub(in crate::ops) async fn object(
        &mut self,
        pack: usize,
        object: usize,
    ) -> Result<std::result::Result<Bytes, String>> {
        let toc = &self.snapshot.packs[pack].toc;
        let o = toc.objects[object];
        let key = (pack, o.frame);
        let decoded = match &self.last {
            Some((last, bytes)) if *last == key => bytes.clone(),
            _ => match self.frame(pack, toc.frames[o.frame as usize]).await? {
                Ok(bytes) => {
                    self.last = Some((key, bytes.clone()));
                    bytes
                }
                Err(why) => return Ok(Err(why)),
            },
        };
        if !frame::holds(&decoded, &o) {
            return Ok(Err(format!("its object {} is damaged", o.content)));
        }
        let from = o.offset as usize;
        Ok(Ok(decoded.slice(from..from + o.len as usize)))
    }

    async fn frame(
        &mut self,
        pack: usize,
        wanted: Frame,
    ) -> Result<std::result::Result<Bytes, String>> {
        let desc = &self.snapshot.packs[pack].layer.descriptor;
        let range = wanted.offset..wanted.offset + u64::from(wanted.len);
        let stored = match self.ctx.store.get(desc, range).await {
            Ok(Some(stream)) => crate::store::collect(stream, wanted.len.into()).await,
            Ok(None) => return Ok(Err(format!("pack {} is missing", desc.digest))),
            Err(e) => Err(e),
        };
        let stored = match stored {
            Ok(stored) => stored,
            Err(e) if e.kind == ErrorKind::Corrupt => {
                return Ok(Err(format!("pack {}: {}", desc.digest, e.message)));
            }
            Err(e) => return Err(e.into()),
        };
        self.bytes += stored.len() as u64;
        let decoded = task::blocking(move || frame::decode(&wanted, &stored)).await;
        Ok(decoded
            .map(Bytes::from)
            .map_err(|why| format!("a frame of pack {} {why}", desc.digest)))
    }
}
