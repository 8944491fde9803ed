//! Du: disk usage by name. Manifests and configs are read, nothing of the packs.
//!
//! Sizes come from the store if one listing reports them all ([`Stored`]), otherwise from the manifests.

use std::collections::{HashMap, HashSet};

use serde::Serialize;

use super::{
    Context, LeftOut, Result,
    counted::{self, Faults, Needed},
    foreign,
    in_turn::InTurn,
    json, list, load,
    names::{self, Found, NameInRepo, Word},
    reach,
};
use crate::{digest::Digest, memory::Reservation, store::StoredBlob};

/// One name with the space it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// Their stored bytes, or those that manifests claim ([`Stored`]).
    #[serde(rename = "stored_bytes")]
    pub bytes: u64,
    /// Bytes that no other name within reach needs: what removing it would free.
    pub own_bytes: u64,
}

/// Everything in a store, whether or not a repository needs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Whole {
    /// Blobs.
    #[serde(rename = "store_blobs")]
    pub blobs: u64,
    /// Their bytes.
    #[serde(rename = "store_bytes")]
    pub bytes: u64,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The biggest first.
    #[serde(rename = "names")]
    pub rows: Vec<Row>,
    /// Blobs of all rows, each counted once.
    pub blobs: u64,
    /// Their bytes.
    #[serde(rename = "stored_bytes")]
    pub bytes: u64,
    /// Bytes that no other name needs: what removing all rows would free. `None`: a daemon does not report it.
    pub own_bytes: Option<u64>,
    /// `None` where the store cannot list its blobs, was opened read-only, or the caller has no right to all of it.
    #[serde(flatten, serialize_with = "json::or_nulls")]
    pub store: Option<Whole>,
    /// Tags that cannot be read, with why.
    pub broken: Vec<LeftOut>,
}

/// Sums up the space that names need: all, or those that `name` (a name or tag) selects.
///
/// # Errors
/// When the store cannot be reached; unreadable tags are in the report.
pub async fn run(ctx: &Context, name: Option<&str>) -> Result<Report> {
    super::within_budget(ctx, "computing disk usage", du(ctx, name)).await
}

async fn du(ctx: &Context, name: Option<&str>) -> Result<Report> {
    let word = Word::new(name);
    let chosen = Chosen::find(ctx, &word).await?;
    // Finding what only this name needs takes reading all the others.
    let all = match word {
        Word::Digest(_) => Vec::new(),
        _ => names::find(&ctx.granted(), &Word::All).await?,
    };
    // Listed after the names, so that their blobs are included despite concurrent publications.
    let stored = Stored::list(ctx).await?;
    let mut reads = InTurn::new(all, ctx.concurrency, read);
    let (mut report, mut broken) = (Report::default(), Faults::within(ctx));
    let mut blobs = Blobs::within(ctx);
    while let Some((name, used)) = reads.next().await {
        let (row, needed, faults) = match load::too_large(ctx, used)? {
            Ok(used) => used,
            Err(why) => {
                let fault = name.fault(&name.group.head, why);
                (None, Needed::default(), vec![fault])
            }
        };
        let is_chosen = chosen.has(&name);
        if is_chosen {
            broken.extend(faults);
            broken.check()?;
        }
        let row = row.filter(|_| is_chosen);
        blobs.add(&needed, &stored, row.is_some().then_some(report.rows.len()))?;
        report.rows.extend(row.map(|row| Row {
            tag: row.tag,
            repository: row.repository,
            kind: row.kind,
            name: row.name,
            scope: row.scope,
            key: row.key,
            blobs: needed.sizes().len() as u64,
            bytes: stored.sum(&needed),
            own_bytes: 0,
        }));
    }
    report.broken = broken.into_all();
    blobs.sum_up(&mut report);
    report.rows.sort_by_key(|r| std::cmp::Reverse(r.bytes));
    report.store = stored.whole();
    Ok(report)
}

/// The blobs that are stored, sorted by digest. `None` where the store cannot list them, or the caller has no right to all of it: asking
/// for each would cost a request per blob, so the sizes in manifests are trusted.
struct Stored(Option<Vec<StoredBlob>>);

impl Stored {
    async fn list(ctx: &Context) -> Result<Self> {
        let whole = ctx.reach.is_whole();
        let Some(sweep) = ctx.store.sweep().filter(|_| whole) else {
            return Ok(Self(None));
        };
        let mut all = sweep.blobs().await?;
        all.sort_unstable_by_key(|b| b.digest);
        Ok(Self(Some(all)))
    }

    /// The space that a blob with this claimed size takes; a blob that is not stored takes none.
    fn size(&self, digest: &Digest, claimed: u64) -> u64 {
        let Some(all) = &self.0 else { return claimed };
        let found = all.binary_search_by(|b| b.digest.cmp(digest));
        found.map_or(0, |at| all[at].size)
    }

    fn sum(&self, needed: &Needed) -> u64 {
        sum(needed.sizes().iter().map(|(d, size)| self.size(d, *size)))
    }

    fn whole(&self) -> Option<Whole> {
        let all = self.0.as_ref()?;
        Some(Whole {
            blobs: all.len() as u64,
            bytes: sum(all.iter().map(|b| b.size)),
        })
    }
}

/// The requested names.
enum Chosen {
    /// All of these repositories.
    Repositories(HashSet<String>),
    /// These, by their displayed names.
    Names(HashSet<String>),
}

impl Chosen {
    async fn find(ctx: &Context, word: &Word) -> Result<Self> {
        if let Word::All = word {
            let places = reach::places(ctx).await?;
            let names = places.iter().map(|p| p.repository().to_owned());
            return Ok(Self::Repositories(names.collect()));
        }
        let found = names::find(ctx, word).await?;
        Ok(Self::Names(found.iter().map(NameInRepo::shown).collect()))
    }

    fn has(&self, name: &NameInRepo) -> bool {
        match self {
            Self::Repositories(all) => all.contains(name.place.repository()),
            Self::Names(all) => all.contains(&name.shown()),
        }
    }
}

/// All blobs that names need. Of each name only its row is kept, however many blobs it needs.
struct Blobs {
    all: HashMap<Digest, Use>,
    room: Reservation,
}

/// The names that need a blob.
#[derive(Default)]
struct Use {
    size: u64,
    /// Number of names, including those without a row.
    names: u32,
    rows: u32,
    /// The last of the rows.
    row: u32,
}

impl Blobs {
    fn within(ctx: &Context) -> Self {
        Self {
            all: HashMap::new(),
            room: ctx.tables.no_room_yet(),
        }
    }

    /// Adds the blobs that a name needs; `row` is the index of its row, if it has one.
    fn add(&mut self, needed: &Needed, stored: &Stored, row: Option<usize>) -> Result<()> {
        let before = self.all.len();
        for (digest, size) in needed.sizes() {
            let used = self.all.entry(*digest).or_default();
            used.names += 1;
            if let Some(row) = row {
                if used.rows == 0 {
                    used.size = stored.size(digest, *size);
                }
                used.rows += 1;
                used.row = u32::try_from(row).unwrap_or(u32::MAX);
            }
        }
        counted::grow(&mut self.room, self.all.len() - before)
    }

    /// Computes the bytes that no other name needs, for each row and for all of them.
    fn sum_up(self, report: &mut Report) {
        let mut own = 0_u64;
        for used in self.all.values().filter(|u| u.rows > 0) {
            report.blobs += 1;
            report.bytes = report.bytes.saturating_add(used.size);
            if used.names == used.rows {
                own = own.saturating_add(used.size);
            }
            if used.names == 1
                && let Some(row) = report.rows.get_mut(used.row as usize)
            {
                row.own_bytes = row.own_bytes.saturating_add(used.size);
            }
        }
        report.own_bytes = Some(own);
    }
}

/// The row of a name (if any of it can be read), the blobs it needs, and its problems.
async fn read(name: NameInRepo) -> Result<(Option<list::Row>, Needed, Vec<LeftOut>)> {
    let NameInRepo { place, group, .. } = &name;
    let _turn = place.ctx.tables.turn().await;
    let (mut row, mut broken) = (None, Vec::new());
    let mut needed = Needed::within(&place.ctx);
    // Side tags first, so that the head's row is the one that is kept.
    for tag in group.tags() {
        match names::look_within_room(&place.ctx, &tag.clone().into()).await? {
            Found::Ours(ours) => {
                row = Some(list::of_ours(place, &group.head, &ours, 0));
                needed.add(names::needed(&ours.manifest).await)?;
            }
            Found::Foreign(found) => {
                let needs = foreign::needs(place, Some(tag), &found.manifest).await?;
                if row.is_none() && *tag == group.head {
                    row = Some(list::of_foreign(place, tag, &found, &needs).await?);
                }
                needed.add(needs.sizes())?;
                broken.extend(needs.faults.into_iter().map(|why| name.fault(tag, why)));
            }
            Found::Broken(why) => broken.push(name.fault(tag, why)),
            Found::Gone => {}
        }
    }
    Ok((row, needed, broken))
}

/// Hostile manifests may claim any size.
fn sum(sizes: impl Iterator<Item = u64>) -> u64 {
    sizes.fold(0, u64::saturating_add)
}
