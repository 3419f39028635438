//! `docs/telemetry.md` shows the catalogue of metrics, and the code asks for nothing else.

use std::collections::BTreeSet;
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
        "rpc.status_code" => "`rpc.status_code`: names of gRPC's codes".to_owned(),
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

/// Where the chart has them; deploy/observability leads there.
const FOLDER: &str = "helm/muster/observability/";

/// Words of an expression that could be names of metrics.
fn names(text: &str) -> impl Iterator<Item = &str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'));
    let ours = ["muster_", "messaging_", "rpc_", "muster:"];
    words.filter(move |word| ours.iter().any(|start| word.starts_with(start)))
}

/// Names that Prometheus knows: of metrics, of their series, and of labels.
fn known() -> BTreeSet<String> {
    let mut known = BTreeSet::new();
    for metric in CATALOGUE {
        let name = metric.prometheus();
        if matches!(metric.kind, Kind::Histogram(_)) {
            known.extend(["_bucket", "_count", "_sum"].map(|end| format!("{name}{end}")));
        }
        known.insert(name);
        known.extend(metric.labels.iter().map(|label| label.name.replace('.', "_")));
    }
    known
}

#[test]
fn rules_and_dashboards_ask_for_what_is_told() {
    let tree = Tree::read();
    let file = |name: &str| {
        let found = tree.files().find(|(path, _)| *path == format!("{FOLDER}{name}"));
        found.expect("the file is there").1.to_owned()
    };
    let rules = file("rules.yaml");
    let mut known = known();
    known.extend(rules.lines().filter_map(|line| line.trim().strip_prefix("- record: ").map(str::to_owned)));
    let files = tree.files().filter(|(path, _)| path.starts_with(FOLDER));
    let (mut dashboards, mut unknown) = (0, Vec::new());
    for (path, text) in files.filter(|(path, _)| path.ends_with(".json") || path.ends_with("rules.yaml")) {
        dashboards += usize::from(path.ends_with(".json"));
        // Only expressions: titles and addresses are words too.
        let expressions = text.lines().filter(|line| !line.contains("http") && !line.contains("\"uid\""));
        let asked = expressions.flat_map(names).filter(|name| !known.contains(*name));
        unknown.extend(asked.map(|name| format!("{path}: {name}")));
    }
    assert_eq!((dashboards, unknown), (5, Vec::<String>::new()));
}

#[test]
fn every_alert_is_tested_and_has_a_place_in_the_runbook() {
    let tree = Tree::read();
    let file = |name: &str| tree.files().find(|(path, _)| *path == name).expect("the file is there").1;
    let (rules, tests) =
        (file("deploy/observability/rules.yaml"), file("deploy/observability/rules_test.yaml"));
    let runbook = file("docs/runbook.md");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 10, "{alerts:?}");
    for alert in alerts {
        assert!(rules.contains(&format!("docs/runbook.md#{}\n", alert.to_lowercase())), "{alert} has a link");
        let section = runbook.split("\n## ").find(|section| section.starts_with(&format!("{alert}\n")));
        let section = section.unwrap_or_else(|| panic!("docs/runbook.md has no {alert}"));
        for part in ["**Means**", "**Look**", "**Do**"] {
            assert!(section.contains(part), "{alert}: {part}");
        }
        let mut tested = tests.split("alertname: ").filter(|part| part.starts_with(&format!("{alert}\n")));
        let (quiet, fires): (Vec<_>, Vec<_>) =
            tested.by_ref().partition(|part| part.lines().nth(1).is_some_and(|line| line.contains("[]")));
        assert!(!quiet.is_empty() && !fires.is_empty(), "{alert} is shown firing and not firing");
    }
}
