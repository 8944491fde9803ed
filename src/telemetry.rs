//! Log output: standard error, filtered, without secrets.

use std::io::IsTerminal as _;

use tracing::{Level, level_filters::LevelFilter};
use tracing_subscriber::{
    EnvFilter, Layer as _, filter::filter_fn, fmt::time::uptime, layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

pub mod commands;
pub mod json;
pub mod logs;
mod numbers;
pub mod otlp;
pub mod stderr;

/// Filter for uninteresting `info` lines of libraries; applied before the user's own filter, which wins.
pub const QUIET: &str = "aws_config=warn,aws_runtime=warn,aws_sdk_s3=warn,aws_smithy_runtime=warn,aws_smithy_http_client=warn,\
h2=error,hyper=error,hyper_util=error,reqwest=warn,rustls=error,tonic=error,tower=error,opentelemetry=error,\
opentelemetry_sdk=error,opentelemetry-otlp=error";

/// Target of warnings about passwords that others could read: they are shown at every verbosity.
const INSECURE: &str = "cachectl::insecure";

/// How much is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verbosity(
    /// 0: errors only; then info, debug, trace.
    pub u8,
);

/// Starts logging for the whole process; a second call changes nothing.
///
/// `filter` is written as `target=level,…` and wins over `verbosity`. Regardless of it, libraries are limited to `info`: at finer
/// levels SDKs have printed keys (RUSTSEC-2023-0125) and HTTP clients print signed URLs.
///
/// # Errors
/// A message about what is wrong with `filter`.
pub fn init(verbosity: Verbosity, filter: Option<&str>) -> Result<(), String> {
    let level = match verbosity.0 {
        0 => LevelFilter::ERROR,
        1 => LevelFilter::INFO,
        2 => LevelFilter::DEBUG,
        _ => LevelFilter::TRACE,
    };
    let own = format!("{level},{INSECURE}=warn");
    let filter = EnvFilter::try_new(filter.unwrap_or(&own)).map_err(|e| e.to_string())?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(commands::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_timer(uptime())
        // If standard error was closed on purpose, do not report that.
        .log_internal_errors(false)
        .with_filter(filter)
        .with_filter(filter_fn(|meta| may_show(meta.target(), *meta.level())));
    // Fails only if there is a subscriber already.
    let _ = tracing_subscriber::registry().with(lines).try_init();
    Ok(())
}

/// Returns true if a line with that target and level may be shown.
fn may_show(target: &str, level: Level) -> bool {
    let ours = target == "cachectl"
        || target == "cachectld"
        || target.starts_with("cachectl::")
        || target.starts_with("cachectld::");
    ours || level <= Level::INFO
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crates_below_are_held_at_info() {
        assert!(may_show("cachectl::store::s3", Level::TRACE));
        assert!(may_show("aws_config", Level::INFO));
        assert!(!may_show("aws_sigv4::http_request::sign", Level::DEBUG));
        assert!(!may_show("reqwest::connect", Level::TRACE));
        assert!(!may_show("cachectl_evil", Level::TRACE));
    }

    #[test]
    fn nonsense_filter_is_refused() {
        assert!(init(Verbosity(0), Some("cachectl=loud")).is_err());
    }
}
