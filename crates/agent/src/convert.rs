//! Between the machine's values and messages on the wire.

use domain::agent::{Beat, ItemStatus, Refusal, Reply, Standing, Status};
use domain::{Cursor, Span, Timestamp};
use prost::Message as _;
use wire::DecodeError;
use wire::agent::v1;
use wire::envelope::EnvelopeError;

/// What a status says of the agent itself.
#[derive(Debug, Clone)]
pub(crate) struct About {
    pub(crate) session: u64,
    pub(crate) hostname: String,
}

/// A heartbeat as it is sent.
pub(crate) fn heartbeat(beat: &Beat, sequence: u64, about: &About) -> Vec<u8> {
    v1::Heartbeat {
        session: about.session,
        sequence,
        epoch: beat.active.epoch.0,
        revision: beat.active.revision.0,
        assignment_epoch: beat.assignment.epoch.0,
        assignment_revision: beat.assignment.revision.0,
        status: beat.status.as_ref().map(|status| status_report(status, about)),
        download: wire::heartbeat::download_wish(beat.download).into(),
    }
    .encode_to_vec()
}

fn status_report(status: &Status, about: &About) -> v1::StatusReport {
    let of_items = status.items.iter().filter(|item| item.reason.is_some()).count();
    let of_content = status.content.iter().filter(|content| !content.reason.is_empty()).count();
    let reasons = (of_items + of_content).max(1);
    let room = (wire::heartbeat::MAX_REASONS_BYTES / reasons).min(wire::heartbeat::MAX_REASON_BYTES);
    v1::StatusReport {
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        mode: wire::snapshot::mode_message(status.mode).into(),
        items: status.items.iter().map(|item| item_status(item, room)).collect(),
        seen_epoch: status.seen.epoch.0,
        seen_revision: status.seen.revision.0,
        stale: status.stale,
        rollbacks: status.rollbacks,
        refusals: status.refusals,
        last_refusal: status.last_refusal.map(|refusal| refusal.to_string()).unwrap_or_default(),
        repairs: status.repairs,
        hostname: about.hostname.clone(),
        content: status.content.iter().map(|one| wire::heartbeat::content_status(one, room)).collect(),
        root_version: status.root_version,
    }
}

fn item_status(item: &ItemStatus, room: usize) -> v1::ItemStatus {
    let reason = item.reason.as_ref().map_or("", |reason| reason.as_str());
    let mut from = reason.len().saturating_sub(room);
    while !reason.is_char_boundary(from) {
        from += 1;
    }
    v1::ItemStatus {
        kind: item.kind.to_string(),
        state: wire::heartbeat::item_state(item.state).into(),
        revision: item.revision.0,
        reason: reason[from..].to_owned(),
    }
}

/// A reply to a heartbeat, its envelopes apart.
pub(crate) struct HeardReply {
    pub(crate) snapshot: Option<v1::Envelope>,
    pub(crate) assignment: Option<v1::Envelope>,
    pub(crate) reply: Reply,
    /// For how long a full download may go on from now.
    pub(crate) download_granted: Option<Span>,
    /// The newest trust root that there is said to be.
    pub(crate) root_version: u64,
    /// What the service says is wrong with the heartbeat; empty if nothing is.
    pub(crate) error: String,
}

pub(crate) fn reply(beat: u64, bytes: &[u8]) -> Result<HeardReply, DecodeError> {
    let message = wire::heartbeat::read_reply(bytes)?;
    let standing = match v1::Standing::try_from(message.standing) {
        Ok(v1::Standing::Unknown) => Standing::Unknown,
        Ok(v1::Standing::Deleted) => Standing::Deleted,
        Ok(v1::Standing::Duplicate) => Standing::Duplicate,
        Ok(v1::Standing::Ok | v1::Standing::Unspecified) | Err(_) => Standing::Ok,
    };
    let reply = Reply {
        beat,
        server_time: Timestamp(message.server_time_ms),
        next: Span(message.next_heartbeat_ms),
        head: Cursor::new(message.head_epoch, message.head_revision),
        want_status: message.want_status,
        standing,
    };
    let granted = Span(message.download_granted_ms);
    Ok(HeardReply {
        snapshot: message.snapshot,
        assignment: message.assignment,
        reply,
        download_granted: (granted > Span(0)).then_some(granted),
        root_version: message.root_version,
        error: message.error,
    })
}

pub(crate) fn refusal(error: &EnvelopeError) -> Refusal {
    match error {
        EnvelopeError::Malformed(DecodeError::TooLarge { .. }) => Refusal::Oversized,
        EnvelopeError::Malformed(_) | EnvelopeError::Payload(_) => Refusal::Malformed,
        EnvelopeError::WrongType { .. } => Refusal::WrongType,
        EnvelopeError::Untrusted | EnvelopeError::TooFew { .. } => Refusal::Signature,
    }
}

#[cfg(test)]
mod tests {
    use domain::KindName;
    use domain::agent::Reason;
    use domain::content::{
        ChannelName, ContentRevision, ContentStatus, DownloadWish, MAX_REPORTED_CHANNELS, SourceBytes,
    };

    use super::*;

    #[test]
    fn the_largest_status_is_one_that_presence_reads() {
        let item = |n: usize| ItemStatus {
            kind: KindName::new(format!("{n:0>64}")).unwrap(),
            state: domain::agent::ItemState::Failed,
            revision: domain::Revision(u64::MAX),
            reason: Some(Reason::new("é".repeat(1024))),
        };
        let mut machine_status = domain::agent::Machine::new(
            domain::agent::Identity {
                fleet: domain::FleetId::new("f").unwrap(),
                agent: domain::AgentId::new("a").unwrap(),
            },
            domain::agent::Timing::default(),
            domain::agent::Loaded::default(),
        )
        .status()
        .clone();
        machine_status.items = (0..domain::snapshot::MAX_POLICIES).map(item).collect();
        let content = |n: usize| ContentStatus {
            channel: ChannelName::new([format!("{n:0>64}"), "c".repeat(64), "c".repeat(64)].join("/"))
                .unwrap(),
            active: ContentRevision(u32::MAX),
            wanted: ContentRevision(u32::MAX),
            revision: domain::Revision(u64::MAX),
            state: domain::agent::ItemState::Failed,
            percent: 100,
            bytes: SourceBytes { patch: u64::MAX, chunk: u64::MAX, full: u64::MAX, held: u64::MAX },
            reason: "é".repeat(512).into(),
        };
        machine_status.content = (0..MAX_REPORTED_CHANNELS).map(content).collect();
        let cursor = Cursor::new(u64::MAX, u64::MAX);
        let (status, download) = (Some(machine_status), DownloadWish::Held);
        let beat = Beat { beat: 1, active: cursor, assignment: cursor, status, download };
        let about = About { session: u64::MAX, hostname: "h".repeat(255) };
        let bytes = heartbeat(&beat, u64::MAX, &about);
        let read = wire::heartbeat::read(&bytes).unwrap().status.unwrap();
        assert_eq!(read.items.len(), domain::snapshot::MAX_POLICIES);
        assert_eq!(read.content.len(), MAX_REPORTED_CHANNELS);
    }

    #[test]
    fn replies_that_are_no_replies_are_refused() {
        assert!(reply(1, &[0xff; 20]).is_err());
        let minimal = reply(7, &[]).unwrap();
        assert_eq!((minimal.reply.beat, minimal.reply.head), (7, Cursor::NONE));
    }
}
