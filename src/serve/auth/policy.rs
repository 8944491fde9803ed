//! From names to grants: the rules of the settings, and the defaults without rules.

use std::sync::Arc;

use globset::{GlobBuilder, GlobMatcher};

use super::{
    ANONYMOUS, Error, Result,
    config::{Config, Exposure, Rule, TrustLocal},
    grant::{Action, Actions, Grant},
    peer::PeerKind,
};

/// Who a rule is for.
enum Who {
    /// Everybody.
    Anybody,
    /// Authenticated callers whose name matches.
    Named(GlobMatcher),
}

/// Compiled rules.
pub(super) struct Policy {
    rules: Vec<(Vec<Who>, Vec<Arc<Grant>>)>,
    /// Grant of everybody with a name, as long as no rule is about names.
    of_names: Option<Arc<Grant>>,
    everything: Arc<Grant>,
    /// Whether everybody may do everything.
    open: bool,
    trusted: TrustLocal,
}

impl Policy {
    /// Compiles the rules.
    ///
    /// # Errors
    /// Names the invalid pattern; a rule that can never grant anything; a daemon that nobody could use.
    pub(super) fn new(config: &Config, exposure: Exposure) -> Result<Self> {
        let rules: Vec<_> = config.grants.iter().map(compile).collect::<Result<_>>()?;
        let anybody = |who: &Who| matches!(who, Who::Anybody);
        let any = rules.iter().any(|(who, _)| who.iter().any(anybody));
        let named = rules.iter().any(|(who, _)| !who.iter().all(anybody));
        let trusted = config.trusted(exposure);
        if !any
            && !config.can_identify(exposure)
            && trusted == TrustLocal::Nobody
            && !config.insecure_no_auth
        {
            return Err(Error::new(
                "every request would be refused: no client is trusted and none can authenticate",
            )
            .hint(
                "set `auth.htpasswd` or `auth.tokens`, or leave `auth.trust_local` at its default",
            ));
        }
        let default = Grant::new("**", Actions::of(&[Action::Pull, Action::Push]))?;
        Ok(Self {
            rules,
            of_names: (!named).then(|| Arc::new(default)),
            everything: Arc::new(Grant::everything()),
            open: config.insecure_no_auth && !any,
            trusted,
        })
    }

    /// Returns true if such clients have every right without authentication.
    pub(super) fn trusts(&self, from: PeerKind) -> bool {
        match from {
            PeerKind::Unix => self.trusted >= TrustLocal::Unix,
            PeerKind::Loopback => self.trusted >= TrustLocal::Loopback,
            PeerKind::Remote => false,
        }
    }

    /// Returns true if unauthenticated callers may do anything, from any address.
    pub(super) fn is_open(&self) -> bool {
        !self.grants(None, PeerKind::Remote).is_empty()
    }

    /// Grants of a principal (`None`: anonymous) from there. A name never has fewer rights than the anonymous caller, since it
    /// could omit its credentials.
    pub(super) fn grants(&self, name: Option<&str>, from: PeerKind) -> Vec<Arc<Grant>> {
        if self.trusts(from) || self.open {
            return vec![self.everything.clone()];
        }
        let fits = |who: &Who| match (who, name) {
            (Who::Anybody, _) => true,
            (Who::Named(pattern), Some(name)) => pattern.is_match(name),
            (Who::Named(_), None) => false,
        };
        let of_names = self.of_names.iter().filter(|_| name.is_some());
        self.rules
            .iter()
            .filter(|(who, _)| who.iter().any(fits))
            .flat_map(|(_, grants)| grants)
            .chain(of_names)
            .cloned()
            .collect()
    }
}

fn compile(rule: &Rule) -> Result<(Vec<Who>, Vec<Arc<Grant>>)> {
    for (list, empty) in [
        ("principals", rule.principals.is_empty()),
        ("repositories", rule.repositories.is_empty()),
        ("actions", rule.actions.is_empty()),
    ] {
        if empty {
            return Err(Error::new(format!(
                "a rule of `auth.grants` has no {list}, so it grants nothing"
            )));
        }
    }
    let who = rule.principals.iter().map(|text| who(text));
    let actions = Actions::of(&rule.actions);
    let grants = rule
        .repositories
        .iter()
        .map(|pattern| Grant::new(pattern, actions).map(Arc::new));
    Ok((who.collect::<Result<_>>()?, grants.collect::<Result<_>>()?))
}

fn who(text: &str) -> Result<Who> {
    if text == ANONYMOUS {
        return Ok(Who::Anybody);
    }
    // `*` matches slashes here: names in certificates are often URIs.
    let glob = GlobBuilder::new(text).build().map_err(|e| {
        Error::new(format!(
            "cannot use the principal `{text}` of `auth.grants`: {e}"
        ))
    })?;
    Ok(Who::Named(glob.compile_matcher()))
}

/// Returns true if a rule for `text` also applies to `name`; false for an invalid pattern.
pub(super) fn is_meant(text: &str, name: &str) -> bool {
    match who(text) {
        Ok(Who::Anybody) => true,
        Ok(Who::Named(pattern)) => pattern.is_match(name),
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(principals: &[&str], repositories: &[&str], actions: &[Action]) -> Rule {
        let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Rule {
            principals: own(principals),
            repositories: own(repositories),
            actions: actions.to_vec(),
        }
    }

    fn with(grants: Vec<Rule>) -> Config {
        Config {
            htpasswd: Some("/x".into()),
            grants,
            ..Config::default()
        }
    }

    fn may(policy: &Policy, name: Option<&str>, from: PeerKind, repository: &str) -> String {
        let grants = policy.grants(name, from);
        let all = grants.iter().map(|g| g.on(repository));
        all.fold(Actions::default(), Actions::or).to_string()
    }

    use PeerKind::{Loopback, Remote, Unix};

    #[test]
    fn rules_add_up_by_name() {
        use Action::{Delete, Pull, Push};
        let config = with(vec![
            rule(&["anonymous"], &["public/**"], &[Pull]),
            rule(&["*"], &["**"], &[Pull]),
            rule(&["ci", "node-*"], &["team/**", "x"], &[Push]),
            rule(&["spiffe://cluster/*"], &["**"], &[Delete]),
        ]);
        let p = Policy::new(&config, Exposure::Network).unwrap();
        for (name, repository, want) in [
            (None, "public/a", "pull"),
            (None, "team/a", ""),
            (Some("dev"), "team/a", "pull"),
            (Some("ci"), "team/a", "pull,push"),
            (Some("node-7"), "x", "pull,push"),
            (Some("ci"), "y", "pull"),
            (Some("spiffe://cluster/ns/a"), "y", "pull,delete"),
        ] {
            assert_eq!(
                may(&p, name, Remote, repository),
                want,
                "{name:?} {repository}"
            );
        }
    }

    #[test]
    fn without_rules_names_pull_and_push_and_never_delete() {
        let p = Policy::new(&with(Vec::new()), Exposure::Network).unwrap();
        assert_eq!(may(&p, Some("ci"), Remote, "a"), "pull,push");
        assert_eq!(may(&p, None, Remote, "a"), "");
        let open = with(vec![rule(&["anonymous"], &["p/**"], &[Action::Pull])]);
        let p = Policy::new(&open, Exposure::Network).unwrap();
        assert_eq!(may(&p, Some("ci"), Remote, "a"), "pull,push");
        assert_eq!(may(&p, None, Remote, "p/a"), "pull");
    }

    #[test]
    fn local_clients_are_trusted_as_far_as_it_is_set() {
        let all = "pull,push,delete";
        let bare = Policy::new(&Config::default(), Exposure::LocalOnly).unwrap();
        let users = Policy::new(&with(Vec::new()), Exposure::LocalOnly).unwrap();
        let nobody = Config {
            trust_local: Some(TrustLocal::Nobody),
            ..with(Vec::new())
        };
        let nobody = Policy::new(&nobody, Exposure::LocalOnly).unwrap();
        for (policy, from, want) in [
            (&bare, Unix, all),
            (&bare, Loopback, all),
            (&bare, Remote, ""),
            (&users, Unix, all),
            (&users, Loopback, ""),
            (&nobody, Unix, ""),
        ] {
            assert_eq!(may(policy, None, from, "a"), want, "{from:?}");
        }
    }

    #[test]
    fn open_network_is_open_unless_rules_say_how_far() {
        let open = Config {
            insecure_no_auth: true,
            ..Config::default()
        };
        let p = Policy::new(&open, Exposure::Network).unwrap();
        assert_eq!(may(&p, None, Remote, "a"), "pull,push,delete");
        let read = Config {
            grants: vec![rule(&["anonymous"], &["**"], &[Action::Pull])],
            ..open
        };
        let p = Policy::new(&read, Exposure::Network).unwrap();
        assert_eq!(may(&p, None, Remote, "a"), "pull");
    }

    #[test]
    fn rules_that_cannot_work_are_refused() {
        for bad in [
            rule(&[], &["**"], &[Action::Pull]),
            rule(&["ci"], &[], &[Action::Pull]),
            rule(&["ci"], &["**"], &[]),
            rule(&["c["], &["**"], &[Action::Pull]),
            rule(&["ci"], &["a["], &[Action::Pull]),
        ] {
            let config = with(vec![bad]);
            assert!(Policy::new(&config, Exposure::Network).is_err());
        }
        let shut = Config {
            trust_local: Some(TrustLocal::Nobody),
            ..Config::default()
        };
        assert!(Policy::new(&shut, Exposure::LocalOnly).is_err());
    }
}
