//! All requests to a registry: credentials sent and renewed, redirects followed by our own rules, timeouts.

use std::collections::BTreeSet;

use parking_lot::Mutex;
use reqwest::{
    Method, StatusCode, Url,
    header::{AGE, DATE, HeaderMap, HeaderValue, LOCATION},
};
use tokio::time::Instant;
use tracing::warn;

use super::{
    API_VERSION,
    answer::Answer,
    auth::{As, Auth},
    challenge::{self, Challenge},
    config::Config,
    connection::Connection,
    guard,
    location::Location,
    request::Ask,
    scopes::Scopes,
};
use crate::{
    redact,
    store::{Error, ErrorKind, Result, net, server_time::ServerClock, signs::Signs},
};

/// Maximum number of redirects of one request.
const MAX_REDIRECTS: usize = 5;
/// Maximum number of times that one request is sent again with other credentials.
const MAX_LOGINS: usize = 3;
/// Maximum number of `Warning` texts that are remembered, and maximum length of each.
const MAX_WARNINGS: usize = 64;
const MAX_WARNING_CHARS: usize = 300;

/// The transport to a registry.
#[derive(Debug)]
pub(super) struct Transport {
    connection: Connection,
    auth: Auth,
    pub(super) clock: ServerClock,
    warnings: Mutex<BTreeSet<String>>,
    pub(super) signs: Signs,
}

impl Transport {
    /// The variable with the proxy for the registry, if one is used.
    pub(super) fn proxy(&self) -> Option<&'static str> {
        self.connection.proxy
    }

    pub(super) async fn new(
        location: &Location,
        config: &Config,
        common: &net::Common,
    ) -> Result<Self> {
        Ok(Self {
            connection: Connection::new(location, common).await?,
            auth: Auth::new(location.clone(), config.clone()),
            clock: ServerClock::default(),
            warnings: Mutex::default(),
            signs: Signs::default(),
        })
    }

    /// A URL of the registry's API; `path` starts after `/v2/` and needs no escapes.
    pub(super) fn url(&self, path: &str) -> Url {
        let mut url = self.connection.base().clone();
        url.set_path(&format!("/v2/{path}"));
        url
    }

    /// A URL from a header of an answer, checked.
    ///
    /// # Errors
    /// `Denied` for a forbidden place.
    pub(super) fn named(&self, op: &'static str, answer: &Answer, text: &str) -> Result<Url> {
        self.connection
            .guard()
            .join(&answer.url, text)
            .map_err(|why| Error::denied(op, why))
    }

    /// Sends `ask`, repeatedly if credentials or redirects require it; its body is read again each time.
    ///
    /// Any final status is an `Ok`. Reads fall back to anonymous access if our credentials are refused.
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
                // The first refusal is more informative than the anonymous one.
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

    /// Name and password, if the registry has requested credentials and we have them.
    pub(super) async fn password(&self) -> Result<Option<HeaderValue>> {
        self.auth.password().await
    }

    /// The credential for `need`, given what the registry has requested so far; `None` for none.
    pub(super) async fn credential(&self, need: &Scopes) -> Result<Option<HeaderValue>> {
        let shown = self
            .auth
            .show(&self.connection, need, As::Ourselves)
            .await?;
        Ok(shown.map(|s| s.header))
    }

    /// Sends with one identity, with as many logins as necessary.
    async fn attempt(
        &self,
        ask: &Ask,
        need: &mut Scopes,
        whose: As,
        since: Instant,
    ) -> Result<Answer> {
        let mut logins = 0;
        let mut shown = self.auth.show(&self.connection, need, whose).await?;
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
            let again = self.auth.challenged(
                &self.connection,
                &answer.headers,
                shown.as_ref(),
                since,
                need,
            )?;
            if !again {
                return Ok(answer);
            }
            let next = self.auth.show(&self.connection, need, whose).await?;
            if shown.is_none() && next.is_none() {
                // Credentials are required, and we have none.
                return Ok(answer);
            }
            shown = next;
        }
    }

    /// Sends and follows redirects; credentials are sent to the registry itself only.
    pub(super) async fn follow(&self, ask: &Ask, show: Option<HeaderValue>) -> Result<Answer> {
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let home = self.connection.guard().is_home(&url);
            let answer = self
                .connection
                .exchange(ask, &url, show.clone().filter(|_| home))
                .await?;
            if home {
                self.listen(&answer.headers);
            }
            let reads = matches!(ask.method, Method::GET | Method::HEAD);
            let moved = match answer.status.as_u16() {
                307 | 308 => true,
                // Others turn a request with a body into a GET.
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
        Err(Error::corrupt(ask.op, message))
    }

    /// Takes the clock and the warnings from an answer of the registry itself.
    fn listen(&self, headers: &HeaderMap) {
        if headers.contains_key(API_VERSION) {
            self.signs.seen();
        }
        let text = |name| headers.get(name).and_then(|v| v.to_str().ok());
        self.clock.listen(text(DATE), text(AGE));
        for value in headers.get_all("warning") {
            // Spec, "Warnings": only code 299 is relevant, `299 - "text"`.
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
                warn!(registry = %self.connection.base(), warning = %redact::escaped(&text), "The registry warns");
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

/// RFC 6750 §3.1: the token is valid, but not for this.
fn wants_more(headers: &HeaderMap) -> bool {
    challenge::parse(headers)
        .iter()
        .any(|c| matches!(c, Challenge::Bearer { error: Some(e), .. } if e == "insufficient_scope"))
}
