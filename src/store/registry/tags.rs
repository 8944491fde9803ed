//! Tags: listed page by page, and removed, by overwriting them if the registry cannot (spec, "Listing Tags", "Deleting tags").
//!
//! Overwritten tags are still listed. A caller that must not see them reads each tag; to avoid that cost where tags can be
//! removed, overwriting the first one creates a special tag, [`OVERWRITTEN`], which says that some of the others may be
//! removed.

use std::{
    collections::HashSet,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use reqwest::{Method, StatusCode, Url, header::LINK};
use tracing::debug;

use super::{error, manifests, request::Ask, scopes::Scopes, shared::Shared, upload};
use crate::{
    artifact::{Descriptor, Manifest, Reference, Tag, bounded::List, media},
    digest::Digest,
    store::{Body, Error, Result, keys},
};

/// Tags per page: ECR refuses more (`google/go-containerregistry:pkg/v1/remote/options.go`).
const PAGE: u32 = 1000;
/// Maximum size of a page, for registries that send all tags at once.
const MAX_PAGE_BYTES: u64 = 64 << 20;
/// Maximum number of pages, and of tags that are kept.
const MAX_PAGES: usize = 10_000;
const MAX_TAGS: usize = 1_000_000;

/// The manifest of a removed tag, on a registry that cannot remove tags; never change a byte of it.
const REMOVED: &str = concat!(
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","#,
    r#""artifactType":"application/vnd.cachectl.removed.v1","#,
    r#""config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2},"#,
    r#""layers":[{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}]}"#
);

/// Tag of a repository in which tags were overwritten instead of removed.
const OVERWRITTEN: &str = "_c.overwritten";
/// Tags that are read concurrently.
const AT_ONCE: usize = 16;

fn removed() -> Manifest {
    Manifest::new(
        media::IMAGE_MANIFEST,
        Bytes::from_static(REMOVED.as_bytes()),
    )
}

/// Returns true if a manifest marks a removed tag.
pub(super) fn is_removed(manifest: &Manifest) -> bool {
    manifest.bytes == REMOVED.as_bytes()
}

#[derive(serde::Deserialize)]
struct Page {
    // Present even if there are no tags.
    name: Option<serde::de::IgnoredAny>,
    // Two bytes of a page may become a separate string.
    tags: Option<List<String, MAX_TAGS>>,
}

/// All tags that start with `prefix`, sorted, unique; none if there is no such repository.
pub(super) async fn list(shared: &Shared, prefix: &str) -> Result<Vec<Tag>> {
    list_those(shared, |t| keys::is_listed(t, prefix)).await
}

/// The same without those that were removed by overwriting.
pub(super) async fn standing(shared: &Shared, prefix: &str) -> Result<Vec<Tag>> {
    let wanted = |t: &str| t == OVERWRITTEN || keys::is_listed(t, prefix);
    let mut tags = list_those(shared, wanted).await?;
    let all = tags.len();
    tags.retain(|t| t.as_str() != OVERWRITTEN);
    if tags.len() == all {
        return Ok(tags);
    }
    let removed = removed().digest;
    let stands = stream::iter(tags).map(|tag| async move {
        let at = manifests::head(shared, &tag.clone().into()).await?;
        Ok::<_, Error>(at.filter(|at| *at != removed).map(|_| tag))
    });
    let stands = stands.buffered(AT_ONCE);
    stands
        .try_filter_map(|tag| async move { Ok(tag) })
        .try_collect()
        .await
}

async fn list_those(shared: &Shared, wanted: impl Fn(&str) -> bool) -> Result<Vec<Tag>> {
    let mut url = shared.url("tags/list");
    url.set_query(Some(&format!("n={PAGE}")));
    let mut seen: HashSet<Url> = HashSet::new();
    let mut found: Vec<Tag> = Vec::new();
    loop {
        let mut answer = shared
            .transport
            .send(&Ask::new("list", Method::GET, url.clone(), &shared.pull()))
            .await?;
        match answer.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND if seen.is_empty() => {
                shared.transport.missing("list", answer).await?;
                return Ok(found);
            }
            _ => return Err(answer.refusal("list").await.error),
        }
        let body = answer.read("list", MAX_PAGE_BYTES).await?;
        let page = serde_json::from_slice::<Page>(&body).ok();
        let page = page
            .filter(|page| page.tags.is_some() || page.name.is_some())
            .ok_or_else(|| error::foreign("list", "the answer is not a list of tags"))?;
        // An invalid tag cannot be ours.
        let ours = page
            .tags
            .map_or_else(Vec::new, |list| list.0)
            .into_iter()
            .filter(|t| wanted(t));
        found.extend(ours.filter_map(|t| t.parse().ok()));
        seen.insert(url);
        if found.len() > MAX_TAGS || seen.len() > MAX_PAGES {
            return Err(Error::corrupt("list", "the list of tags does not end"));
        }
        let next = answer
            .headers
            .get_all(LINK)
            .iter()
            .find_map(|v| next_link(v.to_str().ok()?));
        url = match next {
            None => break,
            Some(text) => shared.transport.named("list", &answer, text)?,
        };
        if seen.contains(&url) {
            // A server that ignores `last` sends the same page again: everything has been seen.
            break;
        }
    }
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The target of `rel="next"` (RFC 8288).
fn next_link(header: &str) -> Option<&str> {
    let mut rest = header;
    while let Some((_, after)) = rest.split_once('<') {
        let (target, params) = after.split_once('>')?;
        let own = params.split_once('<').map_or(params, |(own, _)| own);
        let next = own.split([';', ',']).any(|p| {
            let (name, value) = p.split_once('=').unwrap_or((p, ""));
            name.trim().eq_ignore_ascii_case("rel")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("next")
        });
        if next {
            return Some(target);
        }
        rest = params;
    }
    None
}

/// Removes a tag; `false` if there was none.
///
/// Never by digest: that would remove every tag of the same manifest. Debian's registry 2.8 cannot remove by tag, nor can GHCR:
/// there the tag is overwritten with one fixed manifest that means "removed".
pub(super) async fn remove(shared: &Arc<Shared>, tag: &Tag) -> Result<bool> {
    let scopes = Scopes::delete(&shared.repository);
    let ask = Ask::new(
        "untag",
        Method::DELETE,
        shared.url(&format!("manifests/{tag}")),
        &scopes,
    );
    let answer = shared.transport.send(&ask).await?;
    let missing = match answer.status.as_u16() {
        202 => return Ok(true),
        // Not the status in the spec; a server that answers 200 to everything sends it too.
        200..=204 => {
            return match manifests::head(shared, &tag.clone().into()).await? {
                None => Ok(true),
                Some(_) => Err(error::foreign("untag", "the tag is still there")),
            };
        }
        404 => true,
        _ => {
            let refusal = answer.refusal("untag").await;
            let cannot =
                matches!(refusal.status.as_u16(), 400 | 405 | 501) || refusal.says("UNSUPPORTED");
            if !cannot {
                return Err(refusal.error);
            }
            debug!(%tag, error = %refusal.error, "The registry cannot remove a tag");
            false
        }
    };
    let reference = Reference::from(tag.clone());
    match manifests::head(shared, &reference).await? {
        None => Ok(false),
        Some(digest) if digest == removed().digest => Ok(false),
        Some(_) => {
            debug!(%tag, missing, "Tag is overwritten instead");
            overwrite(shared, &reference).await?;
            Ok(true)
        }
    }
}

async fn overwrite(shared: &Arc<Shared>, reference: &Reference) -> Result<()> {
    let empty = Bytes::from_static(b"{}");
    let desc = Descriptor::new(media::EMPTY, Digest::sha256_of(&empty), empty.len() as u64);
    upload::put(shared, &desc, &Body::from(empty)).await?;
    // First: a listing must not show a removed tag.
    if !shared.overwrites.load(Ordering::Relaxed) {
        let says_so = Reference::Tag(OVERWRITTEN.parse().expect("a constant that is a tag"));
        manifests::put(shared, &removed(), &says_so).await?;
        shared.overwrites.store(true, Ordering::Relaxed);
    }
    manifests::put(shared, &removed(), reference).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn next_link_is_found_among_others() {
        for (header, want) in [
            (
                r#"</v2/a/tags/list?n=2&last=b>; rel="next""#,
                Some("/v2/a/tags/list?n=2&last=b"),
            ),
            (
                r#"<https://h/x>; rel=prev, <https://h/y>; title="a"; rel=Next"#,
                Some("https://h/y"),
            ),
            (r#"<https://h/x>; rel="prev""#, None),
            ("<broken", None),
            ("", None),
        ] {
            assert_eq!(next_link(header), want, "{header}");
        }
    }

    #[test]
    fn manifest_of_a_removed_tag_never_changes() {
        let want = "sha256:864fb9c0fe46411bb9c1b666b60c3c8167309e0830571a34a455bc372659a02a";
        let manifest = removed();
        serde_json::from_slice::<serde_json::Value>(&manifest.bytes).unwrap();
        assert!(is_removed(&manifest) && !is_removed(&Manifest::new("x", "{}")));
        assert_eq!(manifest.digest.to_string(), want);
    }
}
