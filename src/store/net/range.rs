//! `Content-Range` of a response.

/// `bytes first-last/total` (RFC 9110, 14.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::store) struct ContentRange {
    pub(in crate::store) first: u64,
    pub(in crate::store) last: u64,
    /// `None` if the server does not know it.
    pub(in crate::store) total: Option<u64>,
}

impl ContentRange {
    /// Parses the header's value; `None` if it does not follow the grammar.
    pub(in crate::store) fn parse(text: &str) -> Option<Self> {
        let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.trim().split_once('-')?;
        Some(Self {
            first: first.parse().ok()?,
            last: last.parse().ok()?,
            total: match total.trim() {
                "*" => None,
                total => Some(total.parse().ok()?),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_range_is_read_by_its_grammar() {
        for (text, total) in [("bytes 5-9/100", Some(100)), ("bytes 5-9/*", None)] {
            let want = ContentRange {
                first: 5,
                last: 9,
                total,
            };
            assert_eq!(ContentRange::parse(text), Some(want));
        }
        for bad in [
            "",
            "bytes",
            "bytes */100",
            "bytes 1/2",
            "items 0-1/2",
            "bytes 0--1/2",
        ] {
            assert_eq!(ContentRange::parse(bad), None, "{bad}");
        }
    }
}
