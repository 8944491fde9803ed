//! Lists: tags, and the referrers of a manifest.

use std::time::Duration;

use axum::http::{StatusCode, header, request::Parts, response::Builder};
use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

use super::{
    Answer, Registry,
    error::{Code, refuse},
    http::{OCI_FILTERS, answer, finish, param},
    manifests::LARGE,
};
use crate::{
    artifact::{Descriptor, media, outline::Outline},
    digest::Digest,
    serve::{door::Call, refusal::Refusal},
    store::{self, ErrorKind, Repository, keys::Repo, repository::AT_ONCE},
    task,
};

/// Maximum number of entries of a page of tags.
const MAX_TAGS: usize = 10_000;
/// Bytes of descriptors after which a page of referrers ends: clients accept manifests of at most 4 MiB.
const MAX_REFERRERS_BYTES: usize = 3 << 20;
/// Bytes of manifests that are read for a page of referrers, whether they match the request or not.
const MAX_READ_BYTES: usize = 16 << 20;
/// Manifests that are read for a page of referrers. Some clients read only the first page, so an honest set fits into it.
const MAX_READ: usize = 500;
/// How long a page keeps looking: a slow store must not keep the permit from others.
const LONGEST: Duration = Duration::from_secs(3);
/// Large manifests among those that are read concurrently.
const LARGE_AT_ONCE: usize = 1;

/// Number of entries of a page; `most` if more, or no count, are requested.
pub(super) fn count(parts: &Parts, most: usize) -> Result<usize, Refusal> {
    match param(parts.uri.query(), "n") {
        None => Ok(most),
        Some(n) => match n.parse::<usize>() {
            Ok(n) => Ok(n.min(most)),
            Err(_) => Err(refuse(Code::UNSUPPORTED, format!("`n={n}` is not a count"))),
        },
    }
}

/// The next item for a page.
pub(super) enum Next<T> {
    Item(T),
    End,
    /// There are more, but no time is left for them.
    Late,
}

/// The time limit of a page.
pub(super) struct PageTime {
    until: Instant,
    is_first: bool,
}

impl PageTime {
    /// It begins now.
    pub(super) fn begin() -> Self {
        Self {
            until: Instant::now() + LONGEST,
            is_first: true,
        }
    }

    /// The next item for a page. The first one has no time limit: each page must get further than the one before.
    pub(super) async fn next<T>(
        &mut self,
        looked: &mut (impl Stream<Item = Result<T, Refusal>> + Unpin),
    ) -> Result<Next<T>, Refusal> {
        let next = looked.try_next();
        let next = if std::mem::take(&mut self.is_first) {
            next.await
        } else if Instant::now() >= self.until {
            return Ok(Next::Late);
        } else {
            match timeout_at(self.until, next).await {
                Ok(next) => next,
                Err(_) => return Ok(Next::Late),
            }
        };
        Ok(next?.map_or(Next::End, Next::Item))
    }
}

/// Adds the link to the next page.
pub(super) fn next(builder: Builder, path: &str, query: &[(&str, &str)]) -> Builder {
    let query = form_urlencoded::Serializer::new(String::new())
        .extend_pairs(query)
        .finish();
    builder.header(header::LINK, format!("<{path}?{query}>; rel=\"next\""))
}

impl Registry {
    pub(super) async fn list_tags(&self, repo: &Repo, call: &Call) -> Answer {
        send(call, || self.tags(repo, &call.parts)).await
    }

    pub(super) async fn list_referrers(
        &self,
        repo: &Repo,
        subject: &Digest,
        call: &Call,
    ) -> Answer {
        send(call, || self.referrers(repo, subject, &call.parts)).await
    }

    async fn tags(&self, repo: &Repo, parts: &Parts) -> Result<List, Refusal> {
        let n = count(parts, MAX_TAGS)?;
        let last = param(parts.uri.query(), "last");
        let repository = self.read_only(repo);
        let tags = repository.tags().await?;
        if tags.is_empty() && !repository.exists().await? {
            let why = format!("repository {repo} does not exist");
            return Err(refuse(Code::NAME_UNKNOWN, why));
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
        let mut looked = stream::iter(digests)
            .map(|digest| look(&repository, digest, wanted.as_deref(), &large))
            .buffered(AT_ONCE);
        let mut page = Page::default();
        let mut time = PageTime::begin();
        let is_last = loop {
            match time.next(&mut looked).await? {
                Next::Item(looked) => {
                    if !page.takes(looked) {
                        break false;
                    }
                }
                Next::End => break true,
                Next::Late => break false,
            }
        };
        let mut builder = answer(StatusCode::OK).header(header::CONTENT_TYPE, media::IMAGE_INDEX);
        if wanted.is_some() {
            builder = builder.header(OCI_FILTERS, "artifactType");
        }
        if let Some(last) = page.seen.filter(|_| !is_last) {
            let last = last.to_string();
            let path = format!("/v2/{repo}/referrers/{subject}");
            let mut query = vec![("last", last.as_str())];
            if let Some(wanted) = &wanted {
                query.push(("artifactType", wanted));
            }
            builder = next(builder, &path, &query);
        }
        let index =
            json!({"schemaVersion": 2, "mediaType": media::IMAGE_INDEX, "manifests": page.listed});
        Ok((builder, index.to_string()))
    }
}

/// An answer's head and its text.
pub(super) type List = (Builder, String);

/// Answers with a list. A large one is in memory while it is sent, so it takes a slot among large transfers; a request that has
/// to wait for the slot creates the list again.
pub(super) async fn send<F: Future<Output = Result<List, Refusal>>>(
    call: &Call,
    make: impl Fn() -> F,
) -> Answer {
    let ticket = &call.ticket;
    let making = ticket.place_in(|a| &a.lists).await?;
    let (builder, text) = make().await?;
    if text.len() <= LARGE || ticket.large_transfer_now() {
        return finish(builder, text);
    }
    drop((builder, text, making));
    ticket.large_transfer().await?;
    let _making = ticket.place_in(|a| &a.lists).await?;
    let (builder, text) = make().await?;
    finish(builder, text)
}

/// A referrer that was examined.
struct Looked {
    digest: Digest,
    /// Size of its manifest, if that was read.
    read: Option<usize>,
    /// Its entry in a list (distribution spec, "Listing Referrers"), with the approximate length; `None` if it is not listed.
    shown: Option<(Descriptor, usize)>,
}

/// A page of referrers.
#[derive(Default)]
struct Page {
    listed: Vec<Descriptor>,
    bytes: usize,
    read: usize,
    read_bytes: usize,
    /// The last one that was examined.
    seen: Option<Digest>,
}

impl Page {
    /// Adds the next one; `false` if it belongs to the next page.
    fn takes(&mut self, looked: Looked) -> bool {
        let length = looked.shown.as_ref().map_or(0, |(_, length)| *length);
        let is_full = self.bytes + length > MAX_REFERRERS_BYTES && !self.listed.is_empty();
        if is_full || self.read >= MAX_READ || self.read_bytes > MAX_READ_BYTES {
            return false;
        }
        self.seen = Some(looked.digest);
        self.read += usize::from(looked.read.is_some());
        self.read_bytes += looked.read.unwrap_or(0);
        self.bytes += length;
        self.listed.extend(looked.shown.map(|(desc, _)| desc));
        true
    }
}

/// Examines a referrer; if its recorded type is not the `wanted` one, its manifest is not read. Missing or damaged ones are not
/// listed.
async fn look(
    repository: &Repository,
    digest: Digest,
    wanted: Option<&str>,
    large: &Semaphore,
) -> Result<Looked, Refusal> {
    let mut looked = Looked {
        digest,
        read: None,
        shown: None,
    };
    let known = repository.known(&digest).await.or_else(left_out)?;
    let is_wanted = |kind: &str| wanted.is_none_or(|wanted| kind == wanted);
    let Some(known) = known.filter(|k| k.artifact_type.as_deref().is_none_or(is_wanted)) else {
        return Ok(looked);
    };
    let _one = if known.size > LARGE as u64 {
        Some(large.acquire().await)
    } else {
        None
    };
    let found = repository.manifest_of(&digest, &known).await.map(Some);
    let Some(found) = found.or_else(left_out)? else {
        return Ok(looked);
    };
    let mut desc = found.manifest.descriptor();
    let length = found.manifest.bytes.len();
    looked.read = Some(length);
    let outline = task::parse(length, move || Outline::of(&found.manifest)).await;
    let Ok(outline) = outline else {
        return Ok(looked);
    };
    desc.artifact_type = outline.artifact_type;
    desc.annotations = outline.annotations;
    if is_wanted(desc.artifact_type.as_deref().unwrap_or_default()) {
        let length = serde_json::to_string(&desc).map_or(0, |text| text.len());
        looked.shown = Some((desc, length));
    }
    Ok(looked)
}

/// Damaged manifests are not listed.
fn left_out<T>(error: store::Error) -> store::Result<Option<T>> {
    if error.kind != ErrorKind::Corrupt {
        return Err(error);
    }
    tracing::warn!(%error, "Damaged referrer is not listed");
    Ok(None)
}
