//! Traces and metrics, sent to a collector by OTLP over gRPC; off unless an endpoint is set.
//!
//! No request ever waits for the exporter: spans go into a bounded queue and are dropped if it is full; metrics are read
//! periodically and not stored. An unreachable collector causes one log line when the outage begins and one when it ends. Besides
//! these settings the exporter reads its own variables (`OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_RESOURCE_ATTRIBUTES` …: OpenTelemetry
//! specification, "Environment Variables").

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{WithExportConfig as _, WithTonicConfig as _};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::{
        ExportMetricsServiceRequest, metrics_service_client::MetricsServiceClient,
    },
    common::v1::InstrumentationScope,
    metrics::v1::{ResourceMetrics, ScopeMetrics},
    resource::v1::Resource as ResourceMessage,
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{
        BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider, SpanData, SpanExporter,
    },
};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint};
use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::{Layer, filter::filter_fn, registry::LookupSpan};

use super::numbers::{self, Times, attribute};
use crate::task::{self, Task};

const SERVICE: &str = "cachectld";
/// Timeout for connecting to the collector.
const CONNECT: Duration = Duration::from_secs(5);

/// Where traces and metrics are sent, and how many.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// The collector: `http://host:4317`, or `https://…`.
    pub endpoint: String,
    /// Timeout of one transmission.
    pub timeout: Duration,
    /// Maximum queued spans; more are dropped.
    pub queue: usize,
    /// Longest time that a span is queued.
    pub spans_every: Duration,
    /// Interval between two reads of the metrics.
    pub numbers_every: Duration,
    /// Fraction of the traces begun here that is sent, 0 to 1. For requests within a trace, the caller has already decided.
    pub sample: f64,
}

impl Config {
    /// The usual settings for a collector.
    pub fn new(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            timeout: Duration::from_secs(10),
            queue: 4096,
            spans_every: Duration::from_secs(5),
            numbers_every: Duration::from_secs(30),
            sample: 1.0,
        }
    }
}

/// An exporter for a collector.
#[derive(Debug)]
pub struct Exporter {
    traces: SdkTracerProvider,
    numbers: Arc<Numbers>,
    pushing: Option<Task<()>>,
}

impl Exporter {
    /// Creates the exporter, which connects when there is something to send. Needs a running runtime.
    ///
    /// # Errors
    /// A message about what is wrong with the settings.
    pub fn open(config: &Config) -> Result<Self, String> {
        let channel = channel(config)?;
        let id = format!("{:016x}", fastrand::u64(..));
        let spans = opentelemetry_otlp::SpanExporter::builder()
            .with_tonic()
            .with_channel(channel.clone())
            .with_timeout(config.timeout)
            .build()
            .map_err(|e| e.to_string())?;
        let batches = BatchConfigBuilder::default()
            .with_max_queue_size(config.queue)
            .with_max_export_batch_size(config.queue.min(512))
            .with_scheduled_delay(config.spans_every)
            .build();
        let spans = BatchSpanProcessor::builder(ReportingExporter::new(spans))
            .with_batch_config(batches)
            .build();
        let sampler = Sampler::TraceIdRatioBased(config.sample.clamp(0.0, 1.0));
        let resource = Resource::builder().with_service_name(SERVICE);
        let resource = resource.with_attributes([
            opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            opentelemetry::KeyValue::new("service.instance.id", id.clone()),
        ]);
        let traces = SdkTracerProvider::builder()
            .with_span_processor(spans)
            .with_sampler(Sampler::ParentBased(Box::new(sampler)))
            .with_resource(resource.build())
            .build();
        let numbers = Arc::new(Numbers {
            client: MetricsServiceClient::new(channel),
            resource: resource_message(&id),
            since: nanos(SystemTime::now()),
            every: config.numbers_every,
            said: OutageLog::new("Metrics"),
        });
        Ok(Self {
            traces,
            numbers,
            pushing: None,
        })
    }

    /// Converts our spans, and warnings and errors to events of these spans.
    pub fn layer<S>(&self) -> impl Layer<S> + Send + Sync + 'static
    where
        S: Subscriber + for<'l> LookupSpan<'l> + Send + Sync,
    {
        tracing_opentelemetry::layer()
            .with_tracer(self.traces.tracer(SERVICE))
            // No library that we use asks OpenTelemetry for its current span.
            .with_context_activation(false)
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(filter_fn(is_exported))
    }

    /// From now on, periodically sends the metrics that `look` returns in the text format of `/metrics`.
    pub fn push(&mut self, look: impl Fn() -> String + Send + Sync + 'static) {
        let numbers = self.numbers.clone();
        let pushing = task::spawn("push metrics", async move {
            loop {
                tokio::time::sleep(numbers.every).await;
                numbers.send(&look()).await;
            }
        });
        self.pushing = Some(pushing);
    }

    /// Sends everything that is left, and `last` (in the format of [`Self::push`]), for at most `limit`.
    pub async fn close(mut self, last: Option<String>, limit: Duration) {
        self.pushing = None;
        let traces = self.traces;
        let spans = task::blocking(move || traces.shutdown_with_timeout(limit));
        let numbers = async {
            if let Some(last) = last {
                self.numbers.send(&last).await;
            }
        };
        let both = async { futures_util::future::join(spans, numbers).await.0 };
        match tokio::time::timeout(limit, both).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "Could not send the last spans"),
            Err(_) => tracing::warn!("Could not send the last spans and metrics in time"),
        }
    }
}

/// A connection that is opened on demand, and reopened when it is lost.
fn channel(config: &Config) -> Result<Channel, String> {
    let endpoint = config.endpoint.trim();
    let shown = crate::redact::url(endpoint);
    let refused = |why: &dyn fmt::Display| format!("`{shown}` is not an OTLP endpoint: {why}");
    let secure = match endpoint.split_once("://") {
        Some(("http", _)) => false,
        Some(("https", _)) => true,
        _ => return Err(refused(&"write http://HOST:4317 or https://HOST:4317")),
    };
    let mut to = Endpoint::from_shared(endpoint.to_owned())
        .map_err(|e| refused(&e))?
        .connect_timeout(CONNECT)
        .timeout(config.timeout);
    if secure {
        let tls = ClientTlsConfig::new().with_native_roots();
        to = to.tls_config(tls).map_err(|e| refused(&e))?;
    }
    Ok(to.connect_lazy())
}

/// Exports our spans down to `debug`, but not tasks, which are not steps of a request, and nothing that the exporter itself does.
fn is_exported(meta: &Metadata<'_>) -> bool {
    let ours = meta.target().starts_with("cachectl");
    if meta.is_span() {
        ours && *meta.level() <= Level::DEBUG && meta.name() != "task"
    } else {
        ours && *meta.level() <= Level::WARN
    }
}

fn resource_message(instance: &str) -> ResourceMessage {
    ResourceMessage {
        attributes: vec![
            attribute("service.name", SERVICE),
            attribute("service.version", env!("CARGO_PKG_VERSION")),
            attribute("service.instance.id", instance),
        ],
        ..ResourceMessage::default()
    }
}

fn nanos(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |s| u64::try_from(s.as_nanos()).unwrap_or(u64::MAX))
}

/// The exporter of metrics.
#[derive(Debug)]
struct Numbers {
    client: MetricsServiceClient<Channel>,
    resource: ResourceMessage,
    since: u64,
    every: Duration,
    said: OutageLog,
}

impl Numbers {
    async fn send(&self, text: &str) {
        let times = Times {
            since: self.since,
            now: nanos(SystemTime::now()),
        };
        let request = ExportMetricsServiceRequest {
            resource_metrics: vec![ResourceMetrics {
                resource: Some(self.resource.clone()),
                scope_metrics: vec![ScopeMetrics {
                    scope: Some(InstrumentationScope {
                        name: SERVICE.to_owned(),
                        version: env!("CARGO_PKG_VERSION").to_owned(),
                        ..InstrumentationScope::default()
                    }),
                    metrics: numbers::read(text, times),
                    ..ScopeMetrics::default()
                }],
                ..ResourceMetrics::default()
            }],
        };
        // A clone shares the connection.
        let sent = self.client.clone().export(request).await;
        self.said.about(sent.as_ref().map(drop));
    }
}

/// The exporter of spans, which reports outages.
#[derive(Debug)]
struct ReportingExporter {
    inner: opentelemetry_otlp::SpanExporter,
    said: OutageLog,
}

impl ReportingExporter {
    fn new(inner: opentelemetry_otlp::SpanExporter) -> Self {
        Self {
            inner,
            said: OutageLog::new("Spans"),
        }
    }
}

impl SpanExporter for ReportingExporter {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let sent = self.inner.export(batch).await;
        self.said.about(sent.as_ref().map(drop));
        sent
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Logs once that the collector is unreachable, and once that it is back.
#[derive(Debug)]
struct OutageLog {
    what: &'static str,
    away: AtomicBool,
}

impl OutageLog {
    fn new(what: &'static str) -> Self {
        Self {
            what,
            away: AtomicBool::new(false),
        }
    }

    fn about(&self, sent: Result<(), &impl fmt::Display>) {
        let was_away = self.away.swap(sent.is_err(), Relaxed);
        match sent {
            Err(error) if !was_away => {
                tracing::warn!(what = self.what, %error, "The OTLP collector does not accept data");
            }
            Ok(()) if was_away => {
                tracing::info!(what = self.what, "The OTLP collector accepts data again")
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
