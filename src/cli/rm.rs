//! `cachectl rm`.

use std::io::{self, IsTerminal as _};

use serde_json::json;

use super::{
    args,
    error::{CommandError, Result},
    inspect::nothing_named,
    output::{self, count, printable},
    session::Session,
    upkeep::Upkeep,
};
use crate::{
    artifact::name::Only,
    ops::remove::{self, Removed},
    proto::Wire as _,
    store::{self},
    task,
};

/// Most caches listed in a message.
const SHOWN: usize = 5;

pub(crate) async fn run(session: &Session, args: &args::Rm) -> Result<u8> {
    session.refuse_if_read_only("rm")?;
    let upkeep = Upkeep::open(session, &[]).await?;
    let only = Only {
        kind: args.kind.clone(),
        scope: args.scope.clone(),
        key: args.key.clone(),
    };
    let rehearsal = remove::Options {
        name: args.name.clone(),
        only: only.clone(),
        dry_run: true,
    };
    let mut report = remove(&upkeep, &rehearsal).await?;
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
        if !args.yes && !agreed(report.names.len().max(1)).await? {
            return Err(
                CommandError::failed("nothing was deleted").hint("answer `y`, or pass --yes")
            );
        }
        let options = remove::Options {
            dry_run: false,
            ..rehearsal.clone()
        };
        report = remove(&upkeep, &options).await?;
    }
    if session.json {
        let object = session.object("rm", !report.tags.is_empty());
        let object = object.with(&report);
        object.with(json!({"dry_run": args.dry_run})).print()?;
    } else if is_there && !args.dry_run {
        session.say(&format!(
            "{} deleted; `cachectl prune` frees the space\n",
            // Daemons of older releases list only tags.
            match report.names.len() as u64 {
                0 => count(report.tags.len() as u64, "tag", "tags"),
                n => count(n, "cache", "caches"),
            }
        ))?;
    }
    if !is_there {
        let any = remove::Options {
            only: Only::default(),
            ..rehearsal
        };
        let there = if only.is_any() {
            remove::Report::default()
        } else {
            remove(&upkeep, &any).await?
        };
        let error = if there.names.is_empty() {
            nothing_named(session, &args.name)
        } else {
            none_of_it(&only, &there, &args.name)
        };
        return Err(error.told());
    }
    Ok(0)
}

/// Runs the removal, or its dry run.
async fn remove(upkeep: &Upkeep<'_>, options: &remove::Options) -> Result<remove::Report> {
    let request = options.clone().into_wire();
    let report = upkeep
        .run(request, async |ctx| remove::run(ctx, options).await)
        .await?;
    // A daemon that does not support these filters removes everything, and reports no names: so always do a dry run first.
    if !options.only.is_any() && report.names.is_empty() && !report.tags.is_empty() {
        let why = "the daemon cannot filter by scope, key or kind: it is older than this cachectl; use the same release of both";
        let error = store::Error::unsupported("remove", why);
        return Err(error.at(&upkeep.ctx.store.url().to_string(), "").into());
    }
    Ok(report)
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
    // A tag of another repository begins with the repository.
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

/// Asks for confirmation on a terminal; never in a script.
async fn agreed(names: usize) -> Result<bool> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(true);
    }
    output::note(&question(names));
    let answer = task::blocking(|| {
        let mut answer = String::new();
        io::stdin().read_line(&mut answer).map(|_| answer)
    });
    let answer = answer.await;
    let answer =
        answer.map_err(|e| CommandError::failed(format!("cannot read the answer: {e}")))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn question(names: usize) -> String {
    let caches = match names {
        1 => "this cache".to_owned(),
        n => format!("these {n} caches"),
    };
    format!("Delete {caches}? [y/N] ")
}

/// The name exists, but not with the requested kind, scope or key.
fn none_of_it(only: &Only, there: &remove::Report, name: &str) -> CommandError {
    let asked = [
        ("kind", &only.kind),
        ("scope", &only.scope),
        ("key", &only.key),
    ];
    let asked: Vec<String> = asked
        .into_iter()
        .filter_map(|(what, value)| Some(format!("{what} `{}`", printable(value.as_ref()?))))
        .collect();
    let mut exist: Vec<String> = there.names.iter().take(SHOWN).map(shown).collect();
    if there.names.len() > SHOWN {
        exist.push(format!("{} more", there.names.len() - SHOWN));
    }
    CommandError::failed(format!(
        "no cache named `{name}` has {}; found: {}",
        asked.join(" and "),
        exist.join(", ")
    ))
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
        let there = remove::Report {
            names: vec![removed.clone(); 7],
            tags: Vec::new(),
        };
        let only = Only {
            key: Some("zz".into()),
            ..Only::default()
        };
        let said = none_of_it(&only, &there, "example.com/shop").message;
        assert!(
            said.starts_with("no cache named `example.com/shop` has key `zz`; found: gobuild f/x:example.com/shop (scope default, key k), ")
                && said.ends_with(", 2 more"),
            "{said}"
        );
        removed.name = None;
        assert_eq!(shown(&removed), removed.tag);
    }

    #[test]
    fn the_question_names_what_is_deleted() {
        assert_eq!(question(1), "Delete this cache? [y/N] ");
        assert_eq!(question(3), "Delete these 3 caches? [y/N] ");
    }
}
