//! Locations of daemons: `cachectld:SOCKET`, `cachectld+http://host:port`, `cachectld+https://host[:port]`.
//!
//! A daemon's registry API is a registry like any other; the command line uses only its repository `cachectl`.

use std::path::{Path, PathBuf};

use reqwest::Url;

use super::{Location, door::Door};
use crate::{
    redact,
    store::{Error, Result, keys::Repo},
};

/// The host in URLs and `Host` headers of requests through a socket.
const SOCKET_HOST: &str = "localhost";

impl Location {
    /// Parses the URL of a daemon.
    ///
    /// # Errors
    /// `Invalid` for anything else: a path where there is a host, no port for plain http, credentials.
    pub fn daemon(url: &str) -> Result<Self> {
        let refused = |why: &str| {
            let shown = redact::url(url);
            Error::invalid(
                "open",
                format!(
                    "`{shown}` {why}; expected cachectld:SOCKET, cachectld+http://HOST:PORT or cachectld+https://HOST[:PORT]"
                ),
            )
        };
        let (scheme, rest) = url.split_once(':').unwrap_or((url, ""));
        let door = match scheme {
            "cachectld" => {
                let path = rest
                    .strip_prefix("//")
                    .filter(|p| p.starts_with('/'))
                    .unwrap_or(rest);
                if path.is_empty() || path.starts_with("//") {
                    return Err(refused("has no socket path"));
                }
                if path.starts_with('~') {
                    return Err(refused("begins with `~`, which only the shell expands"));
                }
                return Ok(Self::at(SOCKET_HOST, Door::Socket(path.into())));
            }
            "cachectld+http" => Door::Http,
            "cachectld+https" => Door::Https,
            _ => return Err(refused("is not the URL of a daemon")),
        };
        let host = rest.strip_prefix("//").unwrap_or_default();
        let host = host.strip_suffix('/').unwrap_or(host).to_ascii_lowercase();
        if host.contains('@') {
            return Err(refused(
                "contains credentials; set registry.username and registry.password, or use `docker login`",
            ));
        }
        let parsed = Url::parse(&format!("{}://{host}/", door.scheme()));
        let Some(parsed) = parsed
            .ok()
            .filter(|u| u.host_str().is_some_and(|h| !h.is_empty()))
        else {
            return Err(refused("has no host"));
        };
        // URL parsers tolerate extra slashes.
        if host.contains(['/', '\\', '?', '#']) || parsed.path() != "/" {
            return Err(refused("contains more than a host and a port"));
        }
        // Nobody runs a cache on port 80; the daemon's default port would be a guess.
        if door == Door::Http
            && !host
                .trim_end_matches(|c: char| c.is_ascii_digit())
                .ends_with(':')
        {
            return Err(refused("has no port"));
        }
        Ok(Self::at(&host, door))
    }

    fn at(host: &str, door: Door) -> Self {
        Self {
            host: host.to_owned(),
            repository: Repo::cli().to_string(),
            insecure: None,
            door: Some(door),
        }
    }

    /// Returns true if it is reached by a path of this machine.
    pub fn is_socket(&self) -> bool {
        self.socket().is_some()
    }

    /// The same, with the path of its socket made absolute by `whole`.
    pub(in crate::store) fn with_socket<E>(
        mut self,
        whole: impl FnOnce(&Path) -> std::result::Result<PathBuf, E>,
    ) -> std::result::Result<Self, E> {
        if let Some(Door::Socket(path)) = &self.door {
            self.door = Some(Door::Socket(whole(path)?));
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn url_gives_the_way_and_comes_back() {
        for (url, api, socket) in [
            (
                "cachectld:/run/c.sock",
                "http://localhost/",
                Some("/run/c.sock"),
            ),
            (
                "cachectld:rel/c.sock",
                "http://localhost/",
                Some("rel/c.sock"),
            ),
            (
                "cachectld+http://127.0.0.1:5000",
                "http://127.0.0.1:5000/",
                None,
            ),
            (
                "cachectld+http://10.0.0.1:5000",
                "http://10.0.0.1:5000/",
                None,
            ),
            (
                "cachectld+https://cache.example",
                "https://cache.example/",
                None,
            ),
            ("cachectld+https://[::1]:5000", "https://[::1]:5000/", None),
        ] {
            let l = Location::daemon(url).unwrap();
            assert_eq!(l.to_string(), url);
            assert_eq!(l.api().unwrap().as_str(), api);
            assert_eq!(l.socket(), socket.map(Path::new));
            assert_eq!(l.repository(), "cachectl");
        }
        let l = Location::daemon("cachectld:///run/c.sock").unwrap();
        assert_eq!(l.to_string(), "cachectld:/run/c.sock");
    }

    #[test]
    fn what_is_no_daemon_is_refused_without_its_password() {
        for bad in [
            "cachectld:",
            "cachectld://host/x",
            "cachectld:~/x.sock",
            "cachectld+http://host",
            "cachectld+http://",
            "cachectld+https:///x",
            "cachectld+https://host/repo",
            "cachectld+https://host?insecure=true",
            "cachectld+https://u:hunter2@host",
            "cachectld+ftp://host:1",
            "oci://host/x",
        ] {
            let e = Location::daemon(bad).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Invalid, "{bad}");
            assert!(!e.to_string().contains("hunter2"), "{e}");
        }
    }
}
