//! The chart as a part of somebody else's, which switches it on and off.

use std::fs;
use std::path::Path;
use std::process::Command;

use cluster::{Objects, chart_dir, have, problems, tool};
use serde_json::{Value, json};

/// Runs Helm in a folder that is a home for it. What it prints, or the panic of the test.
fn helm(dir: &Path, arguments: &[&str]) -> String {
    let mut helm = Command::new(tool("helm"));
    for name in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(name, dir.join("home"));
    }
    let output = helm.args(arguments).current_dir(dir).output().expect("helm can be run");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn a_parent_chart_switches_it_on_and_off() {
    if !have(&["helm"]) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let parent = dir.path().join("site");
    fs::create_dir_all(parent.join("templates")).unwrap();
    let chart = json!({
        "apiVersion": "v2", "name": "site", "version": "1.0.0",
        "dependencies": [{
            "name": "muster", "version": env!("CARGO_PKG_VERSION"), "condition": "muster.enabled",
            "repository": format!("file://{}", chart_dir().display()),
        }],
    });
    fs::write(parent.join("Chart.yaml"), chart.to_string()).unwrap();
    let own = "kind: ConfigMap\napiVersion: v1\nmetadata: {name: site}\n";
    fs::write(parent.join("templates/own.yaml"), own).unwrap();
    helm(dir.path(), &["dependency", "update", "site"]);
    let render = |values: Value| {
        fs::write(dir.path().join("values.json"), values.to_string()).unwrap();
        let template = ["template", "release", "site", "--namespace", "fleet", "--kube-version", "1.36.0"];
        Objects::read(&helm(dir.path(), &[template.as_slice(), &["--values", "values.json"]].concat()))
    };
    let on = render(json!({
        "global": { "fleet": "site-1" },
        "muster": { "enabled": true, "nats": { "enabled": true, "replicas": 1 } },
    }));
    assert_eq!(problems(&on, &[]), Vec::<String>::new());
    assert!(on.get("Deployment", "release-muster-policy").to_string().contains("\"site-1\""));
    assert_eq!(on.get("StatefulSet", "release-muster-nats")["spec"]["replicas"], 1);
    let off = render(json!({ "muster": { "enabled": false } }));
    assert_eq!(off.0.iter().map(|object| &object["metadata"]["name"]).collect::<Vec<_>>(), ["site"]);
}
