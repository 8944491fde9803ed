use std::{io, sync::Arc};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'w> MakeWriter<'w> for Lines {
    type Writer = Self;

    fn make_writer(&'w self) -> Self {
        self.clone()
    }
}

/// The lines that `work` logs, as they are read by a machine.
fn logged(work: impl FnOnce()) -> Vec<Value> {
    let lines = Lines::default();
    let layer = JsonLines::new(lines.clone());
    let subscriber = tracing_subscriber::registry().with(layer);
    tracing::subscriber::with_default(subscriber, work);
    let bytes = lines.0.lock().clone();
    let text = String::from_utf8(bytes).unwrap();
    text.lines()
        .map(|l| serde_json::from_str(l).unwrap())
        .collect()
}

#[test]
fn ids_stand_at_the_top_and_the_rest_in_fields() {
    let lines = logged(|| {
        let span = tracing::info_span!(
            "request",
            trace_id = tracing::field::Empty,
            request_id = "r-1",
            method = "GET",
            otel.kind = "server",
        );
        span.record("trace_id", "0af7");
        let _in = span.enter();
        let _inner = tracing::info_span!("task", name = "copy").entered();
        tracing::warn!(bytes = 5_u64, right = true, "Slow");
    });
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["message"], "Slow");
    assert_eq!(line["trace_id"], "0af7");
    assert_eq!(line["request_id"], "r-1");
    let want = json!({"bytes": 5, "right": true, "name": "copy", "method": "GET"});
    assert_eq!(line["fields"], want);
    let stamp = line["timestamp"].as_str().unwrap();
    assert!(humantime::parse_rfc3339(stamp).is_ok(), "{stamp}");
    assert!(line["target"].as_str().unwrap().starts_with("cachectl"));
}

#[test]
fn nothing_that_is_logged_breaks_a_line() {
    let evil = "a\"b\n{\"level\":\"ERROR\"}\u{1b}[31m\u{0}";
    let lines = logged(|| tracing::info!(evil, debug = ?evil, nan = f64::NAN, "{evil}"));
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert_eq!(line["message"], evil);
    assert_eq!(line["fields"]["evil"], evil);
    assert_eq!(line["fields"]["nan"], Value::Null);
    assert_eq!(line["level"], "INFO");
}

#[test]
fn of_two_fields_of_one_name_the_inner_one_is_shown() {
    let lines = logged(|| {
        let _out = tracing::info_span!("out", op = "outer", trace_id = "1").entered();
        let _in = tracing::info_span!("in", op = "inner").entered();
        tracing::info!(op = "event", "One");
        tracing::info!("Two");
    });
    assert_eq!(lines[0]["fields"], json!({"op": "event"}));
    assert_eq!(lines[1]["fields"], json!({"op": "inner"}));
    assert_eq!(lines[1]["trace_id"], "1");
}

#[test]
fn a_line_without_fields_has_none() {
    let lines = logged(|| tracing::info!("Ready"));
    assert!(lines[0].get("fields").is_none() && lines[0].get("trace_id").is_none());
}
