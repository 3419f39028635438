//! What operators ask and watch.

use domain::Mode;
use futures::StreamExt as _;
use tonic::Code;
use tonic_types::StatusExt as _;
use wire::agent::v1::Mode as WireMode;
use wire::api::v1::watch_event::Event;
use wire::api::v1::{
    AgentFilter, FleetStatus, GetAgentRequest, GetStatusRequest, ListAgentsRequest, PresenceState,
    WatchRequest,
};

use crate::fleet::{Fleet, PATIENCE, status};

fn group(group: &str, min_revision: u64) -> GetStatusRequest {
    GetStatusRequest { group: group.into(), only_itself: false, min_revision }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_and_counts_by_filter() {
    let fleet = Fleet::start().await;
    fleet.head("servers", "/servers", (Mode::Push, 60_000), 4).await;
    for n in 0..25 {
        fleet.enrol(&format!("a{n:02}"), if n % 5 == 0 { "servers" } else { "web" }, 1).await;
    }
    fleet.compiled(5).await;
    let mut replica = fleet.replica().await;
    let mut agent = fleet.agent("a01").await;
    agent.revision = 5;
    agent.beat(Some(status(WireMode::Pull, 5, None))).await;

    let filter = AgentFilter { group: "/servers".into(), include_children: true, ..AgentFilter::default() };
    let mut request = ListAgentsRequest { filter: Some(filter), page_size: 10, page_token: String::new() };
    let mut names = Vec::new();
    loop {
        let page = replica.api.list_agents(request.clone()).await.unwrap().into_inner();
        assert_eq!(page.total, 25);
        names.extend(page.agents.into_iter().map(|agent| agent.name));
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    assert_eq!(names, (0..25).map(|n| format!("a{n:02}")).collect::<Vec<_>>());

    let filter = AgentFilter { states: vec![PresenceState::Online.into()], ..AgentFilter::default() };
    let request = ListAgentsRequest { filter: Some(filter), ..ListAgentsRequest::default() };
    let online = replica.api.list_agents(request).await.unwrap().into_inner();
    assert_eq!((online.total, online.agents[0].name.as_str()), (1, "a01"));

    let whole: FleetStatus = replica.api.get_status(group("", 5)).await.unwrap().into_inner();
    assert_eq!((whole.fleet.as_str(), whole.group.as_str(), whole.revision), ("main", "", 5));
    let (all, push) = (whole.all.unwrap(), whole.push.unwrap());
    assert_eq!((all.total, all.online, all.current, all.never_seen), (25, 1, 1, 24));
    assert_eq!(push.total, 5, "never-seen agents count by the mode of their group");
    let paths: Vec<_> = whole.groups.iter().map(|group| (group.path.as_str(), group.head_revision)).collect();
    assert_eq!(paths, [("/servers", 4), ("/servers/web", 5)]);
    let web = replica.api.get_status(group("web", 0)).await.unwrap().into_inner();
    assert_eq!((web.group.as_str(), web.all.unwrap().total), ("/servers/web", 20));

    // A group that is gone is no filter any more; its agents keep their place until they are moved.
    fleet.no_head("servers", 6).await;
    while replica.api.get_status(group("/servers", 0)).await.is_ok() {
        tokio::task::yield_now().await;
    }
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_questions_are_refused_with_the_field() {
    let fleet = Fleet::start().await;
    let mut replica = fleet.replica().await;
    let unknown = replica.api.get_agent(GetAgentRequest { name: "nobody".into() }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    assert_eq!(unknown.get_details_resource_info().unwrap().resource_name, "nobody");
    let malformed = replica.api.get_agent(GetAgentRequest { name: "a.b".into() }).await.unwrap_err();
    assert_eq!(malformed.get_details_bad_request().unwrap().field_violations[0].field, "name");
    for (request, field) in [
        (ListAgentsRequest { page_size: -1, ..ListAgentsRequest::default() }, "page_size"),
        (ListAgentsRequest { page_token: "a*".into(), ..ListAgentsRequest::default() }, "page_token"),
        (
            ListAgentsRequest {
                filter: Some(AgentFilter { mode: 7, ..AgentFilter::default() }),
                ..ListAgentsRequest::default()
            },
            "filter.mode",
        ),
    ] {
        let refused = replica.api.list_agents(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert_eq!(refused.get_details_bad_request().unwrap().field_violations[0].field, field);
    }
    let nowhere = replica.api.get_status(group("/nowhere", 0)).await.unwrap_err();
    assert_eq!(nowhere.code(), Code::NotFound);
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_waits_for_the_heads_of_a_revision() {
    let fleet = Fleet::start().await;
    fleet.enrol("a", "web", 1).await;
    let mut replica = fleet.replica().await;
    let mut api = replica.api.clone();
    let read = tokio::spawn(async move { api.get_status(group("web", 8)).await.unwrap().into_inner() });
    fleet.compiled(7).await;
    fleet.head("web", "/servers/web", (Mode::Pull, 1_000), 8).await;
    fleet.compiled(8).await;
    let answer = read.await.unwrap();
    assert_eq!((answer.revision, answer.groups[0].head_revision), (8, 8));
    let never = replica.api.get_status(group("web", 9)).await.unwrap_err();
    assert_eq!(never.code(), Code::Unavailable, "bounded: {never}");
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_see_what_happens_as_it_happens() {
    let fleet = Fleet::start().await;
    fleet.head("web", "/servers/web", (Mode::Pull, 60_000), 5).await;
    fleet.head("other", "/other", (Mode::Pull, 60_000), 2).await;
    fleet.enrol("a", "web", 1).await;
    fleet.enrol("z", "other", 1).await;
    let mut replica = fleet.replica().await;
    let filter = AgentFilter { group: "/servers/web".into(), ..AgentFilter::default() };
    let mut events = replica.api.watch(WatchRequest { filter: Some(filter) }).await.unwrap().into_inner();
    let mut next = async || {
        let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event").unwrap().unwrap();
        event.event.unwrap()
    };
    let (mut agent, mut other) = (fleet.agent("a").await, fleet.agent("z").await);
    other.beat(None).await;
    agent.beat(None).await;
    let Event::Transition(online) = next().await else { panic!("the agent came") };
    assert_eq!((online.agent.as_str(), online.group.as_str()), ("a", "/servers/web"));
    assert_eq!((online.from(), online.to()), (PresenceState::NeverSeen, PresenceState::Online));

    agent.revision = 5;
    agent.beat(Some(status(WireMode::Pull, 5, None))).await;
    let Event::Applied(applied) = next().await else { panic!("it applied the snapshot") };
    assert_eq!((applied.agent.as_str(), applied.revision), ("a", 5));

    fleet.head("other", "/other", (Mode::Pull, 60_000), 6).await;
    fleet.head("web", "/servers/web", (Mode::Pull, 60_000), 7).await;
    let Event::Head(head) = next().await else { panic!("a new head") };
    assert_eq!((head.group.as_str(), head.revision), ("/servers/web", 7));

    agent.beat(Some(status(WireMode::Pull, 7, Some("no room")))).await;
    let Event::Failed(failed) = next().await else { panic!("it failed") };
    assert_eq!(failed.item.unwrap().reason, "no room");

    // The stream ends when the replica stops, and the replica does not wait for the watcher.
    replica.stop().await;
    while events.next().await.is_some() {}
}
