//! Headers that keep a browser from running pushed content.
//!
//! Blobs and manifests hold whatever a client sent. Without these headers a browser that opens one could treat it as a page of
//! the registry's own site, and use the login that the browser stores for that site.

use axum::http::{HeaderMap, HeaderValue, header};

/// Nothing may be loaded, and the page gets its own origin: scripts do not run (CSP level 3, `sandbox`).
const INERT: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// Adds the headers to an answer; a page that has its own policy keeps it.
pub(super) fn harden(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(INERT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_is_inert_unless_it_has_a_policy_of_its_own() {
        let mut headers = HeaderMap::new();
        harden(&mut headers);
        assert_eq!(headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(
            headers[header::CONTENT_SECURITY_POLICY],
            "sandbox; default-src 'none'"
        );
        let own = HeaderValue::from_static("default-src 'self'");
        headers.insert(header::CONTENT_SECURITY_POLICY, own.clone());
        harden(&mut headers);
        let all: Vec<_> = headers
            .get_all(header::CONTENT_SECURITY_POLICY)
            .iter()
            .collect();
        assert_eq!(all, [&own]);
    }
}
