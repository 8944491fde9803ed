//! Digests: algorithm and value, parsed once, never a string.
//!
//! Grammar and registered algorithms: OCI image spec, `descriptor.md`, "Digests".

mod content;

use std::{fmt, str::FromStr};

pub use content::{ContentHasher, ContentId};

use sha2::{Digest as _, Sha256 as Sha256Impl, Sha512 as Sha512Impl};

/// The SHA-256 of some bytes: of a blob, of a Go build output.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256(pub [u8; 32]);

impl Sha256 {
    /// The digest of no bytes.
    pub const OF_NOTHING: Self = Self([
        0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9,
        0x24, 0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52,
        0xb8, 0x55,
    ]);

    /// Hashes `bytes`, all of them.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256Impl::digest(bytes).into())
    }

    /// Parses exactly 64 lower-case hex digits.
    pub fn from_hex(hex: &[u8]) -> Option<Self> {
        if hex.len() != 64 || hex.iter().any(u8::is_ascii_uppercase) {
            return None;
        }
        let mut raw = [0; 32];
        const_hex::decode_to_slice(hex, &mut raw).ok()?;
        Some(Self(raw))
    }

    /// 64 lower-case hex digits.
    pub fn to_hex(self) -> String {
        const_hex::encode(self.0)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

/// A running SHA-256.
#[derive(Clone, Default)]
pub struct Sha256Hasher(Sha256Impl);

impl Sha256Hasher {
    /// Adds `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Ends the hash.
    pub fn finish(self) -> Sha256 {
        Sha256(self.0.finalize().into())
    }
}

/// The digest of a blob as OCI writes it: `sha256:<64 hex>` or `sha512:<128 hex>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256, which we write.
    Sha256(Sha256),
    /// SHA-512, which a client of the registry API may push.
    Sha512([u8; 64]),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn sha256_of(bytes: &[u8]) -> Self {
        Self::Sha256(Sha256::of(bytes))
    }

    /// The registered name of the algorithm.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Sha512(_) => "sha512",
        }
    }

    /// The value in lower-case hex.
    pub fn hex(&self) -> String {
        match self {
            Self::Sha256(s) => s.to_hex(),
            Self::Sha512(raw) => const_hex::encode(raw),
        }
    }

    /// A hasher that yields a digest of the same algorithm.
    pub fn hasher(&self) -> Hasher {
        match self {
            Self::Sha256(_) => Hasher::Sha256(Sha256Hasher::default()),
            Self::Sha512(_) => Hasher::Sha512(Box::default()),
        }
    }

    /// Returns true if `bytes` hash to this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish() == *self
    }
}

/// A running hash of either algorithm.
#[derive(Clone)]
pub enum Hasher {
    /// For [`Digest::Sha256`].
    Sha256(Sha256Hasher),
    /// For [`Digest::Sha512`].
    Sha512(Box<Sha512Impl>),
}

impl Hasher {
    /// Adds `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(h) => h.update(bytes),
            Self::Sha512(h) => h.update(bytes),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(h) => Digest::Sha256(h.finish()),
            Self::Sha512(h) => Digest::Sha512(h.finalize().into()),
        }
    }
}

impl From<Sha256> for Digest {
    fn from(s: Sha256) -> Self {
        Self::Sha256(s)
    }
}

/// Why a digest could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a digest: expected sha256:<64 hex> or sha512:<128 hex>, lower case")]
pub struct DigestError(String);

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        // The input may be malicious and long: keep the error readable.
        let err = || DigestError(s.chars().take(140).collect());
        let (algorithm, hex) = s.split_once(':').ok_or_else(err)?;
        match algorithm {
            "sha256" => Sha256::from_hex(hex.as_bytes())
                .map(Self::Sha256)
                .ok_or_else(err),
            "sha512" if hex.len() == 128 && !hex.bytes().any(|b| b.is_ascii_uppercase()) => {
                let mut raw = [0; 64];
                const_hex::decode_to_slice(hex, &mut raw).map_err(|_| err())?;
                Ok(Self::Sha512(raw))
            }
            _ => Err(err()),
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        s.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_of_nothing_is_that_of_no_bytes() {
        assert_eq!(Sha256::OF_NOTHING, Sha256::of(b""));
    }

    #[test]
    fn digest_round_trips_through_text() {
        for s in [
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855".to_owned(),
            format!("sha512:{}", "0f".repeat(64)),
        ] {
            assert_eq!(s.parse::<Digest>().unwrap().to_string(), s);
        }
    }

    #[test]
    fn digest_refuses_upper_case_short_and_unknown() {
        for s in [
            "",
            "sha256:",
            "sha256:E3B0",
            "md5:00",
            &format!("sha256:{}", "A".repeat(64)),
        ] {
            assert!(s.parse::<Digest>().is_err(), "{s}");
        }
    }

    #[test]
    fn hash_of_a_long_vector_is_right() {
        // FIPS 180-2: one million times "a". A broken SIMD path shows only on long input (RUSTSEC-2021-0100).
        let want = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0";
        assert_eq!(Sha256::of(&vec![b'a'; 1_000_000]).to_hex(), want);
    }
}
