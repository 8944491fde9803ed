//! No: who is it, or not this.

use axum::{
    Json,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{RETRY_AFTER, WWW_AUTHENTICATE},
    },
    response::{IntoResponse, Response},
};

use crate::serve::admission::Full;

/// A request that is not let through, and what to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// `401`: it is not known, or not surely, who asks; the challenges say how to show it. There may be none for a client that
    /// does not say at which host it thinks it is.
    Unauthenticated {
        /// Values of `WWW-Authenticate`, one header each.
        challenges: Vec<HeaderValue>,
        /// For the client.
        message: String,
    },
    /// `403`: it is known who asks, and they may not do this.
    Denied {
        /// For the client.
        message: String,
    },
    /// `429`: too many of this caller's requests are being looked at.
    TooMany {
        /// For the client.
        message: String,
    },
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::TooMany {
            message: full.to_string(),
        }
    }
}

impl Refusal {
    /// The status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Unauthenticated { .. } => StatusCode::UNAUTHORIZED,
            Self::Denied { .. } => StatusCode::FORBIDDEN,
            Self::TooMany { .. } => StatusCode::TOO_MANY_REQUESTS,
        }
    }

    /// The distribution spec's code of the error.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unauthenticated { .. } => "UNAUTHORIZED",
            Self::Denied { .. } => "DENIED",
            Self::TooMany { .. } => "TOOMANYREQUESTS",
        }
    }

    /// What the client is told; holds nothing that it showed.
    pub fn message(&self) -> &str {
        let (Self::Unauthenticated { message, .. }
        | Self::Denied { message }
        | Self::TooMany { message }) = self;
        message
    }

    /// The headers that the answer must carry.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        match self {
            Self::Unauthenticated { challenges, .. } => {
                for challenge in challenges {
                    headers.append(WWW_AUTHENTICATE, challenge.clone());
                }
            }
            Self::TooMany { .. } => {
                headers.insert(RETRY_AFTER, HeaderValue::from_static("5"));
            }
            Self::Denied { .. } => {}
        }
        headers
    }
}

impl IntoResponse for Refusal {
    /// The answer with the distribution spec's error as its body.
    fn into_response(self) -> Response {
        let error = serde_json::json!({ "code": self.code(), "message": self.message() });
        let body = Json(serde_json::json!({ "errors": [error] }));
        (self.status(), self.headers(), body).into_response()
    }
}
