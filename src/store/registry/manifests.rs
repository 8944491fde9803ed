//! Manifests: read and written as unmodified bytes (spec, "Pulling manifests", "Pushing Manifests").

use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, ACCEPT_ENCODING, HeaderValue, LAST_MODIFIED},
};

use super::{
    error,
    request::{Ask, Payload},
    shared::Shared,
};
use crate::{
    artifact::{Manifest, Reference, descriptor::MAX_MANIFEST_BYTES, media},
    digest::Digest,
    entry::Time,
    redact,
    store::{Error, Result, check, server_time},
    task,
};

/// All supported media types; in one header, since some registries read only the first one.
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

fn ask(shared: &Shared, op: &'static str, method: Method, reference: &Reference) -> Ask {
    Ask::new(
        op,
        method,
        shared.url(&format!("manifests/{reference}")),
        &shared.pull(),
    )
    .header(ACCEPT, accept())
    .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
}

/// A manifest, and the time of its last writing according to the registry's `Last-Modified`.
pub(super) struct Got {
    pub(super) manifest: Manifest,
    pub(super) modified: Option<Time>,
}

/// Reads a manifest by tag or digest.
///
/// # Errors
/// `Corrupt` if it is over 4 MiB, does not match the digest that was requested or named, or is not a JSON object.
pub(super) async fn get(shared: &Shared, reference: &Reference) -> Result<Option<Got>> {
    let mut answer = shared
        .transport
        .send(&ask(shared, "resolve", Method::GET, reference))
        .await?;
    match answer.status {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            shared.transport.missing("resolve", answer).await?;
            return Ok(None);
        }
        _ => return Err(answer.refusal("resolve").await.error),
    }
    let corrupt = |why: String| Error::corrupt("resolve", why);
    answer.check_plain("resolve")?;
    let modified = answer.text(LAST_MODIFIED).and_then(server_time::date);
    let bytes = answer.read("resolve", MAX_MANIFEST_BYTES).await?;
    let media_type = answer.media_type();
    // Cheap, and distinguishes a log-in page from a manifest if there is no digest.
    if !is_json_object(&bytes) {
        let shown: String = media_type.chars().take(80).collect();
        let why = format!("the answer is not a manifest ({})", redact::escaped(&shown));
        return Err(error::foreign("resolve", why));
    }
    // Any server may send JSON.
    let vouched = answer.digest().is_some() || media_type.starts_with("application/vnd.");
    if !vouched && !has_version(&bytes) {
        let why = "the answer is JSON, but not a manifest";
        return Err(error::foreign("resolve", why));
    }
    let mut manifest = if media_type.starts_with("application/vnd.") {
        Manifest::new(&media_type, bytes)
    } else {
        task::parse(bytes.len(), move || Manifest::sniff(bytes)).await
    };
    match reference {
        Reference::Digest(want) if !want.matches(&manifest.bytes) => {
            return Err(corrupt(format!("received manifest {}", manifest.digest)));
        }
        Reference::Digest(want) => manifest.digest = *want,
        Reference::Tag(_) => {
            if let Some(said) = answer
                .digest()
                .filter(|said| !said.matches(&manifest.bytes))
            {
                return Err(corrupt(format!(
                    "the registry reports digest {said}, but its digest is {}",
                    manifest.digest
                )));
            }
        }
    }
    Ok(Some(Got { manifest, modified }))
}

/// The digest that a tag points at, without reading the manifest if the registry reports the digest.
pub(super) async fn head(shared: &Shared, reference: &Reference) -> Result<Option<Digest>> {
    let answer = shared
        .transport
        .send(&ask(shared, "resolve", Method::HEAD, reference))
        .await?;
    match (answer.status, answer.digest()) {
        (StatusCode::OK, Some(digest)) => Ok(Some(digest)),
        (StatusCode::NOT_FOUND, _) => {
            shared.transport.missing("resolve", answer).await?;
            Ok(None)
        }
        (StatusCode::OK | StatusCode::METHOD_NOT_ALLOWED, _) => {
            Ok(get(shared, reference).await?.map(|got| got.manifest.digest))
        }
        _ => Err(answer.refusal("resolve").await.error),
    }
}

/// Writes a manifest under a tag or its digest.
///
/// # Errors
/// `Conflict` if a blob that it names is missing; `Unsupported` if the registry does not accept such a manifest.
pub(super) async fn put(shared: &Shared, manifest: &Manifest, reference: &Reference) -> Result<()> {
    check::check_manifest(manifest)?;
    let media_type = HeaderValue::from_str(&manifest.media_type)
        .map_err(|_| Error::invalid("publish", "the media type is not valid in a header"))?;
    let url = shared.url(&format!("manifests/{reference}"));
    let mut ask = Ask::new("publish", Method::PUT, url, &shared.push());
    ask.headers
        .insert(reqwest::header::CONTENT_TYPE, media_type);
    ask.payload = Payload::Bytes(manifest.bytes.clone());
    let answer = shared.transport.send(&ask.committing()).await?;
    match answer.status {
        StatusCode::CREATED => answer.check_digest("publish", &manifest.digest),
        // The spec requires 201; some registries answer otherwise, and so does a server that answers 200 to everything.
        StatusCode::OK | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => {
            answer.check_digest("publish", &manifest.digest)?;
            let digest = manifest.digest;
            let is_there = head(shared, reference)
                .await?
                .is_some_and(|now| now == digest || now.algorithm() != digest.algorithm());
            if is_there {
                return Ok(());
            }
            let status = answer.status;
            let why =
                format!("the registry answered {status} to the manifest, but does not have it");
            Err(error::foreign("publish", why))
        }
        _ => Err(answer.refusal("publish").await.error),
    }
}

/// Returns true if a document has the one member that every manifest without its own media type has.
fn has_version(bytes: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Head {
        schema_version: Option<serde::de::IgnoredAny>,
        media_type: Option<serde::de::IgnoredAny>,
    }
    serde_json::from_slice::<Head>(bytes)
        .is_ok_and(|head| head.schema_version.is_some() || head.media_type.is_some())
}

/// Returns true if bytes are a JSON object. Parses without storing: values of two bytes each would take sixteen times the
/// document.
fn is_json_object(bytes: &[u8]) -> bool {
    let first = bytes.iter().find(|b| !b.is_ascii_whitespace());
    first == Some(&b'{') && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok()
}
