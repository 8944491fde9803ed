//! Settings of remote stores, which every program that opens one has; and what the stores make of them.

use std::{path::PathBuf, time::Duration};

use super::{Env, Layer, Result};
use crate::{
    redact::Secret,
    store::{registry, s3},
};

/// Times and rates of the way to a remote store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Longest silence of a request.
    pub stall: Duration,
    /// Longest time to connect.
    pub connect_timeout: Duration,
    /// Longest time that one request is tried again.
    pub retry_for: Duration,
    /// Bytes per second.
    pub bandwidth: Option<u64>,
    /// Extra certificate authorities.
    pub ca_bundle: Option<PathBuf>,
}

impl Link {
    /// Checks what is said of the way.
    pub(super) fn from_layer(layer: &Layer) -> Result<Self> {
        let time = |name, default| Ok(layer.nonzero_duration(name)?.unwrap_or(default));
        Ok(Self {
            stall: time("stall", Duration::from_secs(10))?,
            connect_timeout: time("connect_timeout", Duration::from_secs(5))?,
            retry_for: layer
                .duration("retry_for")?
                .unwrap_or(Duration::from_secs(20)),
            bandwidth: layer.rate("bandwidth")?,
            ca_bundle: layer.path("ca_bundle")?,
        })
    }
}

/// Settings of S3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3 {
    /// Region.
    pub region: Option<String>,
    /// Endpoint.
    pub endpoint: Option<String>,
    /// Bucket in the path.
    pub path_style: Option<bool>,
    /// No credentials.
    pub anonymous: Option<bool>,
    /// Encryption by the server.
    pub sse: Option<s3::Sse>,
    /// Key of `aws:kms`.
    pub sse_kms_key_id: Option<String>,
    /// Storage class.
    pub storage_class: Option<String>,
    /// Canned ACL.
    pub acl: Option<String>,
    /// When uploads carry a checksum.
    pub checksum: Option<s3::Checksum>,
    /// Bytes of a part.
    pub part_bytes: Option<u64>,
    /// Parts at once.
    pub part_concurrency: Option<usize>,
}

/// Settings of registries.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Registry {
    /// Name to log in with.
    pub username: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// File that holds the password.
    pub password_file: Option<PathBuf>,
    /// Plain http everywhere.
    pub insecure: bool,
    /// Bytes of one piece.
    pub chunk_bytes: Option<u64>,
    /// Repositories to mount from.
    pub mount_from: Vec<String>,
}

impl S3 {
    /// Checks what is said of S3.
    pub(super) fn from_layer(layer: &Layer) -> Result<Self> {
        let text = |name| Ok(layer.text(name)?.map(|(text, _)| text));
        Ok(Self {
            region: text("s3.region")?,
            endpoint: text("s3.endpoint")?,
            path_style: layer.flag("s3.path_style")?,
            anonymous: layer.flag("s3.anonymous")?,
            sse: layer.choice("s3.sse", &s3::Sse::WORDS)?,
            sse_kms_key_id: text("s3.sse_kms_key_id")?,
            storage_class: text("s3.storage_class")?,
            acl: text("s3.acl")?,
            checksum: layer.choice("s3.checksum", &s3::Checksum::WORDS)?,
            part_bytes: layer.size("s3.part_bytes")?,
            part_concurrency: layer.count("s3.part_concurrency")?,
        })
    }

    /// As the store takes it.
    pub fn for_store(&self) -> s3::Config {
        s3::Config {
            region: self.region.clone(),
            endpoint: self.endpoint.clone(),
            path_style: self.path_style,
            anonymous: self.anonymous,
            sse: self.sse,
            sse_kms_key_id: self.sse_kms_key_id.clone(),
            storage_class: self.storage_class.clone(),
            acl: self.acl.clone(),
            checksum: self.checksum,
            part_bytes: self.part_bytes,
            part_concurrency: self.part_concurrency,
        }
    }
}

impl Registry {
    /// Checks what is said of registries.
    pub(super) fn from_layer(layer: &Layer) -> Result<Self> {
        let text = |name| Ok(layer.text(name)?.map(|(text, _)| text));
        Ok(Self {
            username: text("registry.username")?,
            password: text("registry.password")?.map(Secret::new),
            password_file: layer.path("registry.password_file")?,
            insecure: layer.flag("registry.insecure")?.unwrap_or(false),
            chunk_bytes: layer.size("registry.chunk_bytes")?,
            mount_from: layer.list("registry.mount_from"),
        })
    }

    /// As the store takes it; other credentials are looked for where `env` says.
    pub fn for_store(&self, env: &Env) -> registry::Config {
        let own = registry::Config::default();
        registry::Config {
            username: self.username.clone(),
            password: self.password.clone(),
            password_file: self.password_file.clone(),
            insecure: self.insecure,
            chunk_bytes: self.chunk_bytes.unwrap_or(own.chunk_bytes),
            mount_from: self.mount_from.clone(),
            credentials: credentials(env),
        }
    }
}

/// Where docker and podman keep credentials (docker's `config.json`; containers-auth.json(5)).
fn credentials(env: &Env) -> registry::CredentialSources {
    let below = |variable: &str, path: &str| Some(env.absolute(variable)?.join(path));
    let docker = match env.os("DOCKER_CONFIG") {
        Some(dir) => Some(PathBuf::from(dir).join("config.json")),
        None => below("HOME", ".docker/config.json"),
    };
    let files = [
        env.os("REGISTRY_AUTH_FILE").map(PathBuf::from),
        docker,
        below("XDG_RUNTIME_DIR", "containers/auth.json"),
        below("XDG_CONFIG_HOME", "containers/auth.json")
            .or_else(|| below("HOME", ".config/containers/auth.json")),
    ];
    registry::CredentialSources {
        docker_auth_config: env.get("DOCKER_AUTH_CONFIG").map(Secret::new),
        files: files.into_iter().flatten().collect(),
        helpers: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_looked_for_where_docker_and_podman_keep_them() {
        let env: Env = [
            ("HOME", "/h"),
            ("REGISTRY_AUTH_FILE", "/a.json"),
            ("XDG_RUNTIME_DIR", "/run/u"),
            ("DOCKER_AUTH_CONFIG", "{}"),
        ]
        .into_iter()
        .collect();
        let found = credentials(&env);
        assert_eq!(
            found.files,
            [
                "/a.json",
                "/h/.docker/config.json",
                "/run/u/containers/auth.json",
                "/h/.config/containers/auth.json"
            ]
            .map(PathBuf::from)
        );
        assert!(found.docker_auth_config.is_some());
        let env: Env = [("HOME", "/h"), ("DOCKER_CONFIG", "/d")]
            .into_iter()
            .collect();
        assert_eq!(credentials(&env).files[0], PathBuf::from("/d/config.json"));
    }
}
