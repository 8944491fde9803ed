//! The small JSON documents of the tree (see [`super::keys`]): what a tag points at, metadata of a manifest.
//!
//! Readers ignore unknown fields, so a later version may add some.

use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::error::{Error, Result};
use crate::{
    artifact::{Descriptor, Manifest, outline::Outline},
    digest::Digest,
    entry::Time,
    task,
};

/// Longest record that is read, in bytes; ours have some 300.
pub const MAX_BYTES: u64 = 16 << 10;

/// What a tag, or a part of a merged tag, points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tagged {
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest's media type.
    pub media_type: String,
    /// The manifest's size in bytes.
    pub size: u64,
}

impl Tagged {
    /// The record of a tag that points at `manifest`.
    pub fn at(manifest: &Manifest) -> Self {
        Self {
            digest: manifest.digest,
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
        }
    }
}

/// A part of a merged tag. Records of earlier releases contain only what the part points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Part {
    /// The manifest that was pushed.
    #[serde(flatten)]
    pub at: Tagged,
    /// When it was last pushed, by the store's clock: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    published: Option<String>,
}

impl Part {
    /// A part that was pushed at `time`.
    pub fn of(manifest: &Manifest, time: Time) -> Self {
        Self {
            at: Tagged::at(manifest),
            published: write_time(time),
        }
    }

    /// When it was last pushed; `None` if that is not recorded, or not as a valid time.
    pub fn published(&self) -> Option<Time> {
        read_time(self.published.as_deref()?)
    }
}

/// A manifest that the daemon merged from the parts of a tag and served in their place. Clients cannot create one: deleting the
/// manifest deletes these parts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Folded {
    /// Digests of the parts, or of what the tag pointed at if it has none; sorted.
    pub parts: Vec<Digest>,
    /// When it was merged, by the store's clock: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    made: Option<String>,
}

impl Folded {
    /// The record of a manifest merged from `parts` at `time`.
    pub fn of(mut parts: Vec<Digest>, time: Time) -> Self {
        parts.sort_unstable();
        parts.dedup();
        Self {
            parts,
            made: write_time(time),
        }
    }

    /// When it was merged; `None` if that is not recorded, or not as a valid time.
    pub fn made(&self) -> Option<Time> {
        read_time(self.made.as_deref()?)
    }
}

/// `None` for a time before 1970 or after 9999, which no store's clock reports.
fn write_time(time: Time) -> Option<String> {
    const END: u64 = 253_402_300_800;
    let since = Duration::new(u64::try_from(time.secs).ok()?, time.nanos);
    let fits = since.as_secs() < END;
    fits.then(|| humantime::format_rfc3339_nanos(UNIX_EPOCH + since).to_string())
}

fn read_time(text: &str) -> Option<Time> {
    humantime::parse_rfc3339(text).ok().map(Time::from)
}

/// Metadata of a manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifested {
    /// Its media type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// The manifest that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// For a manifest with a subject: its artifact type, empty if it has none. `None` if that is not recorded, as by older
    /// releases.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// Longest artifact type that is recorded, in bytes; longer ones cannot be pushed.
const MAX_TYPE: usize = 255;

impl Manifested {
    /// As [`Self::of`]; a long document is parsed on another thread.
    pub async fn of_aside(manifest: &Manifest) -> Self {
        let manifest = manifest.clone();
        task::parse(manifest.bytes.len(), move || Self::of(&manifest)).await
    }

    /// The metadata of `manifest`; an unreadable document has no subject.
    pub fn of(manifest: &Manifest) -> Self {
        #[derive(Deserialize)]
        struct Head {
            subject: Option<Descriptor>,
        }
        let head = serde_json::from_slice::<Head>(&manifest.bytes);
        let subject = head.ok().and_then(|h| h.subject);
        let outline = subject.as_ref().and_then(|_| Outline::of(manifest).ok());
        let kind = outline.map(|o| o.artifact_type.unwrap_or_default());
        Self {
            media_type: manifest.media_type.clone(),
            size: manifest.bytes.len() as u64,
            subject,
            artifact_type: kind.filter(|kind| kind.len() <= MAX_TYPE),
        }
    }
}

/// The record of content that a caller limited to some repositories brought to a repository.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linked {
    /// It was recorded by a release under which callers cannot name or mount what they do not see. Records of earlier releases
    /// may be due to a foreign blob.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub proven: bool,
    /// It is a manifest, and everything that it names in descriptor position (layers from elsewhere aside) is linked too.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub checked: bool,
}

impl Linked {
    /// A blob.
    pub const BLOB: Self = Self {
        proven: true,
        checked: false,
    };
    /// A manifest whose children were checked.
    pub const MANIFEST: Self = Self {
        proven: true,
        checked: true,
    };

    /// Returns true for content that was brought by a caller who could read it.
    pub fn proves(self) -> bool {
        self.proven || self.checked
    }
}

/// The bytes of a record.
pub fn encode(record: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(record).expect("plain structs of strings and numbers always encode")
}

/// Reads a record.
///
/// # Errors
/// `Corrupt` for an invalid record, such as an empty file left by a power failure.
pub fn decode<T: DeserializeOwned>(op: &'static str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes)
        .map_err(|e| Error::corrupt(op, format!("its record is damaged: {e}")))
}

/// Warns that a tag, or a part of one, cannot be read, so a sweep keeps every manifest of its repository: it could be any of
/// them.
pub(super) fn warn_of_damaged_name(key: &str, error: &Error) {
    tracing::warn!(
        key,
        error = error.message,
        "Damaged tag: keeping all manifests of its repository; push the tag again, or delete it with `cachectl rm`"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn record_round_trips_and_skips_unknown_fields() {
        let m = Manifest::sniff(&br#"{"x":1}"#[..]);
        let t = Tagged::at(&m);
        assert_eq!(decode::<Tagged>("resolve", &encode(&t)).unwrap(), t);
        let newer = format!(
            r#"{{"digest":"{}","mediaType":"a/b","size":3,"later":[]}}"#,
            m.digest
        );
        assert_eq!(
            decode::<Tagged>("resolve", newer.as_bytes()).unwrap().size,
            3
        );
    }

    #[test]
    fn a_part_says_when_it_was_pushed_and_one_of_an_older_release_does_not() {
        let m = Manifest::sniff(&br#"{"x":1}"#[..]);
        let at = Time {
            secs: 1_795_908_561,
            nanos: 123_456_789,
        };
        let part = Part::of(&m, at);
        let bytes = encode(&part);
        let read: Part = decode("list", &bytes).unwrap();
        assert_eq!((read.published(), &read), (Some(at), &part));
        // Older releases can read what it points at, and we can read theirs.
        assert_eq!(decode::<Tagged>("list", &bytes).unwrap(), Tagged::at(&m));
        let older: Part = decode("list", &encode(&Tagged::at(&m))).unwrap();
        assert_eq!((older.published(), older.at), (None, Tagged::at(&m)));
        let odd = String::from_utf8(bytes).unwrap().replace("2026-", "never-");
        assert_eq!(
            decode::<Part>("list", odd.as_bytes()).unwrap().published(),
            None
        );
        let beyond = Time { secs: -1, nanos: 0 };
        assert_eq!(Part::of(&m, beyond).published(), None);
    }

    #[test]
    fn what_was_folded_round_trips() {
        let (a, b) = (Digest::sha256_of(b"a"), Digest::sha256_of(b"b"));
        let at = Time { secs: 7, nanos: 1 };
        let folded = Folded::of(vec![b, a, b], at);
        let read: Folded = decode("list", &encode(&folded)).unwrap();
        assert_eq!(
            (read.made(), read.parts.len(), &read),
            (Some(at), 2, &folded)
        );
        let most = Folded::of(
            (0..200_u32)
                .map(|n| Digest::sha256_of(&n.to_le_bytes()))
                .collect(),
            at,
        );
        assert!((encode(&most).len() as u64) < MAX_BYTES);
    }

    #[test]
    fn link_of_an_older_release_is_an_empty_object_and_proves_nothing() {
        let older = decode::<Linked>("read record", b"{}").unwrap();
        assert_eq!(older, Linked::default());
        assert!(!older.proves());
        for (link, text) in [
            (Linked::BLOB, r#"{"proven":true}"#),
            (Linked::MANIFEST, r#"{"proven":true,"checked":true}"#),
        ] {
            assert_eq!(encode(&link), text.as_bytes());
            let read = decode::<Linked>("read record", text.as_bytes()).unwrap();
            assert!(read == link && read.proves(), "{text}");
        }
    }

    #[test]
    fn damaged_record_is_corrupt() {
        for bad in [&b""[..], b"{}", b"\0\0\0", b"{\"digest\":\"sha256:0\"}"] {
            let e = decode::<Tagged>("resolve", bad).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Corrupt);
        }
    }

    #[test]
    fn subject_is_taken_from_the_document() {
        let d = Digest::sha256_of(b"s");
        let doc = format!(r#"{{"subject":{{"mediaType":"a/b","digest":"{d}","size":1}}}}"#);
        assert_eq!(
            Manifested::of(&Manifest::sniff(doc))
                .subject
                .unwrap()
                .digest,
            d
        );
        assert_eq!(Manifested::of(&Manifest::sniff("no json")).subject, None);
    }

    #[test]
    fn what_kind_of_artifact_a_referrer_is_is_recorded_and_of_older_ones_is_not_known() {
        let subject = format!(
            r#""subject":{{"mediaType":"a/b","digest":"{}","size":1}}"#,
            Digest::sha256_of(b"s")
        );
        let long = "x".repeat(MAX_TYPE + 1);
        for (document, kind) in [
            (
                format!(r#"{{{subject},"artifactType":"a/x"}}"#),
                Some("a/x"),
            ),
            (format!(r"{{{subject}}}"), Some("")),
            (format!(r#"{{{subject},"artifactType":"{long}"}}"#), None),
            (r#"{"artifactType":"a/x"}"#.to_owned(), None),
        ] {
            let known = Manifested::of(&Manifest::sniff(document));
            assert_eq!(known.artifact_type.as_deref(), kind);
            let read: Manifested = decode("resolve", &encode(&known)).unwrap();
            assert_eq!(read, known);
        }
        let older = br#"{"mediaType":"a/b","size":1}"#;
        let older: Manifested = decode("resolve", older).unwrap();
        assert_eq!(older.artifact_type, None);
    }
}
