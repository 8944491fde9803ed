//! When a pack is closed: by its content alone, so that the same tree gives the same packs.

/// Up to this many bytes of content are one pack, which is a complete tree.
const ONE_PACK_BYTES: u64 = 256 << 20;
/// With more content, a pack is closed at the next member once its tar is this long …
const RAW_BYTES: u64 = 64 << 20;
/// … and the pack itself is this long. The first packs are smaller, so that sending begins early; later ones are small enough
/// that several are sent at once.
const STORED_BYTES: [u64; 3] = [16 << 20, 32 << 20, 64 << 20];
/// Its length is checked again after at least this many more bytes of its tar: each check waits for compression to finish.
const CHECK_BYTES: u64 = 32 << 20;
/// Every pack gets at least this fraction of the total, which limits their number.
const PACKS_AT_MOST: u64 = 50;

/// Decides when the packs of a run are closed.
pub(super) struct PackSize {
    /// Shortest tar of a pack.
    raw: u64,
    closed: usize,
    /// Length of the tar at which the pack is checked again.
    next_check: u64,
}

impl PackSize {
    /// For `total` bytes of content.
    pub(super) fn of(total: u64) -> Self {
        Self {
            raw: if total <= ONE_PACK_BYTES {
                u64::MAX
            } else {
                RAW_BYTES.max(total / PACKS_AT_MOST)
            },
            closed: 0,
            next_check: 0,
        }
    }

    /// Returns true if a pack whose tar has `raw` bytes may be long enough, which depends on its stored length.
    pub(super) fn is_due(&self, raw: u64) -> bool {
        raw >= self.raw.max(self.next_check)
    }

    /// Decides whether a pack of `stored` bytes, whose tar has `raw` bytes, is closed; if not, it is due again later.
    pub(super) fn closes(&mut self, raw: u64, stored: u64) -> bool {
        let enough = STORED_BYTES[self.closed.min(STORED_BYTES.len() - 1)];
        if stored >= enough {
            return true;
        }
        let expected = u128::from(raw) * u128::from(enough) / u128::from(stored.max(1));
        let expected = u64::try_from(expected).unwrap_or(u64::MAX);
        self.next_check = expected.clamp(raw + CHECK_BYTES, raw + ONE_PACK_BYTES);
        false
    }

    /// Notes that a pack was closed.
    pub(super) fn closed(&mut self) {
        self.closed += 1;
        self.next_check = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Tar lengths of the packs of `total` bytes that shrink to one part in `by`, and how often a length was checked.
    fn packs(total: u64, by: u64) -> (Vec<u64>, u32) {
        let (mut size, mut packs, mut raw, mut checks) = (PackSize::of(total), Vec::new(), 0, 0);
        for _ in 0..total / MIB {
            raw += MIB;
            if !size.is_due(raw) {
                continue;
            }
            checks += 1;
            if size.closes(raw, raw / by) {
                size.closed();
                packs.push(raw / MIB);
                raw = 0;
            }
        }
        packs.extend((raw > 0).then_some(raw / MIB));
        (packs, checks)
    }

    #[test]
    fn up_to_256_mib_are_one_pack() {
        assert_eq!(packs(256 * MIB, 1), (vec![256], 0));
        assert!(packs(257 * MIB, 1).0.len() > 1);
    }

    #[test]
    fn packs_begin_small_and_reach_64_mib_with_few_checks() {
        assert_eq!(packs(1000 * MIB, 1).0, [vec![64; 15], vec![40]].concat());
        let (sizes, checks) = packs(1000 * MIB, 4);
        assert_eq!(sizes, [64, 128, 256, 256, 256, 40]);
        assert!(checks <= 9, "{checks}");
        assert_eq!(packs(1000 * MIB, 1000), (vec![1000], 4));
    }

    #[test]
    fn a_huge_tree_has_at_most_50_packs() {
        assert_eq!(packs(50_000 * MIB, 1).0, vec![1000; 50]);
    }
}
