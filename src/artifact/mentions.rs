//! Every digest that stands anywhere in a document: what a sweep must keep for it, whatever its type.

use std::{collections::HashSet, fmt};

use serde::{
    Deserializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
};

use super::{Manifest, media, outline::Outline};
use crate::digest::Digest;

/// What a marking run must keep for a manifest: more than its children.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Every digest that stands anywhere in the document as a string of its own.
    pub all: HashSet<Digest>,
    /// Those that are manifests by their descriptor: to be read as well.
    pub manifests: HashSet<Digest>,
    /// Those that are JSON of another type, and may be manifests of a type that is not known here.
    pub documents: HashSet<Digest>,
}

impl Mentions {
    /// Reads a document of any type. It takes the JSON that `serde_json::Value` takes (128 levels, valid text, finite numbers) and
    /// builds no tree of it: some digests' worth of memory, however the document is made up.
    ///
    /// # Errors
    /// In words, when the document is not JSON.
    pub fn of(bytes: &[u8]) -> Result<Self, String> {
        let mut found = Self::default();
        let mut json = serde_json::Deserializer::from_slice(bytes);
        let walk = Walk {
            found: &mut found,
            keeps: false,
        };
        let read = walk.deserialize(&mut json).and_then(|_| json.end());
        match read {
            Ok(()) => Ok(found),
            Err(e) => Err(format!("not a manifest: {e}")),
        }
    }

    /// What a document may name that [`Self::of`] cannot read: each `sha256:<hex>` and `sha512:<hex>` in its bytes, and what a reader
    /// that ignores unknown fields finds in it. Never fails, and rather finds too much.
    pub fn of_unreadable(bytes: &[u8]) -> Self {
        let mut found = Self {
            documents: in_bytes(bytes),
            ..Self::default()
        };
        let manifest = Manifest::new(media::IMAGE_MANIFEST, bytes.to_vec());
        if let Ok(outline) = Outline::of_stored(&manifest) {
            for named in outline.named {
                if media::is_manifest(&named.media_type) {
                    found.documents.remove(&named.digest);
                    found.manifests.insert(named.digest);
                } else if !named.media_type.contains("json") {
                    found.documents.remove(&named.digest);
                    found.all.insert(named.digest);
                } else {
                    found.documents.insert(named.digest);
                }
            }
        }
        found.documents.retain(|d| !found.manifests.contains(d));
        found.all.extend(&found.documents);
        found.all.extend(&found.manifests);
        found
    }

    fn describe(&mut self, media_type: &str, digest: &str) {
        let Ok(digest) = digest.parse() else { return };
        if media::is_manifest(media_type) {
            self.manifests.insert(digest);
        } else if media_type.contains("json") && !media_type.contains("config") {
            // Configs are leaves, and those of big snapshots are long.
            self.documents.insert(digest);
        }
    }
}

/// Every digest that is spelled out in `bytes`, text or not.
fn in_bytes(bytes: &[u8]) -> HashSet<Digest> {
    let colons = bytes.iter().enumerate().filter(|(_, b)| **b == b':');
    let digest = |(at, _): (usize, &u8)| {
        let start = at.checked_sub(6)?;
        let length = match &bytes[start..at] {
            b"sha256" => 64,
            b"sha512" => 128,
            _ => return None,
        };
        let text = bytes.get(start..at + 1 + length)?;
        std::str::from_utf8(text).ok()?.parse().ok()
    };
    colons.filter_map(digest).collect()
}

/// Walks a value and notes what it mentions; gives back its text if it `keeps` it and the value is one.
struct Walk<'f> {
    found: &'f mut Mentions,
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
        self.found.all.extend(text.parse::<Digest>());
        Ok(self.keeps.then(|| text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        loop {
            let walk = Walk {
                found: &mut *self.found,
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
                found: &mut *self.found,
                keeps: place.is_some(),
            };
            let text = map.next_value_seed(walk)?;
            if let Some(place) = place {
                *place = text;
            }
        }
        if let (Some(media_type), Some(digest)) = (media_type, digest) {
            self.found.describe(&media_type, &digest);
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::artifact::Descriptor;

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
        let found = Mentions::of(&serde_json::to_vec(&doc).unwrap()).unwrap();
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
            let found = Mentions::of(text.as_bytes());
            assert_eq!(found.is_ok(), value.is_ok(), "{text}");
        }
        assert!(Mentions::of(b"{\"a\":\"\xff\"}").is_err());
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
        assert!(Mentions::of(text.as_bytes()).is_err());
        let found = Mentions::of_unreadable(text.as_bytes());
        let long: Digest = long.parse().unwrap();
        assert_eq!(
            found.all,
            HashSet::from([d("layer"), d("escaped"), d("other"), long])
        );
        assert_eq!(found.manifests, HashSet::from([d("escaped")]));
        assert_eq!(found.documents, HashSet::from([d("other"), long]));
        let binary = [b"\0\xff", d("a").to_string().as_bytes(), b"\xfe"].concat();
        assert_eq!(
            Mentions::of_unreadable(&binary).all,
            HashSet::from([d("a")])
        );
        assert_eq!(Mentions::of_unreadable(b"sha256:").all, HashSet::new());
    }
}
