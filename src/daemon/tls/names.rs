//! The name in a client's certificate.

use rustls_pki_types::CertificateDer;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer as _, X509Certificate},
};

/// Longest accepted name, as for users in a file.
const MAX_NAME_BYTES: usize = 255;

/// Its only common name, else its first DNS name, else its first URI (SPIFFE); `None` for a certificate without a name.
///
/// Several common names are treated as none, since readers could disagree on which one counts. The chain must have been
/// verified before.
pub(super) fn client_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let mut common = certificate.subject().iter_common_name();
    let common = match (common.next(), common.next()) {
        (Some(one), None) => one.as_str().ok(),
        _ => None,
    };
    if let Some(name) = common.filter(|n| fits(n)) {
        return Some(name.to_owned());
    }
    let alternative = certificate.subject_alternative_name().ok()??;
    let names = &alternative.value.general_names;
    let dns = names.iter().find_map(|n| match n {
        GeneralName::DNSName(name) => Some(*name),
        _ => None,
    });
    let uri = names.iter().find_map(|n| match n {
        GeneralName::URI(name) => Some(*name),
        _ => None,
    });
    let found = dns.into_iter().chain(uri).find(|n| fits(n));
    found.map(str::to_owned)
}

/// Returns true if a name can be used in rules and logs, and has no special meaning.
fn fits(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= MAX_NAME_BYTES
        && !name.chars().any(char::is_control)
        && name != crate::serve::auth::ANONYMOUS
        && name != "*"
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn name(common: &[&str], alternatives: &[SanType]) -> Option<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for c in common {
            params.distinguished_name.push(DnType::CommonName, *c);
        }
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().unwrap();
        client_name(params.self_signed(&key).unwrap().der())
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    #[test]
    fn common_name_comes_first_then_dns_then_uri() {
        let all = [uri("spiffe://c/a"), dns("a.example"), dns("b.example")];
        assert_eq!(name(&["ci"], &all).as_deref(), Some("ci"));
        assert_eq!(name(&[], &all).as_deref(), Some("a.example"));
        let spiffe = [uri("spiffe://c/a")];
        assert_eq!(name(&[], &spiffe).as_deref(), Some("spiffe://c/a"));
        assert_eq!(name(&[], &[]), None);
    }

    #[test]
    fn two_common_names_are_none() {
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "ci");
        // The same type again, which the certificate library does not notice.
        let again = DnType::CustomDnType(vec![2, 5, 4, 3]);
        params.distinguished_name.push(again, "admin");
        params.subject_alt_names = vec![dns("a.example")];
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        assert_eq!(client_name(certificate.der()).as_deref(), Some("a.example"));
    }

    #[test]
    fn names_that_stand_for_somebody_else_are_nobodys() {
        for bad in ["", "*", "anonymous", "a\nb", "a\0b"] {
            assert_eq!(name(&[bad], &[]), None, "{bad:?}");
        }
        assert_eq!(name(&[&"x".repeat(256)], &[]), None);
    }

    #[test]
    fn what_is_no_certificate_has_no_name() {
        assert_eq!(
            client_name(&CertificateDer::from(&b"\x30\x03abc"[..])),
            None
        );
    }
}
