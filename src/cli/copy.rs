//! `cachectl copy`.

use std::fmt::Write as _;

use super::{
    args,
    error::{CommandError, Result},
    json,
    output::{self, bytes, count, printable, seconds},
    session::Session,
};
use crate::{ops::copy, redact};

pub(crate) async fn run(session: &Session, args: &args::Copy) -> Result<u8> {
    if args.from == args.to {
        return Err(CommandError::usage("FROM and TO are the same store"));
    }
    session.refuse_if_read_only("copy")?;
    let budget = session.budget(None);
    let opened = async {
        let from = session.open_url(&args.from, true, budget).await?;
        let to = session.open_url(&args.to, false, budget).await?;
        Ok::<_, CommandError>((from, to))
    };
    let (from, to) = session.within(budget, opened).await?;
    session.reporter.label("copy");
    let report = session
        .within(
            budget,
            Box::pin(copy::run(&from, &to, args.name.as_deref())),
        )
        .await?;
    session.reporter.clear();
    let (from, to) = (redact::url(&args.from), redact::url(&args.to));
    let elapsed = session.began.elapsed();
    if session.json {
        output::object(&json::copied(&from, &to, &report, elapsed))?;
        return end(&report, &from, args.name.as_deref());
    }
    let mut text = output::lines(report.tags.iter().map(|t| printable(t)));
    let _ = writeln!(
        text,
        "{} copied: {} sent ({}), {} saved, in {}",
        count(report.tags.len() as u64, "name", "names"),
        bytes(report.moved.bytes_moved),
        count(report.moved.blobs_moved, "blob", "blobs"),
        bytes(report.moved.bytes_saved),
        seconds(elapsed)
    );
    session.say(&text)?;
    end(&report, &from, args.name.as_deref())
}

/// A copy that lacks something is no copy; what there was to say about each is said already.
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
    Err(CommandError::failed(format!("{what} could not be copied"))
        .hint("`cachectl verify` at FROM says what is damaged there; the next export mends it")
        .told())
}
