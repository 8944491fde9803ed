//! `prune --now`: a full disk is freed by one command, beside builds that push.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
};

use sha2::{Digest as _, Sha256};

use super::{daemon::Daemon, folders::give_away, node_with_tree, store, words};
use crate::support::{cli::number, process::http};

/// What a daemon that was started lately says of a prune at once.
const FORGOTTEN: &str = "does not know which blobs it confirmed to builds before";

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", const_hex::encode(Sha256::digest(bytes)))
}

/// An upload of which only the first bytes ever come; the daemon waits for the rest.
fn slow_upload(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        stream,
        "POST /v2/f/x/blobs/uploads/?digest={} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 1000\r\n\
         Expect: 100-continue\r\n\r\n",
        digest(b"never")
    )
    .unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert!(asked.starts_with(b"HTTP/1.1 100"));
    stream.write_all(b"some").unwrap();
    stream
}

#[test]
fn prune_now_frees_the_disk_at_once_and_a_push_beside_it_goes_on() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    // Not through the daemon: what a client reads there it may still name.
    let store = format!("disk:{}", daemon.store().display());
    words(&node, &format!("export dir tree --name t --store {store}")).json();
    let _slow = slow_upload(daemon.port);
    let layer = b"a layer that is pushed";
    let put = format!("/v2/f/x/blobs/uploads/?digest={}", digest(layer));
    assert_eq!(http("POST", daemon.port, &put, layer).unwrap().0, 201);
    daemon.words(&node, "rm t").run().success();
    let ordinary = daemon.words(&node, "prune").run().success();
    assert!(
        ordinary.stdout.contains("too new to be marked"),
        "{ordinary}"
    );

    let done = daemon.words(&node, "prune --now --json").run().success();
    assert!(done.stderr.contains(FORGOTTEN), "{done}");
    let pruned = done.json();
    assert!(number(&pruned, "blobs") >= 3, "{pruned}");
    assert_eq!(number(&pruned, "promised_blobs"), 1, "{pruned}");
    assert_eq!(number(&pruned, "promised_bytes"), layer.len() as u64);
    let blobs = || {
        let blobs = fs::read_dir(daemon.store().join("blobs/sha256")).unwrap();
        blobs.count()
    };
    assert_eq!(blobs(), 1);

    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest(layer), "size": layer.len()},
        "layers": [],
    });
    let manifest = manifest.to_string();
    let pushed = http(
        "PUT",
        daemon.port,
        "/v2/f/x/manifests/v1",
        manifest.as_bytes(),
    );
    assert_eq!(pushed.unwrap().0, 201);
    let again = daemon.words(&node, "prune --now").json();
    assert_eq!(
        number(&again, "blobs") + number(&again, "promised_blobs"),
        0
    );
    assert_eq!(blobs(), 2);
    // Not behind the daemon's back: it has the folder again.
    daemon
        .words(&node, "export dir tree --name t --strict")
        .json();
}

#[test]
fn an_ordinary_prune_says_what_the_next_one_frees() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    daemon.words(&node, "export dir tree --name t").json();
    daemon.words(&node, "rm t").run().success();
    daemon.age_blobs();
    for _ in 0..2 {
        let pruned = daemon.words(&node, "prune").run().success();
        let line = pruned.stdout.lines().last().unwrap();
        assert!(
            line.contains("will be freed by a prune after 24h ("),
            "{pruned}"
        );
    }
}

#[test]
fn prune_tells_a_damaged_tag_and_what_to_do() {
    let node = node_with_tree();
    let store = store(&node);
    let at = |line: &str| words(&node, &format!("{line} --store {store}"));
    at("export dir tree --name t").run().success();
    let tag = node.path("store/r/cachectl/tags/dir.t.default.");
    fs::write(tag, "garbage").unwrap();
    for options in ["", " --max-age 100d", " --now"] {
        let pruned = at(&format!("prune{options}")).run().code(1);
        for said in [
            "dir t (scope default)",
            "its record is damaged",
            "cachectl rm",
        ] {
            assert!(pruned.stderr.contains(said), "{said}: {pruned}");
        }
    }
    at("rm t --yes").run().success();
    at("prune").run().success();
}

#[test]
fn one_tag_that_may_not_be_read_stops_no_prune_and_is_named() {
    let node = node_with_tree();
    let store = store(&node);
    let at = |line: &str| words(&node, &format!("{line} --store {store}"));
    at("export dir tree --name t").run().success();
    // Nothing needs it.
    let stray = digest(b"stray").replace("sha256:", "store/blobs/sha256/");
    fs::write(node.path(&stray), "stray").unwrap();
    give_away(&node);
    let tag = node.path("store/r/cachectl/tags/dir.t.default.");
    fs::set_permissions(&tag, fs::Permissions::from_mode(0o000)).unwrap();
    for options in ["verify", "prune", "prune --max-age 100d", "prune --now"] {
        let done = at(options).unprivileged().run().code(1).to_string();
        assert!(done.contains("dir t (scope default)"), "{done}");
        assert!(done.contains("Permission denied"), "{done}");
        assert!(!done.contains("not swept"), "{done}");
    }
    assert!(!node.path(&stray).exists());
    // What the tag needs is there.
    fs::set_permissions(&tag, fs::Permissions::from_mode(0o600)).unwrap();
    at("import dir y --name t --require-hit")
        .unprivileged()
        .run()
        .success();
    at("verify --data").unprivileged().run().success();
}
