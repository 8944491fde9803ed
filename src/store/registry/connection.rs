//! Connections to a registry: set up once, one request at a time, without credentials.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use reqwest::{
    Url,
    header::{AUTHORIZATION, HeaderValue},
};
use tokio::time::Instant;
use tracing::debug;

use super::{
    answer::Answer,
    error,
    guard::{self, Guard},
    location::Location,
    request::Ask,
};
use crate::{
    store::{
        Error, Result,
        net::{self, Patience},
    },
    task, trace,
};

/// Creates a client that keeps at most this many idle connections per host; `None`: no limit.
type MakeClient = dyn Fn(Option<usize>) -> Result<reqwest::Client> + Send + Sync;

/// Connections to a registry and the hosts that it names, without credentials.
pub(super) struct Connection {
    http: reqwest::Client,
    /// The same without reuse of connections: each request opens one. Created when first needed.
    alone: OnceLock<reqwest::Client>,
    make: Box<MakeClient>,
    guard: Arc<Guard>,
    base: Url,
    /// The variable with the proxy in use.
    pub(super) proxy: Option<&'static str>,
    /// The option for using TLS, or not, if the current choice is wrong.
    other_way: &'static str,
    patience: Patience,
}

impl Connection {
    pub(super) async fn new(location: &Location, common: &net::Common) -> Result<Self> {
        Self::build(location, common, |builder| builder).await
    }

    /// The same with the location's host at `addr`, whatever DNS says.
    #[cfg(test)]
    pub(super) async fn new_resolving(
        location: &Location,
        common: &net::Common,
        addr: std::net::SocketAddr,
    ) -> Result<Self> {
        let host = location.api()?.host_str().unwrap_or_default().to_owned();
        Self::build(location, common, move |builder| {
            builder.resolve(&host, addr)
        })
        .await
    }

    /// The same with `more` settings of the HTTP client.
    pub(super) async fn build(
        location: &Location,
        common: &net::Common,
        more: impl Fn(reqwest::ClientBuilder) -> reqwest::ClientBuilder + Send + Sync + 'static,
    ) -> Result<Self> {
        let base = location.api()?;
        let guard = Guard::new(base.clone(), location.insecure() || location.is_socket());
        net::install_tls_provider();
        let settings = common.clone();
        let mut trusted = Vec::new();
        for certificate in task::blocking(move || settings.extra_ca_certificates()).await? {
            let certificate = reqwest::Certificate::from_der(&certificate)
                .map_err(|e| Error::invalid("read CA bundle", e.to_string()))?;
            trusted.push(certificate);
        }
        let (own, direct) = (
            guard.clone(),
            guard::is_loopback(&base) || common.goes_direct(base.authority()),
        );
        let proxy = common.proxy(base.scheme() == "https", base.authority());
        let proxy = proxy.filter(|_| !direct && !location.is_socket());
        let connect_timeout = common.connect_timeout;
        let socket = location.socket().map(std::path::Path::to_owned);
        let make = move |idle: Option<usize>| {
            let begin = || {
                let mut builder = reqwest::Client::builder()
                    .user_agent(net::USER_AGENT)
                    .redirect(reqwest::redirect::Policy::none())
                    .referer(false)
                    .connect_timeout(connect_timeout)
                    .dns_resolver(Arc::new(guard::Resolver(own.clone())));
                if direct {
                    builder = builder.no_proxy();
                }
                if let Some(socket) = &socket {
                    builder = builder.unix_socket(socket.as_path());
                }
                if let Some(idle) = idle {
                    builder = builder.pool_max_idle_per_host(idle);
                }
                more(builder)
            };
            let trusted = || trusted.iter().cloned();
            let made = begin().tls_certs_merge(trusted()).build();
            // On a machine without root certificates only https is unavailable: see `net::certificate_refused`.
            let made = made.or_else(|_| begin().tls_certs_only(trusted()).build());
            made.map_err(|e| {
                let message = format!("cannot set up HTTP: {e}");
                Error::invalid("open", message).caused_by(e)
            })
        };
        Ok(Self {
            http: make(None)?,
            alone: OnceLock::new(),
            make: Box::new(make),
            guard,
            base,
            proxy,
            other_way: location.other_way(),
            patience: Patience::of(common, 1),
        })
    }

    fn alone(&self) -> Result<&reqwest::Client> {
        if let Some(made) = self.alone.get() {
            return Ok(made);
        }
        let made = (self.make)(Some(0))?;
        Ok(self.alone.get_or_init(|| made))
    }

    pub(super) fn guard(&self) -> &Guard {
        &self.guard
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The trace that the request belongs to, only for the registry itself, not for hosts that it redirects to.
    fn trace(&self, url: &Url) -> Option<HeaderValue> {
        let context = trace::current().filter(|_| self.guard.is_home(url))?;
        context.to_string().try_into().ok()
    }

    /// Sends once and waits for the head of the response.
    pub(super) async fn exchange(
        &self,
        ask: &Ask,
        url: &Url,
        show: Option<HeaderValue>,
    ) -> Result<Answer> {
        let (mut request, sent) = ask.build(url);
        if let Some(show) = show {
            request.headers_mut().insert(AUTHORIZATION, show);
        }
        if let Some(value) = self.trace(url) {
            request.headers_mut().insert(trace::TRACEPARENT, value);
        }
        let patience = Patience {
            answer: ask.wait.unwrap_or(self.patience.answer),
            ..self.patience
        };
        let started = Instant::now();
        let http = if ask.alone { self.alone()? } else { &self.http };
        let body = net::sending(ask.op, patience, &sent, http.execute(request)).await?;
        let body = body.map_err(|e| error::network(ask.op, e, self.other_way).unheard())?;
        debug!(
            op = ask.op,
            method = %ask.method,
            url = %guard::show(url),
            status = body.status().as_u16(),
            elapsed_ms = started.elapsed().as_millis() as u64,
            "Registry answered"
        );
        Ok(Answer {
            method: ask.method.clone(),
            status: body.status(),
            headers: body.headers().clone(),
            url: url.clone(),
            away: !self.guard.is_home(url),
            other_way: self.other_way,
            account: None,
            watch: net::Watch::new(ask.op, self.patience.stall),
            body,
        })
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connection({})", self.base)
    }
}
