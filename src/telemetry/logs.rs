//! Log lines of a service: for people or machines, with a filter that can be changed at run time.

use std::io::IsTerminal as _;

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry,
    filter::filter_fn,
    fmt::time::SystemTime,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

use super::{QUIET, commands, json::JsonLines, may_show, otlp::Exporter, stderr};

/// How lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object per line.
    Json,
}

impl Format {
    /// Text on a terminal, else JSON.
    pub fn for_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            Self::Text
        } else {
            Self::Json
        }
    }
}

/// The running log.
pub struct Logs {
    filter: Handle<EnvFilter, Registry>,
}

/// Checks a filter: a level, or `target=level,…`.
///
/// # Errors
/// A message about what is wrong with it.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

/// A filter that names a crate of [`QUIET`] wins over that default.
fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{QUIET},{filter}")).map_err(|e| e.to_string())
}

impl Logs {
    /// Starts logging to standard error for the whole process; if logging was already started, nothing changes.
    ///
    /// Regardless of `filter`, libraries are limited to `info`, as in [`super::init`]. Spans are also sent to `exporter`. A
    /// separate thread writes the lines ([`stderr`]); before exit, the process waits for them with [`stderr::flush`].
    ///
    /// # Errors
    /// A message about what is wrong with `filter`.
    pub fn start(
        filter: &str,
        format: Format,
        exporter: Option<&Exporter>,
    ) -> Result<Self, String> {
        let (filter, handle) = reload::Layer::new(parse(filter)?);
        stderr::start();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(commands::stderr)
            .with_timer(SystemTime)
            // If standard error was closed on purpose, do not report that.
            .log_internal_errors(false);
        let lines = match format {
            Format::Text => lines.with_ansi(std::io::stderr().is_terminal()).boxed(),
            Format::Json => JsonLines::new(commands::stderr_json).boxed(),
        };
        let lines = lines
            .with_filter(filter)
            .with_filter(filter_fn(|meta| may_show(meta.target(), *meta.level())));
        // Fails only if there is a subscriber already.
        let _ = tracing_subscriber::registry()
            .with(lines)
            .with(exporter.map(Exporter::layer))
            .try_init();
        Ok(Self { filter: handle })
    }

    /// Changes what is logged from now on.
    ///
    /// # Errors
    /// A message about what is wrong with `filter`; nothing changes then.
    pub fn set(&self, filter: &str) -> Result<(), String> {
        let filter = parse(filter)?;
        // Without a subscriber of ours there is nothing to change.
        let _ = self.filter.reload(filter);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_a_level_or_names_targets() {
        assert_eq!(check("info"), Ok(()));
        assert_eq!(check("warn,cachectl::store=debug"), Ok(()));
        assert!(check("cachectl=loud").is_err());
    }
}
