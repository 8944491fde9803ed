//! Who a request is made as, and what it needs.

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
    /// The repository's name, by the grammar of the distribution spec.
    pub repository: Cow<'a, str>,
    /// What is done to it.
    pub action: Action,
    /// It is the list of repositories instead; the name is empty.
    pub(super) catalog: bool,
    /// Whether the request goes on without it: a mount becomes an upload where its source may not be read.
    pub optional: bool,
    /// Whether the same on any other repository will do; the one that is named is what its refusal speaks of.
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

    /// To list repositories, each of which is shown to whoever may read it ([`Principal::may_list`]).
    pub fn catalog() -> Self {
        Self {
            catalog: true,
            ..Self::pull("")
        }
    }

    /// To read.
    pub fn pull(repository: impl Into<Cow<'a, str>>) -> Self {
        Self::new(repository, Action::Pull)
    }

    /// To write.
    pub fn push(repository: impl Into<Cow<'a, str>>) -> Self {
        Self::new(repository, Action::Push)
    }

    /// To remove.
    pub fn delete(repository: impl Into<Cow<'a, str>>) -> Self {
        Self::new(repository, Action::Delete)
    }

    /// The same, as one that a challenge names but that no request is refused for; ask [`Principal::may`] whether it is there.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.optional = true;
        self
    }

    /// The same on whatever repository: which ones the caller reaches is for the door to ask.
    #[must_use]
    pub fn somewhere(mut self) -> Self {
        self.somewhere = true;
        self
    }
}

/// Who a request is made as, with the rights of that request.
#[derive(Debug, Clone)]
pub struct Principal {
    /// `None`: nobody in particular.
    name: Option<Arc<str>>,
    grants: Vec<Arc<Grant>>,
    /// What the token that was shown is limited to.
    ceiling: Option<Access>,
}

impl Principal {
    /// Whose share the request counts to; `address` where it is nobody in particular.
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

    /// Somebody who was not asked who they are, and has no rights.
    pub fn nobody() -> Self {
        Self::new(None, Vec::new())
    }

    /// The same, with no more rights than a token holds.
    #[must_use]
    pub(super) fn within(mut self, access: Access) -> Self {
        self.ceiling = Some(access);
        self
    }

    /// The name, for logs and errors; [`ANONYMOUS`] for nobody in particular.
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or(ANONYMOUS)
    }

    /// Says whether it showed nothing.
    pub fn is_anonymous(&self) -> bool {
        self.name.is_none()
    }

    /// Says whether it may do this now, with what it showed.
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

    /// Says whether a list of repositories shows it this one. A token to list is for all that its name may read.
    pub fn may_list(&self, repository: &str) -> bool {
        self.may(&Need::catalog()) && self.granted(repository).has(Action::Pull)
    }

    /// Says whether there is any repository that its name may do this to, whatever a token leaves of that now.
    pub fn is_granted_somewhere(&self, action: Action) -> bool {
        self.grants.iter().any(|g| g.anywhere().has(action))
    }

    /// Says whether there is any repository that it may do this to now; which one is asked by [`Self::may`].
    pub fn may_somewhere(&self, action: Action) -> bool {
        match &self.ceiling {
            None => self.grants.iter().any(|g| g.anywhere().has(action)),
            Some(access) => access
                .repositories()
                .any(|name| self.may(&Need::new(name, action))),
        }
    }

    /// Says whether it may do this to every repository there is or will be: upkeep that does not stop at one.
    ///
    /// Never so with a token of the registry flow: those are for single repositories.
    pub fn may_everywhere(&self, action: Action) -> bool {
        self.ceiling.is_none() && self.grants.iter().any(|g| g.everywhere().has(action))
    }

    /// Says whether its name may read every repository there is or will be, whatever token it showed.
    pub fn reads_everything(&self) -> bool {
        self.grants.iter().any(|g| g.everywhere().has(Action::Pull))
    }

    /// What its name is granted, whatever token it showed.
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
