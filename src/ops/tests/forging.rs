//! Packs that cachectl never writes, under digests that match anyway.

use super::{looking::name_of, *};
use crate::{
    artifact::{
        Tag,
        snapshot::{Layer, Snapshot, TocPlace},
        toc::{Frame, Toc},
    },
    digest::{ContentId, Sha256},
    entry::Time,
    ops::load,
    store::{BlobStore as _, Body, Expect, TagStore as _},
};

/// The parts of a pack that may be changed.
pub(super) struct Forged {
    /// Its table of contents.
    pub(super) toc: Toc,
    /// Its frames.
    pub(super) frames: Vec<u8>,
    /// Bytes to be replaced in the stored table of contents: what [`Toc`] cannot even express.
    pub(super) patches: Vec<(&'static [u8], Vec<u8>)>,
}

impl Forged {
    /// Makes `stored` the only frame of the pack, listed as decoding to `raw_len` bytes.
    pub(super) fn one_frame(&mut self, stored: Vec<u8>, raw_len: u32) {
        self.toc.frames = vec![Frame {
            offset: 0,
            len: stored.len() as u32,
            raw_len,
            hash: ContentId::of(&stored),
        }];
        self.frames = stored;
    }

    /// Frames with bytes other than the table lists, of the right lengths.
    pub(super) fn other_bytes(&mut self) {
        self.other_frames(|len| vec![7; len]);
    }

    /// Frames that match the table's hashes, made from what `bytes` returns for their listed decoded length.
    pub(super) fn other_frames(&mut self, bytes: impl Fn(usize) -> Vec<u8>) {
        self.frames.clear();
        for frame in &mut self.toc.frames {
            let stored = zstd::bulk::compress(&bytes(frame.raw_len as usize), 1).unwrap();
            frame.offset = self.frames.len() as u64;
            frame.len = stored.len() as u32;
            frame.hash = ContentId::of(&stored);
            self.frames.extend(stored);
        }
    }

    fn stored_toc(&self) -> Vec<u8> {
        let stored = self.toc.encode();
        if self.patches.is_empty() {
            return stored;
        }
        let (head, packed) = stored.split_at(5);
        let mut payload = zstd::stream::decode_all(packed).unwrap();
        for (from, to) in &self.patches {
            assert_eq!(from.len(), to.len());
            let at = payload.windows(from.len()).position(|w| w == *from);
            let at = at.expect("the bytes to be replaced are in the table of contents");
            payload[at..at + to.len()].copy_from_slice(to);
        }
        [head, &zstd::bulk::compress(&payload, 1).unwrap()].concat()
    }
}

/// Publishes the snapshot of the head `n` with its first pack changed.
pub(super) async fn forge(world: &World, node: &Context, change: impl FnOnce(&mut Forged)) {
    forge_kind(world, node, "dir", change).await;
}

/// The same for another kind.
pub(super) async fn forge_kind(
    world: &World,
    node: &Context,
    kind: &str,
    change: impl FnOnce(&mut Forged),
) {
    let mut name = name_of("n", "");
    name.kind = kind.to_owned();
    forge_tag(world, node, kind, &name.tag(), change).await;
}

/// The same under another tag.
pub(super) async fn forge_tag(
    world: &World,
    node: &Context,
    kind: &str,
    under: &Tag,
    change: impl FnOnce(&mut Forged),
) {
    let memory = &world.memory;
    let mut name = name_of("n", "");
    name.kind = kind.to_owned();
    let tag = name.tag();
    let head = memory.resolve(&tag.clone().into()).await;
    let manifest = head.unwrap().unwrap().manifest;
    let known = std::collections::HashSet::default();
    let loaded = load::load(node, &manifest, &known).await.unwrap().unwrap();
    let mut snapshot: Snapshot = loaded.snapshot;
    let pack = &mut snapshot.packs[0];
    let desc = pack.layer.descriptor.clone();
    let frames = pack.layer.toc.offset - 8;
    let stored = memory.get(&desc, 0..frames).await.unwrap().unwrap();
    let mut forged = Forged {
        toc: (*pack.toc).clone(),
        frames: crate::store::collect(stored, frames)
            .await
            .unwrap()
            .to_vec(),
        patches: Vec::new(),
    };
    change(&mut forged);
    let toc = forged.stored_toc();
    let mut bytes = forged.frames;
    let place = TocPlace {
        digest: Digest::sha256_of(&toc),
        offset: bytes.len() as u64 + 8,
        size: toc.len() as u64,
    };
    let mut footer = place.offset.to_le_bytes().to_vec();
    footer.extend(place.size.to_le_bytes());
    footer.extend(Sha256::of(&toc).0);
    footer.extend(b"cachectl");
    for part in [&toc, &footer] {
        bytes.extend(0x184D_2A5C_u32.to_le_bytes());
        bytes.extend((part.len() as u32).to_le_bytes());
        bytes.extend(part);
    }
    pack.layer = Layer::new(Digest::sha256_of(&bytes), bytes.len() as u64, place);
    pack.live = vec![true; forged.toc.entries.len()];
    pack.days = vec![0; forged.toc.entries.len()];
    pack.toc = Arc::new(forged.toc);
    let put = async |desc, bytes: Vec<u8>| {
        memory.put(desc, &Body::Bytes(bytes.into())).await.unwrap();
    };
    let desc = pack.layer.descriptor.clone();
    put(&desc, bytes).await;
    let sealed = snapshot.seal(Time::now());
    put(&sealed.config, sealed.config_bytes.clone()).await;
    memory
        .publish(&sealed.manifest, Some(under), &Expect::Anything)
        .await
        .unwrap();
}
