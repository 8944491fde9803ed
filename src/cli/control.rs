//! The client of a daemon's control API: a verb's options out, its report back, progress shown meanwhile.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http_body_util::BodyExt as _;
use tokio_stream::StreamExt as _;
use tonic::{
    Code, Response, Status, Streaming,
    codegen::{Service, http},
};

use crate::{
    ops::{self, copy, du, inspect, list, prune, remove, verify},
    progress::Progress,
    proto::{
        self, Message, Told,
        v1::{self, control_client::ControlClient},
    },
    store::{self, ErrorKind, registry},
};

/// A daemon to which we speak for one run.
pub(crate) struct Daemon {
    stub: ControlClient<Way>,
    progress: Progress,
    /// The daemon's URL, for messages.
    url: String,
    /// Patterns of repositories that are chosen; none: all within reach.
    repositories: Vec<String>,
}

impl Daemon {
    pub(crate) fn new(
        way: registry::ControlWay,
        url: String,
        progress: Progress,
        repositories: &[String],
    ) -> Self {
        Self {
            repositories: repositories.to_vec(),
            stub: ControlClient::new(Way(way)),
            progress,
            url,
        }
    }

    /// The methods; each call takes `&mut self` of a handle that is cheap to clone.
    fn stub(&self) -> ControlClient<Way> {
        self.stub.clone()
    }

    pub(crate) async fn list(&self, name: Option<&str>) -> ops::Result<list::Report> {
        let request = v1::ListRequest {
            name: name.map(str::to_owned),
            repositories: self.repositories.clone(),
        };
        let called = self.stub().list(request).await;
        self.read("list", called)
            .await?
            .try_into()
            .map_err(|e| self.nonsense("list", &e))
    }

    pub(crate) async fn inspect(
        &self,
        name: &str,
        files: bool,
    ) -> ops::Result<Vec<inspect::Snapshot>> {
        let name = name.to_owned();
        let called = self
            .stub()
            .inspect(v1::InspectRequest { name, files })
            .await;
        let report = self.read("inspect", called).await?;
        report.try_into().map_err(|e| self.nonsense("inspect", &e))
    }

    pub(crate) async fn remove(&self, options: &remove::Options) -> ops::Result<remove::Report> {
        let called = self.stub().delete(v1::DeleteRequest::from(options)).await;
        let report = remove::Report::from(self.read("remove", called).await?);
        // One that does not know how to choose takes all, and names none: it is always rehearsed first.
        if !options.only.is_any() && report.names.is_empty() && !report.tags.is_empty() {
            let why = "the daemon cannot choose by scope, key or kind: it is older than this cachectl; use the same release of both";
            return Err(store::Error::new(ErrorKind::Unsupported, "remove", why)
                .at(&self.url, "")
                .into());
        }
        Ok(report)
    }

    pub(crate) async fn prune(&self, options: &prune::Options) -> ops::Result<prune::Report> {
        let request = v1::PruneRequest {
            repositories: self.repositories.clone(),
            ..v1::PruneRequest::from(options)
        };
        let called = self.stub().prune(request).await;
        Ok(self.read("prune", called).await?.into())
    }

    pub(crate) async fn du(&self, name: Option<&str>) -> ops::Result<du::Report> {
        let request = v1::DiskUsageRequest {
            name: name.map(str::to_owned),
            repositories: self.repositories.clone(),
        };
        let called = self.stub().disk_usage(request).await;
        Ok(self.read("add up", called).await?.into())
    }

    pub(crate) async fn verify(
        &self,
        name: Option<&str>,
        depth: verify::Depth,
    ) -> ops::Result<verify::Report> {
        let request = v1::VerifyRequest {
            name: name.map(str::to_owned),
            depth: v1::Depth::from(depth).into(),
            repositories: self.repositories.clone(),
        };
        let called = self.stub().verify(request).await;
        let report = self.read("verify", called).await?;
        report.try_into().map_err(|e| self.nonsense("verify", &e))
    }

    /// Lets the daemon copy; an empty URL is its own store.
    pub(crate) async fn copy(
        &self,
        from: String,
        to: String,
        name: Option<String>,
    ) -> ops::Result<copy::Report> {
        let request = v1::CopyRequest {
            from,
            to,
            name,
            repositories: self.repositories.clone(),
        };
        let called = self.stub().copy(request).await;
        Ok(self.read("copy", called).await?.into())
    }

    pub(crate) async fn status(&self) -> ops::Result<v1::StatusResponse> {
        let answer = self.stub().status(v1::StatusRequest {}).await;
        Ok(answer.map_err(|e| self.error("ask", &e))?.into_inner())
    }

    /// Flushes; `watch` hears what waits, as often as the daemon tells it. What waits at the end; `None` where nothing ever does.
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

    /// Reads an answer to its end: progress is shown, parts of the report are put together.
    async fn read<M: Message>(
        &self,
        op: &'static str,
        called: Result<Response<Streaming<M>>, Status>,
    ) -> ops::Result<M::Report> {
        let mut stream = called.map_err(|e| self.error(op, &e))?.into_inner();
        let mut report = None;
        while let Some(message) = stream.next().await {
            match message.map_err(|e| self.error(op, &e))?.told() {
                Some(Told::Progress(progress)) => proto::replay(progress, &*self.progress),
                Some(Told::Report(part)) => {
                    proto::join(report.get_or_insert_with(M::Report::default), &part);
                }
                None => {}
            }
        }
        report.ok_or_else(|| self.nonsense(op, &proto::Nonsense("it has no report".to_owned())))
    }

    fn nonsense(&self, op: &'static str, e: &proto::Nonsense) -> ops::Error {
        let error = store::Error::new(ErrorKind::Corrupt, op, e.to_string());
        error.at(&self.url, "").into()
    }

    /// What a call failed with, as if our own store had: the daemon's words, or what happened on the way to it.
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
                "the daemon does not know this: it is older than this cachectl; use the same release of both".to_owned()
            }
            _ if status.message().is_empty() => format!("the daemon answered {}", status.code()),
            _ => status.message().to_owned(),
        };
        store::Error::new(proto::kind_of(status.code()), op, message)
            .at(&self.url, "")
            .into()
    }
}

/// Carries the stub's requests, with our version, and looks at the daemon's.
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

/// What answers is a daemon that speaks as we do.
fn check_version(headers: &http::HeaderMap) -> store::Result<()> {
    let refused = |why: String| Err(store::Error::new(ErrorKind::Unsupported, "ask", why));
    let ours = proto::PROTOCOL;
    let Some(theirs) = headers.get(proto::PROTOCOL_KEY) else {
        return refused("what answers there has no control API: is it a cachectld?".to_owned());
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
