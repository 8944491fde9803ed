//! `cachectl rm`.

use std::io::{self, IsTerminal as _};

use super::{
    args,
    error::{CommandError, Result},
    inspect::nothing_named,
    json,
    output::{self, count, printable},
    session::Session,
};
use crate::{
    artifact::name::Only,
    ops::remove::{self, Removed},
    task,
};

pub(crate) async fn run(session: &Session, args: &args::Rm) -> Result<u8> {
    session.refuse_if_read_only("rm")?;
    let budget = session.budget(None);
    let upkeep = session.within(budget, session.upkeep(budget, &[])).await?;
    let rehearsal = remove::Options {
        name: args.name.clone(),
        only: Only {
            kind: args.kind.clone(),
            scope: args.scope.clone(),
            key: args.key.clone(),
        },
        dry_run: true,
    };
    let mut report = session.within(budget, upkeep.remove(&rehearsal)).await?;
    session.reporter.clear();
    let is_there = !report.tags.is_empty();
    let word = if args.dry_run {
        "would delete"
    } else {
        "deleting"
    };
    if is_there && !session.json {
        // Daemons of older releases list only tags.
        let names = report.names.iter().map(|n| format!("{word} {}", shown(n)));
        let tags = report.tags.iter();
        let tags = tags.map(|t| format!("{word} {}", printable(t)));
        session.say(&if report.names.is_empty() {
            output::lines(tags)
        } else {
            output::lines(names)
        })?;
    }
    if is_there && !args.dry_run {
        if !args.yes && !agreed(report.names.len()).await? {
            return Err(
                CommandError::failed("nothing was deleted").hint("answer `y`, or pass --yes")
            );
        }
        let options = remove::Options {
            dry_run: false,
            ..rehearsal
        };
        report = session.within(budget, upkeep.remove(&options)).await?;
    }
    if session.json {
        output::object(&json::removed(
            &session.store_shown(),
            &report,
            args.dry_run,
            session.began.elapsed(),
        ))?;
    } else if is_there && !args.dry_run {
        session.say(&format!(
            "{} deleted; `cachectl prune` frees the space\n",
            count(report.tags.len() as u64, "tag", "tags")
        ))?;
    }
    if !is_there {
        return Err(nothing_named(session, &args.name).told());
    }
    Ok(0)
}

/// `gobuild example.com/acme/shop (scope default, key k)`.
fn shown(removed: &Removed) -> String {
    let Some(name) = &removed.name else {
        return printable(&removed.tag);
    };
    let key = if name.key.is_empty() {
        String::new()
    } else {
        format!(", key {}", printable(&name.key))
    };
    // The tag of another repository begins with it.
    let repo = removed.tag.rsplit_once(':').map(|(repo, _)| repo);
    format!(
        "{} {}{} (scope {}{key})",
        printable(&name.kind),
        repo.map(|r| format!("{}:", printable(r)))
            .unwrap_or_default(),
        printable(&name.name),
        printable(&name.scope),
    )
}

/// Asks whoever sits at a terminal; a script is not asked.
async fn agreed(names: usize) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    let names = count(names as u64, "this name", "names");
    output::note(&format!("Delete {names}? [y/N] "));
    let answer = task::blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await;
    let answer =
        answer.map_err(|e| CommandError::failed(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::artifact::name::SnapshotName;

    #[test]
    fn names_are_shown_as_people_wrote_them() {
        let mut removed = Removed {
            tag: "f/x:gobuild.example_2ecom_2fshop.default.".into(),
            repository: "f/x".into(),
            name: Some(SnapshotName {
                kind: "gobuild".into(),
                name: "example.com/shop".into(),
                scope: "default".into(),
                key: "k".into(),
            }),
        };
        assert_eq!(
            shown(&removed),
            "gobuild f/x:example.com/shop (scope default, key k)"
        );
        removed.name = None;
        assert_eq!(shown(&removed), removed.tag);
    }
}
