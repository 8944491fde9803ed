//! Records over both tiers: answers of the remote, copied to the front for when it is unreachable. Pieces of unfinished uploads
//! are handled separately ([`super::pieces`]).
#![deny(clippy::missing_trait_methods)]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::ready,
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Core,
    counts::add,
    entry::{Entry, What},
    front::passed_by,
    look::Patience,
    pieces::is_piece,
    queue::Placed,
    tags::refused_away,
};
use crate::store::{
    error::{Error, Result},
    keys::{self, Key, Repo},
    record,
    records::{Listed, Records},
};

/// Returns true if the front stores a record with this key. A tag is stored together with its manifest, or not at all.
fn is_kept(key: &str) -> bool {
    !matches!(keys::parse(key), None | Some(Key::Tag(..)))
}

impl Core {
    /// The content of a record according to a queued update.
    async fn queued_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let Some(entry) = self.updates.newest(&key.to_owned()) else {
            return Ok(None);
        };
        match entry.what {
            What::Record { bytes, .. } => Ok(Some(bytes)),
            What::Publish(p) => match keys::parse(key) {
                Some(Key::Tag(..)) => Ok(Some(record::encode(&p.manifest).into())),
                _ => self.front.records.read_record(key, limit).await,
            },
        }
    }

    /// Copies the remote's answer about a record to the front, unless an update of it is queued.
    async fn take_on(&self, key: &str, bytes: Option<&Bytes>) {
        if !is_kept(key) {
            return;
        }
        let front = &self.front.records;
        let known = passed_by(front.read_record(key, record::MAX_BYTES).await).flatten();
        if known.as_ref() == bytes {
            return;
        }
        let _shared = self.mirror.read().await;
        if self.updates.has(&key.to_owned()) {
            return;
        }
        passed_by(match bytes {
            Some(bytes) => front.write_record(key, bytes.clone()).await,
            None => front.remove_record(key).await,
        });
    }

    /// Waits until no update of this record is queued.
    async fn record_settled(&self, key: &str) -> Result<()> {
        let keys = [key.to_owned()];
        self.settled("write record", &self.updates, &keys).await
    }

    async fn queue_record(&self, key: &str, bytes: Bytes, why: Error) -> Result<()> {
        // A tombstone deletes something.
        if matches!(keys::parse(key), Some(Key::Gone(..))) {
            return Err(refused_away("write record", &why));
        }
        if !self.writes_back() || !is_kept(key) || bytes.len() as u64 > record::MAX_BYTES {
            return Err(why);
        }
        let entry = Entry::now(What::Record {
            key: key.to_owned(),
            bytes: bytes.clone(),
        });
        let _alone = self.mirror.write().await;
        self.updates.add(Placed::alone(entry)).await?;
        add(&self.counts.queued, 1);
        passed_by(self.front.records.write_record(key, bytes).await);
        Ok(())
    }
}

pub(super) struct TieredRecords {
    pub(super) core: Arc<Core>,
    pub(super) patience: Patience,
}

impl Core {
    /// A record from the remote, which is copied to the front.
    async fn read_behind(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let asked = self.remote.records.read_record(key, limit);
        let found = self.health.ask("read record", asked).await?;
        self.take_on(key, found.as_ref()).await;
        Ok(found)
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        let behind = async {
            self.record_settled(key).await?;
            let asked = self.remote.records.write_record(key, bytes.clone());
            self.health.ask("write record", asked).await
        };
        match behind.await {
            Ok(()) => {
                self.take_on(key, Some(&bytes)).await;
                Ok(())
            }
            Err(e) if e.is_temporary() => self.queue_record(key, bytes, e).await,
            Err(e) => Err(e),
        }
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        let behind = async {
            self.record_settled(key).await?;
            let asked = self.remote.records.remove_record(key);
            self.health.ask("remove record", asked).await
        };
        match behind.await {
            Ok(()) => {
                self.take_on(key, None).await;
                Ok(())
            }
            Err(e) if e.is_temporary() => Err(refused_away("remove record", &e).at("", key)),
            Err(e) => Err(e),
        }
    }
}

#[async_trait]
impl Records for TieredRecords {
    async fn read_record(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let core = &self.core;
        if is_piece(key) {
            let asked = core.remote.records.read_record(key, limit);
            return core.health.ask("read record", asked).await;
        }
        if let Some(bytes) = core.queued_record(key, limit).await? {
            return Ok(Some(bytes));
        }
        let (behind, asked) = (core.clone(), key.to_owned());
        let behind = async move { behind.read_behind(&asked, limit).await };
        let is_known = async {
            let found = core.front.records.read_record(key, limit).await;
            passed_by(found).flatten().is_some()
        };
        let front = core.front.records.read_record(key, limit);
        core.look_or("read record", self.patience, is_known, behind, front)
            .await
    }

    async fn write_record(&self, key: &str, bytes: Bytes) -> Result<()> {
        if is_piece(key) {
            let asked = self.core.remote.records.write_record(key, bytes);
            // It may take long on a slow link, but its sender waits only until the remote is known to be unreachable.
            return self.core.health.ask("write record", asked).await;
        }
        self.core.write_record(key, bytes).await
    }

    async fn remove_record(&self, key: &str) -> Result<()> {
        if is_piece(key) {
            let asked = self.core.remote.records.remove_record(key);
            return self.core.health.ask("remove record", asked).await;
        }
        self.core.remove_record(key).await
    }

    async fn list_records(&self, prefix: &str) -> Result<Vec<Listed>> {
        let core = &self.core;
        if prefix.starts_with(keys::UPLOADS) {
            let asked = core.remote.records.list_records(prefix);
            return core.health.ask("list records", asked).await;
        }
        let (behind, asked) = (core.clone(), prefix.to_owned());
        let behind = async move {
            let asked = behind.remote.records.list_records(&asked);
            behind.health.ask("list records", asked).await
        };
        let front = core.front.records.list_records(prefix);
        let listed = core
            .look_or("list records", self.patience, ready(true), behind, front)
            .await?;
        let mut all: BTreeMap<String, Listed> =
            listed.into_iter().map(|l| (l.key.clone(), l)).collect();
        for (key, entry) in core.updates.below(prefix) {
            let bytes = core.queued_record(&key, record::MAX_BYTES).await?;
            let listed = Listed {
                size: bytes.map(|b| b.len() as u64),
                modified: Some(entry.at),
                key: key.clone(),
            };
            all.insert(key, listed);
        }
        Ok(all.into_values().collect())
    }

    async fn any_record(&self, prefix: &str) -> Result<Option<String>> {
        let core = &self.core;
        if prefix.starts_with(keys::UPLOADS) {
            let asked = core.remote.records.any_record(prefix);
            return core.health.ask("list records", asked).await;
        }
        if let Some((key, _)) = core.updates.below(prefix).into_iter().next() {
            return Ok(Some(key));
        }
        let (behind, asked) = (core.clone(), prefix.to_owned());
        let behind = async move {
            let asked = behind.remote.records.any_record(&asked);
            behind.health.ask("list records", asked).await
        };
        let front = core.front.records.any_record(prefix);
        core.look_or("list records", self.patience, ready(true), behind, front)
            .await
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        let core = &self.core;
        let behind = core.clone();
        let behind = async move {
            let asked = behind.remote.records.repositories();
            behind.health.ask("list", asked).await
        };
        let front = core.front.records.repositories();
        let listed = core
            .look_or("list", self.patience, ready(true), behind, front)
            .await?;
        let mut all: BTreeSet<Repo> = listed.into_iter().collect();
        all.extend(core.updates.repositories());
        Ok(all.into_iter().collect())
    }
}
