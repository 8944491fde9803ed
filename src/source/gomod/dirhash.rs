//! The hash `h1:` of a module's files, as in `go.sum` (`golang.org/x/mod/sumdb/dirhash`, `Hash1`).
//!
//! SHA-256 over the lines `<hex SHA-256 of a file>  <its name>\n`, sorted by name: of contents, not of zip bytes.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::digest::{Sha256, Sha256Hasher};

/// Bytes of an `h1:` hash as text: `h1:` and 44 of base64.
pub(super) const H1_LEN: usize = 47;

/// An `h1:` hash.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct H1(Sha256);

impl H1 {
    /// The hash of files by name.
    ///
    /// # Errors
    /// A message: a name contains a line break, or occurs twice (Go would hash the last of the two, and refuse to unpack them).
    pub(super) fn of_files(files: &[(&[u8], Sha256)]) -> Result<Self, &'static str> {
        let mut sorted: Vec<_> = files.iter().collect();
        sorted.sort_unstable_by_key(|(name, _)| *name);
        if sorted.windows(2).any(|pair| pair[0].0 == pair[1].0) {
            return Err("it contains a name twice");
        }
        let mut hasher = Sha256Hasher::default();
        for (name, digest) in sorted {
            if name.contains(&b'\n') {
                return Err("it contains a name with a line break");
            }
            hasher.update(digest.to_hex().as_bytes());
            hasher.update(b"  ");
            hasher.update(name);
            hasher.update(b"\n");
        }
        Ok(Self(hasher.finish()))
    }

    /// The hash of a `.mod` file, under the name `go.mod`.
    pub(super) fn of_go_mod(content: &[u8]) -> Self {
        Self::of_files(&[(b"go.mod", Sha256::of(content))]).expect("one name without a line end")
    }

    /// Parses `h1:` and the base64 of 32 bytes, exactly 47 bytes in all.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let base64 = text.strip_prefix(b"h1:").filter(|_| text.len() == H1_LEN)?;
        let raw = STANDARD.decode(base64).ok()?;
        Some(Self(Sha256(raw.try_into().ok()?)))
    }
}

impl fmt::Display for H1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h1:{}", STANDARD.encode(self.0.0))
    }
}

impl fmt::Debug for H1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_go_mod_has_the_hash_that_go_knows() {
        // `emptyGoModHash` in cmd/go/internal/modfetch/fetch.go.
        assert_eq!(
            H1::of_go_mod(b"").to_string(),
            "h1:G7mAYYxgmS0lVkHyy2hEOLQCFB0DlQFTMLWggykrydY="
        );
    }

    #[test]
    fn order_of_files_does_not_count_names_do() {
        let (x, y) = (Sha256::of(b"x"), Sha256::of(b"y"));
        let hash = |files: &[(&[u8], Sha256)]| H1::of_files(files);
        assert_eq!(hash(&[(b"a", x), (b"b", y)]), hash(&[(b"b", y), (b"a", x)]));
        assert_ne!(hash(&[(b"a", x), (b"b", y)]), hash(&[(b"a", y), (b"b", x)]));
        assert!(hash(&[(b"a", x), (b"a", y)]).is_err());
        assert!(hash(&[(b"a\nb", x)]).is_err());
    }

    #[test]
    fn text_round_trips_and_junk_is_refused() {
        let h = H1::of_go_mod(b"module m\n");
        let text = h.to_string();
        assert_eq!(text.len(), H1_LEN);
        assert_eq!(H1::parse(text.as_bytes()), Some(h));
        for bad in [
            String::new(),
            format!("{text}\n"),
            text[..46].to_owned(),
            text.replace("h1:", "h2:"),
            format!("h1:{}", "\0".repeat(44)),
        ] {
            assert_eq!(H1::parse(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
