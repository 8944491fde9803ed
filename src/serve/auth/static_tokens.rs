//! Tokens from a file: `name token` on each line, any number per name, so that they can be rotated one at a time.

use std::{path::Path, sync::Arc};

use subtle::ConstantTimeEq as _;

use super::{Result, files};
use crate::{digest::Sha256, redact::Secret};

/// Minimum length of a token: shorter ones can be guessed.
const MIN_BYTES: usize = 16;

/// Names and the SHA-256 of their tokens; the tokens themselves are not kept.
pub(super) struct StaticTokens(Vec<(Arc<str>, Sha256)>);

impl StaticTokens {
    /// Reads them. Blocks.
    ///
    /// # Errors
    /// Names the invalid line, without showing any of it.
    pub(super) fn read(path: &Path) -> Result<Self> {
        Self::parse(path, &files::read(path, "token")?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut all: Vec<(Arc<str>, Sha256)> = Vec::new();
        for (number, line) in files::lines(text) {
            let wrong = |why: &str| files::wrong_line(path, number, why);
            let mut words = line.split_ascii_whitespace();
            let (Some(name), Some(token), None) = (words.next(), words.next(), words.next()) else {
                return Err(wrong("expected `name token`")
                    .hint("for example `ci`, a space, and the output of `openssl rand -hex 32`"));
            };
            files::check_name(name).map_err(wrong)?;
            if token.len() < MIN_BYTES {
                return Err(wrong("the token is shorter than 16 bytes")
                    .hint("create one with `openssl rand -hex 32`"));
            }
            if !token.bytes().all(|b| b.is_ascii_graphic()) {
                return Err(wrong(
                    "the token contains characters that are invalid in a header",
                ));
            }
            let hash = Sha256::of(token.as_bytes());
            if all.iter().any(|(_, other)| *other == hash) {
                return Err(wrong("the same token is already on an earlier line"));
            }
            all.push((name.into(), hash));
        }
        Ok(Self(all))
    }

    /// The owners of the tokens.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_ref())
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }

    /// The owner of a token, and its hash. Compares with all tokens, each in constant time.
    pub(super) fn owner(&self, token: &Secret) -> Option<(Arc<str>, Sha256)> {
        let hash = Sha256::of(token.expose().as_bytes());
        self.0.iter().fold(None, |found, (name, own)| {
            if bool::from(own.0.ct_eq(&hash.0)) {
                Some((name.clone(), hash))
            } else {
                found
            }
        })
    }

    /// The hashes of all tokens of `name`.
    pub(super) fn of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = Sha256> + 'a {
        self.0
            .iter()
            .filter(move |(own, _)| **own == *name)
            .map(|(_, hash)| *hash)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StaticTokens> {
        StaticTokens::parse(Path::new("tokens"), text)
    }

    #[test]
    fn name_may_have_several_tokens() {
        let tokens = parse(
            "# ours\n\nci 0123456789abcdef\n  ci\tfedcba9876543210  \ndev 00000000000000000\n",
        )
        .unwrap();
        let owner = |t: &str| tokens.owner(&Secret::new(t)).map(|(n, _)| n.to_string());
        assert_eq!(owner("0123456789abcdef").as_deref(), Some("ci"));
        assert_eq!(owner("fedcba9876543210").as_deref(), Some("ci"));
        assert_eq!(owner("00000000000000000").as_deref(), Some("dev"));
        assert_eq!(owner("0123456789abcde"), None);
        assert_eq!(owner(""), None);
        assert_eq!(tokens.of("ci").count(), 2);
    }

    #[test]
    fn wrong_line_is_named_and_not_shown() {
        for bad in [
            "hunter2hunter2hunter2",
            "ci hunter2hunter2hunter2 x",
            "ci hunter2",
            "a:b hunter2hunter2hunter2",
            "anonymous hunter2hunter2hunter2",
            "ci hunter2hunter2hünter2",
            "ci 0123456789abcdef",
        ] {
            let error = parse(&format!("x 0123456789abcdef\n{bad}\n"))
                .err()
                .unwrap();
            assert!(error.message.contains("line 2"), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
