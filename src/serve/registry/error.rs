//! What goes wrong, in the terms of the distribution spec ("Error Codes"): one table from kinds to codes and statuses.

use axum::{
    body::Body,
    http::{HeaderValue, Response, StatusCode, header},
};
use serde_json::json;

use crate::{
    serve::{
        admission::{Fault, Full},
        observe::Why,
    },
    store::{self, ingest::OVER_QUOTA, queue::OVER_SHARE},
};

/// An error code of the spec; `Unavailable`, `Full` and `Damaged` are ours, for what it has no code for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    Denied,
    Unsupported,
    Unavailable,
    Full,
    /// What the store holds is damaged, whatever was asked for: waiting does not help, and so nobody is held until it is back.
    Damaged,
    /// Too many requests of this caller.
    TooMany,
}

impl Code {
    /// As it is written.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::Denied => "DENIED",
            Self::Unsupported => "UNSUPPORTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Full => "INSUFFICIENT_STORAGE",
            // What distribution calls all that is the registry's own trouble.
            Self::Damaged => "UNKNOWN",
            Self::TooMany => "TOOMANYREQUESTS",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown
            | Self::BlobUploadUnknown
            | Self::ManifestUnknown
            | Self::NameUnknown => StatusCode::NOT_FOUND,
            Self::BlobUploadInvalid => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::DigestInvalid
            | Self::ManifestBlobUnknown
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::SizeInvalid => StatusCode::BAD_REQUEST,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Full => StatusCode::INSUFFICIENT_STORAGE,
            Self::Damaged => StatusCode::INTERNAL_SERVER_ERROR,
            Self::TooMany => StatusCode::TOO_MANY_REQUESTS,
        }
    }
}

/// A request that is not answered as asked.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Why, as a code.
    pub code: Code,
    /// Why, in words for the client: without paths of this machine or names of stores.
    pub message: String,
    /// Another status than the code's own.
    pub status: Option<StatusCode>,
    /// Headers that belong to it.
    pub headers: Vec<(header::HeaderName, HeaderValue)>,
    /// The whole story, for the log: with the store's address and the cause.
    pub why: Option<String>,
    /// The store answers other requests: waiting for it does not help.
    pub alone: bool,
}

impl Refusal {
    /// A refusal with the code's own status.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            status: None,
            headers: Vec::new(),
            why: None,
            alone: false,
        }
    }

    /// Answers with another status.
    #[must_use]
    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// Adds a header.
    #[must_use]
    pub(super) fn header(
        mut self,
        name: header::HeaderName,
        value: impl TryInto<HeaderValue>,
    ) -> Self {
        if let Ok(value) = value.try_into() {
            self.headers.push((name, value));
        }
        self
    }

    /// The answer to trouble at the store below. `corrupt` is the code of what the client would see: what is
    /// damaged is a miss to whoever asks for it, and what is sent has a wrong digest.
    pub(super) fn of_store(error: &store::Error, corrupt: Code) -> Self {
        use store::ErrorKind as Kind;
        let (code, words) = match error.kind {
            Kind::Corrupt => (corrupt, error.message.as_str()),
            Kind::Invalid => (Code::SizeInvalid, error.message.as_str()),
            Kind::Conflict => (Code::BlobUploadInvalid, error.message.as_str()),
            Kind::Full if error.op == OVER_SHARE => (Code::Full, error.message.as_str()),
            Kind::Full => (Code::Full, "there is no room left in the store"),
            Kind::Denied if error.op == OVER_QUOTA => (Code::Denied, error.message.as_str()),
            // The daemon's own credentials: the client can do nothing about them.
            Kind::Denied | Kind::Unauthenticated => (
                Code::Unavailable,
                "the store behind this registry does not let the daemon in; the daemon's log says why",
            ),
            Kind::Unsupported => (
                Code::Denied,
                "the store behind this registry refuses it; its log says why",
            ),
            Kind::Throttled | Kind::Unavailable if !error.unheard => (
                Code::Unavailable,
                "the store behind this registry could not do it",
            ),
            Kind::NoSuchStore | Kind::Throttled | Kind::Timeout | Kind::Unavailable | Kind::Io => (
                Code::Unavailable,
                "the store behind this registry is unreachable; the daemon's log says why",
            ),
        };
        let was_answered = code == Code::Unavailable && !error.unheard;
        let mut refusal = match error.kind {
            // What the store answered, not where it is.
            Kind::Throttled | Kind::Unavailable if was_answered => {
                Self::new(code, format!("{words}: {}", error.message))
            }
            _ => Self::new(code, words),
        };
        refusal.why = Some(error.to_string());
        // Waiting does not bring credentials.
        refusal.alone = error.alone || matches!(error.kind, Kind::Denied | Kind::Unauthenticated);
        match error.kind {
            Kind::Conflict => refusal.status(StatusCode::CONFLICT),
            _ if code == Code::Unavailable => refusal.header(header::RETRY_AFTER, "5"),
            _ => refusal,
        }
    }

    /// The status it is answered with.
    pub(super) fn status_code(&self) -> StatusCode {
        self.status.unwrap_or_else(|| self.code.status())
    }

    /// The response.
    pub(super) fn response(self) -> Response<Body> {
        let errors = json!({"errors": [{"code": self.code.text(), "message": self.message}]});
        let mut response = Response::new(Body::from(errors.to_string()));
        *response.status_mut() = self.status_code();
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        if let Some(why) = self.why.map(Why) {
            response.extensions_mut().insert(why);
        }
        let headers = response.headers_mut();
        for (name, value) in self.headers {
            headers.append(name, value);
        }
        response
    }
}

impl From<Full> for Refusal {
    fn from(full: Full) -> Self {
        Self::new(Code::TooMany, full.to_string()).header(header::RETRY_AFTER, "5")
    }
}

impl From<&Fault> for Refusal {
    /// The client's own fault: it is told so, whatever came of it further down.
    fn from(fault: &Fault) -> Self {
        let code = match fault {
            Fault::Crowded => Code::TooMany,
            // The spec has no code for a body that did not come whole.
            _ => Code::SizeInvalid,
        };
        Self::new(code, fault.to_string()).status(fault.status())
    }
}

impl From<store::Error> for Refusal {
    fn from(e: store::Error) -> Self {
        Self::of_store(&e, Code::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_in_the_store_is_the_registrys_fault_and_what_a_client_sent_its_own() {
        let error = || store::Error::new(store::ErrorKind::Corrupt, "list", "it is damaged");
        for (refusal, status, code) in [
            (Refusal::from(error()), 500, "UNKNOWN"),
            (
                Refusal::of_store(&error(), Code::DigestInvalid),
                400,
                "DIGEST_INVALID",
            ),
            (
                Refusal::of_store(&error(), Code::BlobUnknown),
                404,
                "BLOB_UNKNOWN",
            ),
        ] {
            assert_eq!(
                (refusal.status_code().as_u16(), refusal.code.text()),
                (status, code)
            );
            // None of this is worth waiting for.
            assert!(refusal.headers.is_empty() && refusal.code != Code::Unavailable);
        }
    }
}
