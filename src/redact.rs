//! Secrets that cannot be printed, and URLs without their secrets.

use std::fmt;

/// A password, token or key. It has no `Display`, and its `Debug` output shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps a secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, to be sent but never logged.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl From<String> for Secret {
    fn from(s: String) -> Self {
        Self(s)
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self)
    }
}

/// Beginnings of paths, which contain no secrets.
const PATHS: [&str; 7] = ["/", ".", "~", "disk:", "oci-layout:", "cachectld:", "unix:"];
/// Replaces a part that may be a secret.
const HIDDEN: &str = "…";

/// `url` without user name, password and the values of its query: suitable for messages. Text that is not a URL may be a secret
/// pasted into the wrong place, and is not shown at all.
pub fn url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        let shows = PATHS.iter().any(|p| url.starts_with(p)) || is_host_with_port(url);
        return if shows { url } else { HIDDEN }.to_owned();
    };
    if !is_scheme(scheme) {
        return HIDDEN.to_owned();
    }
    let rest = rest.split('#').next().unwrap_or_default();
    let (base, query) = match rest.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (rest, None),
    };
    // A password may contain an unencoded `/`, so everything before the last `@` is removed; the `@` of a digest is not one.
    let base = match base.rsplit_once('@') {
        Some((_, after)) if !after.starts_with("sha256:") && !after.starts_with("sha512:") => after,
        _ => base,
    };
    let base = after_encoded_at(base);
    let (host, path) = base.split_at(base.find('/').unwrap_or(base.len()));
    let host = if is_host(host) { host } else { HIDDEN };
    match query {
        None => format!("{scheme}://{host}{path}"),
        Some(query) => {
            let shown: Vec<String> = query.split('&').map(pair).collect();
            format!("{scheme}://{host}{path}?{}", shown.join("&"))
        }
    }
}

/// A setting's value as written, unless it is a URL or contains a name and a password: suitable for messages.
pub fn value(text: &str) -> String {
    let decoded = decoded(text);
    let has_password = decoded
        .rsplit_once('@')
        .is_some_and(|(before, _)| before.contains(':'));
    if has_password || decoded.contains("://") {
        url(text)
    } else {
        text.to_owned()
    }
}

/// A text in the place of a host or bucket, with or without a port: suitable for messages.
pub fn host(text: &str) -> String {
    if !decoded(text).contains([':', '@']) || is_host(text) {
        text.to_owned()
    } else {
        url(text)
    }
}

/// The text without percent-encoding, even if it was encoded repeatedly.
pub fn decoded(text: &str) -> String {
    let mut text = text.to_owned();
    // Each round makes it shorter; nobody encodes more often.
    for _ in 0..8 {
        let next = percent_encoding::percent_decode_str(&text).decode_utf8_lossy();
        if next == text {
            break;
        }
        text = next.into_owned();
    }
    text
}

/// The text after the last `@` that is percent-encoded, once or repeatedly.
fn after_encoded_at(text: &str) -> &str {
    let starts = text.match_indices('%').map(|(at, _)| at + 1);
    let mut ends = starts.filter_map(|at| {
        let mut rest = &text[at..];
        while let Some(tail) = rest.strip_prefix("25") {
            rest = tail;
        }
        rest.strip_prefix("40")
    });
    ends.next_back().unwrap_or(text)
}

/// Endpoint and region help to understand a message; signatures and tokens must not be shown.
fn pair(pair: &str) -> String {
    let is_name = |k: &str| {
        k.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    match pair.split_once('=') {
        Some((k @ ("region" | "path_style"), v)) if is_name(v) => format!("{k}={v}"),
        Some((k @ "endpoint", v)) if !decoded(v).contains('@') => format!("{k}={v}"),
        Some((k, v)) if is_name(k) && !v.starts_with('=') => format!("{k}={HIDDEN}"),
        _ => HIDDEN.to_owned(),
    }
}

/// Returns true if this can begin a URL (RFC 3986 §3.1), in lower case as is usual.
pub fn is_scheme(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"+-.".contains(&b);
    (1..=20).contains(&text.len()) && text.bytes().all(plain)
}

/// Returns true if this is a host, or a bucket, with or without a port; false for a name followed by a password.
fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (text, ""),
    };
    let inside = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let name = |h: &str| {
        h.bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
    };
    let right = inside.map_or_else(|| name(host), |h| h.parse::<std::net::Ipv6Addr>().is_ok());
    right && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
}

fn is_host_with_port(text: &str) -> bool {
    let host = text.split('/').next().unwrap_or_default();
    is_host(host) && host.contains(':') && !host.ends_with(':')
}

/// External text within a message: unsuitable characters are escaped, letters and quotes are unchanged.
pub fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut all, c| {
        if is_unfit(c) {
            all.extend(c.escape_default());
        } else {
            all.push(c);
        }
        all
    })
}

/// Control characters, line breaks, and characters that change the writing direction: external text is shown without them.
pub fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'
                | '\u{2029}'
                | '\u{202a}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_keeps_its_quotes_and_steers_no_terminal() {
        assert_eq!(
            escaped("'a' \"ü\" \\ \n\u{1b}[2J\u{202e}"),
            "'a' \"ü\" \\ \\n\\u{1b}[2J\\u{202e}"
        );
    }

    #[test]
    fn url_hides_passwords_and_signatures() {
        assert_eq!(
            url("https://u:p@h:1/x?X-Amz-Signature=abc&region=eu"),
            "https://h:1/x?X-Amz-Signature=…&region=eu"
        );
        assert_eq!(url("disk:/a"), "disk:/a");
        assert_eq!(url("https://u:p@h"), "https://h");
        assert_eq!(url("oci://h:5000/a@sha256:4f"), "oci://h:5000/a@sha256:4f");
        assert_eq!(url("https://[::1]:9000/x"), "https://[::1]:9000/x");
        assert_eq!(url("127.0.0.1:9000"), "127.0.0.1:9000");
        assert_eq!(url("/run/c@2.sock"), "/run/c@2.sock");
    }

    #[test]
    fn no_part_of_a_secret_shows_wherever_it_was_pasted() {
        for text in [
            "KEY:hunter2@bucket",
            "s3://KEY:hunter2@bucket/x",
            "s3://KEY:hun/hunter2@bucket/x",
            "s3://KEY:hun?hunter2@bucket/x",
            "s3://KEY:hunter2",
            "s3://KEY:hunter2/x",
            "https://hunter2@h",
            "https://u:a@hunter2@h",
            "https://h/x?hunter2",
            "https://h/x?hunter2==",
            "https://h/x#hunter2",
            "https://h/x?token=hunter2&endpoint=https://u:hunter2@e",
            "s3://b/x?endpoint=https%3A%2F%2Fu%3Ahunter2%40e",
            "s3://b/x?endpoint=https%253A%252F%252Fu%253Ahunter2%2540e",
            "s3://b/x?region=AK:hunter2@e",
            "s3://AK%3Ahunter2%40bucket/x",
            "s3://AK%253Ahunter2%252540bucket/x",
            "s3://AK%3ahun/hunter2%40bucket/x",
            "s3://AK:hunter2%40bucket",
            "s3://AK%3Ahunter2/x",
            "S3://AK:hunter2@bucket",
            "https://u%3Ahunter2%40h:1/x",
            "hunter2",
            "hunter2@@@",
            "u:hunter2",
            "ghp_hunter2",
            "hunter2://x",
            "Hunter2 hunter2://x",
            "",
        ] {
            // `hunter2:` looks like a scheme; nothing else of it may be shown.
            let shown = url(text).replace("hunter2://", "");
            assert!(!shown.contains("unter2"), "{text}: {shown}");
            if text.contains(['@', '%']) {
                for shown in [value(text), host(text)] {
                    let shown = shown.replace("hunter2://", "");
                    assert!(
                        text == "hunter2@@@" || !shown.contains("unter2"),
                        "{text}: {shown}"
                    );
                }
            }
        }
        for text in ["**/@types/**", "10x", "a b", "", "team/** : pull", "50%"] {
            assert_eq!(value(text), text);
        }
        for text in [
            "my_bucket",
            "h:5000",
            ":5000",
            "[::1]:1",
            "http://h:1",
            "*",
            "a b",
        ] {
            assert_eq!(host(text), text);
        }
        assert_eq!(url("s3://KEY:hunter2@bucket/x"), "s3://bucket/x");
    }

    #[test]
    fn secret_does_not_show_in_debug() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
