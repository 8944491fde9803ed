//! How a daemon is reached.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The way to a daemon's registry API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// Over its unix socket.
    Socket(PathBuf),
    /// Over TCP.
    Http,
    /// Over TCP with TLS, even on loopback.
    Https,
}

impl Door {
    pub(super) fn scheme(&self) -> &'static str {
        match self {
            Self::Socket(_) | Self::Http => "http",
            Self::Https => "https",
        }
    }

    pub(super) fn socket(&self) -> Option<&Path> {
        match self {
            Self::Socket(path) => Some(path),
            Self::Http | Self::Https => None,
        }
    }

    /// Writes the URL.
    pub(super) fn show(&self, host: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "cachectld:{}", path.display()),
            Self::Http | Self::Https => write!(f, "cachectld+{}://{host}", self.scheme()),
        }
    }
}
