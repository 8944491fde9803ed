//! Maximum number of connections, derived from the limit of open files.

/// Open files needed besides connections: the store's own, logs, the runtime's.
const OTHER_FILES: u64 = 64;
/// Open files per connection: the connection itself, a file that is read or written, a connection to the remote store; and
/// another connection that waits for its slot.
const FILES_A_CONNECTION: u64 = 4;
/// Default number of connections.
const CONNECTIONS: usize = 1024;

/// The maximum number of connections: the configured one, but no more than the limit of open files allows.
pub fn connections(wanted: Option<usize>, open_files: u64) -> usize {
    let possible = open_files.saturating_sub(OTHER_FILES) / FILES_A_CONNECTION;
    // Fewer would not work at all; the failures then mention the limit of open files.
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
