//! `cachectl env`: what was found here, what would be done, and where each value came from.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::{
    error::Result,
    json::ms,
    output::{self, printable},
    session::Session,
    sources,
};
use crate::{
    config::load::Row,
    source::goenv::{self, GoEnv, modfile},
};

use super::{export, import};

pub(crate) async fn run(session: &Session) -> Result<u8> {
    let go = sources::detect(session).await.map_err(|e| e.line());
    session.created();
    session.reporter.clear();
    if session.json {
        output::object(&object(session, go.as_ref()))?;
    } else {
        output::data(&text(session, go.as_ref()))?;
    }
    Ok(0)
}

/// Name under which Go's caches would be stored.
fn name(session: &Session, go: Found<'_>) -> Option<String> {
    let named = session.config().name.clone();
    named.or_else(|| modfile::default_name(go.ok()?))
}

/// What Go said, or why it could not be asked.
type Found<'a> = std::result::Result<&'a GoEnv, &'a String>;

fn object(session: &Session, go: Found<'_>) -> Value {
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
    let settings: Vec<Value> = setting_rows(session)
        .into_iter()
        .map(|r| json!({"key": r.key, "value": r.value, "origin": r.origin.to_string()}))
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

/// All settings; where the default store does not take the place of one that is ignored, so.
fn setting_rows(session: &Session) -> Vec<Row> {
    let mut rows = session.loaded.rows();
    if session.config().store.is_none()
        && let Some(row) = rows.iter_mut().find(|row| row.key == "store")
    {
        row.value = session.store_shown();
    }
    rows
}

/// The settings files that were read, the one whose values win first.
fn files(session: &Session) -> Vec<String> {
    let checkout = session.loaded.checkout.files.iter();
    checkout
        .chain(&session.loaded.file)
        .map(|file| file.display().to_string())
        .collect()
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

fn text(session: &Session, go: Found<'_>) -> String {
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
            "no name: no Go module here, and --name is not set",
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
    let mut rows = vec![["SETTING", "VALUE", "FROM"].map(str::to_owned).to_vec()];
    rows.extend(
        setting_rows(session)
            .into_iter()
            .map(|r| vec![r.key.to_owned(), printable(&r.value), r.origin.to_string()]),
    );
    text.push_str(&output::table(&rows, &[]));
    text
}
