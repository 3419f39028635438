//! Messages of `wire` as values of `domain`, and back.

use domain::presence::{Beat, ItemReport, Remembered, Report, State, Status};
use domain::{Cursor, Revision, Timestamp};
use wire::agent::v1::{self, Heartbeat, StatusReport};
use wire::heartbeat::{content_status, read_content_status};
use wire::snapshot::{mode_message, read_mode};
use wire::store::v1::PresenceRecord;

/// A heartbeat that `wire` has read and checked.
pub(crate) fn beat(heartbeat: Heartbeat) -> Beat {
    Beat {
        session: heartbeat.session,
        sequence: heartbeat.sequence,
        cursor: Cursor::new(heartbeat.epoch, heartbeat.revision),
        assignment: Cursor::new(heartbeat.assignment_epoch, heartbeat.assignment_revision),
        report: heartbeat.status.map(report),
    }
}

fn report(status: StatusReport) -> Report {
    let mode = read_mode(status.mode);
    let seen = Cursor::new(status.seen_epoch, status.seen_revision);
    Report {
        version: status.agent_version.into(),
        mode,
        hostname: status.hostname.into(),
        status: Status {
            seen,
            // `wire` has checked the kinds: nothing is left out.
            items: status.items.into_iter().filter_map(item).collect(),
            stale: status.stale,
            rollbacks: status.rollbacks,
            refusals: status.refusals,
            last_refusal: status.last_refusal.into(),
            repairs: status.repairs,
            root_version: status.root_version,
        },
        // Checked by `wire` as well.
        content: status.content.into_iter().filter_map(|one| read_content_status(one).ok()).collect(),
    }
}

fn item(item: v1::ItemStatus) -> Option<ItemReport> {
    let state = wire::heartbeat::read_item_state(item.state);
    let kind = domain::KindName::new(&item.kind).ok()?;
    Some(ItemReport { kind, state, revision: Revision(item.revision), reason: item.reason.into() })
}

fn heartbeat(beat: Beat) -> Heartbeat {
    Heartbeat {
        session: beat.session,
        sequence: beat.sequence,
        epoch: beat.cursor.epoch.0,
        revision: beat.cursor.revision.0,
        assignment_epoch: beat.assignment.epoch.0,
        assignment_revision: beat.assignment.revision.0,
        status: beat.report.map(status_report),
        download: v1::DownloadWish::Unspecified.into(),
    }
}

fn status_report(report: Report) -> StatusReport {
    let items = report.status.items.into_iter().map(|item| v1::ItemStatus {
        kind: item.kind.to_string(),
        state: wire::heartbeat::item_state(item.state).into(),
        revision: item.revision.0,
        reason: item.reason.into(),
    });
    StatusReport {
        agent_version: report.version.into(),
        mode: report.mode.map_or(v1::Mode::Unspecified, mode_message).into(),
        items: items.collect(),
        seen_epoch: report.status.seen.epoch.0,
        seen_revision: report.status.seen.revision.0,
        stale: report.status.stale,
        rollbacks: report.status.rollbacks,
        refusals: report.status.refusals,
        last_refusal: report.status.last_refusal.into(),
        repairs: report.status.repairs,
        hostname: report.hostname.into(),
        content: report.content.iter().map(|status| content_status(status, usize::MAX)).collect(),
        root_version: report.status.root_version,
    }
}

/// The number of a state in the store.
pub(crate) fn state_number(state: State) -> u32 {
    match state {
        State::NeverSeen => 1,
        State::Online => 2,
        State::Late => 3,
        State::Offline => 4,
    }
}

fn read_state(number: u32) -> Option<State> {
    State::ALL.into_iter().find(|state| state_number(*state) == number)
}

/// What is remembered of an agent, for the store.
pub(crate) fn record(agent: &str, remembered: Remembered) -> PresenceRecord {
    PresenceRecord {
        agent: agent.to_owned(),
        last_seen_ms: remembered.heard.0,
        state: state_number(remembered.state),
        heartbeat: Some(heartbeat(remembered.beat)),
    }
}

/// What a record that `wire` has checked remembers; `None` if it names no state.
pub(crate) fn remembered(record: PresenceRecord) -> Option<Remembered> {
    let heard = Timestamp(record.last_seen_ms);
    Some(Remembered { heard, state: read_state(record.state)?, beat: beat(record.heartbeat?) })
}

#[cfg(test)]
mod tests {
    use domain::Mode;

    use domain::content::{ChannelName, ContentRevision, ContentStatus, SourceBytes};
    use domain::presence::ItemState;

    use super::*;

    #[test]
    fn what_is_remembered_round_trips() {
        let item = |state| ItemReport {
            kind: domain::KindName::new("firewall").unwrap(),
            state,
            revision: Revision(4),
            reason: "why".into(),
        };
        let content = ContentStatus {
            channel: ChannelName::new("definitions/ips").unwrap(),
            active: ContentRevision(1),
            wanted: ContentRevision(2),
            revision: Revision(5),
            state: ItemState::Received,
            percent: 30,
            bytes: SourceBytes { patch: 1, chunk: 2, full: 3, held: 4 },
            reason: "waits".into(),
        };
        let status = Status {
            seen: Cursor::new(1, 9),
            items: vec![item(ItemState::Failed), item(ItemState::Verified)],
            stale: true,
            rollbacks: 1,
            refusals: 2,
            last_refusal: "old".into(),
            repairs: 3,
            root_version: 4,
        };
        let report = Report {
            version: "1.0".into(),
            mode: Some(Mode::Push),
            hostname: "h".into(),
            status,
            content: vec![content],
        };
        let beat = Beat {
            session: 1,
            sequence: 2,
            cursor: Cursor::new(1, 8),
            assignment: Cursor::new(1, 1),
            report: Some(report),
        };
        for state in State::ALL {
            let kept = Remembered { heard: Timestamp(7), state, beat: beat.clone() };
            let record = record("a", kept.clone());
            assert_eq!(record.agent, "a");
            assert_eq!(remembered(record), Some(kept));
        }
        assert_eq!(remembered(PresenceRecord { state: 9, ..PresenceRecord::default() }), None);
    }
}
