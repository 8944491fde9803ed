//! Rights: what may be done to which repositories.

use std::{fmt, path::Path};

use globset::{GlobBuilder, GlobMatcher};

use super::{Error, Result};

/// What a request does to a repository, in the terms of registry scopes
/// (`distribution/distribution:docs/content/spec/auth/scope.md`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Action {
    /// Reads blobs, manifests, tags, referrers.
    Pull,
    /// Writes them; includes cancelling the caller's own upload.
    Push,
    /// Removes blobs, manifests, tags.
    Delete,
}

impl Action {
    /// All actions, in the order in which they are written.
    pub const ALL: [Self; 3] = [Self::Pull, Self::Push, Self::Delete];

    /// Its word in a scope.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

impl Action {
    /// The action as a verb, to be followed by the repository's name.
    pub(super) fn verb(self) -> &'static str {
        match self {
            Self::Pull => "pull from",
            Self::Push => "push to",
            Self::Delete => "delete from",
        }
    }
}

/// A set of actions. No action includes another: the right to push does not include the right to delete (zot
/// GHSA-qg67-7m6v-qg25).
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions {
    /// [`Action::Pull`].
    pub read: bool,
    /// [`Action::Push`].
    pub write: bool,
    /// [`Action::Delete`].
    pub delete: bool,
}

impl Actions {
    /// All of them.
    pub const ALL: Self = Self {
        read: true,
        write: true,
        delete: true,
    };

    /// The set of these actions.
    pub fn of(actions: &[Action]) -> Self {
        let has = |a| actions.contains(&a);
        Self {
            read: has(Action::Pull),
            write: has(Action::Push),
            delete: has(Action::Delete),
        }
    }

    /// Returns true if it contains `action`.
    pub fn has(self, action: Action) -> bool {
        match action {
            Action::Pull => self.read,
            Action::Push => self.write,
            Action::Delete => self.delete,
        }
    }

    /// The actions in either set.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            read: self.read || other.read,
            write: self.write || other.write,
            delete: self.delete || other.delete,
        }
    }

    /// The actions in both sets.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            read: self.read && other.read,
            write: self.write && other.write,
            delete: self.delete && other.delete,
        }
    }

    /// Returns true if it has no actions.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    /// Each, in the order of [`Action::ALL`].
    pub fn each(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |a| self.has(*a))
    }
}

impl fmt::Display for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = self.each().map(Action::as_str).collect();
        f.write_str(&words.join(","))
    }
}

impl fmt::Debug for Actions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{self}]")
    }
}

/// Actions on all repositories whose names match a pattern.
#[derive(Clone)]
pub struct Grant {
    pattern: GlobMatcher,
    actions: Actions,
}

impl Grant {
    /// Grants `actions` on repositories that match `pattern`: `*` and `?` do not match a `/`, `**` does; `**` alone is every
    /// repository, `team/**` every one below `team/` and not `team` itself; `{a,b}` and `[a-z]` are alternatives.
    ///
    /// # Errors
    /// An invalid pattern.
    pub fn new(pattern: &str, actions: Actions) -> Result<Self> {
        if pattern.is_empty() {
            return Err(Error::new("a grant's repository pattern is empty")
                .hint("`**` is every repository"));
        }
        let glob = GlobBuilder::new(pattern)
            .literal_separator(true)
            .build()
            .map_err(|e| Error::new(format!("cannot use the repository pattern: {e}")))?;
        Ok(Self {
            pattern: glob.compile_matcher(),
            actions,
        })
    }

    /// Every action on every repository.
    pub fn everything() -> Self {
        Self::new("**", Actions::ALL).expect("`**` is a pattern")
    }

    /// What it allows on `repository`.
    pub fn on(&self, repository: &str) -> Actions {
        if self.pattern.is_match(Path::new(repository)) {
            self.actions
        } else {
            Actions::default()
        }
    }

    /// What it allows on at least one repository.
    pub fn anywhere(&self) -> Actions {
        self.actions
    }

    /// What it allows on all repositories, including future ones.
    pub fn everywhere(&self) -> Actions {
        if self.pattern.glob().glob() == "**" {
            self.actions
        } else {
            Actions::default()
        }
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.pattern.glob(), self.actions)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_stop_at_slashes_unless_doubled() {
        for (pattern, repository, matches) in [
            ("**", "a", true),
            ("**", "a/b/c", true),
            ("team/**", "team/a/b", true),
            ("team/**", "team", false),
            ("team/**", "teammate/a", false),
            ("team/*", "team/a", true),
            ("team/*", "team/a/b", false),
            ("*/cache", "x/cache", true),
            ("*/cache", "x/y/cache", false),
            ("{a,b}/x", "b/x", true),
            ("app", "app", true),
            ("app", "App", false),
            ("a.c", "abc", false),
        ] {
            let grant = Grant::new(pattern, Actions::ALL).unwrap();
            assert_eq!(
                !grant.on(repository).is_empty(),
                matches,
                "{pattern} {repository}"
            );
        }
    }

    #[test]
    fn pattern_that_is_none_is_refused() {
        for bad in ["", "a[", "{a"] {
            assert!(Grant::new(bad, Actions::ALL).is_err(), "{bad}");
        }
    }

    #[test]
    fn push_does_not_delete_or_pull() {
        let push = Actions::of(&[Action::Push]);
        assert!(push.has(Action::Push));
        assert!(!push.has(Action::Delete) && !push.has(Action::Pull));
        assert_eq!(Actions::ALL.to_string(), "pull,push,delete");
    }

    #[test]
    fn only_the_pattern_of_all_is_everywhere() {
        assert_eq!(Grant::everything().everywhere(), Actions::ALL);
        let most = Grant::new("*/**", Actions::ALL).unwrap();
        assert!(most.everywhere().is_empty());
    }
}
