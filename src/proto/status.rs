//! The table of store errors and gRPC status codes.
//!
//! It is read in both directions: the daemon picks the code, and a client that receives it treats the error as one of its own store. If the
//! store *behind* the daemon refuses the daemon, that is not a refusal of the client: `Denied` and `Unauthenticated` of that store become
//! `FailedPrecondition`, and the codes of these names apply only to the daemon's own callers.

use tonic::Code;

use crate::store::ErrorKind;

/// The code for an error of the store behind the daemon.
pub fn code_of(kind: ErrorKind) -> Code {
    match kind {
        ErrorKind::NoSuchStore
        | ErrorKind::Denied
        | ErrorKind::Unauthenticated
        | ErrorKind::Unsupported => Code::FailedPrecondition,
        ErrorKind::Throttled | ErrorKind::Timeout | ErrorKind::Unavailable => Code::Unavailable,
        ErrorKind::Corrupt => Code::DataLoss,
        ErrorKind::Conflict => Code::Aborted,
        ErrorKind::Invalid => Code::InvalidArgument,
        ErrorKind::Full => Code::ResourceExhausted,
        ErrorKind::Io => Code::Internal,
    }
}

/// What a code means to a client.
pub fn kind_of(code: Code) -> ErrorKind {
    match code {
        Code::PermissionDenied => ErrorKind::Denied,
        Code::Unauthenticated => ErrorKind::Unauthenticated,
        Code::FailedPrecondition | Code::Unimplemented | Code::OutOfRange => ErrorKind::Unsupported,
        Code::DataLoss => ErrorKind::Corrupt,
        Code::Aborted | Code::AlreadyExists => ErrorKind::Conflict,
        Code::InvalidArgument | Code::NotFound => ErrorKind::Invalid,
        Code::ResourceExhausted => ErrorKind::Full,
        Code::DeadlineExceeded => ErrorKind::Timeout,
        Code::Ok | Code::Cancelled | Code::Unknown | Code::Internal | Code::Unavailable => {
            ErrorKind::Unavailable
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_temporary_stays_so_and_refusals_behind_the_daemon_are_not_the_clients() {
        use ErrorKind as K;
        for kind in [
            K::NoSuchStore,
            K::Denied,
            K::Unauthenticated,
            K::Throttled,
            K::Timeout,
            K::Unavailable,
            K::Corrupt,
            K::Conflict,
            K::Unsupported,
            K::Invalid,
            K::Full,
        ] {
            let back = kind_of(code_of(kind));
            assert_eq!(back.is_temporary(), kind.is_temporary(), "{kind:?}");
            assert!(!matches!(back, K::Denied | K::Unauthenticated), "{kind:?}");
        }
        assert_eq!(kind_of(Code::PermissionDenied), K::Denied);
    }
}
