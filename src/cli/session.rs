//! The state of one run: settings, environment, scopes, the watcher; opens stores.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use super::{
    ci::{self, Ci},
    error::{CommandError, Result},
    json::Object,
    output,
    progress::Reporter,
    stores,
};
use crate::{
    config::{Config, Env, Loaded, Origin, keys},
    entry::Time,
    fs,
    memory::MemoryBudget,
    ops::{self, LeftOut},
    progress::{Phase, Watch as _},
    redact,
    store::{open::Options, wrap::retrying::Trouble},
};

/// Largest GitHub event document that is read.
const MAX_EVENT_BYTES: u64 = 16 << 20;

/// One run.
pub(crate) struct Session {
    pub(crate) env: Env,
    pub(crate) loaded: Loaded,
    /// The working directory.
    pub(crate) folder: PathBuf,
    pub(crate) json: bool,
    pub(crate) quiet: bool,
    pub(crate) reporter: Arc<Reporter>,
    pub(crate) ci: Ci,
    pub(crate) began: Instant,
    /// The last errors of stores that made a request be retried.
    pub(crate) trouble: Trouble,
    /// The budget for everything read from stores.
    memory: MemoryBudget,
}

impl Session {
    /// Detects the CI system. Blocks.
    pub(crate) fn new(
        env: Env,
        loaded: Loaded,
        folder: PathBuf,
        json: bool,
        quiet: bool,
        reporter: Arc<Reporter>,
    ) -> Self {
        // Without it scopes are still correct, only less precise: not a reason to fail a build.
        let event = env
            .absolute("GITHUB_EVENT_PATH")
            .and_then(|path| fs::read_if_there(&path, MAX_EVENT_BYTES).ok().flatten())
            .and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let ci = ci::detect(
            &env,
            event.as_ref(),
            loaded.config.default_branch.as_deref(),
        );
        Self {
            env,
            loaded,
            folder,
            json,
            quiet,
            reporter,
            ci,
            began: Instant::now(),
            trouble: Trouble::default(),
            memory: MemoryBudget::of_command(),
        }
    }

    pub(crate) fn config(&self) -> &Config {
        &self.loaded.config
    }

    /// URL of the store, redacted for display; `None` if none is set.
    pub(crate) fn store_shown_if_set(&self) -> Option<String> {
        let store = self.config().store.as_ref();
        store.map(|(url, _)| redact::url(url))
    }

    /// URL of the store, redacted for display.
    pub(crate) fn store_shown(&self) -> String {
        self.store_shown_if_set()
            .unwrap_or_else(|| "none".to_owned())
    }

    /// The ignored settings of a file in the working directory, and what to do, worded for a warning.
    pub(crate) fn ignored(&self) -> Option<String> {
        let all = self.loaded.ignored();
        let keys: Vec<String> = all.iter().map(|(key, _)| format!("`{key}`")).collect();
        let mut files: Vec<String> = Vec::new();
        for (_, origin) in &all {
            if let Origin::Checkout { path, .. } = origin {
                let path = path.display().to_string();
                if !files.contains(&path) {
                    files.push(path);
                }
            }
        }
        let file = files.first()?;
        let are = if keys.len() == 1 { "is" } else { "are" };
        Some(format!(
            "{} in {} {are} ignored, because the file was only found in the working directory; if you trust it, set {}={file} or {}=1",
            keys.join(", "),
            files.join(" and "),
            keys::CONFIG_VARIABLE,
            keys::TRUST_VARIABLE,
        ))
    }

    /// Warns about ignored settings, unless the error about a missing store will (`needs_store`).
    pub(crate) fn warn_of_ignored(&self, needs_store: bool) {
        if needs_store && self.config().store.is_none() {
            return;
        }
        if let Some(ignored) = self.ignored() {
            self.reporter.warn(&ignored);
        }
    }

    /// Scope to write; `None`: nothing may be written, and [`Ci::doubt`] says why.
    pub(crate) fn scope(&self) -> Option<&str> {
        match &self.config().scope {
            Some((scope, _)) => Some(scope),
            None => self.ci.scope.as_deref(),
        }
    }

    /// What is uncertain about the scope, unless the settings define it.
    pub(crate) fn doubt(&self) -> Option<&str> {
        let decided = self.config().scope.is_some();
        self.ci.doubt.as_deref().filter(|_| !decided)
    }

    /// Warns about an uncertain scope, if anything may be written.
    pub(crate) fn warn_of_doubt(&self) {
        if let Some(doubt) = self.doubt().filter(|_| !self.config().read_only) {
            self.reporter.warn(doubt);
        }
    }

    /// Why nothing is exported, if nothing is.
    pub(crate) fn why_not_exported(&self) -> Option<&'static str> {
        if self.config().read_only {
            return Some("--read-only is set");
        }
        self.scope()
            .is_none()
            .then_some("the scope to write is unknown")
    }

    /// Scopes that may be read, in order; `--scope` replaces the first.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let mut scopes: Vec<String> = self.scope().map(str::to_owned).into_iter().collect();
        let mut more = self.ci.fallbacks.clone();
        more.push(ci::DEFAULT.to_owned());
        for scope in more {
            if !scopes.contains(&scope) {
                scopes.push(scope);
            }
        }
        scopes
    }

    /// The moment to write: `SOURCE_DATE_EPOCH` (reproducible-builds.org), else now. Other programs set that variable, so an invalid value
    /// is only a warning (printed once).
    pub(crate) fn created(&self) -> ops::Created {
        let Some(text) = self.env.get("SOURCE_DATE_EPOCH") else {
            return ops::Created::Now;
        };
        // Up to the last year with four digits.
        if let Ok(secs @ 0..=253_402_300_799_i64) = text.parse() {
            return ops::Created::At(Time { secs, nanos: 0 });
        }
        self.reporter.warn(&format!(
            "SOURCE_DATE_EPOCH is ignored: `{}` is not a number of seconds since 1970",
            redact::value(text)
        ));
        ops::Created::Now
    }

    /// The budget: `--budget`, or the verb's own; `None`: no limit.
    pub(crate) fn budget(&self, own: Option<Duration>) -> Option<Duration> {
        self.config().budget.or(own).filter(|b| !b.is_zero())
    }

    /// The rest of `budget`; zero once it is spent.
    pub(crate) fn left_of(&self, budget: Option<Duration>) -> Option<Duration> {
        budget.map(|b| b.saturating_sub(self.began.elapsed()))
    }

    /// How this run uses stores.
    pub(crate) fn store_options(&self, read_only: bool) -> Options {
        let config = self.config();
        Options {
            read_only,
            concurrency: config.concurrency,
            trouble: self.trouble.clone(),
            ..config.remote.clone()
        }
    }

    /// Opens the configured store.
    pub(crate) async fn open(&self, budget: Option<Duration>) -> Result<ops::Context> {
        self.open_url(self.store()?, self.config().read_only, budget)
            .await
    }

    /// Opens a store.
    pub(crate) async fn open_url(
        &self,
        url: &str,
        read_only: bool,
        budget: Option<Duration>,
    ) -> Result<ops::Context> {
        self.knows_its_settings()?;
        let config = self.config();
        // Boxed: the AWS configuration makes a future of many kilobytes, and everything here awaits this one.
        let store = Box::pin(stores::open(url, &self.store_options(read_only))).await;
        let store = store.map_err(|e| self.explained_by_environment(e))?;
        Ok(ops::Context {
            store,
            reach: ops::Reach::everything(),
            progress: Arc::clone(&self.reporter) as _,
            state_dir: config.state_dir.clone(),
            temp_dir: config.temp_dir.clone(),
            threads: config.jobs,
            concurrency: config.concurrency,
            tables: ops::load::Tables::within(self.memory.clone()),
            budget: self.left_of(budget),
        })
    }

    /// Runs a step within the rest of the budget; drops it once that is spent.
    pub(crate) async fn within<T, E: Into<CommandError>>(
        &self,
        budget: Option<Duration>,
        step: impl Future<Output = std::result::Result<T, E>>,
    ) -> Result<T> {
        let (Some(budget), Some(left)) = (budget, self.left_of(budget)) else {
            return step.await.map_err(Into::into);
        };
        let end = match tokio::time::timeout(left, step).await {
            Ok(end) => end.map_err(Into::into),
            Err(_) => Err(ops::Error::Budget {
                phase: Reporter::AT_THE_START,
                budget,
            }
            .into()),
        };
        end.map_err(|e| self.explained(e, Some(budget)))
    }

    /// A spent budget with the last phase, and with the store's last answer.
    pub(crate) fn explained(&self, e: CommandError, budget: Option<Duration>) -> CommandError {
        let Some((inner, budget)) = e.spent.zip(budget) else {
            return e;
        };
        let phase = self.reporter.last_phase();
        let error = CommandError::from(ops::Error::Budget {
            phase: phase.map_or(inner, Phase::name),
            budget,
        });
        match self.trouble.last() {
            Some(last) => error.at_the_store(&last.at(&self.store_shown(), "")),
            None => error.carrying(phase),
        }
    }

    /// Warns if the cache is stored where it does not outlive the job.
    pub(crate) fn warn_of_local_store(&self) {
        if let Some((url, Origin::Default)) = &self.config().store
            && self.env.is_ci()
        {
            self.reporter.warn(&format!(
                "the store is on this node's disk ({url}) and is lost with the node; set CACHECTL_STORE to s3://… or oci://…"
            ));
        }
    }

    /// Refuses a writing command under `--read-only`.
    pub(crate) fn refuse_if_read_only(&self, what: &str) -> Result<()> {
        if self.config().read_only {
            return Err(CommandError::usage(format!(
                "{what} writes to the store, but --read-only is set"
            )));
        }
        Ok(())
    }

    /// A path as the user wrote it, made absolute.
    pub(crate) fn absolute(&self, path: &Path) -> PathBuf {
        self.folder.join(path)
    }

    /// Warns about what a report lists as left out.
    pub(crate) fn warn_of(&self, all: &[LeftOut]) {
        for LeftOut { what, why } in all {
            let (what, why) = (output::printable(what), output::printable(why));
            self.reporter.warn(&format!("{what}: {why}"));
        }
    }

    /// The `--json` object of a command on the configured store.
    pub(crate) fn object(&self, command: &str, hit: bool) -> Object {
        let object = Object::new(command, hit, self.began.elapsed());
        object.with(json!({"store": self.store_shown()}))
    }

    /// Prints a result for people; nothing with `--json` (which has its own output) or `-q`.
    pub(crate) fn say(&self, text: &str) -> Result<()> {
        self.reporter.clear();
        if self.json || self.quiet {
            return Ok(());
        }
        output::data(text)
    }
}
