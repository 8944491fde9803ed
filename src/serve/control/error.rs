//! Errors as gRPC statuses: the code from the one table of kinds ([`crate::proto::code_of`]), the client's words in the answer,
//! ours in the log, the request's id in both.

use tonic::{Code, Status};

use crate::{
    ops, proto,
    store::{self, ErrorKind, queue::QUEUE_FULL},
};

/// The id of a request.
#[derive(Debug, Clone)]
pub(super) struct Asked(pub(super) String);

impl Asked {
    /// The status of a failed verb. An error of the daemon's `own` store is reported without what that store said; of a store
    /// that the client named, in full.
    pub(super) fn status(&self, error: &ops::Error, own: &str) -> Status {
        let status = match error {
            ops::Error::Usage(why) => Status::invalid_argument(why),
            ops::Error::Damaged { .. } => Status::data_loss(error.to_string()),
            ops::Error::Budget { .. } => Status::deadline_exceeded(error.to_string()),
            ops::Error::Memory { .. } => Status::resource_exhausted(format!(
                "{error}; try again when other calls have ended, or use --store to read the store without the daemon"
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
            | ops::Error::Local(_) => Status::internal(self.told_in_the_log("the daemon failed")),
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
            ErrorKind::Full => "the daemon's store is full",
            ErrorKind::Denied | ErrorKind::Unauthenticated | ErrorKind::NoSuchStore => {
                "the daemon's store denies access"
            }
            ErrorKind::Throttled | ErrorKind::Timeout | ErrorKind::Unavailable => {
                "the daemon's store does not answer"
            }
            ErrorKind::Io => "the daemon's disk has an error",
        };
        Status::new(code, self.told_in_the_log(words))
    }

    fn told_in_the_log(&self, words: &str) -> String {
        format!("{words}; see its log (request {})", self.0)
    }
}

/// The message is not one that the schema allows.
pub(super) fn nonsense(why: &proto::Nonsense) -> Status {
    Status::invalid_argument(why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Asked {
        Asked("id-7".to_owned())
    }

    #[test]
    fn own_store_is_not_told_and_a_named_one_is() {
        let error =
            || store::Error::unavailable("list", "connection refused").at("s3://secret", "");
        let own = asked().status(&error().into(), "s3://secret");
        assert_eq!(own.code(), Code::Unavailable);
        assert!(own.message().contains("request id-7"), "{own}");
        assert!(!own.message().contains("secret"), "{own}");
        let named = asked().status(&error().into(), "disk:/x");
        assert!(
            named.message().contains("s3://secret: connection refused"),
            "{named}"
        );
    }

    #[test]
    fn usage_is_an_invalid_argument_and_damage_is_data_loss() {
        let usage = asked().status(&ops::Error::Usage("no".into()), "");
        assert_eq!(
            (usage.code(), usage.message()),
            (Code::InvalidArgument, "no")
        );
        let damaged = ops::Error::Damaged {
            what: "tag x".into(),
            why: "y".into(),
        };
        assert_eq!(asked().status(&damaged, "").code(), Code::DataLoss);
        let budget = crate::memory::MemoryBudget::shared(256_000_000);
        let full = ops::Error::Memory {
            what: "snapshot x".into(),
            why: budget.reserve(1, 256_000_001).unwrap_err(),
        };
        let full = asked().status(&full, "");
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert!(full.message().contains("256 MB"), "{full}");
    }
}
