//! What a web page in a browser on the daemon's machine can do to it: nothing.

use std::{io::Write as _, net::TcpStream, os::unix::net::UnixStream};

use super::{
    Daemon, cachectld,
    process::{answer, exchange, file, header},
};
use crate::support::node::Node;

/// Sends a request with these lines in its head; status and all of the answer.
fn ask(daemon: &Daemon, request: &str, head: &[&str]) -> (u16, String) {
    let lines = head.join("\r\n");
    let text =
        format!("{request} HTTP/1.1\r\n{lines}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    exchange(TcpStream::connect(daemon.address()).unwrap(), &text)
}

/// sha256 of nothing.
const PUSH: &str = "POST /v2/library/app/blobs/uploads/?digest=sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const EVIL: &str = "Host: rebind.evil.example";
const OWN: &str = "Host: localhost";

#[test]
fn a_page_gets_in_neither_by_a_name_of_its_own_nor_across_sites() {
    let node = Node::new();
    let daemon = Daemon::start(&node, &[]);
    for (what, request, head) in [
        ("a write by rebinding", PUSH, &[EVIL][..]),
        (
            "a read by rebinding",
            "GET /v2/library/app/tags/list",
            &[EVIL],
        ),
        ("the status page by rebinding", "GET /", &[EVIL]),
        ("the metrics by rebinding", "GET /metrics", &[EVIL]),
        ("a token by rebinding", "GET /token", &[EVIL]),
        (
            "a write across sites",
            PUSH,
            &[
                OWN,
                "Origin: http://evil.example",
                "Content-Type: text/plain",
            ],
        ),
        ("a write of a sandboxed frame", PUSH, &[OWN, "Origin: null"]),
        (
            "a read across sites",
            "GET /v2/library/app/tags/list",
            &[OWN, "Sec-Fetch-Site: cross-site"],
        ),
        (
            "another port of localhost",
            PUSH,
            &[OWN, "Origin: http://localhost:3000"],
        ),
    ] {
        let (code, text) = ask(&daemon, request, head);
        assert_eq!(code, 403, "{what}: {text}");
        assert!(text.contains("DENIED"), "{what}: {text}");
    }
    let (_, text) = ask(&daemon, "GET /v2/library/app/tags/list", &[OWN]);
    assert!(!text.contains("\"tags\""), "nothing was pushed: {text}");
    for head in [
        &[OWN][..],
        &["Host: 127.0.0.1:5000"],
        &["Host: app.localhost"],
        &[OWN, "Sec-Fetch-Site: none"],
    ] {
        let (code, text) = ask(&daemon, PUSH, head);
        assert_eq!(code, 201, "{head:?}: {text}");
    }
    // Probes are asked by addresses and names that nobody knows before.
    assert_eq!(ask(&daemon, "GET /livez", &["Host: 10.1.2.3:5000"]).0, 200);
}

/// What `anonymous` may do at a loopback address is not for pages, by whatever protocol and header they try it.
#[test]
fn a_rebound_page_is_refused_where_anonymous_may_push() {
    const OPEN: &str =
        "auth.grants = [\"anonymous = ** : pull,push\"]\nauth.trust_local = \"nobody\"\n";
    let node = Node::new();
    let config = file(&node, "c.toml", OPEN);
    let daemon = Daemon::start(&node, &["--config", &config]);
    let origin = "Origin: http://rebind.evil.example";
    for head in [
        &[EVIL][..],
        &[EVIL, origin],
        &[EVIL, origin, "Sec-Fetch-Site: same-origin"],
        &[EVIL, origin, "X-Forwarded-For: 192.0.2.1"],
    ] {
        for request in [PUSH, "GET /v2/library/app/tags/list"] {
            let (code, text) = ask(&daemon, request, head);
            assert_eq!(code, 403, "{request} {head:?}: {text}");
            assert!(text.contains("allowed_hosts"), "{text}");
        }
    }
    for host in [OWN, "Host: 127.0.0.1:5000"] {
        assert_eq!(ask(&daemon, PUSH, &[host]).0, 201, "{host}");
    }
    // One warning says what to do, however often the page tries.
    let lines = daemon.lines("Denied: unknown host name");
    let warned: Vec<_> = lines.iter().filter(|l| l["level"] == "WARN").collect();
    assert_eq!(warned.len(), 1, "{lines:?}");
    assert!(warned[0]["remedy"].to_string().contains("allowed_hosts"));

    // HTTP/2 has the name in `:authority`.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let address: std::net::SocketAddr = daemon.address().parse().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_, path) = PUSH.split_once(' ').unwrap();
    let push = |host: &str| {
        let client = reqwest::Client::builder()
            .http2_prior_knowledge()
            .no_proxy()
            .resolve(host, address)
            .build()
            .unwrap();
        let url = format!("http://{host}:{}{path}", address.port());
        let answer = runtime.block_on(client.post(url).send()).unwrap();
        assert_eq!(answer.version(), reqwest::Version::HTTP_2);
        answer.status().as_u16()
    };
    assert_eq!(push("rebind.evil.example"), 403);
    assert_eq!(push("localhost"), 201);

    // Behind a proxy that the settings tell of, anybody has what `anonymous` has.
    let node = Node::new();
    let config = file(
        &node,
        "c.toml",
        &format!("{OPEN}auth.trust_forwarded = true\n"),
    );
    let daemon = Daemon::start(&node, &["--config", &config]);
    let forwarded = ["Host: cache.example", "X-Forwarded-For: 192.0.2.1"];
    assert_eq!(ask(&daemon, PUSH, &forwarded).0, 201);
    assert_eq!(ask(&daemon, PUSH, &forwarded[..1]).0, 403);
}

#[test]
fn the_control_api_is_closed_to_pages_too() {
    let node = Node::new();
    let daemon = Daemon::start(&node, &[]);
    let call = |host: &str| {
        let mut stream = TcpStream::connect(daemon.address()).unwrap();
        // A message of no bytes, with its frame.
        let head = format!(
            "POST /cachectl.v1.Control/Status HTTP/1.1\r\n{host}\r\nContent-Type: application/grpc\r\nTE: trailers\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(&[0; 5]).unwrap();
        answer(stream)
    };
    let (code, text) = call(EVIL);
    assert_eq!(
        (code, header(&text, "grpc-status").as_str()),
        (200, "7"),
        "{text}"
    );
    assert!(
        header(&text, "grpc-message").contains("allowed_hosts"),
        "{text}"
    );
    let (_, text) = call(OWN);
    assert!(!text.contains("grpc-status: 7"), "{text}");
}

#[test]
fn names_of_the_settings_are_answered_and_a_socket_asks_for_none() {
    let node = Node::new();
    let config = file(
        &node,
        "c.toml",
        "allowed_hosts = [\"host.docker.internal\"]\nexternal_url = \"https://cache.example\"\n",
    );
    let daemon = Daemon::start(&node, &["--config", &config]);
    for host in ["Host: host.docker.internal:5000", "Host: cache.example"] {
        assert_eq!(ask(&daemon, PUSH, &[host]).0, 201, "{host}");
    }
    assert_eq!(ask(&daemon, PUSH, &[EVIL]).0, 403);
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let request =
        format!("{PUSH} HTTP/1.1\r\n{EVIL}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut said = String::new();
    std::io::Read::read_to_string(&mut stream, &mut said).unwrap();
    assert!(said.starts_with("HTTP/1.1 201"), "{said}");
    let mut wrong = cachectld(&node);
    wrong
        .env("CACHECTLD_ALLOWED_HOSTS", "cache.internal:5000")
        .arg("--check-config");
    let (code, said) = super::failure(wrong);
    assert_eq!(code, 2, "{said}");
    assert!(
        said.contains("`allowed_hosts` contains `cache.internal:5000`"),
        "{said}"
    );
}

#[test]
fn no_answer_runs_in_a_browser() {
    let node = Node::new();
    let daemon = Daemon::start(&node, &[]);
    for request in [
        "GET /v2/",
        PUSH,
        "GET /v2/none/manifests/none",
        "GET /token",
        "GET /nowhere",
    ] {
        let (_, text) = ask(&daemon, request, &[OWN]);
        assert_eq!(
            header(&text, "x-content-type-options"),
            "nosniff",
            "{request}"
        );
        let policy = header(&text, "content-security-policy");
        assert_eq!(policy, "sandbox; default-src 'none'", "{request}");
    }
    let (_, page) = ask(&daemon, "GET /", &[OWN]);
    let policy = header(&page, "content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src"),
        "{policy}"
    );
}

#[test]
fn a_client_behind_a_proxy_is_told_why_it_may_not() {
    let node = Node::new();
    let daemon = Daemon::start(&node, &[]);
    for forwarded in [
        "X-Forwarded-For: 192.0.2.1",
        "Forwarded: for=192.0.2.1",
        "Via: 1.1 proxy",
        "X-Real-IP: 192.0.2.1",
    ] {
        // By whatever name: without the rights of loopback there is nothing that a page could use.
        let (code, text) = ask(
            &daemon,
            "GET /v2/a/tags/list",
            &["Host: cache.example", forwarded],
        );
        assert_eq!(code, 403, "{text}");
        assert!(
            text.contains("came through a proxy") && text.contains("auth.htpasswd"),
            "{text}"
        );
    }
}
