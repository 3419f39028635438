//! Each kind of name that leads nowhere is found.

use cluster::{Chart, Objects, have, problems};
use serde_json::{Value, json};

/// A release in which every kind of reference is.
fn sound() -> Objects {
    let chart = Chart::new().with(json!({
        "agent": { "enabled": true, "joinTokenSecret": "join", "configMap": "agents" },
        "agentAccess": {
            "urls": ["tls://nats.example.org:443"],
            "tlsRoute": { "enabled": true, "parentRefs": [{ "name": "public" }], "hostnames": ["nats.example.org"] },
        },
        "api": {
            "grpcRoute": { "enabled": true, "parentRefs": [{ "name": "public" }], "caConfigMap": "api-ca" },
            "ingress": { "enabled": true, "host": "muster.example.org", "tlsSecret": "web" },
        },
        "backup": { "enabled": true },
        "operator": { "enabled": true, "allNamespaces": true },
        "policy": { "autoscaling": { "enabled": true } },
    }));
    chart.rendered()
}

/// What the values of [`sound`] name.
const GIVEN: [&str; 4] = ["join", "agents", "api-ca", "web"];

/// Something is put at a pointer of an object, and one problem more is there, which says this.
fn check(sound: &Objects, (kind, name): (&str, &str), pointer: &str, value: Value, expected: &str) {
    let mut broken = sound.clone();
    let found = broken.0.iter_mut().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    let object = found.unwrap_or_else(|| panic!("no {kind} {name}"));
    *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{kind} {name} has no {pointer}")) = value;
    let found = problems(&broken, &GIVEN);
    assert!(found.iter().any(|problem| problem.contains(expected)), "{expected}: {found:?}");
}

#[test]
fn names_that_lead_nowhere_are_found() {
    if !have(&["helm"]) {
        return;
    }
    let sound = sound();
    assert_eq!(problems(&sound, &GIVEN), Vec::<String>::new());
    let no = || json!("no");
    let missing = |kind: &str| format!("names {kind} no, which is not there");
    let backup = ("CronJob", "muster-backup");
    let pod = "/spec/jobTemplate/spec/template/spec";
    let volumes = sound.get(backup.0, backup.1).pointer(&format!("{pod}/volumes")).unwrap();
    let at = volumes.as_array().unwrap().iter().position(|one| one["name"] == "backups").unwrap();
    let claim = format!("{pod}/volumes/{at}/persistentVolumeClaim/claimName");
    check(&sound, backup, &claim, no(), &missing("PersistentVolumeClaim"));
    let nats = ("StatefulSet", "muster-nats");
    check(&sound, nats, "/spec/serviceName", no(), &missing("Service"));
    let key = "/spec/template/spec/volumes/0/configMap/items/0/key";
    check(&sound, nats, key, no(), "names the key no of ConfigMap muster-nats");
    for name in ["muster-api", "muster-nats-agents"] {
        let route = if name == "muster-api" { "GRPCRoute" } else { "TLSRoute" };
        check(&sound, (route, name), "/spec/rules/0/backendRefs/0/name", no(), "leads to \"no\":");
        check(&sound, (route, name), "/spec/rules/0/backendRefs/0/port", json!(1), ":1, which is not there");
    }
    let ingress = ("Ingress", "muster-api");
    check(&sound, ingress, "/spec/tls/0/secretName", no(), &missing("Secret"));
    let service = "/spec/rules/0/http/paths/0/backend/service";
    check(&sound, ingress, &format!("{service}/name"), no(), "leads to \"no\":");
    check(&sound, ingress, &format!("{service}/port/name"), no(), ":\"no\", which is not there");
    let tls = ("BackendTLSPolicy", "muster-policy");
    check(&sound, tls, "/spec/targetRefs/0/name", no(), &missing("Service"));
    check(&sound, tls, "/spec/validation/caCertificateRefs/0/name", no(), &missing("ConfigMap"));
    for binding in [
        ("RoleBinding", "muster-bootstrap"),
        ("RoleBinding", "muster-operator-lease"),
        ("ClusterRoleBinding", "muster-operator-fleet"),
    ] {
        let role = if binding.0 == "RoleBinding" { "Role" } else { "ClusterRole" };
        check(&sound, binding, "/roleRef/name", no(), &missing(role));
        check(&sound, binding, "/subjects/0/name", no(), &missing("ServiceAccount"));
    }
    check(
        &sound,
        ("HorizontalPodAutoscaler", "muster-policy"),
        "/spec/scaleTargetRef/name",
        no(),
        &missing("Deployment"),
    );
}

#[test]
fn addresses_in_the_environment_that_lead_nowhere_are_found() {
    if !have(&["helm"]) {
        return;
    }
    let sound = sound();
    let env = "/spec/template/spec/containers/0/env";
    for (object, variable) in [
        ("muster-policy", "MUSTER_NATS_URL"),
        ("muster-operator", "MUSTER_SERVER"),
        ("muster-operator", "MUSTER_IDENTITY_SERVER"),
    ] {
        let entries = sound.get("Deployment", object).pointer(env).and_then(Value::as_array).unwrap();
        let at = entries.iter().position(|entry| entry["name"] == variable).unwrap();
        let url = entries[at]["value"].as_str().unwrap();
        let (host, port) = url.rsplit_once(':').unwrap();
        for wrong in [format!("{host}:{port}1"), url.replacen("muster", "mustr", 1)] {
            let expected = format!("names {wrong}, where no Service listens");
            let pointer = format!("{env}/{at}/value");
            check(&sound, ("Deployment", object), &pointer, json!(wrong), &expected);
            // Also as one of several.
            let both = json!(format!("{url},{wrong}"));
            check(&sound, ("Deployment", object), &pointer, both, &expected);
        }
    }
}
