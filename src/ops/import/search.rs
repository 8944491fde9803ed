//! Chooses the snapshot that an import restores: in each scope the exact key, then keys with a prefix, then the name's head.

use std::collections::HashSet;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{Hit, Options, is_lost_whole, nothing_left};
use crate::{
    artifact::{
        Manifest, Tag,
        fold::Rules,
        name::{self, SnapshotName},
        snapshot::{Pack, Snapshot},
    },
    digest::Digest,
    entry::Time,
    ops::{
        Context, Error, LeftOut, Result, dated,
        head::{self, AtHand},
        load, rules,
    },
    source::Fingerprint,
    store::{PublishedAt, Resolved},
    task,
};

/// Most damaged snapshots that a prefix search skips in each scope, so that a store that lost its blobs soon gives a miss. Other keys, and
/// intact snapshots of another Go release, do not count.
const DAMAGED: usize = 256;
/// Tags read in one batch, if the listing has their times: two requests each; usually the first tag already decides.
const LOOKED_AT: usize = 8;

/// Most keys that are checked for existence, for a message.
const COUNTED: usize = 16;
/// Most Go releases named in a message.
const NAMED: usize = 3;

/// Keys other than the requested one.
#[derive(Default)]
struct Others {
    known: usize,
    /// There may be more.
    more: bool,
}

/// A snapshot whose key may match the requested one.
struct Keyed {
    at: PublishedAt,
    /// When the store wrote its tag.
    modified: Option<Time>,
    /// Kept for the newest only: the number of keys is not limited.
    manifest: Option<Manifest>,
}

/// A snapshot that may be restored.
pub(super) struct Candidate {
    pub(super) snapshot: Snapshot,
    pub(super) digest: Digest,
    pub(super) lost: Vec<LeftOut>,
    /// Packs of the head, as a fallback: packs of side tags that supersede them may not hold what they list.
    pub(super) spare: Vec<Pack>,
    /// Entries dated later than their publication.
    pub(super) ahead: Vec<LeftOut>,
    pub(super) hit: Hit,
}

/// Looks for the best snapshot of a name.
pub(super) struct Search<'a> {
    pub(super) ctx: &'a Context,
    pub(super) options: &'a Options,
    /// Why existing candidates could not be used.
    pub(super) why: Vec<String>,
    /// Whether some are lost or damaged.
    pub(super) damaged: bool,
    pub(super) print: Fingerprint,
    /// The snapshot that is probably found.
    pub(super) guess: Option<Digest>,
}

impl Search<'_> {
    /// Scope by scope: the exact key, prefixes of keys, the name's head.
    pub(super) async fn find(&mut self) -> Result<Option<Candidate>> {
        if let Some(digest) = self.options.digest {
            return self.by_digest(digest).await;
        }
        let options = self.options;
        for (i, scope) in options.scopes.iter().enumerate() {
            let hit = if i == 0 { Hit::Exact } else { Hit::Fallback };
            if let Some(found) = self.by_key(scope, &options.key, hit).await? {
                return Ok(Some(found));
            }
            for prefix in &options.restore_keys {
                if let Some(found) = self.by_prefix(scope, prefix).await? {
                    return Ok(Some(found));
                }
            }
            if options.source.kind().is_go()
                && !options.key.is_empty()
                && let Some(found) = self.by_key(scope, "", Hit::Fallback).await?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Records candidates that are lost or damaged.
    fn lost(&mut self, why: impl IntoIterator<Item = String>) {
        let before = self.why.len();
        self.why.extend(why);
        self.damaged |= self.why.len() > before;
    }

    fn name(&self, scope: &str, key: &str) -> SnapshotName {
        SnapshotName {
            kind: self.options.source.kind().name().to_owned(),
            name: self.options.name.clone(),
            scope: scope.to_owned(),
            key: key.to_owned(),
        }
    }

    async fn by_key(&mut self, scope: &str, key: &str, hit: Hit) -> Result<Option<Candidate>> {
        let name = self.name(scope, key);
        let at_hand = AtHand {
            // If the first name does not point at it, another one hardly does.
            guess: self.guess.take(),
            ..AtHand::default()
        };
        let current = head::read_with(self.ctx, &name, &HashSet::new(), at_hand).await?;
        let rules = rules::of(self.options.source.kind());
        let lost = current.lost();
        let digest = current.digest();
        // Millions of entries take seconds, and the time budget must be able to run out meanwhile.
        let (folded, flaws, rest) = task::blocking(move || {
            let flaws = match rules {
                Rules::Tree => current.flaws(),
                Rules::Union { .. } => Vec::new(),
            };
            (current.folded(), flaws, current)
        })
        .await;
        let (Some(snapshot), Some(digest)) = (folded, digest) else {
            self.lost(lost.iter().map(|l| format!("{} {}", l.what, l.why)));
            return Ok(None);
        };
        // Entries that `folded` removed on closing are gone; a tree must not lose anything silently.
        if rules == Rules::Tree {
            let lost = lost.iter().map(|l| format!("{} {}", l.what, l.why));
            let flaws = flaws.iter().map(|d| format!("{}: {}", d.path, d.why));
            let why: Vec<String> = lost.chain(flaws).collect();
            if !why.is_empty() {
                self.lost(why);
                return Ok(None);
            }
        }
        Ok(self.usable(Candidate {
            snapshot,
            digest,
            lost,
            spare: rest.head.map(|h| h.snapshot.packs).unwrap_or_default(),
            ahead: rest.ahead,
            hit,
        }))
    }

    /// Returns the candidate, or in words why it cannot be used.
    fn usable(&mut self, candidate: Candidate) -> Option<Candidate> {
        if is_lost_whole(&candidate.snapshot, &candidate.lost, &[]) {
            let name = &candidate.snapshot.name;
            self.lost([nothing_left(name, &candidate.lost, &[])]);
            return None;
        }
        let snapshot = &candidate.snapshot;
        if self.is_gated(&snapshot.name, &snapshot.fingerprint.gates) {
            return None;
        }
        Some(candidate)
    }

    /// Returns in words why a snapshot made with `gates` cannot be used here.
    fn is_gated(&mut self, name: &SnapshotName, gates: &[String]) -> bool {
        if self.print.gate.is_empty() || gates.is_empty() || gates.contains(&self.print.gate) {
            return false;
        }
        let mut of = gates[..gates.len().min(NAMED)].join(", ");
        if gates.len() > NAMED {
            of = format!("{of} and {} more", gates.len() - NAMED);
        }
        let why = format!(
            "`{}` in {} was exported with {of}, but this job uses {}",
            name.name, name.scope, self.print.gate
        );
        // Many keys may all be of the same release.
        if self.why.last() != Some(&why) {
            self.why.push(why);
        }
        true
    }

    /// Keys that start with `prefix`, the newest first.
    ///
    /// A publication is never newer than the time at which the store wrote its tag ([`PublishedAt`]). So if the listing has these times,
    /// tags are read latest first, until none of the rest can be newer than the best one found.
    async fn by_prefix(&mut self, scope: &str, prefix: &str) -> Result<Option<Candidate>> {
        let store = &self.ctx.store;
        let asked = self.name(scope, prefix);
        let listed = store.tags_dated(&asked.key_prefix(prefix)).await?;
        let now = store.clock().await?;
        let mut rest: Vec<(Tag, Option<Time>)> = listed
            .into_iter()
            .filter(|(tag, _)| name::is_head(tag))
            .collect();
        // Taken from the end; a tag without a time may be the newest.
        rest.sort_by_key(|(_, at)| at.map_or((1, 0), |at| (0, at.secs)));
        let undated = rest.iter().filter(|(_, at)| at.is_none()).count();
        if undated > LOOKED_AT {
            tracing::info!(
                scope,
                prefix,
                keys = undated,
                "The store does not list publication times: reading every key with this prefix"
            );
        }
        let mut found: Vec<Keyed> = Vec::new();
        let mut damaged = 0;
        while damaged < DAMAGED {
            let newest = found.last().and_then(|best| best.at.time);
            let may_be_newer = |(_, at): &(Tag, Option<Time>)| match (at, newest) {
                (Some(at), Some(newest)) => at.secs >= newest.secs,
                _ => true,
            };
            if rest.last().is_some_and(may_be_newer) {
                let undated = rest.iter().rev().take_while(|(_, at)| at.is_none());
                let batch = LOOKED_AT.max(undated.count());
                let batch = rest.split_off(rest.len().saturating_sub(batch));
                self.look_at(&mut found, batch, now).await?;
                continue;
            }
            let Some(keyed) = found.pop() else {
                break;
            };
            let modified = keyed.modified;
            let Some(manifest) = self.meant(&asked, keyed).await? else {
                continue;
            };
            damaged += 1;
            match load::load(self.ctx, &manifest, &HashSet::new()).await? {
                Ok(loaded) => {
                    if let Some(candidate) = self.take(loaded, modified, now, Hit::Fallback) {
                        return Ok(Some(candidate));
                    }
                }
                Err(why) => self.lost([format!("{}: {}", manifest.digest, why.text())]),
            }
        }
        Ok(None)
    }

    /// Reads the manifests of tags into `found`, which is sorted, the newest last.
    async fn look_at(
        &self,
        found: &mut Vec<Keyed>,
        tags: Vec<(Tag, Option<Time>)>,
        now: Time,
    ) -> Result<()> {
        let ctx = self.ctx;
        let read = |(tag, _): (Tag, Option<Time>)| async move {
            // One damaged tag must not hide the others.
            let resolved = load::told(ctx.store.resolve(&tag.into()).await)?;
            let Some(Resolved {
                manifest, modified, ..
            }) = resolved.ok().flatten()
            else {
                return Ok(None);
            };
            let Ok(Some(outline)) = load::outline(&manifest).await else {
                return Ok(None);
            };
            let at = dated::publication(Some(&outline), manifest.digest, modified, now);
            Ok::<_, Error>(Some(Keyed {
                at,
                modified,
                manifest: Some(manifest),
            }))
        };
        let mut newest = found.len().checked_sub(1);
        let mut all = stream::iter(tags)
            .map(read)
            .buffered(ctx.concurrency.max(1));
        while let Some(keyed) = all.try_next().await? {
            let Some(mut keyed) = keyed else { continue };
            match newest {
                Some(i) if keyed.at < found[i].at => keyed.manifest = None,
                _ => {
                    if let Some(i) = newest {
                        found[i].manifest = None;
                    }
                    newest = Some(found.len());
                }
            }
            found.push(keyed);
        }
        found.sort_by_key(|keyed| keyed.at);
        Ok(())
    }

    /// The manifest of a snapshot if its key was requested and it can be used here: a tag holds only the readable part of a long key, the
    /// config all of it.
    async fn meant(&mut self, asked: &SnapshotName, keyed: Keyed) -> Result<Option<Manifest>> {
        let digest = keyed.at.digest;
        let manifest = match keyed.manifest {
            Some(manifest) => manifest,
            None => match load::told(self.ctx.store.resolve(&digest.into()).await)? {
                Ok(Some(resolved)) => resolved.manifest,
                Ok(None) => return Ok(None),
                Err(why) => {
                    self.lost([format!("{digest} {why}")]);
                    return Ok(None);
                }
            },
        };
        let Ok(Some(outline)) = load::outline(&manifest).await else {
            return Ok(None);
        };
        let config = load::config(self.ctx, &outline.config).await;
        match load::too_large(self.ctx, config)?.and_then(|config| config) {
            Ok((config, _)) => {
                let is_meant = config.kind == asked.kind
                    && config.name == asked.name
                    && config.scope == asked.scope
                    && config.key.starts_with(&asked.key);
                let is_of_use = is_meant && !self.is_gated(asked, &config.fingerprint.gates);
                Ok(is_of_use.then_some(manifest))
            }
            Err(why) => {
                self.lost([format!("{digest}: {why}")]);
                Ok(None)
            }
        }
    }

    /// Why an undamaged name is a miss: nothing is stored under it, or only other keys.
    pub(super) async fn why_absent(&self) -> String {
        let options = self.options;
        if let Some(digest) = &options.digest {
            return format!("snapshot {digest} is not in the store");
        }
        let of = format!("{} `{}`", options.source.kind().name(), options.name);
        let scopes = options.scopes.join(", ");
        let keyed = !options.key.is_empty() || !options.restore_keys.is_empty();
        let mut others = Others::default();
        for scope in &options.scopes {
            let prefix = self.name(scope, "").key_prefix("");
            self.count_others(&prefix, &mut others).await;
        }
        if others.known == 0 && !others.more {
            return format!("nothing is stored for {of} in {scopes}");
        }
        let mut missing = Vec::new();
        if !options.key.is_empty() {
            missing.push(format!("no key `{}`", options.key));
        }
        let prefixes = options.restore_keys.iter();
        missing.extend(prefixes.map(|prefix| format!("no key that starts with `{prefix}`")));
        let missing = if keyed {
            missing.join(" and ")
        } else {
            "no cache without a key".to_owned()
        };
        let others = match (others.known, others.more) {
            (1, false) => "1 other key exists".to_owned(),
            (n, false) => format!("{n} other keys exist"),
            (_, true) => "other keys may exist".to_owned(),
        };
        format!("{missing} is stored for {of} in {scopes}; {others} (`cachectl ls`)")
    }

    /// Counts the keys with a prefix. It is only for a message: if the store fails, the count is zero.
    ///
    /// Some registries list removed tags forever. Checking a few of the tags shows whether this is one.
    async fn count_others(&self, prefix: &str, others: &mut Others) {
        let store = &self.ctx.store;
        let Ok(mut heads) = store.tags(prefix).await else {
            return;
        };
        heads.retain(name::is_head);
        let all = heads.len();
        heads.truncate(COUNTED);
        let looked = heads.len();
        let there = stream::iter(heads)
            .map(|tag| async move { !matches!(store.resolve(&tag.into()).await, Ok(None)) })
            .buffered(self.ctx.concurrency.max(1))
            .filter(|is_there| std::future::ready(*is_there))
            .count()
            .await;
        if there == looked {
            others.known += all;
        } else {
            others.known += there;
            others.more |= all > looked;
        }
    }

    async fn by_digest(&mut self, digest: Digest) -> Result<Option<Candidate>> {
        let resolved = match load::told(self.ctx.store.resolve(&digest.into()).await)? {
            Ok(Some(resolved)) => resolved,
            Ok(None) => return Ok(None),
            Err(why) => {
                self.lost([format!("{digest} {why}")]);
                return Ok(None);
            }
        };
        match load::load(self.ctx, &resolved.manifest, &HashSet::new()).await? {
            Ok(loaded) if loaded.snapshot.name.kind != self.options.source.kind().name() => {
                self.why
                    .push(format!("{digest} is a {}", loaded.snapshot.name.kind));
                Ok(None)
            }
            Ok(loaded) => {
                let now = self.ctx.store.clock().await?;
                Ok(self.take(loaded, resolved.modified, now, Hit::Exact))
            }
            Err(why) => {
                self.lost([format!("{digest}: {}", why.text())]);
                Ok(None)
            }
        }
    }

    fn take(
        &mut self,
        mut loaded: load::Loaded,
        modified: Option<Time>,
        now: Time,
        hit: Hit,
    ) -> Option<Candidate> {
        let ahead = dated::leave_out(&mut loaded, None, modified, now);
        let load::Loaded {
            digest,
            snapshot,
            lost,
            ..
        } = loaded;
        if !lost.is_empty() && rules::of(self.options.source.kind()) == Rules::Tree {
            self.lost(lost.iter().map(|l| format!("{} {}", l.what, l.why)));
            return None;
        }
        self.usable(Candidate {
            snapshot,
            digest,
            lost,
            spare: Vec::new(),
            ahead: ahead.into_iter().collect(),
            hit,
        })
    }
}
