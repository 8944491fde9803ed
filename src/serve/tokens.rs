//! The token door: `/token`, and all paths that no other door handles.

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Method, Request, StatusCode, request::Parts},
};

use super::{
    auth::{Authority, MAX_FORM_BYTES, TOKEN_PATH, token},
    door::{Access, Answer, Call, Door, Place, Route},
    refusal::Refusal,
};

/// Maximum time for receiving a form.
const FORM: Duration = Duration::from_secs(10);

/// Issues tokens to authenticated callers.
pub struct Tokens(Arc<Authority>);

impl Tokens {
    /// Issues tokens that `authority` accepts.
    pub fn new(authority: Arc<Authority>) -> Self {
        Self(authority)
    }
}

impl Door for Tokens {
    type Asked = ();

    fn name(&self) -> &'static str {
        "auth"
    }

    fn route(&self, head: &Parts) -> Option<Route<()>> {
        let (label, asked) = if head.uri.path() == TOKEN_PATH {
            (TOKEN_PATH, Ok(()))
        } else {
            let why = "not found";
            ("other", Err(Refusal::new(StatusCode::NOT_FOUND, why)))
        };
        Some(Route {
            // The caller is not identified yet.
            access: Access::Open,
            place: Place::Form {
                most: MAX_FORM_BYTES,
                within: FORM,
            },
            ..Route::new(label, asked)
        })
    }

    async fn answer(&self, (): &(), call: &Call, form: Body) -> Answer {
        if ![Method::GET, Method::HEAD, Method::POST].contains(&call.parts.method) {
            return Err(Refusal::method_not_allowed("GET, HEAD, POST"));
        }
        let _place = call.ticket.place_in(|a| &a.tokens).await?;
        let request = Request::from_parts(call.parts.clone(), form);
        Ok(token(&self.0, request).await)
    }
}
