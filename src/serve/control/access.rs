//! The rights that a call needs, and the repositories that its caller may use.

use std::sync::Arc;

use tonic::{Code, Status};

use crate::{
    ops::{Reach, sight::Sights},
    serve::{
        auth::{Action, Need, Principal},
        refusal::Refusal,
    },
    store::keys::Repo,
};

/// What a call does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Reads from repositories: those that its caller may read, if there are any.
    Read,
    /// Writes to the repository `cachectl`.
    Write,
    /// Removes from repositories: those that its caller may remove from, if there are any.
    Delete,
    /// Affects more than single repositories, or accesses other stores as the daemon.
    Everything,
}

impl Right {
    /// The minimum grant of its caller; [`Self::check`] decides whether that is enough.
    pub(super) fn need(self) -> Need<'static> {
        let on_own = |action| Need::new(Repo::cli().to_string(), action);
        match self {
            Self::Read => on_own(Action::Pull).somewhere(),
            Self::Write => on_own(Action::Push),
            Self::Delete => on_own(Action::Delete).somewhere(),
            Self::Everything => on_own(Action::Delete),
        }
    }

    /// Refuses a caller that has the minimum of [`Self::need`] but not all required rights.
    pub(super) fn check(self, who: &Principal) -> Result<(), Refusal> {
        if self != Self::Everything || may_everything(who) {
            return Ok(());
        }
        Err(Refusal::denied(format!(
            "`{}` may not do this: it needs a grant of all actions on all repositories, which a token never has",
            who.name()
        )))
    }
}

fn may_everything(who: &Principal) -> bool {
    Action::ALL.into_iter().all(|a| who.may_everywhere(a))
}

/// The rights of a call's caller.
#[derive(Debug, Clone)]
pub(super) struct Rights(pub(super) Principal);

impl Rights {
    /// Returns true if the caller may do everything everywhere: other callers learn nothing about the machine behind the store.
    pub(super) fn is_everything(&self) -> bool {
        may_everything(&self.0)
    }

    /// The repositories that it may read.
    pub(super) fn to_read(&self, sights: &Arc<Sights>) -> Reach {
        self.reach(Action::Pull, &[Action::Pull], sights)
    }

    /// The repositories that it may remove from; the whole store only with a grant of everything.
    pub(super) fn to_delete(&self, sights: &Arc<Sights>) -> Reach {
        self.reach(Action::Delete, &Action::ALL, sights)
    }

    /// Returns true if the caller may read every repository: then it may also see numbers of the whole store.
    pub(super) fn reads_everything(&self) -> bool {
        self.0.reads_everything()
    }

    fn reach(&self, action: Action, on_all: &[Action], sights: &Arc<Sights>) -> Reach {
        if on_all.iter().all(|a| self.0.may_everywhere(*a)) {
            return Reach::everything();
        }
        let who = self.0.clone();
        let admits = move |repo: &Repo| who.may(&Need::new(repo.as_str(), action));
        Reach::granted(admits, sights.clone())
    }
}

/// A refusal as a gRPC status.
pub(super) fn status(refusal: &Refusal) -> Status {
    let code = match refusal.status.as_u16() {
        _ if refusal.is_fault => Code::Cancelled,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        412 => Code::FailedPrecondition,
        429 => Code::ResourceExhausted,
        _ => Code::Unavailable,
    };
    Status::new(code, &refusal.message)
}

/// A method, by the right to call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    /// A method of the control API.
    Verb(Right),
    /// Reflection, whose requests are a stream.
    Reflection,
    /// Health, and unknown methods: the answer reveals nothing about the store.
    Health,
}

/// The methods of all services. A prune sweeps only for callers that may do everything, since blobs belong to all repositories;
/// a copy uses the daemon's own credentials.
const METHODS: [(&str, CallKind); 13] = [
    ("/cachectl.v1.Control/Status", CallKind::Verb(Right::Read)),
    ("/cachectl.v1.Control/List", CallKind::Verb(Right::Read)),
    ("/cachectl.v1.Control/Inspect", CallKind::Verb(Right::Read)),
    ("/cachectl.v1.Control/Delete", CallKind::Verb(Right::Delete)),
    ("/cachectl.v1.Control/Prune", CallKind::Verb(Right::Delete)),
    (
        "/cachectl.v1.Control/DiskUsage",
        CallKind::Verb(Right::Read),
    ),
    ("/cachectl.v1.Control/Verify", CallKind::Verb(Right::Read)),
    (
        "/cachectl.v1.Control/Copy",
        CallKind::Verb(Right::Everything),
    ),
    ("/cachectl.v1.Control/Flush", CallKind::Verb(Right::Write)),
    ("/grpc.health.v1.Health/Check", CallKind::Health),
    ("/grpc.health.v1.Health/Watch", CallKind::Health),
    (
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        CallKind::Reflection,
    ),
    (
        "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        CallKind::Reflection,
    ),
];

fn known(path: &str) -> Option<(&'static str, CallKind)> {
    METHODS.into_iter().find(|(route, _)| *route == path)
}

/// The method at `path`, if there is one.
pub(super) fn label(path: &str) -> &'static str {
    known(path).map_or("other", |(route, _)| route)
}

impl CallKind {
    /// The method at `path`. A control method that is not in the table requires everything, so that a new one is not open by
    /// mistake.
    pub(super) fn at(path: &str) -> Self {
        let is_control = path.starts_with("/cachectl.v1.Control/");
        let unknown = if is_control {
            Self::Verb(Right::Everything)
        } else {
            Self::Health
        };
        known(path).map_or(unknown, |(_, method)| method)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::serve::auth::{ANONYMOUS, Authority, Config, Exposure, Peer, Rule};

    async fn admitted(actions: &[Action], repository: &str) -> Vec<bool> {
        let rule = Rule {
            principals: vec![ANONYMOUS.to_owned()],
            repositories: vec![repository.to_owned()],
            actions: actions.to_vec(),
        };
        let config = Config {
            grants: vec![rule],
            insecure_no_auth: true,
            ..Config::default()
        };
        let state = tempfile::tempdir().unwrap();
        let authority = Authority::open(config, state.path(), Exposure::Network);
        let authority = authority.await.unwrap();
        // No peer in its extensions: a remote client.
        let (request, ()) = Request::new(()).into_parts();
        let mut admitted = Vec::new();
        for right in [Right::Read, Right::Write, Right::Delete, Right::Everything] {
            let peer = Peer::of(&request.extensions);
            let known = authority.authorize(&request, &peer, &[right.need()]).await;
            admitted.push(known.and_then(|who| right.check(&who)).is_ok());
        }
        admitted
    }

    #[tokio::test]
    async fn calls_need_grants_on_some_repository_or_on_all() {
        use Action::{Delete, Pull, Push};
        let all = [Pull, Push, Delete];
        for (actions, repository, want) in [
            (&[Pull][..], "**", [true, false, false, false]),
            (&[Pull, Push], "cachectl", [true, true, false, false]),
            (&all, "cachectl", [true, true, true, false]),
            (&all, "**", [true; 4]),
            (&all, "team/**", [true, false, true, false]),
            (&[Delete], "**", [false, false, true, false]),
        ] {
            assert_eq!(admitted(actions, repository).await, want, "{repository}");
        }
    }

    #[test]
    fn every_method_of_the_schema_has_its_right_and_its_label() {
        let schema = include_str!("../../../proto/cachectl/v1/control.proto");
        let methods = schema.lines().filter_map(|line| {
            let (name, _) = line.trim().strip_prefix("rpc ")?.split_once('(')?;
            Some(format!("/cachectl.v1.Control/{name}"))
        });
        let methods: Vec<String> = methods.collect();
        assert!(methods.len() > 8, "{methods:?}");
        for path in methods {
            assert_eq!(label(&path), path, "METHODS has no row for it");
        }
    }

    #[test]
    fn methods_take_rights_and_only_health_and_reflection_take_none() {
        for (path, method) in [
            ("/cachectl.v1.Control/Status", CallKind::Verb(Right::Read)),
            ("/cachectl.v1.Control/Verify", CallKind::Verb(Right::Read)),
            ("/cachectl.v1.Control/Flush", CallKind::Verb(Right::Write)),
            ("/cachectl.v1.Control/Delete", CallKind::Verb(Right::Delete)),
            ("/cachectl.v1.Control/Prune", CallKind::Verb(Right::Delete)),
            (
                "/cachectl.v1.Control/Copy",
                CallKind::Verb(Right::Everything),
            ),
            (
                "/cachectl.v1.Control/New",
                CallKind::Verb(Right::Everything),
            ),
            ("/grpc.health.v1.Health/Check", CallKind::Health),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                CallKind::Reflection,
            ),
        ] {
            assert_eq!(CallKind::at(path), method, "{path}");
        }
    }
}
