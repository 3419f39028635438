//! Keys that blocks of components have in common, and what comes of them.

use cluster::{Chart, Objects, have, pod_of, problems};
use serde_json::{Value, json};

/// Objects whose Pods are those of a component: kind and name. The name of the bootstrap's Job ends in a digest.
const COMPONENTS: [(&str, &str, &str); 9] = [
    ("policy", "Deployment", "muster-policy"),
    ("content", "Deployment", "muster-content"),
    ("presence", "Deployment", "muster-presence"),
    ("identity", "Deployment", "muster-identity"),
    ("operator", "Deployment", "muster-operator"),
    ("agent", "DaemonSet", "muster-agent"),
    ("backup", "CronJob", "muster-backup"),
    ("bootstrap", "CronJob", "muster-bootstrap-renew"),
    ("selftest", "Pod", "muster-selftest"),
];

/// All components, with values of a test over that.
fn render(values: Value) -> Objects {
    let all = json!({
        "agent": { "enabled": true, "joinTokenSecret": "join" },
        "backup": { "enabled": true },
        "operator": { "enabled": true },
    });
    let chart = Chart::new().with(all).with(values);
    chart.rendered()
}

fn rules(port: u16) -> Value {
    json!([{ "ports": [{ "port": port, "protocol": "TCP" }] }])
}

#[test]
fn every_component_takes_what_blocks_have_in_common() {
    if !have(&["helm"]) {
        return;
    }
    let mut values = json!({ "global": { "defaults": {
        "podLabels": { "team": "fleet" }, "podAnnotations": { "of": "defaults" },
        "extraEnv": [{ "name": "ZONE", "value": "defaults" }],
        "networkPolicy": { "extraEgress": rules(9999), "extraIngress": rules(9998) },
    } } });
    let check = |values: &Value, env: &str| {
        let objects = render(values.clone());
        assert_eq!(problems(&objects, &["join"]), Vec::<String>::new());
        for (component, kind, name) in COMPONENTS {
            let pod = pod_of(objects.get(kind, name)).unwrap();
            assert_eq!(pod["metadata"]["labels"]["team"], "fleet", "{component}");
            assert_eq!(pod["metadata"]["annotations"]["of"], env, "{component}");
            let found = pod.pointer("/spec/containers/0/env").and_then(Value::as_array).unwrap();
            assert!(found.contains(&json!({ "name": "ZONE", "value": env })), "{component}: {found:?}");
            let policy = &objects.get("NetworkPolicy", &format!("muster-{component}"))["spec"];
            for (direction, port) in [("egress", 9999), ("ingress", 9998)] {
                let all =
                    policy[direction].as_array().unwrap_or_else(|| panic!("{component}: no {direction}"));
                assert!(all.contains(&rules(port)[0]), "{component}: {all:?}");
            }
        }
        let job = objects.of("Job").next().unwrap();
        assert_eq!(
            job["spec"]["template"],
            objects.get("CronJob", "muster-bootstrap-renew")["spec"]["jobTemplate"]["spec"]["template"]
        );
    };
    check(&values, "defaults");
    for (component, ..) in COMPONENTS {
        values[component]["extraEnv"] = json!([{ "name": "ZONE", "value": "own" }]);
        values[component]["podAnnotations"] = json!({ "of": "own" });
    }
    check(&values, "own");
}

#[test]
fn a_component_may_do_without_a_network_policy() {
    if !have(&["helm"]) {
        return;
    }
    for (component, ..) in COMPONENTS {
        let objects = render(json!({ component: { "networkPolicy": { "enabled": false } } }));
        let left = objects.find("NetworkPolicy", &format!("muster-{component}"));
        assert!(left.is_none(), "{component}");
        assert!(objects.find("NetworkPolicy", "muster-default-deny").is_some());
    }
}

#[test]
fn a_collector_is_verified_by_the_ca_that_values_name() {
    if !have(&["helm"]) {
        return;
    }
    let values =
        json!({ "global": { "otel": { "endpoint": "https://c:4317", "caSecret": "collector-ca" } } });
    let objects = render(values);
    assert_eq!(problems(&objects, &["join", "collector-ca"]), Vec::<String>::new());
    let mut missing = problems(&objects, &["join"]);
    missing.retain(|problem| problem.ends_with("names Secret collector-ca, which is not there"));
    let mut told = 0;
    for (component, kind, name) in COMPONENTS {
        let pod = pod_of(objects.get(kind, name)).unwrap().pointer("/spec").unwrap();
        let env = pod.pointer("/containers/0/env").and_then(Value::as_array).unwrap();
        let value = |name: &str| env.iter().find(|entry| entry["name"] == name).map(|entry| &entry["value"]);
        if ["bootstrap", "selftest"].contains(&component) {
            assert!(value("OTEL_EXPORTER_OTLP_ENDPOINT").is_none(), "{component}");
            continue;
        }
        told += 1;
        assert_eq!(value("OTEL_EXPORTER_OTLP_PROTOCOL"), Some(&json!("grpc")), "{component}");
        let file = value("OTEL_EXPORTER_OTLP_CERTIFICATE").and_then(Value::as_str).unwrap();
        let mounts = pod.pointer("/containers/0/volumeMounts").and_then(Value::as_array).unwrap();
        let mounted = |mount: &&Value| file == format!("{}/ca.crt", mount["mountPath"].as_str().unwrap());
        let mount = mounts.iter().find(mounted).unwrap_or_else(|| panic!("{component}: {mounts:?}"));
        let volumes = pod["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount["name"]).unwrap();
        assert_eq!(volume["secret"]["secretName"], "collector-ca", "{component}");
        assert_eq!(volume["secret"]["items"], json!([{ "key": "ca.crt", "path": "ca.crt" }]), "{component}");
    }
    assert_eq!((told, missing.len()), (7, 7), "{missing:?}");
    // Without a CA, and without a collector.
    let plain = render(json!({ "global": { "otel": { "endpoint": "http://c:4317" } } }));
    let text = plain.get("Deployment", "muster-policy").to_string();
    assert!(text.contains("OTEL_EXPORTER_OTLP_PROTOCOL") && !text.contains("OTEL_EXPORTER_OTLP_CERTIFICATE"));
    assert!(!render(json!({})).get("Deployment", "muster-policy").to_string().contains("OTEL_"));
}
