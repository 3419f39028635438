//! What presence measures: gauges of the fleet, how long changes take to get to agents, and spans of what it hears of
//! them.

use std::collections::BTreeMap;
use std::time::SystemTime;

use domain::presence::{Counts, Deliveries, Effect, Presence, Scope};
use domain::sample::is_sampled;
use domain::{AgentId, Cursor, GroupId, Mode, Revision, Span, Timestamp};
use runtime::telemetry::spans::{Cause, Processed};
use runtime::telemetry::{Name, metrics, spans};
use tokio::sync::mpsc;
use wire::trace::TraceParent;

use crate::fleet::{Fleet, Refused};

/// How often gauges are set: several times for each export.
const SET_EVERY: Span = Span::from_secs(5);
/// Agents of which it is kept since when they are there. Beyond it all are forgotten: some delays are counted from the
/// head on, although their agents came later.
const MAX_ARRIVED: usize = 10_000;
/// Revisions of which the span that published them is kept.
const MAX_PLACES: usize = 256;

/// What was measured, and what has to be known for it.
pub(crate) struct Measure {
    pub(crate) deliveries: Deliveries,
    /// Since when reports are counted.
    pub(crate) since: Timestamp,
    /// Agents that came back, or moved to another group, and have not applied anything since.
    arrived: BTreeMap<AgentId, Timestamp>,
    /// The span that published a revision.
    places: BTreeMap<Revision, TraceParent>,
    set_at: Timestamp,
    counted: Refused,
}

impl Measure {
    pub(crate) fn new(since: Timestamp) -> Self {
        Self {
            deliveries: Deliveries::default(),
            since,
            arrived: BTreeMap::new(),
            places: BTreeMap::new(),
            set_at: Timestamp(0),
            counted: Refused::default(),
        }
    }

    /// A group has a head of a newer revision.
    pub(crate) fn published(
        &mut self,
        revision: Revision,
        (compiled, stored): (Timestamp, Timestamp),
        place: Option<TraceParent>,
    ) {
        self.deliveries.published(revision, compiled, stored);
        if let Some(place) = place.filter(|_| spans::on()) {
            self.places.insert(revision, place);
            if self.places.len() > MAX_PLACES {
                self.places.pop_first();
            }
        }
    }

    /// An agent is there now, or belongs to another group now.
    pub(crate) fn arrived(&mut self, agent: &AgentId, at: Timestamp) {
        if metrics::on() {
            if self.arrived.len() >= MAX_ARRIVED {
                self.arrived.clear();
            }
            self.arrived.insert(agent.clone(), at);
        }
    }

    /// Something happened to an agent. Only the replica that heard it of the agent itself measures it; all keep it.
    pub(crate) fn effect(&mut self, effect: &Effect, fleet: &Presence, heard_here: bool) {
        let (agent, group, cursor, at, applied) = match effect {
            Effect::Transition { agent, from, at, .. } => {
                if *from != domain::presence::State::Online {
                    self.arrived(agent, *at);
                }
                return;
            }
            Effect::Applied { agent, group, cursor, at } => (agent, group, *cursor, *at, true),
            Effect::Failed { agent, group, cursor, items: _, at } => (agent, group, *cursor, *at, false),
            Effect::ContentFailed { .. } => return,
        };
        self.deliveries.reported(cursor.revision, applied, at);
        let arrived = self.arrived.remove(agent);
        if heard_here {
            self.convergence((agent, cursor), (at, arrived), applied, fleet);
            self.tell((agent, group, cursor), at, applied);
        }
    }

    fn convergence(
        &self,
        (agent, cursor): (&AgentId, Cursor),
        (at, arrived): (Timestamp, Option<Timestamp>),
        applied: bool,
        fleet: &Presence,
    ) {
        let (true, Some(delivery)) = (metrics::on(), self.deliveries.get(cursor.revision)) else { return };
        let Some(view) = fleet.agent(agent.as_str()) else { return };
        // What was stored before this replica began to count, somebody may have measured already.
        if delivery.last_published < self.since {
            return;
        }
        let from = delivery.last_published.max(arrived.unwrap_or_default());
        let labels = [mode(view.mode), if applied { "applied" } else { "failed" }];
        let took = seconds(at.since(from));
        metrics::observe(Name::Convergence, took, &labels);
        metrics::observe(Name::ConvergenceIntervals, took / seconds(view.interval).max(0.001), &labels);
    }

    /// The end of a change's way, as a span: of the agents that tell theirs, and of every failure.
    fn tell(&self, (agent, group, cursor): (&AgentId, &GroupId, Cursor), at: Timestamp, applied: bool) {
        if !spans::on() || (applied && !is_sampled(agent, cursor.revision, spans::share())) {
            return;
        }
        let place = self.places.get(&cursor.revision).copied();
        let heard = SystemTime::UNIX_EPOCH + std::time::Duration::from(at.since(Timestamp(0)));
        spans::processed(&Processed {
            template: "svc.heartbeat.{agent}",
            cause: place.map(|place| Cause { trace_id: place.trace_id, hint: Some(place) }),
            whole: (heard, SystemTime::now().max(heard)),
            steps: &[],
            agent: agent.as_str(),
            group: group.as_str(),
            revision: cursor.revision.0,
            failed: !applied,
        });
    }
}

impl Fleet {
    /// Sets gauges and counts what was refused, when it is time.
    pub(crate) fn measure(&mut self, now: Timestamp) {
        if !metrics::on() || now.since(self.measure.set_at) < SET_EVERY {
            return;
        }
        self.measure.set_at = now;
        let summary = self.machine.summary(&Scope::Fleet);
        for (mode, counts) in [("push", &summary.push), ("pull", &summary.pull)] {
            gauges(mode, counts);
        }
        depth("offers", &self.out.offers);
        depth("events", &self.out.events);
        depth("checkpoints", &self.out.chunks);
        let (now, before) = (self.refused, std::mem::replace(&mut self.measure.counted, self.refused));
        metrics::add(Name::LoadShed, now.over_quota - before.over_quota, &["heartbeat"]);
        metrics::add(Name::LoadShed, now.offers - before.offers, &["offer"]);
        metrics::add(Name::LoadShed, now.events - before.events, &["event"]);
    }
}

fn gauges(mode: &'static str, counts: &Counts) {
    let names = ["never_seen", "online", "late", "offline"];
    for (state, agents) in names.into_iter().zip(counts.states) {
        metrics::set(Name::Agents, count(agents), &[mode, state]);
    }
    metrics::set(Name::AgentsPending, count(counts.online_pending), &[mode]);
    metrics::set(Name::AgentsFailed, count(counts.failed), &[mode]);
}

fn depth<T>(queue: &'static str, sender: &mpsc::Sender<T>) {
    let waiting = sender.max_capacity() - sender.capacity();
    metrics::set(Name::QueueDepth, count(waiting as u64), &[queue]);
}

/// The label of a mode.
pub(crate) fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Push => "push",
        Mode::Pull => "pull",
    }
}

fn seconds(span: Span) -> f64 {
    std::time::Duration::from(span).as_secs_f64()
}

/// Exact up to 2^53, and a fleet is smaller.
fn count(number: u64) -> f64 {
    u32::try_from(number).map_or(f64::from(u32::MAX), f64::from)
}
