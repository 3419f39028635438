//! Any sequence of inputs, answers that nobody waits for included, keeps the machine's promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::agent::Reason;
use domain::content::agent::{Durable, Effect, Failure, Input, Loaded, Machine, Pace, Space, Survey, Timing};
use domain::content::plan::{Plan, Road};
use domain::content::{ChannelName, ContentItem, ContentRevision};
use domain::{AgentId, Digest, Revision, Span, Timestamp};
use proptest::prelude::*;

fn item(number: u8, revision: u64) -> ContentItem {
    let channel = if number.is_multiple_of(2) { "even" } else { "odd" };
    ContentItem {
        channel: ChannelName::new(channel).expect("a valid name"),
        number: ContentRevision(number.into()),
        revision: Revision(revision),
        manifest: Digest::of(&[number]),
        manifest_bytes: 1,
        content_bytes: 1,
    }
}

#[derive(Debug, Clone)]
enum Op {
    Feed(Input),
    /// The right answer to what runs, good or bad.
    Answer(bool),
    Pass(u64),
    ClockBack(u64),
    Restart,
}

fn survey(pieces: u32, room: bool) -> Survey {
    let fetch_bytes = u64::from(pieces) * 700_000;
    let plan = Plan {
        road: Road::Chunks,
        pieces: (0..pieces).collect(),
        frames: Vec::new(),
        fetch_bytes,
        held_bytes: 0,
    };
    let space = Space { needed: 10, free: if room { 10 } else { 9 }, quota: Some(20), used: 10 };
    Survey { plan: Arc::new(plan), space }
}

fn input() -> impl Strategy<Value = Input> {
    let no = || Err(Reason::new("no"));
    let failure = |retry| Failure { reason: Reason::new("no"), retry };
    let named = (0u8..6).prop_map(|number| (item(number, 1).channel, item(number, 1).manifest));
    let items = (prop::option::of(0u8..3), prop::option::of(0u8..3), 1u64..4, 0u64..50_000);
    prop_oneof![
        4 => items.prop_map(|(even, odd, revision, spread)| {
            let even = even.map(|number| item(number * 2, revision));
            let odd = odd.map(|number| item(number * 2 + 1, revision));
            let pace = Pace { spread: Span(spread), rate_limit: (spread % 2 == 0).then_some(spread) };
            Input::Wanted { items: even.into_iter().chain(odd).collect(), pace }
        }),
        1 => any::<bool>().prop_map(Input::Online),
        2 => (named.clone(), 0u32..4, any::<bool>()).prop_map(|((channel, manifest), pieces, room)| {
            Input::Surveyed { channel, manifest, result: Ok(survey(pieces, room)) }
        }),
        1 => (named.clone(), any::<bool>()).prop_map(move |((channel, manifest), retry)| {
            Input::Surveyed { channel, manifest, result: Err(failure(retry)) }
        }),
        1 => (named.clone(), any::<u64>()).prop_map(|((channel, manifest), fetched)| {
            Input::Progress { channel, manifest, fetched }
        }),
        1 => (named, any::<u64>(), any::<bool>()).prop_map(move |((channel, manifest), fetched, retry)| {
            Input::Fetched { channel, manifest, fetched, result: Err(failure(retry)) }
        }),
        1 => (0u64..90).prop_map(move |ticket| Input::Persisted { ticket: 1000 + ticket, result: no() }),
        1 => Just(Input::Switched(no())),
        1 => Just(Input::HandlerDone(no())),
        1 => Just(Input::HealthChecked(Ok(()))),
        2 => prop::option::of(0u64..90_000).prop_map(|ms| Input::Allowance { granted_for: ms.map(Span) }),
        2 => Just(Input::DriftFound(vec![item(0, 1).channel, ChannelName::new("none").expect("a valid name"), item(1, 1).channel])),
        1 => Just(Input::Started),
        2 => Just(Input::Tick),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => input().prop_map(Op::Feed),
        12 => prop::bool::weighted(0.8).prop_map(Op::Answer),
        3 => (0u64..400_000).prop_map(Op::Pass),
        1 => (0u64..4_000_000).prop_map(Op::ClockBack),
        1 => Just(Op::Restart),
    ]
}

struct Rig {
    machine: Machine,
    now: Timestamp,
    disk: Durable,
    active: BTreeMap<ChannelName, ContentItem>,
    whole: BTreeSet<Digest>,
    running: Option<Effect>,
    turns: u64,
}

impl Rig {
    fn new() -> Self {
        let mut rig = Self {
            machine: Machine::new(
                AgentId::new("a").expect("a valid name"),
                Timing::default(),
                Loaded::default(),
            ),
            now: Timestamp(1_700_000_000_000),
            disk: Durable::default(),
            active: BTreeMap::new(),
            whole: BTreeSet::new(),
            running: None,
            turns: 0,
        };
        rig.feed(Input::Started);
        rig
    }

    fn feed(&mut self, input: Input) {
        self.turns += 1;
        let effects = self.machine.handle(self.now, self.turns.wrapping_mul(0x9E37_79B9_7F4A_7C15), input);
        for effect in effects {
            match &effect {
                Effect::Survey { .. }
                | Effect::Fetch { .. }
                | Effect::Persist { .. }
                | Effect::Switch { .. }
                | Effect::RunHandler { .. }
                | Effect::CheckHealth(_) => {
                    if let Effect::Persist { ticket } = effect {
                        self.disk = self.machine.durable().clone();
                        self.feed(Input::Persisted { ticket, result: Ok(()) });
                        continue;
                    }
                    assert!(self.running.is_none(), "{effect:?} while {:?} runs", self.running);
                    self.running = Some(effect);
                }
                Effect::StopFetch => {
                    assert!(matches!(self.running, Some(Effect::Fetch { .. })), "nothing to stop")
                }
                Effect::Prune { keep, .. } => {
                    assert!(
                        self.active.values().all(|item| keep.contains(&item.manifest)),
                        "pruned while in force"
                    );
                    self.whole.retain(|manifest| keep.contains(manifest));
                }
                Effect::Limit(_)
                | Effect::CheckDrift(_)
                | Effect::Wish(_)
                | Effect::Report(_)
                | Effect::Note(_) => {}
            }
        }
    }

    fn answer(&mut self, well: bool) {
        let said = || if well { Ok(()) } else { Err(Reason::new("no")) };
        let failure = Failure { reason: Reason::new("no"), retry: self.turns.is_multiple_of(2) };
        let input = match self.running.take() {
            None => return,
            Some(Effect::Survey { item, .. }) => {
                let pieces = if self.whole.contains(&item.manifest) {
                    0
                } else {
                    u32::try_from(self.turns % 4).expect("it fits")
                };
                let result =
                    if well { Ok(survey(pieces, !self.turns.is_multiple_of(7))) } else { Err(failure) };
                Input::Surveyed { channel: item.channel, manifest: item.manifest, result }
            }
            Some(Effect::Fetch { item, plan }) => {
                if well {
                    self.whole.insert(item.manifest);
                }
                let result = if well { Ok(()) } else { Err(failure) };
                let (channel, manifest, fetched) = (item.channel, item.manifest, plan.fetch_bytes / 2);
                Input::Fetched { channel, manifest, fetched, result }
            }
            Some(Effect::Switch { channel, to }) => {
                if well {
                    match to {
                        Some(item) => {
                            assert!(self.whole.contains(&item.manifest), "{item:?} is not there as a whole");
                            self.active.insert(channel, item);
                        }
                        None => drop(self.active.remove(&channel)),
                    }
                }
                Input::Switched(said())
            }
            Some(Effect::RunHandler { .. }) => Input::HandlerDone(said()),
            Some(Effect::CheckHealth(_)) => Input::HealthChecked(said()),
            Some(other) => panic!("{other:?} does not run"),
        };
        self.feed(input);
    }

    fn run(&mut self, op: Op) {
        match op {
            // Answers that the running step waits for come from `answer`.
            Op::Feed(Input::Surveyed { .. } | Input::Fetched { .. } | Input::Progress { .. })
                if self.running.is_some() => {}
            Op::Feed(Input::Switched(_)) if matches!(self.running, Some(Effect::Switch { .. })) => {}
            Op::Feed(Input::HandlerDone(_)) if matches!(self.running, Some(Effect::RunHandler { .. })) => {}
            Op::Feed(Input::HealthChecked(_)) if matches!(self.running, Some(Effect::CheckHealth(_))) => {}
            Op::Feed(input) => self.feed(input),
            Op::Answer(well) => self.answer(well),
            Op::Pass(ms) => {
                let end = self.now + Span(ms);
                for _ in 0..2_000 {
                    let Some(due) = self.machine.next_deadline().filter(|due| *due <= end) else { break };
                    self.now = self.now.max(due);
                    self.feed(Input::Tick);
                }
                self.now = end;
            }
            Op::ClockBack(ms) => self.now = Timestamp(self.now.0.saturating_sub(ms)),
            Op::Restart => {
                let loaded = Loaded { durable: self.disk.clone(), active: self.active.clone() };
                self.machine =
                    Machine::new(AgentId::new("a").expect("a valid name"), Timing::default(), loaded);
                self.running = None;
                self.feed(Input::Started);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_for_any_sequence(ops in prop::collection::vec(op(), 1..120)) {
        let mut rig = Rig::new();
        for op in ops {
            rig.run(op);
            rig.feed(Input::Tick);
            let due = rig.machine.next_deadline();
            prop_assert!(due.is_none_or(|due| due > rig.now), "{due:?} <= {:?}: {:?}", rig.now, rig.machine);
            prop_assert_eq!(rig.machine.active().keys().collect::<Vec<_>>(), rig.active.keys().collect::<Vec<_>>());
            prop_assert!(rig.machine.statuses().is_sorted_by(|a, b| a.channel < b.channel));
        }
    }
}
