//! Records: small objects by their keys.

use async_trait::async_trait;
use bytes::Bytes;

use super::{Condition, Detail, Keyed, Objects};
use crate::store::{
    error::Result,
    keys::{self, Repo},
    records::{Listed, Records},
};

#[async_trait]
impl<O: Objects> Records for Keyed<O> {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let read = self.objects.read("read record", key, limit).await;
        let read = read.map_err(|e| e.at(self.objects.url(), key))?;
        Ok(read.map(|object| object.bytes))
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        let written = self
            .objects
            .write("write record", key, bytes, Condition::None);
        written.await.map_err(|e| e.at(self.objects.url(), key))
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        let keys = [key.to_owned()];
        let removed = self.objects.remove_all("remove record", &keys).await;
        removed.map_err(|e| e.at(self.objects.url(), key))
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        let listed = self.objects.list("list records", prefix, Detail::All).await;
        let mut listed = listed.map_err(|e| e.at(self.objects.url(), prefix))?;
        listed.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        Ok(listed)
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        let any = self.objects.any("list records", prefix).await;
        any.map_err(|e| e.at(self.objects.url(), prefix))
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        let folders = self.objects.folders("list", keys::REPOSITORIES).await;
        let folders = folders.map_err(|e| e.at(self.objects.url(), "repositories"))?;
        let mut repos: Vec<Repo> = folders.iter().filter_map(|f| Repo::unescape(f)).collect();
        repos.sort_unstable();
        repos.dedup();
        Ok(repos)
    }
}
