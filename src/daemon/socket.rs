//! Sockets: opening, naming and removing them.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use tokio::net::{TcpListener, UnixListener};

use super::{
    error::{Error, Result, with_causes},
    port_owner,
};
use crate::{
    config::daemon::{Group, Socket, address::Address},
    fs, task,
};

/// File for looking up group names; names from other sources (LDAP) must be given as numbers.
const GROUPS: &str = "/etc/group";

/// An open socket.
#[derive(Debug)]
pub enum Listener {
    /// An address, and whether it uses TLS.
    Tcp(TcpListener, Address),
    /// A unix socket.
    Unix(UnixListener, SocketFile),
}

/// The file of a unix socket; removed when this is dropped, unless it has been replaced by another one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode));
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "Could not remove the socket");
        }
    }
}

impl Listener {
    /// Listens on an address; port 0 means any free port.
    ///
    /// # Errors
    /// Names the program that uses the port, if that can be determined.
    pub(super) async fn tcp(address: Address) -> Result<Self> {
        let refused = match TcpListener::bind(address.socket).await {
            Ok(listener) => {
                let socket = listener.local_addr().unwrap_or(address.socket);
                return Ok(Self::Tcp(listener, Address { socket, ..address }));
            }
            Err(e) => e,
        };
        let addr = address.socket;
        let port = addr.port();
        Err(match refused.kind() {
            io::ErrorKind::AddrInUse => {
                let other = task::blocking(move || port_owner::listener_on(addr)).await;
                let hint = match &other {
                    Some(_) => format!(
                        "stop that program, or listen on another port: --listen {}:0 chooses a free one",
                        addr.ip()
                    ),
                    None => format!(
                        "`ss -ltnp 'sport = :{port}'`, run as root, shows which program that is; or listen on another port with --listen"
                    ),
                };
                let other = other.unwrap_or_else(|| "another program".to_owned());
                Error::failed(format!(
                    "cannot listen on {addr}: {other} already listens on it"
                ))
                .hint(hint)
            }
            io::ErrorKind::PermissionDenied => Error::failed(format!(
                "cannot listen on {addr}: {refused}"
            ))
            .hint("ports below 1024 need root: use a higher one, or grant CAP_NET_BIND_SERVICE"),
            _ => Error::failed(format!("cannot listen on {addr}: {refused}")),
        })
    }

    /// Listens on a unix socket; replaces the socket of a dead daemon, but not that of a running one.
    ///
    /// The file appears with its final mode and group, so nobody can connect before these apply.
    ///
    /// # Errors
    /// Another process answers there; another kind of file exists there; the group does not exist.
    pub(super) async fn unix(socket: &Socket) -> Result<Self> {
        let path = socket.path.as_path();
        let cannot = |why: &str| {
            Error::failed(format!("cannot listen on unix:{}: {why}", path.display()))
                .hint("set another path with --socket, or --socket none")
        };
        match tokio::net::UnixStream::connect(path).await {
            Ok(_) => return Err(cannot("another program listens on it")),
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                return Err(cannot(&e.to_string()));
            }
            // Nobody listens there (any more): the existing file is checked below.
            Err(_) => {}
        }
        let wanted = socket.clone();
        let bound = task::blocking(move || bind(&wanted)).await;
        let (listener, file) = bound.map_err(|why| cannot(&why))?;
        listener
            .set_nonblocking(true)
            .and_then(|()| UnixListener::from_std(listener))
            .map(|listener| Self::Unix(listener, file))
            .map_err(|e| cannot(&e.to_string()))
    }

    /// The listen address as a URL: `http://127.0.0.1:5000`, `unix:/run/cachectld.sock`.
    pub fn url(&self) -> String {
        match self {
            Self::Tcp(_, address) => address.to_string(),
            Self::Unix(_, file) => format!("unix:{}", file.path.display()),
        }
    }

    /// The address with the actual port; `None` for a unix socket.
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) => Some(address.socket),
            Self::Unix(..) => None,
        }
    }
}

/// Binds in a folder that only we can enter, and moves the socket to its place when mode and group are set.
fn bind(
    socket: &Socket,
) -> std::result::Result<(std::os::unix::net::UnixListener, SocketFile), String> {
    let path = std::path::absolute(&socket.path).map_err(|e| e.to_string())?;
    let parent = path.parent().ok_or("it is not a file path")?;
    fs::make_dirs(parent).map_err(|e| with_causes(&e))?;
    match std::fs::symlink_metadata(&path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err("the path exists and is not a socket".to_owned());
        }
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e.to_string()),
        _ => {}
    }
    let group = socket.group.as_ref().map(group_id).transpose()?;
    let folder = tempfile::Builder::new()
        .prefix(".")
        .tempdir_in(parent)
        .map_err(|e| e.to_string())?;
    let new = folder.path().join("s");
    let place = || -> io::Result<_> {
        let listener = std::os::unix::net::UnixListener::bind(&new)?;
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(socket.mode))?;
        if group.is_some() {
            std::os::unix::fs::chown(&new, None, group)?;
        }
        let found = std::fs::symlink_metadata(&new)?;
        std::fs::rename(&new, &path)?;
        let file = SocketFile {
            path: path.clone(),
            device: found.dev(),
            inode: found.ino(),
        };
        Ok((listener, file))
    };
    place().map_err(|e| e.to_string())
}

/// The number of a group.
pub(super) fn group_id(group: &Group) -> std::result::Result<u32, String> {
    let name = match group {
        Group::Id(id) => return Ok(*id),
        Group::Name(name) => name,
    };
    let table = std::fs::read_to_string(Path::new(GROUPS))
        .map_err(|e| format!("cannot look up the group `{name}` in {GROUPS}: {e}"))?;
    id_in(&table, name)
        .ok_or_else(|| format!("no group `{name}` in {GROUPS}; a number is accepted too"))
}

/// The number of `name` in a table in the format of `/etc/group` (group(5)).
fn id_in(table: &str, name: &str) -> Option<u32> {
    table
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|f| f.len() > 2 && f[0] == name)
        .and_then(|f| f[2].parse().ok())
}

#[cfg(test)]
mod tests;
