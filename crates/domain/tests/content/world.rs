//! The world around the machines: time, network, disks, presence, what is assigned, and what goes wrong.

use std::collections::{BTreeMap, VecDeque};

use domain::content::agent::{Effect, Input, Pace};
use domain::content::allowance::{Allowance, GRANT, Terms};
use domain::content::{ChannelName, ContentItem, DownloadWish};
use domain::{Span, Timestamp};

use crate::agent::{Agent, Running};
use crate::disk::{Content, Nature};
use crate::random::Random;

/// Time between heartbeats.
const BEAT: Span = Span::from_secs(60);

/// What goes wrong, each in cases of a thousand.
#[derive(Clone, Copy)]
pub(crate) struct Faults {
    /// A step of a survey or a download, an answer of presence, or the handler of what is gone.
    fails: u64,
    /// The agent, at an effect.
    dies: u64,
    /// The disk becomes full, at a change; it has room again at another.
    full: u64,
    /// The network goes, at a change.
    offline: u64,
    /// A file in force is damaged, at a change.
    damage: u64,
    /// The clock goes back, at a change.
    clock: u64,
    /// A write takes its time.
    slow: u64,
}

impl Faults {
    pub(crate) const NONE: Self =
        Self { fails: 0, dies: 0, full: 0, offline: 0, damage: 0, clock: 0, slow: 0 };
    pub(crate) const MANY: Self =
        Self { fails: 30, dies: 10, full: 100, offline: 150, damage: 100, clock: 20, slow: 200 };
}

enum Event {
    Input {
        at: usize,
        life: u64,
        input: Input,
    },
    Tick {
        at: usize,
        due: Timestamp,
    },
    /// The next step of what runs.
    Step {
        at: usize,
        run: u64,
        life: u64,
    },
    Starts {
        at: usize,
    },
    Beat {
        at: usize,
    },
    /// The answer to a heartbeat.
    Answer {
        at: usize,
        life: u64,
        granted_for: Option<Span>,
    },
    /// A heartbeat that presence asked for, unless another was sent since.
    Again {
        at: usize,
        beat: u64,
    },
    Told {
        at: usize,
        life: u64,
    },
    Change,
}

pub(crate) struct World {
    pub(crate) now: Timestamp,
    pub(crate) agents: Vec<Agent>,
    pub(crate) contents: Vec<Content>,
    /// What the group's snapshot assigns.
    pub(crate) assigned: BTreeMap<ChannelName, ContentItem>,
    pub(crate) pace: Pace,
    pub(crate) random: Random,
    faults: Faults,
    presence: Allowance,
    queue: BTreeMap<(Timestamp, u64), Event>,
    queued: u64,
    revision: u64,
    changing_until: Timestamp,
    /// How far the agents' clocks are behind.
    pub(crate) clock_behind: Span,
    /// Whether presence does not answer.
    pub(crate) mute: bool,
}

impl World {
    pub(crate) fn new(seed: u64, agents: usize, faults: Faults) -> Self {
        let now = Timestamp(1_700_000_000_000);
        let mut world = Self {
            now,
            agents: (0..agents).map(Agent::new).collect(),
            contents: Vec::new(),
            assigned: BTreeMap::new(),
            pace: Pace::default(),
            random: Random(seed),
            faults,
            presence: Allowance::new(1, Terms { cap: 1, grant: GRANT }),
            queue: BTreeMap::new(),
            queued: 0,
            revision: 10,
            changing_until: now,
            clock_behind: Span(0),
            mute: false,
        };
        for at in 0..agents {
            world.push(Span(0), Event::Starts { at });
            world.push(BEAT.scaled(at as u64 + 1, agents as u64 + 1), Event::Beat { at });
        }
        world
    }

    fn push(&mut self, after: Span, event: Event) {
        self.queued += 1;
        self.queue.insert((self.now + after, self.queued), event);
    }

    /// Time as agents read it.
    fn agents_now(&self) -> Timestamp {
        self.now - self.clock_behind
    }

    pub(crate) fn content(&self, manifest: &domain::Digest) -> &Content {
        self.contents.iter().find(|content| content.manifest == *manifest).expect("a content of this world")
    }

    /// Assigns a content, or nothing, to a channel, and tells all agents.
    pub(crate) fn assign(&mut self, channel: &ChannelName, content: Option<&Content>) {
        self.revision += 1;
        match content {
            Some(content) => self.assigned.insert(channel.clone(), content.item(self.revision)),
            None => self.assigned.remove(channel),
        };
        for at in 0..self.agents.len() {
            self.tell(at);
        }
    }

    pub(crate) fn tell(&mut self, at: usize) {
        let (life, wait) = (self.agents[at].life, Span(self.random.below(3_000)));
        self.push(wait, Event::Told { at, life });
    }

    pub(crate) fn input(&mut self, at: usize, input: Input) {
        let life = self.agents[at].life;
        self.push(Span(0), Event::Input { at, life, input });
    }

    /// Lets time pass.
    pub(crate) fn pass(&mut self, span: Span) {
        let end = self.now + span;
        let mut count = 0;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= end) {
            let ((at, _), event) = entry.remove_entry();
            self.now = self.now.max(at);
            self.happen(event);
            count += 1;
            assert!(count < 200_000, "the world spins");
        }
        self.now = end;
    }

    /// A time with faults and changes, then one without.
    pub(crate) fn storm_and_calm(&mut self, storm: Span, calm: Span) {
        self.changing_until = self.now + storm;
        self.push(Span(0), Event::Change);
        self.pass(storm);
        self.faults = Faults::NONE;
        self.push(Span(0), Event::Change);
        self.pass(calm);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Starts { at } => {
                self.agents[at].start();
                self.feed(at, Input::Started);
                let (life, online) = (self.agents[at].life, self.agents[at].online);
                self.push(Span(1), Event::Input { at, life, input: Input::Online(online) });
                self.tell(at);
            }
            Event::Input { at, life, input } if self.agents[at].life == life => self.feed(at, input),
            Event::Told { at, life } if self.agents[at].life == life => {
                let items = self.assigned.values().cloned().collect();
                self.feed(at, Input::Wanted { items, pace: self.pace });
            }
            Event::Tick { at, due } => {
                let machine = self.agents[at].machine.as_ref();
                if machine.and_then(domain::content::agent::Machine::next_deadline) == Some(due) {
                    self.feed(at, Input::Tick);
                }
            }
            Event::Step { at, run, life } if (self.agents[at].life, self.agents[at].runs) == (life, run) => {
                self.step(at);
            }
            Event::Beat { at } => {
                self.push(BEAT, Event::Beat { at });
                self.beat(at);
            }
            Event::Again { at, beat } if self.agents[at].beat == beat => self.beat(at),
            Event::Answer { at, life, granted_for } if self.agents[at].life == life => {
                self.feed(at, Input::Allowance { granted_for });
            }
            Event::Change => self.change(),
            Event::Input { .. }
            | Event::Told { .. }
            | Event::Step { .. }
            | Event::Again { .. }
            | Event::Answer { .. } => {}
        }
    }

    /// A heartbeat that says what is wanted of the allowance, and its answer.
    fn beat(&mut self, at: usize) {
        let agent = &mut self.agents[at];
        if agent.machine.is_none() || !agent.online || self.mute {
            return;
        }
        let wish = agent.wish;
        let decision = self.presence.ask(self.now, &agent.id, wish);
        if wish == DownloadWish::Done {
            agent.wish = DownloadWish::Nothing;
        }
        let life = agent.life;
        if wish != DownloadWish::Nothing && !self.random.chance(self.faults.fails) {
            self.push(Span(50), Event::Answer { at, life, granted_for: decision.granted });
            // As the machine of heartbeats does it: when it is asked to, and at most once for each answer.
            let again = decision.again.unwrap_or(BEAT).min(BEAT);
            let wait = Span(again.0 + self.random.below(again.0));
            self.agents[at].beat += 1;
            let beat = self.agents[at].beat;
            self.push(wait, Event::Again { at, beat });
        }
    }

    fn step(&mut self, at: usize) {
        let (now, fails) = (self.agents_now(), self.random.chance(self.faults.fails));
        let manifest = match &self.agents[at].running {
            Some(Running::Survey { item, .. } | Running::Fetch { item, .. } | Running::Health(item)) => {
                item.manifest
            }
            Some(Running::Handler { item: Some(item), .. }) => item.manifest,
            Some(Running::Handler { channel, item: None }) => {
                let any = self.contents.iter().find(|content| content.channel == *channel);
                any.expect("a channel of this world").manifest
            }
            None => return,
        };
        let content = self.content(&manifest).clone();
        let handles = matches!(&self.agents[at].running, Some(Running::Handler { item: Some(_), .. }));
        if handles && content.nature == Nature::Deadly {
            self.crash(at);
            return;
        }
        let answer = self.agents[at].step(now, &content, fails);
        self.schedule_step(at);
        answer.into_iter().for_each(|input| self.feed(at, input));
    }

    fn schedule_step(&mut self, at: usize) {
        let agent = &self.agents[at];
        let (run, life) = (agent.runs, agent.life);
        if agent.running.is_some() {
            let wait = Span(50 + self.random.below(1_000));
            self.push(wait, Event::Step { at, run, life });
        }
    }

    pub(crate) fn crash(&mut self, at: usize) {
        self.agents[at].crash();
        let wait = Span(100 + self.random.below(60_000));
        self.push(wait, Event::Starts { at });
    }

    fn feed(&mut self, at: usize, input: Input) {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let (now, random) = (self.agents_now(), self.random.next());
            let effects = self.agents[at].handle(now, random, input);
            for effect in effects {
                if self.random.chance(self.faults.dies) {
                    self.crash(at);
                    return;
                }
                let (runs, wishes) = (self.agents[at].runs, matches!(effect, Effect::Wish(_)));
                let answer = self.agents[at].act(now, effect);
                if let Some(Input::Persisted { .. }) = &answer {
                    self.write(at, answer, &mut inputs);
                } else {
                    inputs.extend(answer);
                }
                if self.agents[at].runs != runs {
                    self.schedule_step(at);
                }
                if wishes {
                    self.beat(at);
                }
            }
        }
        if let Some(due) =
            self.agents[at].machine.as_ref().and_then(domain::content::agent::Machine::next_deadline)
        {
            assert!(
                due > self.agents_now(),
                "agent-{at} wants to be called again at once: {:?}",
                self.agents[at].machine
            );
            let wait = due.since(self.agents_now());
            self.push(wait, Event::Tick { at, due });
        }
    }

    /// Says that something was written: at once, or later, and in order.
    fn write(&mut self, at: usize, answer: Option<Input>, inputs: &mut VecDeque<Input>) {
        if self.random.chance(self.faults.slow) {
            let until = self.now + Span(self.random.below(5_000));
            self.agents[at].writes_until = self.agents[at].writes_until.max(until);
        }
        let wait = self.agents[at].writes_until.since(self.now);
        if wait == Span(0) {
            inputs.extend(answer);
            return;
        }
        let life = self.agents[at].life;
        answer.into_iter().for_each(|input| self.push(wait, Event::Input { at, life, input }));
    }

    /// Something changes, for better or worse.
    fn change(&mut self) {
        let calm = self.now >= self.changing_until;
        if !calm {
            self.reassign();
            let wait = Span(self.random.below(240_000));
            self.push(wait, Event::Change);
        }
        let Faults { full, offline, damage, clock, .. } = self.faults;
        if self.random.chance(clock) {
            self.clock_behind = Span(self.clock_behind.0 + self.random.below(600_000));
        }
        for at in 0..self.agents.len() {
            self.agents[at].disk.full = self.random.chance(full);
            self.agents[at].disk.quota = self.random.chance(full).then_some(0);
            let online = !self.random.chance(offline);
            if online != self.agents[at].online {
                self.agents[at].online = online;
                self.input(at, Input::Online(online));
            }
            if self.random.chance(damage) {
                let active: Vec<_> = self.agents[at].disk.active.values().map(|item| item.manifest).collect();
                if !active.is_empty() {
                    let manifest = *self.random.pick(&active);
                    self.agents[at].disk.damaged.insert(manifest);
                }
            }
        }
    }

    fn reassign(&mut self) {
        let channels = ["rules", "models/a", "models/b", "lists"];
        let name = *self.random.pick(&channels);
        let channel = ChannelName::new(name).expect("a valid name");
        let known: Vec<Content> = self.contents.iter().filter(|it| it.channel == channel).cloned().collect();
        let content = match self.random.below(10) {
            0 => None,
            1..=3 if !known.is_empty() => Some(self.random.pick(&known).clone()),
            _ => {
                let number = u32::try_from(known.len()).expect("few contents") + 1;
                let pieces = 1 + u32::try_from(self.random.below(40)).expect("few pieces");
                let mut content = Content::new(name, number, pieces);
                let natures = [Nature::Good, Nature::Good, Nature::Good, Nature::Refused, Nature::Sick];
                content.nature = *self.random.pick(&natures);
                if self.random.chance(60) {
                    content.nature = *self.random.pick(&[Nature::Deadly, Nature::Broken]);
                }
                if !known.is_empty() && self.random.chance(600) {
                    content.patch_from = Some(self.random.pick(&known).manifest);
                }
                self.contents.push(content.clone());
                Some(content)
            }
        };
        if self.random.chance(100) {
            self.pace =
                Pace { spread: Span(self.random.below(120_000)), rate_limit: Some(1 + self.random.below(9)) };
        }
        self.assign(&channel, content.as_ref());
    }
}
