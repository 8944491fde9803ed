//! Opens stores as the settings say; one of two files here that know the rooms below `ops`.

use std::path::PathBuf;

use super::error::{CommandError, Result};
use crate::{
    config::{self, Config, Env},
    redact::Secret,
    store::{
        open::{self, Opened, Options, StoreUrl},
        registry, s3,
    },
};

/// Opens the store at `url`; remotes are not asked anything yet.
pub(crate) async fn open(url: &str, config: &Config, env: &Env, read_only: bool) -> Result<Opened> {
    let url: StoreUrl = url.parse()?;
    let options = Options {
        read_only,
        concurrency: config.concurrency,
        bandwidth: config.bandwidth,
        retry_for: config.retry_for,
        stall: config.stall,
        connect_timeout: config.connect_timeout,
        ca_bundle: config.ca_bundle.clone(),
        s3: s3(&config.s3),
        registry: registry(&config.registry, env),
        ..Options::default()
    };
    Ok(open::open(&url, &options).await?)
}

/// Where a store is, as far as it matters to who does the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// In a folder of this node.
    Folder,
    /// At a server that anybody with credentials may ask.
    Remote,
    /// Behind a daemon.
    Daemon,
}

/// Where the store at `url` is.
pub(crate) fn place(url: &str) -> Result<Place> {
    Ok(match url.parse()? {
        StoreUrl::Disk(_) | StoreUrl::Layout(_) => Place::Folder,
        StoreUrl::S3(_) | StoreUrl::Registry(_) => Place::Remote,
        StoreUrl::Daemon(_) => Place::Daemon,
    })
}

/// Refuses a folder that is not there; of what is remote nothing is known before it is asked.
pub(crate) fn must_be_there(url: &str) -> Result<()> {
    let (StoreUrl::Disk(path) | StoreUrl::Layout(path)) = url.parse()? else {
        return Ok(());
    };
    if path.try_exists().unwrap_or(true) {
        return Ok(());
    }
    Err(
        CommandError::failed(format!("there is no store at `{}`", path.display()))
            .hint("the first export to it makes it"),
    )
}

fn s3(set: &config::settings::S3) -> s3::Config {
    s3::Config {
        region: set.region.clone(),
        endpoint: set.endpoint.clone(),
        path_style: set.path_style,
        anonymous: set.anonymous,
        sse: set.sse.map(|sse| match sse {
            "aws:kms" => s3::Sse::AwsKms,
            _ => s3::Sse::Aes256,
        }),
        sse_kms_key_id: set.sse_kms_key_id.clone(),
        storage_class: set.storage_class.clone(),
        acl: set.acl.clone(),
        checksum: set.checksum.map(|checksum| match checksum {
            "always" => s3::Checksum::Always,
            "never" => s3::Checksum::Never,
            _ => s3::Checksum::Auto,
        }),
        part_bytes: set.part_bytes,
        part_concurrency: set.part_concurrency,
    }
}

fn registry(set: &config::settings::Registry, env: &Env) -> registry::Config {
    let own = registry::Config::default();
    registry::Config {
        username: set.username.clone(),
        password: set.password.clone(),
        password_file: set.password_file.clone(),
        insecure: set.insecure,
        chunk_bytes: set.chunk_bytes.unwrap_or(own.chunk_bytes),
        mount_from: set.mount_from.clone(),
        credentials: credentials(env),
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
