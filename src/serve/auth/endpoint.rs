//! The token endpoint: GET with Basic, and POST in the manner of OAuth 2.
//!
//! `distribution/distribution:docs/content/spec/auth/{token,oauth}.md`. Grants what was asked for as far as the principal may
//! do it; less is not an error, and even without any grant a token is issued (BuildKit asks for mount sources that it may not
//! read).

use std::time::{Duration, UNIX_EPOCH};

use axum::{
    Form, Json,
    extract::{FromRequest as _, Request},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{CACHE_CONTROL, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};
use http_body::Body as _;
use serde::Serialize;

use super::{
    Authority,
    access::Access,
    challenge::BASIC,
    header::{self, Shown},
    identify::{Identity, Proof, Setup, Unknown},
    peer::Peer,
    signer::{Pass, Refresh, Signer},
};
use crate::{
    redact::Secret,
    serve::{
        admission::{Full, Pool},
        refusal::Refusal,
    },
};

/// Largest form.
pub const MAX_FORM_BYTES: usize = 64 << 10;

/// Answers a request for a token; the request's [`Peer`] is in its extensions.
pub async fn token(authority: &Authority, request: Request) -> Response {
    let setup = authority.setup();
    let Some(signer) = &setup.signer else {
        // After this error containerd and BuildKit try the other method.
        return error(
            StatusCode::NOT_FOUND,
            "UNSUPPORTED",
            "this daemon issues no tokens",
        );
    };
    let peer = Peer::of(request.extensions());
    let headers = request.headers().clone();
    let method = request.method().clone();
    let ask = match Ask::read(method, request).await {
        Ok(ask) => ask,
        Err(why) => return error(StatusCode::BAD_REQUEST, "UNSUPPORTED", &why),
    };
    let answered = answer(&setup, signer, &ask, (&headers, &peer), authority.checks());
    match answered.await {
        Ok(Some(reply)) => return ([(CACHE_CONTROL, "no-store")], Json(reply)).into_response(),
        Ok(None) => {}
        Err(full) => return Refusal::from(full).response(),
    }
    let wrong = "the user name, password or token is wrong";
    let mut refused = error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", wrong);
    let basic = HeaderValue::from_static(BASIC);
    refused.headers_mut().insert(WWW_AUTHENTICATE, basic);
    refused
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    let error = serde_json::json!({ "code": code, "message": message });
    let body = Json(serde_json::json!({ "errors": [error] }));
    (status, [(CACHE_CONTROL, "no-store")], body).into_response()
}

/// How the client authenticates.
enum Grant {
    /// By the request's own headers, or its connection.
    Request,
    /// In the form.
    Password(String, Secret),
    /// By a refresh token issued earlier.
    Refresh(Secret),
}

struct Ask {
    grant: Grant,
    wanted: Access,
    /// Whether a refresh token is wanted.
    offline: bool,
    /// Whether the answer includes the granted scope.
    says_scope: bool,
}

impl Ask {
    async fn read(method: Method, request: Request) -> Result<Self, String> {
        let post = method == Method::POST;
        let is_empty = request.body().is_end_stream();
        let is_long = request.body().size_hint().lower() > MAX_FORM_BYTES as u64;
        // For a GET this is the query.
        let form = Form::<Vec<(String, String)>>::from_request(request, &()).await;
        let form = form.ok().filter(|_| !is_long);
        // The rejection's own text might quote the form.
        let Form(form) = form.ok_or_else(|| {
            let expected =
                "expected a form of less than 64 KiB (application/x-www-form-urlencoded)";
            if post && is_empty {
                format!("`grant_type` is missing: {expected}")
            } else {
                expected.to_owned()
            }
        })?;
        let get = |name: &str| {
            let found = form.iter().find(|(k, _)| k == name);
            found.map(|(_, v)| v.as_str()).unwrap_or_default()
        };
        let mut wanted = Access::default();
        for (_, scopes) in form.iter().filter(|(k, _)| k == "scope") {
            wanted.add_scopes(scopes);
        }
        let grant = match get("grant_type") {
            _ if !post => Grant::Request,
            "password" => Grant::Password(get("username").to_owned(), Secret::new(get("password"))),
            "refresh_token" => Grant::Refresh(Secret::new(get("refresh_token"))),
            "" => return Err("`grant_type` is missing".to_owned()),
            _ => return Err("`grant_type` is neither `password` nor `refresh_token`".to_owned()),
        };
        Ok(Self {
            grant,
            wanted,
            offline: if post {
                get("access_type") == "offline"
            } else {
                get("offline_token") == "true"
            },
            says_scope: post,
        })
    }
}

#[derive(Serialize)]
struct Reply {
    token: String,
    access_token: String,
    expires_in: u64,
    issued_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<String>,
}

/// `None` if authentication failed.
async fn answer(
    setup: &Setup,
    signer: &Signer,
    ask: &Ask,
    (headers, peer): (&HeaderMap, &Peer),
    checks: &Pool,
) -> Result<Option<Reply>, Full> {
    let from = peer.origin(headers);
    let mut refresh_token = None;
    let (principal, secret) = match &ask.grant {
        Grant::Refresh(token) => {
            let known = signer.check_refresh(token);
            let known = known.filter(|r| setup.accounts.vouches(&r.sub, &r.secret));
            let Some(Refresh { sub, secret }) = known else {
                return Ok(None);
            };
            // The same token again: if it could be used only once, clients that send two requests at a time would be locked
            // out.
            refresh_token = Some(token.clone());
            (setup.principal(Some(sub.into()), from), Some(secret))
        }
        other => {
            let known = match other {
                Grant::Password(name, password) => {
                    let request = (headers, peer);
                    setup.by_password(name, password, request, checks).await?
                }
                _ => by_request(setup, headers, peer, checks).await?,
            };
            let Some(Identity { principal, proof }) = known else {
                return Ok(None);
            };
            let secret = match proof {
                Proof::Account(account) => Some(account.stamp),
                Proof::Unasked | Proof::Pass => None,
            };
            (principal, secret)
        }
    };
    let life = setup.config.refresh_life.as_secs();
    if let Some(secret) = secret
        .clone()
        .filter(|_| ask.offline && refresh_token.is_none() && life > 0)
    {
        let refresh = Refresh {
            sub: principal.name().to_owned(),
            secret,
        };
        refresh_token = Some(signer.refresh(&refresh, life).token);
    }
    let access = ask
        .wanted
        .limited(|repository| principal.granted(repository));
    let scope = ask.says_scope.then(|| access.to_scopes());
    let life = setup.config.token_life.as_secs();
    let pass = Pass {
        sub: principal.name().to_owned(),
        // A name without a secret comes from a certificate.
        certificate: secret.is_none() && !principal.is_anonymous(),
        secret,
        access,
    };
    let signed = signer.pass(&pass, life);
    let issued_at = UNIX_EPOCH + Duration::from_secs(signed.issued_at);
    let token = signed.token.expose().to_owned();
    Ok(Some(Reply {
        access_token: token.clone(),
        token,
        expires_in: life,
        issued_at: humantime::format_rfc3339_seconds(issued_at).to_string(),
        refresh_token: refresh_token.map(|t| t.expose().to_owned()),
        scope,
    }))
}

/// The sender of this request; an access token of ours cannot obtain the next one, or access would never expire.
async fn by_request(
    setup: &Setup,
    headers: &HeaderMap,
    peer: &Peer,
    checks: &Pool,
) -> Result<Option<Identity>, Full> {
    if let Shown::Bearer(token) = header::shown(headers) {
        return Ok(setup.by_static_token(&token, peer.origin(headers)));
    }
    match setup.identify(headers, peer, checks).await {
        Ok(identity) => Ok(Some(identity)),
        Err(Unknown::Wrong(_)) => Ok(None),
        Err(Unknown::Busy(full)) => Err(full),
    }
}
