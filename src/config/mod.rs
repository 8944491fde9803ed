//! Settings: `cachectl.toml`, then the environment, then flags; later ones win.
//!
//! - Holds: the list of keys, how each is written, where a value came from.
//! - Enters: the captured environment, the existing files, the given flags.
//! - Leaves: a checked [`Config`] in which every value has its origin; errors that name the nearest valid key.
//! - Deliberately absent: behaviour, open stores, sources, and the meaning of a CI system's variables (`cli::ci`).

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

/// An invalid setting; always a usage error, never a cache problem.
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

    /// Adds a hint.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Result of reading settings.
pub type Result<T> = std::result::Result<T, Error>;
