//! What operators see: values of `domain` as messages of the API.

use domain::content::{ChannelName, ContentRevision, ContentStatus, SourceBytes};
use domain::presence::{
    AgentView, ContentFailure, ContentSummary, Counts, Delivery, Effect, GroupHead, GroupView, ItemReport,
    Moments, Presence, Progress, RevisionCounts, State, Summary,
};
use domain::{AgentId, GroupId, GroupPath, Mode, Span, Timestamp};
use wire::api::v1 as api;
use wire::api::v1::watch_event::Event;

/// Groups in the answer to one call; more are only in the sums.
const MAX_GROUPS: usize = 1_000;
/// Revisions of a channel in the answer to one call: as many as a channel keeps.
const MAX_REVISIONS: usize = 1_000;

pub(crate) fn agent(view: &AgentView<'_>) -> api::Agent {
    let labels = view.labels.into_iter().flatten();
    let (stale, rollbacks, refusals, repairs) = view
        .status
        .map_or((false, 0, 0, 0), |status| (status.stale, status.rollbacks, status.refusals, status.repairs));
    api::Agent {
        name: view.id.to_owned(),
        group: place(view.path, view.group),
        state: state(view.state).into(),
        mode: mode(view.mode).into(),
        revision: view.cursor.revision.0,
        epoch: view.cursor.epoch.0,
        head_revision: view.head.revision.0,
        progress: progress(view.progress).into(),
        last_heartbeat: view.heard.map(timestamp),
        heartbeat_interval: Some(duration(view.interval)),
        agent_version: view.version.to_owned(),
        hostname: view.hostname.to_owned(),
        items: view.status.map_or_else(Vec::new, |status| status.items.iter().map(item).collect()),
        stale,
        rollbacks,
        refusals,
        last_refusal: view.status.map_or_else(String::new, |status| status.last_refusal.to_string()),
        repairs,
        labels: labels.map(|(key, value)| (key.to_string(), value.to_string())).collect(),
        duplicate_suspected: view.duplicate_suspected,
        content: view.content.iter().map(|status| content(status)).collect(),
        root_version: view.status.map_or(0, |status| status.root_version),
    }
}

fn content(status: &ContentStatus) -> api::AgentContent {
    api::AgentContent {
        channel: status.channel.to_string(),
        active: status.active.0,
        wanted: status.wanted.0,
        state: status.state.to_string(),
        percent: status.percent.into(),
        bytes: Some(bytes(&status.bytes)),
        reason: status.reason.to_string(),
    }
}

fn bytes(bytes: &SourceBytes) -> api::ContentBytes {
    let SourceBytes { patch, chunk, full, held } = *bytes;
    api::ContentBytes { patch, chunk, full, held }
}

/// How a revision got to agents.
pub(crate) fn delivery(delivery: &Delivery) -> api::Delivery {
    let reports = |moments: &Moments| api::Reports {
        count: moments.count,
        first: (moments.count > 0).then(|| timestamp(moments.first)),
        median: moments.median(delivery.first_published).map(timestamp),
        last: (moments.count > 0).then(|| timestamp(moments.last)),
    };
    api::Delivery {
        groups: delivery.groups,
        compiled: Some(timestamp(delivery.compiled)),
        first_published: Some(timestamp(delivery.first_published)),
        last_published: Some(timestamp(delivery.last_published)),
        applied: Some(reports(&delivery.applied)),
        failed: Some(reports(&delivery.failed)),
        ..api::Delivery::default()
    }
}

/// How far a channel has got.
pub(crate) fn content_status(channel: &ChannelName, summary: &ContentSummary<'_>) -> api::ContentStatus {
    let revisions = summary.revisions.iter().rev().take(MAX_REVISIONS);
    api::ContentStatus {
        channel: channel.to_string(),
        agents: summary.agents,
        current: summary.current,
        waiting: summary.waiting,
        downloading: summary.downloading,
        applying: summary.applying,
        failed: summary.failed,
        revisions: revisions.map(|(revision, counts)| revision_status(*revision, *counts)).collect(),
        bytes: Some(bytes(&summary.bytes)),
        expected_finish: summary.expected_finish.map(timestamp),
        time: None,
        failures: summary.failures.iter().map(failure).collect(),
    }
}

fn revision_status(revision: ContentRevision, counts: RevisionCounts) -> api::ContentRevisionStatus {
    let RevisionCounts { active, wanted, downloading, failed } = counts;
    api::ContentRevisionStatus { revision: revision.0, active, wanted, downloading, failed }
}

fn failure(failure: &ContentFailure<'_>) -> api::ContentFailure {
    api::ContentFailure {
        agent: failure.agent.to_owned(),
        revision: failure.revision.0,
        reason: failure.reason.to_owned(),
    }
}

fn item(item: &ItemReport) -> api::Item {
    api::Item {
        kind: item.kind.to_string(),
        state: item.state.to_string(),
        revision: item.revision.0,
        reason: item.reason.to_string(),
    }
}

/// Path of a group, or its id while it has no snapshot.
fn place(path: Option<&GroupPath>, id: &GroupId) -> String {
    path.map_or_else(|| id.to_string(), ToString::to_string)
}

fn state(state: State) -> api::PresenceState {
    match state {
        State::NeverSeen => api::PresenceState::NeverSeen,
        State::Online => api::PresenceState::Online,
        State::Late => api::PresenceState::Late,
        State::Offline => api::PresenceState::Offline,
    }
}

pub(crate) fn read_state(state: i32) -> Option<State> {
    match api::PresenceState::try_from(state).ok()? {
        api::PresenceState::Unspecified => None,
        api::PresenceState::NeverSeen => Some(State::NeverSeen),
        api::PresenceState::Online => Some(State::Online),
        api::PresenceState::Late => Some(State::Late),
        api::PresenceState::Offline => Some(State::Offline),
    }
}

fn mode(mode: Mode) -> api::Mode {
    match mode {
        Mode::Pull => api::Mode::Pull,
        Mode::Push => api::Mode::Push,
    }
}

fn progress(progress: Progress) -> api::Progress {
    match progress {
        Progress::Current => api::Progress::Current,
        Progress::Pending => api::Progress::Pending,
        Progress::Failed => api::Progress::Failed,
    }
}

pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: i64::try_from(time.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(time.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}

fn duration(span: Span) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(span.0 / 1000).unwrap_or(i64::MAX),
        nanos: i32::try_from(span.0 % 1000).unwrap_or(0) * 1_000_000,
    }
}

fn counts(counts: &Counts) -> api::AgentCounts {
    let [never_seen, online, late, offline] = counts.states;
    api::AgentCounts {
        total: counts.total(),
        never_seen,
        online,
        late,
        offline,
        current: counts.current,
        pending: counts.pending,
        failed: counts.failed,
        online_pending: counts.online_pending,
        online_failed: counts.online_failed,
        late_pending: counts.late_pending,
        late_failed: counts.late_failed,
    }
}

/// The sums and groups of a status; who asks adds the rest.
pub(crate) fn status(summary: &Summary<'_>) -> api::FleetStatus {
    api::FleetStatus {
        all: Some(counts(&summary.all)),
        push: Some(counts(&summary.push)),
        pull: Some(counts(&summary.pull)),
        groups: summary.groups.iter().take(MAX_GROUPS).map(group).collect(),
        ..api::FleetStatus::default()
    }
}

fn group(group: &GroupView<'_>) -> api::GroupStatus {
    api::GroupStatus {
        path: place(group.path, group.id),
        group: group.id.to_string(),
        head_revision: group.head.revision.0,
        agents: Some(counts(&group.counts)),
        mode: mode(group.mode).into(),
    }
}

/// Something that happened to an agent, and the agent.
pub(crate) fn event(effect: &Effect, fleet: &Presence) -> (api::WatchEvent, AgentId) {
    let path = |group: &GroupId| place(fleet.path(group), group);
    let (agent, at, event) = match effect {
        Effect::Transition { agent, group, from, to, at, damped: _ } => {
            let (from, to) = (state(*from).into(), state(*to).into());
            let event = api::Transition { agent: agent.to_string(), group: path(group), from, to };
            (agent, at, Event::Transition(event))
        }
        Effect::Applied { agent, group, cursor, at } => {
            let revision = cursor.revision.0;
            (
                agent,
                at,
                Event::Applied(api::Applied { agent: agent.to_string(), group: path(group), revision }),
            )
        }
        Effect::Failed { agent, group, cursor: _, items, at } => {
            let item = items.first().map(item);
            (agent, at, Event::Failed(api::ItemFailed { agent: agent.to_string(), group: path(group), item }))
        }
        Effect::ContentFailed { agent, group, status, at } => {
            let item = Some(api::Item {
                kind: format!("content {}", status.channel),
                state: status.state.to_string(),
                revision: status.revision.0,
                reason: status.reason.to_string(),
            });
            (agent, at, Event::Failed(api::ItemFailed { agent: agent.to_string(), group: path(group), item }))
        }
    };
    (api::WatchEvent { time: Some(timestamp(*at)), event: Some(event) }, agent.clone())
}

/// A group has a new head.
pub(crate) fn new_head(head: &GroupHead, now: Timestamp) -> api::WatchEvent {
    let event = api::NewHead { group: head.path.to_string(), revision: head.cursor.revision.0 };
    api::WatchEvent { time: Some(timestamp(now)), event: Some(Event::Head(event)) }
}
