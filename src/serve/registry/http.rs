//! Small readings and writings of HTTP that all requests of the door share.

use std::{ops::Range, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, HeaderName, Response, StatusCode, header, response::Builder},
};
use futures_util::TryStreamExt as _;

use super::error::{Code, Refusal};
use crate::{digest::Digest, entry::Time, store::ByteStream};

/// Says which digest the content has (distribution spec, "Pulling manifests").
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// Echoes the subject of a pushed manifest.
pub(super) const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// Echoes the tags that a pushed manifest got.
pub(super) const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Names the filters that a list of referrers went through.
pub(super) const OCI_FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");
/// An older name of an upload that some clients still want.
pub(super) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// Begins a response.
pub(super) fn answer(status: StatusCode) -> Builder {
    Response::builder().status(status)
}

/// Ends a response whose headers are all made here.
pub(super) fn finish(builder: Builder, body: impl Into<Body>) -> Result<Response<Body>, Refusal> {
    builder.body(body.into()).map_err(|_| {
        Refusal::new(
            Code::ManifestInvalid,
            "it has a property that no header can carry",
        )
    })
}

/// A store's stream as a body.
pub(super) fn outgoing(stream: ByteStream) -> Body {
    Body::from_stream(stream.inspect_err(|error| {
        // The client sees a body that is too short; only the log can say why.
        tracing::warn!(%error, "Blob broken off");
    }))
}

/// The value of a header as text.
pub(super) fn text<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Adds the digest.
pub(super) fn with_digest(builder: Builder, digest: &Digest) -> Builder {
    builder.header(CONTENT_DIGEST, digest.to_string())
}

/// A moment as headers spell it (RFC 9110, 5.6.7), without its fraction; `None` before 1970 and after 9999.
pub(super) fn http_date(at: Time) -> Option<String> {
    let secs = u64::try_from(at.secs).ok()?;
    (secs < 253_402_300_800)
        .then(|| httpdate::fmt_http_date(std::time::UNIX_EPOCH + Duration::from_secs(secs)))
}

/// What part of a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// All of it.
    Whole,
    /// This range, not empty and within it.
    Range(Range<u64>),
    /// Nothing that it has.
    Unsatisfiable,
}

/// Reads `Range` (RFC 9110, 14.1.2) of what has the strong validator `etag`. Several ranges, or another unit, are answered with the
/// whole, as the RFC allows; so is a client that has a part of something else (13.1.5: a date or a weak validator never fits here).
pub(super) fn part(headers: &HeaderMap, size: u64, etag: &str) -> Part {
    let mut validators = headers.get_all(header::IF_RANGE).iter();
    if !validators.all(|said| said.as_bytes() == etag.as_bytes()) {
        return Part::Whole;
    }
    let Some(spec) = text(headers, &header::RANGE).and_then(|r| r.strip_prefix("bytes=")) else {
        return Part::Whole;
    };
    if spec.contains(',') {
        return Part::Whole;
    }
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Part::Whole;
    };
    let number = |s: &str| -> Option<u64> {
        let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        // What is too long for a number is beyond every blob.
        digits.then(|| s.parse().unwrap_or(u64::MAX))
    };
    let range = match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(size),
        (Some(first), None) if last.is_empty() => first..size,
        (None, Some(suffix)) if first.is_empty() => size.saturating_sub(suffix)..size,
        (Some(_), Some(_)) => return Part::Unsatisfiable,
        _ => return Part::Whole,
    };
    if range.start >= range.end {
        Part::Unsatisfiable
    } else {
        Part::Range(range)
    }
}

/// Reads `Content-Range` of a chunk: `<first>-<last>`, without unit and total (distribution spec, "Pushing a blob in chunks").
pub(super) fn chunk(headers: &HeaderMap) -> Result<Option<Range<u64>>, Refusal> {
    let Some(spec) = text(headers, &header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let wrong = || {
        Refusal::new(
            Code::SizeInvalid,
            format!("`Content-Range: {spec}` is not `<first>-<last>`"),
        )
    };
    // Some clients write it as HTTP does.
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
        return Err(Refusal::new(
            Code::SizeInvalid,
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
    fn ranges_are_read_as_the_rfc_says() {
        for (range, want) in [
            ("bytes=500-1499", Part::Range(500..1500)),
            ("bytes=500-", Part::Range(500..2048)),
            ("bytes=-500", Part::Range(1548..2048)),
            ("bytes=-5000", Part::Range(0..2048)),
            ("bytes=2000-5000", Part::Range(2000..2048)),
            ("bytes=500-0", Part::Unsatisfiable),
            ("bytes=5000-10000", Part::Unsatisfiable),
            ("bytes=2048-", Part::Unsatisfiable),
            ("bytes=-0", Part::Unsatisfiable),
            ("bytes=0-99999999999999999999999", Part::Range(0..2048)),
            ("bytes=0-1,5-6", Part::Whole),
            ("items=0-1", Part::Whole),
            ("bytes=x", Part::Whole),
        ] {
            assert_eq!(
                part(&headers(header::RANGE, range), 2048, ""),
                want,
                "{range}"
            );
        }
        assert_eq!(
            part(&headers(header::RANGE, "bytes=0-"), 0, ""),
            Part::Unsatisfiable
        );
        assert_eq!(part(&HeaderMap::new(), 5, ""), Part::Whole);
    }

    #[test]
    fn chunks_name_their_range_without_unit() {
        let read = |v| chunk(&headers(header::CONTENT_RANGE, v));
        assert_eq!(read("0-1023").unwrap(), Some(0..1024));
        assert_eq!(read("bytes 5-5/6").unwrap(), Some(5..6));
        for bad in ["", "5-", "5-4", "a-b", "0-18446744073709551615"] {
            assert_eq!(read(bad).unwrap_err().code, Code::SizeInvalid, "{bad}");
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
