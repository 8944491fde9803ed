//! When tags were checked ([`super::lost`]), and which are due.
//!
//! Reading a tag requests a check. The repositories of one user (those with the same first path component) get at most as many
//! checks as they leave for all others: half, if nobody else reads. So a user who reads very many tags does not prevent checks of
//! other tags.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use crate::{artifact::Tag, digest::Digest, store::keys::Repo};

/// How often a tag is checked: if nothing is lost, this takes a few requests per hour.
pub(super) const EVERY: Duration = Duration::from_hours(6);
/// Maximum tags with a known time of their last check.
const MAX_TAGS: usize = 20_000;
/// Maximum tags that wait for a check; for others the next read requests it again.
const MAX_WAITING: usize = 128;
/// How often tags that are due are forgotten, if there are very many.
const TIDY: Duration = Duration::from_mins(1);

type Key = (Repo, Tag);

/// A tag that was read, and what it points at.
pub(super) struct Job {
    pub(super) key: Key,
    pub(super) digest: Digest,
}

#[derive(Default)]
struct State {
    /// By the first path component of the repository.
    looked: HashMap<Box<str>, HashMap<Key, Instant>>,
    waiting: VecDeque<Job>,
    /// When due tags were last forgotten.
    tidied: Option<Instant>,
}

/// When tags were checked, and which wait for a check.
#[derive(Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    came: Notify,
}

/// The owner of a repository, judging by its name.
fn folder(repo: &Repo) -> &str {
    let name = repo.as_str();
    name.split_once('/').map_or(name, |(folder, _)| folder)
}

fn is_due(looked: &Instant) -> bool {
    looked.elapsed() >= EVERY
}

impl State {
    fn has_room(&self, folder: &str) -> bool {
        let all: usize = self.looked.values().map(HashMap::len).sum();
        let own = self.looked.get(folder).map_or(0, HashMap::len);
        own < MAX_TAGS.saturating_sub(all)
    }

    fn tidy(&mut self) {
        if self.tidied.is_some_and(|at| at.elapsed() < TIDY) {
            return;
        }
        self.tidied = Some(Instant::now());
        self.looked.retain(|_, tags| {
            tags.retain(|_, at| !is_due(at));
            !tags.is_empty()
        });
    }

    /// Returns true if one more of these may wait.
    fn may_wait(&self, of: &str) -> bool {
        let own = self.waiting.iter().filter(|j| folder(&j.key.0) == of);
        own.count() < MAX_WAITING.saturating_sub(self.waiting.len())
    }
}

impl Turns {
    /// Records that a tag was read, and that it points at `digest` according to the remote.
    pub(super) fn was_read(&self, repo: &Repo, tag: &Tag, digest: &Digest) {
        let (key, folder) = ((repo.clone(), tag.clone()), folder(repo));
        let mut state = self.state.lock();
        let looked = state.looked.get(folder).and_then(|tags| tags.get(&key));
        if looked.is_some_and(|at| !is_due(at)) || !state.may_wait(folder) {
            return;
        }
        if !state.has_room(folder) {
            state.tidy();
            if !state.has_room(folder) {
                return;
            }
        }
        let tags = state.looked.entry(folder.into()).or_default();
        tags.insert(key.clone(), Instant::now());
        state.waiting.push_back(Job {
            key,
            digest: *digest,
        });
        drop(state);
        self.came.notify_one();
    }

    /// Records that a tag was not checked: the next read requests it again.
    pub(super) fn forget(&self, key: &Key) {
        if let Some(tags) = self.state.lock().looked.get_mut(folder(&key.0)) {
            tags.remove(key);
        }
    }

    pub(super) async fn next(&self) -> Job {
        loop {
            if let Some(job) = self.state.lock().waiting.pop_front() {
                return job;
            }
            self.came.notified().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    fn read(turns: &Turns, repo: &str, tag: usize) {
        let (repo, tag) = (repo.parse().unwrap(), format!("t{tag}").parse().unwrap());
        turns.was_read(&repo, &tag, &Digest::sha256_of(b"x"));
    }

    /// The tags of a folder that have their turn now.
    fn turns_of(turns: &Turns, folder: &str) -> usize {
        let all = std::iter::from_fn(|| turns.next().now_or_never());
        all.filter(|job| super::folder(&job.key.0) == folder)
            .count()
    }

    #[tokio::test(start_paused = true)]
    async fn one_who_reads_very_many_tags_leaves_turns_to_others() {
        let turns = Turns::default();
        let mut taken = 0;
        for tag in 0..MAX_TAGS {
            read(&turns, &format!("own/{}", tag % 7), tag);
            taken += turns_of(&turns, "own");
        }
        assert_eq!(taken, MAX_TAGS / 2);
        read(&turns, "team/app", 1);
        read(&turns, "team/app", 1);
        assert_eq!(turns_of(&turns, "team"), 1);
        // Also where what was asked for waits.
        tokio::time::advance(EVERY).await;
        for tag in 0..1000 {
            read(&turns, "own/x", tag);
        }
        read(&turns, "team/app", 1);
        assert_eq!(turns_of(&turns, "team"), 1);
        read(&turns, "own/x", 1000);
        assert_eq!(turns_of(&turns, "own"), 1);
    }
}
