//! Ends a connection from inside one of its requests: a response that nobody reads is never asked for more, so nothing that
//! happens to its body ends it.

use std::sync::Arc;

use axum::http::Extensions;
use tokio::sync::Notify;

/// A connection's end; among the extensions of its requests.
#[derive(Debug, Clone, Default)]
pub struct Hangup(Arc<Notify>);

impl Hangup {
    /// That of the request's connection; where nobody put one, one that ends nothing.
    pub fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    /// Ends the connection with all its requests.
    pub fn hang_up(&self) {
        self.0.notify_one();
    }

    /// Ends when the connection is to end. Cancel-safe.
    pub async fn wanted(&self) {
        self.0.notified().await;
    }
}
