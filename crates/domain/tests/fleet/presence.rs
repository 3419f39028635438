//! One presence replica: the real machine, fed by a network made up.

use domain::agent::{Reply, Standing};
use domain::presence::{self, Answer, Beat, Enrolment, GroupHead, Labels, Presence};
use domain::{AgentId, Cursor, GroupId, Settings, Span, Timestamp};

use crate::world::{AGENTS, Event, FOLLOWS, Followed, World};

pub(crate) struct Replica {
    /// `None` while it is dead.
    pub(crate) machine: Option<Presence>,
    pub(crate) life: u64,
    pub(crate) tick_at: Option<Timestamp>,
}

impl Replica {
    pub(crate) fn new(now: Timestamp) -> Self {
        Self { machine: Some(Presence::new(now)), life: 0, tick_at: None }
    }

    pub(crate) fn crash(&mut self) {
        self.machine = None;
        self.tick_at = None;
        self.life += 1;
    }

    pub(crate) fn answer(&mut self, now: Timestamp, agent: &AgentId, beat: Beat) -> Option<Answer> {
        self.machine.as_mut().map(|machine| machine.heartbeat(now, agent.as_str(), beat))
    }

    pub(crate) fn observe(&mut self, heard: Timestamp, agent: &AgentId, beat: Beat) {
        if let Some(machine) = &mut self.machine {
            machine.observe(heard, agent.as_str(), beat);
        }
    }
}

/// The answer as the agent reads it.
pub(crate) fn reply(answer: &Answer, beat: u64, now: Timestamp) -> Reply {
    let standing = match answer.standing {
        presence::Standing::Enrolled => Standing::Ok,
        presence::Standing::Unknown => Standing::Unknown,
        presence::Standing::Deleted => Standing::Deleted,
        presence::Standing::Duplicate => Standing::Duplicate,
    };
    Reply {
        beat,
        server_time: now,
        next: answer.next_in,
        head: answer.head,
        want_status: answer.want_status,
        standing,
    }
}

impl World {
    pub(crate) fn kill_replica(&mut self, replica: usize) {
        self.replicas[replica].crash();
        let delay = Span(1 + self.random.below(20_000));
        self.after(delay, Event::ReplicaStarts { replica });
    }

    pub(crate) fn tick_replica(&mut self, replica: usize, due: Timestamp) {
        if self.replicas[replica].tick_at == Some(due) {
            self.replicas[replica].tick_at = None;
            if let Some(machine) = &mut self.replicas[replica].machine {
                machine.tick(self.now);
                assert!(machine.take_effects().count() <= 10 * AGENTS, "no storm of events");
            }
            self.arm_replica(replica);
        }
    }

    pub(crate) fn arm_replica(&mut self, replica: usize) {
        let Some(machine) = &self.replicas[replica].machine else { return };
        let Some(due) = machine.next_deadline() else { return };
        if self.replicas[replica].tick_at != Some(due) {
            self.replicas[replica].tick_at = Some(due);
            self.after(due.since(self.now), Event::ReplicaTick { replica, due });
        }
    }

    /// A replica reads the store before it listens to heartbeats.
    pub(crate) fn catch_up(&mut self, replica: usize) {
        for group in 0..self.groups.len() {
            let head = self.head_of(group);
            self.replica_follows(replica, Followed::Head(head));
        }
        for at in 0..AGENTS {
            let enrolment = self.enrolment_of(at);
            self.replica_follows(replica, Followed::Enrolment(enrolment));
        }
    }

    pub(crate) fn tell_head(&mut self, replica: usize, group: usize) {
        let what = Followed::Head(self.head_of(group));
        let life = self.replicas[replica].life;
        let delay = self.hop();
        self.after(delay, Event::ReplicaFollows { replica, life, what });
    }

    pub(crate) fn tell_enrolment(&mut self, replica: usize, at: usize) {
        let what = Followed::Enrolment(self.enrolment_of(at));
        let life = self.replicas[replica].life;
        self.after(FOLLOWS, Event::ReplicaFollows { replica, life, what });
    }

    fn head_of(&self, group: usize) -> GroupHead {
        let snapshot = &self.heads[group].snapshot;
        GroupHead {
            group: snapshot.group.clone(),
            path: self.groups[group].path.clone(),
            settings: snapshot.settings,
            cursor: snapshot.cursor,
        }
    }

    fn enrolment_of(&self, at: usize) -> Enrolment {
        Enrolment {
            agent: self.agents[at].id.clone(),
            group: self.groups[self.home[at]].id.clone(),
            assignment: Cursor::new(1, self.assigned[at]),
            hostname: "host".into(),
            labels: Labels::new(),
        }
    }

    pub(crate) fn replica_follows(&mut self, replica: usize, what: Followed) {
        let Some(machine) = &mut self.replicas[replica].machine else { return };
        match what {
            Followed::Head(head) => {
                let newer = machine.head(&head.group).is_none_or(|known| known <= head.cursor);
                if newer {
                    self.known_settings[replica].insert(head.group.clone(), (head.settings, self.now));
                }
                machine.group_changed(self.now, head);
            }
            Followed::Enrolment(enrolment) => machine.enrolled(self.now, &enrolment),
        }
        self.arm_replica(replica);
    }

    /// Settings of a group as a replica knows them, and since when.
    pub(crate) fn settings_known_to(&self, replica: usize, group: &GroupId) -> Option<(Settings, Timestamp)> {
        self.known_settings[replica].get(group).copied()
    }
}
