//! Upkeep of what builders push: a BuildKit cache and an image in a repository of a daemon, looked after by `cachectl --daemon`.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    time::{Duration, SystemTime},
};

use cachectl::digest::Digest;
use serde_json::{Value, json};

use super::{daemon::Daemon, node_with_tree, outputs::same_as_documented, strings, words};
use crate::support::{
    cli::{flag, number},
    node::Node,
};

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// Sends one request to the registry door; the status of its answer.
fn send(daemon: &Daemon, method: &str, path: &str, kind: &str, body: &[u8]) -> u16 {
    let mut stream = TcpStream::connect(("127.0.0.1", daemon.port)).unwrap();
    let length = body.len();
    write!(
        stream,
        "{method} /v2/f/x/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    )
    .unwrap();
    stream.write_all(body).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap_or_default();
    status.parse().unwrap_or_else(|_| panic!("{answer}"))
}

/// Pushes a blob; its descriptor.
fn blob(daemon: &Daemon, media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::sha256_of(bytes).to_string();
    let path = format!("blobs/uploads/?digest={digest}");
    let status = send(daemon, "POST", &path, "application/octet-stream", bytes);
    assert_eq!(status, 201);
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

fn tag(daemon: &Daemon, tag: &str, config: &Value, layers: &[&Value]) {
    let document =
        json!({"schemaVersion": 2, "mediaType": IMAGE, "config": config, "layers": layers});
    let body = document.to_string();
    let path = format!("manifests/{tag}");
    assert_eq!(send(daemon, "PUT", &path, IMAGE, body.as_bytes()), 201);
}

/// A BuildKit cache of two steps under `c`, an image under `v1`; the cache's layers.
pub(super) fn push(daemon: &Daemon) -> [Value; 2] {
    let layers = [b"layer one".as_slice(), b"layer two"].map(|bytes| {
        let mut layer = blob(daemon, LAYER, bytes);
        let diff_id = Digest::sha256_of(bytes).to_string();
        layer["annotations"] = json!({"containerd.io/uncompressed": diff_id});
        layer
    });
    let step = |n: usize| json!({"layer": n, "createdAt": "2026-11-23T04:02:00Z"});
    let config = json!({
        "layers": [
            {"blob": layers[0]["digest"], "parent": -1},
            {"blob": layers[1]["digest"], "parent": 0},
        ],
        "records": [
            {"digest": Digest::sha256_of(b"0").to_string(), "layers": [step(0)]},
            {"digest": Digest::sha256_of(b"1").to_string(), "layers": [step(1)], "inputs": [[{"link": 0}]]},
        ],
    });
    let kind = "application/vnd.buildkit.cacheconfig.v0";
    let config = blob(daemon, kind, config.to_string().as_bytes());
    tag(daemon, "c", &config, &[&layers[0], &layers[1]]);
    let config = blob(daemon, "application/vnd.oci.image.config.v1+json", b"{}");
    let layer = blob(daemon, LAYER, b"layer of the image");
    tag(daemon, "v1", &config, &[&layer]);
    layers
}

#[test]
fn caches_of_builders_are_looked_at_and_looked_after() {
    let daemon = Daemon::start(&[]);
    let node = node_with_tree();
    let json = |line: &str| daemon.words(&node, line).json();
    json("export dir tree --name t");
    let layers = push(&daemon);

    let list = json("ls");
    same_as_documented("ls", &list);
    let rows = list["snapshots"].as_array().unwrap();
    let shown: Vec<_> = rows
        .iter()
        .map(|r| (r["name"].as_str(), r["kind"].as_str()))
        .collect();
    let want = [("t", "dir"), ("f/x:c", "buildkit"), ("f/x:v1", "image")];
    assert_eq!(shown, want.map(|(name, kind)| (Some(name), Some(kind))));
    assert!(rows[1]["pushed"].is_string() && number(&rows[1], "stored_bytes") > 18);
    let text = daemon.words(&node, "ls --repository f/*").run().success();
    assert_eq!(text.stdout.lines().count(), 3, "{text}");

    let shown = json("inspect f/x:c --files");
    same_as_documented("inspect", &shown);
    let outside = &shown["snapshots"][0]["outside"];
    assert_eq!(
        (number(outside, "records"), number(outside, "layers")),
        (2, 2)
    );
    let text = daemon.words(&node, "inspect f/x:c").run().success().stdout;
    assert!(text.contains("2 records, 2 layers"), "{text}");

    let usage = json("du");
    same_as_documented("du", &usage);
    assert_eq!(usage["store_bytes"], usage["stored_bytes"]);

    let report = json("verify --data");
    same_as_documented("verify", &report);
    // The folder's head, and the side tag by which it was published.
    assert!(
        flag(&report, "ok") && number(&report, "snapshots") == 4,
        "{report}"
    );

    let digest = layers[1]["digest"].as_str().unwrap();
    let path = daemon.blob(digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[3] ^= 1;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, bytes).unwrap();
    let found = daemon.words(&node, "verify --data").run().code(1);
    assert!(
        found.stdout.contains("tag f/x:c") && found.stdout.contains(digest),
        "{found}"
    );
    daemon.words(&node, "verify t --data").run().success();

    assert_eq!(strings(&json("rm f/x:c")["tags"]), ["f/x:c"]);
    daemon.words(&node, "rm f/x:c").run().code(1);
    daemon.words(&node, "verify --data").run().success();

    std::thread::sleep(Duration::from_millis(1100));
    let kept = json("prune --max-age 1s --repository cachectl --dry-run");
    assert!(!strings(&kept["tags"]).contains(&"f/x:v1"), "{kept}");
    let gone = json("prune --max-age 1s --repository f/**");
    assert_eq!(strings(&gone["tags"]), ["f/x:v1"]);
    let left = json("ls");
    assert_eq!(left["snapshots"].as_array().unwrap().len(), 1, "{left}");
}

#[test]
fn inspect_says_which_layers_are_missing() {
    let daemon = Daemon::start(&[]);
    let node = Node::new();
    push(&daemon);
    let whole = daemon.words(&node, "inspect f/x:v1").run().success();
    assert!(
        whole.stdout.contains("in 2 blobs\n") && !whole.stdout.contains("missing"),
        "{whole}"
    );
    let lost = Digest::sha256_of(b"layer of the image").to_string();
    fs::remove_file(daemon.blob(&lost)).unwrap();
    let told = daemon.words(&node, "inspect f/x:v1").run().success();
    assert!(
        told.stdout.contains("2 B in 1 blob; 1 blob is missing\n"),
        "{told}"
    );
    let row = told.stdout.lines().find(|l| l.contains(LAYER)).unwrap();
    assert!(row.contains(" missing "), "{told}");
    assert!(
        told.stderr.contains(&lost) && told.stderr.contains("is missing"),
        "{told}"
    );
}

#[test]
fn inspect_warns_of_a_layer_of_another_size_than_its_descriptor_says() {
    let node = Node::new();
    let config = node.path("cachectld.toml");
    fs::write(&config, "incomplete_images = \"warn\"\n").unwrap();
    let daemon = Daemon::start(&["--config", config.to_str().unwrap()]);
    push(&daemon);
    let kind = "application/vnd.oci.image.config.v1+json";
    let config = blob(&daemon, kind, b"{}");
    let mut layer = blob(&daemon, LAYER, b"layer of the image");
    layer["size"] = json!(23);
    tag(&daemon, "odd", &config, &[&layer]);
    let whole = daemon.words(&node, "inspect f/x:v1").run().success();
    assert_eq!(whole.stderr, "", "{whole}");
    let told = daemon.words(&node, "inspect f/x:odd").run().success();
    let digest = layer["digest"].as_str().unwrap();
    assert_eq!(
        told.stderr,
        format!("cachectl: warning: tag f/x:odd: blob {digest} has 18 bytes, not 23\n")
    );
    // What is stored is shown, not what is said of it.
    let row = told.stdout.lines().find(|l| l.contains(LAYER)).unwrap();
    assert!(row.contains(" 18 B "), "{told}");
    assert!(told.stdout.contains("20 B in 2 blobs\n"), "{told}");
}

#[test]
fn a_daemon_copies_all_repositories_and_this_process_says_what_it_cannot() {
    let daemon = Daemon::start(&["--allow-path"]);
    let node = node_with_tree();
    daemon.words(&node, "export dir tree --name t").json();
    push(&daemon);
    let from = format!("cachectld:{}", daemon.socket());
    let folder = format!("disk:{}", node.path("copy").display());
    let one = words(
        &node,
        &format!("copy {from} {folder} --by daemon --name f/x:c"),
    )
    .json();
    assert_eq!(strings(&one["tags"]), ["f/x:c"]);
    let all = words(&node, &format!("copy {from} {folder} --by daemon")).json();
    assert_eq!(strings(&all["tags"]).len(), 2, "{all}");
    let checked = words(&node, &format!("verify --data --store {folder}")).json();
    assert!(
        flag(&checked, "ok") && number(&checked, "snapshots") == 3,
        "{checked}"
    );
    let read_only = words(&node, &format!("ls --read-only --store {folder}")).json();
    assert_eq!(read_only["snapshots"].as_array().unwrap().len(), 3);

    // Nothing is damaged, so nothing is to be verified.
    let layout = format!("copy {folder} oci-layout:{}", node.path("layout").display());
    let some = words(&node, &layout).run().code(1);
    assert!(
        some.stderr.contains("not copied: repository f/x: ")
            && some.stderr.contains("copy one with --repository cachectl")
            && !some.stderr.contains("cachectl verify"),
        "{some}"
    );
    let here = format!("copy {from} disk:{}", node.path("here").display());
    let some = words(&node, &here).run().code(1);
    assert!(
        some.stderr.contains("repository f/x") && some.stderr.contains("--by daemon"),
        "{some}"
    );
    words(&node, &format!("{here} --repository cachectl"))
        .run()
        .success();
}

#[test]
fn blobs_of_a_cache_that_nobody_pushed_for_long_go_by_the_second_prune() {
    let daemon = Daemon::start(&[]);
    let node = Node::new();
    let layers = push(&daemon);
    let path = daemon.blob(layers[0]["digest"].as_str().unwrap());
    let then = SystemTime::now() - Duration::from_hours(48);
    fs::File::open(&path).unwrap().set_modified(then).unwrap();
    let kept = daemon.words(&node, "prune --grace 1h").json();
    assert_eq!(number(&kept, "marked"), 0, "{kept}");
    std::thread::sleep(Duration::from_millis(1100));
    let pruned = daemon.words(&node, "prune --max-age 1s --grace 1h").json();
    assert_eq!(strings(&pruned["tags"]), ["f/x:c", "f/x:v1"]);
    assert_eq!(number(&pruned, "marked"), 1, "{pruned}");
}

#[test]
fn a_password_opens_all_repositories_that_its_name_has_a_right_to() {
    const TOKEN: &str = "0123456789abcdef0123";
    let node = node_with_tree();
    let (tokens, config) = (node.path("tokens"), node.path("cachectld.toml"));
    fs::write(&tokens, format!("team {TOKEN}\n")).unwrap();
    fs::set_permissions(&tokens, fs::Permissions::from_mode(0o600)).unwrap();
    let settings = format!(
        "[auth]\ntokens = {tokens:?}\nanonymous = \"push\"\ngrants = [\"team = f/** : *\"]\n"
    );
    fs::write(&config, settings).unwrap();
    let daemon = Daemon::start(&["--config", config.to_str().unwrap()]);
    push(&daemon);
    let as_team = |line: &str| {
        words(&node, &format!("{line} --daemon {}", daemon.http()))
            .env("CACHECTL_REGISTRY_USERNAME", "team")
            .env("CACHECTL_REGISTRY_PASSWORD", TOKEN)
    };
    as_team("export dir tree --name t --strict").json();
    let nobody = words(&node, &format!("rm f/x:c --daemon {}", daemon.http()));
    nobody.run().code(1);
    assert_eq!(
        as_team("ls").json()["snapshots"].as_array().unwrap().len(),
        3
    );
    let other = as_team("rm t").run().code(1);
    assert!(other.stderr.contains("is named `t`"), "{other}");
    assert_eq!(strings(&as_team("rm f/x:c").json()["tags"]), ["f/x:c"]);
    std::thread::sleep(Duration::from_millis(1100));
    let pruned = as_team("prune --max-age 1s").json();
    assert_eq!(strings(&pruned["tags"]), ["f/x:v1"]);
    assert!(pruned["not_swept"].is_string(), "{pruned}");
    let copied = as_team(&format!(
        "copy cachectld+http://127.0.0.1:{} s3://bucket",
        daemon.port
    ));
    copied.run().code(1);
}
