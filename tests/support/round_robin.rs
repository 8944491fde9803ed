//! A balancer in front of several daemons: each request goes to the next one, also those of one connection.
//!
//! What a Service with many replicas does at its worst: the two halves of an upload never meet the same process.
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// A balancer that works as long as it is held.
#[derive(Debug)]
pub(crate) struct RoundRobin {
    pub(crate) port: u16,
    /// How many requests each of them got.
    pub(crate) counts: Arc<Vec<AtomicUsize>>,
    /// Its tasks end with it.
    _runtime: tokio::runtime::Runtime,
}

impl RoundRobin {
    /// A free loopback port that leads to these in turn.
    pub(crate) fn over(ports: &[u16]) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a machine that runs tests has threads");
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"));
        let listener = listener.expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let counts = ports.iter().map(|_| AtomicUsize::new(0)).collect();
        let counts: Arc<Vec<_>> = Arc::new(counts);
        let turn = Arc::new(Turn {
            ports: ports.to_vec(),
            next: AtomicUsize::new(0),
            counts: Arc::clone(&counts),
        });
        runtime.spawn(accept(listener, turn));
        Self {
            port,
            counts,
            _runtime: runtime,
        }
    }
}

struct Turn {
    ports: Vec<u16>,
    next: AtomicUsize,
    counts: Arc<Vec<AtomicUsize>>,
}

impl Turn {
    fn next(&self) -> u16 {
        let number = self.next.fetch_add(1, Ordering::SeqCst) % self.ports.len();
        self.counts[number].fetch_add(1, Ordering::SeqCst);
        self.ports[number]
    }
}

async fn accept(listener: TcpListener, turn: Arc<Turn>) {
    while let Ok((stream, _)) = listener.accept().await {
        let turn = Arc::clone(&turn);
        let serve = service_fn(move |request| {
            let turn = Arc::clone(&turn);
            async move { Ok::<_, Infallible>(forward(request, turn.next()).await) }
        });
        let connection = hyper::server::conn::http1::Builder::new();
        let connection = connection.serve_connection(TokioIo::new(stream), serve);
        // A client that goes away in the middle is not this proxy's trouble.
        Handle::current().spawn(async move { drop(connection.await) });
    }
}

/// Sends the request as it is, `Host` included, so that a `Location` leads back through the balancer.
async fn forward(request: Request<Incoming>, port: u16) -> Answer {
    match exchange(request, port).await {
        Ok(answer) => answer.map(BodyExt::boxed),
        Err(error) => {
            let text = Full::new(Bytes::from(format!("port {port}: {error}")));
            let mut answer = Response::new(text.map_err(|never| match never {}).boxed());
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            answer
        }
    }
}

async fn exchange(
    request: Request<Incoming>,
    port: u16,
) -> Result<Response<Incoming>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(("127.0.0.1", port)).await?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    Handle::current().spawn(async move { drop(connection.await) });
    Ok(sender.send_request(request).await?)
}
