//! The principal of a request, and the rights it needs.

use std::{borrow::Cow, sync::Arc};

use super::{
    ANONYMOUS,
    access::Access,
    grant::{Action, Actions, Grant},
};
use crate::serve::admission::Key;

/// One right that a request needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need<'a> {
    /// The repository's name, following the grammar of the distribution spec.
    pub repository: Cow<'a, str>,
    /// What is done to it.
    pub action: Action,
    /// The right is for the list of repositories instead; the name is empty.
    pub(super) catalog: bool,
    /// Whether the request proceeds without it: a mount becomes an upload if its source may not be read.
    pub optional: bool,
    /// Whether the same right on any other repository suffices; the refusal mentions the repository named here.
    pub(super) somewhere: bool,
}

impl<'a> Need<'a> {
    /// A right without which the request is refused.
    pub fn new(repository: impl Into<Cow<'a, str>>, action: Action) -> Self {
        Self {
            repository: repository.into(),
            action,
            catalog: false,
            optional: false,
            somewhere: false,
        }
    }

    /// The right to list repositories; callers see those that they may read ([`Principal::may_list`]).
    pub fn catalog() -> Self {
        Self {
            catalog: true,
            ..Self::pull("")
        }
    }

    /// The right to read.
    pub fn pull(repository: impl Into<Cow<'a, str>>) -> Self {
        Self::new(repository, Action::Pull)
    }

    /// The right to write.
    pub fn push(repository: impl Into<Cow<'a, str>>) -> Self {
        Self::new(repository, Action::Push)
    }

    /// The right to remove.
    pub fn delete(repository: impl Into<Cow<'a, str>>) -> Self {
        Self::new(repository, Action::Delete)
    }

    /// The same, named in challenges without being required; ask [`Principal::may`] whether the caller has it.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same on any repository: the door determines which ones the caller can access.
    #[must_use]
    pub fn somewhere(mut self) -> Self {
        self.somewhere = true;
        self
    }
}

/// The principal of a request, with the rights of that request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// `None`: anonymous.
    name: Option<Arc<str>>,
    grants: Vec<Arc<Grant>>,
    /// The limits of the token that was used.
    ceiling: Option<Access>,
}

impl Principal {
    /// Which caller the request is accounted to; `address` if it is anonymous.
    pub fn key(&self, address: Key) -> Key {
        self.name.clone().map_or(address, Key::Principal)
    }

    pub(super) fn new(name: Option<Arc<str>>, grants: Vec<Arc<Grant>>) -> Self {
        Self {
            name,
            grants,
            ceiling: None,
        }
    }

    /// A caller that was not identified, without rights.
    pub fn nobody() -> Self {
        Self::new(None, Vec::new())
    }

    /// The same, with no more rights than the token has.
    #[must_use]
    pub(super) fn within(mut self, access: Access) -> Self {
        self.ceiling = Some(access);
        self
    }

    /// The name, for logs and errors; [`ANONYMOUS`] for an anonymous caller.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(ANONYMOUS)
    }

    /// Returns true if the caller is not authenticated.
    pub fn is_anonymous(&self) -> bool {
        self.name.is_none()
    }

    /// Returns true if it may do this now, with its credentials.
    pub fn may(&self, need: &Need<'_>) -> bool {
        if need.catalog {
            return self.ceiling.as_ref().is_none_or(Access::lists);
        }
        if need.somewhere {
            return self.may_somewhere(need.action);
        }
        let within = |access: &Access| access.on(&need.repository).has(need.action);
        self.granted(&need.repository).has(need.action) && self.ceiling.as_ref().is_none_or(within)
    }

    /// Returns true if its lists of repositories include this one. A token for listing covers everything that its name may
    /// read.
    pub fn may_list(&self, repository: &str) -> bool {
        self.may(&Need::catalog()) && self.granted(repository).has(Action::Pull)
    }

    /// Returns true if its name may do this to any repository, regardless of the limits of its token.
    pub fn is_granted_somewhere(&self, action: Action) -> bool {
        self.grants.iter().any(|g| g.anywhere().has(action))
    }

    /// Returns true if it may do this to any repository now; [`Self::may`] checks a particular one.
    pub fn may_somewhere(&self, action: Action) -> bool {
        match &self.ceiling {
            None => self.grants.iter().any(|g| g.anywhere().has(action)),
            Some(access) => access
                .repositories()
                .any(|name| self.may(&Need::new(name, action))),
        }
    }

    /// Returns true if it may do this to all repositories, including future ones: required for maintenance of the whole store.
    ///
    /// Never true with a token of the registry flow: those are for single repositories.
    pub fn may_everywhere(&self, action: Action) -> bool {
        self.ceiling.is_none() && self.grants.iter().any(|g| g.everywhere().has(action))
    }

    /// Returns true if its name may read all repositories, including future ones, regardless of its token.
    pub fn reads_everything(&self) -> bool {
        self.grants.iter().any(|g| g.everywhere().has(Action::Pull))
    }

    /// The grants of its name, regardless of its token.
    pub(super) fn granted(&self, repository: &str) -> Actions {
        self.grants
            .iter()
            .fold(Actions::default(), |all, g| all.or(g.on(repository)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(pattern: &str, actions: &[Action]) -> Arc<Grant> {
        Arc::new(Grant::new(pattern, Actions::of(actions)).unwrap())
    }

    #[test]
    fn grants_add_up() {
        let p = Principal::new(
            Some("ci".into()),
            vec![
                grant("**", &[Action::Pull]),
                grant("team/**", &[Action::Push]),
            ],
        );
        assert!(p.may(&Need::pull("team/a")) && p.may(&Need::push("team/a")));
        assert!(!p.may(&Need::push("other")) && !p.may(&Need::delete("team/a")));
        assert!(p.may_everywhere(Action::Pull) && !p.may_everywhere(Action::Push));
        assert!(p.may_somewhere(Action::Push) && !p.may_somewhere(Action::Delete));
    }

    #[test]
    fn token_takes_away_and_never_adds() {
        let mut access = Access::default();
        access.add("a", Actions::ALL);
        let p = Principal::new(None, vec![grant("**", &[Action::Pull])]).within(access);
        assert!(p.may(&Need::pull("a")));
        assert!(!p.may(&Need::push("a")) && !p.may(&Need::pull("b")));
        assert!(!p.may_everywhere(Action::Pull));
        assert!(p.may_somewhere(Action::Pull) && !p.may_somewhere(Action::Push));
    }
}
