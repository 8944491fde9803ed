//! A request that is refused, at any door. A door renders it in the terms of its protocol.

use axum::{
    body::Body,
    http::{
        HeaderName, HeaderValue, Response, StatusCode,
        header::{ALLOW, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE},
    },
};
use serde_json::json;

use super::{
    admission::{Fault, Full},
    pushes_blocked::PushesBlocked,
};
use crate::store::{
    self,
    ingest::OVER_QUOTA,
    queue::{OVER_SHARE, QUEUE_FULL},
};

/// Why a request is refused.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// The kind of refusal, as an HTTP status.
    pub status: StatusCode,
    /// The protocol's own code, if the status alone does not determine it.
    pub code: Option<&'static str>,
    /// The reason, for the client: without paths of this machine, names of stores, or the client's credentials.
    pub message: String,
    /// Headers that belong to it.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The full reason, for the log: with the store's address and the cause.
    pub why: Option<String>,
    /// The store answers other requests: waiting for it does not help.
    pub alone: bool,
    /// For a push, what the refusal says about the store's state.
    pub store: Option<PushesBlocked>,
    /// The client did not send its body correctly.
    pub is_fault: bool,
}

impl Refusal {
    /// A refusal with that status and a message for the client.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            code: None,
            message: message.into(),
            headers: Vec::new(),
            why: None,
            alone: false,
            store: None,
            is_fault: false,
        }
    }

    /// `401`: the caller is not, or not reliably, identified; the challenges say how to authenticate. There are none for a
    /// client that does not say which host it uses.
    pub fn unauthenticated(challenges: Vec<HeaderValue>, message: impl Into<String>) -> Self {
        let refusal = Self::new(StatusCode::UNAUTHORIZED, message);
        let headers = challenges.into_iter();
        Self {
            headers: headers.map(|value| (WWW_AUTHENTICATE, value)).collect(),
            ..refusal
        }
    }

    /// `403`: the caller is identified, but not allowed to do this.
    pub fn denied(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, message)
    }

    /// `405`: the path supports only these methods.
    pub fn method_not_allowed(methods: &'static str) -> Self {
        let why = format!("this path supports only {methods}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, why).header(ALLOW, methods)
    }

    /// Changes the status.
    #[must_use]
    pub fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// Returns true if the store is unreachable, so that waiting may help.
    pub fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The code of the distribution spec ("Error Codes"), or our own if the spec has none.
    pub fn code(&self) -> &'static str {
        self.code.unwrap_or(match self.status.as_u16() {
            401 => "UNAUTHORIZED",
            403 => "DENIED",
            404 => "NAME_UNKNOWN",
            405 => "UNSUPPORTED",
            409 => "BLOB_UPLOAD_INVALID",
            429 => "TOOMANYREQUESTS",
            // The code that distribution uses for internal errors.
            500 => "UNKNOWN",
            503 => "UNAVAILABLE",
            507 => "INSUFFICIENT_STORAGE",
            // The spec has no code for an incomplete body.
            _ => "SIZE_INVALID",
        })
    }

    /// The response of a registry, and of every door whose protocol has no error format.
    pub fn response(&self) -> Response<Body> {
        let errors = json!({"errors": [{"code": self.code(), "message": self.message}]});
        let mut response = Response::new(Body::from(errors.to_string()));
        *response.status_mut() = self.status;
        let json = HeaderValue::from_static("application/json");
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, json);
        for (name, value) in &self.headers {
            headers.append(name, value.clone());
        }
        response
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, full.to_string()).header(RETRY_AFTER, "5")
    }
}

impl From<&Fault> for Refusal {
    /// The client's own fault: it is reported, whatever errors it caused further down.
    fn from(fault: &Fault) -> Self {
        Self {
            is_fault: true,
            ..Self::new(fault.status(), fault.to_string())
        }
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        Self::from(&error)
    }
}

impl From<&store::Error> for Refusal {
    /// The answer to an error of the store below.
    fn from(error: &store::Error) -> Self {
        use store::ErrorKind as Kind;
        let (status, words) = match error.kind {
            // Waiting does not help.
            Kind::Corrupt => (StatusCode::INTERNAL_SERVER_ERROR, error.message.as_str()),
            Kind::Invalid => (StatusCode::BAD_REQUEST, error.message.as_str()),
            Kind::Conflict => (StatusCode::CONFLICT, error.message.as_str()),
            Kind::Full if [OVER_SHARE, QUEUE_FULL].contains(&error.op) => {
                (StatusCode::INSUFFICIENT_STORAGE, error.message.as_str())
            }
            Kind::Full => (StatusCode::INSUFFICIENT_STORAGE, "the store is full"),
            Kind::Denied if error.op == OVER_QUOTA => {
                (StatusCode::FORBIDDEN, error.message.as_str())
            }
            // The daemon's own credentials: the client can do nothing about them.
            Kind::Denied | Kind::Unauthenticated => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the store behind this registry denies the daemon access; see the daemon's log",
            ),
            Kind::Unsupported => (
                StatusCode::FORBIDDEN,
                "the store behind this registry does not support this; see the daemon's log",
            ),
            Kind::Throttled | Kind::Unavailable if !error.unheard => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the store behind this registry failed",
            ),
            Kind::NoSuchStore | Kind::Throttled | Kind::Timeout | Kind::Unavailable | Kind::Io => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the store behind this registry is unreachable; see the daemon's log",
            ),
        };
        let mut refusal = match error.kind {
            // What the store answered, but not where it is.
            Kind::Throttled | Kind::Unavailable if !error.unheard => {
                Self::new(status, format!("{words}: {}", error.message))
            }
            _ => Self::new(status, words),
        };
        refusal.why = Some(error.to_string());
        refusal.store = PushesBlocked::by(error);
        // Waiting does not provide credentials.
        refusal.alone = error.alone || matches!(error.kind, Kind::Denied | Kind::Unauthenticated);
        if refusal.is_unavailable() {
            return refusal.header(RETRY_AFTER, "5");
        }
        refusal
    }
}
