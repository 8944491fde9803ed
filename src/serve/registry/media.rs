//! Media types that a manifest may have.
//!
//! Browsers render types that they know, so a manifest served as `text/html` would be a page of this registry's site.

/// Parts of media types that browsers execute or render as documents, including scripts.
const ACTIVE: [&str; 5] = ["html", "xml", "svg", "javascript", "ecmascript"];
/// Longest name on either side of the `/` (RFC 6838 §4.2).
const MAX_NAME_BYTES: usize = 127;
/// A type without a meaning.
const OCTETS: &str = "application/octet-stream";

/// Returns true if a manifest may be pushed with this type: `application/` and a name (RFC 6838 §4.2) that no browser acts
/// upon.
pub(super) fn may_be_pushed(media_type: &str) -> bool {
    let Some(name) = media_type.strip_prefix("application/") else {
        return false;
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
    let starts_right = name
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_alphanumeric());
    let lower = name.to_ascii_lowercase();
    starts_right
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(plain)
        && !ACTIVE.iter().any(|word| lower.contains(word))
}

/// The type to serve a manifest with: its own, unless that is not allowed; such manifests were pushed before the check existed,
/// or without the daemon.
pub(super) fn to_serve(media_type: &str) -> &str {
    if may_be_pushed(media_type) {
        media_type
    } else {
        OCTETS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::media;

    #[test]
    fn types_of_manifests_may_be_pushed() {
        for good in [
            media::IMAGE_MANIFEST,
            media::IMAGE_INDEX,
            media::DOCKER_MANIFEST,
            media::DOCKER_LIST,
            "application/json",
            "application/vnd.example.subscription.v1+json",
            "application/vnd.oci.artifact.manifest.v1+json",
        ] {
            assert!(may_be_pushed(good), "{good}");
            assert_eq!(to_serve(good), good);
        }
    }

    #[test]
    fn types_that_a_browser_acts_upon_are_neither_taken_nor_served() {
        for bad in [
            "text/html",
            "TEXT/HTML",
            "text/plain",
            "image/svg+xml",
            "application/xhtml+xml",
            "application/xml",
            "application/rss+XML",
            "application/javascript",
            "application/ecmascript",
            "multipart/x-mixed-replace",
            "Application/json",
            "application/",
            "application/json, text/html",
            "application/json;x",
            "application/+json",
            "application",
            "",
        ] {
            assert!(!may_be_pushed(bad), "{bad}");
            assert_eq!(to_serve(bad), OCTETS);
        }
        let long = format!("application/{}", "x".repeat(128));
        assert!(!may_be_pushed(&long));
    }
}
