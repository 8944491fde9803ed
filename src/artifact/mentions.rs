//! Every digest that occurs anywhere in a document: a sweep must keep all of them, whatever the type of the document.

use std::{collections::HashMap, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{Manifest, media, outline::Outline};
use crate::digest::Digest;

/// How a document mentions a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mention {
    /// As a complete string, anywhere.
    Text,
    /// In the descriptor of a manifest, which must be read too.
    Manifest,
    /// In the descriptor of JSON of another type, which may be a manifest of an unknown type.
    Document,
}

/// Reads a document of any type and calls `note` for every mention; one may be reported several times, and a manifest also as
/// text. It accepts the same JSON as `serde_json::Value` (128 levels, valid text, finite numbers) and stores none of it.
///
/// # Errors
/// A message, when the document is not JSON; earlier mentions have been reported by then.
pub fn read(bytes: &[u8], note: &mut dyn FnMut(Digest, Mention)) -> Result<(), String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let walk = Walk { note, keeps: false };
    let read = walk.deserialize(&mut json).and_then(|_| json.end());
    read.map_err(|e| format!("it is not JSON: {e}"))
}

/// Calls `note` for everything that a document may mention if [`read`] cannot read it: each `sha256:<hex>` and `sha512:<hex>` in
/// its bytes, and everything that a reader which ignores unknown fields finds in it. Never fails, and rather reports too much.
pub fn guess(bytes: &[u8], note: &mut dyn FnMut(Digest, Mention)) {
    let manifest = Manifest::new(media::IMAGE_MANIFEST, bytes.to_vec());
    let named = Outline::of_stored(&manifest).map_or_else(|_| Vec::new(), |outline| outline.named);
    let mut known = HashMap::new();
    for named in named {
        let mention = if media::is_manifest(&named.media_type) {
            Mention::Manifest
        } else if named.media_type.contains("json") {
            Mention::Document
        } else {
            Mention::Text
        };
        known.insert(named.digest, mention);
    }
    in_bytes(bytes)
        .filter(|digest| !known.contains_key(digest))
        .for_each(|digest| note(digest, Mention::Document));
    for (digest, mention) in known {
        note(digest, mention);
    }
}

/// Calls `note` for every mention in a document: like [`read`], or like [`guess`] if that fails, in which case the reason is
/// returned.
pub fn all(bytes: &[u8], note: &mut dyn FnMut(Digest, Mention)) -> Option<String> {
    let why = read(bytes, note).err()?;
    tracing::debug!(why, "Not a manifest: what its bytes may name is kept");
    guess(bytes, note);
    Some(why)
}

fn describe(media_type: &str, digest: &str, note: &mut dyn FnMut(Digest, Mention)) {
    let Ok(digest) = digest.parse() else { return };
    if media::is_manifest(media_type) {
        note(digest, Mention::Manifest);
    } else if media_type.contains("json") && !media_type.contains("config") {
        // Configs are leaves, and those of big snapshots are long.
        note(digest, Mention::Document);
    }
}

/// Every digest that is spelled out in `bytes`, text or not.
fn in_bytes(bytes: &[u8]) -> impl Iterator<Item = Digest> {
    let colons = bytes.iter().enumerate().filter(|(_, b)| **b == b':');
    let digest = move |(at, _): (usize, &u8)| {
        let start = at.checked_sub(6)?;
        let length = match &bytes[start..at] {
            b"sha256" => 64,
            b"sha512" => 128,
            _ => return None,
        };
        let text = bytes.get(start..at + 1 + length)?;
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    colons.filter_map(digest)
}

/// Walks a value and notes its mentions; returns its text if it `keeps` it and the value is a text.
struct Walk<'n> {
    note: &'n mut dyn FnMut(Digest, Mention),
    keeps: bool,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = Option<String>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = Option<String>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        if let Ok(digest) = text.parse() {
            (self.note)(digest, Mention::Text);
        }
        Ok(self.keeps.then(|| text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        loop {
            let walk = Walk {
                note: &mut *self.note,
                keeps: false,
            };
            if seq.next_element_seed(walk)?.is_none() {
                return Ok(None);
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut media_type, mut digest) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            let place = match key.as_str() {
                "mediaType" => Some(&mut media_type),
                "digest" => Some(&mut digest),
                _ => None,
            };
            let walk = Walk {
                note: &mut *self.note,
                keeps: place.is_some(),
            };
            let text = map.next_value_seed(walk)?;
            if let Some(place) = place {
                *place = text;
            }
        }
        if let (Some(media_type), Some(digest)) = (media_type, digest) {
            describe(&media_type, &digest, self.note);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::json;

    use super::*;
    use crate::artifact::Descriptor;

    #[derive(Default)]
    struct Found {
        all: HashSet<Digest>,
        manifests: HashSet<Digest>,
        documents: HashSet<Digest>,
    }

    impl Found {
        fn note(&mut self, digest: Digest, mention: Mention) {
            self.all.insert(digest);
            match mention {
                Mention::Text => {}
                Mention::Manifest => drop(self.manifests.insert(digest)),
                Mention::Document => drop(self.documents.insert(digest)),
            }
        }

        fn of(bytes: &[u8]) -> Result<Self, String> {
            let mut found = Self::default();
            read(bytes, &mut |digest, mention| found.note(digest, mention))?;
            Ok(found)
        }

        fn guessed(bytes: &[u8]) -> Self {
            let mut found = Self::default();
            guess(bytes, &mut |digest, mention| found.note(digest, mention));
            found
        }
    }

    fn d(of: &str) -> Digest {
        Digest::sha256_of(of.as_bytes())
    }

    fn descriptor(media_type: &str, of: &str) -> serde_json::Value {
        serde_json::to_value(Descriptor::of(media_type, of.as_bytes())).unwrap()
    }

    #[test]
    fn mentions_are_found_anywhere_in_any_document() {
        let index = descriptor(media::IMAGE_INDEX, "index");
        let doc = json!({
            "fsLayers": [{ "blobSum": d("v1").to_string() }],
            "deep": { "er": [[index, descriptor("application/x+json", "other")]] },
            "config": descriptor(media::CONFIG, "config"),
            "other": [null, true, 1, -1, 1.5, "text"],
        });
        let found = Found::of(&serde_json::to_vec(&doc).unwrap()).unwrap();
        assert_eq!(found.all.len(), 4);
        assert_eq!(found.manifests, HashSet::from([d("index")]));
        assert_eq!(found.documents, HashSet::from([d("other")]));
    }

    #[test]
    fn documents_are_refused_that_a_json_value_cannot_hold() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        let texts = [
            String::new(),
            deep(127),
            deep(128),
            deep(200),
            r#"{"a":"\ud800"}"#.into(),
            r#"{"\ud800":1}"#.into(),
            "1e999".into(),
            "{} {}".into(),
            r#"{"a":1,"a":2}"#.into(),
        ];
        for text in texts {
            let value = serde_json::from_str::<serde_json::Value>(&text);
            let found = Found::of(text.as_bytes());
            assert_eq!(found.is_ok(), value.is_ok(), "{text}");
        }
        assert!(Found::of(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn unreadable_documents_keep_what_their_bytes_name() {
        let long = format!("sha512:{}", "0f".repeat(64));
        let text = format!(
            r#"{{"x":"\ud800","layers":[{{"mediaType":"a/l","digest":"{}"}}],
            "manifests":[{{"mediaType":"{}","digest":"sha256\u003a{}"}}],
            "other":["{}","{long}","sha256:0","SHA256:{}"]}}"#,
            d("layer"),
            media::IMAGE_MANIFEST,
            d("escaped").hex(),
            d("other"),
            d("upper").hex(),
        );
        assert!(Found::of(text.as_bytes()).is_err());
        let found = Found::guessed(text.as_bytes());
        let long: Digest = long.parse().unwrap();
        assert_eq!(
            found.all,
            HashSet::from([d("layer"), d("escaped"), d("other"), long])
        );
        assert_eq!(found.manifests, HashSet::from([d("escaped")]));
        assert_eq!(found.documents, HashSet::from([d("other"), long]));
        let binary = [b"\0\xff", d("a").to_string().as_bytes(), b"\xfe"].concat();
        assert_eq!(Found::guessed(&binary).all, HashSet::from([d("a")]));
        assert_eq!(Found::guessed(b"sha256:").all, HashSet::new());
    }
}
