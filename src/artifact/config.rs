//! The config of a snapshot: its identity, where it is usable, and which entries of its packs are live.

use std::{collections::BTreeMap, io::Read as _};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use serde::{Deserialize, Serialize};

use super::{
    bounded, version,
    wire::{Malformed, Reader, Result, Writer, bad},
};
use crate::digest::Digest;

/// The version that is written and read.
pub const FORMAT_VERSION: u32 = 2;
/// A manifest with more layers, and a config with more packs, is refused on reading; we write 127 at most.
pub const MAX_LAYERS_READ: usize = 4096;
/// Largest config that we read.
pub const MAX_CONFIG_BYTES: u64 = 32 << 20;
/// Maximum number of features, gates and traits of a config.
const MAX_TEXTS: usize = 10_000;
/// Maximum bytes of all gates, or of all traits: enough for thousands of Go releases.
const MAX_FINGERPRINT_BYTES: usize = 64 << 10;
/// Approximate overhead of a text besides its own bytes.
const TEXT_BYTES: usize = 16;
/// Maximum number of side tags in a config: one per second for about seven days.
const MAX_FOLDED: usize = 700_000;
/// Features that this program understands when a config requires them.
const FEATURES: [&str; 0] = [];

/// Where a snapshot is usable.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Fingerprint {
    /// The snapshot is usable if one of these holds (Go releases); empty: everywhere. Sorted, unique.
    #[serde(
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::list::<MAX_TEXTS, _, _>"
    )]
    pub gates: Vec<String>,
    /// The more of these match, the better.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "bounded::map::<MAX_TEXTS, _>"
    )]
    pub traits: BTreeMap<String, String>,
}

impl Fingerprint {
    /// Adds gates; the result is sorted and unique.
    pub fn add_gates(&mut self, gates: impl IntoIterator<Item = String>) {
        self.gates.extend(gates);
        self.gates.sort();
        self.gates.dedup();
        self.bound();
    }

    /// Drops lists that are longer than those of any honest writer: without gates a snapshot is tried everywhere, and without
    /// traits it gets no preference. Folding accumulates gates, so their number alone must not make a snapshot unreadable.
    pub fn bound(&mut self) {
        let gates: usize = self.gates.iter().map(|g| g.len() + TEXT_BYTES).sum();
        if gates > MAX_FINGERPRINT_BYTES {
            self.gates = Vec::new();
        }
        let of_trait = |(k, v): (&String, &String)| k.len() + v.len() + 2 * TEXT_BYTES;
        let traits: usize = self.traits.iter().map(of_trait).sum();
        if traits > MAX_FINGERPRINT_BYTES {
            self.traits = BTreeMap::new();
        }
    }
}

/// One pack's part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PackState {
    /// The layer.
    pub digest: Digest,
    /// Entries in its table of contents, live and dead.
    pub entries: u64,
    /// `all`, or a bitmap (bit `i % 8` of byte `i / 8`), zstd, base64: which entries are live.
    pub live: String,
    /// Days of last use of the live entries, in order: a base, then differences, varints, zstd, base64; empty: not recorded.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub days: String,
}

/// A side tag that a snapshot contains, or the mark of a replacement ([`super::fold::replaced`]).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Folded {
    /// The side tag.
    pub tag: String,
    /// Day (UTC, from 1970) on which it was folded.
    pub day: u32,
    /// Nothing was taken from it, since it claimed a time in the future or was empty; so it is ignored when determining the
    /// latest side tag.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub refused: bool,
}

impl Folded {
    /// A side tag that was folded on `day`.
    pub fn new(tag: impl Into<String>, day: u32) -> Self {
        Self {
            tag: tag.into(),
            day,
            refused: false,
        }
    }
}

/// The document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Config {
    /// Version of this document and of the packs.
    pub format_version: u32,
    /// Features that a reader must support; a reader that does not treats the snapshot as a miss.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::list::<MAX_TEXTS, _, _>"
    )]
    pub required_features: Vec<String>,
    /// `gobuild`, `gomod`, `dir`.
    pub kind: String,
    /// Full name.
    pub name: String,
    /// Scope.
    pub scope: String,
    /// Key; empty for the head.
    pub key: String,
    /// Where it is usable.
    pub fingerprint: Fingerprint,
    /// Live entries.
    pub entries: u64,
    /// Bytes of their contents.
    pub bytes: u64,
    /// In the order of the manifest's layers.
    #[serde(deserialize_with = "bounded::list::<MAX_LAYERS_READ, _, _>")]
    pub packs: Vec<PackState>,
    /// A folder exported with `--merge`: its paths replace those of the head, the rest stays.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub merge: bool,
    /// Side tags that it contains; sorted, of the last 7 days.
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "bounded::list::<MAX_FOLDED, _, _>"
    )]
    pub folded: Vec<Folded>,
    /// The carried folder itself (`dir`); absent in snapshots of older programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootMeta>,
}

/// Metadata of the carried folder itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootMeta {
    /// Permission bits, as of entries.
    pub mode: u32,
    /// Time of change: seconds since 1970, nanoseconds.
    pub mtime: (i64, u32),
}

impl Config {
    /// The stored form: JSON with the fields in the order above.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("strings and numbers can always be written")
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// When it is not a config, has a later version, or requires a feature that this program does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Head {
            format_version: u32,
            #[serde(default, deserialize_with = "bounded::list::<MAX_TEXTS, _, _>")]
            required_features: Vec<String>,
        }
        // Check the version first: a later one may have changed everything else.
        let head: Head =
            serde_json::from_slice(bytes).map_err(|e| Malformed(format!("config: {e}")))?;
        if head.format_version != FORMAT_VERSION {
            return bad(version::refusal(
                head.format_version.into(),
                FORMAT_VERSION.into(),
            ));
        }
        if let Some(f) = head
            .required_features
            .iter()
            .find(|f| !FEATURES.contains(&f.as_str()))
        {
            return bad(format!(
                "it requires `{f}`, which this program does not know: update cachectl"
            ));
        }
        serde_json::from_slice(bytes).map_err(|e| Malformed(format!("config: {e}")))
    }
}

/// Encodes which entries are live.
pub fn encode_live(live: &[bool]) -> String {
    if live.iter().all(|l| *l) {
        return "all".to_owned();
    }
    let mut bitmap = vec![0_u8; live.len().div_ceil(8)];
    for (i, _) in live.iter().enumerate().filter(|(_, l)| **l) {
        bitmap[i / 8] |= 1 << (i % 8);
    }
    squeeze(&bitmap)
}

/// Decodes which of `count` entries are live.
pub fn decode_live(text: &str, count: usize) -> Result<Vec<bool>> {
    if text == "all" {
        return Ok(vec![true; count]);
    }
    let bitmap = unsqueeze(text, count.div_ceil(8))?;
    if bitmap.len() != count.div_ceil(8) {
        return bad("the bitmap of live entries has another length than the pack");
    }
    Ok((0..count)
        .map(|i| bitmap[i / 8] >> (i % 8) & 1 == 1)
        .collect())
}

/// Encodes the days of the live entries, in order.
pub fn encode_days(days: &[u32]) -> String {
    let Some(base) = days.iter().min() else {
        return String::new();
    };
    let mut w = Writer::default();
    w.num((*base).into());
    for day in days {
        w.num(u64::from(day - base));
    }
    squeeze(&w.0)
}

/// Decodes the days of `count` live entries; all 0 if none are recorded.
pub fn decode_days(text: &str, count: usize) -> Result<Vec<u32>> {
    if text.is_empty() {
        return Ok(vec![0; count]);
    }
    let bytes = unsqueeze(text, 5 * (count + 1))?;
    let mut r = Reader::new(&bytes);
    let base = r.num32()?;
    let days = (0..count)
        .map(|_| {
            base.checked_add(r.num32()?)
                .map_or_else(|| bad("invalid day of use"), Ok)
        })
        .collect::<Result<_>>()?;
    if r.left() > 0 {
        bad("there are more days of use than live entries")
    } else {
        Ok(days)
    }
}

fn squeeze(bytes: &[u8]) -> String {
    STANDARD_NO_PAD.encode(zstd::bulk::compress(bytes, 3).expect("a valid level and enough memory"))
}

fn unsqueeze(text: &str, limit: usize) -> Result<Vec<u8>> {
    let packed = STANDARD_NO_PAD
        .decode(text)
        .map_err(|e| Malformed(format!("base64: {e}")))?;
    let zstd_error = |e: std::io::Error| Malformed(format!("zstd: {e}"));
    let mut decoder =
        zstd::stream::read::Decoder::with_buffer(packed.as_slice()).map_err(zstd_error)?;
    decoder.window_log_max(27).map_err(zstd_error)?;
    let mut bytes = Vec::new();
    decoder
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(zstd_error)?;
    if bytes.len() > limit {
        bad("it decodes to more than the limit")
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_config_of_another_version_or_with_unknown_features_is_refused_with_advice() {
        for (text, advice) in [
            (
                r#"{"formatVersion":3,"kind":{"other":"shape"}}"#,
                "update cachectl",
            ),
            (
                r#"{"formatVersion":2,"requiredFeatures":["delta-frames"]}"#,
                "update cachectl",
            ),
            (r#"{"formatVersion":1}"#, "the next export replaces it"),
        ] {
            let why = Config::decode(text.as_bytes()).unwrap_err().to_string();
            assert!(why.contains(advice), "{text}: {why}");
        }
    }

    #[test]
    fn a_bitmap_of_another_length_is_refused() {
        let text = encode_live(&[true, false, true]);
        assert!(decode_live(&text, 30).is_err());
        assert_eq!(decode_live("all", 3).unwrap(), [true; 3]);
    }

    proptest! {
        #[test]
        fn live_and_days_round_trip(live in proptest::collection::vec(any::<bool>(), 0..300), base in 0_u32..50_000) {
            prop_assert_eq!(&decode_live(&encode_live(&live), live.len()).unwrap(), &live);
            let days: Vec<u32> = live.iter().enumerate().map(|(i, l)| base + u32::from(*l) * i as u32).collect();
            let text = encode_days(&days);
            prop_assert_eq!(&decode_days(&text, days.len()).unwrap(), &days);
            if !days.is_empty() {
                prop_assert!(decode_days(&text, days.len() + 1).is_err());
            }
        }
    }
}
