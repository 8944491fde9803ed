//! How snapshots of a kind behave.

use crate::{artifact::fold::Rules, source::SourceKind};

/// The rules of a kind.
pub fn of(kind: SourceKind) -> Rules {
    match kind {
        SourceKind::GoBuild => Rules::Union {
            outputs_by_need: true,
        },
        SourceKind::GoMod => Rules::Union {
            outputs_by_need: false,
        },
        SourceKind::Dir => Rules::Tree,
    }
}

/// The same by the kind's name, as snapshots have it; one of a kind that we do not know is a tree.
pub fn of_name(kind: &str) -> Rules {
    SourceKind::from_name(kind).map_or(Rules::Tree, of)
}
