//! The daemon's own tokens: JWTs (RFC 7519), signed by HS256 with a key that daemons behind one name share.
//!
//! The claims are those of `distribution/distribution:docs/content/spec/auth/jwt.md`. Nothing in a token's header is trusted:
//! the algorithm is fixed, and `kid`, `jwk` and the like are ignored (distribution CVE-2025-24976).

use std::path::Path;

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, get_current_timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Error, Result, access::Access, config::Config, files, hs256};
use crate::{digest::Sha256, fs, random, redact::Secret};

const ISSUER: &str = "cachectld";
/// Tolerated difference between the clocks of two daemons, in seconds.
const LEEWAY_SECONDS: u64 = 10;
/// Minimum length of a signing secret: the output length of HS256 (RFC 7518 §3.2).
const MIN_KEY_BYTES: usize = 32;
/// The key in the state folder.
const KEY_FILE: &str = "token.key";
/// The previous key, if somebody moved it there.
const PREVIOUS_KEY_FILE: &str = "token.key.previous";

/// The claims of an access token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// Its owner; [`super::ANONYMOUS`] for an anonymous caller.
    pub(super) sub: String,
    /// Represents the secret that the token was issued for, if any; the token is void once that secret changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Stamp>,
    /// It was issued for nothing but a client certificate with that name, so it is valid only with that certificate.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) certificate: bool,
    /// The access it grants.
    pub(super) access: Access,
}

/// The claims of a refresh token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refresh {
    /// Its owner.
    pub(super) sub: String,
    /// Represents the secret that it was issued for; it is void once that secret changes.
    pub(super) secret: Stamp,
}

/// Represents a password's hash or a static token inside tokens: hashed again and truncated, so that nothing can be derived
/// from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp(String);

impl Stamp {
    /// The stamp of the stored form of the secret.
    pub(super) fn of(kept: Sha256) -> Self {
        Self(Sha256::of(&kept.0).to_hex()[..32].to_owned())
    }
}

#[derive(Serialize, Deserialize)]
struct Claims<T> {
    iss: String,
    aud: String,
    exp: u64,
    nbf: u64,
    iat: u64,
    jti: String,
    #[serde(flatten)]
    own: T,
}

/// A signed token and its time of issue.
pub(super) struct Signed {
    pub(super) token: Secret,
    /// Seconds since 1970.
    pub(super) issued_at: u64,
}

/// Signs tokens and checks them.
pub(super) struct Signer {
    service: String,
    signs: EncodingKey,
    /// The current key first.
    checks: Vec<DecodingKey>,
}

impl Signer {
    /// Reads the keys; the one in the state folder is created if missing. Blocks.
    ///
    /// # Errors
    /// A key that cannot be read or created, or is shorter than 32 bytes.
    pub(super) fn open(config: &Config, state_dir: &Path) -> Result<Self> {
        hs256::install();
        let (current, previous) = match &config.signing_key {
            Some(path) => {
                let previous = config.previous_signing_key.as_deref().map(key);
                (key(path)?, previous.transpose()?)
            }
            None => own_keys(state_dir)?,
        };
        let keys = || std::iter::once(&current).chain(&previous);
        let checks = keys().map(|key| DecodingKey::from_secret(key.expose().as_bytes()));
        let unusable = |e| Error::new(format!("cannot use the signing key: {e}"));
        Ok(Self {
            service: config.service.clone(),
            signs: EncodingKey::from_secret(current.expose().as_bytes()).map_err(unusable)?,
            checks: checks
                .collect::<std::result::Result<_, _>>()
                .map_err(unusable)?,
        })
    }

    /// An access token that is valid for `life` seconds.
    pub(super) fn pass(&self, pass: &Pass, life: u64) -> Signed {
        self.sign(self.service.clone(), pass, life)
    }

    /// The claims of an access token, if it is one of ours, unmodified and not expired.
    pub(super) fn check_pass(&self, token: &Secret) -> Option<Pass> {
        self.check(&self.service, token)
    }

    /// A refresh token that is valid for `life` seconds.
    pub(super) fn refresh(&self, refresh: &Refresh, life: u64) -> Signed {
        self.sign(self.refresh_audience(), refresh, life)
    }

    /// The claims of a refresh token, under the same conditions.
    pub(super) fn check_refresh(&self, token: &Secret) -> Option<Refresh> {
        self.check(&self.refresh_audience(), token)
    }

    /// A separate audience, so that one kind of token cannot be used as the other.
    fn refresh_audience(&self) -> String {
        format!("{}#refresh", self.service)
    }

    fn sign<T: Serialize>(&self, aud: String, own: &T, life: u64) -> Signed {
        let now = get_current_timestamp();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            aud,
            exp: now + life,
            nbf: now,
            iat: now,
            jti: const_hex::encode(random::bytes::<16>()),
            own,
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signs);
        Signed {
            token: Secret::new(
                token.expect("claims are plain JSON, and any secret is a valid HS256 key"),
            ),
            issued_at: now,
        }
    }

    fn check<T: DeserializeOwned>(&self, audience: &str, token: &Secret) -> Option<T> {
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = LEEWAY_SECONDS;
        rules.validate_nbf = true;
        rules.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
        rules.set_issuer(&[ISSUER]);
        rules.set_audience(&[audience]);
        let found = self
            .checks
            .iter()
            .find_map(|key| jsonwebtoken::decode::<Claims<T>>(token.expose(), key, &rules).ok());
        found.map(|token| token.claims.own)
    }
}

fn key(path: &Path) -> Result<Secret> {
    let text = files::read(path, "signing key")?;
    let text = text.trim();
    if text.len() < MIN_KEY_BYTES {
        return Err(Error::new(format!(
            "the signing key `{}` is shorter than {MIN_KEY_BYTES} bytes",
            path.display()
        ))
        .hint("create one with `openssl rand -hex 32`"));
    }
    Ok(Secret::new(text))
}

/// The keys in the state folder: the current one, created if necessary, and the previous one, if any.
fn own_keys(state_dir: &Path) -> Result<(Secret, Option<Secret>)> {
    let path = state_dir.join(KEY_FILE);
    let trouble = |e: fs::Error| {
        Error::new(format!("cannot store the key that signs tokens: {e}"))
            .hint("use a writable state folder, or set `auth.signing_key`")
    };
    // Reading refuses a file that exists but cannot be inspected.
    let missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    if missing(&path) {
        fs::make_dirs(state_dir).map_err(trouble)?;
        let new = const_hex::encode(random::bytes::<32>()) + "\n";
        // A temporary file with mode 600, then a rename.
        fs::write_atomic(&path, new.as_bytes(), fs::Durability::Sync).map_err(trouble)?;
    }
    let previous = state_dir.join(PREVIOUS_KEY_FILE);
    let previous = if missing(&previous) {
        None
    } else {
        Some(key(&previous)?)
    };
    Ok((key(&path)?, previous))
}
