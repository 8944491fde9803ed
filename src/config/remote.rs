//! Settings of remote stores, which every program that opens one has, in the form that stores use.

use std::path::PathBuf;

use super::{Env, table::Flag};
use crate::{
    redact::Secret,
    store::{
        open::Options,
        registry::{self, Config as Registry},
        s3::{Checksum, Config as S3, Sse},
    },
};

settings! {
    /// How remote stores are reached; the caller that opens one adds the other options.
    fn options(layer, env: &Env) -> Options, rows LINK by of_command {
        net.stall, "stall" = nonzero_duration or "10s", Counts, Flag::new("stall").advanced()
            => "idle timeout: retry a request after this long without data";
        net.connect_timeout, "connect_timeout" = nonzero_duration or "5s", Counts, Flag::new("connect-timeout").advanced()
            => "longest time to connect to a remote store";
        retry_for, "retry_for" = duration or "20s", Counts, Flag::new("retry-for").advanced()
            => "how long one request is retried";
        bandwidth, "bandwidth" = rate else "no limit", Counts, Flag::new("bandwidth").advanced()
            => "bytes per second to and from the store, all requests together, such as 50MB/s";
        net.ca_bundle, "ca_bundle" = path else "none", Ignored, Flag::new("ca-bundle").value("FILE").advanced()
            => "PEM file of certificate authorities to trust besides the system's";
    } and {
        net.proxies = env.proxies(),
        s3 = s3(layer)?,
        registry = registry(layer, env)?,
    }
}

settings! {
    fn s3(layer) -> S3, rows S3_ROWS by of_command {
        region, "s3.region" = text else "from the AWS configuration", Ignored
            => "region, if the URL names none";
        endpoint, "s3.endpoint" = url else "AWS", Ignored
            => "endpoint of another S3 server, if the URL names none";
        path_style, "s3.path_style" = flag else "true at endpoints that are not AWS's", Ignored
            => "put the bucket into the path, not into the host name";
        anonymous, "s3.anonymous" = flag else "false", Ignored
            => "send no credentials";
        sse, "s3.sse" = (choice Sse::WORDS) else "the bucket's own", Ignored
            => "server-side encryption: AES256 or aws:kms";
        sse_kms_key_id, "s3.sse_kms_key_id" = text else "the account's own", Ignored
            => "KMS key of `aws:kms`";
        storage_class, "s3.storage_class" = text else "the bucket's own", Ignored
            => "storage class of what is written, such as STANDARD_IA";
        acl, "s3.acl" = text else "none", Ignored
            => "canned ACL of what is written, such as bucket-owner-full-control";
        checksum, "s3.checksum" = (choice Checksum::WORDS) else "auto: at AWS only", Ignored
            => "when uploads carry a checksum for the server to check: auto, always or never";
        part_bytes, "s3.part_bytes" = size else "16MiB", Ignored
            => "size of one part of a big upload";
        part_concurrency, "s3.part_concurrency" = count else "8", Ignored
            => "parts of one upload in flight at once";
    }
}

settings! {
    /// Other credentials are searched in the places given by `env`.
    fn registry(layer, env: &Env) -> Registry, rows REGISTRY_ROWS by of_command {
        username, "registry.username" = text else "from docker's configuration", Ignored
            => "name to log in with; `<token>` makes the password an identity token";
        password, "registry.password" = secret else "from docker's configuration", Ignored
            => "password or token to log in with";
        password_file, "registry.password_file" = path else "none", Ignored
            => "file that holds the password";
        insecure, "registry.insecure" = flag or "false", Ignored
            => "speak plain http to hosts other than loopback too";
        chunk_bytes, "registry.chunk_bytes" = size or "4MiB", Ignored
            => "size of one chunk, for registries that accept large blobs only in chunks";
        mount_from, "registry.mount_from" = list else "none", Ignored
            => "repositories of the same registry whose blobs are mounted instead of sent";
    } and { credentials = credentials(env), }
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
    use crate::config::Layer;

    #[test]
    fn the_tables_defaults_are_those_of_stores() {
        let (set, own) = (
            options(&Layer::default(), &Env::default()).unwrap(),
            Options::default(),
        );
        assert_eq!(set.net, own.net);
        assert_eq!(set.retry_for, own.retry_for);
        assert_eq!(set.bandwidth, own.bandwidth);
        assert_eq!((set.s3, set.registry), (own.s3, own.registry));
    }

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
