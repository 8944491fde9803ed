//! What a call needs, and who says whether its caller may.

use std::sync::Arc;

use async_trait::async_trait;
use axum::http::request::Parts;
use tonic::Status;

use crate::{
    ops::{Reach, sight::Sights},
    serve::{
        admission::Key,
        auth::{Action, Authority, Need, Peer, Principal, Refusal},
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
    /// Does what does not stop at one repository, or goes to other stores as the daemon.
    Everything,
}

/// Says who may call what: the one place where authentication meets the control door.
#[async_trait]
pub trait Admit: Send + Sync {
    /// Lets a request through that has the right it needs, and says how far that goes. Who asks is in its headers and extensions.
    ///
    /// # Errors
    /// `Unauthenticated` where somebody else might do it, `PermissionDenied` where it is known who asks.
    async fn admit(&self, request: &Parts, right: Right) -> Result<Rights, Status>;

    /// Whose share a request counts to, as long as it is not known who sends it.
    fn caller(&self, request: &Parts) -> Key {
        Peer::of(&request.extensions).key()
    }
}

/// What the caller of a call may do where.
#[derive(Debug, Clone)]
pub struct Rights(Option<Principal>);

impl Rights {
    /// Everything everywhere.
    pub fn everything() -> Self {
        Self(None)
    }

    /// Whose share the call counts to; `address` where it is nobody in particular.
    pub(super) fn key(&self, address: Key) -> Key {
        match &self.0 {
            Some(principal) => principal.key(address),
            None => address,
        }
    }

    /// Says whether the caller may do everything everywhere: whoever may not learns nothing of the machine behind the store.
    pub(super) fn is_everything(&self) -> bool {
        let all = |who: &Principal| Action::ALL.into_iter().all(|a| who.may_everywhere(a));
        self.0.as_ref().is_none_or(all)
    }

    /// The repositories that it may read.
    pub(super) fn to_read(&self, sights: &Arc<Sights>) -> Reach {
        self.reach(Action::Pull, &[Action::Pull], sights)
    }

    /// The repositories that it may remove from; all of the store only with a grant of everything.
    pub(super) fn to_delete(&self, sights: &Arc<Sights>) -> Reach {
        self.reach(Action::Delete, &Action::ALL, sights)
    }

    /// Returns true if the caller may read every repository: then numbers of the whole store are for it too.
    pub(super) fn reads_everything(&self) -> bool {
        self.0.as_ref().is_none_or(Principal::reads_everything)
    }

    fn reach(&self, action: Action, on_all: &[Action], sights: &Arc<Sights>) -> Reach {
        match &self.0 {
            None => Reach::everything(),
            Some(who) if on_all.iter().all(|a| who.may_everywhere(*a)) => Reach::everything(),
            Some(who) => {
                let who = who.clone();
                let admits = move |repo: &Repo| who.may(Need::new(repo.as_str(), action));
                Reach::granted(admits, sights.clone())
            }
        }
    }
}

/// Where nobody is asked who they are.
pub(super) struct Everybody;

#[async_trait]
impl Admit for Everybody {
    async fn admit(&self, _: &Parts, _: Right) -> Result<Rights, Status> {
        Ok(Rights::everything())
    }
}

#[async_trait]
impl Admit for Authority {
    async fn admit(&self, request: &Parts, right: Right) -> Result<Rights, Status> {
        let own = Repo::cli();
        let action = match right {
            Right::Read => Action::Pull,
            Right::Write => Action::Push,
            Right::Delete | Right::Everything => Action::Delete,
        };
        let peer = Peer::of(&request.extensions);
        let need = Need::new(own.as_str(), action);
        if matches!(right, Right::Read | Right::Delete) {
            // Any repository will do; who has none is refused below, by the one that everybody knows.
            let known = self.authorize(request, &peer, &[need.optional()]).await;
            let principal = known.map_err(|refusal| status(&refusal))?;
            if principal.may_somewhere(action) {
                return Ok(Rights(Some(principal)));
            }
        }
        let principal = match self.authorize(request, &peer, &[need]).await {
            Ok(principal) => principal,
            Err(refusal) => return Err(status(&refusal)),
        };
        let everywhere = || Action::ALL.into_iter().all(|a| principal.may_everywhere(a));
        if right == Right::Everything && !everywhere() {
            return Err(Status::permission_denied(format!(
                "`{}` may not do this: it takes a grant of everything on all repositories, which a token never has",
                principal.name()
            )));
        }
        Ok(Rights(Some(principal)))
    }

    fn caller(&self, request: &Parts) -> Key {
        let peer = Peer::of(&request.extensions);
        Authority::caller(self, &request.headers, &peer)
    }
}

pub(super) fn status(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Unauthenticated { message, .. } => Status::unauthenticated(message),
        Refusal::Denied { message } => Status::permission_denied(message),
        Refusal::TooMany { message } => Status::resource_exhausted(message),
    }
}

/// Methods of all services, for numbers and logs.
const ROUTES: [&str; 13] = [
    "/cachectl.v1.Control/Status",
    "/cachectl.v1.Control/List",
    "/cachectl.v1.Control/Inspect",
    "/cachectl.v1.Control/Delete",
    "/cachectl.v1.Control/Prune",
    "/cachectl.v1.Control/DiskUsage",
    "/cachectl.v1.Control/Verify",
    "/cachectl.v1.Control/Copy",
    "/cachectl.v1.Control/Flush",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
];

/// The method at `path`, if there is one.
pub(super) fn route(path: &str) -> &'static str {
    let known = ROUTES.into_iter().find(|route| *route == path);
    known.unwrap_or("other")
}

/// Says whether the method at `path` is reflection, whose requests are a stream.
pub(super) fn is_reflection(path: &str) -> bool {
    path.starts_with("/grpc.reflection.")
}

/// What the method at `path` needs; `None` for health and reflection, which say nothing of the store.
///
/// A method that is not in the table needs everything, so that one that is added is not open by mistake.
pub(super) fn needed(path: &str) -> Option<Right> {
    let method = path.strip_prefix("/cachectl.v1.Control/")?;
    Some(match method {
        "Status" | "List" | "Inspect" | "DiskUsage" | "Verify" => Right::Read,
        "Flush" => Right::Write,
        // A prune sweeps only for who may do everything: blobs are those of all repositories.
        "Delete" | "Prune" => Right::Delete,
        // `Copy`, which uses the daemon's own credentials; what is new.
        _ => Right::Everything,
    })
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;
    use crate::serve::auth::{ANONYMOUS, Config, Exposure, Rule};

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
        // No peer among its extensions: somebody far away.
        let (request, ()) = Request::new(()).into_parts();
        let mut admitted = Vec::new();
        for right in [Right::Read, Right::Write, Right::Delete, Right::Everything] {
            admitted.push(authority.admit(&request, right).await.is_ok());
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
    fn every_method_has_its_right_and_only_health_and_reflection_have_none() {
        for (path, right) in [
            ("/cachectl.v1.Control/Status", Some(Right::Read)),
            ("/cachectl.v1.Control/Verify", Some(Right::Read)),
            ("/cachectl.v1.Control/Flush", Some(Right::Write)),
            ("/cachectl.v1.Control/Delete", Some(Right::Delete)),
            ("/cachectl.v1.Control/Prune", Some(Right::Delete)),
            ("/cachectl.v1.Control/Copy", Some(Right::Everything)),
            ("/cachectl.v1.Control/New", Some(Right::Everything)),
            ("/grpc.health.v1.Health/Check", None),
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                None,
            ),
        ] {
            assert_eq!(needed(path), right, "{path}");
        }
    }
}
