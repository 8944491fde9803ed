//! What goes wrong, as a status: the code from the one table of kinds ([`crate::proto::code_of`]), the client's words in the
//! answer, ours in the log, the request's id in both.

use axum::http::{HeaderValue, request::Parts};
use tonic::{Code, Status};

use crate::{
    ops,
    proto::{self, REQUEST_ID_KEY},
    store::{self, ErrorKind, queue::QUEUE_FULL},
};

/// Longest id that is taken from a client.
const MAX_ID_BYTES: usize = 128;

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct Asked(String);

impl Asked {
    /// The client's own, or that of a proxy before us, if it is fit for a log; else a new one.
    pub(super) fn of(request: &Parts) -> Self {
        let given = request
            .headers
            .get(REQUEST_ID_KEY)
            .and_then(|v| v.to_str().ok());
        let fit = |id: &&str| {
            // The same as every door takes (`serve::observe`).
            let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(&b);
            (1..=MAX_ID_BYTES).contains(&id.len()) && id.bytes().all(plain)
        };
        let new = || format!("{:016x}", fastrand::u64(..));
        Self(given.filter(fit).map_or_else(new, str::to_owned))
    }

    pub(super) fn id(&self) -> &str {
        &self.0
    }

    pub(super) fn header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("letters, digits and dashes are plain text")
    }

    /// The status of a verb that failed. Trouble at the daemon's `own` store is told without what it says of that; of a store
    /// that the client named, with everything.
    pub(super) fn status(&self, error: &ops::Error, own: &str) -> Status {
        let status = match error {
            ops::Error::Usage(why) => Status::invalid_argument(why),
            ops::Error::Damaged { .. } => Status::data_loss(error.to_string()),
            ops::Error::Budget { .. } => Status::deadline_exceeded(error.to_string()),
            ops::Error::Memory { .. } => Status::resource_exhausted(format!(
                "{error}; try again when other calls have ended, or read the store without the daemon, with --store"
            )),
            ops::Error::Store(e) => self.of_store(e, own),
            ops::Error::NothingToExport { .. }
            | ops::Error::EmptyFolder { .. }
            | ops::Error::AllAhead { .. }
            | ops::Error::TooBig { .. }
            | ops::Error::NothingFits { .. }
            | ops::Error::TooManyEntries { .. }
            | ops::Error::Unreadable { .. }
            | ops::Error::Replaced { .. }
            | ops::Error::Source(_)
            | ops::Error::Pack(_)
            | ops::Error::Local(_) => Status::internal(self.told_in_the_log("it went wrong here")),
        };
        if matches!(status.code(), Code::InvalidArgument) {
            tracing::debug!(request_id = self.0, %error, "Control request refused");
        } else {
            tracing::warn!(request_id = self.0, %error, "Control request failed");
        }
        status
    }

    fn of_store(&self, e: &store::Error, own: &str) -> Status {
        let code = proto::code_of(e.kind);
        if !e.store.is_empty() && e.store != own {
            return Status::new(code, e.to_string());
        }
        let words = match e.kind {
            ErrorKind::Full if e.op == QUEUE_FULL => {
                return Status::new(code, e.message.clone());
            }
            ErrorKind::Corrupt
            | ErrorKind::Invalid
            | ErrorKind::Conflict
            | ErrorKind::Unsupported => {
                let key = if e.key.is_empty() {
                    String::new()
                } else {
                    format!(" {}", e.key)
                };
                return Status::new(code, format!("cannot {}{key}: {}", e.op, e.message));
            }
            ErrorKind::Full => "there is no room left in the daemon's store",
            ErrorKind::Denied | ErrorKind::Unauthenticated | ErrorKind::NoSuchStore => {
                "the daemon's store refuses it"
            }
            ErrorKind::Throttled | ErrorKind::Timeout | ErrorKind::Unavailable => {
                "the daemon's store does not answer"
            }
            ErrorKind::Io => "the daemon's disk does not do it",
        };
        Status::new(code, self.told_in_the_log(words))
    }

    fn told_in_the_log(&self, words: &str) -> String {
        format!("{words}; its log says why (request {})", self.0)
    }
}

/// What came is none of the messages that the schema allows.
pub(super) fn nonsense(why: &proto::Nonsense) -> Status {
    Status::invalid_argument(why.to_string())
}

#[cfg(test)]
mod tests {
    use axum::http::Request;

    use super::*;

    fn asked(id: Option<&str>) -> Asked {
        let mut request = Request::new(());
        if let Some(id) = id {
            request
                .headers_mut()
                .insert(REQUEST_ID_KEY, id.parse().unwrap());
        }
        Asked::of(&request.into_parts().0)
    }

    #[test]
    fn id_of_a_client_is_kept_if_it_is_fit_for_a_log() {
        assert_eq!(asked(Some("a-1.B_2")).id(), "a-1.B_2");
        let long = "x".repeat(MAX_ID_BYTES + 1);
        for bad in [None, Some("a b"), Some(""), Some(long.as_str()), Some("\"")] {
            assert_eq!(asked(bad).id().len(), 16, "{bad:?}");
        }
    }

    #[test]
    fn own_store_is_not_told_and_a_named_one_is() {
        let error = || {
            store::Error::new(ErrorKind::Unavailable, "list", "connection refused")
                .at("s3://secret", "")
        };
        let own = asked(Some("id-7")).status(&error().into(), "s3://secret");
        assert_eq!(own.code(), Code::Unavailable);
        assert!(own.message().contains("request id-7"), "{own}");
        assert!(!own.message().contains("secret"), "{own}");
        let named = asked(None).status(&error().into(), "disk:/x");
        assert!(
            named.message().contains("s3://secret: connection refused"),
            "{named}"
        );
    }

    #[test]
    fn usage_is_an_invalid_argument_and_damage_is_data_loss() {
        let usage = asked(None).status(&ops::Error::Usage("no".into()), "");
        assert_eq!(
            (usage.code(), usage.message()),
            (Code::InvalidArgument, "no")
        );
        let damaged = ops::Error::Damaged {
            what: "tag x".into(),
            why: "y".into(),
        };
        assert_eq!(asked(None).status(&damaged, "").code(), Code::DataLoss);
        let budget = crate::memory::MemoryBudget::shared(256_000_000);
        let full = ops::Error::Memory {
            what: "snapshot x".into(),
            why: budget.reserve(1, 256_000_001).unwrap_err(),
        };
        let full = asked(None).status(&full, "");
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert!(full.message().contains("256 MB"), "{full}");
    }
}
