//! The trace that a piece of work belongs to: W3C Trace Context, taken from incoming requests, forwarded on outgoing ones.
//!
//! A context is attached to a tracing span, so it follows the work into every task of [`crate::task`]. If spans are exported
//! (`telemetry::otlp`), the exporter assigns their ids; otherwise those created here are used, so that the log lines of one
//! request always share an id.

use std::{fmt, str::FromStr};

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::{Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;
use tracing_subscriber::{Registry, registry::LookupSpan};

/// The header's name (W3C Trace Context, 3.2).
pub const TRACEPARENT: &str = "traceparent";
/// Length of a header of version 00.
const LENGTH: usize = 55;

/// A position in a trace; its text is the header's value, version 00.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

/// Not a valid `traceparent`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a traceparent of W3C Trace Context")]
pub struct NoTraceparent;

impl TraceContext {
    /// A new trace, not sampled: as far as we know, nobody collects it.
    pub fn random() -> Self {
        Self {
            // Zero is not an id.
            trace_id: fastrand::u128(1..),
            span_id: fastrand::u64(1..),
            flags: 0,
        }
    }

    /// The trace, in 32 hex digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    fn remote(self) -> SpanContext {
        SpanContext::new(
            TraceId::from(self.trace_id),
            SpanId::from(self.span_id),
            TraceFlags::new(self.flags),
            true,
            TraceState::NONE,
        )
    }

    fn of(context: &SpanContext) -> Option<Self> {
        context.is_valid().then(|| Self {
            trace_id: u128::from_be_bytes(context.trace_id().to_bytes()),
            span_id: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) = (self.trace_id, self.span_id);
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", self.flags)
    }
}

impl FromStr for TraceContext {
    type Err = NoTraceparent;

    fn from_str(s: &str) -> Result<Self, NoTraceparent> {
        parse(s).ok_or(NoTraceparent)
    }
}

/// Parses a header. A version after 00 may have more fields after the current ones; `ff` is invalid (3.2.2).
fn parse(s: &str) -> Option<TraceContext> {
    let (known, more) = s.split_at_checked(LENGTH)?;
    let mut parts = known.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        let valid = part.len() == digits && part.bytes().all(lower);
        valid.then(|| u128::from_str_radix(part, 16).ok()).flatten()
    };
    let version = hex(2)?;
    let trace_id = hex(32)?;
    let span_id = u64::try_from(hex(16)?).ok()?;
    // Only the lowest bit has a meaning today.
    let flags = u8::try_from(hex(2)?).ok()? & 1;
    let ends = match version {
        0 => more.is_empty(),
        0xff => false,
        _ => more.is_empty() || more.starts_with('-'),
    };
    (ends && trace_id != 0 && span_id != 0).then_some(TraceContext {
        trace_id,
        span_id,
        flags,
    })
}

/// Where a span began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begun {
    /// Its position.
    pub context: TraceContext,
    /// Whether it is exported to a collector, so that adding details to it is worthwhile.
    pub exported: bool,
}

/// Makes `span`, which was not entered yet, part of the trace of `parent`, or of a new one.
///
/// It answers a request. A collector receives it under `name`, since a span's own name is fixed at compile time; for that
/// `span` needs the empty fields `otel.name` and `otel.kind`.
pub fn begin(span: &Span, parent: Option<TraceContext>, name: impl FnOnce() -> String) -> Begun {
    // Fails if spans are not exported, or this one is disabled.
    if span.set_parent(opentelemetry::Context::new()).is_ok() {
        if let Some(parent) = parent {
            let context = opentelemetry::Context::new().with_remote_span_context(parent.remote());
            // The same call has just succeeded.
            let _ = span.set_parent(context);
        }
        // It begins when its context is requested; then its name is final.
        span.record("otel.name", name());
        span.record("otel.kind", "server");
        if let Some(context) = TraceContext::of(span.context().span().span_context()) {
            let exported = context.flags & 1 == 1;
            return Begun { context, exported };
        }
    }
    // A service that adds no span of its own forwards the incoming one, or those below would have an unknown parent.
    let own = parent.unwrap_or_else(TraceContext::random);
    span.with_subscriber(|(id, dispatch)| {
        if let Some(found) = dispatch.downcast_ref::<Registry>().and_then(|r| r.span(id)) {
            found.extensions_mut().insert(own);
        }
    });
    Begun {
        context: own,
        exported: false,
    }
}

/// The position of the current work; `None` outside of any request.
pub fn current() -> Option<TraceContext> {
    let span = Span::current();
    if let Some(exported) = TraceContext::of(span.context().span().span_context()) {
        return Some(exported);
    }
    span.with_subscriber(|(id, dispatch)| {
        let registry = dispatch.downcast_ref::<Registry>()?;
        nearest(registry, id)
    })
    .flatten()
}

fn nearest<S>(registry: &S, id: &tracing::span::Id) -> Option<TraceContext>
where
    S: Subscriber + for<'l> LookupSpan<'l>,
{
    let mut scope = registry.span(id)?.scope();
    scope.find_map(|span| span.extensions().get::<TraceContext>().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn header_is_read_and_written_alike() {
        let context: TraceContext = HEADER.parse().unwrap();
        assert_eq!(context.to_string(), HEADER);
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let later = HEADER.replacen("00", "cc", 1) + "-what-is-new";
        assert_eq!(later.parse::<TraceContext>(), HEADER.parse());
    }

    #[test]
    fn what_is_no_traceparent_is_refused() {
        for bad in [
            "",
            "00",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-+af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b716920333\u{e9}-1",
        ] {
            assert_eq!(bad.parse::<TraceContext>(), Err(NoTraceparent), "{bad}");
        }
    }

    #[test]
    fn work_below_a_span_finds_its_trace() {
        let subscriber = tracing_subscriber::registry();
        tracing::subscriber::with_default(subscriber, || {
            assert_eq!(current(), None);
            let span = tracing::info_span!("request");
            let given = begin(&span, Some(HEADER.parse().unwrap()), String::new).context;
            assert_eq!(given.to_string(), HEADER, "no span of ours comes between");
            let _in = span.enter();
            let _below = tracing::info_span!("task").entered();
            assert_eq!(current(), Some(given));
        });
    }

    #[test]
    fn without_anybody_listening_there_is_no_trace_to_show() {
        let given = begin(&Span::none(), None, String::new);
        assert!(!given.exported);
        assert_ne!(given.context.trace_id(), "0".repeat(32));
        assert_eq!(current(), None);
    }
}
