//! The host names by which clients may address the daemon, and the web sites for which a browser may send requests to it.
//!
//! A page in a browser on this machine can reach loopback addresses as any other program can, but its request can be
//! recognized: with DNS rebinding it carries the page's own name in `Host`; across sites it carries `Origin` or
//! `Sec-Fetch-Site` (Fetch standard, "Origin header"; Fetch Metadata, "Sec-Fetch-Site"). No registry client sends either of the
//! latter.

use std::{collections::BTreeSet, fs, net::IpAddr};

use axum::http::{
    HeaderMap, Method, Request,
    header::{HOST, ORIGIN},
    uri::Authority as Host,
};
use parking_lot::Mutex;
use tracing::{info, warn};

use super::{Error, Peer, Result, config::Config};
use crate::{
    fair::{Key, lines},
    serve::refusal::Refusal,
};

/// Maximum number of bytes of a host name in a message.
const MAX_SHOWN: usize = 100;
/// Number of unknown names that log one warning each; further ones are only noted.
const MAX_WARNED: usize = 32;

/// Names of this daemon, besides loopback addresses and `localhost`.
pub(super) struct Hosts {
    /// In lower case, without ports.
    names: Vec<String>,
    /// The daemon's URL as clients see it: scheme, host and port.
    external: Option<Site>,
    warned: Mutex<BTreeSet<String>>,
}

impl Hosts {
    /// The names in `allowed_hosts` and `external_url`, and this machine's own. Blocks.
    ///
    /// # Errors
    /// Names the entry that is not a valid host name.
    pub(super) fn new(config: &Config) -> Result<Self> {
        let external = config.external_url.as_deref().and_then(Site::of);
        let mut names: Vec<String> = external.iter().map(|site| site.host.clone()).collect();
        let machine = rustix::system::uname();
        let known = fs::read_to_string("/etc/hosts").unwrap_or_default();
        names.extend(own_names(&machine.nodename().to_string_lossy(), &known));
        for entry in &config.allowed_hosts {
            if !is_name(entry) {
                let shown = crate::redact::host(entry);
                let why = format!("`allowed_hosts` holds `{shown}`, which is not a host name");
                return Err(
                    Error::new(why).hint("expected a name without a port, such as cache.internal")
                );
            }
            names.push(plain(entry));
        }
        Ok(Self {
            names,
            external,
            warned: Mutex::default(),
        })
    }

    /// Checks a request received over TCP; `by_address`: its sender has rights because of its loopback address.
    ///
    /// # Errors
    /// [`Refusal::denied`] for a request that a page of another site sent, and for one `by_address` that uses an unknown name
    /// for this daemon.
    pub(super) fn check<B>(
        &self,
        request: &Request<B>,
        by_address: bool,
    ) -> std::result::Result<(), Refusal> {
        let (uri, headers) = (request.uri(), request.headers());
        // A client that sends no host name (HTTP/1.0) is not a browser.
        let named: Vec<&str> = uri
            .authority()
            .map(Host::as_str)
            .into_iter()
            .chain(all(headers, HOST.as_str()))
            .collect();
        let unknown = named.iter().find(|name| by_address && !self.knows(name));
        if let Some(host) = unknown {
            let shown: String = host.chars().take(MAX_SHOWN).collect();
            if lines::may_write(&caller(request)) {
                self.report(&shown);
            }
            return Err(Refusal::denied(format!(
                "the request is for host `{shown}`, which is not a known name of this daemon: use 127.0.0.1 or localhost, or add the name to `allowed_hosts` in its settings"
            )));
        }
        if self.is_foreign(&named, headers) && !is_visit(request) {
            if lines::may_write(&caller(request)) {
                info!("Denied: a web page of another site sent the request");
            }
            return Err(Refusal::denied(
                "a web page of another site sent this request (see its Origin or Sec-Fetch-Site header); this daemon accepts browsers only from its own site; behind a proxy, set `external_url` to that site",
            ));
        }
        Ok(())
    }

    /// Logs a warning at the first request with a name; a page may use any number of names.
    fn report(&self, host: &str) {
        let mut warned = self.warned.lock();
        if warned.len() < MAX_WARNED && warned.insert(host.to_owned()) {
            warn!(
                host,
                remedy = "add the name to `allowed_hosts` if clients call this daemon by it",
                "Denied: unknown host name"
            );
        } else {
            info!(host, "Denied: unknown host name");
        }
    }

    /// Returns true if this is one of our names, with any port.
    fn knows(&self, named: &str) -> bool {
        let Ok(host) = named.parse::<Host>() else {
            return false;
        };
        // `user@host`: different parsers could take a different part as the host.
        if named.contains('@') {
            return false;
        }
        let name = plain(host.host());
        is_loopback(&name) || self.names.contains(&name)
    }

    /// Returns true if a browser sent the request for a page of another site.
    fn is_foreign(&self, named: &[&str], headers: &HeaderMap) -> bool {
        let mut sites = all(headers, "sec-fetch-site").peekable();
        if sites.peek().is_some() {
            // Scripts cannot set it, so it is more reliable than `Origin`, which looks foreign behind a proxy that changes
            // `Host`.
            return !sites.all(|site| matches!(site, "same-origin" | "none"));
        }
        let ours = |origin: &str| {
            let Some(site) = Site::of(origin) else {
                return false;
            };
            let same = |host: &&str| Site::with(&site.scheme, host).as_ref() == Some(&site);
            named.iter().any(same) || self.external.as_ref() == Some(&site)
        };
        !all(headers, ORIGIN.as_str()).all(ours)
    }
}

/// Returns true if a user followed a link to the status page: a GET without side effects, for a page in its own tab, which the
/// linking site cannot read (Fetch Metadata, "Sec-Fetch-Mode", "Sec-Fetch-Dest"). Scripts cannot set these headers.
fn is_visit<B>(request: &Request<B>) -> bool {
    let only = |name, value| all(request.headers(), name).eq([value]);
    request.method() == Method::GET
        && request.uri().path() == "/"
        && only("sec-fetch-mode", "navigate")
        && only("sec-fetch-dest", "document")
        && !request.headers().contains_key(ORIGIN)
}

/// The names of this machine: its host name, with and without the domain, and with the domain from `/etc/hosts`.
fn own_names(node: &str, known: &str) -> Vec<String> {
    let node = plain(node);
    if !is_name(&node) {
        return Vec::new();
    }
    let short = node.split('.').next().unwrap_or(&node).to_owned();
    let with_domain = format!("{short}.");
    let lines = known.lines().map(|line| {
        let text = line.split('#').next().unwrap_or_default();
        let names = text.split_whitespace().skip(1).map(plain);
        names.collect::<Vec<_>>()
    });
    let own = lines.filter(|names| names.contains(&node));
    let mut found: Vec<String> = own
        .flatten()
        .filter(|name| name.starts_with(&with_domain))
        .collect();
    found.extend([node, short]);
    found
}

/// All values of a header; a value that is not text becomes empty, which matches no host and no site.
fn all<'h>(headers: &'h HeaderMap, name: &str) -> impl Iterator<Item = &'h str> {
    let values = headers.get_all(name).into_iter();
    values.map(|value| value.to_str().unwrap_or_default())
}

/// A web origin (RFC 6454 §4).
#[derive(Debug, PartialEq, Eq)]
struct Site {
    scheme: String,
    host: String,
    port: u16,
}

impl Site {
    /// The origin of a URL.
    fn of(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        Self::with(&scheme.to_ascii_lowercase(), rest.split('/').next()?)
    }

    /// The origin of a host, with or without a port.
    fn with(scheme: &str, host: &str) -> Option<Self> {
        let host: Host = host.parse().ok()?;
        let port = match (host.port_u16(), scheme) {
            (Some(port), _) => port,
            (None, "http") => 80,
            (None, "https") => 443,
            (None, _) => return None,
        };
        Some(Self {
            scheme: scheme.to_owned(),
            host: plain(host.host()),
            port,
        })
    }
}

/// Returns true if a text is a host name or address, as in a URL.
fn is_name(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    if let Some(inside) = inside {
        return inside.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    !text.is_empty() && text.bytes().all(plain)
}

/// In lower case, without the trailing dot, which does not change the meaning.
fn plain(host: &str) -> String {
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}

/// Returns true if a name always refers to this machine (RFC 6761 §6.3).
fn is_loopback(name: &str) -> bool {
    let inside = name.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip: Option<IpAddr> = inside.unwrap_or(name).parse().ok();
    match ip {
        Some(ip) => ip.to_canonical().is_loopback(),
        None => name == "localhost" || name.ends_with(".localhost"),
    }
}

/// Which caller the log line about a request is accounted to.
fn caller<B>(request: &Request<B>) -> Key {
    Peer::of(request.extensions()).key()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(external_url: Option<&str>, allowed: &[&str]) -> Result<Hosts> {
        Hosts::new(&Config {
            external_url: external_url.map(str::to_owned),
            allowed_hosts: allowed.iter().map(|s| (*s).to_owned()).collect(),
            ..Config::default()
        })
    }

    fn passes(
        hosts: &Hosts,
        uri: &str,
        headers: &[(&'static str, &str)],
        by_address: bool,
    ) -> bool {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        hosts.check(&get(uri, map), by_address).is_ok()
    }

    fn get(uri: &str, headers: HeaderMap) -> Request<()> {
        let mut request = Request::get(uri).body(()).unwrap();
        *request.headers_mut() = headers;
        request
    }

    #[test]
    fn this_machine_is_known_by_its_name_with_and_without_domain() {
        let none = hosts(None, &[]).unwrap();
        let node = rustix::system::uname();
        let node = node.nodename().to_str().unwrap();
        for host in [
            node.to_owned(),
            format!("{}:5000", node.to_uppercase()),
            format!("{node}.:5000"),
            node.split('.').next().unwrap().to_owned(),
        ] {
            assert!(passes(&none, "/v2/", &[("host", &host)], true), "{host}");
        }
        let far = format!("{node}.evil.example");
        assert!(!passes(&none, "/v2/", &[("host", &far)], true));

        let known = "127.0.0.1 localhost\n127.0.1.1\tbox.Corp.example. box # box.evil.example\n127.0.0.1 ads.evil.example\n\
                     10.0.0.1 box.other.example\n";
        assert_eq!(own_names("Box", known), ["box.corp.example", "box", "box"]);
        assert_eq!(own_names("box.lan", known), ["box.lan", "box"]);
        for none in ["(none)", "", "a b"] {
            assert!(own_names(none, known).is_empty(), "{none}");
        }
    }

    #[test]
    fn link_to_the_status_page_may_be_followed_and_nothing_else_of_another_site() {
        let none = hosts(None, &[]).unwrap();
        let visit =
            |method: Method, uri: &str, mode: &str, dest: &str, more: &[(&'static str, &str)]| {
                let mut map = HeaderMap::new();
                let all = [
                    ("host", "localhost:5000"),
                    ("sec-fetch-site", "cross-site"),
                    ("sec-fetch-mode", mode),
                    ("sec-fetch-dest", dest),
                ];
                for (name, value) in all.iter().chain(more) {
                    map.append(*name, value.parse().unwrap());
                }
                let mut request = get(uri, map);
                *request.method_mut() = method;
                none.check(&request, true).is_ok()
            };
        assert!(visit(Method::GET, "/", "navigate", "document", &[]));
        for (method, uri, mode, dest) in [
            (Method::POST, "/", "navigate", "document"),
            (Method::HEAD, "/", "navigate", "document"),
            (Method::GET, "/metrics", "navigate", "document"),
            (Method::GET, "/v2/", "navigate", "document"),
            (Method::GET, "/token", "navigate", "document"),
            (Method::GET, "/", "navigate", "iframe"),
            (Method::GET, "/", "no-cors", "document"),
            (Method::GET, "/", "cors", "empty"),
        ] {
            let what = format!("{method} {uri} {mode} {dest}");
            assert!(!visit(method, uri, mode, dest, &[]), "{what}");
        }
        for more in [
            ("origin", "null"),
            ("sec-fetch-dest", "iframe"),
            ("sec-fetch-mode", "cors"),
            ("host", "rebind.evil.example"),
        ] {
            assert!(
                !visit(Method::GET, "/", "navigate", "document", &[more]),
                "{more:?}"
            );
        }
    }

    #[test]
    fn names_of_this_machine_are_known_in_every_spelling() {
        let none = hosts(None, &[]).unwrap();
        for host in [
            "127.0.0.1",
            "127.0.0.1:5000",
            "127.9.9.9:1",
            "[::1]:5000",
            "[::ffff:127.0.0.1]",
            "localhost",
            "LOCALHOST:5000",
            "localhost.:5000",
            "app.localhost:5000",
        ] {
            assert!(passes(&none, "/v2/", &[("host", host)], true), "{host}");
        }
        assert!(passes(&none, "/v2/", &[], true), "HTTP/1.0 without a host");
    }

    #[test]
    fn names_that_a_page_can_have_are_unknown() {
        let none = hosts(None, &[]).unwrap();
        for host in [
            "rebind.evil.example",
            "rebind.evil.example:5000",
            "localhost.evil.example",
            "notlocalhost",
            "0.0.0.0:5000",
            "10.0.0.1:5000",
            "[::]:5000",
            "evil@localhost",
            "localhost@evil.example",
            "127.0.0.1.evil.example",
            "",
            "a b",
        ] {
            assert!(!passes(&none, "/v2/", &[("host", host)], true), "{host}");
            assert!(passes(&none, "/v2/", &[("host", host)], false), "{host}");
        }
        // Each of them is checked: HTTP/2 has `:authority`, and some clients send two.
        let evil = "http://rebind.evil.example/v2/";
        assert!(!passes(&none, evil, &[], true));
        assert!(!passes(&none, evil, &[("host", "localhost")], true));
        let two = [("host", "localhost"), ("host", "rebind.evil.example")];
        assert!(!passes(&none, "/v2/", &two, true));
    }

    #[test]
    fn names_of_the_settings_are_known_too() {
        let named = hosts(
            Some("https://Cache.example:8443/base"),
            &["cache.internal", "10.0.0.1", "[fd00::1]"],
        )
        .unwrap();
        for host in [
            "cache.example",
            "cache.example:5000",
            "CACHE.internal.:5000",
            "10.0.0.1:5000",
            "[fd00::1]:5000",
        ] {
            assert!(passes(&named, "/v2/", &[("host", host)], true), "{host}");
        }
        assert!(!passes(
            &named,
            "/v2/",
            &[("host", "x.cache.internal")],
            true
        ));
        for bad in ["cache.internal:5000", "http://a", "*", "", "a b", "u@h"] {
            let error = hosts(None, &[bad]).err().map(|e| e.message);
            assert!(error.is_some_and(|e| e.contains("allowed_hosts")), "{bad}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused_whoever_is_trusted() {
        let known = hosts(Some("https://cache.example"), &[]).unwrap();
        let host = ("host", "localhost:5000");
        for (headers, passed) in [
            (&[("origin", "http://evil.example")][..], false),
            (&[("origin", "null")], false),
            (&[("origin", "http://localhost:3000")], false),
            (&[("origin", "https://localhost:5000")], true),
            (&[("origin", "http://localhost:5000")], true),
            (&[("origin", "https://cache.example")], true),
            (&[("origin", "https://cache.example:443")], true),
            (&[("origin", "http://cache.example")], false),
            (&[("sec-fetch-site", "cross-site")], false),
            (&[("sec-fetch-site", "same-site")], false),
            (&[("sec-fetch-site", "none")], true),
            (&[("sec-fetch-site", "same-origin")], true),
            // Behind a proxy that changes `Host`.
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("origin", "https://ui.example"),
                ],
                true,
            ),
            (
                &[
                    ("sec-fetch-site", "same-origin"),
                    ("sec-fetch-site", "cross-site"),
                ],
                false,
            ),
            (
                &[
                    ("origin", "http://localhost:5000"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
        ] {
            let headers = [&[host], headers].concat();
            for by_address in [false, true] {
                let found = passes(&known, "/v2/", &headers, by_address);
                assert_eq!(found, passed, "{headers:?}");
            }
        }
    }

    #[test]
    fn refusal_names_the_setting() {
        let none = hosts(None, &[]).unwrap();
        let headers = [(HOST, "elsewhere:5000".parse().unwrap())]
            .into_iter()
            .collect();
        let refusal = none.check(&get("/v2/", headers), true);
        let message = refusal.unwrap_err().message;
        assert!(
            message.contains("`elsewhere:5000`") && message.contains("`allowed_hosts`"),
            "{message}"
        );
    }
}
