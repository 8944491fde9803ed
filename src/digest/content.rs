//! Identity of content: BLAKE3, which is cheap on every CPU, or SHA-256 where Go names the content by it.

use std::fmt;

use super::{Sha256, Sha256Hasher};

/// Identity of content: of a whole file, or of a segment of one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentId {
    /// The BLAKE3 of the bytes.
    Blake3([u8; 32]),
    /// The SHA-256 of the bytes: of outputs of Go's build cache, whose names contain it.
    Sha256(Sha256),
}

impl ContentId {
    /// The BLAKE3 of no bytes.
    pub const OF_NOTHING: Self = Self::Blake3([
        0xaf, 0x13, 0x49, 0xb9, 0xf5, 0xf9, 0xa1, 0xa6, 0xa0, 0x40, 0x4d, 0xea, 0x36, 0xdc, 0xc9,
        0x49, 0x9b, 0xcb, 0x25, 0xc9, 0xad, 0xc1, 0x12, 0xb7, 0xcc, 0x9a, 0x93, 0xca, 0xe4, 0x1f,
        0x32, 0x62,
    ]);

    /// The BLAKE3 of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::Blake3(*blake3::hash(bytes).as_bytes())
    }

    /// Returns true if this is the identity of `bytes`.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        match self {
            Self::Blake3(_) => Self::of(bytes) == *self,
            Self::Sha256(sha) => Sha256::of(bytes) == *sha,
        }
    }

    /// A hasher that yields an identity of the same kind.
    pub fn hasher(&self) -> ContentHasher {
        match self {
            Self::Blake3(_) => ContentHasher::blake3(),
            Self::Sha256(_) => ContentHasher::Sha256(Sha256Hasher::default()),
        }
    }

    /// The 32 bytes of the hash.
    pub fn as_bytes(&self) -> &[u8; 32] {
        match self {
            Self::Blake3(hash) | Self::Sha256(Sha256(hash)) => hash,
        }
    }

    /// The hash as 64 lower-case hex digits.
    pub fn to_hex(self) -> String {
        const_hex::encode(self.as_bytes())
    }
}

impl From<Sha256> for ContentId {
    fn from(sha: Sha256) -> Self {
        Self::Sha256(sha)
    }
}

impl fmt::Display for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let algorithm = match self {
            Self::Blake3(_) => "blake3",
            Self::Sha256(_) => "sha256",
        };
        write!(f, "{algorithm}:{}", self.to_hex())
    }
}

impl fmt::Debug for ContentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A running hash of content.
#[derive(Clone)]
pub enum ContentHasher {
    /// For [`ContentId::Blake3`].
    Blake3(Box<blake3::Hasher>),
    /// For [`ContentId::Sha256`].
    Sha256(Sha256Hasher),
}

impl ContentHasher {
    /// A running BLAKE3.
    pub fn blake3() -> Self {
        Self::Blake3(Box::default())
    }

    /// Adds `bytes` to what is hashed.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Blake3(hasher) => {
                hasher.update(bytes);
            }
            Self::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// Ends the hash.
    pub fn finish(self) -> ContentId {
        match self {
            Self::Blake3(hasher) => ContentId::Blake3(*hasher.finalize().as_bytes()),
            Self::Sha256(hasher) => ContentId::Sha256(hasher.finish()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_of_nothing_is_that_of_no_bytes() {
        assert_eq!(ContentId::OF_NOTHING, ContentId::of(b""));
    }

    /// The test vectors of BLAKE3 (`test_vectors.json`): bytes 0, 1, … 250, 0, … A broken SIMD path shows only on long input.
    #[test]
    fn blake3_of_a_long_vector_is_right() {
        let input: Vec<u8> = (0..102_400_u32).map(|i| (i % 251) as u8).collect();
        let want = "bc3e3d41a1146b069abffad3c0d44860cf664390afce4d9661f7902e7943e085";
        assert_eq!(ContentId::of(&input).to_hex(), want);
    }

    #[test]
    fn both_kinds_know_their_bytes_in_one_go_and_in_parts() {
        for id in [ContentId::of(b"content"), Sha256::of(b"content").into()] {
            assert!(id.matches(b"content") && !id.matches(b"Content"));
            let mut hasher = id.hasher();
            hasher.update(b"con");
            hasher.update(b"tent");
            assert_eq!(hasher.finish(), id);
        }
    }

    #[test]
    fn the_same_hash_of_another_kind_is_another_identity() {
        let sha = Sha256::of(b"content");
        assert_ne!(ContentId::Blake3(sha.0), ContentId::Sha256(sha));
    }
}
