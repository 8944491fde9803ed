//! The small records that a registry keeps beside blobs and tags: those that [`super::keys`] lists below `r/`, and pieces of
//! unfinished uploads.

use async_trait::async_trait;
use bytes::Bytes;

use super::{error::Result, keys::Repo};
use crate::entry::Time;

/// A record in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its full key.
    pub key: String,
    /// Its number of bytes; `None` if the listing does not include it.
    pub size: Option<u64>,
    /// When it was last written, by the store's clock; `None` if the store does not report it. A part of a merged tag always
    /// has it.
    pub modified: Option<Time>,
}

impl Listed {
    /// A record of which only the key is known.
    pub(super) fn of_key(key: String) -> Self {
        Self {
            key,
            size: None,
            modified: None,
        }
    }
}

/// Ability: records by key, each written whole or not at all.
///
/// Keys are those that [`super::keys`] makes. A record is durable and visible to every node when `write_record` returns.
#[async_trait]
pub trait Records: Send + Sync {
    /// Reads a record of at most `limit` bytes.
    ///
    /// # Errors
    /// `Corrupt` for a longer one.
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>>;

    /// Writes a record, replacing an existing one.
    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// Removes a record; its absence is no error.
    async fn remove_record(&self, key: &str) -> Result<()>;

    /// All records whose key consists of `prefix` and at least one more character other than `/`; sorted by key. The prefix
    /// includes a folder.
    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// Any of the keys that [`Self::list_records`] lists, whichever is found first; `None` if there are none. Listing all of
    /// them for that costs a store much more.
    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        let listed = self.list_records(prefix).await?;
        Ok(listed.into_iter().next().map(|l| l.key))
    }

    /// All non-empty repositories, sorted.
    async fn repositories(&self) -> Result<Vec<Repo>>;
}
