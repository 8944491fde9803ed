//! Settings: `cachectl.toml`, then the environment, then flags; later ones win.
//!
//! - Holds: the list of keys, how each is written, where a value came from.
//! - Enters: the captured environment, the files that there are, the flags that were given.
//! - Leaves: a checked [`Config`] whose every value knows its origin; errors that name the nearest valid key.
//! - Deliberately absent: behaviour, open stores, sources, and what a CI system's variables mean (`cli::ci`).

#[macro_use]
mod define;

pub mod check;
pub mod daemon;
pub mod env;
pub mod file;
pub mod flags;
pub mod found;
pub mod keys;
pub mod load;
pub mod remote;
pub mod settings;
pub mod table;
pub mod value;

pub use env::Env;
pub use load::{Loaded, load};
pub use settings::{Config, NO_HOME};
pub use value::{Layer, Origin, Raw};

/// A setting that cannot be used; always a usage error, never cache trouble.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What is wrong, and where it was written.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Error {
    /// An error without advice.
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Result of reading settings.
pub type Result<T> = std::result::Result<T, Error>;
