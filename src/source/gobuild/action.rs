//! The action entry of Go's build cache: it names the output of an action.
//!
//! One ASCII line of 175 bytes: `v1 <64 hex action> <64 hex output> <size, 20 columns> <nanoseconds from 1970, 20 columns>\n`,
//! both numbers padded by spaces on the left (`cmd/go/internal/cache/cache.go`, `entrySize` and `get`).

use crate::{digest::Sha256, entry::Time};

/// Bytes of an action entry, always.
pub const ENTRY_LEN: usize = 175;

/// The content of an action entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// The id of the action, which is also the file's name.
    pub id: Sha256,
    /// The SHA-256 of its output.
    pub output: Sha256,
    /// Bytes of the output.
    pub size: u64,
    /// When it was added.
    pub time: Time,
}

impl Action {
    /// Parses an entry whose file is named after `id`.
    ///
    /// As strict as Go's reader, and stricter in these points: hex is in lower case, numbers are digits after spaces, nothing
    /// else.
    ///
    /// # Errors
    /// A message about what is wrong with it.
    pub fn parse(bytes: &[u8], id: Sha256) -> Result<Self, &'static str> {
        let bytes: &[u8; ENTRY_LEN] = bytes.try_into().map_err(|_| "it is not 175 bytes long")?;
        if !bytes.starts_with(b"v1 ")
            || [67, 132, 153].iter().any(|at| bytes[*at] != b' ')
            || bytes[174] != b'\n'
        {
            return Err("it does not have the format of an action entry");
        }
        let own = Sha256::from_hex(&bytes[3..67]).ok_or("its action id is not lower-case hex")?;
        if own != id {
            return Err("its action id does not match its name");
        }
        let output =
            Sha256::from_hex(&bytes[68..132]).ok_or("its output id is not lower-case hex")?;
        let size = number(&bytes[133..153]).ok_or("its size is not a number")?;
        let nanos = number(&bytes[154..174]).ok_or("its time is not a number")?;
        let time = Time::from_nanos(i128::from(nanos)).ok_or("its time is out of range")?;
        Ok(Self {
            id,
            output,
            size,
            time,
        })
    }
}

/// Digits after spaces, in the range of Go's `int64`.
fn number(columns: &[u8]) -> Option<u64> {
    let digits = columns.trim_ascii_start();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    // `trim_ascii_start` also removes tabs and line breaks.
    if columns[..columns.len() - digits.len()]
        .iter()
        .any(|b| *b != b' ')
    {
        return None;
    }
    let n: i64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    u64::try_from(n).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: Sha256, out: Sha256, size: &str, time: &str) -> Vec<u8> {
        format!("v1 {id} {out} {size:>20} {time:>20}\n").into_bytes()
    }

    #[test]
    fn a_line_of_go_is_read() {
        let (id, out) = (Sha256::of(b"action"), Sha256::of(b"output"));
        let bytes = line(id, out, "12345", "1790000000123456789");
        assert_eq!(bytes.len(), ENTRY_LEN);
        let a = Action::parse(&bytes, id).unwrap();
        assert_eq!((a.output, a.size), (out, 12345));
        assert_eq!((a.time.secs, a.time.nanos), (1_790_000_000, 123_456_789));
        assert!(Action::parse(&line(id, out, "0", "0"), id).is_ok());
        assert!(Action::parse(&line(id, out, "0", "9223372036854775807"), id).is_ok());
    }

    #[test]
    fn a_broken_line_is_refused() {
        let (id, out) = (Sha256::of(b"action"), Sha256::of(b"output"));
        let good = line(id, out, "5", "7");
        let mut bad: Vec<Vec<u8>> = vec![
            Vec::new(),
            good[..174].to_vec(),
            [&good[..], b"\n"].concat(),
            line(id, out, "-5", "7"),
            line(id, out, "+5", "7"),
            line(id, out, "5", "-7"),
            line(id, out, "5x", "7"),
            line(id, out, "", "7"),
            line(id, out, "5", "9223372036854775808"),
            line(id, out, "\t5", "7"),
            line(id, out, "5 5", "7"),
            line(out, out, "5", "7"),
            good.to_ascii_uppercase(),
        ];
        for at in [0, 2, 67, 132, 153, 174] {
            let mut b = good.clone();
            b[at] = b'_';
            bad.push(b);
        }
        for b in bad {
            assert!(
                Action::parse(&b, id).is_err(),
                "{}",
                String::from_utf8_lossy(&b)
            );
        }
    }
}
