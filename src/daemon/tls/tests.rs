use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio_rustls::{TlsConnector, client};

use super::*;

/// An authority, and the certificates it signs.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, as PEM.
struct Pair {
    certificate: String,
    key: String,
}

fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca {
        issuer: Issuer::new(params, key),
        pem,
    }
}

impl Ca {
    fn sign(&self, common_name: &str) -> Pair {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params
            .distinguished_name
            .push(DnType::CommonName, common_name);
        let key = KeyPair::generate().unwrap();
        Pair {
            certificate: params.signed_by(&key, &self.issuer).unwrap().pem(),
            key: key.serialize_pem(),
        }
    }
}

/// A folder with the server's files.
struct Files {
    dir: TempDir,
    config: Tls,
}

fn files(server: &Pair) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let config = Tls {
        cert: dir.path().join("cert.pem"),
        key: dir.path().join("key.pem"),
        client_ca: None,
        client_must: false,
        handshake_timeout: Duration::from_secs(10),
    };
    let files = Files { dir, config };
    files.put(server);
    files
}

impl Files {
    fn put(&self, pair: &Pair) {
        std::fs::write(&self.config.cert, &pair.certificate).unwrap();
        std::fs::write(&self.config.key, &pair.key).unwrap();
    }

    fn clients_of(mut self, ca: &Ca, must: bool) -> Self {
        let path = self.dir.path().join("clients.pem");
        std::fs::write(&path, &ca.pem).unwrap();
        self.config.client_ca = Some(path);
        self.config.client_must = must;
        self
    }

    async fn open(&self) -> Acceptor {
        Acceptor::open(self.config.clone()).await.unwrap()
    }
}

fn client(
    trusts: &Ca,
    shows: Option<&Pair>,
    version: &'static rustls::SupportedProtocolVersion,
) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(trusts.pem.as_bytes()).unwrap();
    roots.add(root).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shows {
        None => builder.with_no_client_auth(),
        Some(pair) => builder
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// One connection; the client sends a byte, since with TLS 1.3 it may report success before the server has checked it.
async fn meet(
    acceptor: &Acceptor,
    connector: &TlsConnector,
) -> (
    io::Result<Accepted<DuplexStream>>,
    io::Result<client::TlsStream<DuplexStream>>,
) {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let name = ServerName::try_from("localhost").unwrap();
    tokio::join!(acceptor.accept(ours), connector.connect(name, theirs))
}

const V13: &rustls::SupportedProtocolVersion = &rustls::version::TLS13;
const V12: &rustls::SupportedProtocolVersion = &rustls::version::TLS12;

#[tokio::test]
async fn bytes_go_through_in_both_versions_and_http2_is_preferred() {
    let root = ca("root");
    let acceptor = files(&root.sign("server")).open().await;
    for version in [V12, V13] {
        let (accepted, connected) = meet(&acceptor, &client(&root, None, version)).await;
        let (mut accepted, mut connected) = (accepted.unwrap(), connected.unwrap());
        connected.write_all(b"hello").await.unwrap();
        let mut heard = [0; 5];
        accepted.stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(&heard, b"hello");
        assert_eq!(accepted.client_name, None);
        assert_eq!(connected.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    }
}

#[tokio::test]
async fn client_certificate_gives_its_name() {
    let (root, clients) = (ca("root"), ca("clients"));
    let server = root.sign("server");
    for must in [false, true] {
        let acceptor = files(&server).clients_of(&clients, must).open().await;
        for version in [V12, V13] {
            let own = clients.sign("node-7");
            let (accepted, _) = meet(&acceptor, &client(&root, Some(&own), version)).await;
            assert_eq!(accepted.unwrap().client_name.as_deref(), Some("node-7"));
        }
    }
}

#[tokio::test]
async fn client_without_certificate_passes_only_where_it_is_optional() {
    let (root, clients) = (ca("root"), ca("clients"));
    let server = root.sign("server");
    let bare = client(&root, None, V13);
    let optional = files(&server).clients_of(&clients, false);
    let (accepted, _) = meet(&optional.open().await, &bare).await;
    assert_eq!(accepted.unwrap().client_name, None);
    let required = files(&server).clients_of(&clients, true);
    let (accepted, _) = meet(&required.open().await, &bare).await;
    assert!(accepted.is_err());
}

#[tokio::test]
async fn certificate_of_another_authority_is_refused_even_where_none_is_needed() {
    let (root, clients, others) = (ca("root"), ca("clients"), ca("clients"));
    let files = files(&root.sign("server")).clients_of(&clients, false);
    let foreign = others.sign("node-7");
    let (accepted, _) = meet(&files.open().await, &client(&root, Some(&foreign), V13)).await;
    assert!(accepted.is_err());
}

#[tokio::test]
async fn reload_shows_the_new_certificate() {
    let (old, new) = (ca("old"), ca("new"));
    let files = files(&old.sign("server"));
    let acceptor = files.open().await;
    files.put(&new.sign("server"));
    let (_, connected) = meet(&acceptor, &client(&new, None, V13)).await;
    assert!(connected.is_err(), "not before the reload");
    acceptor.reload().await.unwrap();
    let (_, connected) = meet(&acceptor, &client(&new, None, V13)).await;
    assert!(connected.is_ok());
}

#[tokio::test]
async fn bad_reload_keeps_what_was() {
    let root = ca("root");
    let files = files(&root.sign("server"));
    let acceptor = files.open().await;
    let other = root.sign("server");
    let key_of_another = Pair {
        key: root.sign("server").key,
        ..other
    };
    let cut = Pair {
        certificate: "-----BEGIN CERTIFICATE-----\nMIIB".to_owned(),
        key: "hunter2".to_owned(),
    };
    for bad in [key_of_another, cut] {
        files.put(&bad);
        assert!(acceptor.reload().await.is_err());
        let (_, connected) = meet(&acceptor, &client(&root, None, V13)).await;
        assert!(connected.is_ok());
    }
}

#[tokio::test]
async fn files_that_are_not_what_they_should_be_are_named() {
    let root = ca("root");
    let good = root.sign("server");
    let no_key = Pair {
        certificate: good.certificate.clone(),
        key: "hunter2".to_owned(),
    };
    let error = |config: Tls| async { Acceptor::open(config).await.unwrap_err().to_string() };
    let without = files(&no_key);
    let text = error(without.config.clone()).await;
    assert!(
        text.contains("key.pem") && !text.contains("hunter2"),
        "{text}"
    );
    let files_of_good = files(&good);
    let mut config = files_of_good.config.clone();
    config.client_must = true;
    assert!(error(config).await.contains("client_ca"));
    let missing = files(&good).config;
    assert!(
        error(missing).await.contains("does not exist"),
        "the folder is gone"
    );
}

#[tokio::test(start_paused = true)]
async fn client_that_says_nothing_is_given_up() {
    let root = ca("root");
    let acceptor = files(&root.sign("server")).open().await;
    let (ours, _theirs) = tokio::io::duplex(1024);
    let error = acceptor.accept(ours).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
}
