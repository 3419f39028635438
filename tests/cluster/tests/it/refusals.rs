//! Values that the chart does not take, and what it says of them.

use cluster::{Chart, have};
use serde_json::{Value, json};

/// The chart refuses values with a message that names the key.
fn check(values: Value, names: &str) {
    let refused = Chart::new().with(values.clone()).render().expect_err(&format!("{values} is taken"));
    assert!(
        refused.is_about_values() && refused.0.contains(names),
        "{values}: no {names:?} in {}",
        refused.0
    );
}

#[test]
fn what_the_schema_does_not_know_is_refused_by_name() {
    if !have(&["helm"]) {
        return;
    }
    check(json!({ "polcy": {} }), "polcy");
    check(json!({ "policy": { "replica": 2 } }), "replica");
    check(json!({ "policy": { "options": { "content-quota": "1GiB" } } }), "content-quota");
    check(json!({ "policy": { "replicas": "two" } }), "/policy/replicas");
    check(json!({ "policy": { "replicas": 0 } }), "/policy/replicas");
    check(json!({ "global": { "fleet": "Main" } }), "/global/fleet");
    check(json!({ "global": { "defaults": { "pdb": { "minAvailable": 1 } } } }), "minAvailable");
    check(json!({ "nats": { "replicas": 2 } }), "/replicas");
    check(json!({ "nats": { "jetstream": {} } }), "jetstream");
    check(json!({ "nats": { "config": { "lameDuckDuration": "5s" } } }), "lameDuckDuration");
    check(json!({ "externalNats": { "urls": ["nats://plain.example.org:4222"] } }), "/externalNats/urls/0");
    check(json!({ "externalNats": { "streamReplicas": 2 } }), "/externalNats/streamReplicas");
    check(json!({ "global": { "otel": { "protocol": "http/protobuf" } } }), "/global/otel/protocol");
    check(json!({ "tls": { "source": "magic" } }), "/tls/source");
    check(json!({ "policy": { "image": { "digest": "sha256:12" } } }), "/policy/image/digest");
}

#[test]
fn what_does_not_go_together_is_refused_with_the_way_out() {
    if !have(&["helm"]) {
        return;
    }
    check(json!({ "nats": { "enabled": false } }), "externalNats.urls: needed");
    check(
        json!({ "externalNats": { "urls": ["tls://nats.example.org:4222"] } }),
        "externalNats.urls: set while",
    );
    let alone = json!({ "bootstrap": { "enabled": false } });
    for key in ["policy.existingSecret", "identity.existingSecret", "nats.operatorSecret", "tls.source"] {
        check(alone.clone(), key);
    }
    check(json!({ "tls": { "source": "existingSecret" } }), "nats.tlsSecret");
    check(json!({ "tls": { "source": "existingSecret" } }), "tls.api.existingSecret");
    check(json!({ "tls": { "source": "certManager" } }), "tls.certManager.issuerRef.name");
    check(json!({ "agentAccess": { "service": { "enabled": true } } }), "agentAccess.urls");
    check(json!({ "agentAccess": { "tlsRoute": { "enabled": true } } }), "agentAccess.tlsRoute.hostnames");
    let ingress =
        json!({ "agentAccess": { "ingress": { "enabled": true }, "urls": ["tls://nats.example.org:4222"] } });
    check(ingress.clone(), "agentAccess.ingress.host");
    check(ingress, "agentAccess.urls: an Ingress");
    let web = |urls: &[&str]| json!({ "agentAccess": { "urls": urls } });
    check(web(&["wss://nats.example.org:443"]), "nats.webSocket.enabled");
    check(web(&["wss://a:443", "tls://b:4222"]), "do not go together");
    check(json!({ "api": { "grpcRoute": { "enabled": true } } }), "api.grpcRoute.parentRefs");
    check(json!({ "api": { "ingress": { "enabled": true } } }), "api.ingress.host");
    check(json!({ "agent": { "enabled": true } }), "agent.joinTokenSecret");
    check(
        json!({ "bootstrap": { "enabled": false }, "backup": { "enabled": true } }),
        "backup.existingSecret",
    );
    check(json!({ "backup": { "s3": { "endpoint": "https://minio:9000" } } }), "backup.s3.url: needed");
    let both = json!({ "backup": { "existingClaim": "mine", "s3": { "url": "s3://backups/muster" } } });
    check(both, "backup.existingClaim: set while");
    check(
        json!({ "nats": { "exporter": { "podMonitor": { "enabled": true } } } }),
        "nats.exporter.podMonitor.enabled",
    );
    check(
        json!({ "bootstrap": { "enabled": false }, "operator": { "enabled": true } }),
        "operator.tokenSecret",
    );
    check(
        json!({ "identity": { "existingSecret": "mine" }, "operator": { "enabled": true } }),
        "operator.tokenSecret",
    );
    for endpoint in ["", "http://collector.telemetry:4317"] {
        let otel = json!({ "endpoint": endpoint, "caSecret": "collector-ca" });
        check(json!({ "global": { "otel": otel } }), "global.otel.caSecret: set while");
    }
    let twice = json!({ "serviceAccount": { "name": "same" } });
    check(json!({ "policy": twice, "nats": twice }), "nats.serviceAccount.name: same would be made twice");
    check(
        json!({ "policy": { "serviceAccount": { "name": "muster-content" } } }),
        "content.serviceAccount.name",
    );
    let scaling =
        json!({ "presence": { "autoscaling": { "enabled": true, "minReplicas": 9, "maxReplicas": 3 } } });
    check(scaling, "presence.autoscaling.minReplicas: 9");
}
