//! Certificates that can be used but that clients will reject.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Problems of a server's certificate; none for an unreadable one, which TLS itself refuses.
pub(super) fn of_server(certificate: &CertificateDer<'_>) -> Vec<&'static str> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let constraints = certificate.basic_constraints().ok().flatten();
    let mut doubts = Vec::new();
    // Created by `openssl req -x509` by default. Curl, Go and docker accept it, if it is trusted.
    if constraints.is_some_and(|c| c.value.ca) {
        doubts.push(
            "it is a certificate authority's (CA:TRUE), which cachectl and other rustls-based clients do not accept from a server; \
             issue a server certificate from it, or make a self-signed one with basicConstraints CA:FALSE",
        );
    }
    if !matches!(certificate.subject_alternative_name(), Ok(Some(_))) {
        doubts.push(
            "it has no subject alternative name (subjectAltName), and clients ignore the common name",
        );
    }
    if !certificate.validity().is_valid() {
        doubts.push("it is not valid now (notBefore, notAfter)");
    }
    doubts
}

/// The earliest expiry of these certificates, in seconds since 1970.
pub(super) fn first_end(chain: &[CertificateDer<'_>]) -> Option<i64> {
    let ends = chain.iter().filter_map(|certificate| {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(certificate.validity().not_after.timestamp())
    });
    ends.min()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, date_time_ymd};

    use super::*;

    fn doubts(names: &[&str], change: impl Fn(&mut CertificateParams)) -> String {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        of_server(params.self_signed(&key).unwrap().der()).join("; ")
    }

    #[test]
    fn certificates_that_clients_refuse_are_named() {
        assert_eq!(doubts(&["cache.example"], |_| ()), "");
        let authority = doubts(&["cache.example"], |p| {
            p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        });
        assert!(authority.contains("CA:TRUE"), "{authority}");
        let nameless = doubts(&[], |_| ());
        assert!(nameless.contains("subjectAltName"), "{nameless}");
        let old = doubts(&["cache.example"], |p| {
            p.not_after = date_time_ymd(2001, 1, 1);
        });
        assert!(old.contains("not valid now"), "{old}");
    }
}
