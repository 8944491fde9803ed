//! The small records that a registry keeps beside blobs and tags: what [`super::keys`] lists below `r/`, and pieces of
//! unfinished uploads.

use async_trait::async_trait;
use bytes::Bytes;

use super::{error::Result, keys::Repo};
use crate::entry::Time;

/// A record as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, whole.
    pub key: String,
    /// Count of its bytes; `None` where a listing does not say.
    pub size: Option<u64>,
    /// When it was last written, by the store's clock; `None` where the store does not say. A part of a merged tag always has it.
    pub modified: Option<Time>,
}

impl Listed {
    /// Of which nothing but the key is known.
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
    /// Reads one of at most `limit` bytes.
    ///
    /// # Errors
    /// `Corrupt` for a longer one.
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>>;

    /// Writes one over whatever is there.
    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()>;

    /// Removes one; what is not there is removed already.
    async fn remove_record(&self, key: &str) -> Result<()>;

    /// All records whose key is `prefix` and some more without a `/`; sorted by key. The prefix has a folder.
    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>>;

    /// One of the keys that [`Self::list_records`] lists, whichever is found first; `None` if it lists none. Listing all there are
    /// to know that costs a store much more.
    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        let listed = self.list_records(prefix).await?;
        Ok(listed.into_iter().next().map(|l| l.key))
    }

    /// Every repository that has anything, sorted.
    async fn repositories(&self) -> Result<Vec<Repo>>;
}
