//! Errors of the network, and answers of other servers in place of the registry's.

use super::guard::LookupError;
use crate::store::{Error, ErrorKind, net};

/// Added to the description of an answer that no registry sends.
pub(super) const IN_ITS_PLACE: &str =
    "; is something else (a proxy, a login page) answering in the registry's place?";

/// An answer that is not the registry's: the registry may be back a moment later.
pub(super) fn foreign(op: &'static str, why: impl std::fmt::Display) -> Error {
    Error::unavailable(op, format!("{why}{IN_ITS_PLACE}"))
}

/// A request without an answer, or whose answer broke off. `other_way` is the option for using TLS, or not.
pub(super) fn network(op: &'static str, e: reqwest::Error, other_way: &str) -> Error {
    let is_plain = e.url().is_some_and(|url| url.scheme() == "http");
    // The URL may be signed.
    let e = e.without_url();
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&e);
    let mut deepest = e.to_string();
    let mut found = None;
    while let Some(c) = cause {
        deepest = c.to_string();
        if let Some(own) = c.downcast_ref::<Error>() {
            // The file that is being sent caused it.
            return Error::new(own.kind, op, own.message.clone());
        }
        if let Some(lookup) = c.downcast_ref::<LookupError>() {
            let kind = match lookup {
                LookupError::Unknown(..) => ErrorKind::Unavailable,
                LookupError::Refused(_) => ErrorKind::Denied,
            };
            found = Some((kind, lookup.to_string()));
            break;
        }
        if let Some(tls) = c.downcast_ref::<rustls::Error>() {
            found = Some(tls_trouble(tls, other_way));
            break;
        }
        // What a server sends over TLS to a request without.
        if is_plain && c.is::<hyper::Error>() && deepest.contains("invalid HTTP version") {
            let message = format!("it does not speak HTTP; if it speaks TLS, {other_way}");
            found = Some((ErrorKind::Invalid, message));
            break;
        }
        // `io::Error` shows its inner error's source, not the inner error itself.
        let inner = c
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => c.source(),
        };
    }
    let (kind, message) = found.unwrap_or_else(|| {
        let what = if e.is_connect() {
            "cannot connect"
        } else if e.is_body() || e.is_decode() {
            "the answer ended early"
        } else {
            "the connection was lost"
        };
        let kind = if e.is_timeout() {
            ErrorKind::Timeout
        } else {
            ErrorKind::Unavailable
        };
        (kind, format!("{what}: {deepest}"))
    });
    // The message contains the deepest cause; the ones in between repeat it in the HTTP client's words.
    tracing::debug!(error = ?e, "No answer from the registry");
    Error::new(kind, op, message)
}

fn tls_trouble(e: &rustls::Error, other_way: &str) -> (ErrorKind, String) {
    match e {
        rustls::Error::InvalidCertificate(why) => {
            (ErrorKind::Invalid, net::certificate_refused(why))
        }
        rustls::Error::InvalidMessage(why) => (
            ErrorKind::Invalid,
            format!("it does not speak TLS ({why:?}); {other_way}"),
        ),
        other => (ErrorKind::Unavailable, format!("TLS failed: {other}")),
    }
}
