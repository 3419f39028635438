//! Exporters, as the standard variables describe them, and what those do not say by themselves.

use std::env;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, RetryPolicy, SpanExporter, WithTonicConfig,
};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::metrics::Temporality;
use opentelemetry_sdk::metrics::data::ResourceMetrics;
use opentelemetry_sdk::metrics::exporter::PushMetricExporter;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::tls::machine_trusts_nobody;

/// Why an exporter cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    /// Another protocol is asked for.
    #[error("{variable} is {value:?}: telemetry is exported with grpc only")]
    Protocol {
        /// The variable.
        variable: String,
        /// What it says.
        value: String,
    },
    /// A file that a variable names cannot be read.
    #[error("the file {path:?} that {variable} names cannot be read")]
    File {
        /// The variable.
        variable: &'static str,
        /// The file.
        path: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The endpoint, the headers or the compression are not valid.
    #[error("the exporter cannot be made")]
    Build(#[from] ExporterBuildError),
}

/// Which signals are exported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) traces: bool,
    pub(super) metrics: bool,
    pub(super) logs: bool,
}

impl Wanted {
    pub(super) fn from_env() -> Result<Self, ExporterError> {
        Self::read(|name| env::var(name).ok().filter(|value| !value.is_empty()))
    }

    /// A signal is exported if an endpoint is given, for it or for all, and nobody turned it off.
    pub(super) fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self, ExporterError> {
        let says = |name: &str, value: &str| get(name).is_some_and(|found| found.eq_ignore_ascii_case(value));
        if says("OTEL_SDK_DISABLED", "true") {
            return Ok(Self::default());
        }
        let wanted = |signal: &str| {
            let own = |what: &str| format!("OTEL_EXPORTER_OTLP_{signal}_{what}");
            let endpoint = get(&own("ENDPOINT")).or_else(|| get("OTEL_EXPORTER_OTLP_ENDPOINT"));
            if endpoint.is_none() || says(&format!("OTEL_{signal}_EXPORTER"), "none") {
                return Ok(false);
            }
            for variable in [own("PROTOCOL"), "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned()] {
                match get(&variable) {
                    Some(value) if value == "grpc" => break,
                    Some(value) => return Err(ExporterError::Protocol { variable, value }),
                    None => {}
                }
            }
            Ok(true)
        };
        Ok(Self { traces: wanted("TRACES")?, metrics: wanted("METRICS")?, logs: wanted("LOGS")? })
    }

    pub(super) fn is_nothing(self) -> bool {
        self == Self::default()
    }
}

/// How often what was not taken is exported again. By one who waits for it never: that nobody listens is known at once.
pub(super) fn retries(waits: bool) -> RetryPolicy {
    if waits { RetryPolicy::disabled() } else { RetryPolicy::default() }
}

pub(super) fn spans(tls: ClientTlsConfig, retries: RetryPolicy) -> Result<SpanExporter, ExporterError> {
    Ok(SpanExporter::builder().with_tonic().with_tls_config(tls).with_retry_policy(retries).build()?)
}

pub(super) fn logs(tls: ClientTlsConfig, retries: RetryPolicy) -> Result<LogExporter, ExporterError> {
    Ok(LogExporter::builder().with_tonic().with_tls_config(tls).with_retry_policy(retries).build()?)
}

pub(super) fn metrics(tls: ClientTlsConfig) -> Result<Watched, ExporterError> {
    let exporter = MetricExporter::builder().with_tonic().with_tls_config(tls).build()?;
    Ok(Watched { exporter, failing: AtomicBool::new(false) })
}

/// How collectors behind `https` are verified: with the certificates that a variable names, else as this machine does, else
/// as public websites are. Those behind `http` need nothing of it, and get it all the same.
pub(super) fn tls() -> Result<ClientTlsConfig, ExporterError> {
    let read = |variable: &'static str| {
        let path = env::var(variable).ok().filter(|path| !path.is_empty());
        let text =
            path.map(|path| fs::read(&path).map_err(|source| ExporterError::File { variable, path, source }));
        text.transpose()
    };
    let config = ClientTlsConfig::new();
    let config = match read("OTEL_EXPORTER_OTLP_CERTIFICATE")? {
        Some(certificate) => config.ca_certificate(Certificate::from_pem(certificate)),
        None if machine_trusts_nobody() => config.with_webpki_roots(),
        None => config.with_native_roots(),
    };
    let certificate = read("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE")?;
    Ok(match (certificate, read("OTEL_EXPORTER_OTLP_CLIENT_KEY")?) {
        (Some(certificate), Some(key)) => config.identity(Identity::from_pem(certificate, key)),
        (Some(_) | None, None) | (None, Some(_)) => config,
    })
}

/// The exporter of metrics, which is at work all the time: the log tells by it when the collector goes and comes.
#[derive(Debug)]
pub(super) struct Watched {
    exporter: MetricExporter,
    failing: AtomicBool,
}

impl PushMetricExporter for Watched {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let result = self.exporter.export(metrics).await;
        let failed = result.is_err();
        if self.failing.swap(failed, Ordering::Relaxed) != failed {
            match &result {
                Err(error) => tracing::warn!(%error, "telemetry is not taken by the collector and gets lost"),
                Ok(()) => tracing::info!("telemetry is taken by the collector again"),
            }
        }
        result
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}
