//! The error codes of the distribution spec ("Error Codes") that a status alone does not determine.

use axum::http::StatusCode;

use crate::{
    serve::refusal::Refusal,
    store::{self, ErrorKind},
};

/// An error code of the spec, and its status.
#[derive(Debug, Clone, Copy)]
pub(super) struct Code(pub(super) &'static str, StatusCode);

impl Code {
    pub(super) const BLOB_UNKNOWN: Self = Self("BLOB_UNKNOWN", StatusCode::NOT_FOUND);
    pub(super) const BLOB_UPLOAD_INVALID: Self =
        Self("BLOB_UPLOAD_INVALID", StatusCode::RANGE_NOT_SATISFIABLE);
    pub(super) const BLOB_UPLOAD_UNKNOWN: Self = Self("BLOB_UPLOAD_UNKNOWN", StatusCode::NOT_FOUND);
    pub(super) const DIGEST_INVALID: Self = Self("DIGEST_INVALID", StatusCode::BAD_REQUEST);
    pub(super) const MANIFEST_BLOB_UNKNOWN: Self =
        Self("MANIFEST_BLOB_UNKNOWN", StatusCode::BAD_REQUEST);
    pub(super) const MANIFEST_INVALID: Self = Self("MANIFEST_INVALID", StatusCode::BAD_REQUEST);
    pub(super) const MANIFEST_UNKNOWN: Self = Self("MANIFEST_UNKNOWN", StatusCode::NOT_FOUND);
    pub(super) const NAME_INVALID: Self = Self("NAME_INVALID", StatusCode::BAD_REQUEST);
    pub(super) const NAME_UNKNOWN: Self = Self("NAME_UNKNOWN", StatusCode::NOT_FOUND);
    pub(super) const SIZE_INVALID: Self = Self("SIZE_INVALID", StatusCode::BAD_REQUEST);
    pub(super) const UNSUPPORTED: Self = Self("UNSUPPORTED", StatusCode::BAD_REQUEST);
}

/// A refusal with the code's own status.
pub(super) fn refuse(Code(code, status): Code, message: impl Into<String>) -> Refusal {
    Refusal {
        code: Some(code),
        ..Refusal::new(status, message)
    }
}

/// The answer to an error of the store below. The code describes what the client would see: damaged content is missing for its
/// readers, and sent content has a wrong digest.
pub(super) fn of_store(error: &store::Error, Code(code, status): Code) -> Refusal {
    let refusal = Refusal::from(error);
    if error.kind != ErrorKind::Corrupt {
        return refusal;
    }
    Refusal {
        code: Some(code),
        ..refusal.status(status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_in_the_store_is_the_registrys_fault_and_what_a_client_sent_its_own() {
        let error = || store::Error::corrupt("list", "it is damaged");
        for (refusal, status, code) in [
            (Refusal::from(error()), 500, "UNKNOWN"),
            (
                of_store(&error(), Code::DIGEST_INVALID),
                400,
                "DIGEST_INVALID",
            ),
            (of_store(&error(), Code::BLOB_UNKNOWN), 404, "BLOB_UNKNOWN"),
        ] {
            assert_eq!((refusal.status.as_u16(), refusal.code()), (status, code));
            // Waiting helps in none of these cases.
            assert!(refusal.headers.is_empty() && !refusal.is_unavailable());
        }
    }
}
