//! Finds our credentials for a registry: settings, then the configurations of docker and podman with their helpers.
//!
//! Within a configuration: `credHelpers[host]`, `credsStore`, then the longest match of `auths` (`host/path`, `host`, and the
//! old forms with a scheme and `/v1/`). An unusable source causes a warning and does not hide the next one.

use std::{collections::BTreeMap, path::Path};

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use reqwest::header::HeaderValue;
use tracing::warn;

use super::{config::Config, config::CredentialSources, helper, location::Location};
use crate::{fs, redact::Secret, store::Result, task};

/// Largest configuration that is read.
const MAX_CONFIG_BYTES: u64 = 4 << 20;
/// Docker's key for Docker Hub in `auths` and for helpers.
const HUB_KEY: &str = "https://index.docker.io/v1/";
/// Encoding of `auth`; its padding may be missing.
const AUTH: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);
/// The user name by which a helper marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";

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

    /// Describes their owner and source.
    fn of(&self, source: &str) -> String {
        match self {
            Self::Password(name, _) => format!("user `{}` from {source}", name.escape_debug()),
            Self::Identity(_) => format!("an identity token from {source}"),
        }
    }

    /// The header that carries name and password; `None` for an identity token.
    pub(super) fn basic(&self) -> Option<HeaderValue> {
        let Self::Password(name, password) = self else {
            return None;
        };
        let both = format!("{name}:{}", password.expose());
        let text = format!("Basic {}", AUTH.encode(both));
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// The result of searching the sources.
#[derive(Debug)]
pub(super) struct Found {
    /// `None`: anonymous.
    pub(super) credential: Option<Credential>,
    /// For error messages: the owner and source of the credential, or why there is none.
    pub(super) account: String,
}

/// Describes the credentials of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// These were sent: their owner and source.
    Sent(String),
    /// None were sent, and why.
    NotSent(String),
}

/// Searches all sources.
///
/// # Errors
/// Only for settings that name a credential which cannot be read.
pub(super) async fn find(location: &Location, config: &Config) -> Result<Found> {
    if let Some(name) = &config.username {
        let password = config.read_password().await?;
        let secret = password.as_ref().map_or("", Secret::expose);
        let credential = Credential::new(name.clone(), secret.to_owned());
        let account = match &credential {
            Some(credential) => {
                credential.of("the settings registry.username and registry.password")
            }
            None => "registry.username is set without a password".to_owned(),
        };
        return Ok(Found {
            credential,
            account,
        });
    }
    let mut search = Search {
        location,
        helpers: config.credentials.helpers.as_deref(),
        looked_at: Vec::new(),
        faults: Vec::new(),
    };
    let found = search.all(&config.credentials).await;
    Ok(search.found(found, &config.credentials))
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct DockerConfig {
    auths: Option<BTreeMap<String, serde_json::Value>>,
    creds_store: Option<String>,
    cred_helpers: Option<BTreeMap<String, String>>,
}

/// A search, with the result of each source.
struct Search<'a> {
    location: &'a Location,
    /// The folder of credential helpers.
    helpers: Option<&'a Path>,
    /// Existing sources.
    looked_at: Vec<String>,
    /// Why some of them provided nothing.
    faults: Vec<String>,
}

impl Search<'_> {
    /// Tries one source after the other; returns the credential and its source.
    async fn all(&mut self, sources: &CredentialSources) -> Option<(Credential, String)> {
        if let Some(text) = &sources.docker_auth_config {
            let found = self
                .config("DOCKER_AUTH_CONFIG", text.expose().as_bytes())
                .await;
            if found.is_some() {
                return found;
            }
        }
        for file in &sources.files {
            let path = file.clone();
            let read = task::blocking(move || fs::read_if_there(&path, MAX_CONFIG_BYTES)).await;
            let found = match read {
                Ok(None) => None,
                Ok(Some(bytes)) => self.config(&format!("`{}`", file.display()), &bytes).await,
                Err(e) => {
                    self.fault(e.to_string());
                    None
                }
            };
            if found.is_some() {
                return found;
            }
        }
        None
    }

    /// Records why a source is skipped; the next one may work, so this is logged too.
    fn fault(&mut self, why: String) {
        warn!(reason = %why, "Ignoring unusable credentials");
        self.faults.push(why);
    }

    /// Describes the result.
    fn found(self, found: Option<(Credential, String)>, sources: &CredentialSources) -> Found {
        let skipped = match self.faults.len() {
            0 => String::new(),
            _ => format!(" ({})", self.faults.join("; ")),
        };
        if let Some((credential, source)) = found {
            let account = format!("{}{skipped}", credential.of(&source));
            let credential = Some(credential);
            return Found {
                credential,
                account,
            };
        }
        let host = self.location.host();
        let account = if !self.looked_at.is_empty() {
            format!(
                "none for `{host}` in {}{skipped}",
                self.looked_at.join(", ")
            )
        } else if !self.faults.is_empty() {
            self.faults.join("; ")
        } else {
            match sources.files.first() {
                Some(file) => format!("`{}` does not exist", file.display()),
                None => "no docker configuration".to_owned(),
            }
        };
        Found {
            credential: None,
            account,
        }
    }

    /// Searches one docker configuration.
    async fn config(&mut self, source: &str, json: &[u8]) -> Option<(Credential, String)> {
        let config: DockerConfig = match serde_json::from_slice(json) {
            Ok(config) => config,
            Err(e) => {
                // Serde's message may quote the text, including a password.
                self.fault(format!(
                    "{source} is not a docker configuration (line {})",
                    e.line()
                ));
                return None;
            }
        };
        self.looked_at.push(source.to_owned());
        let host = canonical(self.location.host());
        if let Some(found) = self.helper(source, &host, &config).await {
            return Some(found);
        }
        let auths = config.auths.unwrap_or_default();
        for key in candidates(&host, self.location.repository()) {
            let Some((_, entry)) = auths.iter().find(|(k, _)| canonical(k) == key) else {
                continue;
            };
            match decode(entry) {
                Ok(Some(found)) => return Some((found, source.to_owned())),
                Ok(None) => {}
                Err(error) => self.fault(format!("{source}, entry `{key}`: {error}")),
            }
        }
        None
    }

    /// Asks the credential helpers that a configuration names.
    async fn helper(
        &mut self,
        source: &str,
        host: &str,
        config: &DockerConfig,
    ) -> Option<(Credential, String)> {
        let own = config.cred_helpers.iter().flatten();
        let own = own.filter(|(key, _)| canonical(key) == host).take(1);
        let names = own.map(|(_, name)| name).chain(&config.creds_store);
        for name in names.filter(|n| !n.is_empty()) {
            let server = if host == "docker.io" {
                HUB_KEY
            } else {
                self.location.host()
            };
            match helper::get(self.helpers, name, server).await {
                Ok(None) => {}
                Ok(Some(answer)) => {
                    if let Some(found) = Credential::new(answer.username, answer.secret) {
                        let program = format!("the helper `docker-credential-{name}` in {source}");
                        return Some((found, program));
                    }
                }
                Err(error) => self.fault(format!("{source}: {error}")),
            }
        }
        None
    }
}

/// `host/a/b`, `host/a`, `host`: the longest first, as podman does (`containers-auth.json(5)`).
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

/// A key of `auths` without the additions of old docker versions.
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

/// One entry of `auths`; `None` if it is empty, as docker leaves it beside a helper. As in docker (`loadFromReader` in
/// `cli/config/configfile/file.go`), `auth` takes precedence over `username` and `password`.
fn decode(entry: &serde_json::Value) -> std::result::Result<Option<Credential>, &'static str> {
    let text = |field: &str| entry[field].as_str().filter(|text| !text.is_empty());
    if let Some(token) = text("identitytoken") {
        return Ok(Some(Credential::Identity(Secret::new(token))));
    }
    if let Some(auth) = text("auth") {
        // Docker's own decoder ignores line ends, which `base64` writes into text that users paste.
        let auth = auth.replace(['\r', '\n'], "");
        let decoded = AUTH
            .decode(auth)
            .ok()
            .and_then(|b| String::from_utf8(b).ok());
        let both = decoded.ok_or("`auth` is not valid base64 of UTF-8 text")?;
        let (name, password) = both
            .split_once(':')
            .ok_or("`auth` has no colon between user name and password")?;
        return Ok(Credential::new(name.to_owned(), password.to_owned()));
    }
    Ok(text("username")
        .zip(text("password"))
        .and_then(|(name, password)| Credential::new(name.to_owned(), password.to_owned())))
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
        let found = find(&Location::parse(url).unwrap(), &config).await;
        found.unwrap().credential
    }

    fn helper(dir: &std::path::Path, name: &str, script: &str) {
        let path = dir.join(format!("docker-credential-{name}"));
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn entries_are_read_as_docker_reads_them() {
        let name = || Credential::new("u".to_owned(), "p:q".to_owned());
        let token = Credential::Identity(Secret::new("id"));
        // "dTpwOnE=" = u:p:q
        for (entry, want) in [
            (r#"{"auth":"dTpwOnE="}"#, Ok(name())),
            (r#"{"auth":"dTpwOnE"}"#, Ok(name())),
            (r#"{"auth":"dTpw\r\nOnE=\n"}"#, Ok(name())),
            (r#"{"username":"u","password":"p:q"}"#, Ok(name())),
            (
                r#"{"auth":"dTpwOnE=","username":"x","password":"y"}"#,
                Ok(name()),
            ),
            (
                r#"{"auth":"dTpwOnE=","identitytoken":"id"}"#,
                Ok(Some(token)),
            ),
            (r#"{"auth":"","username":"u","password":7}"#, Ok(None)),
            (
                r#"{"auth":"%"}"#,
                Err("`auth` is not valid base64 of UTF-8 text"),
            ),
            (
                r#"{"auth":"/w=="}"#,
                Err("`auth` is not valid base64 of UTF-8 text"),
            ),
            (
                r#"{"auth":"dQ=="}"#,
                Err("`auth` has no colon between user name and password"),
            ),
            ("[]", Ok(None)),
        ] {
            let read = decode(&serde_json::from_str(entry).unwrap());
            assert_eq!(read, want, "{entry}");
        }
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
        assert!(error.contains("did not answer within 10 s"), "{error}");
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
        assert_eq!(
            find(&here, &config).await.unwrap().credential,
            password("u", "p")
        );
        config.username = Some("me".to_owned());
        config.password = Some(Secret::new("mine"));
        assert_eq!(
            find(&here, &config).await.unwrap().credential,
            password("me", "mine")
        );
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
