//! Restricts where a registry may send us: never from https to http, and a public one never to private addresses.
//!
//! A registry names hosts in `realm`, `Location` and redirects, and this machine may reach hosts that the registry's owner
//! cannot: a cloud's metadata service, a service on loopback. Addresses are checked when they are used, in the resolver, so a
//! name that changes its address between check and use gains nothing. A *name* may still resolve to RFC 1918 addresses, since
//! private links to object stores look exactly like that; as a literal, such an address is refused.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use reqwest::{
    Url,
    dns::{Addrs, Name, Resolve, Resolving},
};

/// The scope of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// This machine or this link only.
    Local,
    /// A private network.
    Private,
    /// The world.
    Public,
}

fn reach(ip: IpAddr) -> Reach {
    match ip {
        IpAddr::V4(v4) => {
            let shared = v4.octets()[0] == 100 && v4.octets()[1] & 0xc0 == 64;
            if v4.is_loopback() || v4.is_link_local() || v4.is_unspecified() || v4.is_broadcast() {
                Reach::Local
            } else if v4.is_private() || shared {
                Reach::Private
            } else {
                Reach::Public
            }
        }
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => reach(v4.into()),
            None if v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() => {
                Reach::Local
            }
            None if v6.is_unique_local() => Reach::Private,
            None => Reach::Public,
        },
    }
}

/// The address in a URL's host; `None` if that is a name.
fn literal(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.');
    host == "localhost" || host.ends_with(".localhost")
}

/// Returns true if a URL's host is this machine because of its name (RFC 6761 for `localhost`).
pub(super) fn is_loopback(url: &Url) -> bool {
    literal(url).map_or_else(
        || url.host_str().is_some_and(is_localhost),
        |ip| ip.to_canonical().is_loopback(),
    )
}

/// The addresses of names of this machine.
const LOOPBACK: [SocketAddr; 2] = [
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0),
    SocketAddr::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 0),
];

/// The rules of one registry.
#[derive(Debug)]
pub(super) struct Guard {
    base: Url,
    /// The registry is not public, or its owner vouched for it: it may send us anywhere.
    open: AtomicBool,
    /// Its owner vouched for it, or nothing leaves this machine: passwords may be sent over plain http.
    trusted: bool,
}

impl Guard {
    /// The rules of the registry at `base`; `trusted` lets it name any address.
    pub(super) fn new(base: Url, trusted: bool) -> Arc<Self> {
        let inside =
            is_loopback(&base) || literal(&base).is_some_and(|ip| reach(ip) != Reach::Public);
        Arc::new(Self {
            open: AtomicBool::new(trusted || inside),
            trusted,
            base,
        })
    }

    /// Returns true if credentials for the registry may be sent to `url`: same scheme, host and port.
    pub(super) fn is_home(&self, url: &Url) -> bool {
        self.base.origin() == url.origin()
    }

    /// Checks a URL that the registry named.
    ///
    /// # Errors
    /// Why we do not follow it, as text.
    pub(super) fn check(&self, url: &Url) -> Result<(), String> {
        let host = url.host_str().unwrap_or_default();
        if !matches!(url.scheme(), "http" | "https") || host.is_empty() {
            return Err(format!(
                "the registry referred to an address that is not http: `{}`",
                show(url)
            ));
        }
        if url.scheme() == "http" && self.base.scheme() == "https" {
            return Err(format!(
                "the registry referred to `{}`, which is not encrypted",
                show(url)
            ));
        }
        if self.is_home(url) || self.open.load(Ordering::Relaxed) {
            return Ok(());
        }
        let near = literal(url).is_some_and(|ip| reach(ip) != Reach::Public) || is_localhost(host);
        if near {
            return Err(format!(
                "the public registry referred to `{}`, a private address; `insecure` allows it",
                show(url)
            ));
        }
        Ok(())
    }

    /// `text` from a `Location`, `Link` or `realm`, resolved relative to `from` and checked.
    ///
    /// # Errors
    /// As [`Self::check`].
    pub(super) fn join(&self, from: &Url, text: &str) -> Result<Url, String> {
        let home = self.base.host_str().unwrap_or_default();
        // containerd accepts `host/path` too (`core/remotes/docker/pusher.go`).
        let bare = text
            .strip_prefix(home)
            .is_some_and(|rest| !home.is_empty() && rest.starts_with(['/', ':']));
        let joined = if bare {
            Url::parse(&format!("{}://{text}", self.base.scheme()))
        } else {
            from.join(text)
        };
        let mut url =
            joined.map_err(|e| format!("the registry referred to an invalid address: {e}"))?;
        let no_port = url.port().is_none() || url.port() == self.base.port();
        if url.scheme() == "http"
            && self.base.scheme() == "https"
            && url.host_str() == Some(home)
            && no_port
        {
            // A registry behind a proxy that terminates TLS does not know that clients use https: follow it, but encrypted.
            let port = self.base.port();
            let _ = url.set_scheme("https").and_then(|()| url.set_port(port));
        }
        self.check(&url)?;
        Ok(url)
    }

    /// As [`Self::join`], for the token endpoint named by the registry, which gets our password.
    ///
    /// Another host is allowed, as in docker; but a registry on this machine, accessed over plain http, cannot make us send the
    /// password over the network in the same way.
    ///
    /// # Errors
    /// As [`Self::check`], and if the password would leave this machine unencrypted.
    pub(super) fn realm(&self, from: &Url, text: &str) -> Result<Url, String> {
        let url = self.join(from, text)?;
        if url.scheme() == "http" && is_loopback(&self.base) && !is_loopback(&url) && !self.trusted
        {
            return Err(format!(
                "the registry on this machine named the token endpoint `{}`, which is on another machine and not encrypted; `registry.insecure` allows it",
                show(&url)
            ));
        }
        Ok(url)
    }

    fn filter(&self, name: &str, found: Vec<SocketAddr>) -> Vec<SocketAddr> {
        if self.base.host_str() == Some(name) {
            if found.iter().any(|a| reach(a.ip()) != Reach::Public) {
                self.open.store(true, Ordering::Relaxed);
            }
            return found;
        }
        // `localhost` gets here only as a proxy: in a URL it was refused.
        if self.open.load(Ordering::Relaxed) || is_localhost(name) {
            return found;
        }
        found
            .into_iter()
            .filter(|a| reach(a.ip()) != Reach::Local)
            .collect()
    }
}

/// A URL suitable for messages.
pub(super) fn show(url: &Url) -> String {
    crate::redact::url(url.as_str())
}

/// The system's resolver with the rules of a registry.
pub(super) struct Resolver(pub(super) Arc<Guard>);

/// A name that does not resolve, or that resolves to a forbidden address.
#[derive(Debug, thiserror::Error)]
pub(super) enum LookupError {
    /// DNS does not know it, or does not answer.
    #[error("host `{0}` cannot be resolved ({1}); check the store's URL, and DNS on this node")]
    Unknown(String, String),
    /// It leads to this machine.
    #[error(
        "host `{0}`, named by a public registry, resolves to this machine or a link-local address; `insecure` allows it"
    )]
    Refused(String),
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let name = name.as_str().to_owned();
            if is_localhost(&name) {
                // No DNS request, since anybody could answer it (RFC 6761 §6.3), and we use plain http for these names.
                return Ok(Box::new(LOOPBACK.into_iter()) as Addrs);
            }
            let found: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0))
                .await
                .map_err(|e| LookupError::Unknown(name.clone(), e.to_string()))?
                .collect();
            if found.is_empty() {
                return Err(LookupError::Unknown(name, "no address".to_owned()).into());
            }
            let allowed = guard.filter(&name, found);
            if allowed.is_empty() {
                return Err(LookupError::Refused(name).into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(base: &str) -> Arc<Guard> {
        Guard::new(Url::parse(base).unwrap(), false)
    }

    fn goes(guard: &Guard, to: &str) -> bool {
        guard.check(&Url::parse(to).unwrap()).is_ok()
    }

    #[test]
    fn public_registry_cannot_send_us_inside() {
        let g = guard("https://ghcr.io/");
        for to in [
            "https://127.0.0.1/x",
            "https://localhost/x",
            "https://169.254.169.254/latest",
            "https://10.1.2.3/",
            "https://192.168.0.1/",
            "https://100.64.0.1/",
            "https://[::1]/",
            "https://[fe80::1]/",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "http://ghcr.io/x",
            "ftp://ghcr.io/x",
            "file:///etc/passwd",
        ] {
            assert!(!goes(&g, to), "{to}");
        }
        for to in [
            "https://ghcr.io/x",
            "https://storage.example/x",
            "https://8.8.8.8/",
            "https://[2001:db8::1]/",
        ] {
            assert!(goes(&g, to), "{to}");
        }
    }

    #[test]
    fn password_leaves_this_machine_only_encrypted() {
        let local = guard("http://127.0.0.1:5000/");
        let realm = |g: &Guard, to: &str| g.realm(&g.base, to).is_ok();
        assert!(!realm(&local, "http://cache.example/token"));
        assert!(!realm(&local, "http://10.0.0.1:5000/token"));
        for to in [
            "https://cache.example/token",
            "http://127.0.0.1:5001/token",
            "http://a.localhost/token",
            "/token",
        ] {
            assert!(realm(&local, to), "{to}");
        }
        let vouched = Guard::new(Url::parse("http://127.0.0.1:5000/").unwrap(), true);
        assert!(realm(&vouched, "http://cache.example/token"));
    }

    #[tokio::test]
    async fn names_of_this_machine_are_asked_of_nobody() {
        for name in ["localhost", "cache.localhost", "a.b.localhost."] {
            // In DNS the latter two do not exist, or have arbitrary addresses.
            let found = Resolver(guard("http://x.localhost:1/")).resolve(name.parse().unwrap());
            let found: Vec<_> = found.await.unwrap().collect();
            assert_eq!(found, LOOPBACK, "{name}");
        }
    }

    #[test]
    fn private_registry_may() {
        for base in ["http://127.0.0.1:5000/", "https://10.0.0.1/"] {
            assert!(goes(&guard(base), "https://10.1.2.3/"), "{base}");
        }
        assert!(!goes(&guard("https://10.0.0.1/"), "http://10.1.2.3/"));
    }

    #[test]
    fn name_that_leads_to_this_machine_is_refused_unless_the_registry_is_there_too() {
        let local: Vec<SocketAddr> = vec![
            "127.0.0.1:0".parse().unwrap(),
            "169.254.169.254:0".parse().unwrap(),
        ];
        let public: Vec<SocketAddr> = vec!["8.8.8.8:0".parse().unwrap()];
        let g = guard("https://r.example/");
        assert_eq!(g.filter("r.example", public.clone()), public);
        assert!(g.filter("evil.example", local.clone()).is_empty());
        assert_eq!(g.filter("r.example", local.clone()), local);
        assert_eq!(g.filter("auth.example", local.clone()), local);
    }

    #[test]
    fn location_may_be_relative_bare_or_badly_proxied() {
        let g = guard("https://r.example/");
        let from = Url::parse("https://r.example/v2/a/blobs/uploads/").unwrap();
        for (text, want) in [
            (
                "/v2/x?_state=a%2Fb%3D",
                "https://r.example/v2/x?_state=a%2Fb%3D",
            ),
            ("r.example/v2/x", "https://r.example/v2/x"),
            ("http://r.example/v2/x", "https://r.example/v2/x"),
            ("https://s.example/u", "https://s.example/u"),
        ] {
            assert_eq!(g.join(&from, text).unwrap().as_str(), want);
        }
        assert!(g.join(&from, "http://s.example/u").is_err());
        assert!(g.join(&from, "http://[").is_err());
    }

    #[test]
    fn home_is_the_same_scheme_host_and_port() {
        let g = guard("https://r.example/");
        let home = |u: &str| g.is_home(&Url::parse(u).unwrap());
        assert!(home("https://r.example:443/x"));
        for other in [
            "http://r.example/",
            "https://r.example:8443/",
            "https://r.example.evil/",
        ] {
            assert!(!home(other), "{other}");
        }
    }
}
