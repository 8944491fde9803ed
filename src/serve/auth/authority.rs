//! The single place that authorizes requests.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use axum::http::{HeaderMap, Request, request::Parts};
use parking_lot::RwLock;
use tracing::{debug, info, warn};

use super::{
    Result,
    challenge::Wrong,
    config::{Config, Exposure},
    doubts,
    grant::Action,
    identify::{Identity, Proof, Setup, Unknown},
    passwords::Passwords,
    peer::{Peer, PeerKind},
    principal::{Need, Principal},
};
use crate::{
    metrics::Admitted,
    serve::{
        admission::{Key, Pool},
        refusal::Refusal,
    },
    task,
};

/// For callers without valid credentials.
const AUTHENTICATION_REQUIRED: &str = "authentication required";

/// Knows all accounts and their rights; shared by all doors.
pub struct Authority {
    exposure: Exposure,
    state_dir: PathBuf,
    setup: RwLock<Arc<Setup>>,
    /// Slots for checking passwords.
    checks: Pool,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authority({:?})", self.exposure)
    }
}

impl Authority {
    /// Reads users, tokens and keys. Only if tokens are issued is a key kept in `state_dir`, and created if missing.
    ///
    /// # Errors
    /// Settings that would leave the daemon open by mistake, or closed to everybody; and unusable files, with the line.
    pub async fn open(config: Config, state_dir: &Path, exposure: Exposure) -> Result<Self> {
        let setup = read(config, state_dir.to_owned(), exposure).await?;
        Ok(Self {
            exposure,
            state_dir: state_dir.to_owned(),
            setup: RwLock::new(Arc::new(setup)),
            checks: Passwords::checks(),
        })
    }

    /// The same, which reports its password checks in `counts`.
    #[must_use]
    pub fn counted(self, counts: Admitted) -> Self {
        let checks = self.checks.counted(counts);
        Self { checks, ..self }
    }

    pub(super) fn checks(&self) -> &Pool {
        &self.checks
    }

    /// Which caller a request is accounted to, until its sender is authenticated.
    pub fn caller(&self, headers: &HeaderMap, peer: &Peer) -> Key {
        peer.caller(headers, self.setup().config.trust_forwarded)
    }

    /// Reads everything again, with these settings; active requests finish under the old ones. Remembered passwords are
    /// forgotten; tokens of users who were removed or have another password become invalid.
    ///
    /// # Errors
    /// Those of [`Self::open`]; then nothing changes.
    pub async fn reload(&self, config: Config) -> Result<()> {
        let setup = read(config, self.state_dir.clone(), self.exposure).await?;
        *self.setup.write() = Arc::new(setup);
        Ok(())
    }

    pub(super) fn setup(&self) -> Arc<Setup> {
        self.setup.read().clone()
    }

    /// Refuses requests that only a web page in a browser would send, before anything else is checked; the request's [`Peer`]
    /// is in its extensions. Nothing is refused at a unix socket, which no page can reach.
    ///
    /// # Errors
    /// [`Refusal::denied`], with the setting to change if the request was not sent by a page.
    pub fn check_host<B>(&self, request: &Request<B>) -> std::result::Result<(), Refusal> {
        let peer = Peer::of(request.extensions());
        if peer.kind == PeerKind::Unix {
            return Ok(());
        }
        let setup = self.setup();
        let by_address = self.has_rights_by_address(&setup, &peer, request.headers());
        setup.hosts.check(request, by_address)
    }

    /// Returns true if access to a loopback address is enough for the request to be allowed something: then a page could do it
    /// too, by DNS rebinding. Rights of everybody on a network, or behind a proxy named in the settings, do not come from that
    /// address.
    fn has_rights_by_address(&self, setup: &Setup, peer: &Peer, headers: &HeaderMap) -> bool {
        let origin = peer.origin(headers);
        let behind_proxy = origin != peer.kind
            && (setup.config.trust_forwarded || self.exposure != Exposure::LocalOnly);
        setup.policy.trusts(origin)
            || peer.kind == PeerKind::Loopback && setup.policy.is_open() && !behind_proxy
    }

    /// Admits a request that has all the rights it needs. If `needs` has no right on a repository, the request is a client's
    /// first question (`GET /v2/`) or a list of repositories; callers that should log in are refused, since clients learn from
    /// that refusal how to log in.
    ///
    /// A wrong password or token is always refused, whatever the request needs. Waits while a password is checked; cancel-safe.
    ///
    /// # Errors
    /// [`Refusal::unauthenticated`] if another user, or another token, might be allowed; else [`Refusal::denied`].
    pub async fn authorize(
        &self,
        request: &Parts,
        peer: &Peer,
        needs: &[Need<'_>],
    ) -> std::result::Result<Principal, Refusal> {
        let setup = self.setup();
        let challenge = |wrong: Wrong, message: &str| {
            let challenges = setup.challenger.challenges(request, peer, needs, wrong);
            Refusal::unauthenticated(challenges, message)
        };
        let Identity { principal, proof } =
            match setup.identify(&request.headers, peer, &self.checks).await {
                Ok(identity) => identity,
                Err(Unknown::Wrong(wrong)) => return Err(challenge(wrong, wrong_message(wrong))),
                Err(Unknown::Busy(full)) => return Err(full.into()),
            };
        let could_ask = !setup.challenger.is_empty()
            && (principal.is_anonymous() || setup.config.has_accounts());
        if needs.iter().all(|n| n.catalog) && could_ask && should_log_in(&principal, &proof) {
            return Err(challenge(Wrong::Nothing, AUTHENTICATION_REQUIRED));
        }
        let Some(lacking) = needs.iter().find(|n| !n.optional && !principal.may(n)) else {
            return Ok(principal);
        };
        let granted = lacking.catalog || principal.granted(&lacking.repository).has(lacking.action);
        match proof {
            // Another token would help; or, for an anonymous one, a token of a user.
            Proof::Pass if principal.is_anonymous() => {
                Err(challenge(Wrong::Scope, AUTHENTICATION_REQUIRED))
            }
            Proof::Pass if granted => {
                let what = if lacking.catalog {
                    "list the repositories".to_owned()
                } else {
                    format!("{} `{}`", lacking.action.verb(), lacking.repository)
                };
                let message = format!("the token does not allow to {what}");
                Err(challenge(Wrong::Scope, &message))
            }
            Proof::Unasked if could_ask => {
                debug!(
                    repository = &*lacking.repository,
                    "Authentication requested"
                );
                Err(challenge(Wrong::Nothing, AUTHENTICATION_REQUIRED))
            }
            _ => {
                let trusted = setup.policy.trusts(peer.kind);
                let forwarded = peer.origin(&request.headers) != peer.kind;
                Err(denied(&principal, lacking, trusted && forwarded))
            }
        }
    }
}

async fn read(config: Config, state_dir: PathBuf, exposure: Exposure) -> Result<Setup> {
    let setup = task::blocking(move || Setup::read(config, &state_dir, exposure)).await?;
    let (users, tokens) = setup.accounts.counts();
    info!(
        ?exposure,
        users,
        tokens,
        rules = setup.config.grants.len(),
        trust_local = ?setup.config.trusted(exposure),
        "Authentication configured"
    );
    for doubt in doubts::of_rules(&setup.config, &setup.accounts) {
        warn!("auth.grants: {doubt}");
    }
    Ok(setup)
}

/// Returns true if a client's first question is refused: clients that get a positive answer never send their credentials.
fn should_log_in(principal: &Principal, proof: &Proof) -> bool {
    let free = Action::ALL.into_iter().all(|a| principal.may_everywhere(a));
    matches!(proof, Proof::Unasked) && principal.is_anonymous() && !free
}

fn wrong_message(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Nothing => "the user name or password is wrong",
        Wrong::Token => "the token is invalid or expired",
        Wrong::Scope => "the token does not allow this",
    }
}

/// `lost_trust`: the client would be trusted if there were no proxy in between.
fn denied(principal: &Principal, need: &Need<'_>, lost_trust: bool) -> Refusal {
    info!(
        principal = principal.name(),
        repository = &*need.repository,
        action = need.action.as_str(),
        "Denied"
    );
    let why = if lost_trust {
        ": the request came through a proxy, so it does not have the rights of a local client; give clients accounts \
         (`auth.htpasswd` or `auth.tokens`) or grant rights to `anonymous`"
    } else if need.action == Action::Pull && principal.granted(&need.repository).has(Action::Push) {
        // Builders read before they push, so this is the message that the user of a push sees.
        ", only push to it; clients need both `pull` and `push` to push"
    } else {
        ""
    };
    Refusal::denied(format!(
        "`{}` may not {} `{}`{why}",
        principal.name(),
        need.action.verb(),
        need.repository
    ))
}
