//! Pieces of unfinished uploads: the remote's alone. Whoever receives an upload has its bytes in a file besides
//! ([`crate::store::ingest`]), by which it goes on while the remote is away.

use super::{Core, front::passed_by};
use crate::store::keys;

/// Returns true if a key is a piece of an upload, and none of the files that a disk store keeps beside those.
pub(super) fn is_piece(key: &str) -> bool {
    let name = key.strip_prefix(keys::UPLOADS);
    name.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_hexdigit()))
}

impl Core {
    /// Removes what older daemons kept in front: nobody would end those uploads there.
    pub(super) async fn drop_pieces(&self) {
        let front = &self.front.records;
        let left = passed_by(front.list_records(keys::UPLOADS).await).unwrap_or_default();
        for listed in left.iter().filter(|listed| is_piece(&listed.key)) {
            passed_by(front.remove_record(&listed.key).await);
        }
    }
}
