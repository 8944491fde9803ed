//! What every remote needs to know of the way to it: certificates, limits of patience, proxies.

use std::{path::PathBuf, time::Duration};

use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use super::error::{Error, ErrorKind, Result};
use crate::fs;

/// What we call ourselves to servers.
pub const USER_AGENT: &str = concat!("cachectl/", env!("CARGO_PKG_VERSION"));

/// Largest bundle of certificates that is read.
const MAX_BUNDLE_BYTES: u64 = 16 << 20;

/// What all remotes share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Common {
    /// A PEM file of certificate authorities that are trusted besides the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Limit for connecting, TLS included.
    pub connect_timeout: Duration,
    /// Longest time without a byte in either direction before a request is given up.
    pub stall: Duration,
    /// Whether `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` are honoured, in either case (the HTTP client reads them).
    pub proxy_from_env: bool,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            ca_bundle: None,
            connect_timeout: Duration::from_secs(5),
            stall: Duration::from_secs(10),
            proxy_from_env: true,
        }
    }
}

impl Common {
    /// The extra certificate authorities as one PEM text, checked to hold at least one certificate; `None` if none are set. Blocks.
    ///
    /// # Errors
    /// `Invalid` for a file that is missing or has no certificate in it.
    pub fn extra_ca_pem(&self) -> Result<Option<Vec<u8>>> {
        let Some(path) = &self.ca_bundle else {
            return Ok(None);
        };
        let refused = |why: String| Error::new(ErrorKind::Invalid, "read CA bundle", why);
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

fn certificates(pem: &[u8]) -> std::result::Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|e| format!("is not PEM: {e}"))?;
    if found.is_empty() {
        return Err(
            "holds no certificate (expected PEM, `-----BEGIN CERTIFICATE-----`)".to_owned(),
        );
    }
    Ok(found)
}

/// Makes ring the process's TLS provider; to be called before the first client is built, any number of times.
pub fn install_tls_provider() {
    // Somebody was first: then there is one, which is all that is needed.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(test)]
mod tests {
    use super::*;

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
