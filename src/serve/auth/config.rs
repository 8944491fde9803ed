//! Settings of authentication.

use std::{path::PathBuf, time::Duration};

use super::{Error, Result, grant::Action};

/// Who can reach the daemon, according to its listen addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exposure {
    /// Unix sockets and loopback addresses only.
    LocalOnly,
    /// Other addresses too.
    Network,
    /// Other addresses too, with TLS that verifies client certificates: these count as authentication.
    NetworkWithClientCertificates,
}

/// A way to authenticate, as a `401` offers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Tokens from the daemon's own `/token` endpoint.
    Bearer,
    /// Name and password with each request.
    Basic,
}

/// Which clients may do everything without credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TrustLocal {
    /// None.
    Nobody,
    /// Those at a unix socket.
    Unix,
    /// Those at a unix socket or a loopback address.
    Loopback,
}

/// Rights for some principals on some repositories; rules are additive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names of principals, or patterns of names: `ci`, `node-*`, `spiffe://cluster/**`. `*` means everybody who is
    /// authenticated; `anonymous` means everybody.
    pub principals: Vec<String>,
    /// Patterns of repositories: `team/**`, `*/cache`, `**`.
    pub repositories: Vec<String>,
    /// What they may do there: `pull`, `push`, `delete`. No action includes another.
    pub actions: Vec<Action>,
}

/// Settings of authentication; the default suits a daemon that only local clients can reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// File of users and bcrypt hashes, as `htpasswd -B` writes it. Default: no users.
    pub htpasswd: Option<PathBuf>,
    /// File of static tokens, `name token` on each line. They serve as bearer tokens, and as the name's password. Default: none.
    pub tokens: Option<PathBuf>,
    /// Who may do what. Default: authenticated callers may pull and push everywhere, and delete nothing; this applies as long
    /// as no rule names anybody but `anonymous`.
    pub grants: Vec<Rule>,
    /// Which local clients need no credentials. Default: `loopback` as long as neither users, tokens nor rules are set and only
    /// local clients can reach the daemon, else `unix`.
    pub trust_local: Option<TrustLocal>,
    /// Listen on the network without authentication: everybody may do everything, or what the rules for `anonymous` say.
    /// Default: false.
    pub insecure_no_auth: bool,
    /// What a `401` offers, in this order: `bearer`, `basic`. Basic is accepted whether it was offered or not. Default:
    /// `["bearer"]`. Offering both locks out docker clients without a password: docker answers every scheme offered; after
    /// `docker login` it has a token for that, before it nothing (`distribution/distribution:internal/client/auth/session.go`).
    pub offer: Vec<Scheme>,
    /// URL at which clients see this daemon, such as `https://cache.example`. Default: what each request says in `Host`.
    pub external_url: Option<String>,
    /// Names of this daemon besides `localhost` and that of `external_url`, without ports: while clients at loopback addresses
    /// are trusted, their requests for another host are refused, since they may come from a web page. Default: none.
    pub allowed_hosts: Vec<String>,
    /// Trust `X-Forwarded-Proto`, `Forwarded`, and the last address in `X-Forwarded-For`: only behind a proxy that always sets
    /// them. Default: false.
    pub trust_forwarded: bool,
    /// Name of this service in tokens; daemons that share a signing key share it too. Default: `cachectld`.
    pub service: String,
    /// Lifetime of a token, from a minute to a day. Default: `5m`.
    pub token_life: Duration,
    /// Lifetime of a refresh token, which `docker login` stores instead of the password; `0s`: none are issued. Default: `30d`.
    pub refresh_life: Duration,
    /// For how long a correct password is not checked again. Default: `5m`.
    pub remember_password: Duration,
    /// File with the secret that signs tokens, at least 32 bytes; daemons behind one name need the same one. Default: a random
    /// one in the state folder.
    pub signing_key: Option<PathBuf>,
    /// File with the previous secret, whose tokens are still valid. Default: `token.key.previous` in the state folder, if it
    /// exists and no `signing_key` is set.
    pub previous_signing_key: Option<PathBuf>,
    /// Client certificates are verified; their names are not listed in any file.
    pub names_by_certificate: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            htpasswd: None,
            tokens: None,
            grants: Vec::new(),
            trust_local: None,
            insecure_no_auth: false,
            offer: vec![Scheme::Bearer],
            external_url: None,
            allowed_hosts: Vec::new(),
            trust_forwarded: false,
            service: "cachectld".to_owned(),
            token_life: Duration::from_mins(5),
            refresh_life: Duration::from_hours(30 * 24),
            remember_password: Duration::from_mins(5),
            signing_key: None,
            previous_signing_key: None,
            names_by_certificate: false,
        }
    }
}

impl Config {
    /// Returns true if any passwords or tokens are configured.
    pub(super) fn has_accounts(&self) -> bool {
        self.htpasswd.is_some() || self.tokens.is_some()
    }

    /// Returns true if anybody can authenticate.
    pub(super) fn can_identify(&self, exposure: Exposure) -> bool {
        self.has_accounts() || exposure == Exposure::NetworkWithClientCertificates
    }

    /// Which local clients are trusted.
    pub(super) fn trusted(&self, exposure: Exposure) -> TrustLocal {
        let bare = !self.has_accounts() && self.grants.is_empty();
        self.trust_local.unwrap_or({
            if bare && exposure == Exposure::LocalOnly {
                TrustLocal::Loopback
            } else {
                TrustLocal::Unix
            }
        })
    }

    /// Checks what does not depend on files.
    ///
    /// # Errors
    /// Settings that would leave the daemon open by mistake, or closed to everybody.
    pub(super) fn check(&self, exposure: Exposure) -> Result<()> {
        if exposure == Exposure::Network && !self.has_accounts() && !self.insecure_no_auth {
            return Err(Error::new(
                "refusing to listen on the network without authentication",
            )
            .hint(
                "set `auth.htpasswd` or `auth.tokens`, or verify client certificates (`tls.client_ca`); or listen on \
                 127.0.0.1 and a unix socket only; or, if only trusted clients can connect, set `auth.insecure_no_auth = true`",
            ));
        }
        if self.insecure_no_auth && self.can_identify(exposure) {
            return Err(Error::new(
                "`auth.insecure_no_auth` gives everybody access, but users, tokens or client certificates are set too",
            )
            .hint("remove one of them; to give everybody only some rights, use rules for `anonymous`"));
        }
        if self.offer.is_empty() {
            return Err(Error::new("`auth.offer` is empty: no client could log in")
                .hint("`[\"bearer\"]` is the default"));
        }
        if !(Duration::from_mins(1)..=Duration::from_hours(24)).contains(&self.token_life) {
            return Err(Error::new("`auth.token_life` is not between 1m and 24h"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"._:/-".contains(&b);
        if self.service.is_empty() || !self.service.bytes().all(plain) {
            return Err(Error::new(
                "`auth.service` is not a plain name (letters, digits and `._:/-`)",
            ));
        }
        if self.previous_signing_key.is_some() && self.signing_key.is_none() {
            return Err(Error::new(
                "`auth.previous_signing_key` is set without `auth.signing_key`",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn network_without_authentication_says_what_to_set() {
        let open = Config::default();
        let error = open.check(Exposure::Network).unwrap_err();
        let hint = error.hint.unwrap();
        for word in [
            "auth.htpasswd",
            "auth.tokens",
            "tls.client_ca",
            "auth.insecure_no_auth = true",
        ] {
            assert!(hint.contains(word), "{hint}");
        }
        assert_eq!(open.check(Exposure::LocalOnly), Ok(()));
        assert_eq!(open.check(Exposure::NetworkWithClientCertificates), Ok(()));
        let insecure = Config {
            insecure_no_auth: true,
            ..Config::default()
        };
        assert_eq!(insecure.check(Exposure::Network), Ok(()));
    }

    #[test]
    fn users_and_no_authentication_contradict_each_other() {
        let both = Config {
            insecure_no_auth: true,
            tokens: Some("/x".into()),
            ..Config::default()
        };
        assert!(both.check(Exposure::Network).is_err());
    }

    #[test]
    fn loopback_is_trusted_only_where_nothing_is_set() {
        let bare = Config::default();
        assert_eq!(bare.trusted(Exposure::LocalOnly), TrustLocal::Loopback);
        assert_eq!(bare.trusted(Exposure::Network), TrustLocal::Unix);
        let users = Config {
            htpasswd: Some("/x".into()),
            ..Config::default()
        };
        assert_eq!(users.trusted(Exposure::LocalOnly), TrustLocal::Unix);
    }

    #[test]
    fn lives_and_names_have_limits() {
        let bad = [
            Config {
                token_life: Duration::from_secs(59),
                ..Config::default()
            },
            Config {
                service: "a\"b".to_owned(),
                ..Config::default()
            },
            Config {
                offer: Vec::new(),
                ..Config::default()
            },
            Config {
                previous_signing_key: Some("/x".into()),
                ..Config::default()
            },
        ];
        for config in bad {
            assert!(config.check(Exposure::LocalOnly).is_err(), "{config:?}");
        }
    }
}
