use std::net::SocketAddr;

use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    trace::v1::{Span as Exported, span::SpanKind},
};
use parking_lot::Mutex;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};
use tracing::field::Empty;
use tracing_subscriber::layer::SubscriberExt as _;

use super::*;
use crate::{metrics::Metrics, trace};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// A collector that keeps what it gets.
#[derive(Clone, Default)]
struct Collector {
    got: Arc<Mutex<Got>>,
}

#[derive(Default)]
struct Got {
    spans: Vec<ExportTraceServiceRequest>,
    numbers: Vec<ExportMetricsServiceRequest>,
}

impl Collector {
    fn spans(&self) -> Vec<Exported> {
        let requests = self.got.lock().spans.clone().into_iter();
        let scopes = requests
            .flat_map(|r| r.resource_spans)
            .flat_map(|r| r.scope_spans);
        scopes.flat_map(|s| s.spans).collect()
    }

    async fn start() -> (Self, SocketAddr, Task<()>) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let serving = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .add_service(MetricsServiceServer::new(collector.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = task::spawn("collector", async move { serving.await.unwrap() });
        (collector, addr, server)
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.got.lock().spans.push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.got.lock().numbers.push(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

const SOON: Duration = Duration::from_mins(1);

/// Settings that send nothing by themselves while a test lasts.
fn config(addr: SocketAddr) -> Config {
    Config {
        spans_every: Duration::from_hours(1),
        numbers_every: Duration::from_hours(1),
        timeout: Duration::from_secs(2),
        ..Config::new(format!("http://{addr}"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_reach_the_collector_in_the_trace_of_who_asked() {
    let (collector, addr, _server) = Collector::start().await;
    let exporter = Exporter::open(&config(addr)).unwrap();
    let subscriber = tracing_subscriber::registry().with(exporter.layer());
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request", otel.name = Empty, otel.kind = Empty);
        let name = || "GET /v2/".to_owned();
        let begun = trace::begin(&span, Some(PARENT.parse().unwrap()), name);
        assert!(begun.exported);
        let _in = span.enter();
        let _task = tracing::debug_span!("task", name = "x").entered();
        let inner = tracing::debug_span!("store stat", tier = "local").entered();
        let out = trace::current().unwrap().to_string();
        assert!(out.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
        assert_ne!(
            out,
            begun.context.to_string(),
            "stores see the span that asks them"
        );
        tracing::warn!("Slow");
        drop(inner);
        tracing::info_span!(target: "h2::client", "not ours").in_scope(|| ());
    });
    exporter.close(None, SOON).await;
    let spans = collector.spans();
    let names: Vec<&str> = spans.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["store stat", "GET /v2/"]);
    let [inner, root] = &spans[..] else { panic!() };
    assert_eq!(const_hex::encode(&root.parent_span_id), "b7ad6b7169203331");
    assert_eq!(root.kind(), SpanKind::Server);
    assert_eq!(inner.parent_span_id, root.span_id);
    assert_eq!(inner.trace_id, root.trace_id);
    assert_eq!(inner.events.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn numbers_are_pushed_and_a_last_time_at_the_end() {
    let (collector, addr, _server) = Collector::start().await;
    let quick = Config {
        numbers_every: Duration::from_millis(10),
        ..config(addr)
    };
    let mut exporter = Exporter::open(&quick).unwrap();
    let metrics = Arc::new(Metrics::new());
    let looked = metrics.clone();
    exporter.push(move || looked.encode());
    let first = async {
        while collector.got.lock().numbers.is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(SOON, first).await.unwrap();
    metrics.uploads.expired.inc_by(3);
    exporter.close(Some(metrics.encode()), SOON).await;
    let last = collector.got.lock().numbers.last().unwrap().clone();
    let resource = &last.resource_metrics[0];
    let named = attribute("service.name", "cachectld");
    assert!(
        resource
            .resource
            .as_ref()
            .unwrap()
            .attributes
            .contains(&named)
    );
    let text = format!("{:?}", resource.scope_metrics[0].metrics);
    assert!(text.contains("cachectld_uploads_expired_total") && text.contains("AsInt(3)"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_hangs_holds_up_nobody_and_the_queue_stays_short() {
    // Takes connections and never answers.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = Config {
        queue: 16,
        spans_every: Duration::from_millis(1),
        ..config(listener.local_addr().unwrap())
    };
    let exporter = Exporter::open(&hanging).unwrap();
    let subscriber = tracing_subscriber::registry().with(exporter.layer());
    // Whoever waited for the collector would wait forever.
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..10_000 {
            drop(tracing::info_span!("request").entered());
        }
    });
    exporter
        .close(Some(String::new()), Duration::from_millis(300))
        .await;
}

#[tokio::test]
async fn traces_that_their_beginner_left_out_are_left_out_here() {
    let (collector, addr, _server) = Collector::start().await;
    let exporter = Exporter::open(&config(addr)).unwrap();
    let subscriber = tracing_subscriber::registry().with(exporter.layer());
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request");
        let unsampled = PARENT.replace("-01", "-00").parse().unwrap();
        let begun = trace::begin(&span, Some(unsampled), String::new);
        assert!(!begun.exported);
        assert_eq!(begun.context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
        drop(span.entered());
    });
    exporter.close(None, SOON).await;
    assert_eq!(collector.spans(), []);
}

#[tokio::test]
async fn nonsense_endpoints_are_refused_with_what_to_write() {
    for bad in ["", "collector:4317", "grpc://collector:4317", "http://"] {
        let why = Exporter::open(&Config::new(bad)).unwrap_err();
        assert!(why.contains("not an OTLP endpoint"), "{bad}: {why}");
    }
}
