//! What replicas tell each other: the heartbeats that each of them heard, and that they are there.
//!
//! The broker delivers a heartbeat to one replica, which tells the others within [`SHARE_EVERY`]. Batches go
//! out without heartbeats as well: they show the others that this replica lives, and the replica's own ones,
//! coming back, prove that it hears. While no other replica lives, heartbeats are not shared.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{AgentId, Span, Timestamp};
use wire::heartbeat::{BatchOrigin, BatchWriter};

/// How often what was heard is shared: the age that another replica's view may have.
pub(crate) const SHARE_EVERY: Span = Span(100);
/// Pause between two batches while nothing is heard. Deadlines are looked at up to the last one that came
/// back.
const SIGN_EVERY: Span = Span(250);
/// How long a new replica listens before it takes heartbeats: by then those who are there have shown
/// themselves, and share with it.
pub(crate) const INTRODUCTION: Span = Span(300);
/// A replica that says nothing for this long is gone: a dozen signs missed.
const GONE_AFTER: Span = Span(3_000);
/// Hearing nothing, not even oneself, for this long means being deaf. Shorter than any deadline of an agent
/// that beats every few seconds can be passed by.
const DEAF_AFTER: Span = Span(3_000);
/// Replicas that are followed; a deployment has a handful. More are heard, but do not keep this one from
/// writing.
const MAX_PEERS: usize = 64;
/// Clocks of replicas that differ by less than this count as equal: times are then taken as they are, so
/// that all replicas come to the same deadlines.
const CLOCK_TOLERANCE_MS: u64 = 1_000;

/// This replica among the others.
#[derive(Debug)]
pub(crate) struct Sharing {
    replica: u64,
    batch: BatchWriter,
    /// When each other replica was last heard.
    peers: BTreeMap<u64, Timestamp>,
    /// When the last batch was made.
    sent_at: Timestamp,
    /// When anything was last heard.
    heard_at: Timestamp,
}

/// What a batch turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This replica's own, sent at that time.
    Own(Timestamp),
    /// Another replica's. What it dates `t` happened at [`Skew::local`] of `t`.
    Other(Skew),
}

/// Difference between another replica's clock and ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Skew {
    sent_at: Timestamp,
    now: Timestamp,
}

impl Skew {
    /// A time of the other clock on ours.
    pub(crate) fn local(self, theirs: Timestamp) -> Timestamp {
        if self.now.0.abs_diff(self.sent_at.0) <= CLOCK_TOLERANCE_MS {
            return theirs;
        }
        self.now - self.sent_at.since(theirs)
    }
}

impl Sharing {
    pub(crate) fn new(replica: u64, now: Timestamp) -> Self {
        let batch = BatchWriter::new(replica);
        Self { replica, batch, peers: BTreeMap::new(), sent_at: Timestamp(0), heard_at: now }
    }

    /// Random id of this replica.
    pub(crate) fn replica(&self) -> u64 {
        self.replica
    }

    /// Adds a heartbeat to the next batch, with the replica of whose share of full downloads the agent holds a
    /// slot. Returns a batch that has to go out first, if it was full.
    pub(crate) fn push(
        &mut self,
        agent: &AgentId,
        heard: Timestamp,
        (heartbeat, granted_by): (&[u8], Option<u64>),
    ) -> Option<Bytes> {
        if self.peers.is_empty() || self.batch.push(agent, heard, heartbeat, granted_by) {
            return None;
        }
        let full = self.finish(heard);
        // An empty batch takes any heartbeat that was accepted.
        let _ = self.batch.push(agent, heard, heartbeat, granted_by);
        Some(full)
    }

    /// Whether other replicas live.
    pub(crate) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// The batch that is due now, if one is.
    pub(crate) fn due(&mut self, now: Timestamp) -> Option<Bytes> {
        self.peers.retain(|_, heard| now.since(*heard) < GONE_AFTER);
        let silent_for = now.since(self.sent_at);
        let due = silent_for >= SIGN_EVERY || (!self.batch.is_empty() && silent_for >= SHARE_EVERY);
        due.then(|| self.finish(now))
    }

    fn finish(&mut self, now: Timestamp) -> Bytes {
        self.sent_at = now;
        self.batch.finish(now)
    }

    /// A batch arrived.
    pub(crate) fn heard_batch(&mut self, origin: BatchOrigin, now: Timestamp) -> Origin {
        let sent_at = Timestamp(origin.sent_at_ms);
        if origin.replica == self.replica {
            return Origin::Own(sent_at.min(now));
        }
        if self.peers.contains_key(&origin.replica) || self.peers.len() < MAX_PEERS {
            let known = self.peers.insert(origin.replica, now);
            if known.is_none() {
                // It shows itself before it takes heartbeats, and waits for those who are there already.
                self.sent_at = Timestamp(0);
            }
        }
        Origin::Other(Skew { sent_at, now })
    }

    /// Anything was heard, be it oneself. True if nothing was for so long that deadlines have to start again.
    pub(crate) fn was_deaf(&mut self, now: Timestamp) -> bool {
        let deaf = now.since(self.heard_at) > DEAF_AFTER;
        self.heard_at = now;
        deaf
    }

    /// Whether it is for this replica to write checkpoints: the one with the lowest number does. Two that
    /// do not hear each other both write, and the last one wins.
    pub(crate) fn writes(&self) -> bool {
        self.peers.first_key_value().is_none_or(|(lowest, _)| self.replica < *lowest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000);

    fn from(replica: u64, sent_at: Timestamp) -> BatchOrigin {
        BatchOrigin { replica, sent_at_ms: sent_at.0 }
    }

    #[test]
    fn heartbeats_are_shared_while_another_replica_lives() {
        let agent = AgentId::new("a").unwrap();
        let mut sharing = Sharing::new(5, NOW);
        assert!(sharing.due(NOW).is_some(), "the first sign goes out at once");
        assert_eq!(sharing.push(&agent, NOW, (&[], None)), None);
        assert_eq!(sharing.due(NOW + SHARE_EVERY), None, "nobody to share with");
        sharing.heard_batch(from(7, NOW), NOW);
        assert!(sharing.due(NOW).is_some(), "a new one is greeted at once");
        assert_eq!(sharing.push(&agent, NOW, (&[16, 1], None)), None);
        let batch = sharing.due(NOW + SHARE_EVERY).expect("shared in time");
        assert_eq!(wire::heartbeat::read_batch(&batch).unwrap().beats.len(), 1);
        assert_eq!(sharing.due(NOW + SHARE_EVERY + Span(1)), None);
        assert!(sharing.due(NOW + SHARE_EVERY + SIGN_EVERY).is_some(), "signs go on");
        sharing.due(NOW + GONE_AFTER);
        assert_eq!(sharing.push(&agent, NOW, (&[16, 1], None)), None);
        assert_eq!(wire::heartbeat::read_batch(&sharing.finish(NOW)).unwrap().beats, []);
    }

    #[test]
    fn a_full_batch_goes_out_at_once() {
        let agent = AgentId::new("a").unwrap();
        let mut sharing = Sharing::new(5, NOW);
        sharing.heard_batch(from(7, NOW), NOW);
        let full =
            (0..).find_map(|_| sharing.push(&agent, NOW, (&[16, 1], None))).expect("a batch has a bound");
        let beats = wire::heartbeat::read_batch(&full).unwrap().beats.len();
        assert_eq!(beats, wire::heartbeat::MAX_BATCH_BEATS);
        assert_eq!(wire::heartbeat::read_batch(&sharing.finish(NOW)).unwrap().beats.len(), 1);
    }

    #[test]
    fn the_lowest_replica_writes() {
        let mut sharing = Sharing::new(5, NOW);
        assert!(sharing.writes());
        sharing.heard_batch(from(7, NOW), NOW);
        assert!(sharing.writes());
        sharing.heard_batch(from(3, NOW), NOW);
        assert!(!sharing.writes());
        sharing.due(NOW + GONE_AFTER);
        assert!(sharing.writes(), "the other one is gone");
    }

    #[test]
    fn other_clocks_are_translated_only_if_they_differ() {
        let check = |sent_at: u64, theirs: u64, expected: u64| {
            let mut sharing = Sharing::new(5, NOW);
            match sharing.heard_batch(from(7, Timestamp(sent_at)), NOW) {
                Origin::Other(skew) => assert_eq!(skew.local(Timestamp(theirs)), Timestamp(expected)),
                Origin::Own(_) => panic!("another replica's"),
            }
        };
        check(NOW.0 - 80, NOW.0 - 100, NOW.0 - 100);
        check(NOW.0 + 500_000, NOW.0 + 499_900, NOW.0 - 100);
        check(NOW.0 - 500_000, NOW.0 - 500_100, NOW.0 - 100);
        assert_eq!(Sharing::new(5, NOW).heard_batch(from(5, NOW), NOW), Origin::Own(NOW));
    }

    #[test]
    fn silence_of_everything_is_deafness() {
        let mut sharing = Sharing::new(5, NOW);
        assert!(!sharing.was_deaf(NOW + DEAF_AFTER));
        assert!(sharing.was_deaf(NOW + DEAF_AFTER + DEAF_AFTER + Span(1)));
        assert!(!sharing.was_deaf(NOW + DEAF_AFTER + DEAF_AFTER + Span(2)));
    }
}
