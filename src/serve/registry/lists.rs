//! Lists: tags, and the manifests that refer to one.

use axum::http::{StatusCode, header, request::Parts, response::Builder};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::sync::Semaphore;

use super::{
    Answer, Registry,
    error::{Code, Refusal},
    http::{OCI_FILTERS, answer, finish, param},
    manifests::LARGE,
    uploads::ticket,
};
use crate::{
    artifact::{Descriptor, media, outline::Outline},
    digest::Digest,
    store::{Repository, keys::Repo},
    task,
};

/// Most entries of a page of tags.
const MAX_TAGS: usize = 10_000;
/// Bytes of descriptors after which a page of referrers ends: clients take manifests of 4 MiB at most.
const MAX_REFERRERS_BYTES: usize = 3 << 20;
/// Bytes of manifests that are read for a page of referrers, whether they are among those that are asked for or not.
const MAX_READ_BYTES: usize = 16 << 20;
/// Manifests that are read at once, and of them large ones.
const AT_ONCE: usize = 8;
const LARGE_AT_ONCE: usize = 1;

/// Entries of a page; asked for more than `most`, or for no count, that many.
pub(super) fn count(parts: &Parts, most: usize) -> Result<usize, Refusal> {
    match param(parts.uri.query(), "n") {
        None => Ok(most),
        Some(n) => match n.parse::<usize>() {
            Ok(n) => Ok(n.min(most)),
            Err(_) => Err(
                Refusal::new(Code::Unsupported, format!("`n={n}` is not a count"))
                    .status(StatusCode::BAD_REQUEST),
            ),
        },
    }
}

/// Says where the next page is.
pub(super) fn next(builder: Builder, path: &str, query: &[(&str, &str)]) -> Builder {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    builder.header(header::LINK, format!("<{path}?{query}>; rel=\"next\""))
}

impl Registry {
    pub(super) async fn list_tags(&self, repo: &Repo, parts: &Parts) -> Answer {
        send(parts, || self.tags(repo, parts)).await
    }

    pub(super) async fn list_referrers(
        &self,
        repo: &Repo,
        subject: &Digest,
        parts: &Parts,
    ) -> Answer {
        send(parts, || self.referrers(repo, subject, parts)).await
    }

    async fn tags(&self, repo: &Repo, parts: &Parts) -> Result<List, Refusal> {
        let n = count(parts, MAX_TAGS)?;
        let last = param(parts.uri.query(), "last");
        let repository = self.read_only(repo);
        let tags = repository.tags().await?;
        if tags.is_empty() && !repository.exists().await? {
            let why = format!("there is no repository {repo} here");
            return Err(Refusal::new(Code::NameUnknown, why));
        }
        let after = last.as_deref().unwrap_or_default();
        let from = tags.partition_point(|t| t.as_str() <= after && last.is_some());
        let rest = &tags[from..];
        let page = &rest[..n.min(rest.len())];
        let mut builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, "application/json");
        if let Some(end) = page.last().filter(|_| page.len() < rest.len()) {
            let path = format!("/v2/{repo}/tags/list");
            builder = next(
                builder,
                &path,
                &[("n", &n.to_string()), ("last", end.as_str())],
            );
        }
        let names: Vec<&str> = page.iter().map(crate::artifact::Tag::as_str).collect();
        let list = json!({"name": repo.as_str(), "tags": names});
        Ok((builder, list.to_string()))
    }

    async fn referrers(
        &self,
        repo: &Repo,
        subject: &Digest,
        parts: &Parts,
    ) -> Result<List, Refusal> {
        let query = parts.uri.query();
        let wanted = param(query, "artifactType").filter(|t| !t.is_empty());
        let last = param(query, "last");
        let repository = self.read_only(repo);
        let mut digests = repository.referrers(subject).await?;
        if let Some(last) = &last {
            digests.retain(|d| d.to_string() > *last);
        }
        let large = Semaphore::new(LARGE_AT_ONCE);
        let mut described = stream::iter(digests)
            .map(|digest| describe(&repository, digest, &large))
            .buffered(AT_ONCE);
        let (mut page, mut bytes, mut read, mut more) = (Vec::new(), 0, 0, None);
        let mut seen: Option<Digest> = None;
        while let Some(found) = described.try_next().await? {
            let Some((desc, length)) = found else {
                continue;
            };
            let is_full = bytes + length > MAX_REFERRERS_BYTES && !page.is_empty();
            if is_full || read > MAX_READ_BYTES {
                more = seen.map(|digest| digest.to_string());
                break;
            }
            seen = Some(desc.digest);
            read += desc.size as usize;
            if wanted.is_some() && desc.artifact_type != wanted {
                continue;
            }
            bytes += length;
            page.push(desc);
        }
        let mut builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, media::IMAGE_INDEX);
        if wanted.is_some() {
            builder = builder.header(OCI_FILTERS, "artifactType");
        }
        if let Some(last) = more {
            let path = format!("/v2/{repo}/referrers/{subject}");
            let mut query = vec![("last", last.as_str())];
            if let Some(wanted) = &wanted {
                query.push(("artifactType", wanted));
            }
            builder = next(builder, &path, &query);
        }
        let index = json!({"schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": page});
        Ok((builder, index.to_string()))
    }
}

/// An answer's head and its text.
pub(super) type List = (Builder, String);

/// Answers with a list. A large one is in memory as long as it is sent, so it takes a place among large transfers; whoever waits for that
/// makes it again.
pub(super) async fn send<F: Future<Output = Result<List, Refusal>>>(
    parts: &Parts,
    make: impl Fn() -> F,
) -> Answer {
    let ticket = ticket(parts);
    let making = ticket.list().await?;
    let (builder, text) = make().await?;
    if text.len() <= LARGE || ticket.large_transfer_now() {
        return finish(builder, text);
    }
    drop((builder, text, making));
    ticket.large_transfer().await?;
    let _making = ticket.list().await?;
    let (builder, text) = make().await?;
    finish(builder, text)
}

/// A referrer as a list shows it (distribution spec, "Listing Referrers"), and about how long that is; `None` if it is gone.
async fn describe(
    repository: &Repository,
    digest: Digest,
    large: &Semaphore,
) -> Result<Option<(Descriptor, usize)>, Refusal> {
    let Some(known) = repository.known(&digest).await? else {
        return Ok(None);
    };
    let _one = if known.size > LARGE as u64 {
        Some(large.acquire().await)
    } else {
        None
    };
    let found = match repository.manifest_of(&digest, &known).await {
        Ok(found) => found,
        Err(e) if e.kind == crate::store::ErrorKind::Corrupt => {
            tracing::warn!(error = %e, "Referrer left out");
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };
    let mut desc = found.manifest.descriptor();
    let length = found.manifest.bytes.len();
    let outline = task::parse(length, move || Outline::of(&found.manifest)).await;
    let Ok(outline) = outline else {
        return Ok(None);
    };
    desc.artifact_type = outline.artifact_type;
    desc.annotations = outline.annotations;
    let length = serde_json::to_string(&desc).map_or(0, |text| text.len());
    Ok(Some((desc, length)))
}
