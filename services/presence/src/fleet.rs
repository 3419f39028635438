//! The fleet as this replica sees it, and everything that changes it. One task owns it: no locks.

use std::collections::BTreeSet;

use async_nats::Subject;
use bytes::Bytes;
use domain::content::DownloadWish;
use domain::content::allowance::{Allowance, Decision, Terms};
use domain::flood::Watch;
use domain::presence::{Answer, Effect, Presence, Ration, Standing};
use domain::{AgentId, GroupId, Revision, Span, Timestamp};
use runtime::Roots;
use runtime::nats::{Message, is_by_broker};
use runtime::telemetry::{Name, metrics};
use tokio::sync::{mpsc, watch};
use wire::agent::v1::{self, Heartbeat, HeartbeatReply};
use wire::heartbeat::read_download_wish;
use wire::subject::{is_inbox_of, parse_heartbeat};

use crate::census::Telling;
use crate::checkpoint::Round;
use crate::clock::Clock;
use crate::events::{Chunk, Event};
use crate::measure::{self, Measure};
use crate::newcomers::Newcomers;
use crate::offers::{self, Offer};
use crate::sharing::{Origin, Sharing};
use crate::watchers::Watchers;
use crate::{convert, present};

/// How often an agent that sends too much is named, at most: others may do the same meanwhile.
const TELL_EXCESS_EVERY: Span = Span::from_secs(10);

/// What was refused or left out since the last report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Refused {
    /// Heartbeats that could not be read.
    pub(crate) malformed: u64,
    /// Heartbeats on subjects that name no agent.
    pub(crate) nameless: u64,
    /// Heartbeats that asked for an answer outside of their agent's inboxes.
    pub(crate) foreign_reply: u64,
    /// Heartbeats beyond what their agent may send.
    pub(crate) over_quota: u64,
    /// Answers of the broker that somebody had sent to where heartbeats go.
    pub(crate) misdirected: u64,
    /// Batches of another replica that could not be read.
    pub(crate) batches: u64,
    /// Answers that had to go out without an envelope.
    pub(crate) offers: u64,
    /// Transitions that were not stored.
    pub(crate) events: u64,
}

/// An answer that is ready to go.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) to: Subject,
    pub(crate) bytes: Bytes,
}

/// Ways out of the fleet's task.
pub(crate) struct Outlets {
    pub(crate) offers: mpsc::Sender<Offer>,
    pub(crate) events: mpsc::Sender<Event>,
    pub(crate) chunks: mpsc::Sender<Chunk>,
    /// Store revision up to which heads are known.
    pub(crate) compiled: watch::Sender<Revision>,
}

/// The fleet and what belongs to it.
pub(crate) struct Fleet {
    pub(crate) machine: Presence,
    pub(crate) clock: Clock,
    pub(crate) sharing: Sharing,
    terms: Terms,
    allowance: Allowance,
    pub(crate) watchers: Watchers,
    pub(crate) newcomers: Newcomers,
    pub(crate) refused: Refused,
    pub(crate) out: Outlets,
    /// While the registry or the heads are read again from the start: what was there so far.
    pub(crate) agents_again: Option<BTreeSet<String>>,
    pub(crate) groups_again: Option<BTreeSet<GroupId>>,
    /// Batches that were full before their time.
    pub(crate) full_batches: Vec<Bytes>,
    /// Everything that was said up to this moment has been heard.
    judged_until: Timestamp,
    round: Round,
    telling: Telling,
    floods: Watch,
    /// Agents that flood, to be told on.
    pub(crate) flooding: Vec<AgentId>,
    /// When an agent that sends too much was named last.
    excess_told: Timestamp,
    /// The fleet's trust roots, where they are known.
    pub(crate) roots: Option<Roots>,
    /// Version of the newest one, as of the last step.
    root_version: u64,
    pub(crate) measure: Measure,
}

impl Fleet {
    pub(crate) fn new(
        replica: u64,
        (checkpoint_interval, quota): (Span, Option<Ration>),
        terms: Terms,
        out: Outlets,
    ) -> Self {
        let clock = Clock::start();
        let now = clock.now();
        let mut machine = Presence::new(now);
        machine.set_quota(quota);
        Self {
            machine,
            clock,
            sharing: Sharing::new(replica, now),
            terms,
            allowance: Allowance::new(replica, terms),
            watchers: Watchers::default(),
            newcomers: Newcomers::default(),
            refused: Refused::default(),
            out,
            agents_again: None,
            groups_again: None,
            full_batches: Vec::new(),
            judged_until: now,
            round: Round::new(checkpoint_interval, now),
            telling: Telling::default(),
            floods: Watch::default(),
            flooding: Vec::new(),
            excess_told: Timestamp::default(),
            roots: None,
            root_version: 0,
            measure: Measure::new(now),
        }
    }

    /// Everything is loaded: listening begins, and deadlines count from now.
    pub(crate) fn listen(&mut self) {
        let now = self.clock.now();
        self.machine.resume(now);
        self.judged_until = now;
        let _ = self.sharing.was_deaf(now);
    }

    /// Heartbeats are answered from now on. If other replicas are there, or one was when the last checkpoint was
    /// due, there are full downloads that it granted and that are not known here.
    pub(crate) fn begin(&mut self, last_checkpoint: Option<Timestamp>) {
        let now = self.clock.now();
        let recent = |at| now < at + self.round.interval() + self.terms.grant;
        if self.sharing.has_peers() || last_checkpoint.is_some_and(recent) {
            self.allowance.distrust(now);
        }
    }

    /// The time. Notices when nothing was heard for so long that deadlines have to start again.
    pub(crate) fn hear_now(&mut self) -> Timestamp {
        let now = self.clock.now();
        if self.sharing.was_deaf(now) {
            tracing::warn!("nothing was heard for a while: deadlines start again");
            self.machine.resume(now);
            self.allowance.distrust(now);
        }
        now
    }

    /// A message on `svc.heartbeat.*`. Returns the answer, if one can be given at once.
    pub(crate) fn heartbeat(&mut self, message: Message, now: Timestamp) -> Option<Reply> {
        let Some(agent) = parse_heartbeat(&message.subject) else {
            self.refused.nameless += 1;
            return None;
        };
        if is_by_broker(&message) {
            self.refused.misdirected += 1;
            return None;
        }
        if message.reply.as_ref().is_some_and(|reply| !is_inbox_of(reply, &agent)) {
            self.refused.foreign_reply += 1;
            return None;
        }
        if !self.machine.admits(now, agent.as_str()) {
            self.count(&agent, "shed");
            self.note_excess(agent, now);
            return None;
        }
        let heartbeat = match wire::heartbeat::read(&message.payload) {
            Ok(heartbeat) => heartbeat,
            Err(error) => {
                self.refused.malformed += 1;
                self.count(&agent, "malformed");
                return message.reply.map(|to| refusal(to, &error, now));
            }
        };
        let Some(to) = message.reply.clone() else {
            self.count(&agent, "heard");
            let wish = read_download_wish(heartbeat.download);
            if self.machine.observe(now, agent.as_str(), convert::beat(heartbeat)) {
                self.allowance.observe(now, &agent, wish, None);
            }
            self.share(&agent, now, (&message.payload, None));
            return None;
        };
        let (answer, decision) = self.hear(&agent, heartbeat, (&message.payload, now));
        // The record of an agent that just joined may be on its way.
        if answer.standing == Standing::Unknown && self.newcomers.wait(&agent, message, now) {
            return None;
        }
        self.count_answer(&agent, &answer);
        self.answer(agent, to, &answer, reply(&answer, &decision, now))
    }

    fn count_answer(&self, agent: &AgentId, answer: &Answer) {
        let outcome = match answer.standing {
            Standing::Enrolled => "answered",
            Standing::Duplicate => "duplicate",
            Standing::Unknown => "unknown",
            Standing::Deleted => "deleted",
        };
        self.count(agent, outcome);
    }

    /// Counts a heartbeat by what became of it.
    fn count(&self, agent: &AgentId, outcome: &'static str) {
        if metrics::on() {
            let mode = self.machine.mode(agent.as_str()).map_or("unknown", measure::mode);
            metrics::add(Name::Heartbeats, 1, &[mode, outcome]);
        }
    }

    /// Counts what an agent sends beyond its quota, names one that does so now and then, and notes one that floods.
    fn note_excess(&mut self, agent: AgentId, now: Timestamp) {
        self.refused.over_quota += 1;
        if now.since(self.excess_told) >= TELL_EXCESS_EVERY {
            self.excess_told = now;
            tracing::warn!(%agent, "this agent sends more heartbeats than it may: the rest is not read");
        }
        if self.floods.note(now, &agent) {
            self.flooding.push(agent);
        }
    }

    /// Takes a heartbeat that is to be answered, and tells the other replicas.
    fn hear(
        &mut self,
        agent: &AgentId,
        heartbeat: Heartbeat,
        (payload, now): (&[u8], Timestamp),
    ) -> (Answer, Decision) {
        let wish = read_download_wish(heartbeat.download);
        let answer = self.machine.heartbeat(now, agent.as_str(), convert::beat(heartbeat));
        let mut decision = Decision::default();
        if matches!(answer.standing, Standing::Enrolled | Standing::Duplicate) {
            decision = self.allowance.ask(now, agent, wish);
            self.share(agent, now, (payload, decision.granted_by));
        }
        (answer, decision)
    }

    /// The answer to a heartbeat that has waited for its sender to become known, whether it did or not.
    pub(crate) fn answer_newcomer(
        &mut self,
        agent: AgentId,
        message: Message,
        now: Timestamp,
    ) -> Option<Reply> {
        let heartbeat = wire::heartbeat::read(&message.payload).ok()?;
        let (answer, decision) = self.hear(&agent, heartbeat, (&message.payload, now));
        self.count_answer(&agent, &answer);
        self.answer(agent, message.reply?, &answer, reply(&answer, &decision, now))
    }

    fn answer(
        &mut self,
        agent: AgentId,
        to: Subject,
        answer: &Answer,
        mut reply: HeartbeatReply,
    ) -> Option<Reply> {
        reply.root_version = self.root_version;
        if !answer.offer_snapshot && !answer.offer_assignment {
            return Some(Reply { to, bytes: wire::encode(&reply) });
        }
        let group = self.machine.agent(agent.as_str()).filter(|_| answer.offer_snapshot);
        let group = group.map(|view| (view.group.clone(), answer.head));
        let agent = Some(agent).filter(|_| answer.offer_assignment);
        match self.out.offers.try_send(Offer { to, reply, agent, group, taken: metrics::clock() }) {
            Ok(()) => None,
            Err(error) => {
                self.refused.offers += 1;
                let Offer { to, mut reply, .. } = error.into_inner();
                offers::come_back(&mut reply);
                Some(Reply { to, bytes: wire::encode(&reply) })
            }
        }
    }

    /// Notes a heartbeat for the other replicas.
    fn share(&mut self, agent: &AgentId, heard: Timestamp, heartbeat: (&[u8], Option<u64>)) {
        if let Some(full) = self.sharing.push(agent, heard, heartbeat) {
            self.full_batches.push(full);
        }
    }

    /// A message on `presence.beats`.
    pub(crate) fn batch(&mut self, payload: &[u8], now: Timestamp) {
        let Ok(origin) = wire::heartbeat::read_batch_origin(payload) else {
            self.refused.batches += 1;
            return;
        };
        let skew = match self.sharing.heard_batch(origin, now) {
            // All that was sent before has been heard: deadlines up to then can be judged.
            Origin::Own(sent_at) => {
                self.judged_until = sent_at;
                return self.machine.tick(sent_at);
            }
            Origin::Other(skew) => skew,
        };
        self.allowance.heard_replica(now, origin.replica);
        let Ok(batch) = wire::heartbeat::read_batch(payload) else {
            self.refused.batches += 1;
            return;
        };
        for beat in batch.beats {
            let Some(heartbeat) = beat.heartbeat else { continue };
            let heard = skew.local(Timestamp(beat.received_at_ms));
            let wish = read_download_wish(heartbeat.download);
            let news = self.machine.observe(heard, &beat.agent, convert::beat(heartbeat));
            // Few agents want anything, and nobody holds anything, most of the time.
            let concerns = news && (wish != DownloadWish::Nothing || !self.allowance.is_idle());
            if concerns && let Ok(agent) = AgentId::new(&beat.agent) {
                let granted_by = Some(beat.granted_by).filter(|replica| *replica != 0);
                self.allowance.observe(now, &agent, wish, granted_by);
            }
        }
    }

    /// What is due: batches to be sent, and heartbeats that waited long enough for their senders to become
    /// known.
    pub(crate) fn pass_time(&mut self, now: Timestamp) -> Vec<Reply> {
        self.root_version = self.roots.as_ref().map_or(0, Roots::version);
        if self.machine.next_deadline().is_some_and(|due| due <= self.judged_until) {
            self.machine.tick(self.judged_until);
        }
        if self.round.is_due(now) {
            self.next_chunk(now);
        }
        let late = self.newcomers.late(now);
        late.into_iter().filter_map(|(agent, message)| self.answer_newcomer(agent, message, now)).collect()
    }

    fn next_chunk(&mut self, now: Timestamp) {
        if !self.sharing.writes() {
            self.round.skip(now);
        } else if let Ok(place) = self.out.chunks.try_reserve() {
            place.send(self.round.next(&self.machine, now));
        }
    }

    /// How many agents hold which content, when it is time to tell.
    pub(crate) fn census(&mut self, now: Timestamp) -> Option<Bytes> {
        let due = self.telling.is_due(now, self.machine.content_changes());
        due.then(|| wire::content::encode_census(&self.machine.census(self.sharing.replica())).into())
    }

    /// A checkpoint of everything, for the stop.
    pub(crate) fn last_chunks(&self) -> Vec<Chunk> {
        Round::new(Span(1), self.clock.now()).rest(&self.machine, self.clock.now())
    }

    /// Hands on what happened: to the store, and to those who watch. `heard_here` if this replica heard it from agents,
    /// not from another replica.
    pub(crate) fn pass_on(&mut self, heard_here: bool) {
        let effects: Vec<Effect> = self.machine.take_effects().collect();
        for effect in effects {
            self.measure.effect(&effect, &self.machine, heard_here);
            if !self.watchers.is_empty() {
                let (event, agent) = present::event(&effect, &self.machine);
                self.watchers.tell_of_agent(&event, agent.as_str(), &self.machine);
            }
            match effect {
                Effect::Transition { agent, group: _, from, to, at, damped } => {
                    if self.out.events.try_send(Event { agent, at, from, to, damped }).is_err() {
                        self.refused.events += 1;
                    }
                }
                Effect::Applied { .. } | Effect::Failed { .. } | Effect::ContentFailed { .. } => {}
            }
        }
    }
}

fn reply(answer: &Answer, decision: &Decision, now: Timestamp) -> HeartbeatReply {
    let standing = match answer.standing {
        Standing::Enrolled => v1::Standing::Ok,
        Standing::Unknown => v1::Standing::Unknown,
        Standing::Deleted => v1::Standing::Deleted,
        Standing::Duplicate => v1::Standing::Duplicate,
    };
    let again = match *decision {
        Decision { granted: None, again: Some(again), .. } => {
            again.0 + Span::from(runtime::ids::jitter(again.into())).0
        }
        Decision { again, .. } => again.map_or(u64::MAX, |again| again.0),
    };
    HeartbeatReply {
        server_time_ms: now.0,
        next_heartbeat_ms: answer.next_in.0.min(again),
        download_granted_ms: decision.granted.map_or(0, |span| span.0),
        head_epoch: answer.head.epoch.0,
        head_revision: answer.head.revision.0,
        want_status: answer.want_status,
        standing: standing.into(),
        ..HeartbeatReply::default()
    }
}

fn refusal(to: Subject, error: &wire::DecodeError, now: Timestamp) -> Reply {
    let error = format!("the heartbeat cannot be read: it {error}");
    Reply {
        to,
        bytes: wire::encode(&HeartbeatReply { server_time_ms: now.0, error, ..HeartbeatReply::default() }),
    }
}
