//! Our own tokens: JWTs (RFC 7519), signed by HS256 under a key that daemons behind one name share.
//!
//! The claims are those of `distribution/distribution:docs/content/spec/auth/jwt.md`. Nothing in a token's header is believed: the
//! algorithm is ours, and `kid`, `jwk` and the like are not looked at (distribution CVE-2025-24976).

use std::path::Path;

use jsonwebtoken::{
    Algorithm, DecodingKey, EncodingKey, Header, Validation, get_current_timestamp,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Error, Result, access::Access, config::Config, files, hs256};
use crate::{digest::Sha256, fs, random, redact::Secret};

/// Who signs.
const ISSUER: &str = "cachectld";
/// How far the clocks of two daemons may be apart, in seconds.
const LEEWAY_SECONDS: u64 = 10;
/// Shortest secret that signs: as long as what HS256 computes (RFC 7518 §3.2).
const MIN_KEY_BYTES: usize = 32;
/// The key in the state folder.
const KEY_FILE: &str = "token.key";
/// The key before it, if somebody moved it there.
const PREVIOUS_KEY_FILE: &str = "token.key.previous";

/// What a token says that opens repositories.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pass {
    /// Whose it is; [`super::ANONYMOUS`] for nobody in particular.
    pub(super) sub: String,
    /// Stands for the secret that was shown for it, if one was; with another secret it is void.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) secret: Option<Stamp>,
    /// Nothing was shown for it but a client certificate of that name: it is only good together with one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) certificate: bool,
    /// What it opens.
    pub(super) access: Access,
}

/// What a token says that gets others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refresh {
    /// Whose it is.
    pub(super) sub: String,
    /// Stands for the secret that was shown for it; with another secret it is void.
    pub(super) secret: Stamp,
}

/// Stands for a password's hash or a static token inside of tokens: hashed again and cut, so that nothing can be found from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp(String);

impl Stamp {
    /// Of what is kept of the secret.
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

/// A signed token and when it was.
pub(super) struct Signed {
    pub(super) token: Secret,
    /// Seconds from 1970.
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
    /// Reads the keys; one in the state folder is made where there is none. Blocks.
    ///
    /// # Errors
    /// A key that cannot be read or made, or is shorter than 32 bytes.
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
        let unusable = |e| Error::new(format!("the signing key cannot be used: {e}"));
        Ok(Self {
            service: config.service.clone(),
            signs: EncodingKey::from_secret(current.expose().as_bytes()).map_err(unusable)?,
            checks: checks
                .collect::<std::result::Result<_, _>>()
                .map_err(unusable)?,
        })
    }

    /// A token that opens repositories for `life` seconds.
    pub(super) fn pass(&self, pass: &Pass, life: u64) -> Signed {
        self.sign(self.service.clone(), pass, life)
    }

    /// What a token opens, if it is one of ours, whole, and in its time.
    pub(super) fn check_pass(&self, token: &Secret) -> Option<Pass> {
        self.check(&self.service, token)
    }

    /// A token that gets others for `life` seconds.
    pub(super) fn refresh(&self, refresh: &Refresh, life: u64) -> Signed {
        self.sign(self.refresh_audience(), refresh, life)
    }

    /// What a refresh token says, under the same conditions.
    pub(super) fn check_refresh(&self, token: &Secret) -> Option<Refresh> {
        self.check(&self.refresh_audience(), token)
    }

    /// Neither kind of token can stand for the other.
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
                token.expect("claims are plain JSON and any secret is a key of HS256"),
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
        .hint("`openssl rand -hex 32` makes one"));
    }
    Ok(Secret::new(text))
}

/// The keys in the state folder: the current one, made if need be, and the previous one if there is one.
fn own_keys(state_dir: &Path) -> Result<(Secret, Option<Secret>)> {
    let path = state_dir.join(KEY_FILE);
    let trouble = |e: fs::Error| {
        Error::new(format!("cannot keep the key that signs tokens: {e}"))
            .hint("name a state folder that can be written, or set `auth.signing_key`")
    };
    // What is there and cannot be looked at is refused when it is read.
    let missing = |path: &Path| matches!(path.try_exists(), Ok(false));
    if missing(&path) {
        fs::make_dirs(state_dir).map_err(trouble)?;
        let new = const_hex::encode(random::bytes::<32>()) + "\n";
        // A temporary file of mode 600 that is renamed.
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
