//! Who sees the numbers of the whole store.

use std::net::TcpStream;

use super::process::{Daemon, exchange, file};
use crate::support::node::Node;

fn status(daemon: &Daemon, path: &str, token: Option<&str>) -> u16 {
    let address = daemon.address();
    let login = token.map_or_else(String::new, |t| format!("Authorization: Bearer {t}\r\n"));
    let request =
        format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{login}Connection: close\r\n\r\n");
    exchange(TcpStream::connect(&address).unwrap(), &request).0
}

#[test]
fn numbers_of_the_whole_store_are_for_callers_who_may_read_every_repository() {
    let node = Node::new();
    let (bob, reader) = ("token-of-bob-0123456789", "token-of-reader-0123456789");
    let tokens = file(&node, "tokens", &format!("bob {bob}\nreader {reader}\n"));
    let config = format!(
        "[auth]\ntokens = \"{tokens}\"\ntrust_local = \"nobody\"\ngrants = [\"bob = own/** : *\", \"reader = ** : pull\"]\n"
    );
    let config = file(&node, "cachectld.toml", &config);
    let daemon = Daemon::start(&node, &["--config", &config]);
    for path in ["/metrics", "/"] {
        assert_eq!(status(&daemon, path, None), 401, "{path}");
        assert_eq!(status(&daemon, path, Some(bob)), 403, "{path}");
        assert_eq!(status(&daemon, path, Some(reader)), 200, "{path}");
    }
    assert_eq!(status(&daemon, "/livez", None), 200);
}
