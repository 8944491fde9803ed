//! The credentials of a request: its `Authorization` (RFC 9110 §11.6.2).

use axum::http::{HeaderMap, header::AUTHORIZATION};
use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use crate::redact::Secret;

/// Longest credentials that are accepted; the daemon's own tokens are shorter.
const MAX_BYTES: usize = 16 << 10;

/// Some clients omit the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The credentials of a request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// Nothing.
    Nothing,
    /// Name and password (RFC 7617).
    Basic(String, Secret),
    /// A token (RFC 6750).
    Bearer(Secret),
    /// Malformed credentials; never treated as none.
    Nonsense,
}

/// Reads it.
pub(super) fn shown(headers: &HeaderMap) -> Shown {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = all.next() else {
        return Shown::Nothing;
    };
    // If there are two, a proxy and we could each use a different one.
    if all.next().is_some() || value.len() > MAX_BYTES {
        return Shown::Nonsense;
    }
    let understood = value.to_str().ok().and_then(|text| {
        let (scheme, rest) = text.trim().split_once(' ')?;
        let rest = rest.trim();
        if scheme.eq_ignore_ascii_case("basic") {
            basic(rest)
        } else if scheme.eq_ignore_ascii_case("bearer") && !rest.is_empty() {
            Some(Shown::Bearer(Secret::new(rest)))
        } else {
            None
        }
    });
    understood.unwrap_or(Shown::Nonsense)
}

fn basic(text: &str) -> Option<Shown> {
    let text = String::from_utf8(BASE64.decode(text).ok()?).ok()?;
    // A password may contain colons, a name may not.
    let (name, password) = text.split_once(':')?;
    // Sent by clients that have no credentials when they are asked to log in.
    if name.is_empty() && password.is_empty() {
        return Some(Shown::Nothing);
    }
    Some(Shown::Basic(name.to_owned(), Secret::new(password)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[&str]) -> Shown {
        let mut headers = HeaderMap::new();
        for v in values {
            headers.append(AUTHORIZATION, v.parse().unwrap());
        }
        shown(&headers)
    }

    #[test]
    fn basic_is_name_and_the_rest() {
        let want = || Shown::Basic("ci".to_owned(), Secret::new("a:b"));
        for value in ["Basic Y2k6YTpi", "basic  Y2k6YTpi", "BASIC Y2k6YTpi "] {
            assert_eq!(of(&[value]), want(), "{value}");
        }
        let padded = Shown::Basic("ci".to_owned(), Secret::new("a"));
        assert_eq!(of(&["Basic Y2k6YQ=="]), padded);
        assert_eq!(of(&["Basic Y2k6YQ"]), padded);
    }

    #[test]
    fn bearer_is_taken_whole() {
        assert_eq!(of(&["Bearer abc"]), Shown::Bearer(Secret::new("abc")));
        assert_eq!(of(&["bearer abc"]), Shown::Bearer(Secret::new("abc")));
    }

    #[test]
    fn nothing_is_nothing() {
        assert_eq!(of(&[]), Shown::Nothing);
        assert_eq!(of(&["Basic Og=="]), Shown::Nothing);
    }

    #[test]
    fn nonsense_is_not_taken_for_nothing() {
        let long = format!("Bearer {}", "x".repeat(20_000));
        for values in [
            &["Basic"][..],
            &["Basic !!!"],
            &["Basic Y2k="],
            &["Bearer "],
            &["Digest username=x"],
            &[""],
            &["Bearer a", "Bearer a"],
            &[&long],
        ] {
            assert_eq!(of(values), Shown::Nonsense, "{values:?}");
        }
    }
}
