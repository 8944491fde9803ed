//! Which settings files are read, and which keys take effect in a file that was not named explicitly.
//!
//! The author of a checked-out tree also writes the settings file in it: for a pull request this is a stranger. The file may set
//! what is cached and how fast, but not where caches are stored, whose they are or who is trusted ([`InCheckout`]). The rule
//! depends only on where the file was found: owner, mode, links and the CI system do not matter.

use std::path::{Path, PathBuf};

use super::{
    Error, Result,
    env::Env,
    file::{self, Unread},
    table::{InCheckout, Table},
    value::{self, Layer, Raw},
};

/// Name of the settings file.
pub const FILE_NAME: &str = "cachectl.toml";

/// The files that were read, and their combined values.
#[derive(Default)]
pub(super) struct Found {
    /// The file that was named, or the user's own.
    pub(super) file: Option<PathBuf>,
    /// The files found in the checkout.
    pub(super) checkout: Checkout,
    /// All values that take effect.
    pub(super) layer: Layer,
    /// Unknown variables with our prefix.
    pub(super) unknown: Vec<String>,
    /// Files that were not named explicitly and could not be read.
    pub(super) unread: Vec<Unread>,
}

/// Settings files that are part of the checkout in the working directory.
#[derive(Debug, Clone, Default)]
pub struct Checkout {
    /// The files, the one in the working directory first.
    pub files: Vec<PathBuf>,
    /// Their values that are ignored.
    pub ignored: Layer,
}

/// The file that a flag or the variable names.
///
/// # Errors
/// It does not exist, or cannot be read.
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

/// The first file that exists.
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
    /// Overlays a file of the checkout on the existing values.
    fn add_checkout(&mut self, table: &Table, path: &Path, layer: Layer, trusted: bool) {
        let counts = |name: &str, raw: &Raw| trusted || counts(table, name, raw);
        let (layer, ignored) = layer.of_checkout().partition(counts);
        self.checkout.files.insert(0, path.to_owned());
        self.checkout.ignored.overlay(ignored);
        self.layer.overlay(layer);
    }
}

/// Returns true if a key with that value takes effect in a checkout.
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

/// Returns true if the variable declares the checkout to be trusted.
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

/// Returns true if a file is in the same checkout as `folder`, like the user's own file if a job's `HOME` is its workspace.
/// Blocks.
pub(super) fn lies_in_checkout(folder: &Path, file: &Path) -> bool {
    let Ok(folder) = folder.canonicalize() else {
        // It was removed: it is unknown whose files were there.
        return true;
    };
    // For a submodule the outer checkout counts too; git refuses to check out a file called `.git`.
    let is_root = |dir: &&Path| dir.join(".git").symlink_metadata().is_ok();
    let root = folder.ancestors().filter(is_root).last().unwrap_or(&folder);
    // `/` without a checkout means nothing: it is a container's default working directory.
    root.parent().is_some()
        && file
            .ancestors()
            .any(|part| part.canonicalize().is_ok_and(|part| part.starts_with(root)))
}

/// Returns true if both paths are the same file, comparing their folders; a link in the checkout does not count as the user's own
/// file. Blocks.
fn is_same(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| path.parent().and_then(|dir| dir.canonicalize().ok());
    folder(one).is_some_and(|dir| Some(dir) == folder(other))
}

#[cfg(test)]
#[path = "found_tests.rs"]
mod tests;
