//! Small objects by key, and the server's clock.

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Bucket,
    list::{Any, is_directly_below},
    patience::Answer,
    sweep::BATCH,
};
use crate::{
    entry::Time,
    store::{
        Version,
        error::{Error, Result},
        keyed::{Condition, Detail, Object, Objects},
        records::Listed,
    },
};

#[async_trait]
impl Objects for Bucket {
    fn url(&self) -> &str {
        &self.wire.url
    }

    fn finds_manifests_without_record(&self) -> bool {
        true
    }

    async fn read(&self, op: &'static str, key: &str, limit: u64) -> Result<Option<Object>> {
        let found = self.wire.read(op, key, limit).await?;
        Ok(found.map(|found| Object {
            bytes: found.bytes,
            version: found.etag.map(Version),
            modified: found.modified,
        }))
    }

    async fn write(
        &self,
        op: &'static str,
        key: &str,
        bytes: Bytes,
        condition: Condition,
    ) -> Result<()> {
        self.wire.write(op, key, bytes, condition).await
    }

    async fn remove(&self, op: &'static str, key: &str) -> Result<bool> {
        // S3 answers a DELETE in the same way whether the object exists or not.
        if self.wire.head(op, key).await?.is_none() {
            return Ok(false);
        }
        self.wire.delete(op, key).await?;
        Ok(true)
    }

    async fn remove_all(&self, op: &'static str, keys: &[String]) -> Result<()> {
        if let [key] = keys {
            return self.wire.delete(op, key).await;
        }
        for some in keys.chunks(BATCH) {
            self.wire.delete_all(op, some).await?;
        }
        Ok(())
    }

    async fn list(&self, op: &'static str, prefix: &str, _detail: Detail) -> Result<Vec<Listed>> {
        let listed = self.wire.list(op, prefix).await?.into_iter();
        let listed = listed.filter(|o| is_directly_below(prefix, &o.key));
        Ok(listed
            .map(|o| Listed {
                key: o.key,
                size: Some(o.size),
                modified: o.modified,
            })
            .collect())
    }

    async fn any(&self, op: &'static str, prefix: &str) -> Result<Option<String>> {
        match self.wire.any(op, prefix).await? {
            Any::Key(key) => Ok(Some(key)),
            Any::Nothing => Ok(None),
            Any::Unclear => {
                let listed = self.wire.list(op, prefix).await?.into_iter();
                let keys = listed.map(|o| o.key);
                Ok(keys.filter(|key| is_directly_below(prefix, key)).min())
            }
        }
    }

    async fn keys_below(&self, op: &'static str, folder: &str) -> Result<Vec<String>> {
        let listed = self.wire.list(op, folder).await?;
        Ok(listed.into_iter().map(|object| object.key).collect())
    }

    async fn folders(&self, op: &'static str, folder: &str) -> Result<Vec<String>> {
        let folders = self.wire.folders(op, folder).await?;
        let names = folders.iter().filter_map(|key| {
            let name = key.strip_prefix(folder)?.strip_suffix('/')?;
            Some(name.to_owned())
        });
        Ok(names.collect())
    }

    async fn clock(&self) -> Result<Time> {
        let wire = &self.wire;
        if let Some(now) = wire.clock.now() {
            return Ok(now);
        }
        let asked = Box::pin(wire.client.head_bucket().bucket(&wire.bucket).send());
        let answer = wire.answer("ask the time", Answer::Soon, asked).await;
        // A refusal contains the date too.
        if let Some(now) = wire.clock.now() {
            return Ok(now);
        }
        let silent = || {
            Error::corrupt(
                "ask the time",
                "the answer has no `Date` of the store itself; is there a cache in front of the store?",
            )
        };
        Err(answer.err().unwrap_or_else(silent))
    }
}
