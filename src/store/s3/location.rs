//! `s3://bucket/prefix?key=value&…`: the bucket, the prefix in it, and settings.

use std::fmt;

use super::config::{Checksum, Config, Sse};
use crate::{
    redact,
    store::error::{Error, Result},
};

/// Longest prefix: a key has 1,024 bytes, and ours take up to 540 below the prefix.
const MAX_PREFIX_BYTES: usize = 480;
/// Keys of the query: the fields of [`Config`].
const KEYS: [&str; 11] = [
    "region",
    "endpoint",
    "path_style",
    "anonymous",
    "sse",
    "sse_kms_key_id",
    "storage_class",
    "acl",
    "checksum",
    "part_bytes",
    "part_concurrency",
];

/// A parsed URL of an S3 store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// Name of the bucket.
    pub bucket: String,
    /// Segments joined by `/`, without one at either end; empty for the bucket's root.
    pub prefix: String,
    /// Settings in the query.
    pub settings: Config,
}

impl Location {
    /// Parses `s3://bucket[/prefix][?key=value&…]`. Values may be percent-encoded; the prefix is used literally, with repeated
    /// and trailing slashes dropped.
    ///
    /// # Errors
    /// `Invalid` for another scheme, an invalid bucket or prefix, and an unknown or repeated key.
    pub fn parse(url: &str) -> Result<Self> {
        let refused = |why: String| Error::invalid("open", why).at(&redact::url(url), "");
        let rest = url.strip_prefix("s3://").ok_or_else(|| {
            refused("an S3 URL is `s3://bucket/prefix?region=…&endpoint=…`".to_owned())
        })?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        check_bucket(bucket).map_err(refused)?;
        let prefix = normalise(prefix).map_err(refused)?;
        let settings = parse_query(query).map_err(refused)?;
        settings.check().map_err(|e| refused(e.message))?;
        Ok(Self {
            bucket: bucket.to_owned(),
            prefix,
            settings,
        })
    }
}

impl Location {
    /// Returns true if `key` is valid in the query.
    pub fn takes(key: &str) -> bool {
        KEYS.contains(&key)
    }
}

impl fmt::Display for Location {
    /// The URL without secrets and detailed settings: suitable for messages.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}", self.bucket)?;
        if !self.prefix.is_empty() {
            write!(f, "/{}", self.prefix)?;
        }
        if let Some(endpoint) = &self.settings.endpoint {
            write!(f, "?endpoint={endpoint}")?;
        }
        Ok(())
    }
}

/// AWS's rule is stricter; old buckets and other stores use capitals, underscores and longer names.
fn check_bucket(bucket: &str) -> std::result::Result<(), String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
    let ends_plain = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric());
    let right = (3..=255).contains(&bucket.len())
        && bucket.bytes().all(plain)
        && ends_plain(bucket.bytes().next())
        && ends_plain(bucket.bytes().last())
        && !bucket.contains("..");
    if right {
        Ok(())
    } else if redact::decoded(bucket).contains(['@', ':']) {
        Err("contains credentials or a port; set credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a profile, and the server in `endpoint`".to_owned())
    } else if bucket.is_empty() {
        Err("has no bucket; an S3 URL is `s3://bucket/prefix`".to_owned())
    } else {
        Err(format!(
            "`{}` is not a bucket's name: expected 3 or more letters, digits, `-`, `_`, `.`",
            bucket.chars().take(80).collect::<String>()
        ))
    }
}

fn normalise(prefix: &str) -> std::result::Result<String, String> {
    let segments: Vec<&str> = prefix.split('/').filter(|s| !s.is_empty()).collect();
    // HTTP clients and proxies resolve these, so that the key differs from the signed one.
    if segments.iter().any(|s| matches!(*s, "." | "..")) {
        return Err("its prefix has a `.` or `..` segment; name the folder itself".to_owned());
    }
    let joined = segments.join("/");
    if joined.chars().any(char::is_control) {
        return Err("its prefix has control characters".to_owned());
    }
    if joined.len() > MAX_PREFIX_BYTES {
        return Err(format!(
            "its prefix has {} bytes; at most {MAX_PREFIX_BYTES} leave room for keys",
            joined.len()
        ));
    }
    Ok(joined)
}

fn parse_query(query: &str) -> std::result::Result<Config, String> {
    let mut config = Config::default();
    let mut seen = Vec::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if seen.contains(&key) {
            return Err(format!("it has `{}` twice", shown(key)));
        }
        seen.push(key);
        let value = decode(value)
            .ok_or_else(|| format!("the value of `{}` is badly encoded", shown(key)))?;
        if KEYS.contains(&key) && value.is_empty() {
            return Err(format!("`{key}` has no value"));
        }
        set(&mut config, key, value)?;
    }
    Ok(config)
}

fn set(config: &mut Config, key: &str, value: String) -> std::result::Result<(), String> {
    match key {
        "region" => config.region = Some(value),
        "endpoint" => config.endpoint = Some(value),
        "path_style" => config.path_style = Some(switch(key, &value)?),
        "anonymous" => config.anonymous = Some(switch(key, &value)?),
        "sse" => config.sse = Some(choice(key, &value, &Sse::WORDS)?),
        "sse_kms_key_id" => config.sse_kms_key_id = Some(value),
        "storage_class" => config.storage_class = Some(value),
        "acl" => config.acl = Some(value),
        "checksum" => config.checksum = Some(choice(key, &value, &Checksum::WORDS)?),
        "part_bytes" => {
            let size: bytesize::ByteSize = value
                .parse()
                .map_err(|e| format!("`part_bytes` is not a size (`32MiB`): {e}"))?;
            config.part_bytes = Some(size.as_u64());
        }
        "part_concurrency" => {
            config.part_concurrency = Some(
                value
                    .parse()
                    .map_err(|e| format!("`part_concurrency` is not a count: {e}"))?,
            );
        }
        _ => {
            let nearest = nearest(key);
            return Err(format!(
                "unknown key `{}`; did you mean `{nearest}`?",
                shown(key)
            ));
        }
    }
    Ok(())
}

/// A key as written, if it looks like one: anything else may be a secret.
fn shown(key: &str) -> &str {
    let is_key = key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    if is_key && key.len() <= 40 {
        key
    } else {
        "…"
    }
}

fn choice<T: Copy>(key: &str, value: &str, words: &[(&str, T)]) -> std::result::Result<T, String> {
    let found = words.iter().find(|(word, _)| *word == value);
    found.map(|(_, it)| *it).ok_or_else(|| {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("`{word}`")).collect();
        let shown = redact::value(value);
        format!("`{key}` is `{shown}`; it may be {}", all.join(" or "))
    })
}

fn switch(key: &str, value: &str) -> std::result::Result<bool, String> {
    match value {
        "true" | "1" | "yes" => Ok(true),
        "false" | "0" | "no" => Ok(false),
        _ => Err(format!(
            "`{key}` is `{}`; it may be `true` or `false`",
            redact::value(value)
        )),
    }
}

/// Decodes `%XX`; a `+` is kept, since these are not form fields.
fn decode(value: &str) -> Option<String> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        if b == b'%' {
            let (hex, tail) = tail.split_at_checked(2)?;
            let mut byte = [0];
            const_hex::decode_to_slice(hex, &mut byte).ok()?;
            out.push(byte[0]);
            rest = tail;
        } else {
            out.push(b);
            rest = tail;
        }
    }
    let text = String::from_utf8(out).ok()?;
    (!text.chars().any(char::is_control)).then_some(text)
}

/// The key with the fewest edits to `wrong`.
fn nearest(wrong: &str) -> &'static str {
    // Limits the work on malicious input; all keys are shorter.
    let wrong: Vec<char> = wrong.to_lowercase().chars().take(32).collect();
    KEYS.into_iter()
        .min_by_key(|key| edits(&wrong, key))
        .expect("the list of keys is not empty")
}

/// Levenshtein distance.
fn edits(a: &[char], b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.chars().enumerate() {
            let replaced = diagonal + usize::from(*x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(a.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn url_with_everything_is_taken_apart() {
        let l = Location::parse(
            "s3://ci-cache/a//b/?region=eu-west-1&endpoint=http%3A%2F%2F127.0.0.1:9000&path_style=true\
             &sse=aws:kms&sse_kms_key_id=k&storage_class=STANDARD_IA&acl=private&checksum=never\
             &part_bytes=32MiB&part_concurrency=4&anonymous=false",
        )
        .unwrap();
        assert_eq!((l.bucket.as_str(), l.prefix.as_str()), ("ci-cache", "a/b"));
        let s = &l.settings;
        assert_eq!(s.endpoint.as_deref(), Some("http://127.0.0.1:9000"));
        assert_eq!(
            (s.part_bytes, s.part_concurrency, s.sse),
            (Some(32 << 20), Some(4), Some(Sse::AwsKms))
        );
        assert_eq!(
            l.to_string(),
            "s3://ci-cache/a/b?endpoint=http://127.0.0.1:9000"
        );
    }

    #[test]
    fn bucket_alone_is_enough() {
        let l = Location::parse("s3://my.bucket").unwrap();
        assert_eq!((l.bucket.as_str(), l.prefix.as_str()), ("my.bucket", ""));
        assert_eq!(l.settings, Config::default());
    }

    #[test]
    fn senseless_urls_are_refused() {
        for bad in [
            "",
            "s3:bucket",
            "s3://",
            "s3:///prefix",
            "s3://ab",
            "s3://a..b",
            "s3://-ab",
            "s3://bucket/../x",
            "s3://bucket/a/./b",
            "s3://bucket/a\nb",
            "s3://u:p@bucket/x",
            "s3://bucket?region",
            "s3://bucket?region=a&region=b",
            "s3://bucket?path_style=maybe",
            "s3://bucket?part_bytes=1KiB",
            "s3://bucket?part_bytes=x",
            "s3://bucket?endpoint=host:9000",
            "s3://bucket?region=%zz",
            "s3://bucket?region=%0a",
            &format!("s3://bucket/{}", "a".repeat(500)),
        ] {
            let e = Location::parse(bad).unwrap_err();
            assert_eq!(e.kind, ErrorKind::Invalid, "{bad}");
        }
    }

    #[test]
    fn unknown_key_is_answered_with_the_nearest() {
        for (wrong, right) in [
            ("regoin", "region"),
            ("pathstyle", "path_style"),
            ("Endpoint", "endpoint"),
            ("kms_key_id", "sse_kms_key_id"),
        ] {
            let e = Location::parse(&format!("s3://bucket?{wrong}=x")).unwrap_err();
            assert!(e.message.contains(&format!("`{right}`")), "{e}");
        }
    }

    #[test]
    fn keys_of_the_query_are_the_settings_of_s3() {
        let all = crate::config::keys::KEYS.iter();
        let mut settings: Vec<&str> = all.filter_map(|k| k.name.strip_prefix("s3.")).collect();
        let mut keys = KEYS;
        settings.sort_unstable();
        keys.sort_unstable();
        assert_eq!(settings, keys);
    }
}
