//! Finds our credentials for a registry: settings, then the configurations of docker and podman with their helpers.
//!
//! Inside a configuration: `credHelpers[host]`, `credsStore`, then the longest match of `auths` (`host/path`, `host`, and the
//! old forms with a scheme and `/v1/`). A source that is broken is named in a warning and does not hide the next one.

use std::collections::BTreeMap;

use base64::Engine as _;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use reqwest::header::HeaderValue;
use tracing::warn;

use super::{config::Config, config::CredentialSources, helper, location::Location};
use crate::{fs, redact::Secret, store::Result, task};

/// Largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// What docker calls its Hub in `auths` and to helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// A helper's user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// Who we are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Credential {
    /// Name and password.
    Password(String, Secret),
    /// A refresh token for the token endpoint.
    Identity(Secret),
}

impl Credential {
    fn new(username: String, secret: String) -> Option<Self> {
        match username.as_str() {
            _ if secret.is_empty() => None,
            TOKEN_USER => Some(Self::Identity(Secret::new(secret))),
            _ => Some(Self::Password(username, Secret::new(secret))),
        }
    }

    /// The header that carries name and password; `None` for an identity token.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Self::Password(name, password) = self else {
            return None;
        };
        let both = format!("{name}:{}", password.expose());
        let text = format!(
            "Basic {}",
            base64::engine::general_purpose::STANDARD.encode(both)
        );
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Looks through all sources; `None` means that we are nobody there.
///
/// # Errors
/// Only for settings that name a credential and cannot be read.
pub(super) async fn find(location: &Location, config: &Config) -> Result<Option<Credential>> {
    if let Some(name) = &config.username {
        let password = config.read_password().await?;
        let secret = password.as_ref().map_or("", Secret::expose);
        return Ok(Credential::new(name.clone(), secret.to_owned()));
    }
    let sources = &config.credentials;
    if let Some(text) = &sources.docker_auth_config {
        let found = search(
            "DOCKER_AUTH_CONFIG",
            text.expose().as_bytes(),
            location,
            sources,
        )
        .await;
        if found.is_some() {
            return Ok(found);
        }
    }
    for file in &sources.files {
        let path = file.clone();
        let name = file.display().to_string();
        let found = match task::blocking(move || fs::read_if_there(&path, MAX_CONFIG_BYTES)).await {
            Ok(None) => None,
            Ok(Some(bytes)) => search(&name, &bytes, location, sources).await,
            Err(e) => {
                warn!(file = %name, error = %e, "Credentials skipped");
                None
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct DockerConfig {
    auths: Option<BTreeMap<String, serde_json::Value>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

async fn search(
    source: &str,
    json: &[u8],
    location: &Location,
    sources: &CredentialSources,
) -> Option<Credential> {
    let config: DockerConfig = match serde_json::from_slice(json) {
        Ok(config) => config,
        Err(e) => {
            // The message of serde may quote the text, and so a password.
            warn!(
                source,
                line = e.line(),
                "Credentials skipped: this is no docker configuration"
            );
            return None;
        }
    };
    let host = canonical(location.host());
    let own = config
        .cred_helpers
        .iter()
        .flatten()
        .find(|(key, _)| canonical(key) == host);
    let names = own
        .map(|(_, name)| name)
        .into_iter()
        .chain(&config.creds_store);
    for name in names.filter(|n| !n.is_empty()) {
        let server = if host == "docker.io" {
            HUB_KEY
        } else {
            location.host()
        };
        match helper::get(sources.helpers.as_deref(), name, server).await {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let found = Credential::new(answer.username, answer.secret);
                if found.is_some() {
                    return found;
                }
            }
            Err(error) => warn!(source, error, "Credential helper skipped"),
        }
    }
    let auths = config.auths.unwrap_or_default();
    for key in candidates(&host, location.repository()) {
        let Some((_, entry)) = auths.iter().find(|(k, _)| canonical(k) == key) else {
            continue;
        };
        match decode(entry) {
            Ok(Some(found)) => return Some(found),
            Ok(None) => {}
            Err(error) => warn!(source, key, %error, "Credentials skipped"),
        }
    }
    None
}

/// `host/a/b`, `host/a`, `host`: the longest first, as podman matches (`containers-auth.json(5)`).
fn candidates(host: &str, repository: &str) -> Vec<String> {
    let whole = format!("{host}/{repository}");
    let mut all = vec![whole.clone()];
    let mut rest = whole.as_str();
    while let Some((shorter, _)) = rest.rsplit_once('/') {
        all.push(shorter.to_owned());
        rest = shorter;
    }
    all
}

/// A key of `auths` without what old versions of docker wrote around it.
fn canonical(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"));
    let key = match bare {
        Some(bare) => {
            let bare = bare.trim_end_matches('/');
            bare.strip_suffix("/v1")
                .or_else(|| bare.strip_suffix("/v2"))
                .unwrap_or(bare)
        }
        None => key.trim_end_matches('/'),
    };
    let (host, path) = key
        .split_once('/')
        .map_or((key, None), |(h, p)| (h, Some(p)));
    let host = match host.to_ascii_lowercase() {
        h if matches!(h.as_str(), "index.docker.io" | "registry-1.docker.io") => {
            "docker.io".to_owned()
        }
        h => h,
    };
    path.map_or_else(|| host.clone(), |p| format!("{host}/{p}"))
}

/// One entry of `auths`; `None` if it is empty, as docker leaves it beside a helper.
fn decode(
    entry: &serde_json::Value,
) -> std::result::Result<Option<Credential>, CredentialRetrievalError> {
    let filled: serde_json::Map<String, serde_json::Value> = entry
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(_, v)| v.as_str().is_some_and(|s| !s.is_empty()))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    // The crate is given this one entry and nothing that it could run: its helpers have no time limit.
    let alone = serde_json::json!({ "auths": { "host": filled } }).to_string();
    match docker_credential::get_credential_from_reader(alone.as_bytes(), "host") {
        Ok(DockerCredential::IdentityToken(token)) => {
            Ok(Some(Credential::Identity(Secret::new(token))))
        }
        Ok(DockerCredential::UsernamePassword(name, password)) => {
            Ok(Credential::new(name, password))
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

    use super::*;

    #[expect(
        clippy::unnecessary_wraps,
        reason = "it stands for what a search finds"
    )]
    fn password(name: &str, secret: &str) -> Option<Credential> {
        Some(Credential::Password(name.to_owned(), Secret::new(secret)))
    }

    async fn in_text(url: &str, json: &str, helpers: Option<PathBuf>) -> Option<Credential> {
        let config = Config {
            credentials: CredentialSources {
                docker_auth_config: Some(Secret::new(json)),
                files: Vec::new(),
                helpers,
            },
            ..Config::default()
        };
        find(&Location::parse(url).unwrap(), &config).await.unwrap()
    }

    fn helper(dir: &std::path::Path, name: &str, script: &str) {
        let path = dir.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[tokio::test]
    async fn longest_path_wins_and_old_keys_are_understood() {
        // dTpw = u:p, dDpx = t:q
        let json = r#"{"auths":{
            "r.example":{"auth":"dTpw"},
            "r.example/team":{"auth":"dDpx"},
            "https://old.example/v1/":{"username":"a","password":"b"},
            "https://index.docker.io/v1/":{"identitytoken":"id","auth":""},
            "empty.example":{}
        }}"#;
        assert_eq!(
            in_text("oci://r.example/team/app", json, None).await,
            password("t", "q")
        );
        assert_eq!(
            in_text("oci://r.example/teams", json, None).await,
            password("u", "p")
        );
        assert_eq!(
            in_text("oci://old.example/x", json, None).await,
            password("a", "b")
        );
        let hub = in_text("oci://docker.io/x/y", json, None).await;
        assert_eq!(hub, Some(Credential::Identity(Secret::new("id"))));
        assert_eq!(in_text("oci://empty.example/x", json, None).await, None);
        assert_eq!(in_text("oci://r.example.evil/x", json, None).await, None);
    }

    #[tokio::test]
    async fn helper_is_asked_before_auths_and_a_broken_one_does_not_hide_them() {
        let dir = tempfile::tempdir().unwrap();
        helper(
            dir.path(),
            "good",
            r#"read s; echo "{\"ServerURL\":\"$s\",\"Username\":\"<token>\",\"Secret\":\"for-$s\"}""#,
        );
        helper(
            dir.path(),
            "none",
            "echo 'credentials not found in native keychain'; exit 1",
        );
        helper(dir.path(), "bad", "echo 'no session bus' >&2; exit 3");
        helper(dir.path(), "chatty", "head -c 10000000 /dev/zero");
        let folder = Some(dir.path().to_owned());
        let with = |name: &str| {
            format!(
                r#"{{"credHelpers":{{"r.example":"{name}"}},"auths":{{"r.example":{{"auth":"dTpw"}}}}}}"#
            )
        };
        let got = in_text("oci://r.example/a", &with("good"), folder.clone()).await;
        assert_eq!(
            got,
            Some(Credential::Identity(Secret::new("for-r.example")))
        );
        for name in ["none", "bad", "missing", "chatty", "../good", "a b", ""] {
            let got = in_text("oci://r.example/a", &with(name), folder.clone()).await;
            assert_eq!(got, password("u", "p"), "{name}");
        }
        let store = r#"{"credsStore":"good"}"#;
        let got = in_text("oci://docker.io/a/b", store, folder).await;
        assert_eq!(
            got,
            Some(Credential::Identity(Secret::new(
                "for-https://index.docker.io/v1/"
            )))
        );
    }

    #[tokio::test]
    async fn helper_that_hangs_is_stopped() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        helper(
            dir.path(),
            "slow",
            &format!("echo $$ > {}; exec sleep 600", pid.display()),
        );
        let asked = helper::get(Some(dir.path()), "slow", "h");
        tokio::pin!(asked);
        // Let it start in real time, then let ten seconds pass at once.
        while std::fs::read_to_string(&pid).map_or(true, |s| !s.ends_with('\n')) {
            let wait = tokio::time::sleep(std::time::Duration::from_millis(5));
            tokio::select! {
                _ = &mut asked => panic!("it answered"),
                () = wait => {}
            }
        }
        tokio::time::pause();
        tokio::time::advance(std::time::Duration::from_secs(11)).await;
        let error = asked.await.map(|_| ()).unwrap_err();
        assert!(error.contains("no answer in 10 s"), "{error}");
        tokio::time::resume();
        let pid = std::fs::read_to_string(&pid).unwrap();
        let gone = || {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
            stat.map_or(true, |s| s.contains(") Z "))
        };
        while !gone() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn settings_come_first_and_files_in_their_order() {
        let dir = tempfile::tempdir().unwrap();
        let (broken, good) = (dir.path().join("broken.json"), dir.path().join("auth.json"));
        std::fs::write(&broken, "{").unwrap();
        std::fs::write(&good, r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#).unwrap();
        let mut config = Config {
            credentials: CredentialSources {
                files: vec![
                    dir.path().join("missing.json"),
                    dir.path().to_owned(),
                    broken,
                    good,
                ],
                ..CredentialSources::default()
            },
            ..Config::default()
        };
        let here = Location::parse("oci://r.example/a").unwrap();
        assert_eq!(find(&here, &config).await.unwrap(), password("u", "p"));
        config.username = Some("me".to_owned());
        config.password = Some(Secret::new("mine"));
        assert_eq!(find(&here, &config).await.unwrap(), password("me", "mine"));
    }

    #[test]
    fn credentials_do_not_show_in_debug() {
        let shown = format!("{:?}", password("u", "hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
        let header = password("u", "p").unwrap().basic().unwrap();
        assert_eq!(header.to_str().unwrap(), "Basic dTpw");
        assert!(!format!("{header:?}").contains("dTpw"));
    }
}
