//! Who may do what: from a request's headers and its connection to a [`Principal`], or to a refusal that says how to do better.
//!
//! - Holds: users and tokens from files, client certificates' names, grants on repositories, the token flow of registries.
//! - Enters: headers, the [`Peer`] of the connection, what the request [`Need`]s.
//! - Leaves: a [`Principal`], or a refusal with its challenges; the answer to who asks for a token ([`token`]).
//! - Deliberately absent: routes and errors of any one protocol, TLS itself, credentials that we send (`store::registry`).

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

/// The name of who shows nothing: a rule may grant to it, an account cannot have it.
pub const ANONYMOUS: &str = "anonymous";

/// Authentication that cannot be set up as it is configured; never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong, and where it was written.
    pub message: String,
    /// What to do about it.
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
