//! Secrets that cannot be printed, and URLs without theirs.

use std::fmt;

/// A password, token or key. It has no `Display`, and its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the secret.
    pub fn new(secret: impl Into<String>) -> Self {
        Self(secret.into())
    }

    /// The secret itself, to be sent and never logged.
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

/// `url` without user name, password and the values of its query: fit for messages.
pub fn url(url: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, Some(query)),
        None => (url, None),
    };
    let base = match base.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            format!("{scheme}://{host}{path}")
        }
        None => base.to_owned(),
    };
    match query {
        None => base,
        Some(q) => {
            // Endpoint and region help to understand a message; signatures and tokens must not show.
            let shown: Vec<String> = q
                .split('&')
                .map(|pair| match pair.split_once('=') {
                    Some((k @ ("region" | "endpoint" | "path_style"), v)) if !v.contains('@') => {
                        format!("{k}={v}")
                    }
                    Some((k, _)) => format!("{k}=…"),
                    None => pair.to_owned(),
                })
                .collect();
            format!("{base}?{}", shown.join("&"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_hides_passwords_and_signatures() {
        assert_eq!(
            url("https://u:p@h:1/x?X-Amz-Signature=abc&region=eu"),
            "https://h:1/x?X-Amz-Signature=…&region=eu"
        );
        assert_eq!(url("disk:/a"), "disk:/a");
        assert_eq!(url("https://u:p@h"), "https://h");
    }

    #[test]
    fn secret_does_not_show_in_debug() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}
