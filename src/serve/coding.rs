//! How the body of a request is encoded.

use axum::http::{HeaderMap, header::TRANSFER_ENCODING};

/// Returns true if it is encoded in any way except `chunked` alone. A server must refuse such a request (RFC 9112, 6.1), since
/// a proxy in front may see a different end of the body.
pub(super) fn is_unknown(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    match codings.next() {
        None => false,
        Some(only) => !only.as_bytes().eq_ignore_ascii_case(b"chunked") || codings.next().is_some(),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn chunked_alone_is_known() {
        for (codings, is_known) in [
            (&[][..], true),
            (&["chunked"], true),
            (&["Chunked"], true),
            (&["x, chunked"], false),
            (&["gzip", "chunked"], false),
            (&["chunked", "chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked;q=1"], false),
            (&["identity"], false),
            (&[""], false),
        ] {
            let headers = codings
                .iter()
                .map(|c| (TRANSFER_ENCODING, HeaderValue::from_static(c)))
                .collect();
            assert_eq!(is_unknown(&headers), !is_known, "{codings:?}");
        }
    }
}
