//! How a daemon is reached.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// The way to a daemon's registry door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Door {
    /// By its unix socket.
    Socket(PathBuf),
    /// By TCP.
    Http,
    /// By TCP with TLS, on loopback too.
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
