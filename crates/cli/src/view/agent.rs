//! Agents.

use domain::enrol::Reason;
use wire::api::v1::{
    Agent, EnrolOfflineResponse, ListAgentsResponse, ListPendingAgentsResponse, Registration,
};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::text;

pub(crate) fn list(response: &ListAgentsResponse, style: Style) -> String {
    let mut table = Table::new(&[
        "AGENT",
        "GROUP",
        "STATE",
        "MODE",
        "PROGRESS",
        "REVISION",
        "HEAD",
        "LAST HEARTBEAT",
        "VERSION",
    ]);
    for agent in &response.agents {
        table.row([
            Cell::from(&agent.name),
            Cell::from(&agent.group),
            text::state(agent.state()),
            Cell::from(text::mode(agent.mode())),
            progress(agent),
            text::revision(agent.revision),
            text::revision(agent.head_revision),
            Cell::from(text::ago(agent.last_heartbeat.as_ref(), style)),
            Cell::from(text::or_none(&agent.agent_version)),
        ]);
    }
    table.render(style)
}

/// Where it stands; that what it runs has expired counts more than that there is nothing newer.
fn progress(agent: &Agent) -> Cell {
    match agent.stale {
        true => Cell::toned("stale", Tone::Bad),
        false => text::progress(agent.progress()),
    }
}

pub(crate) fn show(agent: &Agent, registration: Option<&Registration>, style: Style) -> String {
    let mut table = Table::fields();
    table.field("Agent", &agent.name);
    table.field("Group", &agent.group);
    table.field("State", text::state(agent.state()));
    table.field("Last heartbeat", text::ago(agent.last_heartbeat.as_ref(), style));
    table.field("Heartbeat interval", text::length(agent.heartbeat_interval.as_ref()));
    table.field("Mode", text::mode_explained(agent.mode()));
    table.field("Progress", text::progress(agent.progress()));
    table.field("Revision", text::revision(agent.revision));
    table.field("Head revision", text::revision(agent.head_revision));
    table.field("Host name", text::or_none(&agent.hostname));
    table.field("Labels", text::labels(&agent.labels));
    table.field("Version", text::or_none(&agent.agent_version));
    if let Some(it) = registration {
        table.field("Joined", text::time(it.join_time.as_ref()));
        table.field("Joined with token", text::or_none(&it.token));
        table.field("In its group", placed(&it.placed_by, &it.token));
        table.field("Public key", text::or_none(&it.public_key));
    }
    for (name, count) in [
        ("Went back to last known good", agent.rollbacks),
        ("Envelopes refused", agent.refusals),
        ("Drift repaired", agent.repairs),
    ] {
        if count > 0 {
            table.field(name, Cell::count(count, Tone::Watch));
        }
    }
    if !agent.last_refusal.is_empty() {
        table.field("Last refusal", Cell::toned(&agent.last_refusal, Tone::Bad));
    }
    if agent.root_version > 0 {
        table.field("Trust root", agent.root_version.to_string());
    }
    if agent.stale {
        table.field("Freshness", Cell::toned("stale: its snapshot or its trust root has expired", Tone::Bad));
    }
    if agent.duplicate_suspected {
        table.field("Identity", Cell::toned("seems to be used by two machines", Tone::Bad));
    }
    let mut shown = table.render(style);
    if !agent.items.is_empty() {
        shown.push('\n');
        shown += &items(agent, style);
    }
    if !agent.content.is_empty() {
        shown.push('\n');
        shown += &super::content::of_agent(agent, style);
    }
    shown
}

fn items(agent: &Agent, style: Style) -> String {
    let mut table = Table::new(&["KIND", "STATE", "REVISION", "REASON"]);
    for item in &agent.items {
        let tone = match item.state.as_str() {
            "applied" | "healthy" => Tone::Good,
            "failed" => Tone::Bad,
            _ => Tone::Watch,
        };
        table.row([
            Cell::from(&item.kind),
            Cell::toned(&item.state, tone),
            text::revision(item.revision),
            Cell::from(text::or_none(&item.reason)),
        ]);
    }
    table.render(style)
}

/// Why an agent is in its group. A form that this client does not know is shown as it is.
fn placed(by: &str, token: &str) -> String {
    let token = safe(token);
    match by.parse() {
        Ok(Reason::Asked) => format!("at its own wish, which token {token} allows"),
        Ok(Reason::Rule(number)) => format!("by rule {number} of token {token}"),
        Ok(Reason::Token) => format!("as the group of token {token}"),
        Ok(Reason::Default) => format!("as the default, for token {token} names no group"),
        Ok(Reason::Operator) => "because an operator put it there".to_owned(),
        Err(_) => text::or_none(by).to_owned(),
    }
}

/// Agents that wait for approval.
pub(crate) fn pending(response: &ListPendingAgentsResponse, style: Style) -> String {
    let mut table = Table::new(&["AGENT", "GROUP", "PLACED", "HOST NAME", "LABELS", "TOKEN", "SINCE"]);
    for agent in &response.agents {
        table.row([
            Cell::from(&agent.agent),
            Cell::from(&agent.group),
            Cell::from(text::or_none(&agent.placed_by)),
            Cell::from(text::or_none(&agent.hostname)),
            Cell::from(text::labels(&agent.labels)),
            Cell::from(text::or_none(&agent.token)),
            Cell::from(text::ago(agent.request_time.as_ref(), style)),
        ]);
    }
    table.render(style)
}

/// An agent that was let in.
pub(crate) fn approved(registration: &Registration, _style: Style) -> String {
    let why = placed(&registration.placed_by, &registration.token);
    format!("approved   Agent  {}  in {}, {why}\n", safe(&registration.agent), safe(&registration.group))
}

/// A machine that was let in by its request.
pub(crate) fn enrolled(made: &EnrolOfflineResponse, _style: Style) -> String {
    let registration = made.registration.clone().unwrap_or_default();
    let why = placed(&registration.placed_by, &registration.token);
    format!(
        "enrolled   Agent  {}  in {}, {why}\n\nThe bundle is good until {}. On the machine:\n  muster-agent join --bundle FILE --state-dir DIR\n",
        safe(&registration.agent),
        safe(&registration.group),
        text::time(made.expire_time.as_ref()),
    )
}

/// An agent in its new place.
pub(crate) fn moved(registration: &Registration, _style: Style) -> String {
    format!("{} is in {} now\n", safe(&registration.agent), safe(&registration.group))
}

#[cfg(test)]
mod tests {
    use prost_types::{Duration, Timestamp};
    use wire::api::v1::{Item, Mode, PendingAgent, PresenceState, Progress};

    use super::*;

    fn agent() -> Agent {
        Agent {
            name: "web-1-0a1b2c3d".into(),
            group: "/servers/web".into(),
            state: PresenceState::Online.into(),
            mode: Mode::Push.into(),
            revision: 41,
            head_revision: 42,
            progress: Progress::Failed.into(),
            last_heartbeat: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            heartbeat_interval: Some(Duration { seconds: 60, nanos: 0 }),
            agent_version: "0.1.0".into(),
            hostname: "web-1\u{1b}[2J".into(),
            items: vec![Item {
                kind: "firewall".into(),
                state: "failed".into(),
                revision: 42,
                reason: "hook ended with 1".into(),
            }],
            rollbacks: 1,
            ..Agent::default()
        }
    }

    #[test]
    fn agents_are_listed() {
        let never = Agent { name: "b".into(), group: "/".into(), state: 1, ..Agent::default() };
        let response =
            ListAgentsResponse { agents: vec![agent(), never], next_page_token: String::new(), total: 2 };
        assert_eq!(
            list(&response, Style::plain_at(domain::Timestamp(1_700_000_004_500))),
            "AGENT           GROUP         STATE       MODE  PROGRESS  REVISION  HEAD  LAST HEARTBEAT  VERSION\n\
             web-1-0a1b2c3d  /servers/web  online      push  failed    41        42    4s ago          0.1.0\n\
             b               /             never-seen  -     -         -         -     -               -\n"
        );
    }

    #[test]
    fn agents_that_wait_are_listed_and_reasons_are_told() {
        let agent = PendingAgent {
            agent: "web-1".into(),
            group: "/servers/web".into(),
            hostname: "web-1\u{1b}".into(),
            labels: [("site".to_owned(), "north".to_owned())].into(),
            request_time: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            token: "web".into(),
            placed_by: "rule 2".into(),
            ..PendingAgent::default()
        };
        let response = ListPendingAgentsResponse { agents: vec![agent], next_page_token: String::new() };
        assert_eq!(
            pending(&response, Style::plain_at(domain::Timestamp(1_700_000_004_500))),
            "AGENT  GROUP         PLACED  HOST NAME    LABELS      TOKEN  SINCE\n\
             web-1  /servers/web  rule 2  web-1\\u{1b}  site=north  web    4s ago\n"
        );
        for (by, expected) in [
            ("asked", "at its own wish, which token web allows"),
            ("token", "as the group of token web"),
            ("default", "as the default, for token web names no group"),
            ("operator", "because an operator put it there"),
            ("", "-"),
            ("something new", "something new"),
        ] {
            assert_eq!(placed(by, "web"), expected);
        }
    }

    #[test]
    fn an_agent_is_shown_with_each_item() {
        let registration = Registration {
            token: "web".into(),
            public_key: "UABC".into(),
            placed_by: "rule 2".into(),
            ..Registration::default()
        };
        assert_eq!(
            show(&agent(), Some(&registration), Style::plain_at(domain::Timestamp(1_700_000_004_500))),
            "Agent:                         web-1-0a1b2c3d\n\
             Group:                         /servers/web\n\
             State:                         online\n\
             Last heartbeat:                4s ago\n\
             Heartbeat interval:            1m\n\
             Mode:                          push (the agent holds a connection and is told at once)\n\
             Progress:                      failed\n\
             Revision:                      41\n\
             Head revision:                 42\n\
             Host name:                     web-1\\u{1b}[2J\n\
             Labels:                        -\n\
             Version:                       0.1.0\n\
             Joined:                        -\n\
             Joined with token:             web\n\
             In its group:                  by rule 2 of token web\n\
             Public key:                    UABC\n\
             Went back to last known good:  1\n\
             \n\
             KIND      STATE   REVISION  REASON\n\
             firewall  failed        42  hook ended with 1\n"
        );
    }
}
