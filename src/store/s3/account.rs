//! Says of each refusal which credentials were refused: the SDK finds them by itself and does not tell.

use aws_credential_types::credential_feature::AwsCredentialFeature as Feature;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, http::HttpRequest,
    interceptors::BeforeDeserializationInterceptorContextMut,
};
use aws_sdk_s3::error::BoxError;

/// Last characters of an access key's id that are shown: enough to know it by.
const SHOWN: usize = 4;

/// What a request that was refused was signed with, in words; in the extensions of the answer.
#[derive(Debug, Clone)]
pub(super) struct Account(pub(super) String);

/// Adds an [`Account`] to refusals.
#[derive(Debug)]
pub(super) struct Accounts;

impl Intercept for Accounts {
    fn name(&self) -> &'static str {
        "cachectl::store::s3::Accounts"
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        if matches!(context.response().status().as_u16(), 400 | 401 | 403) {
            let source = cfg.load::<Feature>().find_map(source);
            let key = context.inner().request().and_then(key_id);
            let account = Account(words(key, source));
            context.response_mut().add_extension(account);
        }
        Ok(())
    }
}

/// The id in `Authorization: AWS4-HMAC-SHA256 Credential=ID/date/…` (SigV4).
fn key_id(request: &HttpRequest) -> Option<&str> {
    let header = request.headers().get("authorization")?;
    let (_, credential) = header.split_once("Credential=")?;
    credential.split('/').next()
}

fn words(key_id: Option<&str>, source: Option<&str>) -> String {
    let Some(id) = key_id else {
        return "without credentials".to_owned();
    };
    let cut = id.len().saturating_sub(SHOWN);
    let end = id.get(cut..).unwrap_or_default();
    let from = source.map(|s| format!(" from {s}")).unwrap_or_default();
    format!("with access key `…{end}`{from}")
}

/// Where credentials of a kind are from; the first of several in a chain is what the others were got by.
fn source(feature: &Feature) -> Option<&'static str> {
    Some(match feature {
        Feature::CredentialsEnvVars => "AWS_ACCESS_KEY_ID",
        Feature::CredentialsEnvVarsStsWebIdToken => "AWS_WEB_IDENTITY_TOKEN_FILE",
        Feature::CredentialsProfile
        | Feature::CredentialsProfileSourceProfile
        | Feature::CredentialsProfileNamedProvider
        | Feature::CredentialsProfileStsWebIdToken
        | Feature::CredentialsProfileSso
        | Feature::CredentialsProfileProcess => "the AWS profile",
        Feature::CredentialsStsAssumeRoleWebId => "a web identity",
        Feature::CredentialsStsAssumeRole => "an assumed role",
        Feature::CredentialsSso => "AWS SSO",
        Feature::CredentialsProcess => "a credential process",
        Feature::CredentialsHttp => "the container's credentials",
        Feature::CredentialsImds => "the role of this instance",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_known_by_its_end_and_never_shown_whole() {
        let shown = words(Some("AKIAIOSFODNN7EXAMPLE"), Some("AWS_ACCESS_KEY_ID"));
        assert_eq!(shown, "with access key `…MPLE` from AWS_ACCESS_KEY_ID");
        assert_eq!(words(Some("minio"), None), "with access key `…inio`");
        assert_eq!(words(None, None), "without credentials");
    }
}
