//! One agent: the real machine, with a disk and a connection made up.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::agent::{
    Beat, Durable, Effect, Generation, GenerationId, Identity, Input, Loaded, Machine, Offer, Timing,
};
use domain::presence;
use domain::{AgentId, Cursor, FleetId, GroupId, Timestamp};

/// What survives a crash.
#[derive(Default)]
pub(crate) struct Disk {
    pub(crate) durable: Durable,
    pub(crate) active: Option<Generation>,
    pub(crate) staged: BTreeMap<GenerationId, Arc<Offer>>,
}

pub(crate) struct Agent {
    pub(crate) id: AgentId,
    /// `None` while it is dead.
    pub(crate) machine: Option<Machine>,
    pub(crate) disk: Disk,
    /// Counts its lives: what was under way in an earlier life never arrives.
    pub(crate) life: u64,
    pub(crate) connected: bool,
    pub(crate) listens_to: Option<GroupId>,
    pub(crate) sequence: u64,
    /// Every generation that was ever switched on, by group and cursor, over all lives.
    pub(crate) activations: Vec<(GenerationKey, u64)>,
    pub(crate) tick_at: Option<Timestamp>,
    /// The last write of the state failed.
    pub(crate) unsaved: bool,
    /// It died before that write was made good: a failure that it could not write down may be tried again.
    forgot: bool,
}

/// Group (by its number in the world) and cursor.
pub(crate) type GenerationKey = (u64, Cursor);

impl Agent {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            id: AgentId::new(format!("agent-{number}")).expect("a valid id"),
            machine: None,
            disk: Disk::default(),
            life: 0,
            connected: false,
            listens_to: None,
            sequence: 0,
            activations: Vec::new(),
            tick_at: None,
            unsaved: false,
            forgot: false,
        }
    }

    /// Starts from what the disk holds.
    pub(crate) fn start(&mut self) {
        let identity = Identity { fleet: FleetId::new("fleet").expect("a valid id"), agent: self.id.clone() };
        let loaded = Loaded { durable: self.disk.durable.clone(), active: self.disk.active.clone() };
        self.life += 1;
        self.sequence = 0;
        self.machine = Some(Machine::new(identity, Timing::default(), loaded));
    }

    /// Dies at this very moment: only the disk stays.
    pub(crate) fn crash(&mut self) {
        self.machine = None;
        self.connected = false;
        self.listens_to = None;
        self.tick_at = None;
        self.life += 1;
        self.forgot |= std::mem::take(&mut self.unsaved);
    }

    pub(crate) fn handle(&mut self, now: Timestamp, random: u64, input: Input) -> Vec<Effect> {
        self.machine.as_mut().map_or_else(Vec::new, |machine| machine.handle(now, random, input))
    }

    /// Switches a staged generation on, as the disk does it: at once or not at all.
    pub(crate) fn activate(&mut self, id: &GenerationId, group: u64) {
        let offer = self.disk.staged.get(id).expect("only what was staged is switched on");
        let generation = Generation::of(&offer.snapshot);
        let floor = self.disk.durable.floors.of(&id.group).expect("a floor is durable before activation");
        assert!(floor.cursor >= id.cursor, "{}: floor {} is below {}", self.id, floor.cursor, id.cursor);
        self.disk.active = Some(generation);
        self.note_activation(((group, id.cursor), self.life));
    }

    /// A generation is switched on again only after one of another group: the agent moved away and back.
    pub(crate) fn note_activation(&mut self, (key, life): (GenerationKey, u64)) {
        let last = self.activations.last().map(|(key, _)| *key);
        let repeats = last == Some(key) && !std::mem::take(&mut self.forgot);
        assert!(!repeats, "{}: {} was switched on twice", self.id, key.1);
        for ((group, cursor), _) in &self.activations {
            assert!(*group != key.0 || *cursor <= key.1, "{}: went back from {cursor} to {}", self.id, key.1);
        }
        self.activations.push((key, life));
    }

    /// The heartbeat as it travels.
    pub(crate) fn message(&mut self, beat: &Beat) -> presence::Beat {
        self.sequence += 1;
        presence::Beat {
            session: self.life + 1_000,
            sequence: self.sequence,
            cursor: beat.active,
            assignment: beat.assignment,
            report: beat.status.as_ref().map(|status| presence::Report {
                version: "1.0.0".into(),
                mode: Some(status.mode),
                hostname: "host".into(),
                status: presence::Status {
                    seen: status.seen,
                    items: status.items.iter().map(report).collect(),
                    stale: status.stale,
                    rollbacks: status.rollbacks,
                    refusals: status.refusals,
                    last_refusal: Box::default(),
                    repairs: status.repairs,
                    root_version: status.root_version,
                },
                content: Vec::new(),
            }),
        }
    }
}

fn report(item: &domain::agent::ItemStatus) -> presence::ItemReport {
    use domain::agent::ItemState as Agents;
    use domain::presence::ItemState as Seen;
    let state = match item.state {
        Agents::Offered => Seen::Offered,
        Agents::Received => Seen::Received,
        Agents::Verified => Seen::Verified,
        Agents::Applied => Seen::Applied,
        Agents::Healthy => Seen::Healthy,
        Agents::Failed => Seen::Failed,
    };
    let reason = item.reason.as_ref().map_or("", |reason| reason.as_str()).into();
    presence::ItemReport { kind: item.kind.clone(), state, revision: item.revision, reason }
}
