//! The world around the machines: time, network, disks, the store, and what goes wrong.

use std::collections::BTreeMap;
use std::sync::Arc;

use domain::agent::{Beat as AgentBeat, Effect, Generation, Input, Offer, Reason, Source};
use domain::presence::{Beat, Enrolment, GroupHead, Presence};
use domain::{GroupId, GroupPath, Settings, Span, Timestamp};

use crate::agent::Agent;
use crate::check;
use crate::presence::{Replica, reply};
use crate::random::Random;

pub(crate) const AGENTS: usize = 12;
pub(crate) const REPLICAS: usize = 2;
/// Longest heartbeat interval of any group.
pub(crate) const LONGEST_INTERVAL: Span = Span::from_secs(120);
/// How long a change of the registry takes to reach presence.
pub(crate) const FOLLOWS: Span = Span(3);
/// Length of the part with faults.
const STORM: Span = Span::from_secs(1_800);
/// Time to settle afterwards: some of the longest intervals and back-offs.
const CALM: Span = Span::from_secs(1_500);

/// What goes wrong, each in cases of a thousand.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    repeated: u64,
    agent_dies: u64,
    replica_dies: u64,
    disk_fails: u64,
    link_breaks: u64,
}

impl Faults {
    pub(crate) const NONE: Self =
        Self { lost: 0, repeated: 0, agent_dies: 0, replica_dies: 0, disk_fails: 0, link_breaks: 0 };
    pub(crate) const MANY: Self =
        Self { lost: 100, repeated: 100, agent_dies: 4, replica_dies: 1, disk_fails: 20, link_breaks: 5 };
}

/// A group and what is wanted of it.
pub(crate) struct Group {
    pub(crate) id: GroupId,
    pub(crate) path: GroupPath,
}

pub(crate) enum Event {
    /// An input for an agent of that life.
    Agent {
        at: usize,
        life: u64,
        input: Box<Input>,
    },
    AgentTick {
        at: usize,
        due: Timestamp,
    },
    AgentStarts {
        at: usize,
    },
    /// A heartbeat arrives at some replica; `beat` 0 asks for no answer.
    Beat {
        at: usize,
        life: u64,
        beat: u64,
        message: Box<Beat>,
    },
    /// What one replica heard, at another.
    Shared {
        replica: usize,
        life: u64,
        at: usize,
        heard: Timestamp,
        message: Box<Beat>,
    },
    ReplicaTick {
        replica: usize,
        due: Timestamp,
    },
    ReplicaStarts {
        replica: usize,
    },
    /// A replica learns of a group's head, or of an agent's group.
    ReplicaFollows {
        replica: usize,
        life: u64,
        what: Followed,
    },
    Publish,
    Move,
}

pub(crate) enum Followed {
    Head(GroupHead),
    Enrolment(Enrolment),
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) agents: Vec<Agent>,
    pub(crate) replicas: Vec<Replica>,
    pub(crate) replica_since: Vec<Timestamp>,
    pub(crate) groups: Vec<Group>,
    pub(crate) heads: Vec<Arc<Offer>>,
    /// Number of the group of each agent, and the counter of its assignments.
    pub(crate) home: Vec<usize>,
    pub(crate) assigned: Vec<u64>,
    /// When replicas knew of the last move of each agent.
    pub(crate) moved_at: Vec<Timestamp>,
    pub(crate) known_settings: Vec<BTreeMap<GroupId, (Settings, Timestamp)>>,
    pub(crate) faults: Faults,
    pub(crate) random: Random,
    queue: BTreeMap<(Timestamp, u64), Event>,
    queued: u64,
    pub(crate) revision: u64,
    pub(crate) publishing_until: Timestamp,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let now = Timestamp(1_700_000_000_000);
        let group = |name: &str| Group {
            id: GroupId::new(name).expect("a valid id"),
            path: GroupPath::new(format!("/{name}")).expect("a valid path"),
        };
        let mut world = Self {
            now,
            agents: (0..AGENTS).map(Agent::new).collect(),
            replicas: (0..REPLICAS).map(|_| Replica::new(now)).collect(),
            replica_since: vec![now; REPLICAS],
            groups: ["push", "pull", "rare"].map(group).into(),
            heads: Vec::new(),
            home: (0..AGENTS).map(|at| at % 3).collect(),
            assigned: vec![1; AGENTS],
            moved_at: vec![now; AGENTS],
            known_settings: vec![BTreeMap::new(); REPLICAS],
            faults,
            random: Random(seed),
            queue: BTreeMap::new(),
            queued: 0,
            revision: 10,
            publishing_until: now + STORM,
        };
        for group in 0..world.groups.len() {
            let first = world.snapshot(group, false);
            world.heads.push(first);
        }
        for replica in 0..REPLICAS {
            world.catch_up(replica);
        }
        for at in 0..AGENTS {
            world.after(Span(10 * at as u64), Event::AgentStarts { at });
        }
        world.after(Span::from_secs(20), Event::Publish);
        world.after(Span::from_secs(60), Event::Move);
        world
    }

    /// The part with faults and changes.
    pub(crate) fn storm(&mut self) {
        self.run_until(self.publishing_until);
    }

    /// No more faults and changes; everything that is dead starts again.
    pub(crate) fn calm(&mut self) {
        self.faults = Faults::NONE;
        self.run_until(self.now + CALM);
    }

    /// A new head that nobody is told of.
    pub(crate) fn publish_unheard(&mut self) {
        self.heads[0] = self.snapshot(0, false);
    }

    pub(crate) fn after(&mut self, delay: Span, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + delay, self.queued), event);
    }

    fn run_until(&mut self, end: Timestamp) {
        let mut checked = self.now;
        while let Some(entry) = self.queue.first_entry() {
            if entry.key().0 > end {
                break;
            }
            let ((at, _), event) = entry.remove_entry();
            self.now = at;
            self.happen(event);
            if self.now.since(checked) >= Span::from_secs(1) {
                checked = self.now;
                check::presence_is_true(self);
            }
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Agent { at, life, input } => {
                if self.agents[at].life == life {
                    self.feed(at, *input);
                }
            }
            Event::AgentTick { at, due } => {
                if self.agents[at].tick_at == Some(due) {
                    self.agents[at].tick_at = None;
                    self.feed(at, Input::Tick);
                }
            }
            Event::AgentStarts { at } => {
                self.agents[at].start();
                self.feed(at, Input::Started);
                if self.assigned[at] == 1 {
                    self.hand_assignment(at, Span(1));
                }
            }
            Event::Beat { at, life, beat, message } => self.beat_arrives((at, life), beat, *message),
            Event::Shared { replica, life, at, heard, message } => {
                if self.replicas[replica].life == life {
                    self.replicas[replica].observe(heard, &self.agents[at].id.clone(), *message);
                    self.arm_replica(replica);
                }
            }
            Event::ReplicaTick { replica, due } => self.tick_replica(replica, due),
            Event::ReplicaStarts { replica } => {
                self.replicas[replica].machine = Some(Presence::new(self.now));
                self.replica_since[replica] = self.now;
                self.known_settings[replica].clear();
                self.catch_up(replica);
            }
            Event::ReplicaFollows { replica, life, what } => {
                if self.replicas[replica].life == life {
                    self.replica_follows(replica, what);
                }
            }
            Event::Publish => self.publish(),
            Event::Move => self.move_someone(),
        }
    }

    /// Gives an agent an input, carries out what it wants, and lets things go wrong.
    fn feed(&mut self, at: usize, input: Input) {
        let random = self.random.next();
        let effects = self.agents[at].handle(self.now, random, input);
        for effect in effects {
            if self.random.chance(self.faults.agent_dies) {
                return self.kill_agent(at);
            }
            self.carry_out(at, effect);
        }
        let due = self.agents[at].machine.as_ref().and_then(domain::agent::Machine::next_deadline);
        if let Some(due) = due.filter(|due| self.agents[at].tick_at != Some(*due)) {
            self.agents[at].tick_at = Some(due);
            self.after(due.since(self.now), Event::AgentTick { at, due });
        }
    }

    fn kill_agent(&mut self, at: usize) {
        self.agents[at].crash();
        let delay = Span(self.random.below(120_000));
        self.after(delay, Event::AgentStarts { at });
    }

    /// An input that arrives later, in this life of the agent.
    pub(crate) fn later(&mut self, at: usize, delay: Span, input: Input) {
        let life = self.agents[at].life;
        self.after(delay, Event::Agent { at, life, input: Box::new(input) });
    }

    /// How long one message takes: usually little, at times so long that others overtake it.
    pub(crate) fn hop(&mut self) -> Span {
        let slow = self.random.chance(self.faults.repeated);
        Span(1 + self.random.below(if slow { 3_000 } else { 40 }))
    }

    /// A message to a connected agent: it may be lost, and it may come twice.
    pub(crate) fn send_to_agent(&mut self, at: usize, input: &Input) {
        if !self.agents[at].connected {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(self.faults.repeated));
        for _ in 0..copies {
            if !self.random.chance(self.faults.lost) {
                let delay = self.hop();
                self.later(at, delay, input.clone());
            }
        }
    }

    fn disk(&mut self) -> Result<(), Reason> {
        if self.random.chance(self.faults.disk_fails) { Err(Reason::new("disk full")) } else { Ok(()) }
    }

    fn carry_out(&mut self, at: usize, effect: Effect) {
        let step = Span(1 + self.random.below(5));
        match effect {
            Effect::Connect | Effect::Reconnect => self.connect(at),
            Effect::Disconnect => {
                self.agents[at].connected = false;
                self.agents[at].listens_to = None;
            }
            Effect::Subscribe(group) => self.agents[at].listens_to = Some(group),
            Effect::Unsubscribe(_) => self.agents[at].listens_to = None,
            Effect::FetchSnapshot { group, fetch } => self.fetch(at, &group, fetch),
            Effect::Persist { ticket } => {
                let result = self.disk();
                self.agents[at].unsaved = result.is_err();
                if result.is_ok() {
                    let durable = self.agents[at].machine.as_ref().expect("it asked").durable().clone();
                    self.agents[at].disk.durable = durable;
                }
                self.later(at, step, Input::Persisted { ticket, result });
            }
            Effect::Stage(offer) => {
                let result = self.disk();
                if result.is_ok() {
                    let id = Generation::of(&offer.snapshot).id();
                    self.agents[at].disk.staged.insert(id, offer);
                }
                self.later(at, step, Input::Staged(result));
            }
            Effect::Activate(id) => {
                let result = self.disk();
                if result.is_ok() {
                    let group = self.number_of(&id.group) as u64;
                    self.agents[at].activate(&id, group);
                }
                self.later(at, step, Input::Activated(result));
            }
            Effect::RunHandlers(changes) => self.run_handlers(at, changes),
            Effect::CheckHealth(_) => self.later(at, step, Input::HealthChecked(Ok(()))),
            Effect::RevertTo(id) => {
                let agent = &mut self.agents[at];
                agent.disk.active = id.map(|id| Generation::of(&agent.disk.staged[&id].snapshot));
                self.later(at, step, Input::Reverted(Ok(())));
            }
            Effect::Repair(_) => self.later(at, step, Input::Repaired(Ok(()))),
            Effect::Prune { keep } => self.agents[at].disk.staged.retain(|id, _| keep.contains(id)),
            Effect::SendHeartbeat(beat) | Effect::SendStatus(beat) => self.send_beat(at, &beat),
            Effect::Refresh(_) | Effect::CheckDrift | Effect::Note(_) => {}
        }
    }

    fn connect(&mut self, at: usize) {
        self.agents[at].listens_to = None;
        let up = !self.random.chance(self.faults.link_breaks * 10);
        self.agents[at].connected = up;
        let delay = self.hop();
        let input = if up { Input::Connected } else { Input::Disconnected { retrying: false } };
        self.later(at, delay, input);
    }

    fn fetch(&mut self, at: usize, group: &GroupId, fetch: u64) {
        if self.random.chance(self.faults.lost) || !self.agents[at].connected {
            let result = Err(Reason::new("no answer"));
            return self.later(at, Span::from_secs(5), Input::FetchDone { fetch, result });
        }
        let offer = Arc::clone(&self.heads[self.number_of(group)]);
        let delay = self.hop();
        self.later(at, delay, Input::SnapshotReceived { offer, source: Source::Fetch });
    }

    fn run_handlers(&mut self, at: usize, changes: Vec<domain::agent::Change>) {
        let active = self.agents[at].disk.active.clone();
        let bad = active.is_some_and(|active| self.is_bad_generation(&active));
        for change in changes {
            let result = if bad { Err(Reason::new("exit code 1")) } else { Ok(()) };
            let ended = result.is_err();
            self.later(at, Span(5), Input::HandlerDone { kind: change.kind, result });
            if ended {
                break;
            }
        }
    }

    fn send_beat(&mut self, at: usize, beat: &AgentBeat) {
        let message = self.agents[at].message(beat);
        if self.random.chance(self.faults.link_breaks) {
            self.agents[at].connected = false;
            return self.later(at, Span(20), Input::Disconnected { retrying: false });
        }
        if self.random.chance(self.faults.lost) || !self.agents[at].connected {
            return;
        }
        let delay = self.hop();
        let life = self.agents[at].life;
        self.after(delay, Event::Beat { at, life, beat: beat.beat, message: Box::new(message) });
    }

    fn beat_arrives(&mut self, (at, life): (usize, u64), beat: u64, message: Beat) {
        let up: Vec<usize> = (0..REPLICAS).filter(|r| self.replicas[*r].machine.is_some()).collect();
        if up.is_empty() {
            if self.agents[at].life == life {
                self.later(at, Span(5), Input::HeartbeatFailed { beat });
            }
            return;
        }
        let replica = *self.random.pick(&up);
        if self.random.chance(self.faults.replica_dies) {
            return self.kill_replica(replica);
        }
        self.share(replica, at, &message);
        let id = self.agents[at].id.clone();
        if beat == 0 {
            self.replicas[replica].observe(self.now, &id, message);
        } else if let Some(answer) = self.replicas[replica].answer(self.now, &id, message)
            && self.agents[at].life == life
        {
            self.answer(at, &answer, beat);
        }
        self.arm_replica(replica);
    }

    /// The envelopes of a reply come first, in one message with it.
    fn answer(&mut self, at: usize, answer: &domain::presence::Answer, beat: u64) {
        if !self.agents[at].connected || self.random.chance(self.faults.lost) {
            return;
        }
        let delay = self.hop();
        if answer.offer_assignment {
            self.hand_assignment(at, delay);
        }
        if answer.offer_snapshot {
            let offer = Arc::clone(&self.heads[self.home[at]]);
            self.later(at, delay, Input::SnapshotReceived { offer, source: Source::Heartbeat });
        }
        let reply = reply(answer, beat, self.now);
        self.later(at, delay, Input::HeartbeatReplied(reply));
    }

    fn share(&mut self, from: usize, at: usize, message: &Beat) {
        for replica in (0..REPLICAS).filter(|replica| *replica != from) {
            if !self.random.chance(self.faults.lost) {
                let (life, heard) = (self.replicas[replica].life, self.now);
                let message = Box::new(message.clone());
                self.after(Span(100), Event::Shared { replica, life, at, heard, message });
            }
        }
    }
}
