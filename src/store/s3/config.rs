//! Settings of an S3 store, in the configuration file or in its URL.

use crate::store::error::{Error, Result};

/// Part size, from which on uploads use parts: larger blobs are sent in parts, smaller ones in one request.
const PART_BYTES: u64 = 16 << 20;
/// Concurrent parts of one blob.
const PART_CONCURRENCY: usize = 8;
/// S3's own limits for a part (S3 user guide, "Amazon S3 multipart upload limits").
const PART_BYTES_RANGE: std::ops::RangeInclusive<u64> = (5 << 20)..=(5 << 30);
/// More connections for one blob only compete with each other.
const PART_CONCURRENCY_RANGE: std::ops::RangeInclusive<usize> = 1..=64;

/// Settings of an S3 store; each may also be in the store's URL, which takes precedence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// Region of the bucket; default: the AWS chain's (`AWS_REGION`, profile, instance), `us-east-1` at other endpoints.
    pub region: Option<String>,
    /// `http(s)://host[:port]` of a store that is not AWS's; default: AWS, or `AWS_ENDPOINT_URL_S3`.
    pub endpoint: Option<String>,
    /// Whether the bucket is in the path instead of the host name; default: yes at endpoints other than AWS's.
    pub path_style: Option<bool>,
    /// Whether requests are sent unsigned, without credentials; default: no.
    pub anonymous: Option<bool>,
    /// Encryption by the server; default: the bucket's.
    pub sse: Option<Sse>,
    /// Key of the key service, with `sse = "aws:kms"`; default: the account's key for S3.
    pub sse_kms_key_id: Option<String>,
    /// Storage class of blobs, as the store names it (`STANDARD_IA`, `INTELLIGENT_TIERING` …); default: the bucket's.
    ///
    /// Tags and records keep the bucket's: cheap classes charge small objects for 128 KiB.
    pub storage_class: Option<String>,
    /// Canned ACL of everything written (`bucket-owner-full-control` …); default: none sent.
    pub acl: Option<String>,
    /// When uploads carry a checksum for the server to check; default `auto`.
    pub checksum: Option<Checksum>,
    /// Size of a part, 5 MiB to 5 GiB; default 16 MiB, more if a blob would need over 10,000 parts.
    pub part_bytes: Option<u64>,
    /// Concurrent parts of one blob, 1 to 64; default 8.
    pub part_concurrency: Option<usize>,
}

/// Encryption by the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sse {
    /// With keys managed by the store.
    Aes256,
    /// With a key of the key service.
    AwsKms,
}

/// When uploads carry a checksum for the server to check.
///
/// Many stores other than AWS's refuse them or fail (reference/oci-and-s3.md §4.4); readers check digests in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// At AWS's own endpoints.
    Auto,
    /// At every endpoint.
    Always,
    /// Only if S3 requires it.
    Never,
}

impl Sse {
    /// All values, as they are written.
    pub const WORDS: [(&'static str, Self); 2] =
        [("AES256", Self::Aes256), ("aws:kms", Self::AwsKms)];
}

impl Checksum {
    /// All values, as they are written.
    pub const WORDS: [(&'static str, Self); 3] = [
        ("auto", Self::Auto),
        ("always", Self::Always),
        ("never", Self::Never),
    ];
}

impl Config {
    /// These settings, overridden by those set in `over`.
    #[must_use]
    pub fn overridden_by(self, over: &Self) -> Self {
        let over = over.clone();
        Self {
            region: over.region.or(self.region),
            endpoint: over.endpoint.or(self.endpoint),
            path_style: over.path_style.or(self.path_style),
            anonymous: over.anonymous.or(self.anonymous),
            sse: over.sse.or(self.sse),
            sse_kms_key_id: over.sse_kms_key_id.or(self.sse_kms_key_id),
            storage_class: over.storage_class.or(self.storage_class),
            acl: over.acl.or(self.acl),
            checksum: over.checksum.or(self.checksum),
            part_bytes: over.part_bytes.or(self.part_bytes),
            part_concurrency: over.part_concurrency.or(self.part_concurrency),
        }
    }

    /// Checks what does not require a server.
    pub(super) fn check(&self) -> Result<()> {
        let refused = |why: String| Err(Error::invalid("open", why));
        if let Some(endpoint) = &self.endpoint {
            check_endpoint(endpoint)?;
        }
        if self.sse_kms_key_id.is_some() && self.sse != Some(Sse::AwsKms) {
            return refused("`sse_kms_key_id` needs `sse=aws:kms`".to_owned());
        }
        if !PART_BYTES_RANGE.contains(&self.part_bytes()) {
            return refused(format!(
                "`part_bytes` is {}; S3 accepts parts of 5 MiB to 5 GiB",
                self.part_bytes()
            ));
        }
        if !PART_CONCURRENCY_RANGE.contains(&self.part_concurrency()) {
            return refused(format!(
                "`part_concurrency` is {}; it may be 1 to 64",
                self.part_concurrency()
            ));
        }
        Ok(())
    }

    pub(super) fn part_bytes(&self) -> u64 {
        self.part_bytes.unwrap_or(PART_BYTES)
    }

    pub(super) fn part_concurrency(&self) -> usize {
        self.part_concurrency.unwrap_or(PART_CONCURRENCY)
    }

    pub(super) fn anonymous(&self) -> bool {
        self.anonymous.unwrap_or(false)
    }

    pub(super) fn checksum(&self) -> Checksum {
        self.checksum.unwrap_or(Checksum::Auto)
    }
}

fn check_endpoint(endpoint: &str) -> Result<()> {
    let shown = crate::redact::url(endpoint);
    let refused = |why: &str| Err(Error::invalid("open", format!("endpoint `{shown}` {why}")));
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return refused("has no scheme; write `http://…` or `https://…`");
    };
    if scheme != "http" && scheme != "https" {
        return refused("must start with `http://` or `https://`");
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // An unencoded password may contain a `/`.
    if rest.contains('@') {
        return refused(
            "contains a user name; credentials are read from the AWS chain (`AWS_ACCESS_KEY_ID` …)",
        );
    }
    let host_is_right = |b: u8| b.is_ascii_alphanumeric() || b".-_:[]".contains(&b);
    if authority.is_empty() || authority.starts_with(':') || !authority.bytes().all(host_is_right) {
        return refused("has no valid host");
    }
    if rest.contains(['?', '#']) {
        return refused("must end after host and path");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::ErrorKind;

    #[test]
    fn senseless_settings_are_refused() {
        let with = |change: fn(&mut Config)| {
            let mut c = Config::default();
            change(&mut c);
            c.check().map_err(|e| e.kind)
        };
        assert_eq!(with(|_| ()), Ok(()));
        for bad in [
            |c: &mut Config| c.part_bytes = Some(1 << 20),
            |c: &mut Config| c.part_bytes = Some(6 << 30),
            |c: &mut Config| c.part_concurrency = Some(0),
            |c: &mut Config| c.sse_kms_key_id = Some("k".into()),
            |c: &mut Config| c.endpoint = Some("127.0.0.1:9000".into()),
            |c: &mut Config| c.endpoint = Some("ftp://x".into()),
            |c: &mut Config| c.endpoint = Some("http://".into()),
            |c: &mut Config| c.endpoint = Some("http://a b".into()),
            |c: &mut Config| c.endpoint = Some("http://u:p@host".into()),
        ] {
            assert_eq!(with(bad), Err(ErrorKind::Invalid));
        }
    }

    #[test]
    fn endpoint_with_a_password_is_refused_without_showing_it() {
        let e = check_endpoint("https://user:hunter2@host").unwrap_err();
        assert!(!e.to_string().contains("hunter2"), "{e}");
    }
}
