//! Authentication and authorization: from a request's headers and its connection to a [`Principal`], or to a refusal that
//! explains what is missing.
//!
//! - Holds: users and tokens from files, names in client certificates, grants on repositories, the token flow of registries.
//! - Enters: headers, the [`Peer`] of the connection, the rights that the request [`Need`]s.
//! - Leaves: a [`Principal`], or a refusal with its challenges; answers to token requests ([`token`]).
//! - Deliberately absent: routes and error formats of any one protocol, TLS itself, credentials that we send
//!   (`store::registry`).

mod access;
mod accounts;
mod authority;
mod challenge;
mod config;
mod doubts;
mod endpoint;
mod files;
mod forwarded;
mod grant;
mod header;
mod hosts;
mod hs256;
mod identify;
mod passwords;
mod peer;
mod policy;
mod principal;
mod remembered;
mod signer;
mod static_tokens;

#[cfg(test)]
mod tests;

pub use authority::Authority;
pub use challenge::TOKEN_PATH;
pub use config::{Config, Exposure, Rule, Scheme, TrustLocal};
pub use endpoint::{MAX_FORM_BYTES, token};
pub use grant::{Action, Actions, Grant};
pub use peer::{Peer, PeerKind, Transport};
pub use principal::{Need, Principal};

/// The name of a caller without credentials: rules may grant it rights; accounts cannot use it.
pub const ANONYMOUS: &str = "anonymous";

/// An invalid authentication setup; never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong, and where it was configured.
    pub message: String,
    /// How to fix it.
    pub hint: Option<String>,
}

impl Error {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    #[must_use]
    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Result of setting up authentication.
pub type Result<T> = std::result::Result<T, Error>;
