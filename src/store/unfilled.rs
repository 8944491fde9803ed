//! Empty parts of a store's URL: a CI system leaves them when an expression has no value, such as a secret that is not
//! available to the job.

use super::{StoreUrl, registry, s3};

/// Placeholder for an empty part; a bucket has at least three characters.
const FILLED: &str = "xxx";

/// The empty parts of `url`, as text, if the URL would be valid with something in their place. `None` for every other mistake.
pub fn part(url: &str) -> Option<String> {
    if url.is_empty() {
        return Some("the store's URL".to_owned());
    }
    let (scheme, rest) = url.split_once(':')?;
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let mut empty = Vec::new();
    let place = match scheme {
        "disk" | "oci-layout" | "cachectld" => path(place, &mut empty),
        "s3" => bucket(place.strip_prefix("//")?, &mut empty),
        _ => repository(place.strip_prefix("//")?, scheme == "oci", &mut empty),
    };
    let query = values(scheme, query, &mut empty);
    let filled = format!("{scheme}:{place}?{}", query.join("&"));
    let filled = filled.strip_suffix('?').unwrap_or(&filled);
    (!empty.is_empty() && filled.parse::<StoreUrl>().is_ok()).then(|| empty.join(" and "))
}

/// Returns true if a server's URL has no host.
pub fn lacks_a_host(url: &str) -> bool {
    url.split_once("://")
        .is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with([':', '/']))
}

fn path(path: &str, empty: &mut Vec<String>) -> String {
    if !path.is_empty() {
        return path.to_owned();
    }
    empty.push("its path".to_owned());
    FILLED.to_owned()
}

/// The prefix after the bucket may be empty, with or without slashes.
fn bucket(path: &str, empty: &mut Vec<String>) -> String {
    let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
    format!("//{}/{prefix}", name("the bucket", bucket, empty))
}

fn repository(path: &str, has_path: bool, empty: &mut Vec<String>) -> String {
    let mut parts = path.trim_end_matches('/').split('/');
    let host = parts.next().unwrap_or_default();
    let mut filled = match host.strip_prefix(':') {
        Some(port) => format!("//{}:{port}", name("the host", "", empty)),
        None => format!("//{}", name("the host", host, empty)),
    };
    let mut parts = parts.peekable();
    if has_path && parts.peek().is_none() {
        empty.push("the repository".to_owned());
        return format!("{filled}/{FILLED}");
    }
    for part in parts {
        filled.push('/');
        filled.push_str(&name("a part of the repository", part, empty));
    }
    filled
}

/// A name with the empty parts filled in: all of it, or the part before or after a separator.
fn name(what: &str, text: &str, empty: &mut Vec<String>) -> String {
    let is_separator = |c: char| matches!(c, '-' | '_' | '.');
    let (lacks_start, lacks_end) = (
        text.starts_with(is_separator),
        text.ends_with(is_separator) || text.is_empty(),
    );
    if lacks_start || lacks_end {
        let what = if text.is_empty() {
            what.to_owned()
        } else {
            format!("the start or end of {what}")
        };
        empty.push(what);
    }
    let fill = |lacks: bool| if lacks { FILLED } else { "" };
    format!("{}{text}{}", fill(lacks_start), fill(lacks_end))
}

/// The query, without keys that have no value.
fn values<'a>(scheme: &str, query: &'a str, empty: &mut Vec<String>) -> Vec<&'a str> {
    let takes = |key: &str| match scheme {
        "s3" => s3::Location::takes(key),
        _ => registry::Location::takes(key),
    };
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some((key, value)) if takes(key) && value.is_empty() => empty.push(format!("`{key}`")),
            Some(("endpoint", value)) if lacks_a_host(value) => {
                empty.push("the host of `endpoint`".to_owned());
            }
            _ => kept.push(pair),
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_empty_expression_leaves_is_named() {
        for (url, what) in [
            ("", "the store's URL"),
            ("s3://", "the bucket"),
            ("s3:///ci", "the bucket"),
            ("s3://-ci/x", "the start or end of the bucket"),
            ("s3://bucket/ci?region=", "`region`"),
            (
                "s3:///ci?region=&endpoint=http://h",
                "the bucket and `region`",
            ),
            (
                "s3://bucket/ci/?endpoint=https://",
                "the host of `endpoint`",
            ),
            (
                "s3://bucket/?endpoint=http://:9000&part_bytes=",
                "the host of `endpoint` and `part_bytes`",
            ),
            (
                "s3://bucket?sse=&sse_kms_key_id=",
                "`sse` and `sse_kms_key_id`",
            ),
            ("oci:///team/cache", "the host"),
            ("oci://:5000/cache", "the host"),
            ("oci://ghcr.io", "the repository"),
            ("oci://ghcr.io/", "the repository"),
            ("oci://ghcr.io//cache", "a part of the repository"),
            (
                "oci://ghcr.io/-cache",
                "the start or end of a part of the repository",
            ),
            ("oci://ghcr.io/team/cache?insecure=", "`insecure`"),
            ("disk:", "its path"),
            ("cachectld:", "its path"),
            ("cachectld+http://:5000", "the host"),
            ("cachectld+https://", "the host"),
        ] {
            assert_eq!(part(url).as_deref(), Some(what), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_otherwise_too_or_not_at_all_lacks_nothing() {
        for url in [
            "s3://bucket/ci/?region=eu-west-1",
            "s3://bucket/ci/?regoin=x",
            "s3://bucket/ci/?regoin=",
            "s3:///ci?regoin=",
            "s3:///ci?part_bytes=1KiB",
            "s3://bucket/ci/?path_style=maybe&region=",
            "s3://bucket?endpoint=h:9000&region=",
            "s3://u:p@/x",
            "oci://ghcr.io//cache:latest",
            "oci://me:p@/cache",
            "oci:/ghcr.io/",
            "gs://",
            "ftp:",
            "bucket/",
            "disk://host",
            "cachectld+http://h",
        ] {
            assert_eq!(part(url), None, "{url}");
        }
    }
}
