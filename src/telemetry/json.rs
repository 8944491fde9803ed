//! Log lines for machines: one JSON object per line, with correlation ids at the top level.
//!
//! ```json
//! {"timestamp":"2026-01-02T03:04:05.678901Z","level":"INFO","target":"cachectl::serve::observe","message":"Request",
//!  "trace_id":"0af7…","request_id":"9f3c…","fields":{"method":"GET","status":200}}
//! ```
//!
//! `fields` has the fields of the event and of the enclosing spans; of two with the same name the inner one. The JSON of
//! `tracing-subscriber` cannot lift `trace_id` to the top level (tokio-rs/tracing#1531), hence our own layer.

use std::{fmt, io::Write as _, time::SystemTime};

use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, fmt::MakeWriter, layer::Context, registry::LookupSpan};

/// Fields of spans or events that are moved to the top level of a line.
const LIFTED: [&str; 2] = ["trace_id", "request_id"];
/// Prefixes of fields that are for span exporters only.
const EXPORTERS: [&str; 2] = ["otel.", "http."];

/// Writes each event as a line.
#[derive(Debug)]
pub struct JsonLines<W> {
    writer: W,
}

impl<W> JsonLines<W> {
    /// Writes to `writer`; lines that cannot be written are lost.
    pub fn new(writer: W) -> Self {
        Self { writer }
    }
}

/// The fields of a span or event: name, and the value as JSON.
#[derive(Default)]
struct Fields(Vec<(&'static str, String)>);

impl Fields {
    fn set(&mut self, field: &Field, json: String) {
        let name = field.name();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = json,
            None => self.0.push((name, json)),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| *n == name).map(|(_, v)| &**v)
    }
}

fn quoted(text: &str) -> String {
    // A string is always JSON.
    serde_json::to_string(text).unwrap_or_default()
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        // JSON knows neither NaN nor infinity.
        let json = serde_json::to_string(&value).unwrap_or_else(|_| "null".to_owned());
        self.set(field, json);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, value.to_string());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, value.to_string());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, value.to_string());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, quoted(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.set(field, quoted(&format!("{value:?}")));
    }
}

impl<S, W> Layer<S> for JsonLines<W>
where
    S: Subscriber + for<'l> LookupSpan<'l>,
    W: for<'w> MakeWriter<'w> + 'static,
{
    fn on_new_span(&self, attrs: &Attributes<'_>, id: &Id, ctx: Context<'_, S>) {
        let mut fields = Fields::default();
        attrs.record(&mut fields);
        if let Some(span) = ctx.span(id) {
            span.extensions_mut().insert(fields);
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, ctx: Context<'_, S>) {
        if let Some(span) = ctx.span(id)
            && let Some(fields) = span.extensions_mut().get_mut::<Fields>()
        {
            values.record(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, ctx: Context<'_, S>) {
        let mut own = Fields::default();
        event.record(&mut own);
        let mut line = Line::begin(event);
        line.add("message", own.get("message").unwrap_or("\"\""));
        let mut rest = Line::default();
        for (name, value) in own.0.iter().filter(|(name, _)| *name != "message") {
            line.sort(name, value, &mut rest);
        }
        // The innermost first: existing fields are not overwritten.
        for span in ctx.event_scope(event).into_iter().flatten() {
            if let Some(fields) = span.extensions().get::<Fields>() {
                for (name, value) in &fields.0 {
                    line.sort(name, value, &mut rest);
                }
            }
        }
        let mut text = line.text;
        if !rest.names.is_empty() {
            text.extend([",\"fields\":{", &rest.text[1..], "}"]);
        }
        text.push_str("}\n");
        let mut writer = self.writer.make_writer_for(event.metadata());
        // There is nowhere to report that the log cannot be written.
        let _ = writer.write_all(text.as_bytes());
    }
}

/// Members of an object, each once, each after a comma.
#[derive(Default)]
struct Line {
    text: String,
    names: Vec<String>,
}

impl Line {
    fn begin(event: &Event<'_>) -> Self {
        let meta = event.metadata();
        let now = humantime::format_rfc3339_micros(SystemTime::now());
        let (level, target) = (meta.level(), quoted(meta.target()));
        let text = format!("{{\"timestamp\":\"{now}\",\"level\":\"{level}\",\"target\":{target}");
        Self {
            text,
            names: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, json: &str) {
        if !self.names.iter().any(|n| n == name) {
            self.names.push(name.to_owned());
            self.text.extend([",", &quoted(name), ":", json]);
        }
    }

    /// Adds a field to the top level if it belongs there, otherwise to `rest`.
    fn sort(&mut self, name: &str, json: &str, rest: &mut Self) {
        // A raw identifier (`r#type`) is written without its mark.
        let name = name.strip_prefix("r#").unwrap_or(name);
        if LIFTED.contains(&name) {
            self.add(name, json);
        } else if !EXPORTERS.iter().any(|e| name.starts_with(e)) {
            rest.add(name, json);
        }
    }
}

#[cfg(test)]
mod tests;
