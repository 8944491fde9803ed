//! Whether an answer is the store's: a maintenance page, a login page or a captive portal answers 200 to everything.
//!
//! Answers of S3: S3 API reference, "PutObject", "UploadPart", "DeleteObject" (empty bodies, the last with 204), "GetObject"
//! and "HeadObject" (an `ETag`), and XML documents. Google gives empty bodies the type `text/html`.

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents,
        http::HttpResponse,
        interceptors::{
            AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextRef,
        },
    },
    error::BoxError,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;

use super::words::plain;
use crate::store::error::Error;

/// Why an answer is not the store's.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Foreign(&'static str);

/// The corresponding error: the store may be back a moment later.
pub(super) fn foreign(op: &'static str, why: impl std::fmt::Display) -> Error {
    let message =
        format!("{why}; is something else (a proxy, a login page) answering in the store's place?");
    Error::unavailable(op, message)
}

/// A 404 without S3's document, which any server may send.
pub(super) fn foreign_404(op: &'static str, raw: &HttpResponse) -> Error {
    let header = |name: &str| raw.headers().get(name);
    let of = match (header("content-type"), header("server")) {
        (None, None) => String::new(),
        (Some(media_type), None) => format!(" ({media_type})"),
        (None, Some(server)) => format!(" (server {server})"),
        (Some(media_type), Some(server)) => format!(" ({media_type}, server {server})"),
    };
    let why = format!(
        "answered 404{}, but not with an S3 error document",
        plain(&of)
    );
    foreign(op, why)
}

/// Refuses answers that no S3 store sends, before the SDK treats them as a success.
#[derive(Debug)]
pub(super) struct Recognized;

impl Intercept for Recognized {
    fn name(&self) -> &'static str {
        "cachectl::store::s3::Recognized"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        settings: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let headers = response.headers();
        let asked = match settings.load::<Metadata>().map_or("", |m| m.name()) {
            "PutObject" | "UploadPart" => Asked::ToStore,
            "DeleteObject" | "AbortMultipartUpload" => Asked::ToDelete,
            "HeadObject" | "HeadBucket" => Asked::Head,
            _ => Asked::Other,
        };
        let head = Head {
            asked,
            status: response.status().as_u16(),
            media_type: headers.get("content-type").unwrap_or_default(),
            length: headers.get("content-length").and_then(|n| n.parse().ok()),
            tag: headers.get("etag").unwrap_or_default(),
        };
        head.check().map_err(BoxError::from)
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        // An object's own bytes are still to be received.
        let body = response.body().bytes().unwrap_or_default();
        if response.status().is_success() && !is_whole(body) {
            return Err(Foreign("the document ends too early").into());
        }
        Ok(())
    }
}

/// The kind of request, as far as its answer has a specific form.
#[derive(Debug, Clone, Copy)]
enum Asked {
    /// `PutObject`, `UploadPart`.
    ToStore,
    /// `DeleteObject`, `AbortMultipartUpload`.
    ToDelete,
    Head,
    Other,
}

/// What is known of an answer before its body.
struct Head<'a> {
    asked: Asked,
    status: u16,
    media_type: &'a str,
    length: Option<u64>,
    /// `ETag`.
    tag: &'a str,
}

impl Head<'_> {
    fn check(&self) -> Result<(), Foreign> {
        let success = (200..300).contains(&self.status);
        let page = ["text/html", "application/xhtml"]
            .iter()
            .any(|page| self.media_type.trim_start().starts_with(page));
        let empty = self.status == 204 || self.length == Some(0);
        // A "not found" is reported in XML, if the answer has a body at all.
        let missing = self.status == 404 && matches!(self.asked, Asked::Other);
        match self.asked {
            _ if page && !empty && (success || missing) => Err(Foreign("the answer is a page")),
            _ if !success => Ok(()),
            Asked::ToStore if self.length.is_some_and(|n| n > 0) => {
                Err(Foreign("the answer to an upload has a body"))
            }
            // Web servers add such a tag to any answer.
            Asked::ToStore if self.tag.starts_with("W/") => {
                Err(Foreign("the answer to an upload has a weak `ETag`"))
            }
            Asked::ToDelete if self.status != 204 => {
                Err(Foreign("the answer to a deletion is not 204"))
            }
            _ => Ok(()),
        }
    }
}

/// Returns true for anything but XML, and for XML that ends with its first element: the SDK accepts a truncated document as a
/// short one.
fn is_whole(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body);
    let text = text.trim_end();
    let named = text
        .match_indices('<')
        .map(|(at, _)| &text[at + 1..])
        .find(|rest| rest.starts_with(|c: char| c.is_alphabetic() || c == '_'));
    let Some(rest) = named else {
        return !text.starts_with('<');
    };
    let end = rest.find(|c: char| c.is_whitespace() || c == '>' || c == '/');
    let name = &rest[..end.unwrap_or(rest.len())];
    let empty = rest
        .find('>')
        .is_some_and(|at| at + 1 == rest.len() && rest.ends_with("/>"));
    let closed = text.strip_suffix('>').map(str::trim_end);
    empty || closed.is_some_and(|text| text.ends_with(&format!("</{name}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(asked: Asked, status: u16, media_type: &str, length: u64) -> Head<'_> {
        Head {
            asked,
            status,
            media_type,
            length: Some(length),
            tag: "\"d41d8cd98f00b204e9800998ecf8427e\"",
        }
    }

    #[test]
    fn an_upload_is_not_acknowledged_by_a_weak_tag() {
        let tag = "W/\"0-2jmj7l5rSw0yVb/vlWAYkK/YBwk\"";
        let answer = |asked| Head {
            tag,
            ..head(asked, 200, "", 0)
        };
        assert!(answer(Asked::ToStore).check().is_err());
        // A proxy that compresses weakens the tag.
        assert!(answer(Asked::Head).check().is_ok());
    }

    #[test]
    fn pages_and_bodies_that_s3_does_not_send_are_told_from_its_answers() {
        for (answer, is_ours) in [
            (head(Asked::ToStore, 200, "", 0), true),
            // Google's.
            (
                head(Asked::ToStore, 200, "text/html; charset=UTF-8", 0),
                true,
            ),
            (head(Asked::ToStore, 200, "application/json", 15), false),
            (head(Asked::ToStore, 500, "text/html", 90), true),
            (head(Asked::Other, 200, "application/xml", 90), true),
            (head(Asked::Other, 200, "text/html", 90), false),
            (head(Asked::Other, 404, "application/xml", 90), true),
            (
                head(Asked::Other, 404, "text/html; charset=utf-8", 90),
                false,
            ),
            (head(Asked::Head, 404, "text/html", 90), true),
            (head(Asked::Head, 200, "text/html", 90), false),
            (head(Asked::ToDelete, 204, "text/html", 0), true),
            (head(Asked::ToDelete, 200, "", 0), false),
        ] {
            let (asked, status, media_type) = (answer.asked, answer.status, answer.media_type);
            assert_eq!(
                answer.check().is_ok(),
                is_ours,
                "{asked:?} {status} {media_type}"
            );
        }
    }

    #[test]
    fn a_document_that_was_cut_is_not_whole() {
        for (body, whole) in [
            ("", true),
            ("<?xml version=\"1.0\"?>\n<A x=\"y\"><B>1</B></A>\n", true),
            ("<A/>", true),
            ("<A></A >", true),
            ("<?xml version=\"1.0\"?><A><B>1</B>", false),
            ("<?xml version=\"1.0\"?><A><B>1</B><C/>", false),
            ("<?xml version=\"1.0\"?>", false),
            ("<A><B>1</", false),
        ] {
            assert_eq!(is_whole(body.as_bytes()), whole, "{body}");
        }
    }
}
