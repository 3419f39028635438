//! What is wanted of the agents: heads of groups, moves between them, and who is told.

use std::sync::Arc;

use domain::agent::{Generation, Input, Offer, Source};
use domain::{
    Assignment, Cursor, Digest, FleetId, GroupId, KindName, Mode, PolicyItem, Revision, SettingsOverlay,
    Snapshot, Span,
};

use crate::world::{AGENTS, Event, FOLLOWS, LONGEST_INTERVAL, REPLICAS, World};

/// A document with this text fails in its handler.
const BAD: &str = "bad";

impl World {
    pub(crate) fn publish(&mut self) {
        let group = usize::try_from(self.random.below(self.groups.len() as u64)).expect("small");
        let bad = self.faults.lost > 0 && self.random.chance(150);
        let offer = self.snapshot(group, bad);
        self.heads[group] = Arc::clone(&offer);
        for replica in 0..REPLICAS {
            self.tell_head(replica, group);
        }
        let id = self.groups[group].id.clone();
        for at in 0..AGENTS {
            if self.agents[at].listens_to.as_ref() == Some(&id) {
                let offer = Arc::clone(&offer);
                self.send_to_agent(at, &Input::SnapshotReceived { offer, source: Source::Notify });
            }
        }
        let delay = Span(1_000 + self.random.below(60_000));
        if self.now + delay < self.publishing_until {
            self.after(delay, Event::Publish);
        }
    }

    pub(crate) fn move_someone(&mut self) {
        let at = usize::try_from(self.random.below(AGENTS as u64)).expect("small");
        self.home[at] = (self.home[at] + 1) % self.groups.len();
        self.assigned[at] += 1;
        self.moved_at[at] = self.now + FOLLOWS;
        for replica in 0..REPLICAS {
            self.tell_enrolment(replica, at);
        }
        if self.agents[at].connected && !self.random.chance(self.faults.lost) {
            self.hand_assignment(at, Span(5));
        }
        let delay = Span(60_000 + self.random.below(120_000));
        if self.now + delay < self.publishing_until {
            self.after(delay, Event::Move);
        }
    }

    pub(crate) fn hand_assignment(&mut self, at: usize, delay: Span) {
        let assignment = Assignment {
            fleet: FleetId::new("fleet").expect("a valid id"),
            agent: self.agents[at].id.clone(),
            group: self.groups[self.home[at]].id.clone(),
            cursor: Cursor::new(1, self.assigned[at]),
            issued_at: self.now,
        };
        self.later(at, delay, Input::AssignmentReceived(assignment));
    }

    /// The next snapshot of a group, with a document and at times settings of its own.
    pub(crate) fn snapshot(&mut self, group: usize, bad: bool) -> Arc<Offer> {
        self.revision += 1 + self.random.below(3);
        let text = format!("{{\"n\":{},\"{}\":1}}", self.revision, if bad { BAD } else { "good" });
        let document: Arc<[u8]> = text.into_bytes().into();
        let mode = if self.random.chance(500) { Mode::Push } else { Mode::Pull };
        let interval = *self.random.pick(&[Span::from_secs(5), Span::from_secs(30), LONGEST_INTERVAL]);
        let overlay = SettingsOverlay {
            mode: Some(mode),
            heartbeat_interval: Some(interval),
            ..SettingsOverlay::default()
        };
        let snapshot = Snapshot {
            fleet: FleetId::new("fleet").expect("a valid id"),
            group: self.groups[group].id.clone(),
            path: self.groups[group].path.clone(),
            cursor: Cursor::new(1, self.revision),
            issued_at: self.now,
            expires_at: self.now + Span::from_secs(30 * 24 * 3600),
            settings: overlay.effective().expect("within bounds"),
            policies: vec![PolicyItem {
                kind: KindName::new("firewall").expect("a valid name"),
                revision: Revision(self.revision),
                digest: Digest::of(&document),
                document,
            }],
            content: Vec::new(),
            trace_id: [0; 16],
        };
        Arc::new(Offer { snapshot, envelope: Arc::from(&b"signed"[..]) })
    }

    pub(crate) fn number_of(&self, group: &GroupId) -> usize {
        self.groups.iter().position(|known| known.id == *group).expect("a group of this world")
    }

    /// Whether the handler fails on it.
    pub(crate) fn is_bad(snapshot: &Snapshot) -> bool {
        snapshot.policies.iter().any(|item| String::from_utf8_lossy(&item.document).contains(BAD))
    }

    /// The same of what is on a disk, which keeps the offer it came from.
    pub(crate) fn is_bad_generation(&self, generation: &Generation) -> bool {
        self.agents
            .iter()
            .find_map(|agent| agent.disk.staged.get(&generation.id()))
            .is_some_and(|offer| Self::is_bad(&offer.snapshot))
    }
}
