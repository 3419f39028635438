//! What must be true of all that is rendered, whatever the values.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::objects::{Objects, containers, finds, labels};
use crate::references;

/// Every place that breaks a rule. `given` are names of Secrets and ConfigMaps that the values name, and that are not
/// the chart's to make.
#[must_use]
pub fn problems(objects: &Objects, given: &[&str]) -> Vec<String> {
    let mut found = twins(objects);
    for (object, pod) in objects.workloads() {
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        found.extend(pod_problems(object, pod).into_iter().map(|problem| format!("{name}: {problem}")));
        let named = references::of_pod(objects, object, pod, given);
        found.extend(named.into_iter().map(|problem| format!("{name}: {problem}")));
        let selector = &object["spec"]["selector"]["matchLabels"];
        if selector.is_object() && !finds(selector, &labels(&pod["metadata"]["labels"])) {
            found.push(format!("{name}: its selector does not find its own Pods"));
        }
        if objects
            .find("HorizontalPodAutoscaler", object["metadata"]["name"].as_str().unwrap_or(""))
            .is_some()
            && !object["spec"]["replicas"].is_null()
        {
            found.push(format!("{name}: has replicas while an autoscaler decides"));
        }
    }
    found.extend(selectors(objects));
    found.extend(backends(objects));
    found.extend(references::of_others(objects, given));
    found
}

/// Objects that are rendered twice.
fn twins(objects: &Objects) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let name = |object: &Value| format!("{} {}", object["kind"], object["metadata"]["name"]);
    objects
        .0
        .iter()
        .map(name)
        .filter(|name| !seen.insert(name.clone()))
        .map(|name| format!("{name} twice"))
        .collect()
}

fn pod_problems(object: &Value, pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let spec = &pod["spec"];
    if spec["automountServiceAccountToken"].is_null() {
        found.push("does not say whether a token is mounted".to_owned());
    }
    let claims = object["spec"]["volumeClaimTemplates"].as_array().into_iter().flatten();
    let volumes: BTreeSet<&str> = spec["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|volume| volume["name"].as_str())
        .chain(claims.filter_map(|claim| claim["metadata"]["name"].as_str()))
        .collect();
    for volume in spec["volumes"].as_array().into_iter().flatten() {
        if volume["emptyDir"].is_object() && volume["emptyDir"]["sizeLimit"].is_null() {
            found.push(format!("volume {} has no limit", volume["name"]));
        }
    }
    let mut ports = BTreeSet::new();
    for container in containers(pod) {
        let name = &container["name"];
        for pointer in ["/resources/limits/memory", "/resources/requests/cpu", "/resources/requests/memory"] {
            if container.pointer(pointer).is_none_or(Value::is_null) {
                found.push(format!("{name} has no {pointer}"));
            }
        }
        let env: Vec<&str> =
            container["env"].as_array().into_iter().flatten().filter_map(|e| e["name"].as_str()).collect();
        if env.iter().collect::<BTreeSet<_>>().len() != env.len() {
            found.push(format!("{name} has a variable twice: {env:?}"));
        }
        for port in container["ports"].as_array().into_iter().flatten() {
            for key in [port["containerPort"].to_string(), port["name"].to_string()] {
                if !ports.insert(key.clone()) {
                    found.push(format!("{name} has port {key} twice"));
                }
            }
        }
        for mount in container["volumeMounts"].as_array().into_iter().flatten() {
            if !mount["name"].as_str().is_some_and(|name| volumes.contains(name)) {
                found.push(format!("{name} mounts {}, which is no volume", mount["name"]));
            }
        }
        for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
            let port = &container[probe]["httpGet"]["port"];
            if !port.is_null() && !names_port(container, port) {
                found.push(format!("{name}: {probe} asks at {port}, which is no port"));
            }
        }
    }
    found.extend(restricted(pod));
    found
}

fn names_port(container: &Value, port: &Value) -> bool {
    let ports = container["ports"].as_array();
    ports.into_iter().flatten().any(|known| known["name"] == *port || known["containerPort"] == *port)
}

/// What Pod Security "restricted" asks for. A Pod that mounts a folder of its node can never fulfil it.
fn restricted(pod: &Value) -> Vec<String> {
    let spec = &pod["spec"];
    if spec["volumes"].as_array().into_iter().flatten().any(|volume| volume["hostPath"].is_object()) {
        return Vec::new();
    }
    let mut found = Vec::new();
    let mut must = |holds: bool, what: &str| {
        if !holds {
            found.push(what.to_owned());
        }
    };
    must(spec["securityContext"]["runAsNonRoot"] == true, "may run as root");
    must(spec["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault", "has no seccomp profile");
    for container in containers(pod) {
        let security = &container["securityContext"];
        must(security["allowPrivilegeEscalation"] == false, "may gain privileges");
        must(security["readOnlyRootFilesystem"] == true, "may write to its image");
        must(security["capabilities"]["drop"] == serde_json::json!(["ALL"]), "keeps capabilities");
    }
    found
}

/// Selectors of what is not a workload: each finds Pods, and ports that it names are theirs.
fn selectors(objects: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    for kind in ["Service", "PodDisruptionBudget", "PodMonitor", "NetworkPolicy"] {
        for object in objects.of(kind) {
            let name = format!("{kind} {}", object["metadata"]["name"]);
            let selector = match kind {
                "Service" => &object["spec"]["selector"],
                "PodDisruptionBudget" | "PodMonitor" => &object["spec"]["selector"]["matchLabels"],
                _ => &object["spec"]["podSelector"]["matchLabels"],
            };
            let pods: Vec<&Value> = objects
                .workloads()
                .map(|(_, pod)| pod)
                .filter(|pod| finds(selector, &labels(&pod["metadata"]["labels"])))
                .collect();
            if pods.is_empty() {
                found.push(format!("{name} finds no Pods"));
            }
            let ports = match kind {
                "Service" => &object["spec"]["ports"],
                "PodMonitor" => &object["spec"]["podMetricsEndpoints"],
                _ => &Value::Null,
            };
            for port in ports.as_array().into_iter().flatten() {
                let target = if port["targetPort"].is_null() { &port["port"] } else { &port["targetPort"] };
                if !pods.iter().all(|pod| containers(pod).any(|container| names_port(container, target))) {
                    found.push(format!("{name} leads to port {target}, which its Pods do not have"));
                }
            }
        }
    }
    found
}

/// Services and their ports that routes lead to.
fn backends(objects: &Objects) -> Vec<String> {
    let mut found = Vec::new();
    let mut check = |from: &Value, name: &Value, port: &Value| {
        let service = name.as_str().and_then(|name| objects.find("Service", name));
        let ports = service.and_then(|service| service["spec"]["ports"].as_array()).into_iter().flatten();
        let has = ports.into_iter().any(|known| known["port"] == *port || known["name"] == *port);
        if !has {
            found.push(format!(
                "{} {} leads to {name}:{port}, which is not there",
                from["kind"], from["metadata"]["name"]
            ));
        }
    };
    for route in objects.0.iter().filter(|object| object["spec"]["rules"].is_array()) {
        for rule in route["spec"]["rules"].as_array().into_iter().flatten() {
            for backend in rule["backendRefs"].as_array().into_iter().flatten() {
                check(route, &backend["name"], &backend["port"]);
            }
            for path in rule["http"]["paths"].as_array().into_iter().flatten() {
                let service = &path["backend"]["service"];
                check(route, &service["name"], &service["port"]["name"]);
            }
        }
    }
    found
}
