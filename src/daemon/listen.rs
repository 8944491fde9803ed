//! Connections: accepted, served, drained.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{Request, Response, StatusCode, header},
};
use futures_util::future::{self, Either};
use http_body_util::BodyExt as _;
use hyper_util::{
    rt::TokioIo,
    server::graceful::{GracefulShutdown, Watcher},
};
use rustix::net::sockopt;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::watch,
};

use super::{
    arrivals::Arrivals, drained_body::DrainOnDrop, idle::Open, protocol::protocol,
    socket::Listener, tls, writes::Watched,
};
use crate::{
    metrics::{self, Counting},
    serve::{
        admission::{Admission, Connection, Full, Permit, Pool, Queue},
        auth::Peer,
        gateway::Gateway,
    },
    task,
};

/// A caller with fewer connections than this may use the reserved slots: builders open about ten.
const FEW: usize = 16;
/// Idle time after which the kernel probes whether the peer still exists, and the interval of the probes.
const KEEP_ALIVE: Duration = Duration::from_mins(1);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 6;

/// State shared by the connections of a listener.
#[derive(Clone)]
pub struct Service {
    /// Answers their requests.
    pub gateway: Arc<Gateway>,
    /// Performs handshakes, if TLS is used.
    pub tls: Option<Arc<tls::Acceptor>>,
    /// Connection slots, shared between addresses; when they are taken, some connections wait, and further ones are closed.
    pub connections: Pool,
    /// Slots of connections with a large window.
    pub large_windows: Pool,
    /// Limits that callers share.
    pub admission: Arc<Admission>,
    /// Requests that are not processed yet.
    pub(super) arrivals: Arrivals,
    /// The open ones, so that idle ones can be closed.
    pub(super) open: Open,
    /// Counts them.
    pub counts: metrics::Connections,
    /// Turns true when no more connections are to be accepted and the existing ones are to end.
    pub stop: watch::Receiver<bool>,
}

/// Serves a listener until it is told to stop, closes it, and waits for the active requests.
pub async fn serve(listener: Listener, service: Service) {
    let graceful = GracefulShutdown::new();
    let mut stop = service.stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener) => accepted,
            _ = stop.wait_for(|s| *s) => break,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                service.counts.failed.inc();
                // Usually out of file descriptors: others must be closed first.
                tracing::warn!(%error, "Could not accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        // Here, so that connections are served in order of arrival.
        let place = service.connections.enter(peer.key());
        let work = admitted((stream, peer), place, service.clone(), graceful.watcher());
        task::spawn("connection", work).detach();
    }
    let url = listener.url();
    // From now on new connections are refused at once, so that clients can try another daemon.
    drop(listener);
    graceful.shutdown().await;
    tracing::debug!(url, "Drained");
}

/// Slots for `most` connections: half as many more may wait for one.
pub(super) fn places(most: usize) -> Pool {
    let waiting = (most / 2).max(8);
    let queue = Queue {
        total: waiting,
        each: waiting,
    };
    Pool::new("connections", most, queue).few(FEW)
}

/// Serves a connection once it gets a slot; it is closed if it waits too long, or too many wait.
async fn admitted(
    (stream, peer): (Accepted, Peer),
    place: impl Future<Output = Result<Permit, Full>>,
    service: Service,
    watcher: Watcher,
) {
    let mut stop = service.stop.clone();
    let place = tokio::select! {
        place = place => place,
        _ = stop.wait_for(|s| *s) => return,
    };
    let Ok(_place) = place else {
        service.counts.failed.inc();
        return;
    };
    service.counts.accepted.inc();
    let _open = Counting::new(service.counts.open.clone());
    connection(stream, peer, service, watcher).await;
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection before its first byte.
enum Accepted {
    Plain(Box<dyn Stream>),
    Tls(TcpStream),
}

async fn accept(listener: &Listener) -> io::Result<(Accepted, Peer)> {
    match listener {
        Listener::Tcp(l, address) => {
            let (stream, from) = l.accept().await?;
            prepare(&stream)?;
            let stream = if address.tls {
                Accepted::Tls(stream)
            } else {
                Accepted::Plain(Box::new(stream))
            };
            Ok((stream, Peer::tcp(from.ip())))
        }
        Listener::Unix(l, _) => {
            let (stream, _) = l.accept().await?;
            Ok((Accepted::Plain(Box::new(stream)), Peer::unix()))
        }
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    // Responses are written as a whole; waiting for more to send only costs round trips.
    stream.set_nodelay(true)?;
    // A client whose machine has disappeared must not hold its slot forever.
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEP_ALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEP_ALIVE_PROBES)?;
    Ok(())
}

async fn connection(stream: Accepted, peer: Peer, mut service: Service, watcher: Watcher) {
    let (key, of_requests) = (peer.key(), Connection::default());
    let _open = service.open.add(key.clone(), of_requests.clone());
    let (stream, peer): (Box<dyn Stream>, Peer) = match stream {
        Accepted::Plain(stream) => (stream, peer),
        Accepted::Tls(stream) => {
            let Some(acceptor) = service.tls.clone() else {
                return;
            };
            let done = tokio::select! {
                done = acceptor.accept(stream) => done,
                _ = service.stop.wait_for(|s| *s) => return,
                () = of_requests.ends() => return,
            };
            match done {
                Ok(tls) => (Box::new(tls.stream), peer.over_tls(tls.client_name)),
                Err(error) => {
                    service.counts.failed.inc();
                    tracing::debug!(%error, "TLS handshake failed");
                    return;
                }
            }
        }
    };
    let writer = service.admission.writer(key.clone(), of_requests.clone());
    // Here, so that a handshake does not hold one.
    let large_window = service.large_windows.enter_now(key.clone());
    let http = protocol(large_window.is_some());
    let stream = Watched::new(stream, writer, large_window);
    let (gateway, admission, arrivals) = (service.gateway, service.admission, service.arrivals);
    let known = of_requests.clone();
    let answer = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let arrived = match arrivals.enter(request.headers()) {
            Ok(arrived) => arrived,
            Err(status) => return Either::Left(future::ok(refused(status))),
        };
        let running = known.begin();
        let (gateway, admission) = (gateway.clone(), admission.clone());
        let (peer, key, known) = (peer.clone(), key.clone(), known.clone());
        Either::Right(async move {
            drop(arrived);
            // A client that asks before it sends a body has not begun to send it.
            let asks_first = request.headers().contains_key(header::EXPECT);
            let mut request = request.map(|body| match Body::new(body) {
                body if asks_first => body,
                body => Body::new(DrainOnDrop::new(body)),
            });
            request.extensions_mut().insert(peer);
            request.extensions_mut().insert(known.clone());
            let answer = gateway.handle(request).await;
            let response = admission.answer(answer, (key, known));
            Ok::<_, Infallible>(response.map(|body| holding(body, running)))
        })
    });
    let connection = http.serve_connection_with_upgrades(TokioIo::new(stream), answer);
    tokio::select! {
        ended = watcher.watch(connection.into_owned()) => {
            if let Err(error) = ended {
                tracing::debug!(%error, "Connection ended");
            }
        }
        () = of_requests.ends() => {
            tracing::debug!("Connection closed: its client does not read, or other connections wait for a slot");
        }
    }
}

/// The body, which holds a value until its last byte is sent, or the client has disconnected.
fn holding(body: Body, value: impl Send + 'static) -> Body {
    Body::new(body.map_err(move |error| {
        let _held = &value;
        error
    }))
}

/// The answer to a request that is refused unseen.
fn refused(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}
