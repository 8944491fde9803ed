//! Everybody who can authenticate with a secret: users with passwords, names with static tokens.

use std::{path::Path, sync::Arc};

use super::{
    Result, config::Config, passwords::Passwords, signer::Stamp, static_tokens::StaticTokens,
};
use crate::{
    redact::Secret,
    serve::admission::{Full, Key, Pool},
};

/// An authenticated account.
#[derive(Debug, Clone)]
pub(super) struct Account {
    pub(super) name: Arc<str>,
    /// Represents the secret.
    pub(super) stamp: Stamp,
}

/// Users and tokens as of the last reading of the files.
#[derive(Default)]
pub(super) struct Accounts {
    passwords: Option<Passwords>,
    tokens: Option<StaticTokens>,
}

impl Accounts {
    /// Reads both files. Blocks.
    ///
    /// # Errors
    /// Those of either.
    pub(super) fn read(config: &Config) -> Result<Self> {
        let passwords = |path: &Path| Passwords::read(path, config.remember_password);
        Ok(Self {
            passwords: config.htpasswd.as_deref().map(passwords).transpose()?,
            tokens: config
                .tokens
                .as_deref()
                .map(StaticTokens::read)
                .transpose()?,
        })
    }

    /// The names that have a secret, possibly with duplicates.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        let users = self.passwords.iter().flat_map(Passwords::names);
        users.chain(self.tokens.iter().flat_map(StaticTokens::names))
    }

    /// The numbers of users and of tokens.
    pub(super) fn counts(&self) -> (usize, usize) {
        (
            self.passwords.as_ref().map_or(0, Passwords::count),
            self.tokens.as_ref().map_or(0, StaticTokens::count),
        )
    }

    /// The owner of a static token.
    pub(super) fn by_token(&self, token: &Secret) -> Option<Account> {
        let (name, secret) = self.tokens.as_ref()?.owner(token)?;
        Some(Account {
            name,
            stamp: Stamp::of(secret),
        })
    }

    /// The account, if the name has this password or this static token: `docker login` cannot send a token in any other way.
    ///
    /// # Errors
    /// [`Full`] if too many passwords are being checked.
    pub(super) async fn by_password(
        &self,
        name: &str,
        password: &Secret,
        at: (&Pool, Key),
    ) -> std::result::Result<Option<Account>, Full> {
        if let Some(owner) = self.by_token(password).filter(|a| *a.name == *name) {
            return Ok(Some(owner));
        }
        let Some(passwords) = &self.passwords else {
            return Ok(None);
        };
        let name = passwords.check(name, password, at).await?;
        let known = name.and_then(|name| Some((passwords.of(&name)?, name)));
        Ok(known.map(|(secret, name)| Account {
            name,
            stamp: Stamp::of(secret),
        }))
    }

    /// Returns true if `name` still has the secret that `stamp` represents.
    pub(super) fn vouches(&self, name: &str, stamp: &Stamp) -> bool {
        let password = self.passwords.iter().filter_map(|p| p.of(name));
        let tokens = self.tokens.iter().flat_map(|t| t.of(name));
        password.chain(tokens).any(|own| Stamp::of(own) == *stamp)
    }
}
