//! Recently verified passwords: bcrypt takes tens of milliseconds on purpose, and a push sends hundreds of requests.

use std::time::Duration;

use crate::{
    digest::{Sha256, Sha256Hasher},
    lately::Lately,
    random,
    redact::Secret,
};

/// Maximum number of entries: the oldest ones are removed first.
const MAX_ENTRIES: usize = 1024;

/// Name and password, hashed with a key of this process: the entries reveal nothing to an attacker who reads memory without the
/// key, and nobody outside can choose their place in the map.
pub(super) struct Remembered {
    key: [u8; 32],
    right: Lately<Sha256>,
}

impl Remembered {
    pub(super) fn new(life: Duration) -> Self {
        Self {
            key: random::bytes(),
            right: Lately::new(MAX_ENTRIES, life),
        }
    }

    /// The id of this name and password here.
    pub(super) fn id(&self, name: &str, password: &Secret) -> Sha256 {
        let mut hasher = Sha256Hasher::default();
        hasher.update(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes());
        hasher.update(name.as_bytes());
        hasher.update(password.expose().as_bytes());
        hasher.finish()
    }

    /// Returns true if it was verified recently enough.
    pub(super) fn knows(&self, id: Sha256) -> bool {
        self.right.contains(&id)
    }

    /// Remembers that it is correct.
    pub(super) fn add(&self, id: Sha256) {
        self.right.insert(id, ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn passwords_are_forgotten_in_time() {
        let known = Remembered::new(Duration::from_mins(5));
        let id = known.id("ci", &Secret::new("x"));
        assert!(!known.knows(id));
        known.add(id);
        tokio::time::advance(Duration::from_secs(299)).await;
        assert!(known.knows(id));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!known.knows(id));
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_are_kept_and_the_oldest_goes() {
        let known = Remembered::new(Duration::from_mins(5));
        let ids: Vec<_> = (0..=MAX_ENTRIES)
            .map(|i| known.id("ci", &Secret::new(i.to_string())))
            .collect();
        for id in &ids {
            known.add(*id);
            tokio::time::advance(Duration::from_millis(1)).await;
        }
        assert!(
            !known.knows(ids[0])
                && known.knows(ids[MAX_ENTRIES - 1])
                && known.knows(ids[MAX_ENTRIES])
        );
    }

    #[tokio::test]
    async fn name_and_password_do_not_run_into_each_other() {
        let known = Remembered::new(Duration::from_mins(5));
        let id = |name, password: &str| known.id(name, &Secret::new(password));
        assert_ne!(id("a", "bc"), id("ab", "c"));
        let other = Remembered::new(Duration::from_mins(5));
        assert_ne!(id("a", "b"), other.id("a", &Secret::new("b")));
    }
}
