//! The credentials that a registry requests: `WWW-Authenticate` (RFC 9110 §11.6.1), several of them, in one header or in many.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

use super::scopes::Scopes;

/// Maximum total length of challenges that is parsed.
const MAX_BYTES: usize = 16 << 10;

/// One way to authenticate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Name and password with every request (RFC 7617).
    Basic,
    /// A token from another server (RFC 6750).
    Bearer {
        /// The token endpoint.
        realm: String,
        /// The service that the token is for.
        service: Option<String>,
        /// The scopes that this request needs.
        scopes: Scopes,
        /// The problem: `invalid_token`, `insufficient_scope`.
        error: Option<String>,
    },
}

/// All supported challenges of an answer, Bearer first: containerd prefers it too (`core/remotes/docker/auth/parse.go`).
pub(super) fn parse(headers: &HeaderMap) -> Vec<Challenge> {
    let mut found = Vec::new();
    let mut left = MAX_BYTES;
    for value in headers.get_all(WWW_AUTHENTICATE) {
        let Ok(text) = value.to_str() else { continue };
        if text.len() > left {
            break;
        }
        left -= text.len();
        found.extend(split(text).into_iter().filter_map(understand));
    }
    found.sort_by_key(|c| matches!(c, Challenge::Basic));
    found
}

fn understand((scheme, params): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |name: &str| {
        let found = params.iter().find(|(k, _)| k == name)?;
        Some(found.1.clone())
    };
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => Some(Challenge::Bearer {
            realm: get("realm")?,
            service: get("service"),
            scopes: Scopes::parse(&get("scope").unwrap_or_default()),
            error: get("error"),
        }),
        _ => None,
    }
}

/// Schemes with their parameters, both names in lower case.
fn split(text: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut all: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            // The end, or a stray `=`, after which the rest is ambiguous.
            return all;
        }
        let name = word.to_ascii_lowercase();
        let after = after.trim_start_matches([' ', '\t']);
        match (after.strip_prefix('='), all.last_mut()) {
            (Some(value), Some((_, params))) => {
                let (value, left) = take_value(value.trim_start_matches([' ', '\t']));
                params.push((name, value));
                rest = left;
            }
            (Some(_), None) => return all,
            (None, _) => {
                all.push((name, Vec::new()));
                rest = after;
            }
        }
    }
}

/// A token or quoted string, and what follows it.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut escaped = false;
    for (at, c) in quoted.char_indices() {
        match c {
            _ if escaped => {
                value.push(c);
                escaped = false;
            }
            '\\' => escaped = true,
            '"' => return (value, &quoted[at + 1..]),
            _ => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Vec<Challenge> {
        let mut h = HeaderMap::new();
        for v in values {
            h.append(WWW_AUTHENTICATE, v.parse().unwrap());
        }
        parse(&h)
    }

    fn bearer(scope: &str, error: Option<&str>) -> Challenge {
        Challenge::Bearer {
            realm: "https://a/t?x=1,2".to_owned(),
            service: Some("s".to_owned()),
            scopes: Scopes::parse(scope),
            error: error.map(str::to_owned),
        }
    }

    #[test]
    fn bearer_comes_before_basic_in_one_header_or_two() {
        let b = r#"Bearer realm="https://a/t?x=1,2",service="s",scope="repository:a/b:pull,push""#;
        let want = [bearer("repository:a/b:pull,push", None), Challenge::Basic];
        assert_eq!(of(&[r#"Basic realm="x""#, b]), want);
        assert_eq!(of(&[&format!(r#"Basic realm="x, Bearer", {b}"#)]), want);
    }

    #[test]
    fn odd_spelling_is_read() {
        let odd = r#"BEARER  Realm = "https://a/t?x=1,2" , service=s,, error="insufficient_scope""#;
        assert_eq!(of(&[odd]), [bearer("", Some("insufficient_scope"))]);
        assert_eq!(
            of(&[r#"Basic realm="a\"b", Negotiate"#]),
            [Challenge::Basic]
        );
        assert_eq!(of(&["Basic"]), [Challenge::Basic]);
    }

    #[test]
    fn nonsense_gives_nothing() {
        for bad in [
            "",
            "=",
            "realm=x",
            "Bearer",
            "Bearer realm",
            "Negotiate abc==",
            ",,,",
            "Bearer service=\"x",
        ] {
            assert_eq!(of(&[bad]), [], "{bad}");
        }
        assert_eq!(
            of(&[&format!("Basic realm=\"{}\"", "x".repeat(20_000))]),
            []
        );
    }
}
