//! Moments as Go writes them in JSON: RFC 3339 with up to nine digits of a second.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

use crate::entry::Time;

/// Go's zero time, what BuildKit writes where it knows none: `0001-01-01T00:00:00Z`.
pub(super) const ZERO: Time = Time {
    secs: -62_135_596_800,
    nanos: 0,
};
/// 0000-01-01T00:00:00Z.
const FIRST: i64 = -62_167_219_200;
/// 10000-01-01T00:00:00Z.
const END: i64 = 253_402_300_800;
const DAY: i64 = 86_400;

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
            D::Error::custom(format!("`{start}` is no RFC 3339 time"))
        })
    }
}

/// The moment that `text` says, in any zone; `None` unless it is of the years 0000 to 9999 in UTC, which alone can be written.
pub(super) fn parse(text: &str) -> Option<Time> {
    let (day, rest) = text.split_once('T')?;
    let clock_len = rest.find(['Z', '+', '-'])?;
    let (clock, zone) = rest.split_at(clock_len);
    let mut ymd = day.split('-');
    let (year, month, day) = (
        number(ymd.next()?, 4)?,
        number(ymd.next()?, 2)?,
        number(ymd.next()?, 2)?,
    );
    let valid = ymd.next().is_none()
        && (1..=12).contains(&month)
        && (1..=days_in(year, month)).contains(&day);
    let (clock, fraction) = match clock.split_once('.') {
        Some((clock, fraction)) => (clock, nanos(fraction)?),
        None => (clock, 0),
    };
    let mut hms = clock.split(':');
    let (hour, minute, second) = (
        number(hms.next()?, 2)?,
        number(hms.next()?, 2)?,
        number(hms.next()?, 2)?,
    );
    if !valid || hms.next().is_some() || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let secs = days(year, month, day) * DAY + hour * 3600 + minute * 60 + second - offset(zone)?;
    let time = Time {
        secs,
        nanos: fraction,
    };
    fits(time).then_some(time)
}

/// Says whether the moment can be written: RFC 3339 has years of four digits.
pub(super) fn fits(time: Time) -> bool {
    (FIRST..END).contains(&time.secs)
}

/// The moment in UTC, without trailing zeros of the second: what Go writes.
///
/// Only for what [`fits`].
pub(super) fn format(time: Time) -> String {
    let (year, month, day) = civil(time.secs.div_euclid(DAY));
    let of_day = time.secs.rem_euclid(DAY);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if time.nanos > 0 {
        let fraction = format!(".{:09}", time.nanos);
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// Exactly so many digits.
fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// Digits behind the point, those after the ninth ignored as Go does.
fn nanos(fraction: &str) -> Option<u32> {
    let digits = fraction.bytes().all(|b| b.is_ascii_digit());
    (digits && !fraction.is_empty()).then(|| {
        let known = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
        known.fold(0, |n, b| n * 10 + u32::from(b - b'0'))
    })
}

/// Seconds that a zone is ahead of UTC.
fn offset(zone: &str) -> Option<i64> {
    if zone == "Z" {
        return Some(0);
    }
    let sign = if zone.starts_with('-') { -1 } else { 1 };
    let (hours, minutes) = zone.get(1..)?.split_once(':')?;
    let (hours, minutes) = (number(hours, 2)?, number(minutes, 2)?);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
}

fn days_in(year: i64, month: i64) -> i64 {
    let (next_year, next_month) = if month == 12 {
        (year + 1, 1)
    } else {
        (year, month + 1)
    };
    days(next_year, next_month, 1) - days(year, month, 1)
}

/// Days from 1970-01-01 in the Gregorian calendar; years counted from March, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

/// Year, month and day of so many days from 1970-01-01: the inverse of [`days`].
fn civil(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, of_month)
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
