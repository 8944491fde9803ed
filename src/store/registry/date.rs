//! Dates of HTTP headers: `Date`, `Retry-After` (RFC 9110, "Date/Time Formats").

use std::time::Duration;

use reqwest::header::{DATE, HeaderMap, RETRY_AFTER};

/// Longest wait that we believe a server asks for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Seconds from 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`; `None` for other forms, which servers must not send.
pub(super) fn parse(text: &str) -> Option<i64> {
    let mut words = text.split_once(", ")?.1.split(' ');
    let day: i64 = number(words.next()?, 2)?;
    let month = words.next()?;
    let month = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ]
    .iter()
    .position(|m| *m == month)? as i64
        + 1;
    let year = number(words.next()?, 4)?;
    let mut clock = words.next()?.split(':');
    let mut part = |limit| number(clock.next()?, 2).filter(|n| *n <= limit);
    let (hours, minutes, seconds) = (part(23)?, part(59)?, part(60)?);
    let whole = words.next() == Some("GMT") && words.next().is_none() && clock.next().is_none();
    if !whole || !(1..=31).contains(&day) {
        return None;
    }
    Some(days(year, month, day) * 86_400 + hours * 3600 + minutes * 60 + seconds)
}

fn number(text: &str, digits: usize) -> Option<i64> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_digit()))
        .then(|| text.parse().ok())
        .flatten()
}

/// Days from 1970-01-01 in the Gregorian calendar; years counted from March, so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month = (month + 9) % 12;
    let of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + of_year
        - 719_468
}

/// The server's clock when it answered, in seconds from 1970.
pub(super) fn sent_at(headers: &HeaderMap) -> Option<i64> {
    parse(headers.get(DATE)?.to_str().ok()?)
}

/// How long the server asks us to wait, in seconds or as a date by its own clock; an hour at most.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if let Ok(seconds) = text.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let until = parse(text)?;
        let now = sent_at(headers).unwrap_or_else(|| crate::entry::Time::now().secs);
        Duration::from_secs(u64::try_from(until - now).unwrap_or(0))
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn date_is_seconds_from_1970() {
        // `date -u -d '…' +%s`
        for (text, want) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199),
            ("Fri, 01 Mar 2024 00:00:00 GMT", 1_709_251_200),
        ] {
            assert_eq!(parse(text), Some(want), "{text}");
        }
    }

    #[test]
    fn other_text_is_no_date() {
        for text in [
            "",
            ", ",
            "Sun, 6 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 CET",
            "Sun, 06 Nov 1994 24:49:37 GMT",
            "Sun, 06 Foo 1994 08:49:37 GMT",
            "Sun, 06 Nov +994 08:49:37 GMT",
            "Sun, 00 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1994 08:49:37 GMT x",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn retry_after_takes_seconds_and_dates_and_is_bounded() {
        let wait = |value: &str| {
            let mut h = HeaderMap::new();
            h.insert(DATE, "Sun, 06 Nov 1994 08:49:37 GMT".parse().unwrap());
            h.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&h).map(|d| d.as_secs())
        };
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT"), Some(23));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(wait("99999999999"), Some(3600));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
    }
}
