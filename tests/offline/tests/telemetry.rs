//! `docs/telemetry.md` shows the catalogue of metrics, and the code asks for nothing else.

use std::fmt::Write as _;

use offline::{Tree, golden};
use runtime::telemetry::{CATALOGUE, Kind, Metric};

const PAGE: &str = "docs/telemetry.md";
const BEGIN: &str = "<!-- metrics: written by UPDATE=1 cargo test -p offline -->\n";
const END: &str = "<!-- end of metrics -->\n";

/// The page around the table is written by hand.
#[test]
fn the_page_shows_the_catalogue() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join(PAGE)).expect("the page is there");
    let (before, rest) = page.split_once(BEGIN).expect("the table has a beginning");
    let (_, after) = rest.split_once(END).expect("the table has an end");
    golden::compare(PAGE, &format!("{before}{BEGIN}\n{}\n{END}{after}", table()));
}

fn table() -> String {
    let mut text =
        "| metric | kind | unit | labels | told by | meaning |\n| --- | --- | --- | --- | --- | --- |\n"
            .to_owned();
    for metric in CATALOGUE {
        let Metric { name, unit, by, meaning, .. } = metric;
        let labels = if metric.labels.is_empty() { "-".to_owned() } else { labels(metric) };
        writeln!(text, "| `{name}` | {} | `{unit}` | {labels} | {by} | {meaning} |", kind(metric.kind))
            .expect("a text grows");
    }
    text
}

fn kind(kind: Kind) -> &'static str {
    match kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    }
}

fn labels(metric: &Metric) -> String {
    let label = |label: &runtime::telemetry::Label| match label.name {
        "rpc.method" => "`rpc.method`: the methods of the API, `_OTHER`".to_owned(),
        "rpc.response.status_code" => "`rpc.response.status_code`: names of gRPC's codes".to_owned(),
        name => {
            let values: Vec<String> = label.values.iter().map(|value| format!("`{value}`")).collect();
            format!("`{name}`: {}", values.join(", "))
        }
    };
    metric.labels.iter().map(label).collect::<Vec<_>>().join("; ")
}

/// Instruments come from the catalogue, traces from `spans`: nobody else has an OpenTelemetry of their own.
#[test]
fn only_telemetry_knows_opentelemetry() {
    let tree = Tree::read();
    let outside = tree.ending(".rs").filter(|(path, _)| !path.starts_with("crates/runtime/src/telemetry"));
    let found: Vec<_> = outside
        .filter(|(_, text)| text.contains(concat!("opentelemetry", "::")))
        .map(|(path, _)| path)
        .collect();
    assert_eq!(found, [] as [&str; 0]);
}
