//! Manifests: read and written by tag and by digest, deleted.

use std::collections::BTreeSet;

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header, request::Parts},
};
use bytes::BytesMut;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Answer, Registry,
    error::{Code, Refusal},
    http::{OCI_SUBJECT, OCI_TAG, answer, finish, incoming, params, text, with_digest},
    route,
    sight::Sight,
};
use crate::{
    artifact::{Manifest, Reference, Tag, descriptor::MAX_MANIFEST_BYTES, outline::Outline},
    digest::Digest,
    ops::cache_tags::Pushed,
    store::{Repository, keys::Repo, repository::Presence},
};

/// Most tags that one request may write; the spec asks for ten at least.
const MAX_TAGS: usize = 64;
/// Children whose presence is checked at once.
const AT_ONCE: usize = 16;
/// Missing children that a warning names.
const NAMED: usize = 5;

fn unknown(reference: &Reference) -> Refusal {
    Refusal::new(
        Code::ManifestUnknown,
        format!("there is no manifest {reference} here"),
    )
}

impl Registry {
    pub(super) async fn get_manifest(
        &self,
        repo: &Repo,
        reference: &Reference,
        parts: &Parts,
    ) -> Answer {
        let found = self.caches.resolve(&self.repository(repo), reference).await;
        let found = found.map_err(|e| {
            tracing::debug!(error = %e, "Manifest cannot be served");
            Refusal::of_store(&e, Code::ManifestUnknown)
        })?;
        let Manifest {
            media_type,
            bytes,
            digest,
        } = found.ok_or_else(|| unknown(reference))?;
        let etag = format!("\"{digest}\"");
        let known = text(&parts.headers, &header::IF_NONE_MATCH).is_some_and(|t| t == etag);
        let status = if known {
            StatusCode::NOT_MODIFIED
        } else {
            StatusCode::OK
        };
        let builder = with_digest(answer(status), &digest)
            .header(header::CONTENT_TYPE, media_type)
            .header(header::ETAG, etag);
        if known {
            return finish(builder, "");
        }
        let builder = builder.header(header::CONTENT_LENGTH, bytes.len());
        finish(builder, bytes)
    }

    pub(super) async fn put_manifest(
        &self,
        repo: &Repo,
        reference: &Reference,
        parts: &Parts,
        body: Body,
        sight: Sight,
    ) -> Answer {
        let manifest = read(reference, parts, body).await?;
        let tags = tags(reference, parts)?;
        let repository = self.repository(repo);
        let outline = Outline::of(&manifest)
            .map_err(|why| Refusal::new(Code::ManifestInvalid, why.to_string()))?;
        let push = || async {
            let missing = self.check_children(&repository, &outline, sight).await?;
            let pushed = self.caches.push(&repository, &manifest, &tags).await?;
            Ok((missing, pushed))
        };
        let held = self
            .hold
            .until_back(&manifest.digest, parts.extensions.get(), push);
        let (missing, pushed) = Box::pin(held).await?;
        if let Pushed::Refused(shrink) = pushed {
            let why = format!("{shrink}; pass the same cache to --cache-from and --cache-to");
            return Err(Refusal::new(Code::Denied, why));
        }
        let digest = &manifest.digest;
        let mut builder = with_digest(answer(StatusCode::CREATED), digest)
            .header(header::LOCATION, format!("/v2/{repo}/manifests/{digest}"));
        if let Some(subject) = &outline.subject {
            builder = builder.header(OCI_SUBJECT, subject.to_string());
        }
        for tag in tags
            .iter()
            .filter(|_| matches!(reference, Reference::Digest(_)))
        {
            builder = builder.header(OCI_TAG, tag.to_string());
        }
        if let Some(warning) = warning(&missing) {
            builder = builder.header(header::WARNING, warning);
        }
        finish(builder, "")
    }

    /// Finds the children that are not there. What was never there may be missing ("sparse"); what was deleted here may not,
    /// since whoever pushes believes that it still is. Who does not see every blob may name only what he sees.
    async fn check_children(
        &self,
        repository: &Repository,
        outline: &Outline,
        sight: Sight,
    ) -> Result<Vec<Digest>, Refusal> {
        let children: BTreeSet<Digest> = outline.children().map(|n| n.digest).collect();
        let found = stream::iter(children).map(|digest| async move {
            let state = if self.named.sees(repository, &digest, sight).await? {
                repository.presence(&digest).await?
            } else {
                Presence::Deleted
            };
            Ok::<_, Refusal>((digest, state))
        });
        let found: Vec<_> = found.buffered(AT_ONCE).try_collect().await?;
        if let Some((digest, _)) = found.iter().find(|(_, s)| *s == Presence::Deleted) {
            let why = format!("it names {digest}, which is not here; push that first");
            return Err(Refusal::new(Code::ManifestBlobUnknown, why));
        }
        let missing = found.into_iter().filter(|(_, s)| *s == Presence::Missing);
        Ok(missing.map(|(digest, _)| digest).collect())
    }

    pub(super) async fn delete_manifest(&self, repo: &Repo, reference: &Reference) -> Answer {
        let repository = self.repository(repo);
        if self.caches.delete(&repository, reference).await? {
            finish(answer(StatusCode::ACCEPTED), "")
        } else {
            Err(unknown(reference))
        }
    }
}

/// Reads the body and checks it against what the request says of it.
async fn read(reference: &Reference, parts: &Parts, body: Body) -> Result<Manifest, Refusal> {
    let too_long = || {
        Refusal::new(
            Code::ManifestInvalid,
            format!("a manifest may have {MAX_MANIFEST_BYTES} bytes at most"),
        )
        .status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let length = text(&parts.headers, &header::CONTENT_LENGTH).and_then(|l| l.parse::<u64>().ok());
    if length.is_some_and(|l| l > MAX_MANIFEST_BYTES) {
        return Err(too_long());
    }
    let mut bytes = BytesMut::new();
    let mut pieces = incoming(body);
    while let Some(piece) = pieces.try_next().await? {
        if (bytes.len() + piece.len()) as u64 > MAX_MANIFEST_BYTES {
            return Err(too_long());
        }
        bytes.extend_from_slice(&piece);
    }
    let mut manifest = Manifest::sniff(bytes.freeze());
    let said = text(&parts.headers, &header::CONTENT_TYPE);
    // Parameters are not part of the type that is given back.
    let said = said.and_then(|t| t.split(';').next()).map(str::trim);
    if let Some(said) = said.filter(|t| !t.is_empty()) {
        said.clone_into(&mut manifest.media_type);
    }
    if let Reference::Digest(digest) = reference {
        if !digest.matches(&manifest.bytes) {
            let why = format!("the manifest does not have the digest {digest}");
            return Err(Refusal::new(Code::DigestInvalid, why));
        }
        manifest.digest = *digest;
    }
    Ok(manifest)
}

/// The tags that a request writes: its reference, or with a digest those of the query.
fn tags(reference: &Reference, parts: &Parts) -> Result<Vec<Tag>, Refusal> {
    let asked = match reference {
        Reference::Tag(tag) => return Ok(vec![tag.clone()]),
        Reference::Digest(_) => params(parts.uri.query(), "tag"),
    };
    if asked.len() > MAX_TAGS {
        let why = format!("one request may write {MAX_TAGS} tags at most");
        return Err(Refusal::new(Code::ManifestInvalid, why).status(StatusCode::URI_TOO_LONG));
    }
    let tags: Result<BTreeSet<Tag>, Refusal> = asked.iter().map(|t| route::tag(t)).collect();
    Ok(tags?.into_iter().collect())
}

/// What a client shows its user (RFC 7234, 5.5, as the distribution spec wants it).
fn warning(missing: &[Digest]) -> Option<HeaderValue> {
    let first = missing.first()?;
    let more = missing.len().min(NAMED) - 1;
    let others = if missing.len() > 1 {
        let named: Vec<String> = missing[1..=more].iter().map(ToString::to_string).collect();
        format!(", {} ({} in all)", named.join(", "), missing.len())
    } else {
        String::new()
    };
    let warning = format!("299 - \"the manifest names content that is not here: {first}{others}\"");
    warning.try_into().ok()
}
