//! `cachectl copy`.

use std::{collections::BTreeSet, fmt::Write as _};

use serde_json::json;

use super::{
    args::{self, By},
    error::{CommandError, Result},
    json::Object,
    output::{self, bytes, count, seconds},
    session::Session,
    stores::{self, Locality},
    upkeep::{Upkeep, no_daemon},
};
use crate::{
    ops::{LeftOut, copy, list},
    progress::Watch as _,
    proto::v1,
    redact,
    store::keys::Repo,
};

/// The process that copies, and the side whose URL is its own store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Here,
    /// The daemon that is read from.
    From,
    /// The daemon that is written to.
    To,
    /// The configured daemon, which is neither side.
    Set,
}

/// A daemon that is one side copies if that keeps the bytes from passing through this process; it cannot access this node's folders.
fn who(from: Locality, to: Locality, set: Locality, by: Option<By>) -> Result<Who> {
    let sides = (from == Locality::Daemon, to == Locality::Daemon);
    match (by, sides) {
        (Some(By::Daemon), (true, false)) => Ok(Who::From),
        (Some(By::Daemon), (false, true)) => Ok(Who::To),
        (Some(By::Daemon), (false, false)) if set == Locality::Daemon => Ok(Who::Set),
        (Some(By::Daemon), (false, false)) => Err(CommandError::usage(
            "--by daemon: neither FROM nor TO is a daemon, and none is configured",
        )
        .hint("name one with --daemon or CACHECTL_DAEMON")),
        (Some(By::Daemon), (true, true)) => Err(CommandError::usage(
            "--by daemon: both FROM and TO are daemons",
        )
        .hint("leave it out: this process then copies")),
        (None, (true, false)) if to == Locality::Remote => Ok(Who::From),
        (None, (false, true)) if from == Locality::Remote => Ok(Who::To),
        (Some(By::Here) | None, _) => Ok(Who::Here),
    }
}

pub(crate) async fn run(session: &Session, args: &args::Copy) -> Result<u8> {
    if args.from == args.to {
        return Err(CommandError::usage("FROM and TO are the same store"));
    }
    session.refuse_if_read_only("copy")?;
    let (from, to) = (stores::place(&args.from)?, stores::place(&args.to)?);
    let set = match session.store() {
        Ok(store) => stores::place(store)?,
        // Both sides are given; a missing daemon in the settings is reported only if one is needed.
        Err(_) => Locality::Folder,
    };
    let who = who(from, to, set, args.by)?;
    session.reporter.label("copy");
    let report = match who {
        Who::Here => here(session, args).await?,
        _ => by_daemon(session, args, who).await?,
    };
    session.reporter.clear();
    let (from, to) = (redact::url(&args.from), redact::url(&args.to));
    let elapsed = session.began.elapsed();
    if session.json {
        let by = if who == Who::Here { "here" } else { "daemon" };
        // Only a name's snapshots state how much it holds, and they are copied without being read.
        let own = json!({"from": from, "to": to, "by": by, "entries": null, "bytes": null});
        let object = Object::new("copy", report.found, elapsed);
        object.with(&report).with(own).print()?;
        return end(&report, &from, args.name.as_deref());
    }
    let names = output::names(&report.tags);
    let mut text = output::lines(names.iter().cloned());
    let _ = writeln!(
        text,
        "{} copied: {} sent ({}), {} saved, in {}",
        count(names.len() as u64, "name", "names"),
        bytes(report.moved.bytes_moved),
        count(report.moved.blobs_moved, "blob", "blobs"),
        bytes(report.moved.bytes_saved),
        seconds(elapsed)
    );
    session.say(&text)?;
    end(&report, &from, args.name.as_deref())
}

async fn here(session: &Session, args: &args::Copy) -> Result<copy::Report> {
    let budget = session.budget(None);
    let opened = async {
        let from = session.open_url(&args.from, true, budget).await?;
        let to = session.open_url(&args.to, false, budget).await?;
        Ok::<_, CommandError>((from, to))
    };
    let (mut from, to) = session.within(budget, opened).await?;
    from.reach = from.reach.wanting(&args.chosen.repositories)?;
    let copied = Box::pin(copy::run(&from, &to, args.name.as_deref()));
    let mut report = session.within(budget, copied).await?;
    if from.store.facts().control.is_some() && args.name.is_none() {
        let upkeep = Upkeep::new(session, from, &args.chosen.repositories)?;
        let all = v1::ListRequest {
            name: None,
            repositories: args.chosen.repositories.clone(),
        };
        let here = async |ctx: &_| list::run(ctx, None).await;
        let listed = upkeep.run(all, here).await?;
        report.left_out.extend(behind_the_door(session, &listed));
    }
    Ok(report)
}

/// Repositories of a daemon that its API does not expose to this process.
fn behind_the_door(session: &Session, listed: &list::Report) -> Vec<LeftOut> {
    let own = |name: &str| name.is_empty() || name == Repo::cli().as_str();
    let names: BTreeSet<&str> = listed.rows.iter().map(|r| r.repository.as_str()).collect();
    let left = names.into_iter().filter(|name| !own(name)).map(|name| {
        let what = format!("repository {name}");
        let why = "this process reads only `cachectl` from a daemon; --by daemon copies all";
        session.reporter.warn(&format!("not copied: {what}: {why}"));
        LeftOut {
            what,
            why: why.to_owned(),
        }
    });
    left.collect()
}

async fn by_daemon(session: &Session, args: &args::Copy, who: Who) -> Result<copy::Report> {
    let budget = session.budget(None);
    let url = match who {
        Who::From => &args.from,
        Who::To => &args.to,
        Who::Here | Who::Set => session.store()?,
    };
    let opened = session.open_url(url, false, budget);
    let opened = session.within(budget, opened).await?;
    let upkeep = Upkeep::new(session, opened, &args.chosen.repositories)?;
    let daemon = upkeep.daemon.ok_or_else(no_daemon)?;
    // An empty URL stands for the daemon's own store.
    let side = |own: Who, url: &String| {
        if who == own {
            String::new()
        } else {
            url.clone()
        }
    };
    let (from, to) = (side(Who::From, &args.from), side(Who::To, &args.to));
    let request = v1::CopyRequest {
        from,
        to,
        name: args.name.clone(),
        repositories: args.chosen.repositories.clone(),
    };
    session.within(budget, daemon.call(request)).await
}

/// An incomplete copy counts as failed; each problem has already been reported.
fn end(report: &copy::Report, from: &str, name: Option<&str>) -> Result<u8> {
    if report.left_out.is_empty() {
        return match name {
            Some(name) if !report.found => {
                Err(CommandError::failed(format!("nothing at {from} is named `{name}`")).told())
            }
            _ => Ok(0),
        };
    }
    let what = count(report.left_out.len() as u64, "item", "items");
    let hint = if report
        .left_out
        .iter()
        .all(|l| l.what.starts_with("repository "))
    {
        "copy to a folder (disk:) or a bucket, or with --by daemon: these hold all repositories; or copy one with --repository cachectl"
    } else {
        "`cachectl verify` on FROM shows what is damaged; the next export repairs it"
    };
    Err(CommandError::failed(format!("{what} could not be copied"))
        .hint(hint)
        .told())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_copies_to_and_from_remotes_and_this_process_the_rest() {
        use Locality::{Daemon, Folder, Remote};
        let here = |from, to| who(from, to, Folder, None).unwrap();
        assert_eq!(here(Daemon, Remote), Who::From);
        assert_eq!(here(Remote, Daemon), Who::To);
        for (from, to) in [
            (Daemon, Folder),
            (Folder, Daemon),
            (Daemon, Daemon),
            (Remote, Folder),
            (Folder, Remote),
        ] {
            assert_eq!(here(from, to), Who::Here, "{from:?} {to:?}");
        }
        let by = |from, to, set| who(from, to, set, Some(By::Daemon));
        assert_eq!(by(Daemon, Folder, Folder).unwrap(), Who::From);
        assert_eq!(by(Folder, Daemon, Folder).unwrap(), Who::To);
        assert_eq!(by(Folder, Remote, Daemon).unwrap(), Who::Set);
        assert!(by(Folder, Remote, Folder).is_err() && by(Daemon, Daemon, Daemon).is_err());
        assert_eq!(
            who(Daemon, Remote, Daemon, Some(By::Here)).unwrap(),
            Who::Here
        );
    }
}
