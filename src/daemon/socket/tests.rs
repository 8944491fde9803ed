use std::os::unix::net::UnixListener as Blocking;

use super::*;

fn at(path: PathBuf) -> Socket {
    Socket {
        path,
        mode: 0o660,
        group: None,
    }
}

fn address(text: &str) -> Address {
    Address {
        socket: text.parse().unwrap(),
        tls: false,
    }
}

#[tokio::test]
async fn the_socket_has_its_mode_and_goes_with_the_listener() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("new/s.sock");
    let listener = Listener::unix(&at(path.clone())).await.unwrap();
    let found = std::fs::symlink_metadata(&path).unwrap();
    assert_eq!(found.permissions().mode() & 0o777, 0o660);
    assert_eq!(listener.url(), format!("unix:{}", path.display()));
    let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(left, 1, "the folder it was made in is gone");
    drop(listener);
    assert!(!path.exists());
}

#[tokio::test]
async fn what_a_dead_daemon_left_is_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    drop(Blocking::bind(&path).unwrap());
    assert!(path.exists());
    let _listener = Listener::unix(&at(path.clone())).await.unwrap();
    assert!(tokio::net::UnixStream::connect(&path).await.is_ok());
}

#[tokio::test]
async fn a_living_socket_and_other_files_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let _living = Blocking::bind(&path).unwrap();
    let e = Listener::unix(&at(path)).await.unwrap_err();
    assert!(e.message.contains("listens on it"), "{}", e.message);
    let file = dir.path().join("f");
    std::fs::write(&file, "x").unwrap();
    let e = Listener::unix(&at(file.clone())).await.unwrap_err();
    assert!(e.message.contains("not a socket"), "{}", e.message);
    assert_eq!(std::fs::read(&file).unwrap(), b"x");
}

#[tokio::test]
async fn a_socket_that_took_our_place_stays() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = Listener::unix(&at(path.clone())).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let _other = Blocking::bind(&path).unwrap();
    drop(listener);
    assert!(path.exists());
}

#[tokio::test]
async fn a_port_that_is_taken_names_who_has_it() {
    let first = Listener::tcp(address("127.0.0.1:0")).await.unwrap();
    let taken = first.address().unwrap();
    assert_ne!(taken.port(), 0);
    let e = Listener::tcp(address(&taken.to_string()))
        .await
        .unwrap_err();
    let pid = format!("(pid {}) already listens on it", std::process::id());
    assert!(e.message.ends_with(&pid), "{}", e.message);
}

#[test]
fn groups_are_found_by_name() {
    let table = "root:x:0:\nusers:x:100:a,b\nbad:x\n";
    assert_eq!(id_in(table, "users"), Some(100));
    assert_eq!(id_in(table, "bad"), None);
    assert_eq!(id_in(table, "user"), None);
    assert_eq!(group_id(&Group::Id(7)), Ok(7));
    assert!(group_id(&Group::Name("no such group".to_owned())).is_err());
}
