//! `cachectl flush`: a daemon sends what waits.

use super::{
    args,
    error::Result,
    json, output,
    session::Session,
    status::{no_daemon, waiting},
};

pub(crate) async fn run(session: &Session, args: &args::Flush) -> Result<u8> {
    let budget = session.budget(None);
    let upkeep = session
        .within(budget, session.daemon("flush", budget))
        .await?;
    let daemon = upkeep.daemon().ok_or_else(no_daemon)?;
    let shown = |queue: &_| session.reporter.note(&waiting(queue));
    let queue = session
        .within(budget, daemon.flush(args.wait, shown))
        .await?;
    session.reporter.clear();
    if session.json {
        let elapsed = session.began.elapsed();
        let store = session.store_shown();
        output::object(&json::flushed(&store, args.wait, queue.as_ref(), elapsed))?;
    } else {
        let text = match &queue {
            None => "nothing to flush: this daemon sends everything at once".to_owned(),
            Some(queue) => waiting(queue),
        };
        session.say(&format!("{text}\n"))?;
    }
    Ok(0)
}
