//! The meaning of a registry's refusals: one table to [`ErrorKind`], and texts for users.

use std::time::Duration;

use oci_client::errors::{OciEnvelope, OciErrorCode};
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, DATE, HeaderMap, RETRY_AFTER},
};

use super::{API_VERSION, answer::Answer, credentials::Account, error::IN_ITS_PLACE, guard};
use crate::{
    redact,
    store::{Error, ErrorKind, Result, server_time},
};

/// Maximum size of a refusal's body that is read.
pub(super) const MAX_ERROR_BYTES: u64 = 64 << 10;
/// Maximum length of a server's own text in a message.
const MAX_WORDS: usize = 300;

/// A parsed refusal.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    /// Codes of the error body (spec, "Error Codes"); empty if there was none.
    codes: Vec<String>,
    pub(super) error: Error,
}

impl Refusal {
    /// Returns true if the registry named `code`.
    pub(super) fn says(&self, code: &str) -> bool {
        self.codes.iter().any(|c| c == code)
    }
}

impl Answer {
    /// Reads an answer that is not a success.
    pub(super) async fn refusal(mut self, op: &'static str) -> Refusal {
        let (status, headers) = (self.status, self.headers.clone());
        let (method, away, account) = (self.method.clone(), self.away, self.account.take());
        let body = self.read(op, MAX_ERROR_BYTES).await.unwrap_or_default();
        let errors = errors_of(&body);
        let words = match errors.first() {
            Some(e) if e.message.is_empty() => format!(": {}", e.code),
            Some(e) => format!(": {}: {}", e.code, e.message),
            None => words(&body),
        };
        let other_way = (status == StatusCode::BAD_REQUEST && !away && wants_tls(&body))
            .then(|| format!("; it speaks TLS: {}", self.other_way));
        let codes: Vec<String> = errors.into_iter().map(|e| e.code).collect();
        let kind = kind(status, &codes, &headers, away);
        let whom = if away {
            "the storage behind the registry"
        } else {
            "the registry"
        };
        let words = redact::escaped(&words.chars().take(MAX_WORDS).collect::<String>());
        let mut error = Error::new(
            kind,
            op,
            format!(
                "{whom} answered {method} with {status}{words}{}{}{}",
                account
                    .filter(|_| !away)
                    .map(|a| shown(&a, kind))
                    .unwrap_or_default(),
                other_way.unwrap_or_default(),
                if is_foreign(status, &codes, &headers, away) {
                    IN_ITS_PLACE
                } else {
                    hint(status, kind)
                }
            ),
        );
        error.retry_after = retry_after(&headers);
        Refusal {
            status,
            codes,
            error,
        }
    }

    /// Describes which server answered what, if it was not the registry.
    pub(super) fn described(&self) -> String {
        let from = guard::show(&self.url);
        let of = match (self.media_type().as_str(), self.text("server")) {
            ("", None) => String::new(),
            (media_type, None) => format!(" ({media_type})"),
            ("", Some(server)) => format!(" (server {server})"),
            (media_type, Some(server)) => format!(" ({media_type}, server {server})"),
        };
        let of: String = of.chars().take(MAX_WORDS).collect();
        format!(
            "answered with {} from `{from}`{}, which is not the answer of a registry",
            self.status,
            redact::escaped(&of)
        )
    }

    /// Refuses bytes that were compressed in transit although unmodified ones were requested: that is a proxy's doing, not
    /// damage, which would cause them to be stored again.
    ///
    /// # Errors
    /// `Unavailable`.
    pub(super) fn check_plain(&self, op: &'static str) -> Result<()> {
        let packed = self
            .text(CONTENT_ENCODING)
            .filter(|e| !matches!(e.trim(), "" | "identity"));
        let Some(encoding) = packed else {
            return Ok(());
        };
        let encoding = redact::escaped(encoding);
        let why = format!(
            "the answer has `Content-Encoding: {encoding}`, although no encoding was requested: does a proxy in front of the registry compress answers?"
        );
        Err(Error::unavailable(op, why))
    }
}

/// The errors in a body in a registry's format (spec, "Error Codes"), with unmodified codes; none for other bodies.
fn errors_of(body: &[u8]) -> Vec<ErrorEntry> {
    let envelope = serde_json::from_slice::<OciEnvelope>(body);
    let errors = envelope.map(|e| e.errors).unwrap_or_default();
    let said = errors.into_iter().map(|e| ErrorEntry {
        code: code_text(&e.code),
        message: e.message,
    });
    said.collect()
}

struct ErrorEntry {
    code: String,
    message: String,
}

fn code_text(code: &OciErrorCode) -> String {
    match serde_json::to_value(code) {
        Ok(serde_json::Value::String(s)) => s,
        _ => format!("{code:?}"),
    }
}

/// Returns true if a body is a registry's refusal of any kind.
pub(super) fn has_code(body: &[u8]) -> bool {
    !errors_of(body).is_empty()
}

/// The text of a body, to be appended to a message; may be empty.
pub(super) fn words(body: &[u8]) -> String {
    let Some(words) = plain_words(body) else {
        return String::new();
    };
    let words: String = words.chars().take(MAX_WORDS).collect();
    format!(": {}", redact::escaped(&words))
}

/// Returns true if a refusal is a 404 that no registry sends: see `Transport::missing`.
fn is_foreign(status: StatusCode, codes: &[String], headers: &HeaderMap, away: bool) -> bool {
    let signed = !codes.is_empty() || headers.contains_key(API_VERSION);
    status == StatusCode::NOT_FOUND && !signed && !away
}

/// The first line of a body that is plain text, as sent by proxies and other servers; pages and documents are ignored.
fn plain_words(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok()?.trim_start();
    let line = text.lines().next()?.trim_end();
    (!line.is_empty() && !line.starts_with(['<', '{', '['])).then_some(line)
}

/// Returns true if a TLS server refuses plain http with this body: Go servers, and nginx in a page.
fn wants_tls(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_ascii_lowercase();
    text.contains("http request to an https server")
        || text.contains("http request was sent to https")
}

/// Which credentials were refused, or why there were none, and how to fix it.
fn shown(account: &Account, kind: ErrorKind) -> String {
    match (account, kind) {
        (Account::Sent(whose), ErrorKind::Unauthenticated) => {
            format!(
                "; it was sent as {whose}: check the password, or log in again with `docker login`"
            )
        }
        (Account::NotSent(why), ErrorKind::Unauthenticated) => {
            format!(
                "; no credentials were sent: {why}; log in with `docker login`, or set registry.username and registry.password"
            )
        }
        (Account::Sent(whose), ErrorKind::Denied) => format!("; it was sent as {whose}"),
        (Account::NotSent(why), ErrorKind::Denied) => format!("; no credentials were sent: {why}"),
        _ => String::new(),
    }
}

fn hint(status: StatusCode, kind: ErrorKind) -> &'static str {
    match (kind, status.as_u16()) {
        (ErrorKind::NoSuchStore, _) => "; some registries need the repository to be created first",
        (ErrorKind::Conflict, 400 | 404) => {
            "; a blob that it refers to is missing (deleted during this operation?)"
        }
        (ErrorKind::Unsupported, 413) => {
            "; the registry, or a proxy in front of it, limits the size of a request"
        }
        _ if status.as_u16() < 400 => IN_ITS_PLACE,
        _ => "",
    }
}

/// How long the server asks us to wait.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
    server_time::retry_after(text(RETRY_AFTER)?, text(DATE))
}

/// The table. `away`: the answer is not from the registry but from a host that it named, by a signed URL that expires.
pub(super) fn kind(
    status: StatusCode,
    codes: &[String],
    headers: &HeaderMap,
    away: bool,
) -> ErrorKind {
    let says = |code: &str| codes.iter().any(|c| c == code);
    match status.as_u16() {
        400 | 401 | 403 if away => ErrorKind::Unavailable,
        _ if says("TOOMANYREQUESTS") => ErrorKind::Throttled,
        400 | 404 if says("DIGEST_INVALID") || says("SIZE_INVALID") => ErrorKind::Corrupt,
        400 | 404 if says("MANIFEST_BLOB_UNKNOWN") => ErrorKind::Conflict,
        400 if says("UNSUPPORTED") || says("MANIFEST_INVALID") => ErrorKind::Unsupported,
        401 => ErrorKind::Unauthenticated,
        // GitHub uses 403 for rate limits and adds how long to wait.
        403 if retry_after(headers).is_some() => ErrorKind::Throttled,
        403 => ErrorKind::Denied,
        // A lost session: the same operation may succeed from its start.
        404 if says("BLOB_UPLOAD_UNKNOWN") => ErrorKind::Unavailable,
        404 if is_foreign(status, codes, headers, away) => ErrorKind::Unavailable,
        404 | 410 => ErrorKind::NoSuchStore,
        408 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        405 | 406 | 411 | 413 | 415 | 501 => ErrorKind::Unsupported,
        429 => ErrorKind::Throttled,
        507 => ErrorKind::Full,
        416 => ErrorKind::Corrupt,
        400..=499 => ErrorKind::Invalid,
        // 5xx; and a success, or a redirect, that no registry sends: another server answers, and may be gone a moment later.
        _ => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_its_kind() {
        use ErrorKind as K;
        for (status, want) in [
            (200, K::Unavailable),
            (307, K::Unavailable),
            (400, K::Invalid),
            (401, K::Unauthenticated),
            (403, K::Denied),
            (404, K::Unavailable),
            (410, K::NoSuchStore),
            (405, K::Unsupported),
            (408, K::Timeout),
            (409, K::Conflict),
            (411, K::Unsupported),
            (412, K::Conflict),
            (413, K::Unsupported),
            (416, K::Corrupt),
            (418, K::Invalid),
            (429, K::Throttled),
            (500, K::Unavailable),
            (501, K::Unsupported),
            (502, K::Unavailable),
            (503, K::Unavailable),
            (504, K::Unavailable),
            (507, K::Full),
            (599, K::Unavailable),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(
                kind(status, &[], &HeaderMap::new(), false),
                want,
                "{status}"
            );
        }
    }

    #[test]
    fn plain_words_of_a_refusal_are_its_first_line() {
        let go = b"Client sent an HTTP request to an HTTPS server.\n";
        assert_eq!(plain_words(go).unwrap().as_bytes(), go.trim_ascii_end());
        assert!(wants_tls(go));
        let page = b"<html><title>400 The plain HTTP request was sent to HTTPS port</title>";
        assert!(wants_tls(page) && plain_words(page).is_none());
        for nothing in [&b""[..], b"\n", b"{\"x\": 1}", b"\xff\xfe"] {
            assert!(plain_words(nothing).is_none() && !wants_tls(nothing));
        }
    }

    #[test]
    fn codes_and_headers_say_more_than_the_status() {
        let none = HeaderMap::new();
        let of = |status: u16, code: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            kind(status, &[code.to_owned()], &none, false)
        };
        assert_eq!(of(400, "DIGEST_INVALID"), ErrorKind::Corrupt);
        assert_eq!(of(400, "UNSUPPORTED"), ErrorKind::Unsupported);
        assert_eq!(of(404, "MANIFEST_BLOB_UNKNOWN"), ErrorKind::Conflict);
        assert_eq!(of(404, "BLOB_UPLOAD_UNKNOWN"), ErrorKind::Unavailable);
        assert_eq!(of(403, "TOOMANYREQUESTS"), ErrorKind::Throttled);
        let mut wait = HeaderMap::new();
        wait.insert("retry-after", "5".parse().unwrap());
        assert_eq!(
            kind(StatusCode::FORBIDDEN, &[], &wait, false),
            ErrorKind::Throttled
        );
        assert_eq!(
            kind(StatusCode::FORBIDDEN, &[], &none, true),
            ErrorKind::Unavailable
        );
    }
}
