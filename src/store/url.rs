//! The location of a store, as users write it.

use std::{fmt, path::PathBuf, str::FromStr};

use super::{
    error::{Error, Result},
    registry, s3,
    wrap::counters::Tier,
};
use crate::redact;

/// The location of a store. Its `Display` text contains no secrets: suitable for messages, and for comparing stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// `disk:PATH`
    Disk(PathBuf),
    /// `oci-layout:PATH`
    Layout(PathBuf),
    /// `s3://bucket/prefix?…`
    S3(s3::Location),
    /// `oci://host/repo`
    Registry(registry::Location),
    /// `cachectld:SOCKET`, `cachectld+http://host:port` or `cachectld+https://host[:port]`
    Daemon(registry::Location),
}

impl StoreUrl {
    /// The store's tier, for metrics and probes.
    pub fn tier(&self) -> Tier {
        match self {
            Self::Disk(_) | Self::Layout(_) => Tier::Local,
            Self::S3(_) | Self::Registry(_) | Self::Daemon(_) => Tier::Remote,
        }
    }

    /// Returns true if several daemons share it and it stores pieces of uploads (megabytes) as records. Other daemons do not see
    /// this machine's disk, and a registry's records are small manifests.
    pub fn shares_pieces(&self) -> bool {
        match self {
            Self::S3(_) => true,
            Self::Disk(_) | Self::Layout(_) | Self::Registry(_) | Self::Daemon(_) => false,
        }
    }
}

const EXPECTED: &str = "expected disk:PATH, oci-layout:PATH, s3://BUCKET/PREFIX, oci://HOST/REPOSITORY or cachectld:SOCKET";

impl FromStr for StoreUrl {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let refused = |why: String| Error::invalid("open", why).at(&redact::url(s), "");
        let (scheme, rest) = s.split_once(':').unwrap_or(("", s));
        match scheme {
            "disk" => Ok(Self::Disk(path(scheme, rest).map_err(refused)?)),
            "oci-layout" => Ok(Self::Layout(path(scheme, rest).map_err(refused)?)),
            "s3" => s3::Location::parse(s).map(Self::S3),
            "oci" => registry::Location::parse(s).map(Self::Registry),
            "cachectld" | "cachectld+http" | "cachectld+https" => {
                registry::Location::daemon(s).map(Self::Daemon)
            }
            "" if rest.starts_with(['/', '.', '~']) => {
                Err(refused(format!("write a folder as `disk:{rest}`")))
            }
            "" if rest.is_empty() => Err(refused(format!("it is empty; {EXPECTED}"))),
            "http" | "https" => Err(refused(format!(
                "write a bucket of this server as s3://BUCKET/PREFIX?endpoint={scheme}://HOST, and a registry as oci://HOST/REPOSITORY; for a daemon use --daemon {scheme}://HOST:PORT"
            ))),
            "gs" => Err(refused(
                "unsupported store type `gs:`; Google's buckets have an S3-compatible API for HMAC keys: s3://BUCKET/PREFIX?endpoint=https://storage.googleapis.com".to_owned(),
            )),
            _ if is_host_and_path(s) => Err(refused(
                "not a store URL; write a repository of a registry as `oci://HOST/REPOSITORY`".to_owned(),
            )),
            _ if redact::is_scheme(scheme) => Err(refused(format!(
                "unsupported store type `{scheme}:`; {EXPECTED}"
            ))),
            _ => Err(refused(format!(
                "not a store URL{}; {EXPECTED}",
                mistake(scheme, s)
            ))),
        }
    }
}

/// What is wrong with a text that does not begin with a known scheme, if that can be recognized.
fn mistake(scheme: &str, text: &str) -> &'static str {
    if text.starts_with(['"', '\'', '`']) {
        ": the quotation marks around it are part of it"
    } else if text.contains('$') {
        ": it contains a `$`, so a variable in it was not replaced"
    } else if redact::is_scheme(&scheme.to_ascii_lowercase()) {
        ": the part before the `:` must be lower case"
    } else {
        ""
    }
}

/// Returns true if it looks like `ghcr.io/org/cache` or `localhost:5000/cache`, docker's notation for images in a registry.
fn is_host_and_path(text: &str) -> bool {
    let Some((host, path)) = text.split_once('/') else {
        return false;
    };
    let (name, port) = host.split_once(':').unwrap_or((host, "0"));
    let is_name = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-');
    (name.contains('.') || name == "localhost")
        && name.bytes().all(is_name)
        && port.parse::<u16>().is_ok()
        && !path.starts_with('/')
        && !path.contains('@')
}

/// The folder in a URL: `/abs`, `rel`, or `///abs`, which some tools write.
fn path(scheme: &str, rest: &str) -> std::result::Result<PathBuf, String> {
    let path = match rest.strip_prefix("//") {
        Some(abs) if abs.starts_with('/') => abs,
        // A host, which nobody intends.
        Some(_) => {
            return Err(format!(
                "write a folder as `{scheme}:/abs` or `{scheme}:rel`, without `//`"
            ));
        }
        None => rest,
    };
    if path.is_empty() {
        return Err(format!("it names no folder; expected {scheme}:PATH"));
    }
    if path.starts_with('~') {
        return Err("`~` is expanded only by the shell; write the folder's whole path".to_owned());
    }
    Ok(PathBuf::from(path))
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk(path) => write!(f, "disk:{}", path.display()),
            Self::Layout(path) => write!(f, "oci-layout:{}", path.display()),
            Self::Registry(location) | Self::Daemon(location) => location.fmt(f),
            Self::S3(location) => location.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    fn url(s: &str) -> StoreUrl {
        s.parse().unwrap()
    }

    #[test]
    fn urls_are_read_and_shown_without_secrets() {
        for (given, shown) in [
            ("disk:/var/lib/x", "disk:/var/lib/x"),
            ("disk:rel/x", "disk:rel/x"),
            ("disk:///x", "disk:/x"),
            ("oci-layout:/x y", "oci-layout:/x y"),
            (
                "s3://bucket//a/p/?region=eu&endpoint=http://127.0.0.1:9",
                "s3://bucket/a/p?endpoint=http://127.0.0.1:9",
            ),
            ("oci://host:5000/team/repo", "oci://host:5000/team/repo"),
            ("cachectld:/run/x.sock", "cachectld:/run/x.sock"),
            ("cachectld+http://h:5000/", "cachectld+http://h:5000"),
        ] {
            assert_eq!(url(given).to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_url_is_refused_with_what_to_write() {
        for (bad, hint) in [
            ("", "expected disk:PATH"),
            ("/var/lib/x", "disk:/var/lib/x"),
            ("./x", "disk:./x"),
            ("disk:", "names no folder"),
            ("disk://host/x", "without `//`"),
            ("disk:~/x", "whole path"),
            ("http://user:hunter2@host", "?endpoint=http://HOST"),
            ("ghcr.io/org/cache", "`oci://HOST/REPOSITORY`"),
            ("127.0.0.1:5000/cache", "`oci://HOST/REPOSITORY`"),
            ("localhost:5000/cache", "`oci://HOST/REPOSITORY`"),
            ("gs://bucket/x", "s3://BUCKET/PREFIX?endpoint="),
            ("hunter2", "not a store URL;"),
            ("\"s3://bucket/hunter2\"", "quotation marks"),
            ("$STORE_OF_hunter2", "a variable in it was not replaced"),
            ("S3://bucket/hunter2", "lower case"),
            ("KEY:hunter2@bucket", "not a store URL"),
            ("s3://KEY:hunter2@bucket/x", "AWS_ACCESS_KEY_ID"),
            ("s3://KEY:hun/hunter2@bucket/x", "AWS_ACCESS_KEY_ID"),
            ("s3://bucket/p?hunter2", "unknown key"),
            ("oci://me:hunter2@host/repo", "credentials"),
            ("oci://host", "repository"),
            ("s3://", "bucket"),
            ("s3://bucket/p?token=hunter2", "token"),
            ("oci://host/x?hunter2", "did you mean `insecure`?"),
        ] {
            let e = bad.parse::<StoreUrl>().unwrap_err();
            assert_eq!(e.kind, ErrorKind::Invalid);
            assert!(e.to_string().contains(hint), "{e}");
            assert!(!e.to_string().contains("hunter2"), "{e}");
        }
    }
}
