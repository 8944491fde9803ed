//! Client faults while a request's body is received.

use std::{error::Error as StdError, io, time::Duration};

use axum::http::StatusCode;

use crate::progress::span;

/// Why a body ended early. None of these is a fault of the daemon or its store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Nothing arrived for this long.
    #[error("the client sent nothing for {}", span(*.0))]
    Silent(Duration),
    /// The body was not complete within this time.
    #[error("the request's body took longer than {}", span(*.0))]
    Slow(Duration),
    /// Too many clients sent slowly, and this caller has most of them.
    #[error("too many slow requests of this caller")]
    Crowded,
    /// The connection ended.
    #[error("the client closed the connection: {0}")]
    Gone(String),
    /// The received data is not HTTP.
    #[error("the request's body is not valid HTTP: {0}")]
    Nonsense(String),
}

impl Fault {
    /// The fault behind an error of the connection.
    pub fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut cause = Some(error);
        let mut words = error.to_string();
        while let Some(e) = cause {
            words = e.to_string();
            let kind = e.downcast_ref::<io::Error>().map(io::Error::kind);
            // Returned by hyper for invalid chunks.
            if matches!(
                kind,
                Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData)
            ) {
                return Self::Nonsense(words);
            }
            cause = e.source();
        }
        Self::Gone(words)
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Silent(_) | Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::Crowded => StatusCode::TOO_MANY_REQUESTS,
            Self::Gone(_) | Self::Nonsense(_) => StatusCode::BAD_REQUEST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_framing_is_nonsense_and_a_broken_connection_is_a_client_that_has_gone() {
        let of = |kind| Fault::of(&axum::Error::new(io::Error::new(kind, "x")));
        assert_eq!(of(io::ErrorKind::InvalidInput), Fault::Nonsense("x".into()));
        for kind in [io::ErrorKind::UnexpectedEof, io::ErrorKind::ConnectionReset] {
            assert_eq!(of(kind), Fault::Gone("x".into()));
        }
    }
}
