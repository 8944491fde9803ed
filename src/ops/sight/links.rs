//! Links that this daemon wrote recently.
//!
//! Links that it only read are not remembered: a sweep may remove them with a blob that was not pushed again, and anything that relied on
//! one would be left without it.

use std::{collections::HashSet, mem};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::KNOWN_FOR;
use crate::{digest::Digest, store::keys::Repo};

/// Most links of one generation, about 100 bytes each.
const MAX_LINKS: usize = 10_000;

/// Remembers each link for at least [`KNOWN_FOR`] and at most twice that; for less if there are more than [`MAX_LINKS`].
///
/// A push asks for each of its layers again when it ends with a manifest: this saves one request to the store per layer.
pub(super) struct Links {
    generations: Mutex<Generations>,
}

struct Generations {
    began: Instant,
    young: HashSet<(Repo, Digest)>,
    old: HashSet<(Repo, Digest)>,
}

impl Default for Links {
    fn default() -> Self {
        Self {
            generations: Mutex::new(Generations {
                began: Instant::now(),
                young: HashSet::new(),
                old: HashSet::new(),
            }),
        }
    }
}

impl Links {
    /// Records that a digest is now linked to a repository.
    pub(super) fn note(&self, repo: &Repo, digest: &Digest) {
        let mut generations = self.generations.lock();
        generations.turn();
        if generations.young.len() >= MAX_LINKS {
            generations.next();
        }
        generations.young.insert((repo.clone(), *digest));
    }

    /// Returns true if a digest was recently linked to a repository.
    pub(super) fn knows(&self, repo: &Repo, digest: &Digest) -> bool {
        let mut generations = self.generations.lock();
        generations.turn();
        let link = (repo.clone(), *digest);
        generations.young.contains(&link) || generations.old.contains(&link)
    }

    pub(super) fn forget_all(&self) {
        let mut generations = self.generations.lock();
        generations.next();
        generations.next();
    }
}

impl Generations {
    /// Forgets links that are too old.
    fn turn(&mut self) {
        let age = self.began.elapsed();
        if age >= 2 * KNOWN_FOR {
            self.next();
            self.old.clear();
        } else if age >= KNOWN_FOR {
            // Not counted from now: a link would be known for longer than two generations.
            let began = self.began + KNOWN_FOR;
            self.next();
            self.began = began;
        }
    }

    fn next(&mut self) {
        self.old = mem::take(&mut self.young);
        self.began = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_is_remembered_for_a_while_and_in_its_repository_only() {
        let links = Links::default();
        let (repo, other) = ("a".parse::<Repo>().unwrap(), "b".parse::<Repo>().unwrap());
        let digest = Digest::sha256_of(b"layer");
        links.note(&repo, &digest);
        assert!(links.knows(&repo, &digest));
        assert!(!links.knows(&other, &digest));
        let nearly = KNOWN_FOR * 9 / 10;
        tokio::time::advance(nearly).await;
        assert!(links.knows(&repo, &digest));
        // However late the next query is.
        tokio::time::advance(nearly).await;
        assert!(links.knows(&repo, &digest));
        tokio::time::advance(KNOWN_FOR / 5).await;
        assert!(!links.knows(&repo, &digest));
    }

    #[tokio::test]
    async fn no_more_links_are_remembered_than_there_is_room_for() {
        let links = Links::default();
        let repo = "a".parse::<Repo>().unwrap();
        let all: Vec<_> = (0..3 * MAX_LINKS)
            .map(|n| Digest::sha256_of(&n.to_le_bytes()))
            .collect();
        for digest in &all {
            links.note(&repo, digest);
        }
        let known = all.iter().filter(|d| links.knows(&repo, d)).count();
        assert!((MAX_LINKS..=2 * MAX_LINKS).contains(&known), "{known}");
        assert!(links.knows(&repo, all.last().unwrap()));
    }
}
