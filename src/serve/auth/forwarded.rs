//! The protocol between the client and the first proxy in front of us, as reported by proxies: `X-Forwarded-Proto`, and
//! `Forwarded` (RFC 7239).

use axum::http::{HeaderMap, HeaderName};

/// Whether the client used https; `None` if no proxy says so.
///
/// Each proxy appends what it saw, so the first entry is about the client. If in doubt, it was https: a client wrongly
/// redirected to https fails, one redirected to http sends its password in clear text.
pub(super) fn client_spoke_https(headers: &HeaderMap) -> Option<bool> {
    let list = first(headers, &HeaderName::from_static("x-forwarded-proto"));
    let forwarded = first(headers, &axum::http::header::FORWARDED).and_then(proto);
    let said: Vec<&str> = list.into_iter().chain(forwarded).collect();
    if said.is_empty() {
        return None;
    }
    Some(!said.iter().all(|proto| proto.eq_ignore_ascii_case("http")))
}

/// The first entry of a list; one that is not text is empty.
fn first<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h str> {
    let value = headers.get(name)?.to_str().unwrap_or_default();
    value.split(',').next().map(str::trim)
}

/// The `proto` of an entry of `Forwarded`: `for=192.0.2.1;proto=https;by=…`, quoted or not.
fn proto(entry: &str) -> Option<&str> {
    entry.split(';').find_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let is_proto = name.trim().eq_ignore_ascii_case("proto");
        is_proto.then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_entry_is_the_clients_and_in_doubt_it_is_https() {
        const LIST: &str = "x-forwarded-proto";
        const FORWARDED: &str = "forwarded";
        for (headers, https) in [
            (&[][..], None),
            (&[(FORWARDED, "for=192.0.2.1")], None),
            (&[(LIST, "https")], Some(true)),
            (&[(LIST, "HTTPS")], Some(true)),
            (&[(LIST, "http")], Some(false)),
            (&[(LIST, "https, http")], Some(true)),
            (&[(LIST, "https,http,http")], Some(true)),
            (&[(LIST, "http, https")], Some(false)),
            (&[(LIST, "https"), (LIST, "http")], Some(true)),
            (&[(LIST, "")], Some(true)),
            (&[(LIST, "wss")], Some(true)),
            (&[(FORWARDED, "for=192.0.2.1;proto=https")], Some(true)),
            (
                &[(FORWARDED, "For=\"[2001:db8::1]\"; Proto=\"https\"")],
                Some(true),
            ),
            (&[(FORWARDED, "proto=https, proto=http")], Some(true)),
            (&[(FORWARDED, "proto=http;host=a")], Some(false)),
            (&[(LIST, "http"), (FORWARDED, "proto=https")], Some(true)),
            (&[(LIST, "http"), (FORWARDED, "for=a")], Some(false)),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, value.parse().unwrap());
            }
            assert_eq!(client_spoke_https(&map), https, "{headers:?}");
        }
    }
}
