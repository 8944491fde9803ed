//! Whether an answer 404 is the registry's: see [`crate::store::signs`].

use reqwest::{Method, header::WWW_AUTHENTICATE};
use serde::de::IgnoredAny;

use super::{answer::Answer, error, refusal, request::Ask, scopes::Scopes, transport::Transport};
use crate::store::{ErrorKind, Result, signs::To};

impl Transport {
    /// Accepts a 404, unless it is not the registry's.
    ///
    /// Registries sign it by an error body with a code (Harbor has its own) or, also for HEAD, by the header
    /// [`API_VERSION`](super::API_VERSION). A response with another body is a page; one without a body is settled by a request
    /// for `/v2/`.
    ///
    /// # Errors
    /// `Unavailable` if something else answered.
    pub(super) async fn missing(&self, op: &'static str, mut answer: Answer) -> Result<()> {
        if answer.away {
            // From the storage that it named a moment ago.
            return self.signs.settle(op, To::Head, self.is_registry(op)).await;
        }
        let to = match answer.method {
            Method::HEAD => To::Head,
            _ => To::Get,
        };
        if answer.is_signed() {
            self.signs.signed(to);
            return Ok(());
        }
        let what = answer.described();
        let body = match answer.read(op, refusal::MAX_ERROR_BYTES).await {
            Err(e) if e.kind == ErrorKind::Corrupt => return Err(error::foreign(op, what)),
            body => body?,
        };
        if refusal::has_code(&body) {
            self.signs.signed(to);
            return Ok(());
        }
        if !body.is_empty() {
            let why = format!("{what}{}", refusal::words(&body));
            return Err(error::foreign(op, why));
        }
        self.signs.settle(op, to, self.is_registry(op)).await
    }

    /// Checks anonymously whether a registry answers: it answers 200 or 401 (spec, "Determining Support").
    async fn is_registry(&self, op: &'static str) -> Result<()> {
        let ask = Ask::new(op, Method::GET, self.url(""), &Scopes::default());
        let mut answer = self.follow(&ask, None).await?;
        if answer.is_signed() {
            return Ok(());
        }
        let (status, what) = (answer.status.as_u16(), answer.described());
        let challenges = status == 401 && answer.headers.contains_key(WWW_AUTHENTICATE);
        let body = answer.read(op, refusal::MAX_ERROR_BYTES).await;
        let body = body.unwrap_or_default();
        let is_document = body.is_empty() || serde_json::from_slice::<IgnoredAny>(&body).is_ok();
        if challenges || refusal::has_code(&body) || (status == 200 && is_document) {
            return Ok(());
        }
        let why = format!("GET /v2/ is {what}{}", refusal::words(&body));
        Err(error::foreign(op, why))
    }
}
