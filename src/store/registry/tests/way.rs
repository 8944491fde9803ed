//! Redirects, other hosts, TLS, names that do not resolve, the clock.

use std::io::{Read as _, Write as _};

use super::{
    fake::{Act, Call, Fake, reply, with},
    *,
};
use crate::{
    digest::Digest,
    entry::Time,
    store::{ErrorKind, TagStore as _},
    task,
};

#[tokio::test]
async fn redirected_read_goes_to_the_storage_without_credentials() {
    let storage = Fake::plain().await;
    let bytes = some_bytes(1000);
    storage.has(&bytes);
    let to = storage.url("");
    let fake = Fake::start(move |call| {
        if call.header("authorization").is_empty() {
            return Some(Act::Reply(with(
                401,
                &[("www-authenticate", "Basic realm=x")],
                "",
            )));
        }
        Some(Act::Reply(with(
            307,
            &[("location", &format!("{to}{}?X-Sig=1", call.path))],
            "",
        )))
    })
    .await;
    let store = open_with(&fake, as_user("p")).await;
    assert_eq!(
        get(&store, &bytes, 10..20).await.unwrap(),
        bytes.slice(10..20)
    );
    assert_eq!(store.stat(&desc(&bytes).digest).await.unwrap(), Some(1000));
    let calls = storage.log();
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0].header("range"), "bytes=10-19");
    assert!(calls.iter().all(|c| c.header("authorization").is_empty()));
    assert!(
        fake.log()
            .iter()
            .skip(1)
            .all(|c| !c.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn upload_to_another_host_carries_no_credentials() {
    let storage = Fake::plain().await;
    let at = "/v2/team/app/blobs/uploads/far";
    storage.model().uploads.insert(at.to_owned(), Vec::new());
    let far = storage.url(at);
    let fake = Fake::start(move |call| match call.name().as_str() {
        _ if call.header("authorization").is_empty() => Some(Act::Reply(with(
            401,
            &[("www-authenticate", "Basic realm=x")],
            "",
        ))),
        "POST uploads" => Some(Act::Reply(with(202, &[("location", &far)], ""))),
        _ => None,
    })
    .await;
    let bytes = some_bytes(2 << 20);
    put(&open_with(&fake, as_user("p")).await, &bytes)
        .await
        .unwrap();
    let calls = storage.log();
    assert_eq!(calls.len(), 1);
    assert!(calls[0].header("authorization").is_empty() && calls[0].body == bytes);
}

#[tokio::test]
async fn redirected_upload_is_sent_again_there() {
    let fake = Fake::start(|call| {
        (call.name() == "PUT uploads" && call.nth == 0).then(|| {
            Act::Reply(with(
                308,
                &[("location", &format!("{}?{}&again", call.path, call.query))],
                "",
            ))
        })
    })
    .await;
    let bytes = some_bytes(100_000);
    put(&open(&fake).await, &bytes).await.unwrap();
    assert_eq!(fake.model().blobs.len(), 1);
}

#[tokio::test]
async fn signed_url_that_aged_is_got_anew() {
    let storage = Fake::start(|call| (call.nth == 0).then(|| Act::Reply(reply(403)))).await;
    let bytes = some_bytes(1000);
    storage.has(&bytes);
    let to = storage.url("");
    let fake = Fake::start(move |call| {
        Some(Act::Reply(with(
            302,
            &[("location", &format!("{to}{}", call.path))],
            "",
        )))
    })
    .await;
    let store = open(&fake).await;
    let e = get(&store, &bytes, 0..10).await.unwrap_err();
    assert!(e.is_temporary(), "{e}");
    assert_eq!(
        get(&store, &bytes, 0..10).await.unwrap(),
        bytes.slice(0..10)
    );
    assert_eq!(fake.log().len(), 2);
}

#[tokio::test]
async fn redirects_that_do_not_end_are_refused() {
    let fake =
        Fake::start(|call: &Call| Some(Act::Reply(with(307, &[("location", &call.path)], ""))))
            .await;
    let e = open(&fake)
        .await
        .stat(&Digest::sha256_of(b"x"))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Corrupt, "{e}");
    assert_eq!(fake.log().len(), 6);
}

#[tokio::test]
async fn redirect_to_another_protocol_is_refused() {
    for to in ["ftp://h/x", "file:///etc/passwd", "http://["] {
        let fake = Fake::start(move |_| Some(Act::Reply(with(307, &[("location", to)], "")))).await;
        let e = open(&fake)
            .await
            .stat(&Digest::sha256_of(b"x"))
            .await
            .unwrap_err();
        assert_eq!(e.kind, ErrorKind::Denied, "{e}");
    }
}

#[tokio::test]
async fn host_that_does_not_exist_is_named() {
    let location = Location::parse("oci://no-such-registry.invalid/a").unwrap();
    let direct = net::Common {
        proxy_from_env: false,
        ..common()
    };
    let store = Registry::open(&location, &Config::default(), &direct)
        .await
        .unwrap();
    let e = store.stat(&Digest::sha256_of(b"x")).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unavailable, "{e}");
    let text = e.to_string();
    assert!(
        text.contains("no-such-registry.invalid` cannot be resolved")
            && text.contains("check the store's URL"),
        "{text}"
    );
}

#[tokio::test]
async fn closed_port_and_silent_server_are_temporary() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let hasty = net::Common {
        stall: Duration::from_millis(50),
        connect_timeout: Duration::from_millis(50),
        ..common()
    };
    for (addr, want) in [
        (closed, ErrorKind::Unavailable),
        (silent.local_addr().unwrap(), ErrorKind::Timeout),
    ] {
        let location = Location::parse(&format!("oci://{addr}/a")).unwrap();
        let store = Registry::open(&location, &Config::default(), &hasty)
            .await
            .unwrap();
        let e = store.stat(&Digest::sha256_of(b"x")).await.unwrap_err();
        assert_eq!(e.kind, want, "{e}");
    }
}

/// Answers every TLS connection with one blob's HEAD, on a separate thread.
fn tls_server(cert: &rcgen::CertifiedKey<rcgen::KeyPair>) -> std::net::SocketAddr {
    net::install_tls_provider();
    let key = rustls_pki_types::PrivateKeyDer::try_from(cert.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![cert.cert.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for socket in listener.incoming() {
            let tls = rustls::ServerConnection::new(config.clone()).unwrap();
            let mut stream = rustls::StreamOwned::new(tls, socket.unwrap());
            let mut buf = [0; 4096];
            if stream.read(&mut buf).is_ok() {
                let _ = stream.write_all(
                    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
                );
                stream.conn.send_close_notify();
                let _ = stream.flush();
            }
        }
    });
    addr
}

#[tokio::test]
async fn private_authority_is_refused_until_it_is_in_the_bundle() {
    let cert = rcgen::generate_simple_self_signed(vec!["registry.test".to_owned()]).unwrap();
    let addr = tls_server(&cert);
    // A name that is not loopback, so that TLS is used.
    let location = Location::parse(&format!("oci://registry.test:{}/a", addr.port())).unwrap();
    let mut settings = common();
    let try_it = async |settings: &net::Common| {
        let wire = super::super::connection::Connection::new_resolving(&location, settings, addr)
            .await
            .unwrap();
        let url = location.api().unwrap();
        let ask = super::super::request::Ask::new(
            "stat",
            reqwest::Method::HEAD,
            url.clone(),
            &super::super::scopes::Scopes::default(),
        );
        wire.exchange(&ask, &url, None).await
    };
    let e = try_it(&settings).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid, "{e}");
    assert!(e.message.contains("ca_bundle"), "{e}");
    let dir = tempfile::tempdir().unwrap();
    let bundle = dir.path().join("ca.pem");
    std::fs::write(&bundle, cert.cert.pem()).unwrap();
    settings.ca_bundle = Some(bundle);
    assert_eq!(try_it(&settings).await.unwrap().length(), Some(5));
}

#[tokio::test]
async fn plain_http_where_tls_is_expected_is_explained() {
    let fake = Fake::plain().await;
    let location = Location::parse(&format!("oci://registry.test:{}/a", fake.addr.port())).unwrap();
    let wire = super::super::connection::Connection::new_resolving(&location, &common(), fake.addr)
        .await
        .unwrap();
    let url = location.api().unwrap();
    let ask = super::super::request::Ask::new(
        "stat",
        reqwest::Method::HEAD,
        url.clone(),
        &super::super::scopes::Scopes::default(),
    );
    let e = wire.exchange(&ask, &url, None).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Invalid, "{e}");
    assert!(e.message.contains("insecure=true"), "{e}");
}

#[tokio::test]
async fn clock_is_the_registrys_own() {
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let fake = Fake::start(move |_| Some(Act::Reply(with(401, &[("date", date)], "")))).await;
    let store = open(&fake).await;
    let near = |t: Time| (784_111_777..784_111_787).contains(&t.secs);
    assert!(near(store.clock().await.unwrap()));
    assert!(near(store.clock().await.unwrap()));
    assert_eq!(fake.log().len(), 1, "the clock was known");
    assert_eq!(fake.log()[0].path, "/v2/");
    // An answer from a cache does not contain the current time; then the node's own clock is used.
    let old =
        Fake::start(move |_| Some(Act::Reply(with(200, &[("date", date), ("age", "5")], ""))))
            .await;
    assert!(!near(open(&old).await.clock().await.unwrap()));
}

#[tokio::test]
async fn same_warning_is_kept_once() {
    let fake = Fake::start(|_| {
        let headers = [
            ("docker-distribution-api-version", "registry/2.0"),
            ("warning", "299 - \"going away\""),
        ];
        Some(Act::Reply(with(404, &headers, "")))
    })
    .await;
    let store = open(&fake).await;
    for _ in 0..3 {
        store.stat(&Digest::sha256_of(b"x")).await.unwrap();
    }
    assert_eq!(store.shared().transport.warned(), ["going away"]);
}

#[tokio::test]
async fn many_operations_at_once_all_come_back() {
    let fake = Fake::plain().await;
    let store = open(&fake).await;
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let store = store.clone();
            task::spawn("put", async move {
                put(&store, &some_bytes(10_000 + i)).await.unwrap()
            })
        })
        .collect();
    for t in tasks {
        assert_eq!(t.join().await, Put::Stored);
    }
}
