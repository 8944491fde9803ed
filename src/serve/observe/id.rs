//! Request ids: the client's own if it is safe to log, else a new one.

use axum::http::{HeaderMap, HeaderValue};

use super::X_REQUEST_ID;

/// Longest client id that is accepted.
const MAX_CHARS: usize = 128;

#[derive(Debug, Clone)]
pub(super) struct RequestId(HeaderValue);

impl RequestId {
    /// The id that the client sent, or a new one.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let brought = headers.get(X_REQUEST_ID).filter(|v| is_sane(v.as_bytes()));
        Self(brought.cloned().unwrap_or_else(|| {
            let random = format!("{:016x}", fastrand::u64(..));
            random.try_into().expect("hex digits are fit for a header")
        }))
    }

    pub(super) fn as_str(&self) -> &str {
        self.0
            .to_str()
            .expect("only printable ASCII is accepted or generated")
    }

    pub(super) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

/// The characters of UUIDs, ULIDs and the ids of proxies; none that has a special meaning to a shell, a browser or a log.
fn is_sane(id: &[u8]) -> bool {
    let fit = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:=+/@".contains(b);
    (1..=MAX_CHARS).contains(&id.len()) && id.iter().all(fit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id_for(value: &[u8]) -> String {
        let value = HeaderValue::from_bytes(value).unwrap();
        let headers = [(X_REQUEST_ID, value)].into_iter().collect();
        RequestId::of(&headers).as_str().to_owned()
    }

    #[test]
    fn a_sane_id_is_kept() {
        let uuid = "7d9f1a0e-8f0c-4a53-9d55-0d6f5a0c4c11";
        assert_eq!(id_for(uuid.as_bytes()), uuid);
        assert_eq!(id_for(b"Root=1-67891233-abc"), "Root=1-67891233-abc");
    }

    #[test]
    fn any_other_is_replaced() {
        let long = [b'a'; MAX_CHARS + 1];
        for bad in [&b""[..], b"a b", b"<x>", b"\xff", b"a\"b", &long] {
            let given = id_for(bad);
            assert_eq!(given.len(), 16, "{given}");
            assert_ne!(given.as_bytes(), bad);
        }
        assert_ne!(
            RequestId::of(&HeaderMap::new()).as_str(),
            RequestId::of(&HeaderMap::new()).as_str()
        );
    }
}
