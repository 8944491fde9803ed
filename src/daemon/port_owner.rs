//! Which program uses a port, as far as `/proc` shows it to this user (proc_pid_net(5), proc_pid_fd(5)).

use std::{fs, net::SocketAddr, path::Path};

/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const LISTEN: &str = "0A";

/// The program that listens on the port of `addr`, such as `docker-registry (pid 731)`; `None` if that is not visible: it
/// belongs to another user, or to another network namespace. Blocks.
pub(super) fn listener_on(addr: SocketAddr) -> Option<String> {
    let sockets: Vec<String> = ["/proc/self/net/tcp", "/proc/self/net/tcp6"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .flat_map(|table| inodes(&table, addr.port()))
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir("/proc").ok()?.flatten();
    processes
        .filter(|p| p.file_name().as_encoded_bytes()[0].is_ascii_digit())
        .find(|p| has_one_of(&p.path(), &sockets))
        .map(|p| {
            let name = fs::read_to_string(p.path().join("comm")).unwrap_or_default();
            let pid = p.file_name();
            format!("{} (pid {})", name.trim(), pid.to_string_lossy())
        })
}

/// Inodes of the sockets that listen on `port`, from a table in the format of `/proc/net/tcp`.
fn inodes(table: &str, port: u16) -> Vec<String> {
    let local = format!(":{port:04X}");
    table
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .filter(|f| f.len() > 9 && f[1].ends_with(&local) && f[3] == LISTEN)
        .map(|f| f[9].to_owned())
        .collect()
}

fn has_one_of(process: &Path, sockets: &[String]) -> bool {
    let files = fs::read_dir(process.join("fd"));
    files
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok())
        .any(|target| sockets.iter().any(|s| Path::new(s) == target))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_port_is_ours() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let found = listener_on(listener.local_addr().unwrap()).unwrap();
        let pid = format!("(pid {})", std::process::id());
        assert!(found.ends_with(&pid), "{found}");
    }

    #[test]
    fn only_listening_sockets_of_the_port_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
            0: 0100007F:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1\n   \
            1: 0100007F:1388 0100007F:D2F0 01 00000000:00000000 00:00000000 00000000     0        0 4712 1\n   \
            2: 0100007F:1389 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        assert_eq!(inodes(table, 5000), ["4711"]);
    }
}
