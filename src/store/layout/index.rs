//! `index.json` of an image layout: cachectl's entries, among entries of other tools that are kept unchanged.
//!
//! Format: OCI image spec, `image-layout.md` and `image-index.md`.

use serde_json::{Map, Value, json};

use crate::{
    artifact::{Descriptor, Tag, annotations, media},
    digest::Digest,
    store::{
        by_tags::names::tells_of,
        error::{Error, Result},
        keys,
    },
};

/// The annotation with containerd's name for an image; entries with it are not ours to replace.
const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Maximum memory of a document; enough for some 70,000 entries of ours.
const MAX_WEIGHT: u64 = 256 << 20;

/// Largest document that is read.
pub(super) const MAX_INDEX_BYTES: u64 = 64 << 20;

/// Writers keep this much below both limits, for entries that are replaced by longer ones.
const ROOM_BYTES: u64 = 4 << 20;

/// An estimate, or upper bound, of a document's memory as a tree: three bytes of JSON may become seven hundred.
pub(super) fn weight(bytes: &[u8]) -> u64 {
    let of_one = |b: &u8| match b {
        b'{' => 700,
        b'[' | b',' => 150,
        _ => 1,
    };
    bytes.iter().map(of_one).sum()
}

/// Describes the problem if reading a document may take more memory than `limit`.
fn check_weight(bytes: &[u8], limit: u64) -> std::result::Result<(), String> {
    let weight = weight(bytes);
    if weight <= limit {
        return Ok(());
    }
    let (takes, limit) = (weight >> 20, limit >> 20);
    Err(format!(
        "reading it may take {takes} MB of memory, more than the limit of {limit} MB"
    ))
}

/// The document.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Index(Map<String, Value>);

impl Index {
    /// A document without entries.
    pub(super) fn empty() -> Self {
        let doc = json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE_INDEX,
            "manifests": [],
        });
        match doc {
            Value::Object(map) => Self(map),
            _ => Self(Map::new()),
        }
    }

    /// Parses a document.
    ///
    /// # Errors
    /// `Corrupt` if it is not an index at all, or takes too much memory. Invalid entries are kept and ignored.
    pub(super) fn parse(op: &'static str, bytes: &[u8]) -> Result<Self> {
        let refused =
            |why: String| Error::corrupt(op, format!("`index.json` is not an image index: {why}"));
        if let Err(why) = check_weight(bytes, MAX_WEIGHT) {
            return Err(refused(why));
        }
        let mut map: Map<String, Value> =
            serde_json::from_slice(bytes).map_err(|e| refused(e.to_string()))?;
        match map.entry("manifests").or_insert_with(|| json!([])) {
            Value::Array(_) => Ok(Self(map)),
            // Go's encoding of an empty list.
            none @ Value::Null => {
                *none = json!([]);
                Ok(Self(map))
            }
            _ => Err(refused("its `manifests` is not a list".to_owned())),
        }
    }

    /// Its bytes, which every reader accepts. `before` is the document that it replaces; a document that is not longer is
    /// always written.
    ///
    /// # Errors
    /// `Full` if another entry would leave readers too little room.
    pub(super) fn encode(&self, op: &'static str, before: &Self) -> Result<Vec<u8>> {
        let bytes = serde_json::to_vec(&self.0).expect("a JSON document always encodes");
        if self.entries().len() <= before.entries().len() {
            return Ok(bytes);
        }
        let too_long = || format!("{} bytes exceed the limit", bytes.len());
        let is_short = (bytes.len() as u64) < MAX_INDEX_BYTES - ROOM_BYTES;
        let fits = is_short.then_some(()).ok_or_else(too_long);
        let fits = fits.and_then(|()| check_weight(&bytes, MAX_WEIGHT - ROOM_BYTES));
        fits.map_err(|why| {
            let why = format!("`index.json` has no space for another entry ({why}): prune the layout, or use a store of type disk:");
            Error::full( op, why)
        })?;
        Ok(bytes)
    }

    fn entries(&self) -> &[Value] {
        self.0
            .get("manifests")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice)
    }

    fn entries_mut(&mut self) -> Option<&mut Vec<Value>> {
        self.0.get_mut("manifests").and_then(Value::as_array_mut)
    }

    /// What a tag points at: an entry with just that name, else one that also has it as its containerd name.
    pub(super) fn find(&self, tag: &Tag) -> Option<Descriptor> {
        let named = || {
            self.entries()
                .iter()
                .filter(|e| ref_name(e) == Some(tag.as_str()))
        };
        let containerd = self
            .entries()
            .iter()
            .filter(|e| annotation(e, CONTAINERD_NAME) == Some(tag.as_str()));
        named()
            .filter(|e| annotation(e, CONTAINERD_NAME).is_none())
            .chain(containerd)
            .chain(named())
            .find_map(descriptor)
    }

    /// The media type of a digest according to its entry.
    pub(super) fn media_type(&self, digest: &Digest) -> Option<String> {
        let mut all = self.entries().iter().filter_map(descriptor);
        all.find(|d| d.digest == *digest).map(|d| d.media_type)
    }

    /// All names that are tags and start with `prefix`, sorted, unique.
    pub(super) fn tags(&self, prefix: &str) -> Vec<Tag> {
        let names = self
            .entries()
            .iter()
            .filter(|e| descriptor(e).is_some())
            .filter_map(ref_name);
        let mut tags: Vec<Tag> = names
            .filter(|n| keys::is_listed(n, prefix))
            .filter_map(|n| n.parse().ok())
            .collect();
        tags.sort_unstable();
        tags.dedup();
        tags
    }

    /// Digests of all entries, ours and those of other tools.
    ///
    /// # Errors
    /// `Corrupt` for an entry without one: its needs are unknown.
    pub(super) fn roots(&self, op: &'static str) -> Result<Vec<Digest>> {
        let refused = || {
            Error::corrupt(
                op,
                "an entry of `index.json` has no valid digest; remove it first",
            )
        };
        self.entries()
            .iter()
            .map(|e| {
                e.get("digest")
                    .and_then(Value::as_str)
                    .and_then(|d| d.parse().ok())
                    .ok_or_else(refused)
            })
            .collect()
    }

    /// Makes `tag` point at `desc`; entries named by containerd are left alone, as BuildKit does.
    pub(super) fn set(&mut self, tag: &Tag, desc: &Descriptor) {
        let mut desc = desc.clone();
        desc.annotations
            .insert(annotations::REF_NAME.to_owned(), tag.to_string());
        let entry = serde_json::to_value(&desc).expect("a descriptor always encodes");
        if let Some(entries) = self.entries_mut() {
            entries.retain(|e| {
                ref_name(e) != Some(tag.as_str()) || annotation(e, CONTAINERD_NAME).is_some()
            });
            entries.push(entry);
        }
    }

    /// Removes the records that only say that a manifest with this digest exists.
    pub(super) fn forget(&mut self, digest: &Digest) {
        if let Some(entries) = self.entries_mut() {
            entries.retain(|e| {
                let tag: Option<Tag> = ref_name(e).and_then(|n| n.parse().ok());
                !tag.is_some_and(|tag| tells_of(&tag, digest))
            });
        }
    }

    /// Removes every entry with that name; returns whether there was one.
    pub(super) fn remove(&mut self, tag: &Tag) -> bool {
        let Some(entries) = self.entries_mut() else {
            return false;
        };
        let before = entries.len();
        entries.retain(|e| ref_name(e) != Some(tag.as_str()));
        entries.len() < before
    }
}

fn annotation<'e>(entry: &'e Value, key: &str) -> Option<&'e str> {
    entry
        .get("annotations")?
        .get(key)?
        .as_str()
        .filter(|v| !v.is_empty())
}

fn ref_name(entry: &Value) -> Option<&str> {
    annotation(entry, annotations::REF_NAME)
}

fn descriptor(entry: &Value) -> Option<Descriptor> {
    serde_json::from_value(entry.clone()).ok()
}

/// The digests that a manifest or index names, and whether each may be a manifest itself.
///
/// `None` if the bytes are not such a document.
pub(super) fn children(bytes: &[u8]) -> Option<Vec<(Digest, bool)>> {
    let doc: Map<String, Value> = serde_json::from_slice(bytes).ok()?;
    let one = |key: &'static str, may: bool| doc.get(key).into_iter().map(move |d| (d, may));
    let many = |key: &'static str, may: bool| {
        let list = doc.get(key).and_then(Value::as_array);
        list.into_iter().flatten().map(move |d| (d, may))
    };
    // `blobs` belongs to the artifact manifest, which the image spec had for a while.
    let named = one("config", false)
        .chain(one("subject", true))
        .chain(many("layers", false))
        .chain(many("blobs", false))
        .chain(many("manifests", true));
    let digest = |d: &Value| d.get("digest")?.as_str()?.parse().ok();
    Some(
        named
            .filter_map(|(d, may)| Some((digest(d)?, may)))
            .collect(),
    )
}
