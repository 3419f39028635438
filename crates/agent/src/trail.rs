//! The way of a snapshot through the agent, as a span of a trace and as a measured time.
//!
//! What it does is learnt from the effects that the machine asks for; when it is over, it is told if the agent is one of
//! those that tell, and always if it failed.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::SystemTime;

use domain::agent::{Effect, GenerationId, Note, Offer};
use domain::sample::is_sampled;
use domain::{AgentId, Cursor, GroupId};
use runtime::telemetry::spans::{Cause, Processed, Step};
use runtime::telemetry::{Name, metrics, spans};
use wire::trace::TraceParent;

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
    /// The check of exactly this envelope's signature; `None` if nobody saw one.
    check: Option<Check>,
}

/// A signature that was checked and holds.
#[derive(Clone)]
struct Check {
    /// The envelope, for as long as somebody has it.
    envelope: Weak<[u8]>,
    /// Where it was published, as the message said.
    place: Option<TraceParent>,
    from: SystemTime,
    to: SystemTime,
}

/// What is known of the snapshot on its way, if there is one.
#[derive(Default)]
pub(crate) struct Trail {
    /// Checks of what is still in hand, the newest last: the snapshot on its way, the next one, and some that are passed over.
    checks: VecDeque<Check>,
    underway: Option<Underway>,
}

/// Most checks that are remembered.
const MAX_CHECKS: usize = 16;

impl Trail {
    /// The time, if anybody wants to know it.
    pub(crate) fn clock() -> Option<SystemTime> {
        (spans::on() || metrics::on()).then(SystemTime::now)
    }

    /// A signature holds; its check began at `from`, and `place` is what the message said of where it was published.
    pub(crate) fn verified(&mut self, offer: &Offer, place: Option<TraceParent>, from: Option<SystemTime>) {
        if let Some(moment) = from.zip(Self::clock()) {
            self.checked(offer, place, moment);
        }
    }

    fn checked(&mut self, offer: &Offer, place: Option<TraceParent>, (from, to): (SystemTime, SystemTime)) {
        self.checks.retain(|check| check.envelope.strong_count() > 0);
        if self.checks.len() == MAX_CHECKS {
            self.checks.pop_front();
        }
        self.checks.push_back(Check { envelope: Arc::downgrade(&offer.envelope), place, from, to });
    }

    /// The machine asks for something.
    pub(crate) fn effect(&mut self, agent: &AgentId, effect: &Effect) {
        let Some(now) = Self::clock() else { return };
        match effect {
            Effect::Stage(offer) => self.begin(offer, now),
            Effect::Activate(id) => {
                let verified = self.vouches_for(id);
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
        let is_of = |check: &&Check| std::ptr::addr_eq(check.envelope.as_ptr(), Arc::as_ptr(&offer.envelope));
        let check = self.checks.iter().rfind(is_of).cloned();
        let step = check.as_ref().map(|check| Step { name: "verify", from: check.from, to: check.to });
        self.underway = Some(Underway {
            group: snapshot.group.clone(),
            cursor: snapshot.cursor,
            trace_id: snapshot.trace_id,
            began: step.map_or(now, |step| step.from),
            steps: step.into_iter().collect(),
            open: ("stage", now),
            check,
        });
    }

    /// Whether a check was seen of the very envelope that is on its way to be in force.
    fn vouches_for(&self, id: &GenerationId) -> bool {
        self.underway.as_ref().is_some_and(|underway| underway.is(id) && underway.check.is_some())
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
        metrics::observe(Name::Process, took.as_secs_f64(), &["nats", "process", TEMPLATE]);
        if failed || is_sampled(agent, underway.cursor.revision, spans::share()) {
            spans::processed(&Processed {
                template: TEMPLATE,
                cause: Some(Cause {
                    trace_id: underway.trace_id,
                    hint: underway.check.and_then(|check| check.place),
                }),
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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::test_fleet::{offer, snapshot};

    #[test]
    fn only_the_envelope_that_was_checked_is_vouched_for() {
        let place = TraceParent { trace_id: [7; 16], span_id: [9; 8], sampled: true };
        let id = |offer: &Offer| GenerationId {
            group: offer.snapshot.group.clone(),
            cursor: offer.snapshot.cursor,
        };
        let vouches = |trail: &mut Trail, offer: &Offer| {
            trail.begin(offer, UNIX_EPOCH);
            trail.vouches_for(&id(offer))
        };
        let [first, second] = [1, 2].map(|revision| offer(snapshot(revision, &[("app", "{}")])));
        // What says the same of itself and is another envelope.
        let forged = Offer { snapshot: first.snapshot.clone(), envelope: Arc::from(&b"forged"[..]) };
        let mut trail = Trail::default();
        assert!(!trail.vouches_for(&id(&first)) && !vouches(&mut trail, &first));
        trail.checked(&first, Some(place), (UNIX_EPOCH, UNIX_EPOCH));
        trail.checked(&second, None, (UNIX_EPOCH, UNIX_EPOCH));
        assert!(!vouches(&mut trail, &forged));
        assert!(vouches(&mut trail, &first), "also when another one was checked since");
        assert!(!trail.vouches_for(&id(&second)), "which is not on its way");
        let check = trail.underway.as_ref().and_then(|underway| underway.check.as_ref());
        assert_eq!(check.and_then(|check| check.place), Some(place));

        let kept: Vec<_> = (0..100).map(|revision| offer(snapshot(revision, &[("app", "{}")]))).collect();
        for offer in &kept {
            trail.checked(offer, None, (UNIX_EPOCH, UNIX_EPOCH));
        }
        assert_eq!(trail.checks.len(), MAX_CHECKS);
        drop(kept);
        trail.checked(&second, None, (UNIX_EPOCH, UNIX_EPOCH));
        assert!(trail.checks.len() <= 2, "of what nobody has any more nothing is kept");
    }
}
