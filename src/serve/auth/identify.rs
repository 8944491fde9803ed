//! From credentials to a name.

use std::{path::Path, sync::Arc};

use axum::http::HeaderMap;
use tracing::warn;

use super::{
    ANONYMOUS, Result,
    accounts::{Account, Accounts},
    challenge::{Challenger, Wrong},
    config::{Config, Exposure, Scheme},
    header::{self, Shown},
    hosts::Hosts,
    peer::{Peer, PeerKind},
    policy::Policy,
    principal::Principal,
    signer::{Pass, Signer},
};
use crate::{
    fair::lines,
    redact::Secret,
    serve::admission::{Full, Pool},
};

/// How a caller has authenticated.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// Not at all, or by a certificate: no credentials were requested, so the caller can still be asked for them.
    Unasked,
    /// By a password or static token.
    Account(Account),
    /// By an access token of this daemon.
    Pass,
}

/// Why the sender of a request could not be identified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// The credentials are wrong.
    Wrong(Wrong),
    /// Too many passwords are being checked.
    Busy(Full),
}

impl From<Full> for Unknown {
    fn from(full: Full) -> Self {
        Self::Busy(full)
    }
}

/// The caller, as far as it is authenticated.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) principal: Principal,
    pub(super) proof: Proof,
}

/// Files and settings as of the last reading.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) policy: Policy,
    pub(super) accounts: Accounts,
    /// `None` if tokens are not offered, or nobody needs one.
    pub(super) signer: Option<Signer>,
    pub(super) challenger: Challenger,
    pub(super) hosts: Hosts,
    /// Whether any credentials can be accepted.
    pub(super) can_identify: bool,
}

impl Setup {
    /// Reads all of it. Blocks.
    ///
    /// # Errors
    /// Any problem with the settings or a file; then none of it takes effect.
    pub(super) fn read(config: Config, state_dir: &Path, exposure: Exposure) -> Result<Self> {
        config.check(exposure)?;
        let policy = Policy::new(&config, exposure)?;
        let accounts = Accounts::read(&config)?;
        let can_identify = config.can_identify(exposure);
        let signs = can_identify && config.offer.contains(&Scheme::Bearer);
        let signer = signs
            .then(|| Signer::open(&config, state_dir))
            .transpose()?;
        let challenger = Challenger::new(&config, signs, config.has_accounts())?;
        let hosts = Hosts::new(&config)?;
        Ok(Self {
            config,
            policy,
            accounts,
            signer,
            challenger,
            hosts,
            can_identify,
        })
    }

    /// Identifies the sender of a request; a password is checked in a slot of `checks`.
    ///
    /// # Errors
    /// Says what is wrong with the credentials: wrong ones are never treated as none, or `docker login` would accept any
    /// password.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        checks: &Pool,
    ) -> std::result::Result<Identity, Unknown> {
        let from = peer.origin(headers);
        // If no credentials can be accepted, those in the request are meant for another server.
        let shown = if self.can_identify {
            header::shown(headers)
        } else {
            Shown::Nothing
        };
        match shown {
            Shown::Nothing => Ok(self.unasked(peer, from)),
            Shown::Nonsense => Err(Unknown::Wrong(Wrong::Nothing)),
            Shown::Basic(name, password) => self
                .by_password(&name, &password, (headers, peer), checks)
                .await?
                .ok_or(Unknown::Wrong(Wrong::Nothing)),
            Shown::Bearer(token) => {
                let known = self.by_bearer(&token, peer, from);
                known.ok_or(Unknown::Wrong(Wrong::Token))
            }
        }
    }

    fn unasked(&self, peer: &Peer, from: PeerKind) -> Identity {
        Identity {
            principal: self.principal(peer.certificate.clone(), from),
            proof: Proof::Unasked,
        }
    }

    /// The account with this name and password, in a request with these headers.
    ///
    /// # Errors
    /// [`Full`] if too many passwords are being checked.
    pub(super) async fn by_password(
        &self,
        name: &str,
        password: &Secret,
        (headers, peer): (&HeaderMap, &Peer),
        checks: &Pool,
    ) -> std::result::Result<Option<Identity>, Full> {
        if name.is_empty() {
            // BuildKit sends a refresh token in this way before it uses the proper one.
            return Ok(None);
        }
        let from = peer.origin(headers);
        let caller = peer.caller(headers, self.config.trust_forwarded);
        let checked = (checks, caller.clone());
        let account = self.accounts.by_password(name, password, checked);
        let Some(account) = account.await? else {
            // Without the name: some users paste their token there.
            if lines::may_write(&caller) {
                warn!(?from, "Wrong user name or password");
            }
            return Ok(None);
        };
        Ok(Some(self.account(account, from)))
    }

    /// The owner of this static token.
    pub(super) fn by_static_token(&self, token: &Secret, from: PeerKind) -> Option<Identity> {
        Some(self.account(self.accounts.by_token(token)?, from))
    }

    fn account(&self, account: Account, from: PeerKind) -> Identity {
        Identity {
            principal: self.principal(Some(account.name.clone()), from),
            proof: Proof::Account(account),
        }
    }

    fn by_bearer(&self, token: &Secret, peer: &Peer, from: PeerKind) -> Option<Identity> {
        if let Some(found) = self.by_static_token(token, from) {
            return Some(found);
        }
        let Pass {
            sub,
            secret,
            certificate,
            access,
        } = self.signer.as_ref()?.check_pass(token)?;
        // Without the certificate, or after its authority was removed, the token may be stolen.
        if certificate && peer.certificate.as_deref() != Some(&*sub) {
            return None;
        }
        // A removed user, or a changed password, takes effect at once.
        if secret.is_some_and(|stamp| !self.accounts.vouches(&sub, &stamp)) {
            return None;
        }
        let name = (sub != ANONYMOUS).then(|| Arc::from(sub));
        Some(Identity {
            principal: self.principal(name, from).within(access),
            proof: Proof::Pass,
        })
    }

    /// The principal with that name, with its rights for such connections.
    pub(super) fn principal(&self, name: Option<Arc<str>>, from: PeerKind) -> Principal {
        let grants = self.policy.grants(name.as_deref(), from);
        Principal::new(name, grants)
    }
}
