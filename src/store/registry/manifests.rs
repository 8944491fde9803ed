//! Manifests: read and written as the bytes that they are (spec, "Pulling manifests", "Pushing Manifests").

use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, HeaderValue, LAST_MODIFIED},
};

use super::{
    client::Inner,
    date, error,
    wire::{Ask, Payload},
};
use crate::{
    artifact::{Manifest, Reference, descriptor::MAX_MANIFEST_BYTES, media},
    digest::Digest,
    entry::Time,
    redact,
    store::{Error, ErrorKind, Result, check},
    task,
};

/// All that we read; the list is one header, since some registries look at the first one only.
fn accept() -> HeaderValue {
    let all = [
        media::IMAGE_MANIFEST,
        media::IMAGE_INDEX,
        media::DOCKER_MANIFEST,
        media::DOCKER_LIST,
    ]
    .join(", ");
    HeaderValue::from_str(&all).expect("media types are plain text")
}

fn ask(inner: &Inner, op: &'static str, method: Method, reference: &Reference) -> Ask {
    Ask::new(
        op,
        method,
        inner.url(&format!("manifests/{reference}")),
        &inner.pull(),
    )
    .header(ACCEPT, accept())
    .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

/// A manifest, and when it was last written by the registry's `Last-Modified`.
pub(super) struct Got {
    pub(super) manifest: Manifest,
    pub(super) modified: Option<Time>,
}

/// Reads a manifest by tag or digest.
///
/// # Errors
/// `Corrupt` if it is over 4 MiB, does not hash to the digest that was asked for or named, or is no JSON object.
pub(super) async fn get(inner: &Inner, reference: &Reference) -> Result<Option<Got>> {
    let mut answer = inner
        .transport
        .send(&ask(inner, "resolve", Method::GET, reference))
        .await?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => return Ok(None),
        _ => return Err(error::refusal("resolve", answer).await.error),
    }
    let corrupt = |why: String| Error::new(ErrorKind::Corrupt, "resolve", why);
    if let Some(encoding) = answer
        .text(CONTENT_ENCODING)
        .filter(|e| !matches!(*e, "" | "identity"))
    {
        return Err(corrupt(format!(
            "the manifest came in the encoding `{}`",
            redact::escaped(encoding)
        )));
    }
    let modified = answer.text(LAST_MODIFIED).and_then(date::parse);
    let bytes = answer.read("resolve", MAX_MANIFEST_BYTES).await?;
    let media_type = answer.media_type();
    // Cheap, and tells a log-in page from a manifest where no digest does.
    if !is_json_object(&bytes) {
        let shown: String = media_type.chars().take(80).collect();
        return Err(corrupt(format!(
            "what came is no manifest ({}); is it a registry?",
            redact::escaped(&shown)
        )));
    }
    let mut manifest = if media_type.starts_with("application/vnd.") {
        Manifest::new(&media_type, bytes)
    } else {
        task::parse(bytes.len(), move || Manifest::sniff(bytes)).await
    };
    match reference {
        Reference::Digest(want) if !want.matches(&manifest.bytes) => {
            return Err(corrupt(format!(
                "the manifest that came is {}",
                manifest.digest
            )));
        }
        Reference::Digest(want) => manifest.digest = *want,
        Reference::Tag(_) => {
            if let Some(said) = answer
                .digest()
                .filter(|said| !said.matches(&manifest.bytes))
            {
                return Err(corrupt(format!(
                    "the registry says that it is {said}, and it is {}",
                    manifest.digest
                )));
            }
        }
    }
    Ok(Some(Got {
        manifest,
        modified: modified.map(|secs| Time { secs, nanos: 0 }),
    }))
}

/// The digest that a tag points at, without reading the manifest where the registry tells.
pub(super) async fn head(inner: &Inner, reference: &Reference) -> Result<Option<Digest>> {
    let answer = inner
        .transport
        .send(&ask(inner, "resolve", Method::HEAD, reference))
        .await?;
    match (answer.status, answer.digest()) {
        (StatusCode::OK, Some(digest)) => Ok(Some(digest)),
        (StatusCode::NOT_FOUND, _) => Ok(None),
        (StatusCode::OK | StatusCode::METHOD_NOT_ALLOWED, _) => {
            Ok(get(inner, reference).await?.map(|got| got.manifest.digest))
        }
        _ => Err(error::refusal("resolve", answer).await.error),
    }
}

/// Writes a manifest under a tag or its digest.
///
/// # Errors
/// `Conflict` if a blob that it names is not there; `Unsupported` if the registry does not take such a manifest.
pub(super) async fn put(inner: &Inner, manifest: &Manifest, reference: &Reference) -> Result<()> {
    check::check_manifest(manifest)?;
    let media_type = HeaderValue::from_str(&manifest.media_type).map_err(|_| {
        Error::new(
            ErrorKind::Invalid,
            "publish",
            "the media type is no text for a header",
        )
    })?;
    let url = inner.url(&format!("manifests/{reference}"));
    let mut ask = Ask::new("publish", Method::PUT, url, &inner.push());
    ask.headers
        .insert(reqwest::header::CONTENT_TYPE, media_type);
    ask.payload = Payload::Bytes(manifest.bytes.clone());
    ask.wait = Some(super::upload::COMMIT_WAIT);
    let answer = inner.transport.send(&ask).await?;
    match answer.status {
        // The spec says 201; ECR and others answer otherwise.
        StatusCode::CREATED | StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
            answer.check_digest("publish", &manifest.digest)
        }
        _ => Err(error::refusal("publish", answer).await.error),
    }
}

/// Says whether bytes are a JSON object. Nothing is kept of it: values of two bytes each would take sixteen times the document.
fn is_json_object(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    first == Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}
