//! The digests that a pushed manifest names: whether they exist, with the sizes in the manifest, and the consequences if not.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::atomic::Ordering,
};

use axum::http::HeaderValue;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Registry, Sight,
    error::{Code, refuse},
};
use crate::{
    artifact::{
        media::{DOCKER_MANIFEST, IMAGE_MANIFEST, is_image_config},
        outline::{Named, Outline, Role},
    },
    digest::Digest,
    ops::sight::Seen,
    serve::refusal::Refusal,
    store::{
        Repository,
        repository::{AT_ONCE, Presence},
    },
};

/// Number of flaws that a message lists.
const NAMED: usize = 5;

impl Registry {
    /// Finds the children that do not exist, or have another size than in the manifest. A caller who sees every blob may name
    /// what never existed ("sparse"), but not what was deleted here, since the pusher assumes it still exists. Any other caller
    /// may name only what it sees, and that is linked: it stays visible to such callers whatever happens to the manifest that
    /// made it visible.
    pub(super) async fn check_children(
        &self,
        repository: &Repository,
        outline: &Outline,
        sight: Sight,
    ) -> Result<Vec<Flaw>, Refusal> {
        let children: BTreeSet<Digest> = outline.children().map(|n| n.digest).collect();
        let found = stream::iter(children).map(|digest| async move {
            let seen = match sight {
                Sight::All => Seen::Linked,
                Sight::Own => self.sights.seen(repository, &digest).await?,
            };
            let state = match seen {
                Seen::Not => Presence::Deleted,
                Seen::Linked | Seen::Named => repository.presence(&digest).await?,
            };
            Ok::<_, Refusal>((digest, seen, state))
        });
        // Stop asking after the first unknown one: a manifest may name 50,000.
        let found = found
            .buffered(AT_ONCE)
            .and_then(async |(digest, seen, state)| {
                if state == Presence::Deleted {
                    let why = format!(
                        "it refers to {digest}, which is not in this repository; push that first"
                    );
                    return Err(refuse(Code::MANIFEST_BLOB_UNKNOWN, why));
                }
                Ok((digest, seen, state))
            });
        let found: Vec<_> = found.try_collect().await?;
        let unlinked = found.iter().filter(|(_, seen, _)| *seen == Seen::Named);
        stream::iter(unlinked.map(Ok::<_, Refusal>))
            .try_for_each_concurrent(AT_ONCE, async |(digest, ..)| {
                Ok(self.sights.link(repository, digest).await?)
            })
            .await?;
        let states: BTreeMap<_, _> = found.into_iter().map(|(d, _, s)| (d, s)).collect();
        let flaws: BTreeSet<Flaw> = outline
            .children()
            .filter_map(|named| Flaw::of(named, *states.get(&named.digest)?))
            .collect();
        Ok(flaws.into_iter().collect())
    }

    /// Refuses an image that nobody could pull, unless the settings accept it. What the store currently cannot tell is assumed
    /// to exist.
    pub(super) fn judge(&self, flaws: &[Flaw]) -> Result<(), Refusal> {
        let known = |flaw: &&Flaw| flaw.kind != FlawKind::Unknown;
        let Some(first) = flaws.iter().find(known) else {
            return Ok(());
        };
        if !self.refuses_incomplete_images.load(Ordering::Relaxed) {
            return Ok(());
        }
        let code = match first.kind {
            FlawKind::Sized { .. } => Code::MANIFEST_INVALID,
            FlawKind::Missing | FlawKind::Unknown => Code::MANIFEST_BLOB_UNKNOWN,
        };
        let why = format!(
            "the image is incomplete: {}; push that first",
            listed(flaws)
        );
        Err(refuse(code, why))
    }
}

/// Something that a manifest names, but that the repository does not have in that form.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Flaw {
    pub(super) kind: FlawKind,
    pub(super) digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FlawKind {
    /// It is not here.
    Missing,
    /// It has another size, in bytes.
    Sized { said: u64, is: u64 },
    /// The store cannot tell whether it exists.
    Unknown,
}

impl Flaw {
    fn of(named: &Named, state: Presence) -> Option<Self> {
        let kind = match (state, named.size) {
            (Presence::There(is), Some(said)) if is != said => FlawKind::Sized { said, is },
            (Presence::There(_), _) => return None,
            (Presence::Missing | Presence::Deleted, _) => FlawKind::Missing,
            (Presence::Unknown, _) => FlawKind::Unknown,
        };
        let digest = named.digest;
        Some(Self { kind, digest })
    }
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = &self.digest;
        match self.kind {
            FlawKind::Missing => write!(f, "{digest} is missing"),
            FlawKind::Sized { said, is } => write!(f, "{digest} has {is} bytes, not {said}"),
            FlawKind::Unknown => write!(f, "{digest} cannot be looked up now"),
        }
    }
}

/// Returns true for the manifest of an image, whose readers need all of its parts. An index may name digests that are stored
/// elsewhere, and so may a manifest with its own type of config.
pub(super) fn is_image(media_type: &str, outline: &Outline) -> bool {
    let is_manifest = matches!(media_type, IMAGE_MANIFEST | DOCKER_MANIFEST);
    let mut configs = outline.named.iter().filter(|n| n.role == Role::Config);
    is_manifest && configs.any(|c| is_image_config(&c.media_type))
}

/// The first few, and the total number.
pub(super) fn listed(flaws: &[Flaw]) -> String {
    let named: Vec<String> = flaws.iter().take(NAMED).map(Flaw::to_string).collect();
    let named = named.join(", ");
    if flaws.len() > 1 {
        format!("{named} ({} in all)", flaws.len())
    } else {
        named
    }
}

/// Shown to users by clients (RFC 7234, 5.5, as the distribution spec requires).
pub(super) fn warning(flaws: &[Flaw]) -> Option<HeaderValue> {
    if flaws.is_empty() {
        return None;
    }
    let warning = format!("299 - \"the manifest is incomplete: {}\"", listed(flaws));
    warning.try_into().ok()
}
