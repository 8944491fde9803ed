//! Converts the SDK's errors into ours: one table for S3's codes, one for status codes.
//!
//! Codes: S3 API reference, "Error responses"; MinIO, Ceph and SeaweedFS use the same names.

use std::{error::Error as StdError, time::Duration};

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::{
    account::{self, Account},
    cap::TooLong,
    foreign::{Foreign, foreign, foreign_404},
    words::{chain, find, plain},
};
use crate::{
    entry::Time,
    store::{
        error::{Error, ErrorKind},
        net, server_time,
    },
};

/// From this difference on S3 refuses signatures (S3 API reference, `RequestTimeTooSkewed`: 15 minutes); half of it is worth
/// mentioning.
const SKEW_NAMED: Duration = Duration::from_mins(7);

/// Contents of an answer that is not a success.
struct Answer<'a> {
    status: u16,
    code: &'a str,
    words: &'a str,
    raw: &'a HttpResponse,
}

/// Converts an error of the SDK into one of ours.
#[expect(clippy::needless_pass_by_value, reason = "it is handed to `map_err`")]
pub(super) fn from_sdk<E>(op: &'static str, e: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    let error = match &e {
        SdkError::ConstructionFailure(_) => Error::invalid(op, chain(&e)),
        SdkError::TimeoutError(_) => Error::timeout(op, chain(&e)).unheard(),
        SdkError::DispatchFailure(failure) => {
            let known = if failure.is_timeout() {
                Some(ErrorKind::Timeout)
            } else if failure.is_io() || failure.as_other().is_some() {
                Some(ErrorKind::Unavailable)
            } else if failure.is_user() {
                Some(ErrorKind::Invalid)
            } else {
                None
            };
            not_sent(op, known, &e).unheard()
        }
        SdkError::ResponseError(_) if find::<Foreign>(&e).is_some() => foreign(
            op,
            find::<Foreign>(&e).map_or_else(String::new, ToString::to_string),
        ),
        SdkError::ResponseError(_) => match e.raw_response() {
            Some(raw) if !raw.status().is_success() => answered(
                op,
                &Answer {
                    status: raw.status().as_u16(),
                    code: "",
                    words: "",
                    raw,
                },
            ),
            _ if find::<TooLong>(&e).is_some() => no_document(op, &e),
            // The SDK keeps a complete body that it could not parse; of an interrupted one it keeps none.
            Some(raw) if raw.body().bytes().is_some() => no_document(op, &e),
            _ => Error::unavailable(op, format!("the answer ended early: {}", chain(&e))),
        },
        SdkError::ServiceError(service)
            if service.raw().status().is_success() && service.err().code().is_none() =>
        {
            no_document(op, &e)
        }
        SdkError::ServiceError(service) => answered(
            op,
            &Answer {
                status: service.raw().status().as_u16(),
                code: service.err().code().unwrap_or_default(),
                words: service.err().message().unwrap_or_default(),
                raw: service.raw(),
            },
        ),
        _ => Error::unavailable(op, chain(&e)),
    };
    // The message contains everything known; as causes, the SDK's own words would only repeat it.
    tracing::debug!(error = %chain(&e), "S3 refused the request");
    error
}

/// A success whose body S3 would not send.
fn no_document(op: &'static str, e: &(dyn StdError + 'static)) -> Error {
    foreign(
        op,
        format!("the answer is not an S3 document: {}", chain(e)),
    )
}

/// There was no answer: due to the connection, the name, the certificate or the credentials.
fn not_sent(op: &'static str, known: Option<ErrorKind>, e: &(dyn StdError + 'static)) -> Error {
    // The two outermost only say that it was not sent, in the SDK's words.
    let text = chain(e.source().and_then(StdError::source).unwrap_or(e));
    // A retry cannot help, and another certificate must not be accepted.
    match find::<rustls::Error>(e) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            return Error::invalid(op, net::certificate_refused(why));
        }
        Some(tls @ rustls::Error::NoCertificatesPresented) => {
            return Error::invalid(op, tls.to_string());
        }
        _ => {}
    }
    match known {
        // In the HTTP client's words a refused connection is "client error (Connect): tcp connect error: …".
        Some(kind) => Error::new(
            kind,
            op,
            match text.strip_prefix("client error (Connect): ") {
                Some(why) => {
                    let why = why.strip_prefix("tcp connect error: ").unwrap_or(why);
                    format!("cannot connect: {why}")
                }
                None => text,
            },
        ),
        // The SDK resolves credentials here, and its types do not distinguish such errors.
        None if text.contains("credential") || text.contains("identity") => Error::new(
            ErrorKind::Unauthenticated,
            op,
            match account::why_none(e) {
                Some(tried) => format!("no credentials: none found in {tried}"),
                // The SDK reports only once why a profile is unusable.
                None if text.contains("already taken") => {
                    "no credentials: the AWS profile is unusable, see an earlier message".to_owned()
                }
                None => format!("no credentials: {text}"),
            },
        ),
        None => Error::unavailable(op, text),
    }
}

fn answered(op: &'static str, a: &Answer<'_>) -> Error {
    // For an answer without a body the SDK makes up `NotFound`.
    let is_empty = a.raw.body().bytes().is_none_or(<[u8]>::is_empty);
    let is_made_up = a.code.is_empty() || (a.code == "NotFound" && is_empty);
    if a.status == 404 && is_made_up {
        return foreign_404(op, a.raw);
    }
    let kind = by_code(a.code).unwrap_or_else(|| by_status(a));
    let header = |name: &str| a.raw.headers().get(name);
    let mut text = format!("answered {}", a.status);
    if !a.code.is_empty() {
        text = format!("{text} {}", plain(a.code));
    }
    if !a.words.is_empty() {
        text = format!("{text}: {}", plain(a.words));
    }
    if let Some(id) = header("x-amz-request-id") {
        text = format!("{text} (request {})", plain(id));
    }
    if let Some(Account(account)) = a.raw.extension()
        && matches!(kind, ErrorKind::Denied | ErrorKind::Unauthenticated)
    {
        text = format!("{text}; it was sent {account}");
    }
    if let Some(hint) = hint(kind, a) {
        text = format!("{text}; {hint}");
    }
    let mut error = Error::new(kind, op, text);
    error.retry_after =
        header("retry-after").and_then(|value| server_time::retry_after(value, header("date")));
    error
}

pub(super) fn by_code(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "NoSuchBucket" => ErrorKind::NoSuchStore,
        "AccessDenied" | "AllAccessDisabled" | "AccountProblem" | "InvalidObjectState"
        | "MethodNotAllowed" => ErrorKind::Denied,
        "ExpiredToken"
        | "InvalidAccessKeyId"
        | "SignatureDoesNotMatch"
        | "InvalidToken"
        | "TokenRefreshRequired"
        | "InvalidSecurity"
        | "NotSignedUp"
        | "RequestExpired"
        | "ExpiredTokenException" => ErrorKind::Unauthenticated,
        "SlowDown"
        | "SlowDownRead"
        | "SlowDownWrite"
        | "ServiceUnavailable"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests"
        | "Busy"
        | "RequestThrottled"
        | "BandwidthLimitExceeded" => ErrorKind::Throttled,
        "RequestTimeout" => ErrorKind::Timeout,
        // Skew: the SDK measured it from this answer and signs by the server's clock from now on.
        // Digests: ours were checked before, so the bytes were damaged in transit.
        // NoSuchUpload: somebody swept it; the whole blob can be sent again.
        "InternalError"
        | "OperationAborted"
        | "RequestTimeTooSkewed"
        | "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "XAmzContentChecksumMismatch"
        | "NoSuchUpload"
        | "IncompleteBody"
        | "ServerNotInitialized" => ErrorKind::Unavailable,
        "PreconditionFailed" | "ConditionalRequestConflict" => ErrorKind::Conflict,
        "NotImplemented" | "InvalidDigest" | "MissingContentMD5" | "MissingContentLength" => {
            ErrorKind::Unsupported
        }
        "InvalidRange" => ErrorKind::Corrupt,
        "QuotaExceeded"
        | "XMinioStorageFull"
        | "StorageFull"
        | "InsufficientStorage"
        | "XMinioAdminBucketQuotaExceeded" => ErrorKind::Full,
        _ => return None,
    })
}

fn by_status(a: &Answer<'_>) -> ErrorKind {
    match a.status {
        401 => ErrorKind::Unauthenticated,
        403 | 405 | 407 => ErrorKind::Denied,
        404 => ErrorKind::NoSuchStore,
        408 | 504 => ErrorKind::Timeout,
        409 | 412 => ErrorKind::Conflict,
        411 | 413 | 501 => ErrorKind::Unsupported,
        416 => ErrorKind::Corrupt,
        429 => ErrorKind::Throttled,
        503 if a.raw.headers().get("retry-after").is_some() => ErrorKind::Throttled,
        507 => ErrorKind::Full,
        // 2xx: an error inside a success, as `CompleteMultipartUpload` sends it, with an unknown code.
        200..=299 | 500..=599 => ErrorKind::Unavailable,
        _ => ErrorKind::Invalid,
    }
}

fn hint(kind: ErrorKind, a: &Answer<'_>) -> Option<String> {
    if let Some(skew) = skew(a.raw) {
        return Some(skew);
    }
    if let Some(region) = right_region(a) {
        return Some(format!(
            "the bucket is in another region: set `region={region}`"
        ));
    }
    let text = match (kind, a.code) {
        (_, "RequestTimeTooSkewed") => "this node's clock is wrong: correct it",
        (ErrorKind::NoSuchStore, _) => {
            "the bucket does not exist at this endpoint: create it, or check its name, `endpoint` and `path_style`"
        }
        (_, "ExpiredToken" | "TokenRefreshRequired" | "ExpiredTokenException") => {
            "the session token has expired: get new credentials"
        }
        (_, "InvalidAccessKeyId") => {
            "this store does not know the access key: check `endpoint` and credentials"
        }
        (_, "SignatureDoesNotMatch") => {
            "check the secret key, `region`, and that no proxy rewrites requests"
        }
        (ErrorKind::Unauthenticated, _) => "check the credentials",
        (_, "InvalidObjectState") => {
            "the object is archived: restore it, or keep caches out of archive classes"
        }
        _ if a.status == 407 => {
            "the proxy requires a user and password: put them into `HTTPS_PROXY`"
        }
        (ErrorKind::Denied, _) => {
            "allow s3:GetObject, s3:PutObject, s3:DeleteObject, s3:AbortMultipartUpload below the prefix and s3:ListBucket on \
             the bucket; without s3:ListBucket a missing object is answered 403 too"
        }
        (ErrorKind::Throttled, _) => "lower the concurrency",
        (ErrorKind::Unsupported, _) => {
            "this store does not support all of S3: try `checksum=never`"
        }
        (ErrorKind::Full, _) => "the store is full: prune it, or raise its quota",
        _ if (300..400).contains(&a.status) => "set `endpoint` or `region` to that of the bucket",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Mentions a clock that differs much from the server's, if that explains the error.
fn skew(raw: &HttpResponse) -> Option<String> {
    if !matches!(raw.status().as_u16(), 400 | 401 | 403) {
        return None;
    }
    let server = server_time::date(raw.headers().get("date")?)?;
    let ahead = Time::now().secs - server.secs;
    let word = if ahead < 0 { "behind" } else { "ahead of" };
    let apart = Duration::from_secs(ahead.unsigned_abs());
    (apart > SKEW_NAMED).then(|| {
        format!(
            "this node's clock is {} min {word} the store's: correct it",
            apart.as_secs() / 60
        )
    })
}

fn right_region(a: &Answer<'_>) -> Option<String> {
    let wrong = (300..400).contains(&a.status)
        || matches!(
            a.code,
            "PermanentRedirect"
                | "TemporaryRedirect"
                | "Redirect"
                | "AuthorizationHeaderMalformed"
                | "IllegalLocationConstraintException"
        )
        || (a.status == 400 && a.code.is_empty());
    if !wrong {
        return None;
    }
    let said = a.raw.headers().get("x-amz-bucket-region").or_else(|| {
        // "the region 'us-east-1' is wrong; expecting 'eu-west-1'"
        let (_, rest) = a.words.split_once("expecting '")?;
        rest.split_once('\'').map(|(region, _)| region)
    })?;
    // Region names have this form everywhere; anything else would put foreign text into our hint.
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let is_region = (1..=63).contains(&said.len()) && said.bytes().all(is_name);
    is_region.then(|| said.to_owned())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::{config::http::HttpResponse, error::ErrorMetadata, primitives::SdkBody};

    use super::*;

    #[derive(Debug)]
    struct Said(ErrorMetadata);
    impl std::fmt::Display for Said {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("said")
        }
    }
    impl StdError for Said {}
    impl ProvideErrorMetadata for Said {
        fn meta(&self) -> &ErrorMetadata {
            &self.0
        }
    }

    fn error(status: u16, code: &str, words: &str, headers: &[(&'static str, &str)]) -> Error {
        let mut raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::empty());
        for (name, value) in headers {
            raw.headers_mut().insert(*name, (*value).to_owned());
        }
        let meta = ErrorMetadata::builder().code(code).message(words).build();
        from_sdk("get", SdkError::service_error(Said(meta), raw))
    }

    #[test]
    fn codes_and_statuses_have_the_kind_that_callers_act_on() {
        for (status, code, kind) in [
            (404, "NoSuchBucket", ErrorKind::NoSuchStore),
            (404, "NotFound", ErrorKind::Unavailable),
            (404, "", ErrorKind::Unavailable),
            (403, "AccessDenied", ErrorKind::Denied),
            (403, "RequestTimeTooSkewed", ErrorKind::Unavailable),
            (400, "ExpiredToken", ErrorKind::Unauthenticated),
            (403, "SignatureDoesNotMatch", ErrorKind::Unauthenticated),
            (503, "SlowDown", ErrorKind::Throttled),
            (200, "InternalError", ErrorKind::Unavailable),
            (200, "SlowDown", ErrorKind::Throttled),
            (400, "RequestTimeout", ErrorKind::Timeout),
            (412, "PreconditionFailed", ErrorKind::Conflict),
            (409, "ConditionalRequestConflict", ErrorKind::Conflict),
            (409, "OperationAborted", ErrorKind::Unavailable),
            (501, "NotImplemented", ErrorKind::Unsupported),
            (416, "InvalidRange", ErrorKind::Corrupt),
            (507, "", ErrorKind::Full),
            (400, "", ErrorKind::Invalid),
            (401, "", ErrorKind::Unauthenticated),
            (403, "", ErrorKind::Denied),
            (408, "", ErrorKind::Timeout),
            (411, "", ErrorKind::Unsupported),
            (413, "", ErrorKind::Unsupported),
            (429, "", ErrorKind::Throttled),
            (500, "", ErrorKind::Unavailable),
            (502, "", ErrorKind::Unavailable),
            (503, "", ErrorKind::Unavailable),
            (504, "", ErrorKind::Timeout),
        ] {
            assert_eq!(error(status, code, "", &[]).kind, kind, "{status} {code}");
        }
    }

    #[test]
    fn store_says_how_long_to_wait_in_seconds_or_as_a_date() {
        let wait =
            |headers: &[(&'static str, &str)]| error(503, "SlowDown", "", headers).retry_after;
        assert_eq!(wait(&[("retry-after", "7")]), Some(Duration::from_secs(7)));
        let (now, then) = (
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Wed, 21 Oct 2015 07:28:30 GMT",
        );
        assert_eq!(
            wait(&[("retry-after", then), ("date", now)]),
            Some(Duration::from_secs(30))
        );
        assert_eq!(wait(&[("retry-after", "soon")]), None);
    }

    #[test]
    fn wrong_region_is_named_with_the_right_one() {
        let e = error(
            301,
            "PermanentRedirect",
            "x",
            &[("x-amz-bucket-region", "eu-west-1")],
        );
        assert!(e.message.contains("region=eu-west-1"), "{e}");
        assert_eq!(e.kind, ErrorKind::Invalid);
        let words = "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-3'";
        let e = error(400, "AuthorizationHeaderMalformed", words, &[]);
        assert!(e.message.contains("region=eu-west-3"), "{e}");
        let said = [("x-amz-bucket-region", "127.0.0.1:9000/")];
        let e = error(301, "PermanentRedirect", "x", &said);
        assert!(!e.message.contains("region=127"), "{e}");
    }

    #[test]
    fn wrong_clock_is_named() {
        let e = error(
            403,
            "RequestTimeTooSkewed",
            "",
            &[("date", "Wed, 21 Oct 2015 07:28:00 GMT")],
        );
        assert!(e.message.contains("ahead of the store's"), "{e}");
        assert!(e.is_temporary());
        let e = error(403, "", "", &[("date", "Fri, 21 Oct 2095 07:28:00 GMT")]);
        assert!(e.message.contains("behind the store's"), "{e}");
    }

    #[test]
    fn words_of_the_server_stay_on_one_line_and_short() {
        let e = error(400, "X", &format!("a\r\nb{}", "c".repeat(5000)), &[]);
        assert!(!e.message.contains('\n') && e.message.len() < 500, "{e}");
    }
}
