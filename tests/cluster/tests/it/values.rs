//! The files of values that come with the chart.

use std::path::PathBuf;

use cluster::{Chart, chart_dir};

/// All of them, with what they name and the chart does not make.
pub(crate) fn files() -> Vec<(PathBuf, &'static [&'static str])> {
    let mut found = Vec::new();
    for folder in [chart_dir(), chart_dir().join("examples")] {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if name.ends_with(".yaml") && !["values.yaml", "Chart.yaml"].contains(&name.as_str()) {
                let given: &[&str] = match name.as_str() {
                    "external-nats.yaml" => &[
                        "policy-keys",
                        "content-keys",
                        "presence-keys",
                        "identity-keys",
                        "nats-ca",
                        "api-tls",
                    ],
                    "gateway.yaml" => &["muster-ca"],
                    "ingress.yaml" => &["muster-example-org"],
                    "node-agents.yaml" => &["muster-join"],
                    "object-store.yaml" => &["backup-bucket"],
                    "web-socket.yaml" => &["agents-ca", "nats-example-org"],
                    _ => &[],
                };
                found.push((path, given));
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "the files of values are seen");
    found
}

/// The chart with one of the files.
pub(crate) fn chart(path: &std::path::Path) -> Chart {
    Chart::new().file(path)
}
