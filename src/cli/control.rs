//! The client of a daemon's control API: a request out, its report back, progress shown meanwhile.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::BodyExt as _;
use tokio_stream::StreamExt as _;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::{
        Service,
        http::{self, uri::PathAndQuery},
    },
};
use tonic_prost::ProstCodec;

use crate::{
    ops,
    progress::Progress,
    proto::{
        self, Message as _, MessageContent, Method, Wire as _,
        v1::{self, control_client::ControlClient},
    },
    store::{self, ErrorKind, registry},
};

/// The connection to a daemon for one run.
pub(crate) struct Daemon {
    way: Way,
    progress: Progress,
    /// The daemon's URL, for messages.
    url: String,
}

impl Daemon {
    /// The daemon behind the store, if the store is one.
    pub(crate) fn of(ctx: &ops::Context) -> Option<Self> {
        Some(Self {
            way: Way(ctx.store.facts().control.clone()?),
            progress: ctx.progress.clone(),
            url: ctx.store.url().to_string(),
        })
    }

    /// Client of the methods without a report.
    fn stub(&self) -> ControlClient<Way> {
        ControlClient::new(self.way.clone())
    }

    /// Calls a method: shows progress meanwhile, and joins the parts of the report.
    pub(crate) async fn call<M: Method>(&self, request: M) -> ops::Result<M::Report> {
        let path = PathAndQuery::from_static(M::PATH);
        let mut grpc = Grpc::new(self.way.clone());
        let codec = ProstCodec::<M, M::Answer>::default();
        let called = grpc.server_streaming(Request::new(request), path, codec);
        let failed = |e: Status| self.error(M::OP, &e);
        let mut stream = called.await.map_err(failed)?.into_inner();
        let mut report = None;
        while let Some(message) = stream.next().await {
            match message.map_err(failed)?.content() {
                Some(MessageContent::Progress(progress)) => {
                    proto::replay(progress, &*self.progress);
                }
                Some(MessageContent::Report(part)) => {
                    proto::join(report.get_or_insert_default(), &part);
                }
                None => {}
            }
        }
        let report = report.ok_or_else(|| proto::Nonsense("it has no report".to_owned()));
        report.and_then(M::Report::from_wire).map_err(|e| {
            let error = store::Error::corrupt(M::OP, e.to_string());
            error.at(&self.url, "").into()
        })
    }

    pub(crate) async fn status(&self) -> ops::Result<v1::StatusResponse> {
        let answer = self.stub().status(v1::StatusRequest {}).await;
        Ok(answer.map_err(|e| self.error("ask", &e))?.into_inner())
    }

    /// Flushes; `watch` receives the backlog as often as the daemon reports it. Returns the final backlog; `None` if the daemon never has
    /// one.
    pub(crate) async fn flush(
        &self,
        wait: bool,
        mut watch: impl FnMut(&v1::Queue),
    ) -> ops::Result<Option<v1::Queue>> {
        let called = self.stub().flush(v1::FlushRequest { wait }).await;
        let mut stream = called.map_err(|e| self.error("flush", &e))?.into_inner();
        let mut last = None;
        while let Some(message) = stream.next().await {
            last = message.map_err(|e| self.error("flush", &e))?.queue;
            if let Some(queue) = &last {
                watch(queue);
            }
        }
        Ok(last)
    }

    /// The error of a call, as if the local store had failed: the daemon's message, or the connection error.
    fn error(&self, op: &'static str, status: &Status) -> ops::Error {
        let mut cause = std::error::Error::source(status);
        while let Some(e) = cause {
            if let Some(own) = e.downcast_ref::<store::Error>() {
                return store::Error::new(own.kind, op, own.message.clone())
                    .at(&self.url, "")
                    .into();
            }
            cause = e.source();
        }
        let message = match status.code() {
            Code::InvalidArgument => return ops::Error::Usage(status.message().to_owned()),
            Code::Unimplemented => {
                "the daemon does not support this: it is older than this cachectl; use the same release of both".to_owned()
            }
            _ if status.message().is_empty() => format!("the daemon answered {}", status.code()),
            _ => status.message().to_owned(),
        };
        store::Error::new(proto::kind_of(status.code()), op, message)
            .at(&self.url, "")
            .into()
    }
}

/// Sends the stub's requests with this program's version, and checks the daemon's.
#[derive(Clone)]
struct Way(registry::ControlWay);

type Reply = Result<http::Response<registry::ControlBody>, store::Error>;

impl Service<http::Request<tonic::body::Body>> for Way {
    type Response = http::Response<registry::ControlBody>;
    type Error = store::Error;
    type Future = Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), store::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let way = self.0.clone();
        Box::pin(async move {
            let (mut parts, body) = request.into_parts();
            parts
                .headers
                .insert(proto::PROTOCOL_KEY, proto::PROTOCOL.into());
            let unread = |e: Status| store::Error::new(ErrorKind::Io, "send", e.to_string());
            let body = body.collect().await.map_err(unread)?.to_bytes();
            let answer = way.send(http::Request::from_parts(parts, body)).await?;
            check_version(answer.headers())?;
            Ok(answer)
        })
    }
}

/// Checks that the peer is a daemon with a compatible version.
fn check_version(headers: &http::HeaderMap) -> store::Result<()> {
    let refused = |why: String| Err(store::Error::unsupported("ask", why));
    let ours = proto::PROTOCOL;
    let Some(theirs) = headers.get(proto::PROTOCOL_KEY) else {
        return refused(
            "the server at this address has no control API: is it a cachectld?".to_owned(),
        );
    };
    let theirs = String::from_utf8_lossy(theirs.as_bytes());
    if theirs == ours.to_string() {
        return Ok(());
    }
    let theirs: String = theirs.chars().take(16).collect();
    refused(format!(
        "the daemon speaks version {} of the control API, this cachectl ({}) version {ours}: use the same release of both",
        theirs.escape_debug(),
        env!("CARGO_PKG_VERSION"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(version: Option<&'static str>) -> store::Result<()> {
        let mut headers = http::HeaderMap::new();
        if let Some(version) = version {
            headers.insert(proto::PROTOCOL_KEY, version.parse().unwrap());
        }
        check_version(&headers)
    }

    #[test]
    fn another_version_and_what_is_no_daemon_are_named() {
        answered(Some("1")).unwrap();
        let other = answered(Some("2")).unwrap_err().to_string();
        assert!(
            other.contains("daemon speaks version 2") && other.contains("version 1"),
            "{other}"
        );
        let none = answered(None).unwrap_err().to_string();
        assert!(none.contains("is it a cachectld?"), "{none}");
    }
}
