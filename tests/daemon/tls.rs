//! TLS at the doors: beside plain HTTP, and with certificates that are replaced while it runs.

use std::{fs, net::TcpStream};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustix::process::Signal;

use super::{Daemon, cachectld, process::exchange};
use crate::support::{cli::cachectl, node::Node};

/// Puts a new certificate for 127.0.0.1 in its place; it is its own authority.
fn certificate(node: &Node) -> reqwest::Certificate {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(node.path("c.pem"), cert.pem()).unwrap();
    fs::write(node.path("k.pem"), signing_key.serialize_pem()).unwrap();
    reqwest::Certificate::from_pem(cert.pem().as_bytes()).unwrap()
}

/// Status of a request of somebody who believes in `authority` only.
async fn asked(authority: &reqwest::Certificate, url: &str) -> Option<u16> {
    // Fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder()
        .tls_certs_only([authority.clone()])
        .no_proxy()
        .build()
        .unwrap();
    let answer = client.get(format!("{url}/v2/")).send().await.ok()?;
    Some(answer.status().as_u16())
}

#[tokio::test]
async fn certificates_are_replaced_while_it_runs() {
    let node = Node::new();
    let first = certificate(&node);
    let mut command = cachectld(&node);
    command
        .args(["--listen", "127.0.0.1:0"])
        .args(["--listen", "http://127.0.0.1:0"])
        .arg("--tls-cert")
        .arg(node.path("c.pem"))
        .arg("--tls-key")
        .arg(node.path("k.pem"));
    let daemon = Daemon::run(command);
    let found = daemon.listeners();
    let (tls, plain) = (&found[0].0, &found[1].0);
    assert!(tls.starts_with("https://") && plain.starts_with("http://"));
    assert_eq!(asked(&first, tls).await, Some(200));
    assert_eq!(asked(&first, plain).await, Some(200));

    let second = certificate(&node);
    daemon.signal(Signal::HUP);
    daemon.wait_for("Reloaded");
    assert_eq!(asked(&second, tls).await, Some(200));
    assert_eq!(asked(&first, tls).await, None);

    // A key that does not belong to the certificate is not taken over.
    let key = fs::read(node.path("k.pem")).unwrap();
    certificate(&node);
    fs::write(node.path("k.pem"), key).unwrap();
    daemon.signal(Signal::HUP);
    daemon.wait_for("Reload failed; keeping the previous configuration");
    assert_eq!(asked(&second, tls).await, Some(200));
    // At the start, and with the reload that took it over.
    assert_eq!(daemon.lines("TLS configured").len(), 2);
}

#[test]
fn a_certificate_of_an_authority_is_warned_of_and_named_by_who_refuses_it() {
    let node = Node::new();
    let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    fs::write(node.path("c.pem"), pem).unwrap();
    fs::write(node.path("k.pem"), key.serialize_pem()).unwrap();
    let command = || {
        let mut command = cachectld(&node);
        command.args(["--listen", "127.0.0.1:0", "--tls-cert"]);
        command
            .arg(node.path("c.pem"))
            .arg("--tls-key")
            .arg(node.path("k.pem"));
        command
    };
    let checked = command().arg("--check-config").output().unwrap();
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(checked.status.code(), Some(0), "{said}");
    assert!(said.contains("CA:TRUE"), "{said}");
    let daemon = Daemon::run(command());
    daemon.wait_for("Clients will refuse the TLS certificate: it is a certificate authority's (CA:TRUE), which cachectl and other rustls-based clients do not accept from a server; issue a server certificate from it, or make a self-signed one with basicConstraints CA:FALSE");
    let url = daemon.listeners()[0]
        .0
        .replace("https://", "cachectld+https://");
    let failed = cachectl(&node)
        .args(["ls", "--store", &url])
        .env("CACHECTL_CA_BUNDLE", node.path("c.pem"))
        .run()
        .code(1);
    assert!(
        failed.stderr.contains("certificate authority's (CA:TRUE)"),
        "{failed}"
    );
    assert!(failed.stderr.contains("CA:FALSE"), "{failed}");
}

#[test]
fn the_end_of_the_certificate_is_a_number_that_follows_a_reload() {
    let node = Node::new();
    let write = |years: [i32; 2]| {
        let key = rcgen::KeyPair::generate().unwrap();
        let pems = years.map(|year| {
            let mut params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, 1, 1);
            params.self_signed(&key).unwrap().pem()
        });
        fs::write(node.path("c.pem"), pems.concat()).unwrap();
        fs::write(node.path("k.pem"), key.serialize_pem()).unwrap();
    };
    write([2040, 2030]);
    let mut command = cachectld(&node);
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--tls-cert",
    ]);
    command
        .arg(node.path("c.pem"))
        .arg("--tls-key")
        .arg(node.path("k.pem"));
    let daemon = Daemon::run(command);
    let end = || {
        let listeners = daemon.listeners();
        let admin = listeners.iter().find(|(_, serves)| serves == "admin");
        let address = admin.unwrap().0.strip_prefix("http://").unwrap().to_owned();
        let request =
            format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
        let (_, text) = exchange(TcpStream::connect(&address).unwrap(), &request);
        let line = text
            .lines()
            .find_map(|l| l.strip_prefix("cachectld_tls_not_after_seconds "));
        line.unwrap().to_owned()
    };
    // Of the chain the one that ends first.
    assert_eq!(end(), "1893456000");
    write([2035, 2040]);
    daemon.signal(Signal::HUP);
    daemon.wait_for("Reloaded");
    assert_eq!(end(), "2051222400");
}

#[test]
fn who_speaks_to_a_daemon_the_wrong_way_is_told_the_right_one() {
    let node = Node::new();
    certificate(&node);
    let mut command = cachectld(&node);
    command
        .args(["--listen", "127.0.0.1:0"])
        .args(["--listen", "http://127.0.0.1:0", "--tls-cert"])
        .arg(node.path("c.pem"))
        .arg("--tls-key")
        .arg(node.path("k.pem"));
    let daemon = Daemon::run(command);
    let found = daemon.listeners();
    let (tls, plain) = (&found[0].0, &found[1].0);
    let said = |flag: &str, url: &str| {
        let run = cachectl(&node).args(["ls", flag, url]).run();
        let outcome = run.code(1);
        assert!(!outcome.stderr.contains("attempts"), "{outcome}");
        outcome.stderr
    };
    let wrong = said("--daemon", &tls.replace("https://", "http://"));
    assert!(wrong.contains("write https:// before"), "{wrong}");
    let wrong = said("--daemon", &plain.replace("http://", "https://"));
    assert!(wrong.contains("write http:// before"), "{wrong}");
    let registry = |url: &str| {
        url.replace("https://", "oci://")
            .replace("http://", "oci://")
            + "/x"
    };
    let wrong = said("--store", &registry(tls));
    assert!(wrong.contains("?insecure=false in"), "{wrong}");
    let wrong = said("--store", &(registry(plain) + "?insecure=false"));
    assert!(wrong.contains("?insecure=true in"), "{wrong}");
    let right = |bundle: &str| {
        cachectl(&node)
            .args(["ls", "--store", &(registry(tls) + "?insecure=false")])
            .env("SSL_CERT_FILE", "/nonexistent/ca.pem")
            .env("SSL_CERT_DIR", "/nonexistent")
            .env("CACHECTL_CA_BUNDLE", bundle)
            .run()
    };
    right(&node.path("c.pem").display().to_string()).success();
    let bare = right("").code(1);
    assert!(
        bare.stderr.contains("install the package ca-certificates"),
        "{bare}"
    );
}
