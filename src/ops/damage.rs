//! Packs that imports on this node found damaged, so that its next export repacks their content.
//!
//! A file `damaged` in the state folder, one line per pack: day, digest, store. It is kept beside the node indexes, not in them: after a
//! miss there may be no target directory that an index could belong to.

use std::{collections::HashSet, fmt::Write as _, io::Write as _};

use super::Context;
use crate::{digest::Digest, entry::Time, fs, task};

const FILE: &str = "damaged";
/// A repaired name lists another pack, so a stale line costs only its bytes.
const KEPT_DAYS: u32 = 30;
const MAX_BYTES: u64 = 1 << 20;

/// The packs of this store that are known to be damaged.
pub(super) async fn known(ctx: &Context) -> HashSet<Digest> {
    let Some(file) = ctx.state_dir.as_ref().map(|s| s.join(FILE)) else {
        return HashSet::new();
    };
    let (store, today) = (ctx.store.url().to_string(), Time::now().day());
    task::blocking(move || {
        let text = fs::read_if_there(&file, MAX_BYTES).unwrap_or_else(|e| {
            tracing::debug!(error = %e, "Could not read the list of damaged packs");
            None
        });
        let text = String::from_utf8(text.unwrap_or_default()).unwrap_or_default();
        let of_line = |line: &str| -> Option<Digest> {
            let mut fields = line.splitn(3, ' ');
            let day: u32 = fields.next()?.parse().ok()?;
            let digest = fields.next()?.parse().ok()?;
            (day + KEPT_DAYS >= today && fields.next()? == store).then_some(digest)
        };
        text.lines().filter_map(of_line).collect()
    })
    .await
}

/// Records that packs are damaged. If that fails, the next export does not know about them; the failure is logged.
pub(super) async fn note(ctx: &Context, damaged: &[(Digest, String)]) {
    let (Some(state), false) = (ctx.state_dir.clone(), damaged.is_empty()) else {
        return;
    };
    let (store, today) = (ctx.store.url().to_string(), Time::now().day());
    let mut lines = String::new();
    for (digest, _) in damaged {
        let _ = writeln!(lines, "{today} {digest} {store}");
    }
    task::blocking(move || {
        let write = || -> std::io::Result<()> {
            fs::make_own_dirs(&state).map_err(std::io::Error::other)?;
            let file = state.join(FILE);
            if std::fs::metadata(&file).is_ok_and(|m| m.len() > MAX_BYTES / 2) {
                std::fs::remove_file(&file)?;
            }
            let mut open = std::fs::OpenOptions::new();
            // Appending needs no lock: concurrent imports both keep their lines.
            let mut file = open.append(true).create(true).open(file)?;
            file.write_all(lines.as_bytes())
        };
        if let Err(e) = write() {
            tracing::warn!(error = %e, "Could not record the damage: the next export from this node will not repair it");
        }
    })
    .await;
}
