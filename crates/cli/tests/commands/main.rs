//! Commands against a scripted server: what they print where, and with which exit code they end.

mod content;
mod scripted;
mod told;

use cli::exit;
use cli::terminal::{Terminal, Traits};
use scripted::{Reply, Server, run};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use wire::api::v1::watch_event::Event;
use wire::api::v1::{
    Action, Agent, AgentCounts, Applied, ApplyResponse, ChangeResult, FleetStatus, Group, Item,
    JoinTokenSecret, ListAgentsResponse, ListGroupsResponse, ObjectChange, Token, WatchEvent,
};

const MANIFEST: &str =
    "{apiVersion: muster.dev/v1alpha1, kind: Group, metadata: {name: web}, spec: {path: /web}}\n";

#[test]
fn a_server_that_is_not_there_is_named_with_a_way_out() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let outcome = run(&["status", "--server", &format!("http://{free}")], "", Traits::default());
    assert_eq!((outcome.code, outcome.out.as_str()), (exit::UNREACHABLE, ""));
    let expected = format!("error: cannot reach a Muster server at http://{free}: ");
    assert!(outcome.err.starts_with(&expected), "{}", outcome.err);
    assert!(outcome.err.contains("refused"), "{}", outcome.err);
    assert!(outcome.err.contains("try: start one with `musterd all --data-dir DIR`"), "{}", outcome.err);
    assert!(outcome.err.contains("MUSTER_SERVER"), "{}", outcome.err);
}

#[test]
fn a_wrong_command_line_is_told_before_anything_is_asked() {
    let server = Server::start([]);
    for arguments in [
        &["nonsense"][..],
        &["group", "set", "/a"],
        &["settings", "set", "--group", "/a", "--heartbeat-interval", "60"],
        &["settings", "set", "--group", "/a", "--mode", "push", "--inherit", "mode"],
        &["token", "create", "--group", "/a", "--uses", "0"],
        &["agent", "list", "--children"],
        &["content", "set", "a"],
        &["content", "promote", "a"],
        &["content", "push", "A/B", "."],
        &["settings", "set", "--group", "/a", "--content-rate-limit", "2MB"],
        &["wait"],
        &["group", "delete", "/a"],
    ] {
        let outcome = server.run(arguments);
        assert_eq!((outcome.code, outcome.out.as_str()), (exit::USAGE, ""), "{arguments:?}");
        assert!(outcome.err.starts_with("error: "), "{}", outcome.err);
    }
    assert_eq!(server.asked(), [] as [&str; 0]);
}

#[test]
fn a_refused_apply_names_fields_in_the_words_of_the_file() {
    let details = ErrorDetails::with_bad_request_violation("resources[0].group.path", "must not be /web");
    let status = Status::with_error_details(Code::InvalidArgument, "the change is refused", details);
    let server = Server::start([("Apply", vec![Reply::Refusal(status)])]);
    server.run_with(&["apply", "-f", "-"], MANIFEST, Traits::default()).assert(
        exit::REFUSED,
        "",
        "error: the change is refused\n  standard input:1 Group web: spec.path: must not be /web\n",
    );
}

#[test]
fn wrong_manifests_never_reach_the_server() {
    let server = Server::start([]);
    server.run_with(&["apply", "-f", "-"], "kind: Grupo\n", Traits::default()).assert(
        exit::REFUSED,
        "",
        "error: 1 mistake in the manifests\n  standard input:1:7 (document 1): kind: unknown value \"Grupo\"; \
         allowed: Group, PolicyKind, Policy, EnrollmentToken, ContentRelease\n",
    );
    assert_eq!(server.asked(), [] as [&str; 0]);
}

#[test]
fn an_apply_prints_what_it_did_and_new_tokens_once() {
    let object = ObjectChange { kind: "Group".into(), name: "web".into(), action: Action::Created.into() };
    let details = Token { name: "t".into(), group: "/web".into(), uses: 2, ..Token::default() };
    let response = ApplyResponse {
        result: Some(ChangeResult {
            revision: 7,
            objects: vec![object],
            groups_touched: 1,
            ..ChangeResult::default()
        }),
        tokens: vec![JoinTokenSecret { token: "mjt1_x".into(), details: Some(details) }],
    };
    let server = Server::start([("Apply", vec![Reply::message(&response)])]);
    server.run_with(&["apply", "-f", "-"], MANIFEST, Traits::default()).assert(
        exit::OK,
        "created  Group  web\n\nrevision 7: 1 group gets a new snapshot; 0 agents are in it\n\n\
         token t: 2 agents may join /web with it until -\n\nmjt1_x\n\n\
         On each machine:\n  muster-agent run --join mjt1_x --state-dir DIR\n",
        "Join tokens are shown this once: their secrets are kept nowhere.\n",
    );
    let outcome = server.run_with(&["apply", "-f", "-", "-o", "json"], MANIFEST, Traits::default());
    assert_eq!(outcome.json()["tokens"][0]["token"], "mjt1_x");
    assert_eq!(outcome.err, "");
}

#[test]
fn lists_are_fetched_page_by_page_and_empty_ones_say_so() {
    let page = |name: &str, next: &str| {
        let group = Group { name: name.into(), path: format!("/{name}"), ..Group::default() };
        let next_page_token = next.to_owned();
        Reply::message(&ListGroupsResponse { groups: vec![group], next_page_token, revision: 9 })
    };
    let server = Server::start([("ListGroups", vec![page("a", "more"), page("b", "")])]);
    let outcome = server.run(&["group", "list", "-o", "json"]);
    let expected = serde_json::json!({
        "groups": [{"name": "a", "path": "/a"}, {"name": "b", "path": "/b"}],
        "revision": "9",
    });
    assert_eq!(outcome.json(), expected);
    assert_eq!(server.asked(), ["ListGroups", "ListGroups"]);

    let server = Server::start([("ListAgents", vec![Reply::message(&ListAgentsResponse::default())])]);
    server.run(&["agent", "list", "--state", "late"]).assert(exit::OK, "", "No agent is like this.\n");
    server.run(&["agent", "list", "-o", "yaml"]).assert(exit::OK, "{}\n", "");
}

#[test]
fn deletions_ask_where_somebody_can_answer() {
    let object = ObjectChange { kind: "Group".into(), name: "a".into(), action: Action::Deleted.into() };
    let result = ChangeResult { revision: 8, objects: vec![object], ..ChangeResult::default() };
    let server = Server::start([("DeleteGroup", vec![Reply::message(&result)])]);
    let person = Traits { in_is_terminal: true, ..Traits::default() };
    let done = "deleted  Group  a\n\nrevision 8: no group gets a new snapshot\n";

    let nobody = server.run(&["group", "delete", "/a"]);
    assert!(nobody.err.contains("nobody can be asked here"), "{}", nobody.err);
    assert_eq!(nobody.code, exit::USAGE);
    let no = server.run_with(&["group", "delete", "/a"], "n\n", person);
    no.assert(exit::FAILED, "", "delete group /a? [y/N] error: nothing was changed\n");
    assert_eq!(server.asked(), [] as [&str; 0]);

    let yes = server.run_with(&["group", "delete", "/a"], "y\n", person);
    yes.assert(exit::OK, done, "delete group /a? [y/N] ");
    server.run(&["group", "delete", "/a", "--yes"]).assert(exit::OK, done, "");
}

#[test]
fn a_new_token_is_in_the_json_as_token() {
    let details = Token { name: "web".into(), group: "/web".into(), uses: 1, ..Token::default() };
    let made = JoinTokenSecret { token: "mjt1_abc".into(), details: Some(details) };
    let server = Server::start([("CreateToken", vec![Reply::message(&made)])]);
    let outcome = server.run(&["token", "create", "--group", "/web", "-o", "json"]);
    assert_eq!(outcome.json()["token"], "mjt1_abc");
}

fn status(counts: AgentCounts) -> Reply {
    Reply::message(&FleetStatus { all: Some(counts), ..FleetStatus::default() })
}

fn agents(name: &str, items: Vec<Item>) -> Reply {
    let agent = Agent { name: name.into(), items, ..Agent::default() };
    Reply::message(&ListAgentsResponse { agents: vec![agent], total: 1, ..ListAgentsResponse::default() })
}

#[test]
fn a_wait_tells_by_its_code_how_it_ended() {
    let head =
        || ("ListGroups", vec![Reply::message(&ListGroupsResponse { revision: 9, ..Default::default() })]);
    let counts = |online_pending, online_failed| AgentCounts {
        total: 3,
        online: 2,
        online_pending,
        online_failed,
        ..AgentCounts::default()
    };
    let behind = Reply::Refusal(Status::deadline_exceeded("heads of revision 9 are not known yet"));

    let server =
        Server::start([head(), ("GetStatus", vec![behind, status(counts(1, 0)), status(counts(0, 0))])]);
    server.run(&["wait", "--group", "/web", "--timeout", "20s"]).assert(
        exit::OK,
        "all 2 online agents of /web run the head; 1 agent that is not online will follow\n",
        "",
    );

    let pending = ("ListAgents", vec![agents("web-1", vec![])]);
    let server = Server::start([head(), ("GetStatus", vec![status(counts(1, 0))]), pending]);
    let outcome = server.run(&["wait", "--group", "/web", "--timeout", "300ms"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (exit::TIMED_OUT, ""));
    let expected = "error: after 300ms 1 online agent is not at the head yet: web-1\n";
    assert!(outcome.err.starts_with(expected), "{}", outcome.err);

    let item = Item {
        kind: "firewall".into(),
        state: "failed".into(),
        revision: 9,
        reason: "hook ended with 1".into(),
    };
    let failed = ("ListAgents", vec![agents("web-1", vec![item])]);
    let server = Server::start([head(), ("GetStatus", vec![status(counts(0, 1))]), failed]);
    let outcome = server.run(&["wait", "--group", "/web", "--timeout", "20s"]);
    assert_eq!((outcome.code, outcome.out.as_str()), (exit::AGENTS_FAILED, ""));
    let expected = "error: 1 online agent failed: web-1 (firewall: hook ended with 1)\n";
    assert!(outcome.err.starts_with(expected), "{}", outcome.err);
}

#[test]
fn a_watch_prints_a_line_for_each_event_until_the_server_leaves() {
    let event = |revision| {
        let applied = Applied { agent: "web-1".into(), group: "/web".into(), revision };
        prost::Message::encode_to_vec(&WatchEvent { time: None, event: Some(Event::Applied(applied)) })
    };
    let server = Server::start([("Watch", vec![Reply::Messages(vec![event(7), event(8)])])]);
    let outcome = server.run(&["watch", "-o", "json"]);
    let line = |revision: &str| {
        format!("{{\"applied\":{{\"agent\":\"web-1\",\"group\":\"/web\",\"revision\":\"{revision}\"}}}}\n")
    };
    assert_eq!((outcome.code, outcome.out), (exit::UNREACHABLE, line("7") + &line("8")));
    assert!(outcome.err.starts_with("error: the server ended the stream of events\n"), "{}", outcome.err);
}

#[test]
fn what_is_not_there_has_its_own_code() {
    let details = ErrorDetails::with_resource_info("Group", "/nope", "", "");
    let status = Status::with_error_details(Code::NotFound, "there is no group /nope", details);
    let server = Server::start([("GetGroup", vec![Reply::Refusal(status)])]);
    server.run(&["group", "show", "/nope"]).assert(
        exit::NOT_FOUND,
        "",
        "error: there is no group /nope\ntry: `muster group list` shows what there is\n",
    );
}

#[test]
fn a_reader_that_left_ends_the_command_quietly() {
    struct Closed;
    impl std::io::Write for Closed {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    struct Silent;
    impl std::io::Write for Silent {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            panic!("nothing should be said, but: {}", String::from_utf8_lossy(bytes));
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let server = Server::start([("GetStatus", vec![status(AgentCounts::default())])]);
    let mut terminal = Terminal::new(Closed, Silent, std::io::empty(), Traits::default());
    let url = server.url();
    let arguments = ["muster", "status", "--server", &url].map(Into::into);
    assert_eq!(cli::run(arguments, &mut terminal), exit::OK);
}

#[test]
fn what_needs_no_server_asks_none() {
    run(&["version"], "", Traits::default()).assert(
        exit::OK,
        concat!("muster ", env!("CARGO_PKG_VERSION"), "\n"),
        "",
    );
    for shell in ["bash", "zsh", "fish"] {
        let outcome = run(&["completion", shell], "", Traits::default());
        assert_eq!((outcome.code, outcome.err.as_str()), (exit::OK, ""));
        assert!(outcome.out.contains("muster") && outcome.out.contains("explain"), "{shell}");
    }
    let help = run(&["--help"], "", Traits::default());
    assert_eq!((help.code, help.err.as_str()), (exit::OK, ""));
    assert!(help.out.contains("Exit codes:"));
}

#[test]
fn the_examples_can_be_read() {
    let object = ObjectChange { kind: "Group".into(), name: "root".into(), action: Action::Unchanged.into() };
    let result = Some(ChangeResult { revision: 1, objects: vec![object], ..ChangeResult::default() });
    let server = Server::start([("Apply", vec![Reply::message(&ApplyResponse { result, tokens: vec![] })])]);
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples");
    server.run(&["apply", "-f", examples]).assert(
        exit::OK,
        "unchanged  Group  root\n\nnothing to change; the fleet is at revision 1\n",
        "",
    );
}
