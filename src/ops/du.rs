//! Du: what takes how much room. Manifests and configs are read, nothing of the packs.

use std::collections::{HashMap, HashSet};

use super::{
    Context, LeftOut, Result, foreign,
    in_turn::InTurn,
    list, load,
    names::{self, Found, Named, Word},
};
use crate::digest::Digest;

/// One name with what it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The tag of its head, as in a listing.
    pub tag: String,
    /// As in a listing.
    pub repository: String,
    /// As in a listing.
    pub kind: String,
    /// As in a listing.
    pub name: String,
    /// Scope.
    pub scope: String,
    /// Key; empty for the head.
    pub key: String,
    /// Blobs that its head and side tags need.
    pub blobs: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Those of them that no other name within reach needs: what its removal would give back.
    pub own_bytes: u64,
}

/// Everything in a store, whichever repository needs it, or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Whole {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The biggest first.
    pub rows: Vec<Row>,
    /// Blobs of all rows, each counted once.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes of those that no other name needs: what the removal of all rows would give back. `None`: a daemon does not tell.
    pub own_bytes: Option<u64>,
    /// `None` where the store cannot list its blobs, was opened read-only, or is not all within reach by right.
    pub store: Option<Whole>,
    /// Tags that cannot be read, with why.
    pub broken: Vec<LeftOut>,
}

/// Adds up what names need: all, or those that `name` (a name or tag) means.
///
/// # Errors
/// When the store cannot be asked; what cannot be read is in the report.
pub async fn run(ctx: &Context, name: Option<&str>) -> Result<Report> {
    super::within_budget(ctx, "adding up", du(ctx, name)).await
}

async fn du(ctx: &Context, name: Option<&str>) -> Result<Report> {
    let word = Word::new(name);
    let wanted = names::find(ctx, &word).await?;
    let wanted: HashSet<String> = wanted.iter().map(Named::shown).collect();
    // What is a name's own only the others can tell.
    let all = match word {
        Word::Digest(_) => Vec::new(),
        _ => names::find(&ctx.granted(), &Word::All).await?,
    };
    let mut reads = InTurn::new(all, ctx.concurrency, read);
    let mut read: Vec<(Used, Vec<LeftOut>)> = Vec::new();
    while let Some((name, used)) = reads.next().await {
        read.push(match load::too_large(ctx, used)? {
            Ok(used) => used,
            Err(why) => {
                let fault = name.fault(&name.group.head, why);
                (Used::nothing_of(&name), vec![fault])
            }
        });
    }
    let mut users: HashMap<Digest, u32> = HashMap::new();
    for digest in read.iter().flat_map(|(used, _)| used.blobs.keys()) {
        *users.entry(*digest).or_default() += 1;
    }
    let mut report = Report::default();
    // Size, and how many of the rows need it.
    let mut counted: HashMap<Digest, (u64, u32)> = HashMap::new();
    for (used, broken) in read {
        if !wanted.contains(&used.shown) {
            continue;
        }
        report.broken.extend(broken);
        let Some(row) = used.row else { continue };
        let own = used.blobs.iter().filter(|(d, _)| users[*d] == 1);
        report.rows.push(Row {
            tag: row.tag,
            repository: row.repository,
            kind: row.kind,
            name: row.name,
            scope: row.scope,
            key: row.key,
            blobs: used.blobs.len() as u64,
            bytes: sum(used.blobs.values()),
            own_bytes: sum(own.map(|(_, size)| size)),
        });
        for (digest, size) in used.blobs {
            counted.entry(digest).or_insert((size, 0)).1 += 1;
        }
    }
    report.rows.sort_by_key(|r| std::cmp::Reverse(r.bytes));
    (report.blobs, report.bytes) = (counted.len() as u64, sum(counted.values().map(|(s, _)| s)));
    let own = counted.iter().filter(|(d, (_, rows))| users[*d] == *rows);
    report.own_bytes = Some(sum(own.map(|(_, (size, _))| size)));
    let whole = ctx.reach.is_whole();
    if let Some(sweep) = ctx.opened.sweep.as_ref().filter(|_| whole) {
        let all = sweep.blobs().await?;
        report.store = Some(Whole {
            blobs: all.len() as u64,
            bytes: sum(all.iter().map(|b| &b.size)),
        });
    }
    Ok(report)
}

/// A name with the blobs that it needs.
struct Used {
    /// What its head is called.
    shown: String,
    /// `None` where nothing of it can be read.
    row: Option<list::Row>,
    blobs: HashMap<Digest, u64>,
}

impl Used {
    fn nothing_of(name: &Named) -> Self {
        Self {
            shown: name.shown(),
            row: None,
            blobs: HashMap::new(),
        }
    }
}

async fn read(name: Named) -> Result<(Used, Vec<LeftOut>)> {
    let Named { place, group, .. } = &name;
    let _turn = place.ctx.tables.turn().await;
    let (mut row, mut broken) = (None, Vec::new());
    let mut blobs = HashMap::new();
    // Side tags first, so that the head's row is the one that stays.
    for tag in group.tags() {
        match names::look_within_room(&place.ctx, &tag.clone().into()).await? {
            Found::Ours(ours) => {
                row = Some(list::of_ours(place, &group.head, &ours, 0));
                blobs.extend(names::needed(&[ours.manifest]).await);
            }
            Found::Foreign(found) => {
                let needs = foreign::needs(place, Some(tag), &found.manifest).await?;
                if row.is_none() && *tag == group.head {
                    row = Some(list::of_foreign(place, tag, &found, &needs).await?);
                }
                blobs.extend(needs.sizes());
                broken.extend(needs.faults.into_iter().map(|why| name.fault(tag, why)));
            }
            Found::Broken(why) => broken.push(name.fault(tag, why)),
            Found::Gone => {}
        }
    }
    let used = Used {
        shown: name.shown(),
        row,
        blobs,
    };
    Ok((used, broken))
}

/// Hostile sizes may be anything.
fn sum<'a>(sizes: impl Iterator<Item = &'a u64>) -> u64 {
    sizes.fold(0, |sum, size| sum.saturating_add(*size))
}
