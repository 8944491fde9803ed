//! Pieces of unfinished uploads: they lie at the remote, and in front only those that came while it was away.
//!
//! Nobody needs them once the upload is over, so they are not sent when it comes back. That holds for write-through too: it is the
//! blob that the remote must have.
//!
//! What the remote has is remembered, so that an upload goes on during an outage: its bytes are mostly on this machine's disk
//! besides ([`crate::store::ingest`]), where they can be given up when it is full. What lies in front alone cannot, so it takes
//! its sender's share of what waits for the remote ([`super::unsent`]).

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Core, front::passed_by};
use crate::{
    entry::Time,
    fair::Share,
    store::{error::Result, keys, records::Listed},
};
use bytes::Bytes;

/// Pieces at the remote that are remembered, some 10 MB of memory. An upload with others does not outlive an outage for sure.
const MAX_REMEMBERED: usize = 50_000;

/// Says whether a key is a piece of an upload, and none of the files that a disk store keeps beside those.
pub(super) fn is_piece(key: &str) -> bool {
    let name = key.strip_prefix(keys::UPLOADS);
    name.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_hexdigit()))
}

/// Which pieces there are.
#[derive(Default)]
pub(super) struct Pieces(Mutex<State>);

#[derive(Default)]
struct State {
    /// What the remote is known to have, and since when.
    remote: BTreeMap<String, (Listed, Instant)>,
    /// The shares of what lies in front.
    front: HashMap<String, Share>,
}

impl State {
    /// What the remote is known to have below `prefix`.
    fn below(&self, prefix: &str) -> impl Iterator<Item = (&String, &(Listed, Instant))> {
        let from = self.remote.range(prefix.to_owned()..);
        from.take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn remember(&mut self, listed: Listed) {
        if self.remote.len() < MAX_REMEMBERED || self.remote.contains_key(&listed.key) {
            let key = listed.key.clone();
            self.remote.insert(key, (listed, Instant::now()));
        }
    }
}

impl Pieces {
    /// The remote took a piece.
    fn written(&self, key: &str, size: u64) {
        self.0.lock().remember(Listed {
            key: key.to_owned(),
            size: Some(size),
            modified: Some(Time::now()),
        });
    }

    /// The remote has these of the pieces below `prefix`, and no others that were there when it was asked.
    fn listed(&self, prefix: &str, listed: &[Listed], asked: Instant) {
        let mut state = self.0.lock();
        let older = state.below(prefix).filter(|(_, (_, since))| *since < asked);
        let gone: Vec<String> = older.map(|(key, _)| key.clone()).collect();
        for key in &gone {
            state.remote.remove(key);
        }
        for listed in listed {
            state.remember(listed.clone());
        }
    }

    fn known(&self, prefix: &str) -> Vec<Listed> {
        let state = self.0.lock();
        let known = state.below(prefix);
        known.map(|(_, (listed, _))| listed.clone()).collect()
    }

    fn removed(&self, key: &str) {
        self.0.lock().remote.remove(key);
    }

    fn is_in_front(&self, key: &str) -> bool {
        self.0.lock().front.contains_key(key)
    }

    fn keep(&self, key: &str, share: Share) {
        // What was there is dropped after the lock: a share has one of its own.
        let before = self.0.lock().front.insert(key.to_owned(), share);
        drop(before);
    }

    fn drop_share(&self, key: &str) {
        let share = self.0.lock().front.remove(key);
        drop(share);
    }
}

impl Core {
    /// Counts what an earlier process left in front.
    pub(super) async fn count_pieces(&self) -> Result<()> {
        for listed in self.front.records.list_records(keys::UPLOADS).await? {
            if is_piece(&listed.key) {
                let share = self.unsent.count(listed.size.unwrap_or(0));
                self.pieces.keep(&listed.key, share);
            }
        }
        Ok(())
    }

    pub(super) async fn read_piece(&self, key: &str, limit: u64) -> Result<Option<Bytes>> {
        let asked = self.remote.records.read_record(key, limit);
        match self.health.ask("read record", asked).await {
            Ok(Some(found)) => Ok(Some(found)),
            Ok(None) => self.front.records.read_record(key, limit).await,
            Err(e) if e.is_temporary() => {
                let found = self.front.records.read_record(key, limit).await?;
                // What is only away is not gone.
                found.map(Some).ok_or(e)
            }
            Err(e) => Err(e),
        }
    }

    pub(super) async fn write_piece(&self, key: &str, bytes: Bytes) -> Result<()> {
        let size = bytes.len() as u64;
        // A piece takes its time on a slow line, but its sender waits for no longer than it is known to be in vain.
        let asked = self.remote.records.write_record(key, bytes.clone());
        match self.health.ask("write record", asked).await {
            Ok(()) => {
                self.pieces.written(key, size);
                self.drop_from_front(key).await;
                Ok(())
            }
            Err(e) if e.is_temporary() => self.write_in_front(key, bytes).await,
            Err(e) => Err(e),
        }
    }

    async fn write_in_front(&self, key: &str, bytes: Bytes) -> Result<()> {
        let share = self.unsent.reserve_bytes(bytes.len() as u64)?;
        self.front.write_piece(key, bytes).await?;
        self.pieces.keep(key, share);
        Ok(())
    }

    async fn drop_from_front(&self, key: &str) {
        if self.pieces.is_in_front(key)
            && passed_by(self.front.records.remove_record(key).await).is_some()
        {
            self.pieces.drop_share(key);
        }
    }

    pub(super) async fn remove_piece(&self, key: &str) -> Result<()> {
        let asked = self.remote.records.remove_record(key);
        let removed = self.health.ask("remove record", asked).await;
        self.pieces.removed(key);
        self.front.records.remove_record(key).await?;
        self.pieces.drop_share(key);
        match removed {
            // What stays behind expires there.
            Err(e) if e.is_temporary() => Ok(()),
            other => other,
        }
    }

    /// The pieces below `prefix`, at the remote and in front.
    pub(super) async fn list_pieces(&self, prefix: &str) -> Result<Vec<Listed>> {
        let near = self.front.records.list_records(prefix).await?;
        let near: BTreeMap<String, Listed> = near
            .into_iter()
            .filter(|listed| is_piece(&listed.key))
            .map(|listed| (listed.key.clone(), listed))
            .collect();
        let since = Instant::now();
        let asked = self.remote.records.list_records(prefix);
        let far = match self.health.ask("list records", asked).await {
            Ok(mut listed) => {
                listed.retain(|listed| is_piece(&listed.key));
                self.pieces.listed(prefix, &listed, since);
                for listed in &listed {
                    // Releases up to 0.1 kept there what the remote has too.
                    if near.get(&listed.key).is_some_and(|n| n.size == listed.size) {
                        self.drop_from_front(&listed.key).await;
                    }
                }
                listed
            }
            Err(e) if e.is_temporary() => self.pieces.known(prefix),
            Err(e) => return Err(e),
        };
        let mut all = near;
        all.extend(far.into_iter().map(|listed| (listed.key.clone(), listed)));
        Ok(all.into_values().collect())
    }
}
