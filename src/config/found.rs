//! Which settings files are read, and what one may say that nobody named.
//!
//! A file in the working directory was written by whoever wrote the code that is checked out there: for a pull request, by a
//! stranger. It may say what is cached and how fast, never where caches are kept, whose they are or who is trusted
//! ([`InCheckout`]). The rule goes by the place where a file was found: owner, mode, links and the CI system change nothing.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Error, Result,
    env::Env,
    file,
    load::FILE_NAME,
    table::{InCheckout, Table},
    value::{self, Layer, Raw},
};

/// The files that were read, and what they say together.
#[derive(Default)]
pub(super) struct Found {
    /// The file that was named, or is the user's own.
    pub(super) file: Option<PathBuf>,
    /// What was found in the checkout.
    pub(super) checkout: Checkout,
    /// What counts of all of them.
    pub(super) layer: Layer,
    /// Variables that start like ours and are unknown.
    pub(super) unknown: Vec<String>,
    /// Files that nobody named and that could not be read.
    pub(super) unread: Vec<Unread>,
}

/// A settings file that nobody named and that cannot be read, as where a container runs as another user than its `HOME` is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unread {
    /// The file.
    pub path: PathBuf,
    /// Why, in the system's words.
    pub why: String,
    /// It is there, so that there are settings that nobody knows; else it could not even be looked for.
    pub is_there: bool,
}

impl fmt::Display for Unread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_there {
            "cannot read the settings in"
        } else {
            "cannot look for settings in"
        };
        write!(f, "{what} {}: {}", self.path.display(), self.why)
    }
}

/// Settings files that are part of what is checked out in the working directory.
#[derive(Debug, Clone, Default)]
pub struct Checkout {
    /// The files, the one in the working directory first.
    pub files: Vec<PathBuf>,
    /// What they say that does not count.
    pub ignored: Layer,
}

/// The file that a flag or the variable names.
///
/// # Errors
/// It is not there, or cannot be read.
pub(super) fn named(table: &Table, env: &Env, config_flag: Option<&Path>) -> Result<Option<Found>> {
    let variable = table.config_variable;
    let named = config_flag
        .map(|path| (path.to_owned(), "--config".to_owned()))
        .or_else(|| Some((env.os(variable)?.into(), format!("${variable}"))));
    let Some((path, by)) = named else {
        return Ok(None);
    };
    let layer = file::read(table, &path)?
        .ok_or_else(|| Error::new(format!("{} does not exist ({by})", path.display())))?;
    Ok(Some(Found {
        file: Some(path),
        layer,
        ..Found::default()
    }))
}

/// The first file that there is.
pub(super) fn first_of(table: &Table, places: &[PathBuf]) -> Result<Found> {
    for path in places {
        if let Some(layer) = file::read(table, path)? {
            return Ok(Found {
                file: Some(path.clone()),
                layer,
                ..Found::default()
            });
        }
    }
    Ok(Found::default())
}

/// The file in the working directory, and below it the user's own. One that cannot be read is in [`Found::unread`].
pub(super) fn here_and_own(table: &Table, env: &Env, folder: &Path) -> Result<Found> {
    let trusted = trusts_checkout(table, env)?;
    let mut found = Found::default();
    let own = env.config_dir().map(|dir| dir.join(FILE_NAME));
    if let Some(own) = &own
        && let Some(layer) = file::read_unnamed(table, own, &mut found.unread)?
    {
        if env.is_ci() && lies_in_checkout(folder, own) {
            found.add_checkout(table, own, layer, trusted);
        } else {
            found.file = Some(own.clone());
            found.layer = layer;
        }
    }
    let here = folder.join(FILE_NAME);
    if !own.is_some_and(|own| is_same(&own, &here))
        && let Some(layer) = file::read_unnamed(table, &here, &mut found.unread)?
    {
        found.add_checkout(table, &here, layer, trusted);
    }
    Ok(found)
}

impl Found {
    /// Lays a file of the checkout over what is there.
    fn add_checkout(&mut self, table: &Table, path: &Path, layer: Layer, trusted: bool) {
        let counts = |name: &str, raw: &Raw| trusted || counts(table, name, raw);
        let (layer, ignored) = layer.of_checkout().partition(counts);
        self.checkout.files.insert(0, path.to_owned());
        self.checkout.ignored.overlay(ignored);
        self.layer.overlay(layer);
    }
}

/// Returns true if a key with that value counts in a checkout.
fn counts(table: &Table, name: &str, raw: &Raw) -> bool {
    let decided = table.find(name).map(|key| key.in_checkout);
    match decided {
        Some(InCheckout::Counts) => true,
        Some(InCheckout::OnlyTrue) => {
            matches!(raw, Raw::One(text) if value::flag(text) == Some(true))
        }
        Some(InCheckout::Ignored) | None => false,
    }
}

/// Returns true if the variable declares what is checked out to be trusted.
fn trusts_checkout(table: &Table, env: &Env) -> Result<bool> {
    let Some(variable) = table.trust_variable else {
        return Ok(false);
    };
    match env.get(variable) {
        None => Ok(false),
        Some(text) => value::flag(text).ok_or_else(|| {
            let shown = crate::redact::value(text);
            Error::new(format!("`{variable}` is `{shown}`")).hint("expected true or false")
        }),
    }
}

/// Returns true if a file lies in the checkout that `folder` is part of, as the user's own does where a job's `HOME` is its
/// workspace. Blocks.
pub(super) fn lies_in_checkout(folder: &Path, file: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else {
        // It was removed: whose files lay there nobody knows.
        return true;
    };
    // Of a submodule the outer checkout counts too; git refuses to check out a `.git` of its own.
    let is_root = |dir: &&Path| dir.join(".git").symlink_metadata().is_ok();
    let root = folder.ancestors().filter(is_root).last().unwrap_or(&folder);
    // Without a checkout `/` says nothing: a container's working directory.
    root.parent().is_some()
        && file
            .ancestors()
            .any(|part| part.canonicalize().is_ok_and(|part| part.starts_with(root)))
}

/// Returns true if both are one file by their folders; a link in the checkout does not make it the user's own. Blocks.
fn is_same(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|dir| dir.canonicalize().ok());
    folder(one).is_some_and(|dir| Some(dir) == folder(other))
}

#[cfg(test)]
#[path = "found_tests.rs"]
mod tests;
