//! Every request to a registry: credentials shown and renewed, redirects followed by our own rules, answers in time.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use parking_lot::Mutex;
use reqwest::{
    Method, StatusCode, Url,
    header::{AGE, AUTHORIZATION, DATE, HeaderMap, HeaderValue, LOCATION},
};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    auth::{As, Auth},
    config::Config,
    error,
    guard::{self, Guard},
    location::Location,
    scopes::Scopes,
    wire::{API_VERSION, Answer, Ask},
};
use crate::{
    redact,
    store::{
        Error, ErrorKind, Result,
        net::{self, Patience},
        server_time::ServerClock,
        signs::Signs,
    },
    task, trace,
};

/// Most redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Most times that one request is sent again with other credentials.
const MAX_LOGINS: usize = 3;
/// Most texts of `Warning` headers that are remembered, and the length of each.
const MAX_WARNINGS: usize = 64;
const MAX_WARNING_CHARS: usize = 300;

/// Makes a client that keeps at most so many idle connections a host; `None`: as many as there are.
type MakeClient = dyn Fn(Option<usize>) -> Result<reqwest::Client> + Send + Sync;

/// Connections to a registry and the hosts that it names, without credentials.
pub(super) struct Wire {
    http: reqwest::Client,
    /// The same without a memory for connections: each request makes one. Made when it is first needed.
    alone: OnceLock<reqwest::Client>,
    make: Box<MakeClient>,
    guard: Arc<Guard>,
    base: Url,
    /// The variable with the proxy that is asked for it.
    proxy: Option<&'static str>,
    /// How to speak to it with TLS, or without, for whoever chose the other.
    other_way: &'static str,
    patience: Patience,
}

impl Wire {
    async fn new(location: &Location, common: &net::Common) -> Result<Self> {
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
                .map_err(|e| Error::new(ErrorKind::Invalid, "read CA bundle", e.to_string()))?;
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
            // On a machine without certificates of its own only https is out of reach: see `net::certificate_refused`.
            let made = made.or_else(|_| begin().tls_certs_only(trusted()).build());
            made.map_err(|e| {
                let message = format!("cannot set up HTTP: {e}");
                Error::new(ErrorKind::Invalid, "open", message).caused_by(e)
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

    /// The trace that the request is part of, for the registry itself; whom it sends us on to need not know.
    fn trace(&self, url: &Url) -> Option<HeaderValue> {
        let context = trace::current().filter(|_| self.guard.is_home(url))?;
        context.to_string().try_into().ok()
    }

    /// Sends once and waits for the head of the answer.
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

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Wire({})", self.base)
    }
}

/// The way to a registry.
#[derive(Debug)]
pub(super) struct Transport {
    wire: Wire,
    auth: Auth,
    pub(super) clock: ServerClock,
    warnings: Mutex<BTreeSet<String>>,
    pub(super) signs: Signs,
}

impl Transport {
    /// The variable with the proxy that is asked for the registry, if one is.
    pub(super) fn proxy(&self) -> Option<&'static str> {
        self.wire.proxy
    }

    pub(super) async fn new(
        location: &Location,
        config: &Config,
        common: &net::Common,
    ) -> Result<Self> {
        Ok(Self {
            wire: Wire::new(location, common).await?,
            auth: Auth::new(location.clone(), config.clone()),
            clock: ServerClock::default(),
            warnings: Mutex::default(),
            signs: Signs::default(),
        })
    }

    /// A URL of the registry's API; `path` starts after `/v2/` and needs no escapes.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.wire.base.clone();
        url.set_path(&format!("/v2/{path}"));
        url
    }

    /// A URL that an answer named in a header, checked.
    ///
    /// # Errors
    /// `Denied` for a place where we do not go.
    pub(super) fn named(&self, op: &'static str, answer: &Answer, text: &str) -> Result<Url> {
        self.wire
            .guard
            .join(&answer.url, text)
            .map_err(|why| Error::new(ErrorKind::Denied, op, why))
    }

    /// Sends `ask`, as often as credentials and redirects need; its body is read anew each time.
    ///
    /// Any final status is an `Ok`. Reads fall back to no credentials if ours are refused.
    pub(super) async fn send(&self, ask: &Ask) -> Result<Answer> {
        let since = Instant::now();
        let mut need = ask.scopes.clone();
        let reads = need.only_pull() && matches!(ask.method, Method::GET | Method::HEAD);
        let mut whose = if reads {
            self.auth.reader()
        } else {
            As::Ourselves
        };
        let mut refused: Option<Result<Answer>> = None;
        loop {
            let mut result = self.attempt(ask, &mut need, whose, since).await;
            if let Ok(answer) = &mut result
                && matches!(answer.status.as_u16(), 401 | 403)
            {
                answer.account = Some(self.auth.account(whose));
            }
            let denied = match &result {
                Ok(answer) => !answer.away && matches!(answer.status.as_u16(), 401 | 403),
                Err(e) => matches!(e.kind, ErrorKind::Unauthenticated | ErrorKind::Denied),
            };
            match refused {
                None if denied
                    && reads
                    && whose == As::Ourselves
                    && self.auth.has_credentials().await =>
                {
                    refused = Some(result);
                    whose = As::Anybody;
                }
                None => return result,
                // The first refusal tells more than the one of nobody.
                Some(first) if denied => return first,
                Some(_) => {
                    if result.is_ok() {
                        self.auth.read_as_anybody();
                    }
                    return result;
                }
            }
        }
    }

    /// Name and password, where the registry has asked who we are and we have them.
    pub(super) async fn password(&self) -> Result<Option<HeaderValue>> {
        self.auth.password().await
    }

    /// What to show for `need`, by what the registry has asked for so far; `None` for nothing.
    pub(super) async fn credential(&self, need: &Scopes) -> Result<Option<HeaderValue>> {
        let shown = self.auth.show(&self.wire, need, As::Ourselves).await?;
        Ok(shown.map(|s| s.header))
    }

    /// Sends as one of us or nobody, with as many logins as it takes.
    async fn attempt(
        &self,
        ask: &Ask,
        need: &mut Scopes,
        whose: As,
        since: Instant,
    ) -> Result<Answer> {
        let mut logins = 0;
        let mut shown = self.auth.show(&self.wire, need, whose).await?;
        loop {
            let answer = self
                .follow(ask, shown.as_ref().map(|s| s.header.clone()))
                .await?;
            let challenged = match answer.status {
                StatusCode::UNAUTHORIZED => true,
                StatusCode::FORBIDDEN => wants_more(&answer.headers),
                _ => false,
            };
            if !challenged || answer.away || logins >= MAX_LOGINS {
                return Ok(answer);
            }
            logins += 1;
            let again =
                self.auth
                    .challenged(&self.wire, &answer.headers, shown.as_ref(), since, need)?;
            if !again {
                return Ok(answer);
            }
            let next = self.auth.show(&self.wire, need, whose).await?;
            if shown.is_none() && next.is_none() {
                // Something is wanted, and we have nothing.
                return Ok(answer);
            }
            shown = next;
        }
    }

    /// Sends and follows redirects; credentials go to the registry itself only.
    pub(super) async fn follow(&self, ask: &Ask, show: Option<HeaderValue>) -> Result<Answer> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let home = self.wire.guard.is_home(&url);
            let answer = self
                .wire
                .exchange(ask, &url, show.clone().filter(|_| home))
                .await?;
            if home {
                self.listen(&answer.headers);
            }
            let reads = matches!(ask.method, Method::GET | Method::HEAD);
            let moved = match answer.status.as_u16() {
                307 | 308 => true,
                // Others turn a request that sends into one that gets.
                301..=303 => reads,
                _ => false,
            };
            let Some(to) = answer.text(LOCATION).filter(|_| moved) else {
                return Ok(answer);
            };
            url = self.named(ask.op, &answer, to)?;
        }
        let message = format!(
            "more than {MAX_REDIRECTS} redirects, the last to `{}`",
            guard::show(&url)
        );
        Err(Error::new(ErrorKind::Corrupt, ask.op, message))
    }

    /// Takes the clock and the warnings of an answer of the registry itself.
    fn listen(&self, headers: &HeaderMap) {
        if headers.contains_key(API_VERSION) {
            self.signs.seen();
        }
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        self.clock.listen(text(DATE), text(AGE));
        for value in headers.get_all("warning") {
            // Spec, "Warnings": only code 299 is for us, `299 - "text"`.
            let Some(text) = value
                .to_str()
                .ok()
                .and_then(|v| v.trim().strip_prefix("299 - "))
            else {
                continue;
            };
            let text: String = text
                .trim_matches('"')
                .chars()
                .take(MAX_WARNING_CHARS)
                .collect();
            let mut known = self.warnings.lock();
            if known.len() < MAX_WARNINGS && known.insert(text.clone()) {
                warn!(registry = %self.wire.base, warning = %redact::escaped(&text), "The registry warns");
            }
        }
    }

    /// Texts of warnings so far.
    #[cfg(test)]
    pub(super) fn warned(&self) -> Vec<String> {
        let known = self.warnings.lock();
        known.iter().cloned().collect()
    }
}

/// RFC 6750 §3.1: the token is good, but not for this.
fn wants_more(headers: &HeaderMap) -> bool {
    super::challenge::parse(headers).iter().any(|c| {
        matches!(c, super::challenge::Challenge::Bearer { error: Some(e), .. } if e == "insufficient_scope")
    })
}
