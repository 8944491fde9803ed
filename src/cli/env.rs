//! `cachectl env`: shows what was found here, what would be done, and where each value came from.

use std::{fmt::Write as _, path::Path, time::Duration};

use serde_json::{Value, json};

use super::{
    args,
    error::Result,
    output::{self, printable},
    session::Session,
    sources, stores,
};
use crate::{
    config::{Origin, load::Row},
    ops::{self, json::ms},
    source::goenv::{self, GoEnv, modfile},
};

use super::{export, import};

/// Longest time that `--check` waits for the store, unless there is a budget.
const CHECK: Duration = Duration::from_secs(10);

pub(crate) async fn run(session: &Session, args: &args::Env) -> Result<u8> {
    let go = sources::detect(session).await.map_err(|e| e.line());
    session.created();
    let mut reached = None;
    if args.check {
        reached = Some(check(session).await);
    }
    session.reporter.clear();
    if session.json {
        let mut object = object(session, args, go.as_ref());
        object["store_reachable"] = json!(reached.as_ref().map(Result::is_ok));
        output::object(&object)?;
    } else {
        let reached = reached.as_ref().and_then(|r| r.as_ref().ok().copied());
        output::data(&text(session, args, go.as_ref(), reached))?;
    }
    match reached {
        Some(Err(e)) => Err(e.told()),
        _ => Ok(0),
    }
}

/// Asks the store for a tag that cannot exist; returns a description of the store if it answers.
async fn check(session: &Session) -> Result<&'static str> {
    if stores::is_unmade(session.store()?) {
        return Ok("does not exist yet: the first export creates it");
    }
    let budget = session.budget(Some(CHECK));
    let url = session.store()?;
    let ping = async { stores::ping(url, &session.store_options(true)).await };
    session.within(budget, ping).await?;
    let ctx = session.within(budget, session.open(budget)).await?;
    session.within(budget, ops::names::ask(&ctx)).await?;
    // A lookup in a missing bucket fails.
    Ok(if url.starts_with("s3:") {
        "the bucket exists, and can be read"
    } else {
        "reachable and readable"
    })
}

/// Name under which Go's caches would be stored.
fn name(session: &Session, go: Found<'_>) -> Option<String> {
    let named = session.config().name.clone();
    named.or_else(|| modfile::default_name(go.ok()?))
}

/// What `go` reported, or why it could not be run.
type Found<'a> = std::result::Result<&'a GoEnv, &'a String>;

fn object(session: &Session, args: &args::Env, go: Found<'_>) -> Value {
    let config = session.config();
    let go_found = match go {
        Ok(go) => json!({
            "version": go.goversion,
            "gocache": go.gocache.to_string_lossy(),
            "gomodcache": go.gomodcache.to_string_lossy(),
            "module": modfile::default_name(go),
            "problem": go.warning(),
        }),
        Err(why) => json!({"problem": why}),
    };
    let settings: Vec<Value> = setting_rows(session, args)
        .into_iter()
        .map(|r| json!({"key": r.key, "value": r.value, "origin": origin(session, &r)}))
        .collect();
    let ignored: Vec<Value> = session
        .loaded
        .ignored()
        .into_iter()
        .map(|(key, origin)| json!({"key": key, "origin": origin.to_string()}))
        .collect();
    let files = files(session);
    let budget = |own| session.budget(Some(own)).map(ms);
    json!({
        "command": "env",
        "version": env!("CARGO_PKG_VERSION"),
        "config_file": files.first(),
        "config_files": files,
        "ignored": ignored,
        "store": session.store_shown_if_set(),
        "store_origin": config.store.as_ref().map(|(_, origin)| origin.to_string()),
        "ci": session.ci.system,
        "is_ci": session.env.is_ci(),
        "name": name(session, go),
        "scope": session.scope(),
        "scope_origin": scope_origin(session),
        "scope_doubt": session.doubt(),
        "scopes": session.scopes(),
        "key": config.key,
        "jobs": config.jobs,
        "import_budget_ms": budget(import::BUDGET),
        "export_budget_ms": budget(export::BUDGET),
        "state_dir": config.state_dir.as_ref().map(|p| p.to_string_lossy()),
        "temp_dir": config.temp_dir.to_string_lossy(),
        "go": go_found,
        "settings": settings,
    })
}

/// All settings; the default store is not shown if it does not apply because another one is ignored.
fn setting_rows(session: &Session, args: &args::Env) -> Vec<Row> {
    let mut rows = session.loaded.rows();
    rows.retain(|row| !args.changed || row.origin != Origin::Default);
    if session.config().store.is_none()
        && let Some(row) = rows.iter_mut().find(|row| row.key == "store")
    {
        row.value = session.store_shown();
    }
    rows
}

/// The effective value of a default here, if its description does not state it.
fn effective(session: &Session, go: Found<'_>, key: &str) -> Option<String> {
    let config = session.config();
    let path = |path: &Path| path.display().to_string();
    match key {
        "store" => Some(session.store_shown()),
        "name" => name(session, go),
        "scope" => session.scope().map(str::to_owned),
        "jobs" => Some(config.jobs.to_string()),
        "state_dir" => config.state_dir.as_deref().map(path),
        "temp_dir" => Some(path(&config.temp_dir)),
        _ => None,
    }
}

/// The settings files that were read, in order of precedence.
fn files(session: &Session) -> Vec<String> {
    let checkout = session.loaded.checkout.files.iter();
    checkout
        .chain(&session.loaded.file)
        .map(|file| file.display().to_string())
        .collect()
}

/// Where the value of a row comes from: an unset scope may come from the CI system.
fn origin(session: &Session, row: &Row) -> String {
    match row.key {
        "scope" => scope_origin(session),
        _ => row.origin.to_string(),
    }
}

fn scope_origin(session: &Session) -> String {
    match (&session.config().scope, session.ci.because.is_empty()) {
        (Some((_, origin)), _) => origin.to_string(),
        (None, true) => "default".to_owned(),
        (None, false) => {
            let variables: Vec<String> =
                session.ci.because.iter().map(|v| format!("${v}")).collect();
            variables.join(" ")
        }
    }
}

fn text(session: &Session, args: &args::Env, go: Found<'_>, reached: Option<&str>) -> String {
    let config = session.config();
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        let _ = writeln!(text, "{what:<12} {}", printable(value));
    };
    line("cachectl", env!("CARGO_PKG_VERSION"));
    let files = files(session).join(", ");
    line(
        "settings",
        if files.is_empty() { "no file" } else { &files },
    );
    if let Some(ignored) = session.ignored() {
        line("ignored", &ignored);
    }
    let store = session.store_shown();
    let store_origin = config.store.as_ref().map(|(_, origin)| origin);
    line(
        "store",
        &store_origin.map_or(store.clone(), |origin| format!("{store} ({origin})")),
    );
    if let Some(reached) = reached {
        line("", reached);
    }
    line(
        "ci",
        match session.ci.system {
            Some(system) => system,
            None if session.env.is_ci() => "unknown",
            None => "none",
        },
    );
    let scope = session.scope().unwrap_or("none");
    line("scope", &format!("{scope} ({})", scope_origin(session)));
    if let Some(doubt) = session.doubt() {
        line("doubt", doubt);
    }
    match go {
        Err(why) => line("go", why),
        Ok(go) => {
            match &go.source {
                goenv::From::GoCommand => line("go", &go.goversion),
                goenv::From::Defaults(why) => line("go", why),
            }
            line("GOCACHE", &go.gocache.display().to_string());
            line("GOMODCACHE", &go.gomodcache.display().to_string());
        }
    }
    match name(session, go) {
        None => line(
            "go caches",
            "no name: this folder is not in a Go module, and --name is not set",
        ),
        Some(_) if config.store.is_none() => {
            line("import go", "nothing: no store is set");
            line("export go", "nothing: no store is set");
        }
        Some(name) => {
            let key = match config.key.as_str() {
                "" => String::new(),
                key => format!(" key {key}"),
            };
            let scopes = session.scopes().join(", then ");
            line(
                "import go",
                &format!("{name}{key} from {store}, scope {scopes}"),
            );
            let export = match session.why_not_exported() {
                Some(why) => format!("nothing: {why}"),
                None => format!("{name}{key} to {store}, scope {scope}"),
            };
            line("export go", &export);
        }
    }
    text.push('\n');
    text.push_str(&table(session, args, go));
    text
}

fn table(session: &Session, args: &args::Env, go: Found<'_>) -> String {
    let settings = setting_rows(session, args);
    if settings.is_empty() {
        return "all settings have their defaults\n".to_owned();
    }
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    rows.extend(settings.into_iter().map(|row| {
        let is_default = row.origin == Origin::Default;
        let effective = effective(session, go, row.key).filter(|_| is_default);
        let origin = origin(session, &row);
        let value = effective.unwrap_or(row.value);
        vec![row.key.to_owned(), printable(&value), origin]
    }));
    output::table(&rows, &[])
}
