//! The scopes of a token: `repository:<name>:pull,push`.
//!
//! Grammar: `distribution/distribution:docs/content/spec/auth/scope.md`.

use std::collections::{BTreeMap, BTreeSet};

/// Maximum number of resources in one token; a challenge with more is ignored.
const MAX_RESOURCES: usize = 32;

/// Resources with the requested actions; merged, sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scopes(BTreeMap<String, BTreeSet<String>>);

impl Scopes {
    /// Read access to `repository`.
    pub(super) fn pull(repository: &str) -> Self {
        Self::repository(repository, &["pull"])
    }

    /// Write access to `repository`.
    pub(super) fn push(repository: &str) -> Self {
        Self::repository(repository, &["pull", "push"])
    }

    /// Removal of tags of `repository`.
    pub(super) fn delete(repository: &str) -> Self {
        Self::repository(repository, &["delete", "pull", "push"])
    }

    fn repository(repository: &str, actions: &[&str]) -> Self {
        let actions = actions.iter().map(|a| (*a).to_owned()).collect();
        Self(BTreeMap::from([(
            format!("repository:{repository}"),
            actions,
        )]))
    }

    /// Adds the scopes of `other`.
    pub(super) fn merge(&mut self, other: &Scopes) {
        for (resource, actions) in &other.0 {
            if self.0.len() >= MAX_RESOURCES && !self.0.contains_key(resource) {
                continue;
            }
            let own = self.0.entry(resource.clone()).or_default();
            own.extend(actions.iter().take(MAX_RESOURCES).cloned());
        }
    }

    /// Both together.
    #[must_use]
    pub(super) fn and(mut self, other: &Scopes) -> Self {
        self.merge(other);
        self
    }

    /// Parses a challenge's list, separated by spaces.
    ///
    /// The name may contain the `:` of a port, so the actions begin after the last one.
    pub(super) fn parse(text: &str) -> Self {
        let mut all = Self::default();
        for scope in text.split_ascii_whitespace().take(MAX_RESOURCES) {
            let (resource, actions) = scope.rsplit_once(':').unwrap_or((scope, ""));
            let actions = actions
                .split(',')
                .filter(|a| !a.is_empty())
                .map(str::to_owned);
            all.merge(&Self(BTreeMap::from([(
                resource.to_owned(),
                actions.collect(),
            )])));
        }
        all
    }

    /// Returns true if it includes all of `other`.
    pub(super) fn covers(&self, other: &Scopes) -> bool {
        other.0.iter().all(|(resource, actions)| {
            self.0
                .get(resource)
                .is_some_and(|own| own.is_superset(actions))
        })
    }

    /// Returns true if only reading is requested.
    pub(super) fn only_pull(&self) -> bool {
        self.0.values().flatten().all(|a| a == "pull")
    }

    /// Each scope in the form in which it is sent.
    pub(super) fn each(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(resource, actions)| {
            if actions.is_empty() {
                return resource.clone();
            }
            let actions: Vec<&str> = actions.iter().map(String::as_str).collect();
            format!("{resource}:{}", actions.join(","))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_of_one_repository_are_merged() {
        let s = Scopes::parse(
            "repository:a/b:push repository:a/b:pull repository:h:5000/c:pull openid",
        );
        let all: Vec<String> = s.each().collect();
        assert_eq!(
            all,
            [
                "openid",
                "repository:a/b:pull,push",
                "repository:h:5000/c:pull"
            ]
        );
    }

    #[test]
    fn wider_covers_narrower_only() {
        assert!(Scopes::push("a").covers(&Scopes::pull("a")));
        assert!(!Scopes::pull("a").covers(&Scopes::push("a")));
        assert!(!Scopes::push("a").covers(&Scopes::pull("b")));
        assert!(
            Scopes::push("a")
                .and(&Scopes::pull("b"))
                .covers(&Scopes::pull("b"))
        );
        assert!(Scopes::pull("a").only_pull() && !Scopes::push("a").only_pull());
    }

    #[test]
    fn hostile_list_is_cut() {
        let all: Vec<String> = (0..10_000)
            .map(|i| format!("repository:r{i}:pull"))
            .collect();
        let long = all.join(" ");
        assert_eq!(Scopes::parse(&long).each().count(), MAX_RESOURCES);
    }
}
