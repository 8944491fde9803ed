//! What all remotes need for connecting: certificates, proxies, timeouts.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use rustls::CertificateError;
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::error::{Error, Result};
use crate::fs;

mod patience;
mod range;

pub(super) use patience::{Patience, Sent, Upload, Watch, sending, within};
pub(super) use range::ContentRange;

/// The user agent that we send to servers.
pub const USER_AGENT: &str = concat!("cachectl/", env!("CARGO_PKG_VERSION"));

/// Largest certificate bundle that is read.
const MAX_BUNDLE_BYTES: u64 = 16 << 20;

/// Default stall timeout of remotes; the settings' table has the same value as text.
pub const STALL: Duration = Duration::from_secs(10);
/// Timeout for connecting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time limit for all attempts of one operation.
pub const RETRY_FOR: Duration = Duration::from_secs(20);

/// Settings shared by all remotes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// A PEM file of certificate authorities that are trusted in addition to the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Timeout for connecting, including TLS.
    pub connect_timeout: Duration,
    /// Maximum time without a byte in either direction before a request is aborted.
    pub stall: Duration,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured, in upper or lower case (the HTTP client
    /// reads them).
    pub proxy_from_env: bool,
    /// Proxy settings of the environment.
    pub proxies: Proxies,
}

/// Proxy settings of the environment. The HTTP clients read them themselves; this is for the forms that they do not understand
/// ([`Common::goes_direct`]), and to name a proxy that does not work.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// The variable with the proxy for `http`.
    pub http: Option<&'static str>,
    /// The variable with the proxy for `https`.
    pub https: Option<&'static str>,
    /// `NO_PROXY`.
    pub no_proxy: Option<String>,
}

/// Returns true if a variable's value can be a proxy; HTTP clients silently ignore invalid ones.
pub fn can_be_proxy(text: &str) -> bool {
    let url = if text.contains("://") {
        reqwest::Url::parse(text)
    } else {
        reqwest::Url::parse(&format!("http://{text}"))
    };
    url.is_ok_and(|url| url.has_host())
}

impl Default for Common {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            connect_timeout: CONNECT_TIMEOUT,
            stall: STALL,
            proxy_from_env: true,
            proxies: Proxies::default(),
        }
    }
}

impl Common {
    /// The variable with the proxy for `authority`, if one is used.
    pub fn proxy(&self, is_https: bool, authority: &str) -> Option<&'static str> {
        let Proxies { http, https, .. } = self.proxies;
        let variable = if is_https { https } else { http };
        variable.filter(|_| !self.goes_direct(authority))
    }

    /// Returns true if `authority` (host, and port if it is not the scheme's default) is reached without a proxy: this machine,
    /// and hosts in `NO_PROXY`, including forms that HTTP clients ignore: a port, `*.` before a domain, and, for addresses,
    /// `*`.
    pub fn goes_direct(&self, authority: &str) -> bool {
        if !self.proxy_from_env {
            return true;
        }
        let authority = authority.to_ascii_lowercase();
        let host = match authority.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
            _ => &authority,
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let is_here = match bare.parse::<IpAddr>() {
            Ok(ip) => ip.to_canonical().is_loopback(),
            Err(_) => bare == "localhost" || bare.ends_with(".localhost"),
        };
        let rules = self.proxies.no_proxy.as_deref().unwrap_or_default();
        let mut rules = rules
            .split([',', ' '])
            .map(|r| r.trim().to_ascii_lowercase());
        is_here || rules.any(|rule| rule == authority || is_exempt(&rule, bare))
    }

    /// The extra certificate authorities as one PEM text, checked to hold at least one certificate; `None` if none are set. Blocks.
    ///
    /// # Errors
    /// `Invalid` for a file that is missing or contains no certificate.
    pub fn extra_ca_pem(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.ca_bundle else {
            return Ok(None);
        };
        let refused = |why: String| Error::invalid("read CA bundle", why);
        let pem = fs::read_if_there(path, MAX_BUNDLE_BYTES)
            .map_err(|e| refused(e.to_string()))?
            .ok_or_else(|| refused(format!("`{}` does not exist", path.display())))?;
        certificates(&pem).map_err(|why| refused(format!("`{}` {why}", path.display())))?;
        Ok(Some(pem))
    }

    /// The extra certificate authorities one by one, empty if none are set. Blocks.
    ///
    /// # Errors
    /// As [`Self::extra_ca_pem`].
    pub fn extra_ca_certificates(&self) -> Result<Vec<CertificateDer<'static>>> {
        let pem = self.extra_ca_pem()?;
        Ok(pem.map_or_else(Vec::new, |pem| certificates(&pem).unwrap_or_default()))
    }
}

/// Returns true if a rule of `NO_PROXY` matches a host, with any port: all hosts, the host itself, its domain, or its network.
fn is_exempt(rule: &str, host: &str) -> bool {
    if rule == "*" || rule == host {
        return true;
    }
    if let Ok(ip) = host.parse::<IpAddr>() {
        return is_in_network(rule, ip);
    }
    let domain = rule.strip_prefix('*').unwrap_or(rule);
    let domain = domain.strip_prefix('.').unwrap_or(domain);
    let below = host.strip_suffix(domain);
    !domain.is_empty() && below.is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Returns true if an address is in a network such as `10.0.0.0/8`.
fn is_in_network(network: &str, ip: IpAddr) -> bool {
    let bits = |ip: IpAddr| match ip {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()) << 96, 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    };
    let parsed = network.split_once('/').and_then(|(first, length)| {
        let (first, length): (IpAddr, u32) = (first.parse().ok()?, length.parse().ok()?);
        (first.is_ipv4() == ip.is_ipv4() && length <= bits(ip).1).then_some((first, length))
    });
    parsed.is_some_and(|(first, length)| {
        let differing = (bits(first).0 ^ bits(ip).0).checked_shr(128 - length);
        differing.unwrap_or(0) == 0
    })
}

fn certificates(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| format!("is not PEM: {e}"))?;
    if found.is_empty() {
        return Err(
            "contains no certificate (expected PEM, `-----BEGIN CERTIFICATE-----`)".to_owned(),
        );
    }
    Ok(found)
}

/// Why a server's certificate is refused, and how to fix it.
pub(in crate::store) fn certificate_refused(why: &CertificateError) -> String {
    match why {
        // `webpki` has no message for it. This is what `openssl req -x509` creates by default; other clients accept it.
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => {
            "its TLS certificate is a certificate authority's (CA:TRUE), which is invalid for a server: issue a server certificate \
             from it, or make a self-signed one with basicConstraints CA:FALSE (docs/operations.md has the commands)"
                .to_owned()
        }
        CertificateError::UnknownIssuer if knows_no_authority() => {
            "its TLS certificate cannot be verified, since this machine has no CA certificates: install the package ca-certificates, or set ca_bundle"
                .to_owned()
        }
        CertificateError::UnknownIssuer => {
            "its TLS certificate was issued by an unknown authority: for a private authority, set ca_bundle to its certificate".to_owned()
        }
        CertificateError::BadSignature => {
            "its TLS certificate was not signed with the key of the authority that it names: set ca_bundle to that authority's \
             current certificate (one of the same name with another key is not enough)"
                .to_owned()
        }
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names: Vec<&str> = presented.iter().map(|name| bare_name(name)).collect();
            let names = match names.join(", ") {
                none if none.is_empty() => "no name at all".to_owned(),
                names => names,
            };
            format!(
                "its TLS certificate is for {names}, not for {}: use a name of the certificate in the URL, or issue one for this name",
                expected.to_str()
            )
        }
        CertificateError::NotValidForName => {
            "its TLS certificate is for another name: use a name of the certificate in the URL, or issue one for this name".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "its TLS certificate expired {} ago: renew it (or set this node's clock, if that is wrong)",
            apart(time.as_secs(), not_after.as_secs())
        ),
        CertificateError::Expired => {
            "its TLS certificate has expired: renew it (or set this node's clock, if that is wrong)".to_owned()
        }
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "its TLS certificate is valid only in {}: set this node's clock, or issue the certificate again",
            apart(not_before.as_secs(), time.as_secs())
        ),
        CertificateError::NotValidYet => {
            "its TLS certificate is not valid yet: set this node's clock, or issue the certificate again".to_owned()
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "its TLS certificate, or one above it, has an unsupported signature (SHA-1, or a P-521 key): issue it with SHA-256 and a key of RSA (2048 bits or more), P-256, P-384 or Ed25519"
                .to_owned()
        }
        why => {
            // Some have no text but their debug output.
            let text = why.to_string();
            let name = text.split(['{', '(']).next().unwrap_or_default().trim();
            format!("its TLS certificate is not accepted: {name}")
        }
    }
}

/// Returns true if this machine has no root certificates at all, such as a container without their package. Blocks for some
/// milliseconds, while an error is created.
fn knows_no_authority() -> bool {
    install_tls_provider();
    reqwest::Client::builder().build().is_err()
}

/// The name in `webpki`'s debug output: `DnsName("localhost")`, `IpAddress(127.0.0.1)`.
fn bare_name(shown: &str) -> &str {
    let inner = shown
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(shown).trim_matches('"')
}

/// The difference between `later` and `earlier`, both in seconds, as text.
fn apart(later: u64, earlier: u64) -> String {
    let secs = later.saturating_sub(earlier);
    match secs {
        0..7200 => format!("{} min", secs / 60),
        7200..172_800 => format!("{} hours", secs / 3600),
        _ => format!("{} days", secs / 86_400),
    }
}

/// Makes ring the process's TLS provider; must be called before the first client is built; may be called repeatedly.
pub fn install_tls_provider() {
    // An error means that a provider is installed already, which is sufficient.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn no_proxy_is_understood_with_ports_stars_domains_and_networks() {
        let direct = |rules: &str, to: &str| {
            let proxies = Proxies {
                no_proxy: Some(rules.to_owned()),
                http: Some("HTTP_PROXY"),
                https: None,
            };
            let common = Common {
                proxies,
                ..Common::default()
            };
            let is_direct = common.goes_direct(to);
            assert_eq!(common.proxy(true, to), None);
            assert_eq!(common.proxy(false, to).is_none(), is_direct);
            is_direct
        };
        for (rules, to, want) in [
            ("", "127.0.0.1:9000", true),
            ("", "[::1]:9000", true),
            ("", "localhost", true),
            ("*", "192.0.2.7:9000", true),
            ("a.example, 192.0.2.7:9000", "192.0.2.7:9000", true),
            ("192.0.2.7:9000", "192.0.2.7:9001", false),
            ("192.0.2.7", "192.0.2.7:9001", true),
            ("Minio.Example:9000", "minio.example:9000", true),
            ("minio.example", "s3.example", false),
            ("*.test", "a.test:9000", true),
            ("*.test", "atest", false),
            (".test", "a.b.test", true),
            ("test", "a.test", true),
            ("test", "atest", false),
            ("10.0.0.0/8", "10.1.2.3:9000", true),
            ("10.0.0.0/8", "11.1.2.3", false),
            ("0.0.0.0/0", "11.1.2.3", true),
            ("fd00::/8", "[fd00::1]:9000", true),
            ("fd00::/8", "[fe00::1]:9000", false),
            ("10.0.0.0/33", "10.0.0.1", false),
            ("", "11.1.2.3", false),
            ("", "s3.example", false),
        ] {
            assert_eq!(direct(rules, to), want, "{rules} {to}");
        }
    }

    #[test]
    fn a_proxy_is_a_url_or_a_host() {
        for text in ["http://p:3128", "p:3128", "10.0.0.1", "socks5://u:p@h"] {
            assert!(can_be_proxy(text), "{text}");
        }
        for text in ["http://[bad", "http://", "a b", "[bad"] {
            assert!(!can_be_proxy(text), "{text}");
        }
    }

    #[test]
    fn a_refused_certificate_is_told_in_words_with_a_remedy() {
        use rustls_pki_types::{ServerName, UnixTime};
        let at = |secs| UnixTime::since_unix_epoch(Duration::from_secs(secs));
        let said = |why| certificate_refused(&why);
        let signed = said(CertificateError::BadSignature);
        assert!(signed.contains("set ca_bundle to"), "{signed}");
        let expected = ServerName::try_from("reg.example").unwrap();
        let presented = ["DnsName(\"localhost\")", "IpAddress(127.0.0.1)"].map(str::to_owned);
        let name = said(CertificateError::NotValidForNameContext {
            expected,
            presented: presented.to_vec(),
        });
        let words = "is for localhost, 127.0.0.1, not for reg.example: use";
        assert!(name.contains(words), "{name}");
        let (time, not_after) = (at(1_000_000), at(1_000_000 - 5 * 86_400));
        let old = said(CertificateError::ExpiredContext { time, not_after });
        assert!(old.contains("expired 5 days ago: renew it"), "{old}");
        let (time, not_before) = (at(0), at(3 * 3600));
        let young = said(CertificateError::NotValidYetContext { time, not_before });
        assert!(
            young.contains("in 3 hours: set this node's clock"),
            "{young}"
        );
    }

    fn with(bundle: &[u8]) -> Result<Option<Vec<u8>>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ca.pem");
        std::fs::write(&path, bundle).unwrap();
        let common = Common {
            ca_bundle: Some(path),
            ..Common::default()
        };
        common.extra_ca_pem()
    }

    #[test]
    fn bundle_with_a_certificate_is_taken() {
        let cert = rcgen::generate_simple_self_signed(vec!["x".to_owned()]).unwrap();
        let pem = cert.cert.pem();
        assert_eq!(with(pem.as_bytes()).unwrap(), Some(pem.into_bytes()));
        assert_eq!(Common::default().extra_ca_pem().unwrap(), None);
    }

    #[test]
    fn bundle_without_a_certificate_is_refused() {
        for bad in [
            &b""[..],
            b"<html>",
            b"-----BEGIN CERTIFICATE-----\n!!\n-----END CERTIFICATE-----\n",
        ] {
            assert_eq!(with(bad).unwrap_err().kind, ErrorKind::Invalid);
        }
    }
}
