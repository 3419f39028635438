//! Traces, metrics and logs for an OpenTelemetry collector.
//!
//! The standard `OTEL_*` variables say where to (OTLP over gRPC). Without an endpoint nothing is exported, no span is
//! made and nothing is counted: what each call costs then is one look at a flag.
//!
//! Exporting has threads of its own, and a connection on a runtime of its own: a collector that is slow or away holds
//! up nobody. What it does not take is dropped when the queues of the SDK are full, and one line in the log says that
//! it begins and that it is over.

mod catalogue;
mod command;
mod exporters;
mod format;
pub mod metrics;
pub mod spans;

use std::env;
use std::io::IsTerminal as _;
use std::time::Duration;

use clap::Args;
use futures::FutureExt as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_otlp::RetryPolicy;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::logs::SdkLoggerProvider;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanLimits};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt as _, FilterFn, filter_fn};
use tracing_subscriber::layer::{Layer, SubscriberExt as _};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::log::{self, LogConfig, LogError};
use format::WithTrace;

pub use catalogue::{CATALOGUE, Kind, Label, Metric, Name};
pub use command::{Command, parent};
pub use exporters::ExporterError;

/// How long a process that ends waits for what is still to be exported. Kubernetes kills 30 s after it asked; tasks and
/// connections take their part of that before.
pub const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a command waits for that at its end, which a person at a terminal waits for as well.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(1);

/// Most links of a span; more are left out.
pub const MAX_LINKS: u32 = 128;

/// The scope of everything that is exported.
const SCOPE: &str = "muster";

/// How much is told; where to say the `OTEL_*` variables.
#[derive(Debug, Clone, Args)]
pub struct TelemetryArgs {
    /// Percentage of agents that tell how a change went, as spans: others for each change. A failure is always told.
    /// The same for services and agents.
    #[arg(long, env = "MUSTER_TRACE_AGENTS", value_name = "PERCENT", default_value = "1", value_parser = percent, global = true)]
    pub trace_agents: f64,
}

fn percent(text: &str) -> Result<f64, String> {
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| "must be a number from 0 to 100")?;
    if (0.0..=100.0).contains(&percent) { Ok(percent) } else { Err("must be from 0 to 100".to_owned()) }
}

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// Logging could not start.
    #[error(transparent)]
    Log(#[from] LogError),
    /// An exporter cannot be made of what the variables say.
    #[error("telemetry cannot be exported; correct the OTEL_ variables, or set OTEL_SDK_DISABLED=true")]
    Exporter(#[from] ExporterError),
    /// There is no runtime for the connections to the collector.
    #[error("telemetry has no runtime")]
    Runtime(#[source] std::io::Error),
}

/// What is exported, until [`Telemetry::stop`].
#[must_use = "what is not stopped loses what it has not exported"]
#[derive(Debug, Default)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    logs: Option<SdkLoggerProvider>,
    /// Drives the connections to the collector.
    runtime: Option<tokio::runtime::Runtime>,
}

/// Starts logging, and telemetry as far as the `OTEL_*` variables ask for it, for the whole process. Call once, before
/// anything else, outside of a runtime. `service` is the name of the service where `OTEL_SERVICE_NAME` gives none.
///
/// # Errors
/// [`TelemetryError`] if the configuration is not valid. A collector that cannot be reached is none.
pub fn start(
    log: &LogConfig,
    args: &TelemetryArgs,
    service: &'static str,
) -> Result<Telemetry, TelemetryError> {
    let wanted = exporters::Wanted::from_env()?;
    let telemetry = export(wanted, Some(log), (service, args.trace_agents), exporters::retries(false))?;
    if !wanted.is_nothing() {
        tracing::info!(
            traces = wanted.traces,
            metrics = wanted.metrics,
            logs = wanted.logs,
            "telemetry is exported"
        );
    }
    Ok(telemetry)
}

/// The same for a program that is started for one thing and ends. It tells traces and logs: of metrics each run would make
/// series of its own. Without `log` nothing is said on standard error, and where nothing is exported nothing is logged.
///
/// # Errors
/// As [`start`].
pub fn start_command(log: Option<&LogConfig>, service: &'static str) -> Result<Telemetry, TelemetryError> {
    let wanted = exporters::Wanted { metrics: false, ..exporters::Wanted::from_env()? };
    export(wanted, log, (service, 0.0), exporters::retries(true))
}

fn export(
    wanted: exporters::Wanted,
    log: Option<&LogConfig>,
    (service, trace_agents): (&'static str, f64),
    retries: RetryPolicy,
) -> Result<Telemetry, TelemetryError> {
    if wanted.is_nothing() {
        log.map(log::init).transpose()?;
        return Ok(Telemetry::default());
    }
    // One worker is enough for three connections; what blocks has threads of its own.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("telemetry")
        .enable_all()
        .build()
        .map_err(TelemetryError::Runtime)?;
    let entered = runtime.enter();
    let tls = exporters::tls()?;
    let resource = resource(service);
    let traces = if wanted.traces {
        let limits = SpanLimits { max_links_per_span: MAX_LINKS, ..SpanLimits::default() };
        let builder =
            SdkTracerProvider::builder().with_batch_exporter(exporters::spans(tls.clone(), retries.clone())?);
        let builder = builder.with_sampler(spans::Told::from_env());
        Some(builder.with_span_limits(limits).with_resource(resource.clone()).build())
    } else {
        None
    };
    let metrics = if wanted.metrics {
        let builder = SdkMeterProvider::builder().with_periodic_exporter(exporters::metrics(tls.clone())?);
        Some(builder.with_resource(resource.clone()).build())
    } else {
        None
    };
    let logs = if wanted.logs {
        let builder = SdkLoggerProvider::builder().with_batch_exporter(exporters::logs(tls, retries)?);
        Some(builder.with_resource(resource).build())
    } else {
        None
    };
    drop(entered);
    install(log, traces.as_ref(), logs.as_ref())?;
    if let Some(provider) = &traces {
        spans::begin(provider.tracer(SCOPE), trace_agents);
    }
    if let Some(provider) = &metrics {
        metrics::begin(provider, service);
    }
    Ok(Telemetry { traces, metrics, logs, runtime: Some(runtime) })
}

impl Telemetry {
    /// The runtime of the connections to the collector, for what has to go on while the process is busy with something
    /// else; `None` if nothing is exported.
    #[must_use]
    pub fn runtime(&self) -> Option<&tokio::runtime::Handle> {
        self.runtime.as_ref().map(tokio::runtime::Runtime::handle)
    }

    /// Exports what is left, at most [`SHUTDOWN_TIMEOUT`]. The last thing a process does; later spans, metrics and logs
    /// are dropped.
    pub async fn stop(self) {
        self.stop_within(SHUTDOWN_TIMEOUT).await;
    }

    /// The same with another longest time.
    pub async fn stop_within(self, timeout: Duration) {
        let Self { traces, metrics, logs, runtime } = self;
        // Each waits for the network on a thread of its own.
        let ends = [
            traces.map(|provider| end(move || provider.shutdown_with_timeout(timeout)).boxed()),
            metrics.map(|provider| end(move || provider.shutdown_with_timeout(timeout)).boxed()),
            logs.map(|provider| end(move || provider.shutdown_with_timeout(timeout)).boxed()),
        ];
        let ended = futures::future::join_all(ends.into_iter().flatten());
        if tokio::time::timeout(timeout, ended).await.is_err() {
            tracing::warn!("the collector did not take the last of the telemetry in time: it is lost");
        }
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

/// Ends a provider on a thread that nobody has to wait for: the process may end before it does, which a blocking task of
/// the runtime would not let it.
fn end<E: Send + 'static>(
    shutdown: impl FnOnce() -> Result<(), E> + Send + 'static,
) -> impl Future<Output = ()> {
    let (done, ended) = tokio::sync::oneshot::channel();
    let started = std::thread::Builder::new().name("telemetry end".to_owned()).spawn(move || {
        let failed = shutdown().is_err();
        // Nobody may wait for it any more.
        let _heard = done.send(failed);
    });
    async move {
        if started.is_err() || ended.await.unwrap_or(true) {
            tracing::debug!("a part of the telemetry was not exported at the end");
        }
    }
}

/// Puts the layers together: logs for people and machines here, if they are asked for, spans and logs for the collector.
/// What libraries of the exporters say goes to no exporter, or each export would cause another.
fn install(
    log: Option<&LogConfig>,
    traces: Option<&SdkTracerProvider>,
    logs: Option<&SdkLoggerProvider>,
) -> Result<(), LogError> {
    let spans = traces.map(|provider| trace_layer(provider.tracer(SCOPE)));
    let own = filter_fn(|metadata| !metadata.is_span() && !is_of_exporters(metadata.target()));
    let filter = log.map_or_else(log::usual_filter, LogConfig::filter)?.and(own);
    let logs = logs.map(|provider| OpenTelemetryTracingBridge::new(provider).with_filter(filter));
    let lines = log.map(lines).transpose()?;
    tracing_subscriber::registry()
        .with(spans)
        .with(logs)
        .with(lines)
        .try_init()
        .map_err(|error| LogError::AlreadySet(Box::new(error)))
}

/// Logs on standard error.
fn lines<S>(log: &LogConfig) -> Result<impl Layer<S> + Send + Sync, LogError>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if log.is_text() {
        let colours = std::io::stderr().is_terminal();
        let format = WithTrace::text(tracing_subscriber::fmt::format().with_ansi(colours));
        lines.with_ansi(colours).event_format(format).boxed()
    } else {
        let format = tracing_subscriber::fmt::format().json().flatten_event(true);
        lines.json().event_format(WithTrace::json(format)).boxed()
    };
    let no_spans = filter_fn(|metadata| !metadata.is_span());
    Ok(lines.with_filter(log.filter()?.and(no_spans)))
}

/// Only spans of [`spans`] become spans of a trace; events are logs.
fn trace_layer<S, T>(tracer: T) -> impl Layer<S> + Send + Sync
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span> + Send + Sync,
    T: opentelemetry::trace::Tracer + Send + Sync + 'static,
    T::Span: Send + Sync,
{
    let only: FilterFn = filter_fn(|metadata| metadata.is_span() && metadata.target() == spans::TARGET);
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_filter(only.with_max_level_hint(LevelFilter::INFO))
}

/// Whether a line comes from what brings telemetry to the collector.
fn is_of_exporters(target: &str) -> bool {
    const LIBRARIES: [&str; 6] = ["tonic", "h2", "hyper", "hyper_util", "tower", "opentelemetry"];
    LIBRARIES.iter().any(|library| {
        target.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '_']))
    })
}

/// What is known of this process. The id of an instance is random: an agent's own would make series of its own.
fn resource(service: &'static str) -> Resource {
    let mut resource = Resource::builder();
    let named = |variable, part: &str| env::var(variable).is_ok_and(|value| value.contains(part));
    if !named("OTEL_SERVICE_NAME", "") && !named("OTEL_RESOURCE_ATTRIBUTES", "service.name=") {
        resource = resource.with_service_name(service);
    }
    if !named("OTEL_RESOURCE_ATTRIBUTES", "service.instance.id=") {
        resource = resource.with_attribute(KeyValue::new("service.instance.id", crate::ids::random_id()));
    }
    resource
        .with_attributes([
            KeyValue::new("service.namespace", SCOPE),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        ])
        .build()
}

#[cfg(test)]
mod tests;
