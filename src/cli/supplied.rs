//! Settings from the environment of a job: a store URL with possibly empty parts, and unknown variables.

use super::{
    error::{CommandError, Kind, Result},
    output,
    session::Session,
    stores::{self, unfilled},
};
use crate::{
    config::{NO_HOME, Origin},
    progress::Watch as _,
};

impl Session {
    /// URL of the store.
    ///
    /// # Errors
    /// When only a settings file that may not set a store sets one, when there is no home directory for the default store, or when settings
    /// cannot be read.
    pub(crate) fn store(&self) -> Result<&str> {
        self.knows_its_settings()?;
        let Some((url, origin)) = &self.config().store else {
            return Err(match self.ignored() {
                Some(ignored) => CommandError::failed(format!(
                    "no store is set: {ignored}, or set CACHECTL_STORE"
                )),
                None => CommandError::failed(NO_HOME)
                    .hint("set CACHECTL_STORE, for example to disk:/var/cache/cachectl"),
            });
        };
        stores::place(url).map_err(|mut e| {
            e.message = format!("{} ({origin})", e.message);
            match origin {
                Origin::Env(_) | Origin::Flag(_) => match unfilled::part(url) {
                    Some(part) => self.for_want_of_a_secret(e, &format!("{part} is empty")),
                    None => e,
                },
                _ => e,
            }
        })?;
        Ok(url)
    }

    /// Refuses to work if a settings file at a default path exists but cannot be read: it may decide what is stored and where, and whether
    /// anything may be written.
    pub(super) fn knows_its_settings(&self) -> Result<()> {
        match self.loaded.unread.iter().find(|file| file.is_there) {
            None => Ok(()),
            Some(file) => Err(CommandError::failed(file.to_string()).hint(
                "give this user read access, or name the settings file to use with --config or CACHECTL_CONFIG",
            )),
        }
    }

    /// Warns about settings files whose existence could not be checked; with `also_there`, also about existing unreadable ones, which are
    /// not an error then.
    pub(super) fn warn_of_unread(&self, also_there: bool) {
        for file in &self.loaded.unread {
            if also_there || !file.is_there {
                self.reporter.warn(&file.to_string());
            }
        }
    }

    /// In a CI job, turns the usage error into an ordinary failure: secrets in a variable or flag are empty in a fork's pull request.
    fn for_want_of_a_secret(&self, mut e: CommandError, what: &str) -> CommandError {
        if !e.is_usage() || !self.env.is_ci() {
            return e;
        }
        e.kind = Kind::Failed;
        e.hint(format!(
            "{what}: secrets are empty in jobs of forks, and in other jobs without access to them"
        ))
    }

    /// Explains an error in settings from the environment if a CI job was not given all of them.
    pub(super) fn explained_by_environment(&self, e: CommandError) -> CommandError {
        let registry = &self.config().remote.registry;
        let from_env = |key| match self.loaded.layer.get(key) {
            Some((_, origin @ Origin::Env(_))) if e.is_usage() => Some(origin),
            _ => None,
        };
        let password = ["registry.password", "registry.password_file"].map(from_env);
        let password = password.into_iter().flatten().next();
        let endpoint = self.config().remote.s3.endpoint.as_deref();
        let (origin, what) = if let Some(origin) = password.filter(|_| registry.username.is_none())
        {
            (origin, "the username is empty")
        } else if let Some(origin) = from_env("s3.endpoint")
            && endpoint.is_some_and(unfilled::lacks_a_host)
        {
            (origin, "the endpoint's host is empty")
        } else {
            return e;
        };
        let origin = format!(" ({origin})");
        let mut e = self.for_want_of_a_secret(e, what);
        e.message.push_str(&origin);
        e
    }

    /// Warns about unknown or invalid variables, and notes values that are used in another form than written.
    pub(crate) fn warn_of_environment(&self) {
        for name in &self.loaded.unknown {
            let meant = match self.loaded.table.nearest_env(name) {
                Some(near) => format!("; did you mean `{near}`?"),
                None => String::new(),
            };
            self.reporter.warn(&format!(
                "environment variable `{}` is not a setting of cachectl and is ignored{meant}",
                name.escape_default()
            ));
        }
        for name in self.env.unfit_proxies() {
            let why = "is not a proxy URL and is ignored";
            self.reporter
                .warn(&format!("environment variable `{name}` {why}"));
        }
        let store = self.config().store.as_ref().map(|(url, _)| url.as_str());
        if let Some(path) = store.and_then(|url| url.strip_prefix("oci://"))
            && let Some((_, repository)) =
                path.split('?').next().unwrap_or_default().split_once('/')
            && repository.contains(|c: char| c.is_ascii_uppercase())
            && !self.quiet
        {
            output::note(&format!(
                "cachectl: note: repository names are lower case: using repository `{}`\n",
                repository.to_ascii_lowercase()
            ));
        }
    }
}
