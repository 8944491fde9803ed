//! `--check-config`: whether the daemon would start, and with which settings.

use std::{fmt::Write as _, path::Path};

use super::{
    build,
    error::{Error, Result},
    socket, tiers,
};
use crate::{
    config::{Loaded, Origin, daemon::Config, load::Row},
    fs,
    serve::auth::Authority,
    store::StoreUrl,
    task,
};

/// Every setting with its value, without secrets, and its origin; defaults as they are on this machine.
pub(super) fn rows(loaded: &Loaded<Config>) -> Vec<Row> {
    let found = loaded.config.found();
    let mut rows = loaded.rows();
    for row in &mut rows {
        if row.origin == Origin::Default
            && let Some((_, value)) = found.iter().find(|(key, _)| *key == row.key)
        {
            row.value.clone_from(value);
        }
    }
    rows
}

/// Warns about variables that look like settings but are not (a mistyped setting has already ended the start), and about those
/// that make a line of the settings file ineffective.
pub(super) fn warn_of_variables(loaded: &Loaded<Config>) {
    for (key, place, variable) in &loaded.hidden {
        let line = place.to_string();
        tracing::warn!(
            key,
            line,
            variable,
            "An environment variable overrides the settings file"
        );
    }
    for name in &loaded.unknown {
        let variable = name.escape_default().to_string();
        tracing::warn!(
            variable,
            "Environment variable is not a setting and is ignored"
        );
    }
}

/// The rows as a table for people.
pub(super) fn table(loaded: &Loaded<Config>) -> String {
    let rows = rows(loaded);
    let width = |f: fn(&Row) -> &str| rows.iter().map(|r| f(r).chars().count()).max();
    let keys = width(|r| r.key).unwrap_or_default();
    // One long value should not push the origins of all others off the screen.
    let values = width(|r| &r.value).unwrap_or_default().min(60);
    let mut text = match &loaded.file {
        Some(file) => format!("settings file: {}\n", file.display()),
        None => "settings file: none\n".to_owned(),
    };
    for Row { key, value, origin } in rows {
        let value: String = value
            .chars()
            .map(|c| if c.is_control() { '\u{fffd}' } else { c })
            .collect();
        let _ = writeln!(text, "{key:<keys$}  {value:<values$}  {origin}");
    }
    text
}

/// The last lines: whether the store can be reached now, which the settings are not to blame for, and that they are valid.
pub(super) async fn verdict(config: &Config) -> String {
    let store = match tiers::reach(config).await {
        Ok(true) => "the store is reachable".to_owned(),
        Ok(false) => "the store's folder does not exist yet; the daemon creates it".to_owned(),
        Err(e) => format!("the store is not reachable now: {}", e.message),
    };
    format!("{store}\nOK: the settings are valid\n")
}

/// Refuses folders of the daemon on a read-only file system, where it would not start, and warns about those that are not
/// writable for this user, who need not be the daemon's. Blocks.
fn check_folders(config: &Config) -> Result<()> {
    let store = match config.store.0.parse() {
        Ok(StoreUrl::Disk(path) | StoreUrl::Layout(path)) => Some(path),
        _ => None,
    };
    let socket = config.socket.as_ref().and_then(|s| s.path.parent());
    let folders = [
        ("state folder", Some(&*config.state_dir)),
        ("store's folder", store.as_deref()),
        ("local cache directory", config.front.as_deref()),
        ("socket's folder", socket),
    ];
    for (what, folder) in folders {
        let Some(Err(error)) = folder.map(fs::may_write) else {
            continue;
        };
        if error.kind() == std::io::ErrorKind::ReadOnlyFilesystem {
            return Err(Error::failed(format!("cannot use the {what}: {error}")));
        }
        tracing::warn!(%error, "This user cannot write to the {what}; the daemon's user must be able to");
    }
    Ok(())
}

/// Checks what loading alone does not: the store's URL, users, certificates, the socket's group.
///
/// Leaves nothing written, opens no store and no port; [`verdict`] asks the store.
pub(super) async fn check(config: &Config) -> Result<()> {
    tiers::store_url(config)?;
    let set = config.clone();
    task::blocking(move || check_folders(&set)).await?;
    if let Some(tls) = &config.tls {
        build::tls(tls).await?;
    }
    if let Some(group) = config.socket.as_ref().and_then(|s| s.group.as_ref()) {
        socket::group_id(group).map_err(|why| Error::usage(format!("`socket_group`: {why}")))?;
    }
    // A missing key for tokens would be created: do that elsewhere, not in the real folder.
    let kept = config.state_dir.join("token.key");
    let scratch = tempfile::tempdir()
        .map_err(|e| Error::failed(format!("cannot create a temporary folder: {e}")))?;
    let state: &Path = if kept.exists() {
        &config.state_dir
    } else {
        scratch.path()
    };
    let exposure = build::exposure(config);
    Authority::open(config.auth.clone(), state, exposure).await?;
    Ok(())
}
