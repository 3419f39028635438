//! Any sequence of inputs, crashes and refusals of the disk keeps the machine's promises.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::agent::test_rig::{Rig, group, kind, settings, snapshot};
use crate::agent::{GenerationId, Input, ItemState, Reason, Refusal, Reply, Source, Standing};
use crate::content::{ChannelName, ContentRevision, ContentStatus, DownloadWish, SourceBytes};
use crate::id::GroupId;
use crate::revision::{Cursor, Revision};
use crate::settings::Mode;
use crate::time::{Span, Timestamp};

#[derive(Debug, Clone)]
enum Op {
    Snapshot {
        revision: u64,
        other_content: bool,
        other_group: bool,
        pull_secs: u64,
        age_ms: u64,
        source: Source,
    },
    Assign {
        to: &'static str,
        revision: u64,
    },
    Reply {
        beat: u64,
        head: u64,
        next: u64,
        want_status: bool,
    },
    Feed(Input),
    Pass(u64),
    ClockBack(u64),
    /// The agent dies after so many more steps, and starts again.
    Crash(usize),
    Full(bool),
    Sick(bool),
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![Just(Source::Notify), Just(Source::Fetch), Just(Source::Heartbeat)]
}

fn content(percent: u8) -> ContentStatus {
    ContentStatus {
        channel: ChannelName::new("a").unwrap(),
        active: ContentRevision(0),
        wanted: ContentRevision(1),
        revision: Revision(1),
        state: if percent < 4 { ItemState::Received } else { ItemState::Healthy },
        percent,
        bytes: SourceBytes::default(),
        reason: "".into(),
    }
}

/// Inputs that need no more than themselves, answers that nobody waits for included.
fn bare_input() -> impl Strategy<Value = Input> {
    let no = || Err(Reason::new("no"));
    prop_oneof![
        Just(Input::Connected),
        any::<bool>().prop_map(|retrying| Input::Disconnected { retrying }),
        Just(Input::LameDuck),
        source().prop_map(|source| Input::EnvelopeRefused { refusal: Refusal::Signature, source }),
        (0u64..20).prop_map(|beat| Input::HeartbeatFailed { beat }),
        Just(Input::Resync),
        (0u64..20).prop_map(|fetch| Input::FetchDone { fetch, result: Ok(()) }),
        (0u64..20).prop_map(move |fetch| Input::FetchDone { fetch, result: no() }),
        (0u64..90).prop_map(move |ticket| Input::Persisted { ticket: 1000 + ticket, result: no() }),
        Just(Input::Staged(no())),
        Just(Input::Activated(no())),
        Just(Input::HandlerDone { kind: kind("a"), result: no() }),
        Just(Input::HealthChecked(Ok(()))),
        Just(Input::Reverted(no())),
        Just(Input::Repaired(no())),
        Just(Input::DriftFound(vec![kind("a"), kind("z")])),
        Just(Input::GenerationLost),
        Just(Input::ContentReported(Vec::new())),
        (0u8..9).prop_map(|percent| Input::ContentReported(vec![content(percent)])),
        prop_oneof![Just(DownloadWish::Nothing), Just(DownloadWish::Wanted), Just(DownloadWish::Done)]
            .prop_map(Input::DownloadWished),
        Just(Input::Started),
        Just(Input::Tick),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let snapshot = (0u64..9, any::<bool>(), prop::bool::weighted(0.2), 0u64..3, 0u64..4_000_000, source());
    prop_oneof![
        6 => snapshot.prop_map(|(revision, other_content, other_group, pull, age_ms, source)| {
            let pull_secs = [0, 30, 7200][usize::try_from(pull).unwrap()];
            Op::Snapshot { revision, other_content, other_group, pull_secs, age_ms, source }
        }),
        1 => (prop_oneof![Just("g"), Just("h")], 0u64..6).prop_map(|(to, revision)| Op::Assign { to, revision }),
        3 => (0u64..30, 0u64..9, any::<u64>(), any::<bool>())
            .prop_map(|(beat, head, next, want_status)| Op::Reply { beat, head, next, want_status }),
        6 => bare_input().prop_map(Op::Feed),
        3 => (0u64..400_000).prop_map(Op::Pass),
        1 => (0u64..4_000_000).prop_map(Op::ClockBack),
        2 => (0usize..7).prop_map(Op::Crash),
        1 => any::<bool>().prop_map(Op::Full),
        1 => any::<bool>().prop_map(Op::Sick),
    ]
}

/// The machine under test and what was seen of it.
struct Observed {
    rig: Rig,
    floors: BTreeMap<GroupId, Cursor>,
    switched_on: BTreeSet<GenerationId>,
    placement: Option<(GroupId, Cursor)>,
}

impl Observed {
    fn new() -> Self {
        let mut rig = Rig::fresh();
        rig.feed(Input::Started);
        Self { rig, floors: BTreeMap::new(), switched_on: BTreeSet::new(), placement: None }
    }

    fn run(&mut self, op: Op) {
        match op {
            Op::Snapshot { revision, other_content, other_group, pull_secs, age_ms, source } => {
                let mode = if pull_secs == 0 { Mode::Push } else { Mode::Pull };
                let document = format!("[{revision},{other_content}]");
                let policies = [("a", 1 + revision / 3, "{}"), ("b", revision, document.as_str())];
                let mut snapshot = snapshot(revision, settings(mode, pull_secs.max(60)), &policies);
                if other_group {
                    snapshot.group = group("h");
                }
                snapshot.issued_at = snapshot.issued_at + Span(age_ms);
                snapshot.expires_at = snapshot.expires_at + Span(age_ms);
                self.rig.receive(snapshot, source);
            }
            Op::Assign { to, revision } => drop(self.rig.assign(to, revision)),
            Op::Reply { beat, head, next, want_status } => {
                let (server_time, standing) = (self.rig.now, Standing::Unknown);
                let (head, next) = (Cursor::new(1, head), Span(next));
                self.rig.feed(Input::HeartbeatReplied(Reply {
                    beat,
                    server_time,
                    next,
                    head,
                    want_status,
                    standing,
                }));
            }
            Op::Feed(Input::GenerationLost) => {
                self.rig.current = None;
                self.rig.feed(Input::GenerationLost);
                self.switched_on.clear();
            }
            Op::Feed(input) => drop(self.rig.feed(input)),
            Op::Pass(ms) => {
                // Bounded: a machine that asks to be called again at once would never end here.
                let end = self.rig.now + Span(ms);
                for _ in 0..2000 {
                    let Some(due) = self.rig.machine.next_deadline().filter(|due| *due <= end) else { break };
                    self.rig.now = self.rig.now.max(due);
                    self.rig.feed(Input::Tick);
                }
                self.rig.now = end;
            }
            Op::ClockBack(ms) => self.rig.now = Timestamp(self.rig.now.0.saturating_sub(ms)),
            Op::Crash(steps) => self.rig.steps_left = steps,
            Op::Full(full) => self.rig.full = full,
            Op::Sick(true) => drop(self.rig.sick.insert("b", "no")),
            Op::Sick(false) => self.rig.sick.clear(),
        }
    }

    fn check(&mut self) {
        for id in std::mem::take(&mut self.rig.switched_on) {
            let floor = self.rig.disk.floors.of(&id.group).map(|floor| floor.cursor);
            assert_eq!(floor, Some(id.cursor), "the durable floor is what is switched on");
            assert!(self.switched_on.insert(id.clone()), "{id} is switched on twice");
        }
        for (group, floor) in self.rig.disk.floors.iter() {
            let before = self.floors.insert(group.clone(), floor.cursor).unwrap_or_default();
            assert!(floor.cursor >= before, "the floor of {group} went from {before} to {}", floor.cursor);
        }
        let placement = self.rig.machine.placement().map(|p| (p.group.clone(), p.cursor));
        if placement != self.placement {
            let cursor = |p: &Option<(GroupId, Cursor)>| p.as_ref().map(|(_, cursor)| *cursor);
            assert!(cursor(&placement) >= cursor(&self.placement), "assignments only rise");
            self.placement = placement;
            // Back in a group it left, the agent switches that group's generation on again.
            self.switched_on.clear();
        }
        if self.rig.steps_left == 0 {
            if self.rig.full {
                // What failed could not be written down, so it may be tried once more.
                self.switched_on.clear();
            }
            self.rig.restart(usize::MAX);
            self.check();
        }
        let due = self.rig.machine.next_deadline();
        assert!(due.is_some(), "it always wants to be called again");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn promises_hold_for_any_sequence(ops in prop::collection::vec(op(), 1..60)) {
        let mut observed = Observed::new();
        for op in ops {
            observed.run(op);
            observed.check();
        }
    }

    #[test]
    fn no_deadline_is_in_the_past_after_a_tick(ops in prop::collection::vec(op(), 1..40)) {
        let mut observed = Observed::new();
        for op in ops {
            observed.run(op);
            observed.rig.feed(Input::Tick);
            let (now, due) = (observed.rig.now, observed.rig.machine.next_deadline());
            prop_assert!(due.is_none_or(|due| due > now), "{due:?} <= {now:?}: {:?}", observed.rig.machine);
            observed.check();
        }
    }
}
