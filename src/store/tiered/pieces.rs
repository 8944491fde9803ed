//! Pieces of unfinished uploads are stored only in the remote. The daemon that receives an upload also has its bytes in a file
//! ([`crate::store::ingest`]), with which it continues while the remote is unreachable.

use super::{Core, front::passed_by};
use crate::store::keys;

/// Returns true if a key is a piece of an upload, and not another file that a disk store keeps next to them.
pub(super) fn is_piece(key: &str) -> bool {
    let name = key.strip_prefix(keys::UPLOADS);
    name.is_some_and(|n| n.starts_with(|c: char| c.is_ascii_hexdigit()))
}

impl Core {
    /// Removes pieces that older daemons kept in front: nobody would finish those uploads there.
    pub(super) async fn drop_pieces(&self) {
        let front = &self.front.records;
        let left = passed_by(front.list_records(keys::UPLOADS).await).unwrap_or_default();
        for listed in left.iter().filter(|listed| is_piece(&listed.key)) {
            passed_by(front.remove_record(&listed.key).await);
        }
    }
}
