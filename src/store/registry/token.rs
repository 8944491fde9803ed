//! Tokens from a registry's token endpoint: GET with Basic, or a POST as in OAuth 2.
//!
//! `distribution/distribution:docs/content/spec/auth/{token,oauth}.md`.

use std::time::Duration;

use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, HeaderValue},
};
use tokio::time::Instant;

use super::{
    answer::Answer,
    connection::Connection,
    credentials::{Account, Credential},
    error,
    request::{Ask, Payload},
    scopes::Scopes,
};
use crate::{
    redact::Secret,
    store::{Error, ErrorKind, Result},
};

/// Maximum size of a token endpoint's answer.
const MAX_TOKEN_BYTES: u64 = 64 << 10;
/// Minimum life of a token: the spec's default and minimum.
const MIN_LIFE: Duration = Duration::from_mins(1);
/// Maximum life that we accept.
const MAX_LIFE: Duration = Duration::from_hours(24);
/// Our client id at OAuth endpoints.
const CLIENT_ID: &str = "cachectl";

/// A token endpoint, and the service that its tokens are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Realm {
    pub(super) url: Url,
    pub(super) service: Option<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    /// `Bearer …`, marked as a secret.
    pub(super) header: HeaderValue,
    /// When it was requested.
    pub(super) since: Instant,
    /// When 90 % of its life is over.
    pub(super) renew_at: Instant,
    /// Obtains the next one, if the endpoint issued a refresh token.
    pub(super) refresh: Option<Secret>,
}

/// Requests a token from `realm` as `who`; `None` is anonymous. `account` describes who that is.
///
/// # Errors
/// `Unauthenticated` or `Denied` if it refuses us, `Corrupt` for an answer without a token.
pub(super) async fn fetch(
    connection: &Connection,
    realm: &Realm,
    scopes: &Scopes,
    who: Option<&Credential>,
    account: Account,
) -> Result<Token> {
    let since = Instant::now();
    let answer = match who {
        Some(Credential::Identity(secret)) => {
            post(connection, realm, scopes, &refresh_grant(secret)).await?
        }
        Some(Credential::Password(name, password)) => {
            let answer = get(connection, realm, scopes, who).await?;
            // Answers of endpoints that support only the other method (containerd: `core/remotes/docker/authorizer.go`).
            if matches!(answer.status.as_u16(), 400 | 401 | 404 | 405) {
                let second =
                    post(connection, realm, scopes, &password_grant(name, password)).await?;
                // If that method is not supported, the first refusal is the informative one.
                if matches!(second.status.as_u16(), 404 | 405 | 501) {
                    answer
                } else {
                    second
                }
            } else {
                answer
            }
        }
        None => get(connection, realm, scopes, None).await?,
    };
    understand(answer, since, account).await
}

async fn get(
    connection: &Connection,
    realm: &Realm,
    scopes: &Scopes,
    who: Option<&Credential>,
) -> Result<Answer> {
    let mut url = realm.url.clone();
    {
        let mut query = url.query_pairs_mut();
        if let Some(service) = &realm.service {
            query.append_pair("service", service);
        }
        for scope in scopes.each() {
            query.append_pair("scope", &scope);
        }
        query.append_pair("client_id", CLIENT_ID);
    }
    let mut ask = Ask::new("get token", Method::GET, url, &Scopes::default());
    if let Some(basic) = who.and_then(Credential::basic) {
        ask = ask.header(AUTHORIZATION, basic);
    }
    connection.exchange(&ask, &ask.url, None).await
}

type Form = Vec<(&'static str, String)>;

fn refresh_grant(secret: &Secret) -> Form {
    vec![
        ("grant_type", "refresh_token".to_owned()),
        ("refresh_token", secret.expose().to_owned()),
    ]
}

fn password_grant(name: &str, password: &Secret) -> Form {
    vec![
        ("grant_type", "password".to_owned()),
        ("username", name.to_owned()),
        ("password", password.expose().to_owned()),
        ("access_type", "offline".to_owned()),
    ]
}

async fn post(
    connection: &Connection,
    realm: &Realm,
    scopes: &Scopes,
    grant: &Form,
) -> Result<Answer> {
    let mut form = grant.clone();
    if let Some(service) = &realm.service {
        form.push(("service", service.clone()));
    }
    form.push(("client_id", CLIENT_ID.to_owned()));
    form.push(("scope", scopes.each().collect::<Vec<_>>().join(" ")));
    // The query part of a URL is a form, and `Url` can write one.
    let mut writer = realm.url.clone();
    writer.set_query(None);
    writer.query_pairs_mut().extend_pairs(form);
    let text = writer.query().unwrap_or_default().to_owned();
    let ask = Ask::new(
        "get token",
        Method::POST,
        realm.url.clone(),
        &Scopes::default(),
    )
    .send(
        "application/x-www-form-urlencoded",
        Payload::Bytes(text.into()),
    );
    connection.exchange(&ask, &ask.url, None).await
}

#[derive(serde::Deserialize)]
struct Reply {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<serde_json::Value>,
    refresh_token: Option<String>,
}

async fn understand(mut answer: Answer, since: Instant, account: Account) -> Result<Token> {
    let host = answer.url.host_str().unwrap_or_default().to_owned();
    // Usually not the registry's host, but acting for it: its refusal counts.
    answer.away = false;
    answer.account = Some(account);
    if answer.status != StatusCode::OK {
        let mut error = answer.refusal("get token").await.error;
        // A token endpoint that answers "bad request" or "not found" does not accept these credentials.
        if matches!(error.kind, ErrorKind::Invalid | ErrorKind::NoSuchStore) {
            error.kind = ErrorKind::Unauthenticated;
        }
        error.message = format!("token endpoint `{host}`: {}", error.message);
        return Err(error);
    }
    let corrupt = |why: &str| Error::corrupt("get token", format!("token endpoint `{host}` {why}"));
    let body = answer.read("get token", MAX_TOKEN_BYTES).await?;
    let reply: Reply = serde_json::from_slice(&body).map_err(|_| {
        let why = format!("token endpoint `{host}` did not answer with a token");
        error::foreign("get token", why)
    })?;
    let text = reply
        .token
        .filter(|t| !t.is_empty())
        .or(reply.access_token)
        .unwrap_or_default();
    if text.is_empty() {
        let why = format!("the answer of token endpoint `{host}` contains no token");
        return Err(error::foreign("get token", why));
    }
    let mut header = HeaderValue::from_str(&format!("Bearer {text}"))
        .map_err(|_| corrupt("answered with a token that is not valid in a header"))?;
    header.set_sensitive(true);
    Ok(Token {
        header,
        since,
        renew_at: since + life(reply.expires_in.as_ref()).mul_f64(0.9),
        refresh: reply
            .refresh_token
            .filter(|t| !t.is_empty())
            .map(Secret::new),
    })
}

/// Seconds as a number or, as some endpoints write it, as text.
fn life(expires_in: Option<&serde_json::Value>) -> Duration {
    let seconds = match expires_in {
        Some(serde_json::Value::Number(n)) => n.as_f64(),
        Some(serde_json::Value::String(s)) => s.parse().ok(),
        _ => None,
    };
    let seconds = seconds
        .filter(|s| s.is_finite())
        .unwrap_or(0.0)
        .clamp(MIN_LIFE.as_secs_f64(), MAX_LIFE.as_secs_f64());
    Duration::from_secs_f64(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_is_bounded_on_both_sides() {
        let of = |json: &str| life(Some(&serde_json::from_str(json).unwrap())).as_secs();
        assert_eq!(of("300"), 300);
        assert_eq!(of("\"300\""), 300);
        assert_eq!(of("1"), 60);
        assert_eq!(of("-5"), 60);
        assert_eq!(of("1e300"), 86_400);
        assert_eq!(of("\"NaN\""), 60);
        assert_eq!(of("[]"), 60);
        assert_eq!(life(None).as_secs(), 60);
    }
}
