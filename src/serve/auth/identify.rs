//! From what was shown to a name.

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

/// How somebody has shown who they are.
#[derive(Debug, Clone)]
pub(super) enum Proof {
    /// Not at all, or by a certificate: neither was asked for, and whoever has more to show can be told to.
    Unasked,
    /// By a password or static token.
    Account(Account),
    /// By a token of ours.
    Pass,
}

/// Why it is not known who a request is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unknown {
    /// What was shown is wrong.
    Wrong(Wrong),
    /// Too many passwords are being checked.
    Busy(Full),
}

impl From<Full> for Unknown {
    fn from(full: Full) -> Self {
        Self::Busy(full)
    }
}

/// Who it is, as far as that was shown.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) principal: Principal,
    pub(super) proof: Proof,
}

/// Files and settings as they were last read.
pub(super) struct Setup {
    pub(super) config: Config,
    pub(super) policy: Policy,
    pub(super) accounts: Accounts,
    /// `None` where tokens are not offered, or nobody needs one.
    pub(super) signer: Option<Signer>,
    pub(super) challenger: Challenger,
    pub(super) hosts: Hosts,
    /// Whether there is anything to show.
    pub(super) can_identify: bool,
}

impl Setup {
    /// Reads all of it. Blocks.
    ///
    /// # Errors
    /// Whatever is wrong with the settings or a file; then nothing of it is in force.
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

    /// Who a request is from; a password is checked in a place of `checks`.
    ///
    /// # Errors
    /// Says what was wrong with what was shown: it is never taken for nothing, or `docker login` would accept any password.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
        checks: &Pool,
    ) -> std::result::Result<Identity, Unknown> {
        let from = peer.origin(headers);
        // Where there is nothing to show, whatever is shown is for somebody else.
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

    /// Who has this name and password, in a request with these headers.
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
            // BuildKit shows a refresh token so before it asks in the way that is meant for one.
            return Ok(None);
        }
        let from = peer.origin(headers);
        let caller = peer.caller(headers, self.config.trust_forwarded);
        let checked = (checks, caller.clone());
        let account = self.accounts.by_password(name, password, checked);
        let Some(account) = account.await? else {
            // Not the name: some paste their token there.
            if lines::may_write(&caller) {
                warn!(?from, "Wrong user name or password");
            }
            return Ok(None);
        };
        Ok(Some(self.account(account, from)))
    }

    /// Who has this static token.
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
        // Without the certificate, or after its authority was removed, it is a token that somebody found.
        if certificate && peer.certificate.as_deref() != Some(&*sub) {
            return None;
        }
        // Who has been removed, or has another password, is so at once.
        if secret.is_some_and(|stamp| !self.accounts.vouches(&sub, &stamp)) {
            return None;
        }
        let name = (sub != ANONYMOUS).then(|| Arc::from(sub));
        Some(Identity {
            principal: self.principal(name, from).within(access),
            proof: Proof::Pass,
        })
    }

    /// The principal of that name, with the rights it has from there.
    pub(super) fn principal(&self, name: Option<Arc<str>>, from: PeerKind) -> Principal {
        let grants = self.policy.grants(name.as_deref(), from);
        Principal::new(name, grants)
    }
}
