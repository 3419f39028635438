//! A collector in this process: takes telemetry over OTLP with gRPC, reads it and counts it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Result;
use opentelemetry_proto::tonic::collector::logs::v1::logs_service_server::{LogsService, LogsServiceServer};
use opentelemetry_proto::tonic::collector::logs::v1::{ExportLogsServiceRequest, ExportLogsServiceResponse};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// What a sink heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// Spans.
    pub spans: u64,
    /// Metrics, each export of one counted.
    pub metrics: u64,
    /// Lines of logs.
    pub logs: u64,
}

#[derive(Debug, Default)]
struct Counts {
    spans: AtomicU64,
    metrics: AtomicU64,
    logs: AtomicU64,
}

/// What a collector does with what it is told.
#[derive(Debug, Clone, Copy)]
pub enum Manner {
    /// Reads and counts it.
    Takes,
    /// The same, and answers only after this time.
    Late(Duration),
    /// Takes nothing: it has too much to do.
    Refuses,
}

#[derive(Debug, Clone)]
struct Counter(Arc<Counts>, Manner);

impl Counter {
    async fn behave(&self) -> Result<(), Status> {
        match self.1 {
            Manner::Takes => Ok(()),
            Manner::Late(by) => {
                tokio::time::sleep(by).await;
                Ok(())
            }
            Manner::Refuses => Err(Status::resource_exhausted("too much to do")),
        }
    }
}

/// A running collector; it ends when this is dropped.
pub struct Sink {
    endpoint: String,
    counter: Counter,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Sink {
    /// Starts it on a free port of loopback.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start(manner: Manner) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let counter = Counter(Arc::default(), manner);
        let server = Server::builder()
            .add_service(TraceServiceServer::new(counter.clone()))
            .add_service(MetricsServiceServer::new(counter.clone()))
            .add_service(LogsServiceServer::new(counter.clone()));
        let serving = tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
        Ok(Self { endpoint, counter, serving })
    }

    /// Where it listens, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// What it has heard so far.
    #[must_use]
    pub fn heard(&self) -> Heard {
        let Counts { spans, metrics, logs } = &*self.counter.0;
        let [spans, metrics, logs] = [spans, metrics, logs].map(|count| count.load(Ordering::Relaxed));
        Heard { spans, metrics, logs }
    }
}

/// Adds the lengths of some lists.
fn add(to: &AtomicU64, lengths: impl Iterator<Item = usize>) {
    to.fetch_add(lengths.map(|length| length as u64).sum(), Ordering::Relaxed);
}

#[tonic::async_trait]
impl TraceService for Counter {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|of| of.scope_spans);
        self.behave().await?;
        add(&self.0.spans, scopes.map(|scope| scope.spans.len()));
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Counter {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_metrics.into_iter().flat_map(|of| of.scope_metrics);
        self.behave().await?;
        add(&self.0.metrics, scopes.map(|scope| scope.metrics.len()));
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Counter {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        let scopes = request.into_inner().resource_logs.into_iter().flat_map(|of| of.scope_logs);
        self.behave().await?;
        add(&self.0.logs, scopes.map(|scope| scope.log_records.len()));
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}
