//! TLS of the listeners: certificates from files, which are reloaded; client certificates, whose names become principals.
//!
//! TLS 1.2 and 1.3 by rustls with ring; HTTP/2 and HTTP/1.1 are offered by ALPN.

use std::{
    fmt, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
};

use parking_lot::RwLock;
use rustls::{
    RootCertStore, ServerConfig,
    server::{WebPkiClientVerifier, danger::ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::{info, warn};

use crate::{config::daemon::Tls, fs, task};

mod doubts;
mod names;

/// Largest file of certificates or keys.
const MAX_PEM_BYTES: u64 = 4 << 20;

/// An invalid TLS setup; never holds a key.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up TLS: {0}")]
pub struct Error(String);

/// Result of setting up TLS.
pub type Result<T> = std::result::Result<T, Error>;

/// A connection after its handshake.
#[derive(Debug)]
pub struct Accepted<S> {
    /// The decrypted stream.
    pub stream: TlsStream<S>,
    /// The name in the client's verified certificate: its only common name, else its first DNS name, else its first URI. `None`
    /// for a client without a certificate, or whose certificate contains no name.
    pub client_name: Option<Arc<str>>,
}

/// Performs the server's side of handshakes.
pub struct Acceptor {
    config: Tls,
    current: RwLock<Arc<ServerConfig>>,
    /// When the first certificate of the chain expires, in seconds since 1970.
    not_after: AtomicI64,
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Acceptor({})", self.config.cert.display())
    }
}

impl Acceptor {
    /// Reads certificate, key and client authorities.
    ///
    /// # Errors
    /// A missing or invalid file, or a key that does not belong to the certificate.
    pub async fn open(config: Tls) -> Result<Self> {
        let (current, not_after) = load(config.clone()).await?;
        Ok(Self {
            config,
            current: RwLock::new(current),
            not_after: not_after.into(),
        })
    }

    /// Reads the files again; open connections and current handshakes keep the old ones.
    ///
    /// # Errors
    /// Those of [`Self::open`]; then nothing changes.
    pub async fn reload(&self) -> Result<()> {
        let (new, not_after) = load(self.config.clone()).await?;
        self.not_after.store(not_after, Relaxed);
        *self.current.write() = new;
        self.announce();
        Ok(())
    }

    /// Logs that it is in use: some are opened only as a check.
    pub fn announce(&self) {
        let Tls {
            cert, client_ca, ..
        } = &self.config;
        info!(certificate = %cert.display(), client_certificates = client_ca.is_some(), "TLS configured");
    }

    /// The earliest expiry of the certificates in the chain, in seconds since 1970; 0 if unknown.
    pub fn not_after(&self) -> i64 {
        self.not_after.load(Relaxed)
    }

    /// Performs a handshake within its time limit; cancel-safe in that the connection is then dropped.
    ///
    /// # Errors
    /// `TimedOut` for a client that is too slow; errors of the stream and the protocol, including refused certificates.
    pub async fn accept<S>(&self, stream: S) -> io::Result<Accepted<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let current = self.current.read().clone();
        let handshake = TlsAcceptor::from(current).accept(stream);
        let stream = timeout(self.config.handshake_timeout, handshake)
            .await
            .map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")
            })??;
        let certificates = stream.get_ref().1.peer_certificates();
        let client_name = certificates
            .and_then(|chain| names::client_name(chain.first()?))
            .map(Arc::from);
        Ok(Accepted {
            stream,
            client_name,
        })
    }
}

async fn load(config: Tls) -> Result<(Arc<ServerConfig>, i64)> {
    let (server, not_after) = task::blocking(move || build(&config)).await?;
    Ok((Arc::new(server), not_after))
}

fn build(config: &Tls) -> Result<(ServerConfig, i64)> {
    let chain = certificates(&config.cert)?;
    let not_after = doubts::first_end(&chain).unwrap_or_default();
    for doubt in doubts::of_server(&chain[0]) {
        warn!(certificate = %config.cert.display(), "Clients will refuse the TLS certificate: {doubt}");
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&config.key)?).map_err(|_| {
        // Without the error's own text: it may quote the file.
        Error(format!(
            "`{}` contains no private key (expected PEM, `-----BEGIN PRIVATE KEY-----`)",
            config.key.display()
        ))
    })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Error(e.to_string()))?;
    let builder = match client_verifier(config, provider)? {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut server = builder.with_single_cert(chain, key).map_err(|e| {
        Error(format!(
            "`{}` and `{}`: {e}",
            config.cert.display(),
            config.key.display()
        ))
    })?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok((server, not_after))
}

fn client_verifier(
    config: &Tls,
    provider: Arc<rustls::crypto::CryptoProvider>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>> {
    let Some(path) = &config.client_ca else {
        return if config.client_must {
            let why = "client certificates are required, but `client_ca` is not set";
            Err(Error(why.to_owned()))
        } else {
            Ok(None)
        };
    };
    let failed = |e: &dyn fmt::Display| Error(format!("`{}`: {e}", path.display()));
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|e| failed(&e))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if config.client_must {
        builder
    } else {
        builder.allow_unauthenticated()
    };
    builder.build().map(Some).map_err(|e| failed(&e))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let wrong = |why: &str| Error(format!("`{}` {why}", path.display()));
    let found = CertificateDer::pem_slice_iter(&read(path)?)
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(|_| wrong("is not PEM"))?;
    if found.is_empty() {
        return Err(wrong(
            "contains no certificate (expected PEM, `-----BEGIN CERTIFICATE-----`)",
        ));
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let found = fs::read_if_there(path, MAX_PEM_BYTES).map_err(|e| Error(e.to_string()))?;
    found.ok_or_else(|| Error(format!("`{}` does not exist", path.display())))
}

#[cfg(test)]
mod tests;
