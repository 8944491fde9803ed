//! Times as Go writes them in JSON: RFC 3339 with up to nine fractional digits.

use ::time::{OffsetDateTime, format_description::well_known::Rfc3339};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::entry::Time;

/// Go's zero time, which BuildKit writes for an unknown time: `0001-01-01T00:00:00Z`.
pub(super) const ZERO: Time = Time {
    secs: -62_135_596_800,
    nanos: 0,
};
/// 0000-01-01T00:00:00Z.
const FIRST: i64 = -62_167_219_200;
/// 10000-01-01T00:00:00Z.
const END: i64 = 253_402_300_800;

/// A [`Time`] in a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp(pub(super) Time);

impl Default for Stamp {
    fn default() -> Self {
        Self(ZERO)
    }
}

impl Serialize for Stamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format(self.0))
    }
}

impl<'de> Deserialize<'de> for Stamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        parse(&text).map(Self).ok_or_else(|| {
            let start: String = text.chars().take(60).collect();
            D::Error::custom(format!("`{start}` is not an RFC 3339 time"))
        })
    }
}

/// Parses `text`, in any zone; `None` unless the year is 0000 to 9999 in UTC: only these can be written.
pub(super) fn parse(text: &str) -> Option<Time> {
    // Go requires the `T`, and accepts no leap second.
    let is_strict = text.get(10..11) == Some("T") && text.get(17..19) != Some("60");
    let read = OffsetDateTime::parse(text, &Rfc3339).ok();
    let read = read.filter(|_| is_strict)?;
    let time = Time {
        secs: read.unix_timestamp(),
        nanos: read.nanosecond(),
    };
    fits(time).then_some(time)
}

/// Returns true if the time can be written: RFC 3339 has years of four digits.
pub(super) fn fits(time: Time) -> bool {
    (FIRST..END).contains(&time.secs)
}

/// The time in UTC, without trailing zeros of the second, as Go writes it.
///
/// Only for times that [`fits`] accepts.
pub(super) fn format(time: Time) -> String {
    let whole = OffsetDateTime::from_unix_timestamp(time.secs).ok();
    let at = whole.and_then(|at| at.replace_nanosecond(time.nanos).ok());
    let text = at.and_then(|at| at.format(&Rfc3339).ok());
    text.expect("every year of four digits can be written")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_of_go_are_read_and_written_as_go_writes_them() {
        for (text, again) in [
            (
                "2026-11-23T04:02:08.085920229Z",
                "2026-11-23T04:02:08.085920229Z",
            ),
            ("2026-11-23T04:02:08.500000000Z", "2026-11-23T04:02:08.5Z"),
            ("2026-11-23T00:30:00+01:00", "2026-11-22T23:30:00Z"),
            ("2024-02-29T23:59:59-00:30", "2024-03-01T00:29:59Z"),
            ("1969-12-31T23:59:59.9Z", "1969-12-31T23:59:59.9Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
        ] {
            assert_eq!(format(parse(text).unwrap()), again, "{text}");
        }
        assert_eq!(parse("0001-01-01T00:00:00Z"), Some(ZERO));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "T",
            "2026-11-23",
            "2026-11-23T04:02:08",
            "2026-11-23 04:02:08Z",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-01T00:00:00Z",
            "2026-01-00T00:00:00Z",
            "2026-01-01T24:00:00Z",
            "2026-01-01T00:00:60Z",
            "2026-01-01T00:00:00.Z",
            "2026-01-01T00:00:00.1xZ",
            "2026-01-01T00:00:00+0100",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00:00Zx",
            "+026-01-01T00:00:00Z",
            "9999-12-31T23:59:59-01:00",
            "0000-01-01T00:00:00+01:00",
            "2026-01-01T00:00:00é",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_moment_of_ten_thousand_years_round_trips(secs in FIRST..END, nanos in 0_u32..1_000_000_000) {
            let time = Time { secs, nanos };
            prop_assert_eq!(parse(&format(time)), Some(time));
        }
    }
}
