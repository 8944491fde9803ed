//! HTTP helpers that all requests of the door share.

use std::{ops::Range, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, Response, StatusCode, header, response::Builder},
};
use futures_util::TryStreamExt as _;

use super::error::{Code, refuse};
use crate::{digest::Digest, entry::Time, serve::refusal::Refusal, store::ByteStream};

/// The digest of the content (distribution spec, "Pulling manifests").
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Echoes the subject of a pushed manifest.
pub(super) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Echoes the tags that a pushed manifest was given.
pub(super) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Names the filters that were applied to a list of referrers.
pub(super) const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// An older header with the id of an upload that some clients still require.
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Begins a response.
pub(super) fn answer(status: StatusCode) -> Builder {
    Response::builder().status(status)
}

/// Finishes a response whose headers were all created here.
pub(super) fn finish(builder: Builder, body: impl Into<Body>) -> Result<Response<Body>, Refusal> {
    builder.body(body.into()).map_err(|_| {
        refuse(
            Code::MANIFEST_INVALID,
            "one of its properties is not valid in a header",
        )
    })
}

/// A store's stream as a body.
pub(super) fn outgoing(stream: ByteStream) -> Body {
    Body::from_stream(stream.inspect_err(|error| {
        // The client sees a body that is too short; only the log can say why.
        tracing::warn!(%error, "Blob response ended early");
    }))
}

/// The value of a header as text.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

pub(super) fn with_digest(builder: Builder, digest: &Digest) -> Builder {
    builder.header(CONTENT_DIGEST, digest.to_string())
}

/// A time in header format (RFC 9110, 5.6.7), without its fraction; `None` before 1970 and after 9999.
pub(super) fn http_date(at: Time) -> Option<String> {
    let secs = u64::try_from(at.secs).ok()?;
    (secs < 253_402_300_800)
        .then(|| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(secs)))
}

/// Reads `Content-Range` of a chunk: `<first>-<last>`, without unit and total (distribution spec, "Pushing a blob in chunks").
pub(super) fn chunk(headers: &HeaderMap) -> Result<Option<Range<u64>>, Refusal> {
    let Some(spec) = text(headers, &header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let wrong = || {
        refuse(
            Code::SIZE_INVALID,
            format!("`Content-Range: {spec}` is not `<first>-<last>`"),
        )
    };
    // Some clients write it in the HTTP format.
    let plain = spec.strip_prefix("bytes ").unwrap_or(spec);
    let plain = plain.split('/').next().unwrap_or(plain);
    let (first, last) = plain.split_once('-').ok_or_else(wrong)?;
    let (first, last): (u64, u64) = (
        first.parse().map_err(|_| wrong())?,
        last.parse().map_err(|_| wrong())?,
    );
    let end = last.checked_add(1).filter(|end| first < *end);
    let range = first..end.ok_or_else(wrong)?;
    let length = text(headers, &header::CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
    if length.is_some_and(|l| l != range.end - range.start) {
        return Err(refuse(
            Code::SIZE_INVALID,
            "`Content-Length` and `Content-Range` differ",
        ));
    }
    Ok(Some(range))
}

/// The values of one parameter of a query, percent-decoded.
pub(super) fn params(query: Option<&str>, name: &str) -> Vec<String> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .filter(|(key, _)| key == name)
        .map(|(_, value)| value.into_owned())
        .collect()
}

/// The first value of a parameter.
pub(super) fn param(query: Option<&str>, name: &str) -> Option<String> {
    params(query, name).into_iter().next()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        [(name, HeaderValue::from_static(value))]
            .into_iter()
            .collect()
    }

    #[test]
    fn chunks_name_their_range_without_unit() {
        let read = |v| chunk(&headers(header::CONTENT_RANGE, v));
        assert_eq!(read("0-1023").unwrap(), Some(0..1024));
        assert_eq!(read("bytes 5-5/6").unwrap(), Some(5..6));
        for bad in ["", "5-", "5-4", "a-b", "0-18446744073709551615"] {
            assert_eq!(read(bad).unwrap_err().code(), "SIZE_INVALID", "{bad}");
        }
        assert_eq!(chunk(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn parameters_are_decoded() {
        let query = Some("digest=sha256%3Aab&tag=a&tag=b&x");
        assert_eq!(param(query, "digest").as_deref(), Some("sha256:ab"));
        assert_eq!(params(query, "tag"), ["a", "b"]);
        assert_eq!(param(query, "x").as_deref(), Some(""));
        assert_eq!(param(query, "y"), None);
    }
}
