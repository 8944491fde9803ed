//! Access to a daemon's control API: HTTP/2 to the address of its registry API, with the same credentials.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, combinators::BoxBody};
use reqwest::{Method, Url, header::AUTHORIZATION};
use tokio::sync::OnceCell;

use super::{
    Location, Registry,
    connection::Connection,
    error,
    request::{Ask, Payload},
    scopes::Scopes,
};
use crate::store::{Error, ErrorKind, Result, net};

/// Interval of the checks whether a daemon that is silent for long (it reads a terabyte) still exists.
const PING: Duration = Duration::from_secs(10);

/// A response's body; an error that interrupts it is a store's error.
pub type ControlBody = BoxBody<Bytes, Error>;

/// Sends requests to a daemon's control API. Cheap to clone; clones share connections and tokens.
#[derive(Debug, Clone)]
pub struct ControlWay(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    door: Registry,
    /// A separate one, since it uses HTTP/2 from the first byte on.
    connection: Connection,
    /// The daemon was asked how to log in.
    asked: OnceCell<()>,
    /// A response arrived over HTTP/2.
    answered: AtomicBool,
}

impl ControlWay {
    /// The control API of the daemon with this registry API; `common` as used for opening that one.
    ///
    /// # Errors
    /// Those of [`Registry::open`].
    pub async fn new(door: &Registry, location: &Location, common: &net::Common) -> Result<Self> {
        let stall = common.stall;
        let connection = Connection::build(location, common, move |builder| {
            builder
                .http2_prior_knowledge()
                .http2_keep_alive_interval(PING)
                .http2_keep_alive_timeout(stall)
        });
        Ok(Self(Arc::new(Inner {
            door: door.clone(),
            connection: connection.await?,
            asked: OnceCell::new(),
            answered: AtomicBool::new(false),
        })))
    }

    /// Sends a small request and waits for the head of its response; any status is an `Ok`.
    ///
    /// # Errors
    /// `Unauthenticated` and `Denied` if the daemon refuses our credentials; `Unavailable` and `Timeout` if it is not
    /// reachable.
    pub async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<ControlBody>> {
        let sent = self.exchange(request).await;
        sent.map_err(|e| e.at(&self.0.door.shared().shown, ""))
    }

    async fn exchange(&self, request: http::Request<Bytes>) -> Result<http::Response<ControlBody>> {
        const OP: &str = "ask the daemon";
        let inner = &self.0;
        let scopes = Scopes::delete(&inner.door.shared().repository);
        let transport = &inner.door.shared().transport;
        let asked = inner.asked.get_or_try_init(|| async {
            // It requests credentials before other requests are sent.
            let ping = Ask::new("log in", Method::GET, transport.url(""), &scopes);
            let answer = transport.send(&ping).await?;
            match answer.status.as_u16() {
                200..=299 => Ok(()),
                _ => Err(answer.refusal("log in").await.error),
            }
        });
        asked.await?;
        let (parts, body) = request.into_parts();
        let url = self.url(&parts.uri)?;
        let mut ask = Ask::new(OP, parts.method, url.clone(), &scopes);
        ask.headers = parts.headers;
        ask.payload = Payload::Bytes(body);
        // Headers of the caller must not replace ours.
        ask.headers.remove(AUTHORIZATION);
        // A token is for single repositories; maintenance covers everything that our name may access. A daemon accepts a
        // password regardless of what it offers.
        let show = match transport.password().await? {
            Some(password) => Some(password),
            None => transport.credential(&scopes).await?,
        };
        let answered = inner.connection.exchange(&ask, &url, show).await;
        let answer = answered.map_err(|e| self.explain(e))?;
        inner.answered.store(true, Ordering::Relaxed);
        let response = http::Response::<reqwest::Body>::from(answer.body);
        Ok(response.map(|body| {
            let broken = |e| error::network(OP, e, "");
            body.map_err(broken).boxed()
        }))
    }

    /// Explains a broken connection: the registry API answered over HTTP/1.1 just before, so HTTP/2 may be the cause.
    fn explain(&self, mut e: Error) -> Error {
        if e.kind == ErrorKind::Unavailable && !self.0.answered.load(Ordering::Relaxed) {
            e.message.push_str(
                "; the daemon's registry answers there, but its control API is gRPC: a proxy in between must speak HTTP/2 with both sides",
            );
        }
        e
    }

    fn url(&self, uri: &http::Uri) -> Result<Url> {
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        self.0
            .connection
            .base()
            .join(path)
            .map_err(|e| Error::invalid("ask the daemon", e.to_string()))
    }
}
