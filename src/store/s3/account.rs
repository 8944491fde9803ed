//! Which credentials were refused, and why there are none: the SDK finds them by itself and does not report either.
//!
//! A request contains both: its signature names the access key (SigV4, `Authorization`), and the SDK names the kind of provider
//! in `x-amz-user-agent` (SDK reference guide, "User agent": `m/` and the identifiers of features).

use std::error::Error as StdError;

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        http::HttpRequest,
        interceptors::{
            BeforeDeserializationInterceptorContextMut, BeforeTransmitInterceptorContextRef,
        },
    },
    error::BoxError,
};
use aws_smithy_types::config_bag::{Storable, StoreReplace};

use super::words::plain;

/// Number of last characters of an access key's id that are shown: enough to identify it.
const SHOWN: usize = 4;
/// Identifiers of features in `m/`, with their meaning. The first one that a request has is shown: a profile may lead to the
/// others.
const SOURCES: [(&str, &str); 10] = [
    ("n", "the AWS profile"),
    ("g", "AWS_ACCESS_KEY_ID"),
    ("h", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ("k", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ("q", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    ("z", "the container's credentials"),
    ("0", "the role of this instance"),
    ("s", "AWS SSO"),
    ("w", "a credential process"),
    ("i", "an assumed role"),
];
/// The SDK's names for the providers it tries, with ours; `Environment` uses one of two variables.
const TRIED: [(&str, &str); 5] = [
    ("Environment", "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    ("Profile", "the AWS profile"),
    ("WebIdentityToken", "a web identity"),
    ("EcsContainer", "the container's credentials"),
    ("Ec2InstanceMetadata", "the role of this instance"),
];

/// A description of the credentials that a refused request was signed with; in the extensions of the answer.
#[derive(Debug, Clone)]
pub(super) struct Account(pub(super) String);

impl Storable for Account {
    type Storer = StoreReplace<Self>;
}

/// Adds an [`Account`] to refusals.
#[derive(Debug)]
pub(super) struct Accounts;

impl Intercept for Accounts {
    fn name(&self) -> &'static str {
        "cachectl::store::s3::Accounts"
    }

    /// The request no longer exists when its answer arrives.
    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request();
        let account = Account(words(key_id(request), source(request)));
        settings.interceptor_state().store_put(account);
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if matches!(context.response().status().as_u16(), 400 | 401 | 403)
            && let Some(account) = settings.load::<Account>()
        {
            context.response_mut().add_extension(account.clone());
        }
        Ok(())
    }
}

/// The id in `Authorization: AWS4-HMAC-SHA256 Credential=ID/date/…`.
fn key_id(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get("authorization")?;
    let (_, credential) = header.split_once("Credential=")?;
    credential.split('/').next()
}

fn source(request: &HttpRequest) -> Option<&'static str> {
    let agent = request.headers().get("x-amz-user-agent")?;
    let features = agent.split(' ').find_map(|word| word.strip_prefix("m/"))?;
    let has = |id: &str| features.split(',').any(|feature| feature == id);
    let found = SOURCES.iter().find(|(id, _)| has(id));
    found.map(|(_, source)| *source)
}

fn words(key_id: Option<&str>, source: Option<&str>) -> String {
    let Some(id) = key_id else {
        return "without credentials".to_owned();
    };
    let cut = id.len().saturating_sub(SHOWN);
    // Nothing of a short one is shown.
    let end = id.get(cut..).filter(|_| id.len() > 2 * SHOWN);
    let from = source.map(|s| format!(" from {s}")).unwrap_or_default();
    format!("with access key `…{}`{from}", end.unwrap_or_default())
}

/// Why the SDK found no credentials, as text: the result of each provider that it tried. `None` if it stopped before it had
/// tried all.
pub(super) fn why_none(e: &(dyn StdError + 'static)) -> Option<String> {
    let mut all = std::iter::successors(Some(e), |e| (*e).source()).map(ToString::to_string);
    let text = all.find(|text| text.starts_with("no credentials found in chain"))?;
    let tried: Vec<String> = text.lines().skip(1).filter_map(tried).collect();
    (!tried.is_empty()).then(|| tried.join(", "))
}

/// `  Profile: the credential provider was not enabled: why`
fn tried(line: &str) -> Option<String> {
    let (name, why) = line.trim().split_once(": ")?;
    let known = TRIED.iter().find(|(sdk, _)| *sdk == name);
    let ours = known.map_or(name, |(_, ours)| ours);
    let why = why.trim_start_matches("the credential provider was not enabled");
    let why = match (name, why.trim_start_matches(": ")) {
        ("Environment", _) => "not both set",
        (_, "") => "none",
        (_, why) => why,
    };
    Some(format!("{ours} ({})", plain(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_known_by_its_end_and_never_shown_whole() {
        let shown = words(Some("AKIAIOSFODNN7EXAMPLE"), Some("AWS_ACCESS_KEY_ID"));
        assert_eq!(shown, "with access key `…MPLE` from AWS_ACCESS_KEY_ID");
        assert_eq!(words(Some("minioadmin"), None), "with access key `…dmin`");
        assert_eq!(words(Some("minio"), None), "with access key `…`");
        assert_eq!(words(None, None), "without credentials");
    }

    #[test]
    fn source_is_the_profile_before_what_it_leads_to() {
        let from = |agent: &'static str| {
            let mut request = HttpRequest::empty();
            let headers = request.headers_mut();
            headers.insert("x-amz-user-agent", agent);
            source(&request)
        };
        let agent = "aws-sdk-rust/1.7.0 ua/2.1 api/s3/1.1 os/linux m/E,i,n,N md/http#hyper-1.x";
        assert_eq!(from(agent), Some("the AWS profile"));
        assert_eq!(from("a m/E,g b"), Some("AWS_ACCESS_KEY_ID"));
        assert_eq!(from("a m/E,0"), Some("the role of this instance"));
        assert_eq!(from("a m/E,e md/n,g"), None);
        assert_eq!(from("a"), None);
    }
}
