//! What a marking run records: the unreachable blobs, and the time by the store's clock.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use crate::{digest::Digest, entry::Time};

const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    /// The mark does not apply to blobs written later than this.
    pub(super) time: Time,
    pub(super) blobs: HashSet<Digest>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    secs: i64,
    blobs: Vec<Digest>,
}

impl Mark {
    /// A name unique to this run.
    pub(super) fn name(&self) -> String {
        format!("{:012}-{:08x}", self.time.secs.max(0), fastrand::u32(..))
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut blobs: Vec<Digest> = self.blobs.iter().copied().collect();
        blobs.sort_unstable();
        let document = Document {
            version: VERSION,
            secs: self.time.secs,
            blobs,
        };
        serde_json::to_vec(&document).expect("strings and numbers can always be written")
    }

    /// `None` if it is not a mark, or one of a later version: the blobs that it names are marked again.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let document: Document = serde_json::from_slice(bytes).ok()?;
        (document.version == VERSION).then(|| Self {
            time: Time {
                secs: document.secs,
                nanos: 0,
            },
            blobs: document.blobs.into_iter().collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_comes_back_and_nonsense_is_none() {
        let mark = Mark {
            time: Time {
                secs: 1_800_000_000,
                nanos: 0,
            },
            blobs: HashSet::from([Digest::sha256_of(b"a"), Digest::sha256_of(b"b")]),
        };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        for bad in [&b""[..], b"{}", br#"{"version":2,"secs":1,"blobs":[]}"#] {
            assert_eq!(Mark::decode(bad), None);
        }
    }
}
