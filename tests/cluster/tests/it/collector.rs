//! A real OpenTelemetry collector, and a fleet that tells it what it does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cluster::{NAMESPACE, NODE, root, tool};
use live::{Fleet, Process, until};
use runtime::tls::TlsFiles;
use serde_json::{Value, json};

use super::release::{listens, loopback};

/// Options with which services and agents tell of every change.
pub(crate) const TRACE_ALL: [&str; 2] = ["--trace-agents", "100"];

/// A kind, its policy `app` with a number in it, and groups.
pub(crate) fn app(groups: &str, n: u64) -> String {
    format!(
        "{{apiVersion: muster.dev/v1alpha1, kind: PolicyKind, metadata: {{name: app}}, spec: {{schema: {{type: object}}}}}}
---
{{apiVersion: muster.dev/v1alpha1, kind: Policy, metadata: {{name: app}}, spec: {{kind: app, document: {{n: {n}}}}}}}
---
{groups}"
    )
}

/// The attributes of a span, a point or a line of a log, as texts.
pub(crate) fn attributes(of: &Value) -> BTreeMap<String, String> {
    let pairs = of["attributes"].as_array().cloned().unwrap_or_default();
    let value = |pair: &Value| {
        let value = pair["value"].as_object().and_then(|value| value.values().next()).cloned();
        value
            .map_or_else(String::new, |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    pairs.iter().map(|pair| (pair["key"].as_str().unwrap_or_default().to_owned(), value(pair))).collect()
}

/// A collector that runs.
pub(crate) struct Collector {
    dir: PathBuf,
    scheme: &'static str,
    address: SocketAddr,
    process: Process,
}

impl Collector {
    /// One that writes what it hears to files.
    pub(crate) async fn start(dir: &Path) -> Self {
        Self::with_tls(dir, None).await
    }

    /// The same behind a certificate, if there is one.
    pub(crate) async fn with_tls(dir: &Path, tls: Option<TlsFiles>) -> Self {
        let files = dir.join("otel");
        let file = |name: &str| json!({ "path": files.join(name), "flush_interval": "100ms" });
        let pipeline = |name: &str| json!({ "receivers": ["otlp"], "exporters": [format!("file/{name}")] });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.map(|TlsFiles { cert, key, .. }| json!({ "cert_file": cert, "key_file": key }));
        let collector = Self::of(dir, |address| {
            let config = json!({
                "receivers": { "otlp": { "protocols": { "grpc": { "endpoint": address.to_string(), "tls": tls } } } },
                "exporters": { "file/traces": file("traces"), "file/metrics": file("metrics"), "file/logs": file("logs") },
                "service": {
                    "telemetry": { "metrics": { "level": "none" } },
                    "pipelines": {
                        "traces": pipeline("traces"), "metrics": pipeline("metrics"), "logs": pipeline("logs"),
                    },
                },
            });
            config.to_string()
        })
        .await;
        Self { scheme, ..collector }
    }

    /// The example of deploy/observability, and where it gives metrics to Prometheus. The backend is not there.
    pub(crate) async fn of_the_example(dir: &Path) -> (Self, SocketAddr) {
        let scraped = loopback();
        let example = fs::read_to_string(root().join("deploy/observability/collector.yaml")).unwrap();
        let collector = Self::of(dir, |address| {
            let moved =
                [("0.0.0.0:4317", address), ("127.0.0.1:8889", scraped), ("tempo.example:4317", loopback())];
            moved.into_iter().fold(example, |text, (from, to)| {
                assert!(text.contains(from), "the example has {from}");
                text.replace(from, &to.to_string())
            })
        })
        .await;
        (collector, scraped)
    }

    /// One that has no memory left from its first look on.
    pub(crate) async fn full(dir: &Path) -> Self {
        let collector = Self::of(dir, |address| {
            let pipeline =
                json!({ "receivers": ["otlp"], "processors": ["memory_limiter"], "exporters": ["debug"] });
            let config = json!({
                "receivers": { "otlp": { "protocols": { "grpc": { "endpoint": address.to_string() } } } },
                "processors": { "memory_limiter": { "check_interval": "100ms", "limit_mib": 1 } },
                "exporters": { "debug": {} },
                "service": {
                    "telemetry": { "metrics": { "level": "none" } },
                    "pipelines": { "traces": pipeline, "metrics": pipeline, "logs": pipeline },
                },
            });
            config.to_string()
        })
        .await;
        until("the collector takes no more", || {
            let log = collector.log();
            if log.contains("Refusing data") { Ok(()) } else { Err(log) }
        })
        .await;
        collector
    }

    /// One with any configuration that takes OTLP at an address.
    pub(crate) async fn of(dir: &Path, config: impl FnOnce(SocketAddr) -> String) -> Self {
        let (address, dir) = (loopback(), dir.join("otel"));
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("config.yaml"), config(address)).unwrap();
        let mut command = tokio::process::Command::new(tool("otelcol"));
        command.arg("--config").arg(dir.join("config.yaml"));
        let process = Process::of(&dir, "otelcol", command);
        listens(&process, address).await;
        Self { dir, scheme: "http", address, process }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// What it says of itself.
    pub(crate) fn log(&self) -> String {
        self.process.log()
    }

    /// What it wrote of a signal.
    pub(crate) fn text(&self, name: &str) -> String {
        fs::read_to_string(self.dir.join(name)).unwrap_or_default()
    }

    /// What was heard of a signal: the members of `outer`, `inner` and `leaf` below each other in each line.
    pub(crate) fn all(&self, name: &str, [outer, inner, leaf]: [&str; 3]) -> Vec<Value> {
        let lines = self.lines(name);
        let members = |values: Vec<Value>, key: &str| -> Vec<Value> {
            values.iter().flat_map(|value| value[key].as_array().cloned().unwrap_or_default()).collect()
        };
        members(members(members(lines, outer), inner), leaf)
    }

    /// What of a signal was heard, line by line. The last line may be half written.
    fn lines(&self, name: &str) -> Vec<Value> {
        self.text(name).lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Who told metrics: the attributes of each, as `name=value`.
    pub(crate) fn tellers(&self) -> BTreeSet<BTreeSet<String>> {
        let lines = self.lines("metrics");
        let all = lines.iter().flat_map(|line| line["resourceMetrics"].as_array().into_iter().flatten());
        let pairs = |told: &Value| attributes(&told["resource"]).into_iter();
        all.map(|told| pairs(told).map(|(name, value)| name + "=" + &value).collect()).collect()
    }

    /// Waits until the process of a Pod has told metrics, with what Kubernetes knows of it and this attribute.
    pub(crate) async fn hears_of(&self, pod: &str, further: &str) {
        let known = [
            format!("k8s.namespace.name={NAMESPACE}"),
            format!("k8s.pod.name={pod}"),
            format!("k8s.node.name={NODE}"),
            further.to_owned(),
        ];
        until(format!("a collector hears of {pod}"), || {
            let tellers = self.tellers();
            let told = tellers.iter().any(|told| known.iter().all(|known| told.contains(known)));
            if told { Ok(()) } else { Err(format!("{tellers:?}")) }
        })
        .await;
    }

    /// What the process says of itself that told of a span.
    pub(crate) fn teller(&self, span: &Value) -> BTreeMap<String, String> {
        let lines = self.lines("traces");
        let told = |resource: &&Value| {
            let scopes = resource["scopeSpans"].as_array().into_iter().flatten();
            let mut spans = scopes.flat_map(|scope| scope["spans"].as_array().into_iter().flatten());
            spans.any(|one| one["spanId"] == span["spanId"])
        };
        let all = lines.iter().flat_map(|line| line["resourceSpans"].as_array().into_iter().flatten());
        attributes(&all.into_iter().find(told).expect("somebody told it")["resource"])
    }

    pub(crate) fn spans(&self) -> Vec<Value> {
        self.all("traces", ["resourceSpans", "scopeSpans", "spans"])
    }
}

/// The environment of a process that tells a collector, soon.
pub(crate) fn environment(endpoint: &str) -> [(&str, &str); 4] {
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint),
        ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ("OTEL_BLRP_SCHEDULE_DELAY", "100"),
        ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
    ]
}

/// A control plane that tells a collector.
pub(crate) async fn telling_fleet(endpoint: &str) -> Fleet {
    let mut fleet = Fleet::start_with(&TRACE_ALL).await;
    fleet.services[0].process.stop().await;
    fleet.restart_with(0, &environment(endpoint)).await;
    fleet
}
