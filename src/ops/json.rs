//! How fields of reports look in `--json`, where that differs from serde's default.

use std::time::Duration;

use serde::{Serialize, Serializer, ser::Error as _};
use serde_json::Value;

use crate::entry::Time;

/// Whole milliseconds.
pub fn ms(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as RFC 3339, in UTC with seconds; `None` for one that RFC 3339 cannot express.
pub fn rfc3339(t: Option<Time>) -> Option<String> {
    let t = t?;
    let since = Duration::from_secs(u64::try_from(t.secs).ok()?);
    // The year 9999 is the last that RFC 3339 knows.
    let at = std::time::UNIX_EPOCH.checked_add(since)?;
    (t.secs < 253_402_300_800).then(|| humantime::format_rfc3339_seconds(at).to_string())
}

/// [`ms`] of a field.
pub fn millis<S: Serializer>(d: &Duration, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_u64(ms(*d))
}

/// [`rfc3339`] of a field.
#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(super) fn moment<S: Serializer>(t: &Option<Time>, to: S) -> Result<S::Ok, S::Error> {
    rfc3339(*t).serialize(to)
}

/// Pairs of name and value as one object.
pub(super) fn object<S: Serializer>(pairs: &[(String, String)], to: S) -> Result<S::Ok, S::Error> {
    to.collect_map(pairs.iter().map(|(name, value)| (name, value)))
}

/// All fields of a flattened struct, `null` if it is absent.
#[expect(clippy::ref_option, reason = "serde passes fields by reference")]
pub(super) fn or_nulls<T, S>(value: &Option<T>, to: S) -> Result<S::Ok, S::Error>
where
    T: Serialize + Default,
    S: Serializer,
{
    if let Some(value) = value {
        return value.serialize(to);
    }
    let fields = serde_json::to_value(T::default()).map_err(S::Error::custom)?;
    let names = fields.as_object().into_iter().flat_map(|all| all.keys());
    to.collect_map(names.map(|name| (name, Value::Null)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_rfc3339_or_null() {
        let at = |secs| rfc3339(Some(Time { secs, nanos: 5 }));
        assert_eq!(at(0).as_deref(), Some("1970-01-01T00:00:00Z"));
        assert_eq!(at(253_402_300_799).as_deref(), Some("9999-12-31T23:59:59Z"));
        assert_eq!(at(253_402_300_800), None);
        assert_eq!(at(i64::MAX), None);
        assert_eq!(at(-1), None);
        assert_eq!(rfc3339(None), None);
    }

    #[test]
    fn what_is_not_there_has_all_its_fields_without_values() {
        #[derive(Serialize)]
        struct Row {
            #[serde(flatten, serialize_with = "or_nulls")]
            inner: Option<Inner>,
        }
        #[derive(Default, Serialize)]
        struct Inner {
            a: u64,
            b: String,
        }
        let json = |inner| serde_json::to_string(&Row { inner }).unwrap();
        assert_eq!(json(None), r#"{"a":null,"b":null}"#);
        let inner = Inner {
            a: 1,
            b: "x".into(),
        };
        assert_eq!(json(Some(inner)), r#"{"a":1,"b":"x"}"#);
    }
}
