//! Sockets: accepted, served, drained.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{
    body::Body,
    http::{Request, Response},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

use crate::{fs, serve::auth::Peer, task};

/// Bytes of a request that a connection reads ahead, and of a response that it gathers.
const BUFFER_BYTES: usize = 128 << 10;
/// Longest time for the head of a request, and for an idle connection.
const HEAD: Duration = Duration::from_secs(75);

/// Answers one request.
pub type Handler = Arc<
    dyn Fn(Request<Body>) -> futures_util::future::BoxFuture<'static, Response<Body>> + Send + Sync,
>;

/// An open socket.
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// A unix socket, and where it is.
    Unix(UnixListener, PathBuf),
}

impl Listener {
    /// Listens on an address.
    pub async fn tcp(addr: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(addr).await.map(Self::Tcp)
    }

    /// Listens on a unix socket at `path`; what a dead daemon left there is replaced, a living one's is not.
    pub async fn unix(path: &Path, mode: u32) -> io::Result<Self> {
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                "another daemon answers there",
            ));
        }
        let at = path.to_owned();
        task::blocking(move || -> io::Result<()> {
            if let Some(parent) = at.parent() {
                fs::make_dirs(parent).map_err(|e| e.source)?;
            }
            match std::fs::symlink_metadata(&at) {
                Ok(found) => {
                    use std::os::unix::fs::FileTypeExt as _;
                    if !found.file_type().is_socket() {
                        return Err(io::Error::new(
                            io::ErrorKind::AlreadyExists,
                            "something else than a socket is there",
                        ));
                    }
                    std::fs::remove_file(&at)
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(e),
            }
        })
        .await?;
        let listener = UnixListener::bind(path)?;
        let at = path.to_owned();
        task::blocking(move || {
            use std::os::unix::fs::PermissionsExt as _;
            std::fs::set_permissions(&at, std::fs::Permissions::from_mode(mode))
        })
        .await?;
        Ok(Self::Unix(listener, path.to_owned()))
    }

    /// Where it listens, as a URL.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp(l) => match l.local_addr() {
                Ok(addr) => format!("http://{addr}"),
                Err(_) => "http://?".to_owned(),
            },
            Self::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

/// Serves a listener until `stop` says so, then waits for what is under way.
pub async fn serve(
    listener: Listener,
    handler: Handler,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    loop {
        // Above the limit connections wait in the kernel's queue.
        let place = tokio::select! {
            place = places.clone().acquire_owned() => place.expect("the semaphore is never closed"),
            _ = stop.wait_for(|s| *s) => break,
        };
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let work = connection(stream, peer, handler.clone(), &graceful);
                task::spawn("connection", async move {
                    work.await;
                    drop(place);
                })
                .detach();
            }
            Err(error) => {
                // Out of file descriptors, mostly: others must end first.
                tracing::warn!(%error, "Connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    let name = listener.name();
    drop(listener);
    graceful.shutdown().await;
    tracing::debug!(listener = name, "Drained");
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn accept(listener: &Listener) -> io::Result<(Box<dyn Stream>, Peer)> {
    match listener {
        Listener::Tcp(l) => {
            let (stream, from) = l.accept().await?;
            // Answers are written whole; waiting for more to send only costs round trips.
            stream.set_nodelay(true)?;
            Ok((Box::new(stream), Peer::tcp(from.ip())))
        }
        Listener::Unix(l, _) => Ok((Box::new(l.accept().await?.0), Peer::unix())),
    }
}

fn connection(
    stream: Box<dyn Stream>,
    peer: Peer,
    handler: Handler,
    graceful: &GracefulShutdown,
) -> impl Future<Output = ()> + Send + 'static {
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer.clone());
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER_BYTES);
    builder.http2().timer(TokioTimer::new());
    let connection = builder
        .serve_connection_with_upgrades(TokioIo::new(stream), service)
        .into_owned();
    let watched = graceful.watch(connection);
    async move {
        if let Err(error) = watched.await {
            tracing::debug!(%error, "Connection ended");
        }
    }
}
