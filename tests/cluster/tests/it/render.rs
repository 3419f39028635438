//! What the chart renders to, for every file of values and for values that nobody thought of.

use std::collections::BTreeSet;
use std::fs;

use cluster::{Chart, Draw, Objects, Schemas, chart_dir, have, problems, root};
use serde_json::{Value, json};

use super::scrape::EXPORTER;

/// Random values that must be rendered.
const DRAWN: usize = 30;
/// Draws, at most: values that do not go together are drawn as well.
const DRAWS: usize = 600;
/// What the examples of the schema name as something that is there.
const GIVEN: [&str; 1] = ["given"];

/// Kinds, as [`Schemas::of`] takes them.
fn kinds(objects: &Objects) -> BTreeSet<String> {
    let kind = |object: &Value| {
        format!("{}/{}", object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap())
    };
    objects.0.iter().map(kind).collect()
}

/// What kubeconform says against all of these.
fn against_schemas(all: &[(String, Objects)]) -> Vec<String> {
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for (at, (_, objects)) in all.iter().enumerate() {
        seen.extend(kinds(objects));
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": objects.0 });
        fs::write(dir.path().join(format!("{at:03}.json")), list.to_string()).unwrap();
    }
    Schemas::of(&seen).check(dir.path())
}

/// For review: what a change of the chart changes.
#[test]
fn the_default_render_is_as_reviewed() {
    if have(&["helm"]) {
        let text = Chart::new().render_text().unwrap_or_else(|refused| panic!("{}", refused.0));
        offline::golden::compare("tests/cluster/golden/default.yaml", &text);
    }
}

#[test]
fn every_file_of_values_renders_to_sound_objects() {
    if !have(&["helm", "kubeconform", "swagger.json", "crds"]) {
        return;
    }
    let mut all = vec![("the chart's own".to_owned(), Chart::new().rendered())];
    for (path, given) in super::values::files() {
        let objects = super::values::chart(&path).rendered();
        assert_eq!(problems(&objects, given), Vec::<String>::new(), "{}", path.display());
        all.push((path.display().to_string(), objects));
    }
    assert_eq!(problems(&all[0].1, &[]), Vec::<String>::new());
    assert_eq!(against_schemas(&all), Vec::<String>::new());
}

#[test]
fn helm_3_renders_the_same() {
    if !have(&["helm", "helm3"]) {
        return;
    }
    let charts = super::values::files().into_iter().map(|(path, _)| super::values::chart(&path));
    for chart in charts.chain([Chart::new()]) {
        assert_eq!(chart.clone().by_helm_3().rendered().0, chart.rendered().0, "{chart:?}");
    }
}

/// All 30 of one seed; another seed for each run, printed when something is wrong.
#[test]
fn random_values_render_to_sound_objects() {
    if !have(&["helm", "kubeconform", "swagger.json", "crds"]) {
        return;
    }
    let seed = std::env::var("MUSTER_TEST_SEED").ok().map_or_else(rand_seed, |seed| seed.parse().unwrap());
    let (schema, nats) = (schema("values.schema.json"), schema("charts/nats/values.schema.json"));
    let mut draw = Draw::new(seed);
    let mut all = Vec::new();
    for number in 0..DRAWS {
        let mut values = draw.values(&schema);
        let mut of_nats = draw.values(&nats);
        of_nats.as_object_mut().unwrap().remove("global");
        values["nats"] = of_nats;
        let said = || format!("seed {seed}, draw {number}: {values}");
        match Chart::new().with(values.clone()).render() {
            Ok(objects) => {
                let given: Vec<&str> = GIVEN.into_iter().collect();
                assert_eq!(problems(&objects, &given), Vec::<String>::new(), "{}", said());
                all.push((said(), objects));
            }
            Err(refused) => assert!(refused.is_about_values(), "{}\n{}", said(), refused.0),
        }
        if all.len() == DRAWN {
            break;
        }
    }
    assert_eq!(all.len(), DRAWN, "seed {seed}: {DRAWS} draws and too few that go together");
    assert_eq!(against_schemas(&all), Vec::<String>::new(), "seed {seed}");
}

fn rand_seed() -> u64 {
    runtime::ids::random_u64()
}

fn schema(name: &str) -> Value {
    serde_json::from_str(&fs::read_to_string(chart_dir().join(name)).unwrap()).unwrap()
}

#[test]
fn network_policies_are_the_edges_of_the_page() {
    if !have(&["helm"]) {
        return;
    }
    let page = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let all = json!({
        "agent": { "enabled": true, "joinTokenSecret": "join" },
        "backup": { "enabled": true, "s3": { "url": "s3://b/muster" } },
        "nats": { "exporter": { "enabled": true }, "webSocket": { "enabled": true } },
        "global": { "otel": { "endpoint": "http://collector.telemetry:4317" } },
        "operator": { "enabled": true },
    });
    assert_eq!(cluster::rendered(&Chart::new().with(all).rendered()), cluster::documented(&page));
    let without = json!({ "global": { "defaults": { "networkPolicy": { "enabled": false } } }, "nats": { "networkPolicy": { "enabled": false } } });
    assert!(Chart::new().with(without).rendered().of("NetworkPolicy").next().is_none());
}

#[test]
fn a_block_wins_over_defaults_also_with_what_is_empty() {
    if !have(&["helm"]) {
        return;
    }
    let objects = Chart::new()
        .with(json!({
            "global": {
                "defaults": { "replicas": 4, "extraEnv": [], "podAnnotations": { "a": "1", "b": "2" } },
                "extraEnv": [{ "name": "MUSTER_LOG", "value": "warn" }, { "name": "ZONE", "value": "x" }],
            },
            "policy": {
                "pdb": { "enabled": false }, "replicas": 1, "podAnnotations": { "b": "3" },
                "extraEnv": [{ "name": "ZONE", "value": "y" }], "options": { "snapshot-validity": "3d" },
            },
            "presence": { "autoscaling": { "enabled": true } },
        }))
        .rendered();
    assert!(objects.find("PodDisruptionBudget", "muster-policy").is_none());
    assert!(objects.find("PodDisruptionBudget", "muster-content").is_some());
    let policy = objects.get("Deployment", "muster-policy");
    assert_eq!(policy["spec"]["replicas"], 1);
    assert_eq!(policy.pointer("/spec/template/metadata/annotations"), Some(&json!({ "a": "1", "b": "3" })));
    let env = policy.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
    let value = |name: &str| env.iter().find(|e| e["name"] == name).map(|e| e["value"].clone());
    assert_eq!(value("ZONE"), Some("y".into()));
    assert_eq!(value("MUSTER_LOG"), Some("warn".into()));
    assert_eq!(value("MUSTER_SNAPSHOT_VALIDITY"), Some("3d".into()));
    assert!(objects.get("Deployment", "muster-presence")["spec"]["replicas"].is_null());
    assert_eq!(objects.get("Deployment", "muster-identity")["spec"]["replicas"], 4);
}

#[test]
fn a_collector_hears_who_told_it_something() {
    if !have(&["helm"]) {
        return;
    }
    let otel = json!({ "endpoint": "http://c:4317", "sampler": "traceidratio", "samplerArgument": "0.1", "resourceAttributes": { "site": "x" } });
    let objects = Chart::new()
        .with(json!({
            "global": { "otel": otel },
            "agent": { "enabled": true, "joinTokenSecret": "join" },
            "operator": { "enabled": true, "tokenSecret": "token" },
        }))
        .rendered();
    for name in ["policy", "content", "presence", "identity", "operator", "agent"] {
        let kind = if name == "agent" { "DaemonSet" } else { "Deployment" };
        let object = objects.get(kind, &format!("muster-{name}"));
        let env = object.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).unwrap();
        let at =
            |name: &str| env.iter().position(|e| e["name"] == name).unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(env[at("OTEL_EXPORTER_OTLP_ENDPOINT")]["value"], "http://c:4317", "{name}");
        assert_eq!(env[at("OTEL_TRACES_SAMPLER_ARG")]["value"], "0.1", "{name}");
        let attributes = env[at("OTEL_RESOURCE_ATTRIBUTES")]["value"].as_str().unwrap();
        assert!(attributes.ends_with(",site=x"), "{attributes}");
        // Kubernetes puts in what stands before.
        for part in attributes.split("$(").skip(1) {
            let variable = part.split(')').next().unwrap();
            assert!(at(variable) < at("OTEL_RESOURCE_ATTRIBUTES"), "{name}: {variable}");
        }
    }
}

/// One source: the files that promtool and a real run were held against.
#[test]
fn alerts_and_dashboards_are_objects_where_somebody_takes_them() {
    if !have(&["helm"]) {
        return;
    }
    let example = || Chart::new().file(chart_dir().join("examples/monitoring.yaml"));
    let there = example().rendered();
    let folder = root().join("deploy/observability");
    let rules = Objects::read(&fs::read_to_string(folder.join("rules.yaml")).unwrap()).0.remove(0);
    assert_eq!(there.get("PrometheusRule", "muster-rules")["spec"], rules);
    let at = json!({ "monitoring": { "rules": { "runbook": "https://example.org/runbook" } } });
    let linked = example().with(at).rendered().get("PrometheusRule", "muster-rules").to_string();
    assert!(linked.contains("\"https://example.org/runbook#musterpushlate\"") && !linked.contains("docs/"));
    let mut dashboards = 0;
    for entry in fs::read_dir(folder.join("dashboards")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let made = there.get("ConfigMap", &format!("muster-dashboard-{name}"));
        assert_eq!(made["data"][format!("muster-{name}.json")], fs::read_to_string(&path).unwrap());
        assert_eq!(made["metadata"]["labels"]["grafana_dashboard"], "1");
        dashboards += 1;
    }
    assert_eq!(dashboards, 5);
    let pod = cluster::pod_of(there.get("StatefulSet", "muster-nats")).unwrap();
    let exporter = cluster::containers(pod).find(|container| container["name"] == "exporter").unwrap();
    let args: Vec<&str> = exporter["args"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(args[..EXPORTER.len()], EXPORTER, "as in the run that answers the queries");
    assert_eq!(args.last(), Some(&"http://127.0.0.1:8222"));
    assert!(there.find("PodMonitor", "muster-nats").is_some());
    for kind in ["PodMonitor", "PrometheusRule"] {
        assert!(example().bare().rendered().of(kind).next().is_none(), "the cluster knows no {kind}");
    }
}

#[test]
fn the_token_of_the_operator_is_mounted_by_its_pods_alone() {
    if !have(&["helm"]) {
        return;
    }
    let check = |values: Value, name: &str, makes: bool| {
        let objects = Chart::new().with(values).rendered();
        let mounts = objects.workloads().filter(|(_, pod)| pod.to_string().contains(&format!("{name:?}")));
        let mounts: Vec<_> = mounts.map(|(object, _)| object["metadata"]["name"].clone()).collect();
        assert_eq!(mounts, ["muster-operator"], "{name}");
        let secret = objects.find("Secret", "muster-operator-token");
        assert_eq!(secret.is_some(), makes, "{name}");
        assert!(secret.is_none_or(|secret| secret["data"].is_null()), "{name}");
        let role = objects.get("Role", "muster-bootstrap").to_string();
        assert_eq!(role.contains("muster-operator-token"), makes, "{name}");
        let job = objects.of("Job").next().unwrap().to_string();
        assert_eq!(job.contains("MUSTER_BOOTSTRAP_OPERATOR_TOKEN"), makes, "{name}");
    };
    check(json!({ "operator": { "enabled": true } }), "muster-operator-token", true);
    check(json!({ "operator": { "enabled": true, "tokenSecret": "given" } }), "given", false);
}

#[test]
fn a_pod_that_has_changed_has_another_job_and_nothing_else_does() {
    if !have(&["helm"]) {
        return;
    }
    let name = |values: Value| {
        let objects = Chart::new().with(values).rendered();
        let job = objects.of("Job").next().unwrap()["metadata"]["name"].clone();
        job.as_str().unwrap().to_owned()
    };
    let first = name(json!({}));
    assert_eq!(name(json!({ "policy": { "replicas": 7 } })), first);
    assert_ne!(name(json!({ "global": { "defaults": { "image": { "tag": "9" } } } })), first);
}

#[test]
fn what_holds_data_is_kept_unless_somebody_says_otherwise() {
    if !have(&["helm"]) {
        return;
    }
    let check = |keep: Value, kept: bool| {
        let objects = Chart::new()
            .with(json!({
                "global": { "keepOnUninstall": keep },
                "backup": { "enabled": true },
                "operator": { "enabled": true },
            }))
            .rendered();
        let mut held = 0;
        for object in ["Secret", "PersistentVolumeClaim"].iter().flat_map(|kind| objects.of(kind)) {
            let policy = &object["metadata"]["annotations"]["helm.sh/resource-policy"];
            assert_eq!(*policy == "keep", kept, "{object}");
            held += 1;
        }
        assert_eq!(held, 12, "the Secrets of the bootstrap, and the claim of backups");
        let retention =
            &objects.get("StatefulSet", "muster-nats")["spec"]["persistentVolumeClaimRetentionPolicy"];
        assert_eq!(retention["whenDeleted"], if kept { "Retain" } else { "Delete" });
        assert_eq!(retention["whenScaled"], "Retain");
    };
    check(true.into(), true);
    check(false.into(), false);
    // Values of a release that knew no such key.
    check(Value::Null, true);
}

/// The checks would notice.
#[test]
fn what_is_wrong_is_found() {
    if !have(&["helm", "kubeconform", "swagger.json", "crds"]) {
        return;
    }
    let sound = Chart::new()
        .with(json!({
            "policy": { "autoscaling": { "enabled": true } },
            "nats": { "exporter": { "enabled": true, "podMonitor": { "enabled": true } } },
        }))
        .rendered();
    let check = |kind: &str, pointer: &str, value: Value, expected: &str| {
        let mut broken = sound.clone();
        let object = broken.0.iter_mut().find(|object| object["kind"] == kind).unwrap();
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        match object.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")) {
            Value::Array(all) => all.push(value),
            map => map[key] = value,
        }
        let mut found = problems(&broken, &[]);
        found.extend(against_schemas(&[(String::new(), broken)]));
        assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
    };
    let container = "/spec/template/spec/containers/0";
    let at = |path: &str| format!("{container}{path}");
    check("Deployment", &at("/resources/limits"), json!({}), "has no /resources/limits/memory");
    check("Deployment", &at("/env/-"), json!({ "name": "MUSTER_LOG", "value": "x" }), "a variable twice");
    check("Deployment", &at("/ports/-"), json!({ "name": "api", "containerPort": 1 }), "twice");
    check(
        "Deployment",
        &at("/volumeMounts/-"),
        json!({ "name": "no", "mountPath": "/no" }),
        "which is no volume",
    );
    check("Deployment", &at("/livenessProbe/httpGet/port"), json!("no"), "which is no port");
    check(
        "Deployment",
        &at("/securityContext/readOnlyRootFilesystem"),
        json!(false),
        "may write to its image",
    );
    check("Deployment", &at("/imagePullPolcy"), json!("Never"), "imagePullPolcy");
    check("Deployment", "/spec/replicas", json!(2), "has replicas while");
    check("Deployment", "/spec/replicas", json!("two"), "replicas");
    check("Deployment", "/spec/template/spec/volumes/0/secret/secretName", json!("no"), "names Secret no");
    check(
        "Deployment",
        "/spec/template/spec/volumes/-",
        json!({ "name": "a", "emptyDir": {} }),
        "has no limit",
    );
    check("Deployment", "/spec/selector/matchLabels/a", json!("b"), "does not find its own Pods");
    check("Service", "/spec/selector/a", json!("b"), "finds no Pods");
    check("Service", "/spec/ports/0/targetPort", json!("no"), "leads to port");
    check("PodMonitor", "/spec/podMetricsEndpoints/0/port", json!("no"), "leads to port");
    check("PodDisruptionBudget", "/spec/selector/matchLabels/a", json!("b"), "finds no Pods");
    check("HorizontalPodAutoscaler", "/spec/scaleTargetRef/name", json!("no"), "names Deployment no");
    check("ServiceAccount", "/metadata/name", json!("no"), "names ServiceAccount");
}
