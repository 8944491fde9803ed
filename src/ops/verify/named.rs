//! Checks a name with its side tags: content already in its head is read only through the head.

use super::{
    super::{
        Result,
        head::Contained,
        names::{self, NameInRepo},
        reach::RepoContext,
    },
    Verifier,
};
use crate::artifact::Tag;

impl Verifier {
    /// Checks a name's head and then its side tags. A damaged side tag that an intact head contains is not a fault: no import reads it, and
    /// an export that repairs the name cannot change it.
    pub(super) async fn name(&mut self, named: &NameInRepo) -> Result<()> {
        let NameInRepo { place, group, .. } = named;
        let is_whole = group.is_there && self.tag(place, &group.head).await?;
        if group.sides.is_empty() {
            return Ok(());
        }
        let head = if is_whole {
            names::snapshot_at(&place.ctx, &group.head).await?
        } else {
            None
        };
        let now = place.ctx.store.clock().await?;
        let contained = head.as_ref().map(|head| Contained::by(head, now));
        let mut unneeded = 0;
        for side in &group.sides {
            let before = self.faults.len();
            let is_sound = self.tag(place, side).await?;
            if !is_sound && contained.as_ref().is_some_and(|c| c.has(side)) {
                self.faults.truncate(before);
                unneeded += 1;
            }
        }
        if unneeded > 0 {
            place.ctx.progress.warn(&format!(
                "tag {}: {unneeded} of its side tags cannot be read in full; no import needs them, since the tag contains what they held",
                named.shown(),
            ));
        }
        Ok(())
    }

    /// Checks what a tag points at; `false` if it has a fault.
    async fn tag(&mut self, place: &RepoContext, tag: &Tag) -> Result<bool> {
        let before = self.faults.len();
        let shown = format!("tag {}", place.shown(tag.as_str()));
        self.reference(place, &tag.clone().into(), &shown).await?;
        Ok(self.faults.len() == before)
    }
}
