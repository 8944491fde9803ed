//! Records: small objects by their keys.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    S3,
    list::{Any, is_directly_below},
    put::Condition,
};
use crate::store::{
    error::Result,
    keys::{self, Repo},
    records::{Listed, Records},
};

#[async_trait]
impl Records for S3 {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let read = self.wire.read("read record", key, limit).await;
        Ok(read
            .map_err(|e| e.at(&self.wire.url, key))?
            .map(|r| r.bytes))
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        let written = self.wire.write("write record", key, bytes, Condition::None);
        written.await.map_err(|e| e.at(&self.wire.url, key))
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        let removed = self.wire.delete("remove record", key).await;
        removed.map_err(|e| e.at(&self.wire.url, key))
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        let listed = self.wire.list("list records", prefix).await;
        let listed = listed.map_err(|e| e.at(&self.wire.url, prefix))?;
        let mut found: Vec<Listed> = listed
            .into_iter()
            .filter(|o| is_directly_below(prefix, &o.key))
            .map(|o| Listed {
                key: o.key,
                size: Some(o.size),
                modified: o.modified,
            })
            .collect();
        found.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(found)
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        let any = self.wire.any("list records", prefix).await;
        match any.map_err(|e| e.at(&self.wire.url, prefix))? {
            Any::Key(key) => Ok(Some(key)),
            Any::Nothing => Ok(None),
            Any::Unclear => {
                let listed = self.list_records(prefix).await?;
                Ok(listed.into_iter().next().map(|l| l.key))
            }
        }
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        let folders = self.wire.folders("list", keys::REPOSITORIES).await;
        let folders = folders.map_err(|e| e.at(&self.wire.url, "repositories"))?;
        let mut repos: Vec<Repo> = folders
            .iter()
            .filter_map(|f| f.strip_prefix(keys::REPOSITORIES)?.strip_suffix('/'))
            .filter_map(Repo::unescape)
            .collect();
        repos.sort_unstable();
        repos.dedup();
        Ok(repos)
    }
}
