//! Parsing of listen addresses.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
};

use crate::config::{Layer, Result};

/// The word for "no address" and "no socket".
pub(super) const NONE: &str = "none";

/// A listen address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Address {
    /// IP address and port.
    pub socket: SocketAddr,
    /// Whether it uses TLS.
    pub tls: bool,
}

impl Address {
    /// Returns true if only this machine (or pod) can connect.
    pub fn is_local(&self) -> bool {
        self.socket.ip().to_canonical().is_loopback()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.socket)
    }
}

/// The addresses of `name`: `None` if it is not set, empty for the word `none`. `tls`: there is a certificate.
pub(super) fn addresses(layer: &Layer, name: &str, tls: bool) -> Result<Option<Vec<Address>>> {
    if layer.get(name).is_none() {
        return Ok(None);
    }
    let texts = layer.list(name);
    if texts.iter().all(|t| t == NONE) {
        return Ok(Some(Vec::new()));
    }
    let mut found: Vec<Address> = Vec::new();
    for text in &texts {
        let address = parse(text, tls).map_err(|why| {
            let shown = crate::redact::host(text);
            layer
                .refused(name, format!("cannot be `{shown}`: {why}"))
                .hint("expected IP:PORT such as 127.0.0.1:5000, 0.0.0.0:5000 or [::1]:5000")
        })?;
        let twice = |other: &Address| other.socket == address.socket && address.socket.port() != 0;
        if found.iter().any(twice) {
            return Err(layer.refused(name, format!("names {} twice", address.socket)));
        }
        found.push(address);
    }
    Ok(Some(found))
}

fn parse(text: &str, certificate: bool) -> std::result::Result<Address, String> {
    let (rest, tls) = match text.split_once("://") {
        Some(("http", rest)) => (rest, false),
        Some(("https", rest)) => (rest, true),
        Some(_) => return Err("it has a scheme other than http and https".to_owned()),
        None => (text, certificate),
    };
    if tls && !certificate {
        return Err("https needs tls.cert and tls.key".to_owned());
    }
    let socket = match rest.strip_prefix("localhost:") {
        // Not both address families: a client that knows one port must find one listener.
        Some(port) => port
            .parse()
            .ok()
            .map(|port| SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        None => rest.parse().ok(),
    };
    let socket = socket.ok_or_else(|| {
        let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
        match host {
            "" | "*" => "write 0.0.0.0 or [::] to listen on every address".to_owned(),
            _ if rest == host || host.ends_with(':') => "it has no port".to_owned(),
            _ => "it is not an IP address with a port".to_owned(),
        }
    })?;
    Ok(Address { socket, tls })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, certificate: bool) -> String {
        parse(text, certificate).map_or_else(|e| e, |a| a.to_string())
    }

    #[test]
    fn scheme_follows_from_the_certificate_unless_it_is_written() {
        assert_eq!(shown("127.0.0.1:5000", false), "http://127.0.0.1:5000");
        assert_eq!(shown("127.0.0.1:5000", true), "https://127.0.0.1:5000");
        assert_eq!(
            shown("http://127.0.0.1:5000", true),
            "http://127.0.0.1:5000"
        );
        assert_eq!(
            shown("https://[::]:443", false),
            "https needs tls.cert and tls.key"
        );
    }

    #[test]
    fn localhost_is_one_address() {
        assert_eq!(shown("localhost:0", false), "http://127.0.0.1:0");
    }

    #[test]
    fn what_is_no_address_says_why() {
        for (text, why) in [
            (":5000", "write 0.0.0.0 or [::] to listen on every address"),
            ("127.0.0.1", "it has no port"),
            ("::1", "it has no port"),
            ("cache.example:5000", "it is not an IP address with a port"),
            ("127.0.0.1:70000", "it is not an IP address with a port"),
            ("unix:///run/x", "it has a scheme other than http and https"),
        ] {
            assert_eq!(shown(text, false), why, "{text}");
        }
    }

    #[test]
    fn loopback_is_local_in_every_spelling() {
        for (text, local) in [
            ("127.8.0.1:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
        ] {
            assert_eq!(parse(text, false).unwrap().is_local(), local, "{text}");
        }
    }
}
