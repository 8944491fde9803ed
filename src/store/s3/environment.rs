//! What the SDK finds in the environment and in `~/.aws`: often intended for other programs, or set from a CI system's secrets
//! with a trailing line end, or empty. It must never end a build.

use aws_config::{Region, SdkConfig};
use aws_credential_types::provider::{error::CredentialsError, future};
use aws_sdk_s3::config::{Builder, Credentials, ProvideCredentials, SharedCredentialsProvider};

use super::config::Config;
use crate::store::error::Error;

/// The operation that failed, if neither a URL nor a setting of ours caused it.
const OP: &str = "configure the client";

/// Settings of the client as found by the SDK, without surrounding white space.
pub(super) fn settings(sdk: &SdkConfig) -> Builder {
    let mut s3 = Builder::from(sdk);
    if let Some(region) = sdk.region() {
        s3 = s3.region(Region::new(region.as_ref().trim().to_owned()));
    }
    if let Some(provider) = sdk.credentials_provider() {
        s3 = s3.credentials_provider(Sendable(provider));
    }
    s3
}

/// Credentials that requests can carry: with others the SDK panics when it signs.
#[derive(Debug)]
struct Sendable(SharedCredentialsProvider);

impl ProvideCredentials for Sendable {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { sendable(self.0.provide_credentials().await?) })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        sendable(self.0.fallback_on_interrupt()?).ok()
    }
}

/// The same without surrounding white space; refused if they contain characters that headers cannot contain. The secret itself
/// is not sent.
fn sendable(given: Credentials) -> Result<Credentials, CredentialsError> {
    let id = given.access_key_id().trim();
    let secret = given.secret_access_key().trim();
    let session = given.session_token().map(str::trim);
    let mut sent = id.chars().chain(session.unwrap_or_default().chars());
    if sent.any(|c| !matches!(c, ' '..='~')) {
        return Err(CredentialsError::invalid_configuration(
            "the access key or session token contains characters that are invalid in a header (AWS_ACCESS_KEY_ID, AWS_SESSION_TOKEN or the profile)",
        ));
    }
    let is_unchanged = id == given.access_key_id()
        && secret == given.secret_access_key()
        && session == given.session_token();
    if is_unchanged {
        return Ok(given);
    }
    let session = session.map(str::to_owned);
    Ok(Credentials::new(
        id,
        secret,
        session,
        given.expiry(),
        "trimmed",
    ))
}

pub(super) fn no_region() -> Error {
    Error::invalid(
        OP,
        "the bucket's region is unknown: set `region` in the store's URL, or AWS_REGION",
    )
}

/// The SDK cannot determine where to send requests, for the reason `why`.
pub(super) fn no_host(config: &Config, why: &str) -> Error {
    let said = why.to_ascii_lowercase();
    let mut is_endpoint = false;
    let (is_ours, variable) = if said.contains("fips") {
        (false, "AWS_USE_FIPS_ENDPOINT")
    } else if said.contains("dual") {
        (false, "AWS_USE_DUALSTACK_ENDPOINT")
    } else if said.contains("region") {
        (config.region.is_some(), "AWS_REGION")
    } else {
        is_endpoint = true;
        (config.endpoint.is_some(), "")
    };
    if is_ours {
        return Error::invalid("open", why);
    }
    let text = if is_endpoint {
        // It may contain a password, and the SDK quotes it.
        "the endpoint is not of the form http://HOST[:PORT] or https://HOST[:PORT], without white space around it: correct or \
         unset AWS_ENDPOINT_URL_S3 and AWS_ENDPOINT_URL (or the profile in ~/.aws/config)"
            .to_owned()
    } else {
        format!("{why}; correct or unset {variable} (or the profile in ~/.aws/config)")
    };
    Error::invalid(OP, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_fit_for_headers() {
        let made = |id: &str, secret: &str, session: Option<&str>| {
            let session = session.map(str::to_owned);
            sendable(Credentials::new(id, secret, session, None, "test"))
        };
        let c = made("id\r\n", " secret \n", Some("token\n")).unwrap();
        assert_eq!(
            (c.access_key_id(), c.secret_access_key(), c.session_token()),
            ("id", "secret", Some("token"))
        );
        let same = made("id", "s ä", None).unwrap();
        assert_eq!(same.secret_access_key(), "s ä");
        for (id, session) in [("i\u{1}d", None), ("id", Some("to\nken")), ("idé", None)] {
            let error = made(id, "hunter2", session).unwrap_err();
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }

    #[test]
    fn only_what_a_setting_says_is_its_fault() {
        let op = |config: &Config, why: &str| no_host(config, why).op;
        let none = Config::default();
        let set = Config {
            region: Some("a b".to_owned()),
            ..Config::default()
        };
        assert_eq!(op(&none, "Invalid region"), OP);
        assert_eq!(op(&set, "Invalid region"), "open");
        assert_eq!(op(&set, "FIPS and custom endpoint"), OP);
        let said = no_host(&none, "Invalid region").to_string();
        assert!(said.contains("unset AWS_REGION"), "{said}");
    }
}
