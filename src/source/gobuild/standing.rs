//! What exists in the place of a file that would be restored, and whether it is kept.

use super::{
    action::Action,
    output::{Found, hash},
    path::{self, Which},
    read_action, rests,
};
use crate::{
    digest::{ContentId, Sha256},
    entry::{Entry, Time},
    fs::{Dir, Parents, Stat, missing_is_none},
    source::{Error, Known, NOT_OF_GO, Result, Standing},
};

/// Why another file in the folder of a program stays. With both, the folder would be useless to Go.
const NOT_ALONE: &str = "there are other files in its folder: remove the folder";

/// An entry, and what is known of its content.
struct Wanted<'a> {
    entry: &'a Entry,
    id: Sha256,
    content: Option<&'a ContentId>,
    known: &'a dyn Known,
}

impl Wanted<'_> {
    /// Returns true if a file with that metadata is known to have the wanted content.
    fn is_known(&self, stat: &Stat) -> bool {
        match (self.known.content(&self.entry.path, stat), self.content) {
            (Some(known), Some(want)) => known.content == *want,
            _ => false,
        }
    }

    fn size(&self) -> u64 {
        self.entry.kind.content_len()
    }
}

pub(super) fn standing(
    places: &mut Parents<'_>,
    entry: &Entry,
    content: Option<&ContentId>,
    known: &dyn Known,
) -> Result<Standing> {
    let path = &entry.path;
    let Some((which, id)) = path::parse(path.as_bytes()) else {
        return Err(Error::Invalid(format!(
            "{path} is not a file of Go's build cache"
        )));
    };
    let wanted = Wanted {
        entry,
        id,
        content,
        known,
    };
    let (root, name) = (places.root(), path.name());
    if which == Which::Program {
        // Its folder is what stands, or does not.
        let mut names = path.names();
        let (shard, folder) = (names.next(), names.next());
        let shard = missing_is_none(root.open_dir(shard.unwrap_or_default()))?;
        return shard.map_or(Ok(Standing::Absent), |shard| {
            program_stands(&shard, folder.unwrap_or_default(), &wanted)
        });
    }
    let Some(shard) = places.of(path)? else {
        return Ok(Standing::Absent);
    };
    if which == Which::Action {
        return action_stands(root, shard, name, &wanted);
    }
    output_stands(shard, name, &wanted)
}

/// The standing of a file with the right content.
fn same(stat: &Stat) -> Standing {
    if rests(stat.mtime, Time::now()) {
        Standing::Same
    } else {
        Standing::SameContent
    }
}

fn output_stands(shard: &Dir, name: &[u8], wanted: &Wanted<'_>) -> Result<Standing> {
    Ok(match Found::at(shard, name)? {
        // No rename can replace an empty folder by a file; it would be in the way of Go, too.
        Found::Nothing if shard.stat(name)?.is_some() => Standing::Blocked(NOT_OF_GO),
        Found::Nothing => Standing::Absent,
        Found::File(stat) if wanted.is_known(&stat) => same(&stat),
        Found::File(stat) if stat.size == wanted.size() && hash(shard, name)? == wanted.id => {
            same(&stat)
        }
        Found::File(_) | Found::Other => Standing::Other,
        // Go can use it, too.
        Found::Program(program) if program.is(wanted.size(), wanted.id)? => Standing::Keep,
        Found::Program(_) | Found::Folder => Standing::Blocked(NOT_OF_GO),
    })
}

fn program_stands(shard: &Dir, name: &[u8], wanted: &Wanted<'_>) -> Result<Standing> {
    let program = match Found::at(shard, name)? {
        Found::Nothing => return Ok(Standing::Absent),
        // A folder replaces it: `go run` cannot run an output that is a file.
        Found::File(_) | Found::Other => return Ok(Standing::Other),
        Found::Folder => return Ok(Standing::Blocked(NOT_ALONE)),
        Found::Program(program) => program,
    };
    let is_same_name = *program.name == *wanted.entry.path.name();
    let usable = program.is_executable();
    // Only the time of the folder means anything to Go.
    if is_same_name && usable && wanted.is_known(&program.stat) {
        return Ok(Standing::Same);
    }
    let right = usable && program.is(wanted.size(), wanted.id)?;
    Ok(match (is_same_name, right) {
        (true, true) => Standing::SameAsRead(program.stat.mtime),
        (true, false) => Standing::Other,
        (false, true) => Standing::Keep,
        (false, false) => Standing::Blocked(NOT_ALONE),
    })
}

fn action_stands(root: &Dir, shard: &Dir, name: &[u8], wanted: &Wanted<'_>) -> Result<Standing> {
    let stat = match shard.stat(name)? {
        None => return Ok(Standing::Absent),
        Some(stat) if stat.is_dir() => return Ok(Standing::Blocked(NOT_OF_GO)),
        Some(stat) if !stat.is_file() => return Ok(Standing::Other),
        Some(stat) => stat,
    };
    if wanted.is_known(&stat) {
        return Ok(same(&stat));
    }
    let Ok(bytes) = read_action(shard, name) else {
        return Ok(Standing::Other);
    };
    if wanted.content.is_some_and(|c| c.matches(&bytes)) {
        return Ok(same(&stat));
    }
    let Ok(action) = Action::parse(&bytes, wanted.id) else {
        return Ok(Standing::Other);
    };
    let usable = Found::below(root, action.output)?.path_for(&action).is_ok();
    Ok(if usable && action.time >= wanted.entry.meta.mtime {
        Standing::Keep
    } else {
        Standing::Other
    })
}
