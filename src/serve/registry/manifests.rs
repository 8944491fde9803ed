//! Manifests: read and written by tag and by digest, deleted.

use std::{collections::BTreeSet, time::Duration};

use axum::{
    body::Body,
    http::{Method, StatusCode, header, request::Parts},
};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;

use super::{
    Answer, Registry, Sight,
    children::{is_image, listed, warning},
    error::{Code, refuse},
    http::{OCI_SUBJECT, OCI_TAG, answer, finish, http_date, params, text, with_digest},
    media, route,
};
use crate::{
    artifact::{
        Manifest, Reference, Tag, buildkit::CacheManifest, descriptor::MAX_MANIFEST_BYTES,
        mentions, outline::Outline,
    },
    digest::Digest,
    ops::cache_tags::Pushed,
    serve::{door::Call, refusal::Refusal},
    store::keys::Repo,
    task,
};

/// Maximum number of tags that one request may write; the spec requires at least ten.
const MAX_TAGS: usize = 64;
/// Maximum time for receiving a manifest: it is collected in memory.
const LONGEST: Duration = Duration::from_mins(1);
/// Size from which a manifest needs its own kind of permit.
pub(super) const LARGE: usize = 64 << 10;
/// Longest artifact type: two names of 127 characters (RFC 6838, 4.2).
const MAX_TYPE: usize = 255;

pub(super) fn unknown(reference: &Reference) -> Refusal {
    refuse(
        Code::MANIFEST_UNKNOWN,
        format!("manifest {reference} is not in this repository"),
    )
}

impl Registry {
    pub(super) async fn get_manifest(
        &self,
        repo: &Repo,
        reference: &Reference,
        call: &Call,
        sight: Sight,
    ) -> Answer {
        let (repository, parts) = (self.read_only(repo), &call.parts);
        let sees = self.sees_sources(&repository, reference, sight, &call.ticket);
        if !sees.await? {
            return Err(unknown(reference));
        }
        let known = |digest: &Digest| {
            let etag = format!("\"{digest}\"");
            text(&parts.headers, &header::IF_NONE_MATCH).is_some_and(|t| t == etag)
        };
        let is_head = parts.method == Method::HEAD;
        let found = self.look_up(&repository, reference, call, |digest| {
            !is_head && !known(digest)
        });
        let found = found.await?;
        let digest = found.digest;
        if sight == Sight::Own {
            self.sights.heard_of(repository.name(), &digest);
        }
        let is_known = known(&digest);
        let status = if is_known {
            StatusCode::NOT_MODIFIED
        } else {
            StatusCode::OK
        };
        let mut builder = with_digest(answer(status), &digest)
            .header(header::CONTENT_TYPE, media::to_serve(&found.media_type))
            .header(header::ETAG, format!("\"{digest}\""));
        // The time of the tag, not of the manifest: its target cannot have been published later.
        if let (Some(at), Reference::Tag(_)) = (found.modified.and_then(http_date), reference) {
            builder = builder.header(header::LAST_MODIFIED, at);
        }
        if is_known {
            return finish(builder, "");
        }
        let builder = builder.header(header::CONTENT_LENGTH, found.size);
        let bytes = found.manifest.filter(|_| !is_head).map(|m| m.bytes);
        finish(builder, bytes.unwrap_or_default())
    }

    pub(super) async fn put_manifest(
        &self,
        repo: &Repo,
        reference: &Reference,
        call: &Call,
        body: Body,
        sight: Sight,
    ) -> Answer {
        let put = self.read_and_put(repo, reference, call, body, sight);
        let answer = Box::pin(put).await;
        call.ticket.drop_body();
        answer
    }

    async fn read_and_put(
        &self,
        repo: &Repo,
        reference: &Reference,
        call: &Call,
        body: Body,
        sight: Sight,
    ) -> Answer {
        let (manifest, outline, is_cache) = take(reference, call, body).await?;
        let tags = tags(reference, &call.parts)?;
        let (repository, ticket) = (self.repository(repo), &call.ticket);
        let caches = self.caches.of(ticket.key());
        let is_image = !is_cache && is_image(&manifest.media_type, &outline);
        let push = || async {
            // Each attempt acquires its own: one that waits for the store must not hold up others. A cache is taken apart and
            // merged; a prune waits for requests with a pass, so no permit is waited for after that.
            let merging = if is_cache {
                Some(ticket.place_in(|a| &a.merges).await?)
            } else {
                None
            };
            let _pass = self.pass(call).await;
            let checked = self.check_children(&repository, &outline, sight);
            let flaws = ticket.unless_cut(checked).await??;
            if is_image {
                self.judge(&flaws)?;
            }
            if sight == Sight::Own && !repository.is_checked(&manifest.digest).await? {
                self.sights.check(&repository, &manifest.digest).await?;
            }
            let pushed = caches.push(&repository, &manifest, &tags).await?;
            drop(merging);
            let named = outline.children().map(|n| &n.digest);
            self.pause
                .named(ticket.key(), named.chain([&manifest.digest]));
            if tags.is_empty() {
                // An index may name it later.
                self.promise(call, &manifest.digest);
            }
            Ok((flaws, pushed))
        };
        let held = call.until_back(&manifest.digest, push);
        let (flaws, pushed) = Box::pin(held).await?;
        if let Pushed::Refused(shrink) = pushed {
            let why = format!("{shrink}; pass the same cache to --cache-from and --cache-to");
            return Err(Refusal::denied(why));
        }
        let digest = &manifest.digest;
        self.sights.heard_of(repository.name(), digest);
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
        if is_image && !flaws.is_empty() {
            let flaws = listed(&flaws);
            tracing::warn!(%repo, %digest, flaws, "Incomplete image accepted");
        }
        if let Some(warning) = warning(&flaws) {
            builder = builder.header(header::WARNING, warning);
        }
        finish(builder, "")
    }

    pub(super) async fn delete_manifest(
        &self,
        repo: &Repo,
        reference: &Reference,
        call: &Call,
    ) -> Answer {
        let repository = self.repository(repo);
        if let Reference::Digest(digest) = reference
            && !repository.is_checked(digest).await?
        {
            self.sights.keep_doubts(&repository, digest).await?;
        }
        let caches = self.caches.of(call.ticket.key());
        if caches.delete(&repository, reference).await? {
            finish(answer(StatusCode::ACCEPTED), "")
        } else {
            Err(unknown(reference))
        }
    }
}

/// Reads what a pushed manifest names. A manifest that a sweep could not read later is refused as well.
async fn understand(manifest: &Manifest) -> Result<(Outline, bool), Refusal> {
    let read = {
        let manifest = manifest.clone();
        move || {
            let outline = Outline::of_pushed(&manifest).map_err(|why| why.to_string())?;
            let kind = outline.artifact_type.as_deref().unwrap_or_default();
            if kind.len() > MAX_TYPE {
                return Err(format!("its artifact type has over {MAX_TYPE} characters"));
            }
            mentions::read(&manifest.bytes, &mut |_, _| {})?;
            let is_cache = CacheManifest::read(&manifest).is_ok_and(|c| c.is_some());
            Ok::<_, String>((outline, is_cache))
        }
    };
    let read = task::parse(manifest.bytes.len(), read).await;
    read.map_err(|why| refuse(Code::MANIFEST_INVALID, why))
}

/// Receives a manifest and reads what it names; a large one is parsed with its own kind of permit.
async fn take(
    reference: &Reference,
    call: &Call,
    body: Body,
) -> Result<(Manifest, Outline, bool), Refusal> {
    let bytes = receive(call, body).await?;
    let _parsing = if bytes.len() > LARGE {
        Some(call.ticket.place_in(|a| &a.large_manifests).await?)
    } else {
        None
    };
    let manifest = read(reference, &call.parts, bytes).await?;
    let (outline, is_cache) = understand(&manifest).await?;
    Ok((manifest, outline, is_cache))
}

/// Receives the body; a large one takes a slot among large transfers, which the request's ticket then holds.
async fn receive(call: &Call, body: Body) -> Result<Bytes, Refusal> {
    let too_long = || {
        refuse(
            Code::MANIFEST_INVALID,
            format!("a manifest may have at most {MAX_MANIFEST_BYTES} bytes"),
        )
        .status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let length = text(&call.parts.headers, &header::CONTENT_LENGTH);
    let length = length.and_then(|l| l.parse::<u64>().ok());
    if length.is_some_and(|l| l > MAX_MANIFEST_BYTES) {
        return Err(too_long());
    }
    let (mut bytes, mut is_large) = (BytesMut::new(), false);
    let mut pieces = call.ticket.receive_within(body, LONGEST);
    while let Some(piece) = pieces.try_next().await? {
        if (bytes.len() + piece.len()) as u64 > MAX_MANIFEST_BYTES {
            return Err(too_long());
        }
        if !is_large && bytes.len() + piece.len() > LARGE {
            call.ticket.large_body().await?;
            is_large = true;
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// Checks a body against the request's headers and reference.
async fn read(reference: &Reference, parts: &Parts, bytes: Bytes) -> Result<Manifest, Refusal> {
    let mut manifest = task::parse(bytes.len(), move || Manifest::sniff(bytes)).await;
    let said = text(&parts.headers, &header::CONTENT_TYPE);
    // Parameters are not part of the type that is returned.
    let said = said.and_then(|t| t.split(';').next()).map(str::trim);
    if let Some(said) = said.filter(|t| !t.is_empty()) {
        said.clone_into(&mut manifest.media_type);
    }
    if !media::may_be_pushed(&manifest.media_type) {
        let shown: String = manifest.media_type.chars().take(100).collect();
        let why = format!(
            "invalid media type `{shown}` of a manifest: expected application/… and no type that a browser would execute"
        );
        return Err(refuse(Code::MANIFEST_INVALID, why));
    }
    if let Reference::Digest(digest) = reference {
        if !digest.matches(&manifest.bytes) {
            let why = format!("the manifest does not have the digest {digest}");
            return Err(refuse(Code::DIGEST_INVALID, why));
        }
        manifest.digest = *digest;
    }
    Ok(manifest)
}

/// The tags that a request writes: its reference, or for a digest those in the query.
fn tags(reference: &Reference, parts: &Parts) -> Result<Vec<Tag>, Refusal> {
    let asked = match reference {
        Reference::Tag(tag) => return Ok(vec![tag.clone()]),
        Reference::Digest(_) => params(parts.uri.query(), "tag"),
    };
    if asked.len() > MAX_TAGS {
        let why = format!("one request may write at most {MAX_TAGS} tags");
        return Err(refuse(Code::MANIFEST_INVALID, why).status(StatusCode::URI_TOO_LONG));
    }
    let tags: Result<BTreeSet<Tag>, Refusal> = asked.iter().map(|t| route::tag(t)).collect();
    Ok(tags?.into_iter().collect())
}
