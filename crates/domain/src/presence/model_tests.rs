//! Random runs against a model that is too simple to be wrong: it looks at every agent at every step.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::content::tests::status;
use super::tests::{START, beat, enrolment, head, report, settings};
use super::*;
use crate::agent::ItemState;
use crate::content::{ChannelName, ContentRevision, ContentStatus, Holders, SourceBytes};
use crate::settings::Mode;
use crate::time::Span;

const AGENTS: usize = 6;
const GROUPS: [(&str, &str); 3] = [("top", "/top"), ("leaf", "/top/leaf"), ("side", "/side")];

#[derive(Debug, Clone)]
enum Step {
    Pass(u64),
    PassToSlot(usize),
    PassToDeadline,
    Beat(usize),
    Observe(usize, u64),
    Content(usize, Vec<ContentStatus>),
    Enrol(usize, usize),
    Delete(usize),
    Group(usize, u64, bool),
    Restart,
    Deaf(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u64..200_000).prop_map(Step::Pass),
        4 => (0..AGENTS).prop_map(Step::PassToSlot),
        4 => Just(Step::PassToDeadline),
        8 => (0..AGENTS).prop_map(Step::Beat),
        2 => (0..AGENTS, 0_u64..5_000).prop_map(|(agent, age)| Step::Observe(agent, age)),
        6 => (0..AGENTS, content()).prop_map(|(agent, content)| Step::Content(agent, content)),
        4 => (0..AGENTS, 0..GROUPS.len()).prop_map(|(agent, group)| Step::Enrol(agent, group)),
        1 => (0..AGENTS).prop_map(Step::Delete),
        2 => (0..GROUPS.len(), 1_u64..120, any::<bool>()).prop_map(|(g, secs, push)| Step::Group(g, secs, push)),
        1 => Just(Step::Restart),
        1 => (0_u64..600_000).prop_map(Step::Deaf),
    ];
    prop::collection::vec(step, 1..120)
}

const CHANNELS: [&str; 3] = ["ips", "models/large", "rules"];

/// What an agent says of some channels.
fn content() -> impl Strategy<Value = Vec<ContentStatus>> {
    let states = [
        ItemState::Offered,
        ItemState::Received,
        ItemState::Verified,
        ItemState::Applied,
        ItemState::Healthy,
        ItemState::Failed,
    ];
    let one = (0_u32..3, 0_u32..4, prop::sample::select(states.to_vec()), 0_u64..3);
    prop::collection::btree_map(0..CHANNELS.len(), one, 0..=CHANNELS.len()).prop_map(|channels| {
        let status = |(channel, (active, wanted, state, bytes)): (usize, _)| ContentStatus {
            state,
            bytes: SourceBytes { patch: bytes, held: 2 * bytes, ..SourceBytes::default() },
            ..status(CHANNELS[channel], active, wanted)
        };
        channels.into_iter().map(status).collect()
    })
}

/// What the model knows of one agent.
#[derive(Debug, Clone)]
struct Known {
    group: usize,
    assigned: u64,
    obeys: u64,
    state: State,
    heard: u64,
    slot: u64,
    sequence: u64,
    revision: u64,
    reported: bool,
    content: Vec<ContentStatus>,
}

struct Model {
    now: u64,
    listening_since: u64,
    agents: BTreeMap<usize, Known>,
    gone: Vec<usize>,
    groups: [(Settings, u64); 3],
}

impl Model {
    /// Agents fall by the definition of the states.
    fn pass(&mut self, now: u64) {
        self.now = now;
        for agent in self.agents.values_mut() {
            let (settings, _) = self.groups[agent.group];
            let (interval, offline_after) = (settings.heartbeat_interval.0, settings.offline_after.0);
            let heard = agent.heard.max(self.listening_since);
            let late = now >= heard + interval * 3 / 2 && now >= agent.slot + interval / 2;
            let offline = now >= heard + offline_after && now >= agent.slot + (offline_after - interval);
            agent.state = match agent.state {
                State::NeverSeen => State::NeverSeen,
                State::Online | State::Late if offline => State::Offline,
                State::Online if late => State::Late,
                other @ (State::Online | State::Late | State::Offline) => other,
            };
        }
    }

    /// Brute force: the first millisecond at which the agent may beat and that has its phase.
    fn slot(&self, n: usize, heard: u64) -> u64 {
        let interval = self.groups[self.agents[&n].group].0.heartbeat_interval.0;
        let phase = slots::hash(&id(n)) % interval;
        let earliest = heard + interval.div_ceil(2);
        let base = earliest / interval * interval + phase;
        if base >= earliest { base } else { base + interval }
    }
}

fn id(n: usize) -> String {
    format!("agent-{n}")
}

/// Brute force: agents with a channel, one after the other; and those on which it failed.
fn counted<'a>(
    states: impl Iterator<Item = (String, &'a ContentStatus)>,
) -> (ContentSummary<'static>, Vec<String>) {
    let (mut summary, mut failures) = (ContentSummary::default(), Vec::new());
    for (agent, status) in states {
        let (assigned, active) = (status.wanted.0 != 0, status.active.0 != 0);
        let is = |state| u64::from(assigned && status.state == state);
        let current = is(ItemState::Healthy) * u64::from(status.active == status.wanted);
        summary.agents += u64::from(assigned || active);
        summary.current += current;
        summary.waiting += is(ItemState::Offered);
        summary.downloading += is(ItemState::Received);
        summary.applying +=
            is(ItemState::Verified) + is(ItemState::Applied) + is(ItemState::Healthy) - current;
        summary.failed += is(ItemState::Failed);
        summary.bytes.patch += status.bytes.patch;
        summary.bytes.held += status.bytes.held;
        if active {
            summary.revisions.entry(status.active).or_default().active += 1;
        }
        if assigned {
            let counts = summary.revisions.entry(status.wanted).or_default();
            counts.wanted += 1;
            counts.downloading += is(ItemState::Received);
            counts.failed += is(ItemState::Failed);
        }
        failures.extend((is(ItemState::Failed) == 1).then_some(agent));
    }
    (summary, failures)
}

/// The machine and the model side by side.
struct Run {
    fleet: Presence,
    model: Model,
    told: BTreeMap<String, (State, Vec<u64>)>,
}

impl Run {
    fn new() -> Self {
        let minute = settings(Mode::Pull, Span::from_secs(60), Span::from_secs(150));
        let mut run = Self {
            fleet: Presence::new(START),
            model: Model {
                now: START.0,
                listening_since: START.0,
                agents: BTreeMap::new(),
                gone: Vec::new(),
                groups: [(minute, 1); 3],
            },
            told: BTreeMap::new(),
        };
        run.tell_groups();
        run
    }

    fn tell_groups(&mut self) {
        for ((name, path), (settings, revision)) in GROUPS.iter().zip(self.model.groups) {
            self.fleet.group_changed(Timestamp(self.model.now), head(name, path, settings, revision));
        }
    }

    fn pass(&mut self, now: u64) {
        let now = now.max(self.model.now);
        self.model.pass(now);
        self.fleet.tick(Timestamp(now));
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Pass(span) => self.pass(self.model.now + span),
            Step::PassToSlot(n) => self.pass(self.model.agents.get(&n).map_or(0, |agent| agent.slot)),
            Step::PassToDeadline => self.pass(self.fleet.next_deadline().map_or(0, |due| due.0)),
            Step::Beat(n) => self.beat(n, None),
            Step::Observe(n, age) => self.beat(n, Some(age)),
            Step::Content(n, content) => {
                if let Some(agent) = self.model.agents.get_mut(&n) {
                    agent.content = content;
                    // The third beat of three carries a report.
                    agent.sequence = agent.sequence.next_multiple_of(3) + 2;
                }
                self.beat(n, None);
            }
            Step::Enrol(n, group) => self.enrol(n, group),
            Step::Delete(n) => {
                self.fleet.deleted(AgentId::new(id(n)).unwrap());
                self.model.agents.remove(&n);
                self.model.gone.push(n);
            }
            Step::Group(n, secs, push) => {
                let mode = if push { Mode::Push } else { Mode::Pull };
                let (interval, offline) = (Span::from_secs(secs), Span::from_secs(secs * (1 + secs % 3)));
                self.model.groups[n] = (settings(mode, interval, offline), self.model.groups[n].1 + 1);
                self.tell_groups();
                self.pass(self.model.now);
            }
            Step::Restart => self.restart(),
            Step::Deaf(span) => {
                self.model.now += span;
                self.model.listening_since = self.model.now;
                self.fleet.resume(Timestamp(self.model.now));
            }
        }
    }

    fn enrol(&mut self, n: usize, group: usize) {
        if self.model.gone.contains(&n) {
            return;
        }
        let agent = self.model.agents.entry(n).or_insert(Known {
            group,
            assigned: 0,
            obeys: 0,
            state: State::NeverSeen,
            heard: 0,
            slot: 0,
            sequence: 0,
            revision: 0,
            reported: false,
            content: Vec::new(),
        });
        agent.group = group;
        agent.assigned += 1;
        let enrolment = enrolment(&id(n), GROUPS[group].0, agent.assigned);
        self.fleet.enrolled(Timestamp(self.model.now), &enrolment);
        self.pass(self.model.now);
    }

    fn beat(&mut self, n: usize, age: Option<u64>) {
        let now = self.model.now;
        let Some(agent) = self.model.agents.get_mut(&n) else {
            let answer = self.fleet.heartbeat(Timestamp(now), &id(n), beat(1, 1));
            assert_ne!(answer.standing, Standing::Enrolled);
            return;
        };
        let heard = now - age.unwrap_or(0);
        agent.sequence += 1;
        agent.obeys = agent.assigned;
        agent.revision = self.model.groups[agent.group].1 - agent.sequence % 2;
        agent.heard = agent.heard.max(heard);
        agent.state = State::Online;
        let content = agent.content.clone();
        let status = (agent.sequence % 3 == 0).then(|| Report { content, ..report(agent.revision, None) });
        agent.reported |= status.is_some();
        let sign = Beat {
            assignment: Cursor::new(1, agent.obeys),
            report: status,
            ..beat(agent.sequence, agent.revision)
        };
        let heard_in_all = agent.heard;
        let slot = self.model.slot(n, heard_in_all);
        self.model.agents.get_mut(&n).unwrap().slot = slot;
        if age.is_some() {
            self.fleet.observe(Timestamp(heard), &id(n), sign);
        } else {
            let answer = self.fleet.heartbeat(Timestamp(now), &id(n), sign);
            assert_eq!(answer.next_in.0, slot - now, "the slot that counts is the one promised");
        }
        self.pass(now);
    }

    fn restart(&mut self) {
        let now = Timestamp(self.model.now);
        let old = std::mem::replace(&mut self.fleet, Presence::new(now));
        self.model.listening_since = now.0;
        self.tell_groups();
        for n in &self.model.gone {
            self.fleet.deleted(AgentId::new(id(*n)).unwrap());
        }
        for (n, agent) in &self.model.agents {
            self.fleet.enrolled(now, &enrolment(&id(*n), GROUPS[agent.group].0, agent.assigned));
        }
        let mut after = None;
        loop {
            let (part, next) = old.remember(after, 2);
            for (id, kept) in part {
                self.fleet.restore(id, kept);
            }
            after = next;
            if after.is_none() {
                break;
            }
        }
        for n in self.model.agents.keys().copied().collect::<Vec<_>>() {
            let heard = self.model.agents[&n].heard;
            if heard != 0 {
                let slot = self.model.slot(n, heard.max(now.0));
                let agent = self.model.agents.get_mut(&n).unwrap();
                agent.slot = slot;
                self.told.insert(id(n), (agent.state, Vec::new()));
            }
        }
    }

    /// Machine and model agree in every state, count and promise.
    fn compare(&mut self) {
        let now = self.model.now;
        assert_eq!(self.fleet.len(), self.model.agents.len());
        let mut states = [0_u64; 4];
        for (n, known) in &self.model.agents {
            let view = self.fleet.agent(&id(*n)).expect("enrolled");
            assert_eq!(view.state, known.state, "agent {n} at {now}: {known:?}");
            assert_eq!(view.heard.map_or(0, |at| at.0), known.heard);
            let (settings, head) = self.model.groups[known.group];
            let current = known.obeys >= known.assigned && known.revision >= head;
            assert_eq!(view.progress == Progress::Current, current, "{known:?} {head}");
            let mode = if known.reported { Mode::Pull } else { settings.mode };
            assert_eq!(view.mode, mode);
            states[known.state as usize] += 1;
        }
        assert_eq!(self.fleet.summary(&Scope::Fleet).all.states, states);
        self.compare_content();
        for effect in self.fleet.take_effects().collect::<Vec<_>>() {
            if let Effect::Transition { agent, from, to, at, .. } = effect {
                let (told, times) =
                    self.told.entry(agent.to_string()).or_insert((State::NeverSeen, Vec::new()));
                assert_eq!((*told, from != to), (from, true), "events of an agent form a chain");
                assert!(at.0 <= now);
                *told = to;
                times.push(at.0);
            }
        }
    }

    /// Every count of content is what looking at every agent gives.
    fn compare_content(&self) {
        let scopes = [("top", vec![0, 1]), ("leaf", vec![1]), ("side", vec![2])];
        let within = |name| Scope::Within(GroupId::new(name).unwrap());
        let scopes = scopes.map(|(name, groups)| (within(name), groups));
        let fleet = (Scope::Fleet, vec![0, 1, 2]);
        for channel in CHANNELS.map(|channel| ChannelName::new(channel).unwrap()) {
            for (scope, groups) in scopes.iter().chain([&fleet]) {
                let members = self.model.agents.iter().filter(|(_, agent)| groups.contains(&agent.group));
                let states = members.filter_map(|(n, agent)| {
                    let status = agent.content.iter().find(|status| status.channel == channel)?;
                    Some((id(*n), status))
                });
                let mut summary = self.fleet.content(&channel, scope);
                // The pace has tests of its own.
                summary.expected_finish = None;
                let failures: Vec<_> =
                    summary.failures.drain(..).map(|failed| failed.agent.to_owned()).collect();
                assert_eq!((summary, failures), counted(states), "{channel} {scope:?}");
            }
        }
        let mut holders = BTreeMap::new();
        for (agent, status) in self.model.agents.values().flat_map(|a| a.content.iter().map(move |s| (a, s)))
        {
            let mut count = |revision: ContentRevision, fetching: bool| {
                let entry = holders.entry((status.channel.clone(), revision)).or_insert((0, 0));
                *(if fetching { &mut entry.1 } else { &mut entry.0 }) += 1;
            };
            let fetches = matches!(status.state, ItemState::Offered | ItemState::Received);
            if status.active.0 != 0 {
                count(status.active, false);
            }
            if status.wanted.0 != 0 && fetches && agent.state != State::Offline {
                count(status.wanted, true);
            }
        }
        let census = self.fleet.census(1).holders;
        let place = |it: &Holders| std::cmp::Reverse((it.fetching > 0, it.active + it.fetching));
        assert!(census.is_sorted_by_key(place));
        let census = census.into_iter().map(|h| ((h.channel, h.revision), (h.active, h.fetching)));
        assert_eq!(census.collect::<BTreeMap<_, _>>(), holders);
    }

    /// Left alone for long enough, every agent falls, and the last event of each tells its state.
    fn settle(&mut self) {
        self.pass(self.model.now + 10 * REFILL.0 * BURST);
        self.compare();
        for (n, known) in &self.model.agents {
            let told = self.told.get(&id(*n)).map_or(State::NeverSeen, |(told, _)| *told);
            assert_eq!(told, known.state, "the last event of agent {n}");
            assert!(matches!(known.state, State::NeverSeen | State::Offline));
        }
        assert_eq!(self.fleet.next_deadline(), None);
        for (agent, (_, times)) in &self.told {
            for (at, first) in times.iter().enumerate() {
                let window = |at: &&u64| **at < *first + REFILL.0;
                let close = times[at..].iter().take_while(window).count() as u64;
                assert!(close <= BURST + 1, "{agent}: {close} events within {REFILL:?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn presence_tells_the_truth(steps in steps()) {
        let mut run = Run::new();
        for step in steps {
            run.apply(step);
            run.compare();
        }
        run.settle();
    }
}
