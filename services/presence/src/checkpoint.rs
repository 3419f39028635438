//! Checkpoints: what survives a restart of all replicas.
//!
//! The fleet is written in chunks of consecutive ids, one after the other, spread evenly over the interval,
//! so that neither the stream nor the task that answers heartbeats feels them. A restart reads the last
//! message of each chunk. Chunks of different rounds may overlap, or miss an agent whose neighbours have just
//! enrolled; the newest record counts, and an agent that is missed is as one that was never seen.

use std::cmp::Reverse;

use bytes::Bytes;
use domain::presence::Presence;
use domain::{Span, Timestamp};
use wire::heartbeat::MAX_BATCH_BYTES;
use wire::store::v1::{PresenceCheckpoint, PresenceRecord};

use crate::convert;
use crate::events::Chunk;

/// Agents in a chunk at most: some 500 KiB of ordinary statuses, written in some milliseconds.
const CHUNK_AGENTS: usize = 2_048;
/// Largest chunk: what any broker takes, with room for headers. Where statuses are long, a chunk has fewer agents.
const MAX_CHUNK_BYTES: usize = MAX_BATCH_BYTES - 4_096;

/// Where the round of chunks stands.
#[derive(Debug)]
pub(crate) struct Round {
    interval: Span,
    number: u32,
    after: Option<String>,
    due: Timestamp,
    /// Agents that the next chunk has, if they fit.
    agents: usize,
}

impl Round {
    /// The first chunk is due one interval from now: before that nothing was heard that is worth it.
    pub(crate) fn new(interval: Span, now: Timestamp) -> Self {
        Self { interval, number: 0, after: None, due: now + interval, agents: CHUNK_AGENTS }
    }

    /// Time in which all chunks are written once.
    pub(crate) fn interval(&self) -> Span {
        self.interval
    }

    pub(crate) fn is_due(&self, now: Timestamp) -> bool {
        now >= self.due
    }

    /// Leaves out what is due: another replica writes.
    pub(crate) fn skip(&mut self, now: Timestamp) {
        *self = Self::new(self.interval, now);
    }

    /// The next chunk of this round.
    pub(crate) fn next(&mut self, fleet: &Presence, now: Timestamp) -> Chunk {
        let chunks = u32::try_from(fleet.len().div_ceil(self.agents).max(1)).unwrap_or(u32::MAX);
        let (part, next) = fleet.remember(self.after.as_deref(), self.agents);
        let next = next.map(str::to_owned);
        let agents = part.into_iter().map(|(agent, remembered)| convert::record(agent, remembered)).collect();
        let checkpoint = PresenceCheckpoint { taken_at_ms: now.0, chunk: self.number, chunks, agents };
        let Encoded { bytes, up_to } = encode(checkpoint);
        if up_to.is_some() {
            self.agents = (self.agents / 2).max(1);
        } else if bytes.len() < MAX_CHUNK_BYTES / 4 {
            self.agents = (self.agents * 2).min(CHUNK_AGENTS);
        }
        let chunk = Chunk { number: self.number, bytes };
        self.after = up_to.or(next);
        self.number = if self.after.is_some() { self.number + 1 } else { 0 };
        self.due = now + Span(self.interval.0 / u64::from(chunks));
        chunk
    }

    /// Everything at once, for the stop.
    pub(crate) fn rest(mut self, fleet: &Presence, now: Timestamp) -> Vec<Chunk> {
        (self.number, self.after) = (0, None);
        let mut chunks = vec![self.next(fleet, now)];
        while self.after.is_some() {
            chunks.push(self.next(fleet, now));
        }
        chunks
    }
}

/// A chunk that any broker takes.
struct Encoded {
    bytes: Bytes,
    /// The last agent in it, if those after it had no room.
    up_to: Option<String>,
}

fn encode(mut checkpoint: PresenceCheckpoint) -> Encoded {
    let (mut bytes, mut up_to) = (wire::encode(&checkpoint), None);
    // One agent always has room.
    while bytes.len() > MAX_CHUNK_BYTES && checkpoint.agents.len() > 1 {
        checkpoint.agents.truncate(checkpoint.agents.len() / 2);
        up_to = checkpoint.agents.last().map(|record| record.agent.clone());
        bytes = wire::encode(&checkpoint);
    }
    Encoded { bytes, up_to }
}

/// Chunks as they are read at the start.
#[derive(Debug, Default)]
pub(crate) struct Loaded(Vec<PresenceCheckpoint>);

impl Loaded {
    pub(crate) fn add(&mut self, chunk: PresenceCheckpoint) {
        self.0.push(chunk);
    }

    /// When the newest one was taken.
    pub(crate) fn taken_at(&self) -> Option<Timestamp> {
        self.0.iter().map(|chunk| Timestamp(chunk.taken_at_ms)).max()
    }

    /// Hands everything to the machine, the newest record of each agent first. Returns how many there were.
    pub(crate) fn restore(mut self, fleet: &mut Presence) -> usize {
        self.0.sort_by_key(|chunk| Reverse(chunk.taken_at_ms));
        let records: Vec<PresenceRecord> = self.0.into_iter().flat_map(|chunk| chunk.agents).collect();
        let count = records.len();
        for mut record in records {
            let agent = std::mem::take(&mut record.agent);
            if let Some(remembered) = convert::remembered(record) {
                fleet.restore(&agent, remembered);
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use domain::content::{ChannelName, ContentRevision, ContentStatus, SourceBytes};
    use domain::presence::{Beat, Enrolment, ItemState, Labels, Report, Scope, State, Status};
    use domain::{AgentId, Cursor, GroupId, Revision};

    use super::*;

    const START: Timestamp = Timestamp(1_700_000_000_000);
    const MINUTE: Span = Span::from_secs(60);

    /// What an agent says of so many channels.
    fn report(channels: usize) -> Report {
        let status = |n| ContentStatus {
            channel: ChannelName::new(format!("channel-{n:03}")).unwrap(),
            active: ContentRevision(1),
            wanted: ContentRevision(1),
            revision: Revision(7),
            state: ItemState::Healthy,
            percent: 100,
            bytes: SourceBytes::default(),
            reason: "".into(),
        };
        let content = (0..channels).map(status).collect();
        let status = Status::default();
        Report { version: "1".into(), mode: None, hostname: "".into(), status, content }
    }

    fn fleet(agents: usize, heard: bool) -> Presence {
        let mut fleet = Presence::new(START);
        for n in 0..agents {
            let agent = AgentId::new(format!("agent-{n:05}")).unwrap();
            let enrolment = Enrolment {
                agent: agent.clone(),
                group: GroupId::new("web").unwrap(),
                assignment: Cursor::new(1, 1),
                hostname: "".into(),
                labels: Labels::new(),
            };
            fleet.enrolled(START, &enrolment);
            if heard {
                let cursor = Cursor::new(1, n as u64);
                let beat =
                    Beat { session: 1, sequence: 1, cursor, assignment: Cursor::new(1, 1), report: None };
                fleet.heartbeat(START, agent.as_str(), beat);
            }
        }
        fleet
    }

    #[test]
    fn a_round_covers_the_fleet_and_restores_it() {
        let agents = 2 * CHUNK_AGENTS + 5;
        let old = fleet(agents, true);
        let mut round = Round::new(MINUTE, START);
        assert!(!round.is_due(START) && round.is_due(START + MINUTE));
        let mut loaded = Loaded::default();
        for number in [0, 1, 2, 0] {
            let chunk = round.next(&old, START + MINUTE);
            assert_eq!(chunk.number, number);
            loaded.add(wire::heartbeat::read_checkpoint(&chunk.bytes).unwrap());
        }
        assert!(round.is_due(START + MINUTE + Span(20_000)), "three chunks a minute");
        assert!(!round.is_due(START + MINUTE + Span(19_999)));
        assert_eq!(round.rest(&old, START).len(), 3);

        let mut new = fleet(agents, false);
        assert_eq!(loaded.restore(&mut new), agents + CHUNK_AGENTS);
        assert_eq!(new.summary(&Scope::Fleet).all.states[State::Online as usize], agents as u64);
        assert_eq!(new.agent("agent-00007").unwrap().cursor, Cursor::new(1, 7));
    }
    #[test]
    fn long_statuses_make_smaller_chunks_and_are_kept() {
        let agents = CHUNK_AGENTS;
        let (mut old, mut new) = (fleet(agents, true), fleet(agents, false));
        for n in 0..agents {
            let report = Some(report(128));
            let beat = Beat {
                session: 1,
                sequence: 2,
                cursor: Cursor::new(1, n as u64),
                assignment: Cursor::new(1, 1),
                report,
            };
            old.heartbeat(START, &format!("agent-{n:05}"), beat);
        }
        let mut round = Round::new(MINUTE, START);
        let mut loaded = Loaded::default();
        let mut numbers = Vec::new();
        loop {
            let chunk = round.next(&old, START + MINUTE);
            assert!(chunk.bytes.len() <= MAX_CHUNK_BYTES);
            loaded.add(wire::heartbeat::read_checkpoint(&chunk.bytes).unwrap());
            numbers.push(chunk.number);
            if round.after.is_none() {
                break;
            }
        }
        assert!(numbers.len() > 4 && numbers.into_iter().eq(0..u32::try_from(loaded.0.len()).unwrap()));
        assert_eq!(loaded.taken_at(), Some(START + MINUTE));
        assert_eq!(loaded.restore(&mut new), agents);
        for n in [0, agents / 2, agents - 1] {
            assert_eq!(new.agent(&format!("agent-{n:05}")).unwrap().content.len(), 128);
        }
    }
}
