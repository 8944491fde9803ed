//! The location of a registry and its repository: `oci://host[:port]/repository[?insecure=true]`.

use std::{fmt, path::Path};

use reqwest::Url;

use super::{door::Door, guard};
use crate::store::{Error, Result, keys};

/// Docker Hub's name in references, and the host of its API.
const HUB: &str = "docker.io";
const HUB_API: &str = "registry-1.docker.io";

/// The only option that a URL may contain.
const INSECURE: &str = "insecure";

/// A repository of a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// As given, in lower case, with its port if one was given.
    pub(super) host: String,
    pub(super) repository: String,
    /// Plain http, according to its URL; `None` if unspecified: only on loopback.
    pub(super) insecure: Option<bool>,
    /// It is a cachectl daemon, reached in this way.
    pub(super) door: Option<Door>,
}

impl Location {
    /// Parses `oci://host[:port]/repository[?insecure=true]`.
    ///
    /// # Errors
    /// `Invalid` for anything else: credentials in it, a tag or digest, an unknown option.
    pub fn parse(url: &str) -> Result<Self> {
        let shown = crate::redact::url(url);
        let refused = |why: String| {
            Error::invalid(
                "open",
                format!("`{shown}` {why}; expected oci://host[:port]/repository"),
            )
        };
        let rest = url
            .strip_prefix("oci://")
            .ok_or_else(|| refused("does not start with oci://, with both slashes".to_owned()))?;
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, repository) = rest.split_once('/').unwrap_or((rest, ""));
        if host.contains('@') {
            return Err(refused(
                "contains credentials; set registry.username and registry.password, or use `docker login`"
                    .to_owned(),
            ));
        }
        let host = host.to_ascii_lowercase();
        if matches!(host.as_str(), "http:" | "https:") {
            return Err(refused(format!(
                "has two schemes; leave out `{host}//` (for plain http, use ?insecure=true)"
            )));
        }
        // CI systems supply owner names in their original case (`github.repository_owner`); no registry accepts capitals.
        let repository = repository.trim_end_matches('/').to_ascii_lowercase();
        let repository = repository.as_str();
        if repository.is_empty() {
            return Err(refused("has no repository".to_owned()));
        }
        if repository.contains([':', '@']) {
            return Err(refused(
                "has a tag or digest; leave it out, cachectl chooses the tags".to_owned(),
            ));
        }
        if !keys::is_repository(repository) {
            return Err(refused(
                "has an invalid repository: expected lower-case words and digits with `.`, `_`, `-` between them, and `/`"
                    .to_owned(),
            ));
        }
        let is_official = is_hub(&host) && !repository.contains('/');
        let location = Self {
            repository: if is_official {
                format!("library/{repository}")
            } else {
                repository.to_owned()
            },
            insecure: insecure(query).map_err(&refused)?,
            host,
            door: None,
        };
        if api(&location.host, None).is_none() {
            return Err(refused("has an invalid host".to_owned()));
        }
        Ok(location)
    }

    /// Returns true if `key` is an option of the query.
    pub fn takes(key: &str) -> bool {
        key == INSECURE
    }

    /// The same with plain http, if `insecure` and the URL does not specify it.
    #[must_use]
    pub(super) fn or_insecure(mut self, insecure: bool) -> Self {
        // A daemon's URL determines its protocol itself.
        if insecure && self.door.is_none() && self.insecure.is_none() {
            self.insecure = Some(true);
        }
        self
    }

    /// The registry's host as given, with its port if one was given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Returns true if plain http was requested.
    pub(super) fn insecure(&self) -> bool {
        self.insecure == Some(true)
    }

    /// The option for using TLS, or not, if the current choice is wrong.
    pub(super) fn other_way(&self) -> &'static str {
        let is_plain = self.api().is_ok_and(|url| url.scheme() == "http");
        match (&self.door, is_plain) {
            (Some(_), true) => "write https:// before the daemon's host",
            (Some(_), false) => "write http:// before the daemon's host and port",
            (None, true) => "set ?insecure=false in the store's URL",
            (None, false) => "for plain http set ?insecure=true in the store's URL",
        }
    }

    /// The unix socket for all requests, regardless of the host.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.door.as_ref().and_then(Door::socket)
    }

    /// The base URL of the registry's API: plain http if requested and, unless refused, on loopback; else https.
    pub(super) fn api(&self) -> Result<Url> {
        let url = match &self.door {
            Some(door) => Url::parse(&format!("{}://{}/", door.scheme(), self.host)).ok(),
            None => api(&self.host, self.insecure),
        };
        url.ok_or_else(|| Error::invalid("open", format!("`{}` is not a valid host", self.host)))
    }
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(door) = &self.door {
            return door.show(&self.host, f);
        }
        write!(f, "oci://{}/{}", self.host, self.repository)?;
        match self.insecure {
            Some(insecure) => write!(f, "?{INSECURE}={insecure}"),
            None => Ok(()),
        }
    }
}

fn is_hub(host: &str) -> bool {
    matches!(host, HUB | "index.docker.io")
}

fn api(host: &str, insecure: Option<bool>) -> Option<Url> {
    let host = if is_hub(host) { HUB_API } else { host };
    let mut url = Url::parse(&format!("https://{host}/")).ok()?;
    let plain = url.host_str().is_some_and(|h| !h.is_empty()) && url.path() == "/";
    if !plain || url.query().is_some() || url.fragment().is_some() {
        return None;
    }
    if insecure.unwrap_or_else(|| guard::is_loopback(&url)) {
        // Parsed again rather than modified: an explicit port 443 must be kept.
        url = Url::parse(&format!("http://{host}/")).ok()?;
    }
    Some(url)
}

fn insecure(query: &str) -> std::result::Result<Option<bool>, String> {
    let mut insecure = None;
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, "true"));
        if key != INSECURE {
            return Err(format!("has an unknown option; did you mean `{INSECURE}`?"));
        }
        insecure = match value {
            "true" | "1" => Some(true),
            "false" | "0" => Some(false),
            _ => {
                return Err(format!(
                    "has an invalid `{INSECURE}`: expected true or false"
                ));
            }
        };
    }
    Ok(insecure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    fn api_of(url: &str) -> String {
        Location::parse(url).unwrap().api().unwrap().to_string()
    }

    #[test]
    fn url_gives_host_repository_and_api() {
        let l = Location::parse("oci://Ghcr.io/team/app-cache/").unwrap();
        assert_eq!((l.host(), l.repository()), ("ghcr.io", "team/app-cache"));
        assert_eq!(l.to_string(), "oci://ghcr.io/team/app-cache");
        let insecure = "oci://h.example/a?insecure=true";
        assert_eq!(Location::parse(insecure).unwrap().to_string(), insecure);
        assert_eq!(api_of("oci://ghcr.io/team/app"), "https://ghcr.io/");
        assert_eq!(api_of("oci://registry/team/app"), "https://registry/");
        assert_eq!(
            api_of("oci://docker.io/team/app"),
            "https://registry-1.docker.io/"
        );
        let official = Location::parse("oci://docker.io/app").unwrap();
        assert_eq!(official.repository(), "library/app");
    }

    #[test]
    fn plain_http_is_only_for_loopback_and_insecure() {
        assert_eq!(api_of("oci://127.0.0.1:5000/a"), "http://127.0.0.1:5000/");
        assert_eq!(api_of("oci://localhost:5000/a"), "http://localhost:5000/");
        assert_eq!(api_of("oci://[::1]:5000/a"), "http://[::1]:5000/");
        assert_eq!(api_of("oci://10.0.0.1:5000/a"), "https://10.0.0.1:5000/");
        assert_eq!(
            api_of("oci://10.0.0.1:5000/a?insecure=true"),
            "http://10.0.0.1:5000/"
        );
        assert_eq!(
            api_of("oci://h.example/a?insecure=false"),
            "https://h.example/"
        );
        let tls = "oci://127.0.0.1:5000/a?insecure=false";
        assert_eq!(api_of(tls), "https://127.0.0.1:5000/");
        let tls = Location::parse(tls).unwrap().or_insecure(true);
        assert_eq!(tls.to_string(), "oci://127.0.0.1:5000/a?insecure=false");
    }

    #[test]
    fn the_other_way_to_speak_to_it_is_written_in_its_own_url() {
        let registry = |url: &str| Location::parse(url).unwrap().other_way();
        assert!(registry("oci://h.example/a").contains("?insecure=true"));
        assert!(registry("oci://127.0.0.1:1/a").contains("?insecure=false"));
        let daemon = |url: &str| Location::daemon(url).unwrap().other_way();
        assert!(daemon("cachectld+https://h").contains(" http://"));
        assert!(daemon("cachectld+http://h:1").contains(" https://"));
    }

    #[test]
    fn capitals_of_an_owner_are_lowered() {
        let location = Location::parse("oci://GHCR.io/My-Org/CI-Cache").unwrap();
        assert_eq!(location.repository(), "my-org/ci-cache");
        assert_eq!(location.to_string(), "oci://ghcr.io/my-org/ci-cache");
    }

    #[test]
    fn url_that_is_none_is_refused_without_its_password() {
        for bad in [
            "https://h/a",
            "oci://h",
            "oci://h/",
            "oci:///a",
            "oci://h.example/a:tag",
            "oci://h.example/a@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "oci://u:hunter2@h.example/a",
            "oci://h.example/a/../b",
            "oci://h.example/a?insecur=true",
            "oci://h.example/a?insecure=maybe",
            "oci://h.example:99999/a",
            "oci://h.example/a#b",
        ] {
            let e = Location::parse(bad).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Invalid, "{bad}");
            assert!(!e.to_string().contains("hunter2"), "{e}");
        }
        let e = Location::parse("oci://h.example/a?insecur=true").unwrap_err();
        assert!(e.message.contains("did you mean `insecure`"), "{e}");
    }
}
