//! The state before anything is packed: what the name points at, what this node knows, and the tree.

use std::{collections::HashSet, sync::Arc};

use super::{Context, LeftOut, Options, Result, name_of};
use crate::{
    artifact::{
        fold::{self, Rules, replaced::is_replaced},
        name::SnapshotName,
        snapshot::Snapshot,
        toc::MAX_GENERATION,
    },
    digest::{Digest, Sha256},
    ops::{
        damage, dated,
        head::{self, AtHand, Current},
        load,
    },
    source::{
        Item, NothingKnown, Source,
        index::{NodeIndex, Stamp},
    },
    task,
};

/// The state before anything is packed.
pub(super) struct Ground {
    /// This node's index, if it exists.
    pub(super) index: Arc<Option<NodeIndex>>,
    /// Packs that an import on this node found damaged.
    pub(super) damaged: HashSet<Digest>,
    /// What the target's tag points at.
    pub(super) current: Current,
    /// What the head points at, if the target is another tag and the kind folds into the head.
    pub(super) head: Option<Current>,
    /// The base that is kept and compared with: closed.
    pub(super) base: Option<Arc<Snapshot>>,
    /// Whether `base` is what the target's tag points at.
    pub(super) base_is_current: bool,
    /// The replacement mark of this export, if it replaces the stored content.
    pub(super) mark: Option<String>,
}

/// Reads what the target's tags point at, and finds the base to build on.
pub(super) async fn ground(
    ctx: &Context,
    options: &Options,
    name: &SnapshotName,
    rules: Rules,
    index: Arc<Option<NodeIndex>>,
) -> Result<Ground> {
    let damaged = damage::known(ctx).await;
    let at_hand = AtHand {
        guess: index.as_ref().as_ref().and_then(NodeIndex::snapshot),
        ..AtHand::default()
    };
    let of_head = name_of(options, "");
    let folds_into_head = !name.key.is_empty() && options.source.kind().is_go();
    let asked_head = async {
        if folds_into_head {
            Some(head::ask(ctx, &of_head, AtHand::default()).await)
        } else {
            None
        }
    };
    let (asked, asked_head) = tokio::join!(head::ask(ctx, name, at_hand), asked_head);
    let current = head::read_answers(ctx, name, &damaged, at_hand, asked).await?;
    let head = match asked_head {
        Some(asked) => {
            let none = AtHand::default();
            Some(head::read_answers(ctx, &of_head, &damaged, none, asked).await?)
        }
        None => None,
    };
    let (of_head, folded, read) = task::blocking(move || {
        let of_head = head.as_ref().and_then(Current::folded);
        let folded = current.folded();
        (of_head, folded, (head, current))
    })
    .await;
    let (head, current) = read;
    let mut base = folded.filter(|_| !options.replace);
    // A key written before its name was replaced is not built on: it would bring all replaced content back.
    if let (Some(key), Some(head)) = (&base, &of_head)
        && is_replaced(key, head, rules)
    {
        base = None;
    }
    let base_is_current = base.is_some();
    if base.is_none() && !options.replace {
        base = of_head;
    }
    if base.is_none()
        && !options.replace
        && let Some(imported) = (*index).as_ref().and_then(|i| i.notes.imported.as_ref())
        && imported.store == ctx.store.url().to_string()
    {
        base = imported_base(ctx, &imported.snapshot, &damaged, rules).await;
    }
    Ok(Ground {
        index,
        damaged,
        current,
        head,
        base: base.map(Arc::new),
        base_is_current,
        mark: None,
    })
}

/// The snapshot that this node imported: a first export of a scope need not send its content again. If it is unavailable, that only costs
/// time.
async fn imported_base(
    ctx: &Context,
    digest: &str,
    damaged: &HashSet<Digest>,
    rules: Rules,
) -> Option<Snapshot> {
    let digest: Digest = digest.parse().ok()?;
    let resolved = ctx.store.resolve(&digest.into()).await.ok()??;
    let loaded = load::load(ctx, &resolved.manifest, damaged)
        .await
        .ok()?
        .ok()?;
    let mut loaded = loaded;
    let now = ctx.store.clock().await.ok()?;
    dated::leave_out(&mut loaded, None, resolved.modified, now);
    fold::close(&mut loaded.snapshot, rules);
    Some(loaded.snapshot)
}

/// The scanned tree.
pub(super) struct Scanned {
    pub(super) items: Vec<Item>,
    pub(super) skipped: Vec<LeftOut>,
    pub(super) stamp: Option<Stamp>,
}

/// Scans the tree; `index` must have been read before.
pub(super) async fn scan(
    source: Arc<dyn Source>,
    index: Arc<Option<NodeIndex>>,
) -> Result<Scanned> {
    task::blocking(move || {
        // Take the stamp before the first stat; otherwise it proves nothing.
        let stamp =
            crate::fs::Dir::open_if_there(source.root())?.and_then(|root| Stamp::take(&root).ok());
        let scan = match &*index {
            Some(index) => source.scan(index)?,
            None => source.scan(&NothingKnown)?,
        };
        let skipped = scan
            .skipped
            .into_iter()
            .map(|s| LeftOut {
                what: s.path,
                why: s.why,
            })
            .collect();
        Ok(Scanned {
            items: scan.items,
            skipped,
            stamp,
        })
    })
    .await
}

/// Packs that replace damaged ones need different digests, which the generation gives them: it is above those of the intact packs, by a
/// step that depends on what is damaged, since a repacked pack may be damaged again.
pub(super) fn generation(ground: &Ground, stuck: Option<Digest>) -> u32 {
    let mut wrong: Vec<String> = ground.current.lost().into_iter().map(|l| l.what).collect();
    wrong.extend(stuck.map(|d| d.to_string()));
    if wrong.is_empty() && ground.base.is_some() {
        return 0;
    }
    wrong.extend(ground.damaged.iter().map(ToString::to_string));
    if wrong.is_empty() {
        return 0;
    }
    wrong.sort();
    let step = u32::from(Sha256::of(wrong.concat().as_bytes()).0[0]);
    let head = ground.current.head.iter().flat_map(|l| &l.snapshot.packs);
    let head = head.map(|p| p.toc.generation);
    let sides = ground.current.sides.iter().map(|s| s.generation);
    let highest = head.chain(sides).max().unwrap_or(0);
    // At the limit the damaged packs are left out anyway; only a different digest matters.
    match highest + 1 + step {
        generation if generation > MAX_GENERATION => MAX_GENERATION - step,
        generation => generation,
    }
}
