//! Objects that other objects name: each is rendered, given, or made by somebody else.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::objects::{Objects, containers};

/// Something that is named: its kind and its name.
type Named<'a> = (&'a str, &'a Value);

/// What is named and not there. `given` are names that the values say and that are not the chart's to make.
fn missing<'a>(objects: &Objects, named: impl IntoIterator<Item = Named<'a>>, given: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for (kind, name) in named.into_iter().filter_map(|(kind, name)| Some((kind, name.as_str()?))) {
        // cert-manager makes the Secret that a Certificate names.
        let issued =
            kind == "Secret" && objects.of("Certificate").any(|made| made["spec"]["secretName"] == name);
        let elsewhere = given.contains(&name) || (kind == "ServiceAccount" && name == "default");
        if !issued && !elsewhere && objects.find(kind, name).is_none() {
            found.push(format!("names {kind} {name}, which is not there"));
        }
    }
    found
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// What the Pod of `object` names: Secrets, ConfigMaps and keys in them, claims, its ServiceAccount, and Services by
/// the addresses in its environment.
pub(crate) fn of_pod(objects: &Objects, object: &Value, pod: &Value, given: &[&str]) -> Vec<String> {
    let spec = &pod["spec"];
    let mut named: Vec<Named<'_>> = vec![
        ("ServiceAccount", &spec["serviceAccountName"]),
        // The Service by which Pods of a StatefulSet have names.
        ("Service", &object["spec"]["serviceName"]),
    ];
    let mut keys: Vec<(&Value, &Value)> = Vec::new();
    for volume in array(&spec["volumes"]) {
        named.push(("Secret", &volume["secret"]["secretName"]));
        named.push(("ConfigMap", &volume["configMap"]["name"]));
        named.push(("PersistentVolumeClaim", &volume["persistentVolumeClaim"]["claimName"]));
        let items = array(&volume["configMap"]["items"]);
        keys.extend(items.map(|item| (&volume["configMap"]["name"], &item["key"])));
    }
    let mut found = Vec::new();
    for variable in containers(pod).flat_map(|container| array(&container["env"])) {
        let from = &variable["valueFrom"];
        named.push(("Secret", &from["secretKeyRef"]["name"]));
        named.push(("ConfigMap", &from["configMapKeyRef"]["name"]));
        keys.push((&from["configMapKeyRef"]["name"], &from["configMapKeyRef"]["key"]));
        if let Some(text) = variable["value"].as_str() {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
            found.extend(addresses(objects, text, namespace));
        }
    }
    found.extend(missing(objects, named, given));
    for (name, key) in keys.into_iter().filter_map(|(name, key)| Some((name.as_str()?, key.as_str()?))) {
        if objects.find("ConfigMap", name).is_some_and(|map| map["data"][key].is_null()) {
            found.push(format!("names the key {key} of ConfigMap {name}, which is not there"));
        }
    }
    found
}

/// URLs in a text that name a Service of this namespace by its name in the cluster's DNS, and lead nowhere.
fn addresses(objects: &Objects, text: &str, namespace: &str) -> Vec<String> {
    let mut found = Vec::new();
    for url in text.split(',') {
        let Some((host, port)) =
            url.split_once("://").and_then(|(_, rest)| rest.split('/').next()?.rsplit_once(':'))
        else {
            continue;
        };
        let labels: Vec<&str> = host.split('.').collect();
        if labels.get(1) != Some(&namespace) || labels.get(2) != Some(&"svc") {
            continue;
        }
        let service = objects.find("Service", labels[0]);
        let mut ports = service.into_iter().flat_map(|service| array(&service["spec"]["ports"]));
        let port: Option<u64> = port.parse().ok();
        if !ports.any(|known| port.is_some() && known["port"].as_u64() == port) {
            found.push(format!("names {url}, where no Service listens"));
        }
    }
    found
}

/// What objects that make no Pods name: certificates of an Ingress, what a route's TLS is verified with and for whom, who
/// is bound to which role, and what is scaled.
pub(crate) fn of_others(objects: &Objects, given: &[&str]) -> Vec<String> {
    let mut found = Vec::new();
    for object in &objects.0 {
        let spec = &object["spec"];
        let mut named: Vec<Named<'_>> = Vec::new();
        match object["kind"].as_str().unwrap_or_default() {
            "Ingress" => named.extend(array(&spec["tls"]).map(|tls| ("Secret", &tls["secretName"]))),
            "BackendTLSPolicy" => {
                let targets =
                    array(&spec["targetRefs"]).chain(array(&spec["validation"]["caCertificateRefs"]));
                named.extend(targets.map(kind_and_name));
            }
            "RoleBinding" | "ClusterRoleBinding" => {
                named.push(kind_and_name(&object["roleRef"]));
                named.extend(array(&object["subjects"]).map(kind_and_name));
            }
            "HorizontalPodAutoscaler" => named.push(kind_and_name(&spec["scaleTargetRef"])),
            _ => {}
        }
        let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
        let problems: BTreeSet<String> = missing(objects, named, given).into_iter().collect();
        found.extend(problems.into_iter().map(|problem| format!("{name}: {problem}")));
    }
    found
}

/// A reference that says its kind itself.
fn kind_and_name(reference: &Value) -> Named<'_> {
    (reference["kind"].as_str().unwrap_or_default(), &reference["name"])
}
