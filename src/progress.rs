//! Events of an operation for its watchers: phases, bytes, warnings. Presentation is up to the watcher.

use std::{sync::Arc, time::Duration};

use serde::Serialize;

/// A phase of an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Finding and reading names, manifests and tables of contents.
    Resolve,
    /// Reading the tree's metadata, and contents where metadata proves nothing.
    Scan,
    /// Packing new contents.
    Pack,
    /// Sending packs.
    Upload,
    /// Fetching and unpacking.
    Restore,
    /// Renaming to final paths.
    Place,
    /// Publishing the name.
    Publish,
}

impl Phase {
    /// The word shown to people and in JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Resolve => "resolve",
            Self::Scan => "scan",
            Self::Pack => "pack",
            Self::Upload => "upload",
            Self::Restore => "restore",
            Self::Place => "place",
            Self::Publish => "publish",
        }
    }
}

/// Watches an operation; called from many threads, must return immediately.
pub trait Watch: Send + Sync {
    /// A phase begins; `total_bytes` if known.
    fn begin(&self, phase: Phase, total_bytes: Option<u64>);
    /// This many more bytes of the phase are done.
    fn advance(&self, phase: Phase, bytes: u64);
    /// The phase ended.
    fn end(&self, phase: Phase);
    /// Something the user should know, although the operation continues. One line, no final period.
    fn warn(&self, message: &str);
}

/// Shared handle of a watcher.
pub type Progress = Arc<dyn Watch>;

/// Watches nothing; warnings go to the log.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Watch for Silent {
    fn begin(&self, _: Phase, _: Option<u64>) {}
    fn advance(&self, _: Phase, _: u64) {}
    fn end(&self, _: Phase) {}
    fn warn(&self, message: &str) {
        tracing::warn!("{message}");
    }
}

/// A watcher that shows nothing.
pub fn silent() -> Progress {
    Arc::new(Silent)
}

/// A duration in a readable form: `0.4s`, `10s`, `1m 30s`, `1h`. Below ten seconds with tenths.
pub fn span(time: Duration) -> String {
    let tenths = time.as_millis().saturating_add(50) / 100;
    if tenths < 100 && !tenths.is_multiple_of(10) {
        return format!("{}.{}s", tenths / 10, tenths % 10);
    }
    let secs = time.as_millis().saturating_add(500) / 1000;
    let secs = Duration::from_secs(u64::try_from(secs).unwrap_or(u64::MAX));
    humantime::format_duration(secs).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_rounded_for_people() {
        for (secs, want) in [
            (0.0, "0s"),
            (0.04, "0s"),
            (0.26, "0.3s"),
            (5.0, "5s"),
            (8.41, "8.4s"),
            (9.999_985, "10s"),
            (12.7, "13s"),
            (90.0, "1m 30s"),
            (3600.0, "1h"),
        ] {
            assert_eq!(span(Duration::from_secs_f64(secs)), want, "{secs}");
        }
    }
}
