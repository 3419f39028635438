//! Where the chart leads: routes from outside to every part of the API, and the ports that NetworkPolicies let through.

use std::collections::BTreeSet;

use cluster::{Chart, Objects, have, problems};
use prost::Message as _;
use serde_json::{Value, json};

/// Renders, or says what Helm said.
fn render(values: Value) -> Objects {
    Chart::new().with(values).rendered()
}

/// Every gRPC service that callers use, by its whole name.
fn services() -> BTreeSet<String> {
    let set = prost_types::FileDescriptorSet::decode(wire::DESCRIPTORS).unwrap();
    let name =
        |file: &prost_types::FileDescriptorProto, service: &str| format!("{}.{service}", file.package());
    set.file.iter().flat_map(|file| file.service.iter().map(|service| name(file, service.name()))).collect()
}

/// Texts at a pointer in each of the elements.
fn texts(elements: &Value, pointer: &str) -> Vec<String> {
    let found = elements.as_array().into_iter().flatten().filter_map(|element| element.pointer(pointer));
    found.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn a_gateway_and_an_ingress_lead_to_every_service_of_the_api() {
    if !have(&["helm"]) {
        return;
    }
    let objects = render(json!({ "api": {
        "grpcRoute": { "enabled": true, "parentRefs": [{ "name": "public" }] },
        "ingress": { "enabled": true, "host": "muster.example.org" },
    } }));
    let rules = objects.get("GRPCRoute", "muster-api")["spec"]["rules"].as_array().unwrap();
    let routed: Vec<String> =
        rules.iter().flat_map(|rule| texts(&rule["matches"], "/method/service")).collect();
    let paths = objects.get("Ingress", "muster-api").pointer("/spec/rules/0/http/paths").unwrap();
    let led: Vec<String> =
        texts(paths, "/path").iter().map(|path| path.trim_start_matches('/').to_owned()).collect();
    assert_eq!(led, routed, "the Ingress leads where the GRPCRoute does");
    assert_eq!(routed.iter().cloned().collect::<BTreeSet<_>>(), services(), "templates/api.yaml, $parts");
    assert_eq!(routed.len(), services().len(), "none twice");
}

/// Ports that a component's NetworkPolicy lets out, names aside.
fn out(objects: &Objects, component: &str) -> BTreeSet<u64> {
    let policy = objects.get("NetworkPolicy", &format!("muster-{component}"));
    let rules = policy["spec"]["egress"].as_array().into_iter().flatten();
    let ports = rules.flat_map(|rule| rule["ports"].as_array().into_iter().flatten());
    ports.map(|port| port["port"].as_u64().expect("a port is a number")).filter(|port| *port != 53).collect()
}

#[test]
fn network_policies_let_through_the_port_of_each_address() {
    if !have(&["helm"]) {
        return;
    }
    let check = |values: &Value, component: &str, ports: &[u64]| {
        let expected: BTreeSet<u64> = ports.iter().copied().collect();
        assert_eq!(out(&render(values.clone()), component), expected, "{component}: {values}");
    };
    for (endpoint, port) in [
        ("https://10.0.0.5", 443),
        ("http://10.0.0.5", 80),
        ("http://c:4318/v1", 4318),
        ("http://c/v1", 80),
        ("https://collector.example.org:4317/", 4317),
        ("https://[2001:db8::7]", 443),
        ("https://[2001:db8::7]:4317", 4317),
    ] {
        check(&json!({ "global": { "otel": { "endpoint": endpoint } } }), "policy", &[4222, port]);
    }
    for (endpoint, port) in
        [("", 443), ("https://10.0.0.7", 443), ("https://minio.storage:9000", 9000), ("https://s3-2/", 443)]
    {
        let s3 = json!({ "url": "s3://backups", "endpoint": endpoint });
        check(&json!({ "backup": { "enabled": true, "s3": s3 } }), "backup", &[4222, port]);
    }
    let elsewhere = |urls: &[&str]| json!({ "nats": { "enabled": false }, "externalNats": { "urls": urls, "tlsSecret": "ca" } });
    check(&elsewhere(&["tls://10.0.0.9:14222"]), "policy", &[14222]);
    check(&elsewhere(&["tls://[2001:db8::9]:4222", "tls://nats-2:4223"]), "policy", &[4222, 4223]);
    // Where nothing else is said, join tokens lead to where services find NATS.
    let mut with_agents = elsewhere(&["tls://10.0.0.9:14222"]);
    with_agents["agent"] = json!({ "enabled": true, "joinTokenSecret": "join" });
    check(&with_agents, "agent", &[443, 4222, 14222]);
    let outside = |urls: &[&str]| {
        json!({
            "agent": { "enabled": true, "joinTokenSecret": "join" }, "agentAccess": { "urls": urls },
            "nats": { "webSocket": { "enabled": true } },
        })
    };
    check(&outside(&[]), "agent", &[443, 4222]);
    check(&outside(&["tls://node-1:30422", "tls://node-2:30422"]), "agent", &[443, 4222, 30422]);
    check(&outside(&["wss://nats.example.org:8443"]), "agent", &[443, 4222, 8443]);
    check(&outside(&["tls://node-1:30422"]), "selftest", &[443, 4222, 7400, 30422]);
}

#[test]
fn who_is_let_in_is_who_the_values_name_and_the_release_itself() {
    if !have(&["helm"]) {
        return;
    }
    let peer = json!({ "podSelector": { "matchLabels": { "team": "fleet" } } });
    let rule = json!({ "ports": [{ "port": 9999, "protocol": "TCP" }] });
    let objects = render(json!({
        "agent": { "enabled": true, "joinTokenSecret": "join" },
        "backup": { "enabled": true, "networkPolicy": { "extraIngress": [rule] } },
        "nats": { "networkPolicy": { "allowedFrom": [peer] } },
        "operator": { "enabled": true },
    }));
    assert_eq!(problems(&objects, &["join"]), Vec::<String>::new());
    assert_eq!(objects.get("NetworkPolicy", "muster-backup")["spec"]["ingress"], json!([rule]));
    let nats = objects.get("NetworkPolicy", "muster-nats");
    let from = nats.pointer("/spec/ingress/0/from").and_then(Value::as_array).unwrap();
    let component = |peer: &Value| {
        let name = peer.pointer("/podSelector/matchLabels/app.kubernetes.io~1component")?;
        Some(name.as_str().unwrap().to_owned())
    };
    let let_in: BTreeSet<String> = from.iter().filter_map(component).collect();
    // Who goes out to NATS is let in there.
    let goes = |name: &str| name != "nats" && out(&objects, name).contains(&4222);
    let all = objects.of("NetworkPolicy").filter_map(|policy| policy["metadata"]["name"].as_str());
    let names = all.filter_map(|name| name.strip_prefix("muster-")).filter(|name| *name != "default-deny");
    assert_eq!(let_in, names.filter(|name| goes(name)).map(str::to_owned).collect(), "{from:?}");
    assert!(from.contains(&peer));
}
