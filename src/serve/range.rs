//! Content that is served whole or in part (RFC 9110, 14), in the same way at every door.

use std::ops::Range;

use axum::http::{HeaderMap, Response, StatusCode, header, response::Builder};

use super::refusal::Refusal;

/// Begins the answer to a request for content of `size` bytes with the strong validator `etag`; also returns which bytes are
/// its body.
///
/// # Errors
/// `416` for a range outside of the content.
pub fn begin(headers: &HeaderMap, size: u64, etag: &str) -> Result<(Builder, Range<u64>), Refusal> {
    let (status, range) = match part(headers, size, etag) {
        Part::Whole => (StatusCode::OK, 0..size),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, range),
        Part::Unsatisfiable => {
            let why = "the range is outside of the content";
            let refusal = Refusal::new(StatusCode::RANGE_NOT_SATISFIABLE, why);
            return Err(refusal.header(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    let mut builder = Response::builder()
        .status(status)
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::ETAG, etag)
        .header(header::CONTENT_LENGTH, range.end - range.start);
    if status == StatusCode::PARTIAL_CONTENT {
        let named = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        builder = builder.header(header::CONTENT_RANGE, named);
    }
    Ok((builder, range))
}

/// Which part of some content is requested.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// All of it.
    Whole,
    /// This range, not empty and within it.
    Range(Range<u64>),
    /// Nothing that exists.
    Unsatisfiable,
}

/// Reads `Range` (RFC 9110, 14.1.2) for content with the strong validator `etag`. Several ranges, or another unit, are answered
/// with the whole content, as the RFC allows; so is a client that has a part of other content (13.1.5: a date or a weak
/// validator never matches here).
fn part(headers: &HeaderMap, size: u64, etag: &str) -> Part {
    let mut validators = headers.get_all(header::IF_RANGE).iter();
    if !validators.all(|said| said.as_bytes() == etag.as_bytes()) {
        return Part::Whole;
    }
    let asked = headers.get(header::RANGE).and_then(|r| r.to_str().ok());
    let spec = asked.and_then(|r| r.strip_prefix("bytes="));
    let Some(spec) = spec.filter(|s| !s.contains(',')) else {
        return Part::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Part::Whole;
    };
    let number = |s: &str| -> Option<u64> {
        let digits = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        // A number that overflows lies beyond any content.
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

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn asks(range: &'static str) -> HeaderMap {
        [(header::RANGE, HeaderValue::from_static(range))]
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
            assert_eq!(part(&asks(range), 2048, ""), want, "{range}");
        }
        assert_eq!(part(&asks("bytes=0-"), 0, ""), Part::Unsatisfiable);
        assert_eq!(part(&HeaderMap::new(), 5, ""), Part::Whole);
    }
}
