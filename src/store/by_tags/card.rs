//! A record as a manifest: its key, its bytes, its time of writing.
//!
//! An image manifest with an empty config, the form that the image spec gives to artifacts ("Guidelines for Artifact Usage").
//! If the record keeps another manifest alive, it is an index that names that one, so that registries, and our own sweep of a
//! layout, see that it is in use.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    artifact::{Descriptor, Manifest, annotations, media},
    digest::Digest,
    entry::Time,
    store::{
        error::{Error, Result},
        record,
    },
};

/// The bytes of an empty JSON document, which every empty config is (image spec, "Guidance for an Empty Descriptor").
pub(super) const EMPTY: &[u8] = b"{}";

pub(super) fn empty() -> Descriptor {
    Descriptor::new(media::EMPTY, Digest::sha256_of(EMPTY), EMPTY.len() as u64)
}

/// A record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Card {
    pub(super) key: String,
    pub(super) bytes: Bytes,
    /// By the store's clock; only set if requested, so that equal records are equal manifests.
    pub(super) modified: Option<Time>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    artifact_type: Option<String>,
    #[serde(default)]
    annotations: Annotations,
}

#[derive(Default, Deserialize)]
struct Annotations {
    #[serde(rename = "io.cachectl.record.key")]
    key: Option<String>,
    #[serde(rename = "io.cachectl.record.bytes")]
    bytes: Option<String>,
    #[serde(rename = "org.opencontainers.image.created")]
    created: Option<String>,
}

/// Returns true if a manifest is a record, or would be mistaken for one.
pub(super) fn is_card(manifest: &Manifest) -> bool {
    serde_json::from_slice::<Head>(&manifest.bytes)
        .is_ok_and(|h| h.artifact_type.as_deref() == Some(media::RECORD))
}

impl Card {
    fn annotations(&self) -> Value {
        let mut all = json!({
            annotations::RECORD_KEY: self.key,
            annotations::RECORD_BYTES: BASE64_STANDARD.encode(&self.bytes),
        });
        if let Some(at) = self.modified.and_then(|t| u64::try_from(t.as_nanos()).ok()) {
            let at = std::time::UNIX_EPOCH + std::time::Duration::from_nanos(at);
            all[annotations::CREATED] = humantime::format_rfc3339_millis(at).to_string().into();
        }
        all
    }

    /// The manifest of a record that names no other manifest.
    pub(super) fn manifest(&self) -> Manifest {
        let doc = json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE_MANIFEST,
            "artifactType": media::RECORD,
            "config": empty(),
            "layers": [empty()],
            "annotations": self.annotations(),
        });
        Manifest::new(media::IMAGE_MANIFEST, record::encode(&doc))
    }

    /// The manifest of a record that keeps `other`, a manifest, alive.
    pub(super) fn naming(&self, other: &Descriptor) -> Manifest {
        let doc = json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE_INDEX,
            "artifactType": media::RECORD,
            "manifests": [other],
            "annotations": self.annotations(),
        });
        Manifest::new(media::IMAGE_INDEX, record::encode(&doc))
    }

    /// Reads a record of at most `limit` bytes.
    ///
    /// # Errors
    /// `Corrupt` for anything else, and for a longer one.
    pub(super) fn read(op: &'static str, manifest: &Manifest, limit: u64) -> Result<Self> {
        let corrupt = |why: String| Error::corrupt(op, why);
        let head: Head = serde_json::from_slice(&manifest.bytes)
            .map_err(|e| corrupt(format!("its record is damaged: {e}")))?;
        let said = head.annotations;
        let (Some(key), Some(bytes)) = (said.key, said.bytes) else {
            return Err(corrupt(format!(
                "manifest {} is in the place of its record, but is not a record",
                manifest.digest
            )));
        };
        let bytes = BASE64_STANDARD
            .decode(bytes)
            .map_err(|e| corrupt(format!("its record is damaged: {e}")))?;
        if bytes.len() as u64 > limit {
            let size = bytes.len();
            return Err(corrupt(format!(
                "its record has {size} bytes, more than the limit of {limit}"
            )));
        }
        Ok(Self {
            key,
            bytes: bytes.into(),
            // An unreadable time counts as none.
            modified: said
                .created
                .and_then(|t| humantime::parse_rfc3339(&t).ok())
                .map(Time::from),
        })
    }

    /// The same, only for the record with this `key`.
    pub(super) fn read_as(
        op: &'static str,
        manifest: &Manifest,
        limit: u64,
        key: &str,
    ) -> Result<Self> {
        let card = Self::read(op, manifest, limit)?;
        if card.key == key {
            return Ok(card);
        }
        let other: String = card.key.chars().take(300).collect();
        let why = format!("the record of `{}` is in its place", other.escape_debug());
        Err(Error::corrupt(op, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    fn card() -> Card {
        Card {
            key: "r/a/gone/x".to_owned(),
            bytes: Bytes::from_static(b"\0\xff{}"),
            modified: Some(Time {
                secs: 1_700_000_000,
                nanos: 250_000_000,
            }),
        }
    }

    #[test]
    fn cards_round_trip_in_both_forms() {
        let card = card();
        let other = Descriptor::of(media::IMAGE_MANIFEST, b"other");
        for manifest in [card.manifest(), card.naming(&other)] {
            assert!(is_card(&manifest));
            assert_eq!(Manifest::sniff(manifest.bytes.clone()), manifest);
            assert_eq!(Card::read_as("x", &manifest, 4, &card.key).unwrap(), card);
        }
        assert_eq!(card.manifest(), card.clone().manifest());
    }

    #[test]
    fn damaged_cards_are_corrupt() {
        let card = card();
        let whole = String::from_utf8(card.manifest().bytes.to_vec()).unwrap();
        for (text, limit, key) in [
            ("{}".to_owned(), 9, card.key.as_str()),
            ("[]".to_owned(), 9, &card.key),
            (String::new(), 9, &card.key),
            (whole.replace("record.bytes", "record.other"), 9, &card.key),
            (whole.replace("AP97fQ==", "AP97fQ="), 9, &card.key),
            (whole.replace("AP97fQ==", "?"), 9, &card.key),
            (whole.clone(), 3, &card.key),
            (whole.clone(), 9, "r/b/gone/x"),
        ] {
            let e = Card::read_as("x", &Manifest::sniff(text), limit, key).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
        }
        let undated = whole.replace("2023-", "never-");
        assert_ne!(undated, whole);
        let read = Card::read("x", &Manifest::sniff(undated), 9).unwrap();
        assert_eq!(read.modified, None);
    }
}
