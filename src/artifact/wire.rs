//! Numbers and bytes of the binary documents: LEB128 varints, zigzag for signed ones.

/// Why a document could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Malformed(pub String);

/// Result of reading.
pub type Result<T> = std::result::Result<T, Malformed>;

/// An error with that text.
pub fn bad<T>(why: impl Into<String>) -> Result<T> {
    Err(Malformed(why.into()))
}

/// Writes a document.
#[derive(Debug, Default)]
pub struct Writer(pub Vec<u8>);

impl Writer {
    /// One byte.
    pub fn byte(&mut self, b: u8) {
        self.0.push(b);
    }

    /// Unsigned LEB128: seven bits a byte, lowest first.
    pub fn num(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push(n as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// Signed: zigzag, then as [`Writer::num`].
    pub fn signed(&mut self, n: i64) {
        self.num((n << 1 ^ n >> 63) as u64);
    }

    /// Raw bytes, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A length, then that many bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.num(bytes.len() as u64);
        self.raw(bytes);
    }
}

/// Reads a document; no input makes it panic or allocate more than the input is long.
#[derive(Debug)]
pub struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Bytes not yet read.
    pub fn left(&self) -> usize {
        self.0.len()
    }

    /// `len` raw bytes.
    pub fn raw(&mut self, len: usize) -> Result<&'a [u8]> {
        match self.0.split_at_checked(len) {
            Some((head, rest)) => {
                self.0 = rest;
                Ok(head)
            }
            None => bad("it ends too early"),
        }
    }

    /// One byte.
    pub fn byte(&mut self) -> Result<u8> {
        Ok(self.raw(1)?[0])
    }

    /// Unsigned LEB128 of at most 64 bits.
    pub fn num(&mut self) -> Result<u64> {
        let mut n = 0_u64;
        for shift in (0..64).step_by(7) {
            let b = self.byte()?;
            if shift == 63 && b > 1 {
                return bad("a number has more than 64 bits");
            }
            n |= u64::from(b & 0x7f) << shift;
            if b < 0x80 {
                return Ok(n);
            }
        }
        bad("a number has more than 64 bits")
    }

    /// A number that fits 32 bits.
    pub fn num32(&mut self) -> Result<u32> {
        u32::try_from(self.num()?).or_else(|_| bad("a number has more than 32 bits"))
    }

    /// Zigzag.
    pub fn signed(&mut self) -> Result<i64> {
        let n = self.num()?;
        Ok((n >> 1) as i64 ^ -((n & 1) as i64))
    }

    /// A number of items of at least `each` bytes, so it cannot exceed the remaining bytes.
    pub fn count(&mut self, each: usize) -> Result<usize> {
        let n = self.num()?;
        match usize::try_from(n) {
            Ok(n) if n <= self.0.len() / each.max(1) => Ok(n),
            _ => bad(format!("it announces {n} more items than it can contain")),
        }
    }

    /// A length of at most `limit`, then that many bytes.
    pub fn bytes(&mut self, limit: usize) -> Result<&'a [u8]> {
        let n = self.count(1)?;
        if n > limit {
            return bad(format!("a field of {n} bytes exceeds its limit of {limit}"));
        }
        self.raw(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_overlong_ones_are_refused() {
        for n in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut w = Writer::default();
            w.num(n);
            w.signed(n as i64);
            let mut r = Reader::new(&w.0);
            assert_eq!(r.num().unwrap(), n);
            assert_eq!(r.signed().unwrap(), n as i64);
            assert_eq!(r.left(), 0);
        }
        assert!(Reader::new(&[0xff; 11]).num().is_err());
        assert!(Reader::new(&[0xff]).num().is_err());
    }

    #[test]
    fn count_is_bounded_by_what_is_left() {
        let mut w = Writer::default();
        w.num(1 << 40);
        assert!(Reader::new(&w.0).count(1).is_err());
    }
}
