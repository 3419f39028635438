//! Who may connect to whom: as ARCHITECTURE.md says, and as NetworkPolicies are rendered.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::objects::{Objects, finds, labels};

/// From, to, port and protocol. Where a NetworkPolicy says no more than "anybody", the other side is `anywhere`.
pub(crate) type Edge = (String, String, String);

/// The heading below which ARCHITECTURE.md has the table.
const HEADING: &str = "## Who connects to whom";

/// The table of edges in a page: lines of `| from | to | port |`, cells with several names separated by commas.
///
/// # Panics
/// If there is no such table.
#[must_use]
pub fn documented(page: &str) -> BTreeSet<Edge> {
    let (_, section) = page.split_once(HEADING).expect("ARCHITECTURE.md has a section of edges");
    let section = section.split("\n## ").next().unwrap_or_default();
    let mut edges = BTreeSet::new();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.contains("---")).skip(1);
    for row in rows {
        let cells: Vec<Vec<String>> = row
            .trim_matches('|')
            .split('|')
            .map(|cell| cell.split(',').map(|name| name.trim().trim_matches('`').to_owned()).collect())
            .collect();
        for from in &cells[0] {
            for to in &cells[1] {
                edges.extend(cells[2].iter().map(|port| (from.clone(), to.clone(), port.clone())));
            }
        }
    }
    assert!(!edges.is_empty(), "the table of edges has rows");
    edges
}

/// What the NetworkPolicies of a release let through.
///
/// # Panics
/// If a policy is not of a form that this reads.
#[must_use]
pub fn rendered(objects: &Objects) -> BTreeSet<Edge> {
    let mut edges = BTreeSet::new();
    for policy in objects.of("NetworkPolicy") {
        let spec = &policy["spec"];
        for (_, pod) in objects.workloads() {
            let found = labels(&pod["metadata"]["labels"]);
            if !finds(&spec["podSelector"]["matchLabels"], &found) {
                continue;
            }
            let own = found["app.kubernetes.io/component"].clone();
            for (direction, side) in [("ingress", "from"), ("egress", "to")] {
                for rule in spec[direction].as_array().into_iter().flatten() {
                    for port in rule["ports"].as_array().expect("a rule names ports") {
                        let port = port_name(port);
                        for peer in peers(objects, &rule[side]) {
                            edges.insert(match direction {
                                "ingress" => (peer, own.clone(), port.clone()),
                                _ => (own.clone(), peer, port.clone()),
                            });
                        }
                    }
                }
            }
        }
    }
    edges
}

fn port_name(port: &Value) -> String {
    match port["protocol"].as_str() {
        Some("UDP") => format!("{}/udp", port["port"]),
        _ => port["port"].to_string(),
    }
}

fn peers(objects: &Objects, side: &Value) -> BTreeSet<String> {
    let Some(peers) = side.as_array() else { return BTreeSet::from(["anywhere".to_owned()]) };
    let mut found = BTreeSet::new();
    for peer in peers {
        let selector = &peer["podSelector"]["matchLabels"];
        assert!(selector.is_object(), "a peer of another kind: {peer}");
        for (_, pod) in objects.workloads() {
            let labels = labels(&pod["metadata"]["labels"]);
            if finds(selector, &labels) {
                found.insert(labels["app.kubernetes.io/component"].clone());
            }
        }
    }
    found
}
