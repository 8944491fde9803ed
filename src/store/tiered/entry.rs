//! An update that is queued for the remote, as a file: one line of JSON and the SHA-256 of that line.
//!
//! ```text
//! {"version":1,"at":1790000000,"publish":{"repo":"team/app","tag":"v1","manifest":{"digest":"sha256:…",…},"expect":"absent"}}
//! {"version":1,"at":1790000000,"record":{"key":"r/team%2Fapp/parts/v1/sha256-…","bytes":"eyJkaWdlc3…"}}
//! 4f1c…
//! ```
//!
//! The manifest's bytes are a blob in front. A reader refuses other versions: it must not partly replay an entry that it does not
//! fully understand.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    artifact::Tag,
    digest::{Digest, Sha256},
    entry::Time,
    store::{
        keys::{self, Key, Repo},
        record::Tagged,
    },
};

const VERSION: u32 = 1;

/// What a tag should point at when an update of it is replayed; otherwise another writer has changed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Expected {
    /// The tag did not exist, or was not known.
    Absent,
    /// It pointed at this.
    Digest(Digest),
    /// It had this version, according to the remote.
    Version(String),
}

/// A manifest, with or without a tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Publication {
    pub(super) repo: Repo,
    pub(super) tag: Option<Tag>,
    pub(super) manifest: Tagged,
    pub(super) expect: Expected,
}

/// The content of an update.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    Publish(Publication),
    Record { key: String, bytes: Bytes },
}

/// An update with the time at which it was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) at: Time,
    pub(super) what: What,
}

#[derive(Serialize, Deserialize)]
struct Line {
    version: u32,
    at: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publish: Option<PublishLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    record: Option<RecordLine>,
}

#[derive(Serialize, Deserialize)]
struct PublishLine {
    repo: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tag: Option<String>,
    manifest: Tagged,
    expect: Expected,
}

#[derive(Serialize, Deserialize)]
struct RecordLine {
    key: String,
    bytes: String,
}

impl Entry {
    /// An update acknowledged now.
    pub(super) fn now(what: What) -> Self {
        Self {
            at: Time {
                secs: Time::now().secs,
                nanos: 0,
            },
            what,
        }
    }

    /// The publication; `None` for a record.
    pub(super) fn publication(&self) -> Option<&Publication> {
        match &self.what {
            What::Publish(p) => Some(p),
            What::Record { .. } => None,
        }
    }

    /// The bytes of its file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let (mut publish, mut record) = (None, None);
        match &self.what {
            What::Publish(p) => {
                publish = Some(PublishLine {
                    repo: p.repo.to_string(),
                    tag: p.tag.as_ref().map(ToString::to_string),
                    manifest: p.manifest.clone(),
                    expect: p.expect.clone(),
                });
            }
            What::Record { key, bytes } => {
                record = Some(RecordLine {
                    key: key.clone(),
                    bytes: BASE64_STANDARD.encode(bytes),
                });
            }
        }
        let line = Line {
            version: VERSION,
            at: self.at.secs,
            publish,
            record,
        };
        let mut bytes =
            serde_json::to_vec(&line).expect("plain structs of strings and numbers always encode");
        let sum = Sha256::of(&bytes).to_hex();
        bytes.push(b'\n');
        bytes.extend_from_slice(sum.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    /// Reads a file.
    ///
    /// # Errors
    /// A message, for anything that is not exactly what [`Self::encode`] writes.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "it is not text")?;
        let (line, sum) = text.split_once('\n').ok_or("it ends too early")?;
        if sum.trim_end() != Sha256::of(line.as_bytes()).to_hex() {
            return Err("its checksum does not match".to_owned());
        }
        let line: Line = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if line.version != VERSION {
            let version = line.version;
            return Err(format!("its version {version} belongs to another release"));
        }
        let what = match (line.publish, line.record) {
            (Some(p), None) => What::Publish(Publication {
                repo: p.repo.parse().map_err(|_| "its repository is invalid")?,
                tag: p
                    .tag
                    .map(|t| t.parse().map_err(|_| "its tag is invalid"))
                    .transpose()?,
                manifest: p.manifest,
                expect: p.expect,
            }),
            (None, Some(r)) => What::Record {
                bytes: BASE64_STANDARD
                    .decode(&r.bytes)
                    .map_err(|e| e.to_string())?
                    .into(),
                key: r.key,
            },
            _ => return Err("it is neither a publication nor a record".to_owned()),
        };
        Ok(Self {
            at: Time {
                secs: line.at,
                nanos: 0,
            },
            what,
        })
    }

    /// The keys of the records that the remote has once the update is replayed. `subject` is its manifest's.
    pub(super) fn keys(&self, subject: Option<&Digest>) -> Vec<String> {
        match &self.what {
            What::Record { key, .. } => vec![key.clone()],
            What::Publish(p) => {
                let digest = &p.manifest.digest;
                let mut keys = vec![keys::manifest(&p.repo, digest)];
                keys.extend(subject.map(|s| keys::referrer(&p.repo, s, digest)));
                keys.extend(p.tag.as_ref().map(|t| keys::tag(&p.repo, t)));
                keys
            }
        }
    }

    /// The keys of the records that the remote must have before it. `children` are its manifest's.
    pub(super) fn needs(&self, children: &[Digest]) -> Vec<String> {
        match &self.what {
            What::Record { key, .. } => match keys::parse(key) {
                Some(Key::Part(repo, _, digest)) => vec![keys::manifest(&repo, &digest)],
                _ => Vec::new(),
            },
            What::Publish(p) => children
                .iter()
                .map(|d| keys::manifest(&p.repo, d))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<Entry> {
        let d = Digest::sha256_of(b"x");
        let publish = |tag: Option<&str>, expect| {
            Entry::now(What::Publish(Publication {
                repo: "team/app".parse().unwrap(),
                tag: tag.map(|t| t.parse().unwrap()),
                manifest: Tagged {
                    digest: d,
                    media_type: "a/b".to_owned(),
                    size: 7,
                },
                expect,
            }))
        };
        vec![
            publish(Some("v1"), Expected::Absent),
            publish(Some("v1"), Expected::Digest(d)),
            publish(Some("v1"), Expected::Version("\"etag\"".to_owned())),
            publish(None, Expected::Absent),
            Entry::now(What::Record {
                key: keys::part(&Repo::cli(), &"t".parse().unwrap(), &d),
                bytes: Bytes::from_static(b"\0\xff{}"),
            }),
        ]
    }

    #[test]
    fn entries_round_trip() {
        for entry in entries() {
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }

    /// What an earlier daemon has left must be read, and what this one writes by an earlier one.
    #[test]
    fn entries_are_stored_as_ever() {
        let d = Digest::sha256_of(b"x");
        let manifest = format!(r#"{{"digest":"{d}","mediaType":"a/b","size":7}}"#);
        let lines = [
            r#""publish":{"repo":"team/app","tag":"v1","manifest":M,"expect":"absent"}"#,
            r#""publish":{"repo":"team/app","tag":"v1","manifest":M,"expect":{"digest":"D"}}"#,
            r#""publish":{"repo":"team/app","tag":"v1","manifest":M,"expect":{"version":"\"etag\""}}"#,
            r#""publish":{"repo":"team/app","manifest":M,"expect":"absent"}"#,
            r#""record":{"key":"r/cachectl/parts/t/F","bytes":"AP97fQ=="}"#,
        ];
        for (mut entry, line) in entries().into_iter().zip(lines) {
            entry.at.secs = 1_790_000_000;
            let line = line.replace('M', &manifest).replace('D', &d.to_string());
            let line = line.replace('F', &keys::flat(&d));
            let line = format!(r#"{{"version":1,"at":1790000000,{line}}}"#);
            let file = format!("{line}\n{}\n", Sha256::of(line.as_bytes()));
            assert_eq!(String::from_utf8(entry.encode()).unwrap(), file);
            assert_eq!(Entry::decode(file.as_bytes()), Ok(entry));
        }
    }

    #[test]
    fn a_changed_or_cut_entry_is_refused() {
        for entry in entries() {
            let bytes = entry.encode();
            for at in 0..bytes.len() - 1 {
                assert!(Entry::decode(&bytes[..at]).is_err(), "cut at {at}");
                let mut changed = bytes.clone();
                changed[at] ^= 1;
                assert!(Entry::decode(&changed).is_err(), "changed at {at}");
            }
        }
    }

    #[test]
    fn another_version_is_refused_with_its_number() {
        let line = r#"{"version":2,"at":0,"record":{"key":"x","bytes":""}}"#;
        let file = format!("{line}\n{}\n", Sha256::of(line.as_bytes()));
        assert!(
            Entry::decode(file.as_bytes())
                .unwrap_err()
                .contains("version 2")
        );
    }

    #[test]
    fn a_part_needs_the_manifest_that_it_names() {
        let d = Digest::sha256_of(b"x");
        let part = &entries()[4];
        assert_eq!(part.needs(&[]), [keys::manifest(&Repo::cli(), &d)]);
    }
}
