//! How many connections there may be, by the limit of open files.

/// Open files that we need besides connections: the store's own, logs, the runtime's.
const OTHER_FILES: u64 = 64;
/// Open files of a connection: itself, a file that is read or written, a connection to the remote store; and another connection
/// that waits for its place.
const FILES_A_CONNECTION: u64 = 4;
/// Connections where nothing else is said.
const CONNECTIONS: usize = 1024;

/// Connections that may be open: as many as are wanted, and no more than the open files are for.
pub fn connections(wanted: Option<usize>, open_files: u64) -> usize {
    let possible = open_files.saturating_sub(OTHER_FILES) / FILES_A_CONNECTION;
    // With fewer nothing works; what then fails says that it is for want of open files.
    let possible = usize::try_from(possible.max(8)).unwrap_or(usize::MAX);
    if let Some(wanted) = wanted.filter(|w| *w > possible) {
        tracing::warn!(
            wanted,
            possible,
            open_files,
            "Fewer connections than max_connections: raise the limit of open files (LimitNOFILE, ulimit -n)"
        );
    }
    wanted.unwrap_or(CONNECTIONS).min(possible)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_fit_the_open_files() {
        assert_eq!(connections(None, 1_000_000), 1024);
        assert_eq!(connections(None, 256), 48);
        assert_eq!(connections(Some(5000), 1 << 20), 5000);
        assert_eq!(connections(Some(500), 256), 48);
        assert_eq!(connections(None, 20), 8);
    }
}
