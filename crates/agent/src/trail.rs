//! The way of a snapshot through the agent, as a span of a trace and as a measured time.
//!
//! What it does is learnt from the effects that the machine asks for; when it is over, it is told if the agent is one of
//! those that tell, and always if it failed.

use std::time::SystemTime;

use domain::agent::{Effect, GenerationId, Note, Offer};
use domain::sample::is_sampled;
use domain::{AgentId, Cursor, GroupId};
use runtime::telemetry::spans::{Cause, Processed, Step};
use runtime::telemetry::{Name, metrics, spans};

/// Where snapshots come from, whichever road they took.
const TEMPLATE: &str = "notify.group.{group}";

/// A snapshot on its way.
struct Underway {
    group: GroupId,
    cursor: Cursor,
    trace_id: [u8; 16],
    began: SystemTime,
    steps: Vec<Step>,
    /// The step that goes on, and since when.
    open: (&'static str, SystemTime),
}

/// What is known of the snapshot on its way, if there is one.
#[derive(Default)]
pub(crate) struct Trail {
    /// When a signature was checked last, and of which snapshot.
    verified: Option<(Cursor, SystemTime, SystemTime)>,
    underway: Option<Underway>,
}

impl Trail {
    /// The time, if anybody wants to know it.
    pub(crate) fn clock() -> Option<SystemTime> {
        (spans::on() || metrics::on()).then(SystemTime::now)
    }

    /// A signature holds; its check began at `from`.
    pub(crate) fn verified(&mut self, offer: &Offer, from: Option<SystemTime>) {
        let now = Self::clock();
        self.verified = from.zip(now).map(|(from, now)| (offer.snapshot.cursor, from, now));
    }

    /// The machine asks for something.
    pub(crate) fn effect(&mut self, agent: &AgentId, effect: &Effect) {
        let Some(now) = Self::clock() else { return };
        match effect {
            Effect::Stage(offer) => self.begin(offer, now),
            Effect::Activate(id) => {
                let verified = self.underway.as_ref().is_some_and(|underway| underway.is(id));
                metrics::add(Name::Activations, 1, &[if verified { "true" } else { "false" }]);
                self.next("apply", now);
            }
            Effect::CheckHealth(_) => self.next("health", now),
            Effect::Note(Note::Applied(id)) => self.end(agent, id, now, false),
            Effect::Note(Note::Failed { generation, .. }) => self.end(agent, generation, now, true),
            _ => {}
        }
    }

    fn begin(&mut self, offer: &Offer, now: SystemTime) {
        let snapshot = &offer.snapshot;
        let check = self.verified.filter(|(cursor, _, _)| *cursor == snapshot.cursor);
        let check = check.map(|(_, from, to)| Step { name: "verify", from, to });
        self.underway = Some(Underway {
            group: snapshot.group.clone(),
            cursor: snapshot.cursor,
            trace_id: snapshot.trace_id,
            began: check.map_or(now, |check| check.from),
            steps: check.into_iter().collect(),
            open: ("stage", now),
        });
    }

    fn next(&mut self, name: &'static str, now: SystemTime) {
        if let Some(underway) = &mut self.underway {
            let (before, from) = std::mem::replace(&mut underway.open, (name, now));
            underway.steps.push(Step { name: before, from, to: now });
        }
    }

    fn end(&mut self, agent: &AgentId, id: &GenerationId, now: SystemTime, failed: bool) {
        let Some(mut underway) = self.underway.take().filter(|underway| underway.is(id)) else { return };
        let (name, from) = underway.open;
        underway.steps.push(Step { name, from, to: now });
        let took = now.duration_since(underway.began).unwrap_or_default();
        metrics::observe(Name::Process, took.as_secs_f64(), &["nats", TEMPLATE]);
        if failed || is_sampled(agent, underway.cursor.revision, spans::share()) {
            spans::processed(&Processed {
                template: TEMPLATE,
                cause: Some(Cause { trace_id: underway.trace_id, hint: None }),
                whole: (underway.began, now),
                steps: &underway.steps,
                agent: agent.as_str(),
                group: underway.group.as_str(),
                revision: underway.cursor.revision.0,
                failed,
            });
        }
    }
}

impl Underway {
    fn is(&self, id: &GenerationId) -> bool {
        self.group == id.group && self.cursor == id.cursor
    }
}
