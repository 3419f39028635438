use std::collections::BTreeSet;

use super::exporters::Wanted;
use super::metrics::is_declared;
use super::*;

/// Series that the SDK keeps of one metric; more end up in one that says nothing.
const SDK_SERIES: usize = 2000;

#[test]
fn names_are_dotted_and_labels_few() {
    let mut names = BTreeSet::new();
    for metric in CATALOGUE {
        let Metric { name, labels, .. } = metric;
        assert!(names.insert(*name), "{name} stands twice");
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || matches!(b, b'.' | b'_')), "{name}");
        assert!(metric.series() <= SDK_SERIES, "{name} has {} series", metric.series());
        assert!(labels.len() <= 4 && metric.meaning.ends_with('.'), "{name}");
        for label in *labels {
            let id = ["agent", "host", "user", "token", "revision", "group", "policy", "error"];
            assert!(!id.iter().any(|word| label.name.contains(word)), "{name} has the label {}", label.name);
        }
    }
    assert_eq!(Name::Agents.metric().name, "muster.agents");
    assert_eq!(Name::RpcServer as usize, CATALOGUE.len() - 1);
}

#[test]
fn labels_that_are_not_in_the_table_are_refused() {
    let heartbeats = Name::Heartbeats.metric();
    assert!(is_declared(heartbeats, &["push", "answered"]));
    for wrong in [&["push"][..], &["answered", "push"], &["push", "answered", "x"], &["push", "agent-17"]] {
        assert!(!is_declared(heartbeats, wrong), "{wrong:?}");
    }
    let undeclared = || metrics::add(Name::Heartbeats, 1, &["push", "agent-17"]);
    assert!(std::panic::catch_unwind(undeclared).is_err(), "a debug build ends");
}

#[test]
fn each_series_has_a_place_of_its_own() {
    for metric in CATALOGUE {
        let mut places: BTreeSet<usize> =
            metric.combinations().map(|values| metrics::place(metric, &values)).collect();
        assert_eq!(places.len(), metric.series(), "{}", metric.name);
        if !metric.labels.is_empty() {
            assert!(places.insert(metrics::place(metric, &["never listed"; 4])), "{}", metric.name);
        }
    }
}

#[test]
fn counters_begin_with_all_that_a_process_may_tell() {
    let check = |name: Name, service: &str, expected: bool| {
        assert_eq!(name.metric().is_told_by(service), expected, "{name:?} by {service}");
    };
    for (service, [heartbeats, enrolments, agents]) in [
        ("musterd", [true, true, false]),
        ("musterd-presence", [true, false, false]),
        ("musterd-identity", [false, true, false]),
        ("muster-agent", [false, false, true]),
    ] {
        check(Name::Heartbeats, service, heartbeats);
        check(Name::Enrolments, service, enrolments);
        check(Name::Activations, service, agents);
        check(Name::Process, service, heartbeats || agents);
        check(Name::BrokerReconnects, service, true);
        check(Name::RpcServer, service, !agents);
    }
    for metric in CATALOGUE {
        let all: BTreeSet<_> = metric.combinations().collect();
        assert_eq!(all.len(), metric.series(), "{}", metric.name);
        assert!(all.iter().all(|values| is_declared(metric, values)), "{}", metric.name);
    }
}

#[test]
fn prometheus_names_follow_from_the_table() {
    let check = |name: Name, expected: &str| assert_eq!(name.metric().prometheus(), expected);
    check(Name::Agents, "muster_agents");
    check(Name::Heartbeats, "muster_heartbeats_total");
    check(Name::ContentBytes, "muster_content_bytes_total");
    check(Name::RpcServer, "rpc_server_call_duration_seconds");
}

#[test]
fn signals_are_exported_where_an_endpoint_is_given() {
    let check = |variables: &[(&str, &str)], expected: Option<[bool; 3]>| {
        let get =
            |name: &str| variables.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        let wanted = Wanted::read(get).ok().map(|wanted| [wanted.traces, wanted.metrics, wanted.logs]);
        assert_eq!(wanted, expected, "{variables:?}");
    };
    let all = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
    check(&[], Some([false; 3]));
    check(&[all], Some([true; 3]));
    check(&[all, ("OTEL_SDK_DISABLED", "TRUE")], Some([false; 3]));
    check(&[all, ("OTEL_LOGS_EXPORTER", "none")], Some([true, true, false]));
    check(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "x")], Some([true, false, false]));
    check(&[all, ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")], None);
    check(
        &[("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"), all, ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc")],
        None,
    );
}

#[test]
fn what_exporters_say_is_not_exported() {
    for target in
        ["tonic", "tonic::transport", "h2::proto", "hyper_util::client", "opentelemetry_sdk", "tower::x"]
    {
        assert!(is_of_exporters(target), "{target}");
    }
    for target in ["policy::change", "runtime::nats", "towering", "h2o"] {
        assert!(!is_of_exporters(target), "{target}");
    }
}
