//! What a command does where it tells a collector: the same, whatever the collector does.

use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Longest run of a command here, on a busy machine. The exporter would wait much longer for a collector.
const PATIENCE: Duration = Duration::from_secs(60);

/// `muster` in a process of its own, which tells a collector at an address.
fn muster(arguments: &[&str], server: &Server, collector: Option<&str>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_muster"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OTEL_")) {
        command.env_remove(name);
    }
    command.args(arguments).args(["--server", &server.url()]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(collector) = collector {
        command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{collector}"));
        command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "600000");
    }
    command
}

fn outcome(mut command: Command) -> (Option<i32>, String, String) {
    let begun = Instant::now();
    let output = command.output().expect("muster can be started");
    assert!(begun.elapsed() < PATIENCE, "a collector holds nobody up");
    let [out, err] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).expect("it says text"));
    (output.status.code(), out, err)
}

#[test]
fn a_collector_that_is_away_or_silent_changes_nothing() {
    let groups = ListGroupsResponse {
        groups: vec![Group { path: "/web".into(), ..Default::default() }],
        ..Default::default()
    };
    let server = Server::start([
        ("ListGroups", vec![Reply::message(&groups)]),
        ("ListAgents", vec![Reply::Refusal(Status::permission_denied("not for you"))]),
    ]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let away = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let collectors = [silent.local_addr().unwrap(), away].map(|address| address.to_string());
    for (arguments, code) in [
        (&["group", "list", "-o", "json"][..], exit::OK),
        (&["group", "list"], exit::OK),
        (&["agent", "list", "-o", "json"], exit::REFUSED),
        (&["apply", "-f", "nowhere.yaml"], exit::FAILED),
        (&["version", "-o", "json"], exit::OK),
    ] {
        let expected = outcome(muster(arguments, &server, None));
        assert_eq!(expected.0, Some(code.into()), "{expected:?}");
        for collector in &collectors {
            assert_eq!(outcome(muster(arguments, &server, Some(collector))), expected, "{arguments:?}");
        }
    }
}

#[test]
fn variables_that_cannot_be_followed_are_one_note() {
    let server = Server::start([("ListGroups", vec![Reply::message(&ListGroupsResponse::default())])]);
    let arguments = ["group", "list", "-o", "json"];
    let expected = outcome(muster(&arguments, &server, None));
    let mut command = muster(&arguments, &server, Some("127.0.0.1:1"));
    command.env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf");
    let (code, out, err) = outcome(command);
    assert_eq!((code, out), (expected.0, expected.1));
    let note = "note: telemetry cannot be exported; correct the OTEL_ variables, or set OTEL_SDK_DISABLED=true: \
                OTEL_EXPORTER_OTLP_PROTOCOL is \"http/protobuf\": telemetry is exported with grpc only\n";
    assert_eq!(err, note.to_owned() + &expected.2);
}

#[test]
fn ctrl_c_ends_a_watch_that_tells_a_collector() {
    let server = Server::start([("Watch", vec![Reply::Open])]);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let collector = silent.local_addr().unwrap().to_string();
    let mut child = muster(&["watch"], &server, Some(&collector)).spawn().unwrap();
    let mut told = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "Watching; Ctrl-C ends it.\n");
    let sent = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "the command can be interrupted");
    let begun = Instant::now();
    let output = child.wait_with_output().unwrap();
    assert!(begun.elapsed() < PATIENCE, "a collector holds nobody up");
    assert_eq!(output.status.code(), Some(exit::STOPPED.into()));
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert_eq!((rest.as_str(), output.stdout), ("", Vec::new()), "it says nothing more");
}
