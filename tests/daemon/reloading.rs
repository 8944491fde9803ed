//! SIGHUP: what changes, what waits for a restart, and what a mistake does.

use std::{fs, os::unix::net::UnixDatagram};

use rustix::process::Signal;

use super::{Daemon, cachectld, process::file};
use crate::support::node::Node;

/// A daemon that trusts nobody, where everybody may do `anonymous`.
fn guarded(node: &Node, anonymous: &str) -> (Daemon, String) {
    let config = file(node, "c.toml", &guard(anonymous));
    let daemon = Daemon::start(node, &["--config", &config]);
    (daemon, config)
}

fn guard(anonymous: &str) -> String {
    format!("[auth]\ntrust_local = \"nobody\"\nanonymous = \"{anonymous}\"\n")
}

/// The answer to beginning an upload.
fn begin(daemon: &Daemon) -> u16 {
    daemon.status("POST", "/v2/app/blobs/uploads/")
}

#[test]
fn rights_follow_the_file() {
    let node = Node::new();
    let (daemon, config) = guarded(&node, "pull");
    assert_ne!(begin(&daemon), 202);
    fs::write(&config, guard("push")).unwrap();
    daemon.signal(Signal::HUP);
    let line = daemon.wait_for("Reloaded");
    assert_eq!(line["changed"], "auth.anonymous");
    assert_eq!(begin(&daemon), 202);
}

#[test]
fn a_mistake_changes_nothing_and_names_its_line() {
    let node = Node::new();
    let (daemon, config) = guarded(&node, "push");
    fs::write(&config, "[auth]\ntrust_local = \"nobody\"\nanonymus = 1\n").unwrap();
    daemon.signal(Signal::HUP);
    let line = daemon.wait_for("Reload failed; keeping the previous configuration");
    assert!(line["error"].as_str().unwrap().contains("c.toml:3"));
    assert_eq!(begin(&daemon), 202);
    // Half of it is right, but the users cannot be read: that half does not hold either.
    let half = format!("{}htpasswd = \"missing\"\n", guard("pull"));
    fs::write(&config, half).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for_times("Reload failed; keeping the previous configuration", 2);
    assert_eq!(begin(&daemon), 202);
    fs::write(&config, guard("pull")).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("Reloaded");
    assert_ne!(begin(&daemon), 202);
}

#[test]
fn what_needs_a_restart_is_named() {
    let node = Node::new();
    let config = file(&node, "c.toml", "");
    let daemon = Daemon::start(&node, &["--config", &config]);
    fs::write(
        &config,
        "drain_timeout = \"9s\"\nconcurrency = 9\nlog = \"debug\"\n",
    )
    .unwrap();
    daemon.signal(Signal::HUP);
    let line = daemon.wait_for("Reloaded");
    assert_eq!(line["changed"], "log drain_timeout");
    let waits = daemon.lines("Changed setting takes effect after a restart");
    assert_eq!(waits.len(), 1);
    assert_eq!(waits[0]["key"], "concurrency");
    assert_eq!(waits[0]["origin"], format!("{config}:2"));
}

#[test]
fn the_log_filter_follows_the_file() {
    let node = Node::new();
    let config = file(&node, "c.toml", "log = \"info\"\n");
    let daemon = Daemon::start(&node, &["--config", &config]);
    let reload = |text: &str| {
        fs::write(&config, text).unwrap();
        daemon.signal(Signal::HUP);
    };
    // It holds from then on for what is said of the reload itself.
    reload("log = \"warn\"\nconcurrency = 9\n");
    daemon.wait_for("Changed setting takes effect after a restart");
    reload("log = \"info\"\n");
    daemon.wait_for("Reloaded");
    assert_eq!(daemon.lines("Reloaded").len(), 1);
}

#[test]
fn a_service_manager_hears_of_each_step() {
    let node = Node::new();
    let path = node.path("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    let next = || {
        let mut buf = [0; 256];
        let n = manager.recv(&mut buf).unwrap();
        String::from_utf8_lossy(&buf[..n]).into_owned()
    };
    let mut command = cachectld(&node);
    command
        .args(["--listen", "127.0.0.1:0"])
        .env("NOTIFY_SOCKET", &path);
    let mut daemon = Daemon::run(command);
    assert!(next().starts_with("READY=1"));
    daemon.signal(Signal::HUP);
    assert!(next().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    assert!(next().starts_with("READY=1"));
    daemon.signal(Signal::TERM);
    assert!(next().starts_with("STOPPING=1"));
    assert!(daemon.wait().success());
}
