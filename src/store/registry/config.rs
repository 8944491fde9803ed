//! Settings of a registry store.

use std::path::PathBuf;

use crate::{
    fs,
    redact::Secret,
    store::{Error, Result, keys::Repo},
    task,
};

/// Largest file with a password.
const MAX_PASSWORD_BYTES: u64 = 64 << 10;
/// Minimum and maximum chunk size: with smaller ones uploads are very slow, larger ones need not be split.
const CHUNK_BYTES: std::ops::RangeInclusive<u64> = (64 << 10)..=(4 << 30);

/// How to reach and log in to a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name to log in with; without it the docker configuration is used. The name `<token>` makes the password an identity
    /// token.
    pub username: Option<String>,
    /// Password or token to log in with.
    pub password: Option<Secret>,
    /// A file that contains the password, without its last line break; only read if `password` is not set.
    pub password_file: Option<PathBuf>,
    /// Uses plain http for hosts other than loopback too, and lets the registry redirect to private addresses.
    pub insecure: bool,
    /// Size of a piece, for registries that accept big blobs only in pieces; a registry's own minimum takes precedence.
    pub chunk_bytes: u64,
    /// Repositories of the same registry whose blobs may be mounted instead of sent, in the order in which they are tried.
    pub mount_from: Vec<String>,
    /// Other sources of credentials; set from the environment, never from a configuration file.
    pub credentials: CredentialSources,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            username: None,
            password: None,
            password_file: None,
            insecure: false,
            // The largest piece that GHCR accepts (reference/oci-and-s3.md §2.3).
            chunk_bytes: 4 << 20,
            mount_from: Vec::new(),
            credentials: CredentialSources::default(),
        }
    }
}

/// Where docker and podman store credentials, in the order in which they are tried.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CredentialSources {
    /// The content of `DOCKER_AUTH_CONFIG`: a docker configuration as JSON.
    pub docker_auth_config: Option<Secret>,
    /// Configuration files (`config.json`, `auth.json`); those that do not exist are skipped.
    pub files: Vec<PathBuf>,
    /// A folder with credential helpers; without it they are searched on the `PATH`.
    pub helpers: Option<PathBuf>,
}

impl Config {
    /// Checks what does not require the registry.
    pub(super) fn check(&self) -> Result<()> {
        let refused = |why: String| Err(Error::invalid("open", why));
        if !CHUNK_BYTES.contains(&self.chunk_bytes) {
            return refused(format!(
                "chunk_bytes is {}: expected {} to {}",
                self.chunk_bytes,
                CHUNK_BYTES.start(),
                CHUNK_BYTES.end()
            ));
        }
        for from in &self.mount_from {
            if let Err(e) = from.parse::<Repo>() {
                return refused(format!("mount_from: {e}"));
            }
        }
        if self.username.is_none() && (self.password.is_some() || self.password_file.is_some()) {
            return refused("a password is set without a username; for an identity token, set username to `<token>`".to_owned());
        }
        if self.username.as_deref().is_some_and(|u| u.contains(':')) {
            return refused(
                "username contains a `:`, which HTTP does not allow (RFC 7617)".to_owned(),
            );
        }
        Ok(())
    }

    /// The password, from its source.
    pub(super) async fn read_password(&self) -> Result<Option<Secret>> {
        if self.password.is_some() {
            return Ok(self.password.clone());
        }
        let Some(path) = self.password_file.clone() else {
            return Ok(None);
        };
        let refused = |why: String| Error::invalid("read password", why);
        let shown = path.display().to_string();
        let bytes = task::blocking(move || fs::read_if_there(&path, MAX_PASSWORD_BYTES))
            .await
            .map_err(|e| refused(e.to_string()))?
            .ok_or_else(|| refused(format!("password_file `{shown}` does not exist")))?;
        let text = String::from_utf8(bytes)
            .map_err(|_| refused(format!("password_file `{shown}` is not UTF-8")))?;
        let text = text.strip_suffix('\n').unwrap_or(&text);
        Ok(Some(Secret::new(text.strip_suffix('\r').unwrap_or(text))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn senseless_settings_are_refused() {
        let bad = [
            Config {
                chunk_bytes: 1,
                ..Config::default()
            },
            Config {
                mount_from: vec!["UP/../x".to_owned()],
                ..Config::default()
            },
            Config {
                password: Some(Secret::new("p")),
                ..Config::default()
            },
            Config {
                username: Some("a:b".to_owned()),
                ..Config::default()
            },
        ];
        for config in bad {
            assert_eq!(
                config.check().unwrap_err().kind,
                ErrorKind::Invalid,
                "{config:?}"
            );
        }
        Config::default().check().unwrap();
    }

    #[tokio::test]
    async fn password_file_loses_its_line_break_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, " s3cret \r\n").unwrap();
        let mut config = Config {
            password_file: Some(path),
            ..Config::default()
        };
        assert_eq!(
            config.read_password().await.unwrap().unwrap().expose(),
            " s3cret "
        );
        config.password_file = Some(dir.path().join("missing"));
        assert_eq!(
            config.read_password().await.unwrap_err().kind,
            ErrorKind::Invalid
        );
    }
}
