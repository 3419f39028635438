//! One agent: the real machine, with a disk, a network and handlers made up, and a watch over its promises.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::agent::Reason;
use domain::content::agent::{Effect, Failure, Input, Loaded, MAX_STARTS, Machine, Note, Survey, Timing};
use domain::content::pace::phase;
use domain::content::plan::Plan;
use domain::content::{ChannelName, ContentItem, ContentStatus, DownloadWish};
use domain::{AgentId, Digest, Revision, Span, Timestamp};

use crate::disk::{Content, Disk, Nature};

/// What runs beside the shell's loop.
#[derive(Debug, Clone)]
pub(crate) enum Running {
    Survey { item: ContentItem, remote: bool },
    Fetch { item: ContentItem, plan: Arc<Plan>, next: usize, fetched: u64, stopping: bool },
    Handler { channel: ChannelName, item: Option<ContentItem> },
    Health(ContentItem),
}

/// Names a content as it is assigned.
pub(crate) type Assigned = (ChannelName, Revision, Digest);

pub(crate) fn assigned(item: &ContentItem) -> Assigned {
    (item.channel.clone(), item.revision, item.manifest)
}

pub(crate) struct Agent {
    pub(crate) id: AgentId,
    /// `None` while it is dead.
    pub(crate) machine: Option<Machine>,
    pub(crate) disk: Disk,
    /// Counts its lives: what was under way in an earlier life never arrives.
    pub(crate) life: u64,
    pub(crate) running: Option<Running>,
    /// What was looked at last.
    surveyed: Option<Digest>,
    /// Counts what ran.
    pub(crate) runs: u64,
    pub(crate) online: bool,
    pub(crate) wish: DownloadWish,
    /// Counts heartbeats.
    pub(crate) beat: u64,
    pub(crate) reported: Vec<ContentStatus>,
    pub(crate) log: Vec<Effect>,
    /// Bytes fetched over all lives.
    pub(crate) fetched: u64,
    /// What it was told to have, since when in this life, and the shortest spread it was told since.
    pub(crate) told: BTreeMap<ChannelName, (ContentItem, Timestamp, Span)>,
    last_now: Timestamp,
    granted_until: Timestamp,
    /// Contents that were given up: never to be tried again.
    given_up: BTreeSet<Assigned>,
    /// Contents whose download began.
    began: BTreeSet<Digest>,
    /// How often the handler of a content on trial was started.
    trials: BTreeMap<Assigned, u32>,
    /// Its handlers do not let go of what goes away.
    pub(crate) keeps_all: bool,
    /// The disk is busy until then.
    pub(crate) writes_until: Timestamp,
    /// The disk refused to note a trial since.
    pub(crate) unsaved: bool,
}

impl Agent {
    pub(crate) fn new(number: usize) -> Self {
        Self {
            id: AgentId::new(format!("agent-{number}")).expect("a valid id"),
            machine: None,
            disk: Disk::default(),
            life: 0,
            running: None,
            surveyed: None,
            runs: 0,
            online: true,
            wish: DownloadWish::Nothing,
            beat: 0,
            reported: Vec::new(),
            log: Vec::new(),
            fetched: 0,
            told: BTreeMap::new(),
            last_now: Timestamp(0),
            granted_until: Timestamp(0),
            given_up: BTreeSet::new(),
            began: BTreeSet::new(),
            trials: BTreeMap::new(),
            keeps_all: false,
            writes_until: Timestamp(0),
            unsaved: false,
        }
    }

    /// Starts from what the disk holds.
    pub(crate) fn start(&mut self) {
        let loaded = Loaded { durable: self.disk.durable.clone(), active: self.disk.active.clone() };
        self.life += 1;
        self.machine = Some(Machine::new(self.id.clone(), Timing::default(), loaded));
    }

    /// Dies at this very moment: only the disk stays.
    pub(crate) fn crash(&mut self) {
        self.machine = None;
        self.running = None;
        self.life += 1;
        self.wish = DownloadWish::Nothing;
        self.granted_until = Timestamp(0);
        self.told.clear();
        // What it could not write down it may try again.
        let failed = &self.disk.durable.failed;
        self.given_up.retain(|(channel, revision, manifest)| {
            failed
                .iter()
                .any(|it| it.channel == *channel && it.revision == *revision && it.manifest == *manifest)
        });
    }

    pub(crate) fn handle(&mut self, now: Timestamp, random: u64, input: Input) -> Vec<Effect> {
        let back = self.last_now.since(now);
        self.told.values_mut().for_each(|(_, since, _)| *since = *since - back);
        self.granted_until = self.granted_until - back;
        self.last_now = now;
        match &input {
            Input::Wanted { items, pace } => self.tell(now, items, pace.spread),
            Input::Allowance { granted_for: Some(span) } => self.granted_until = now + *span,
            _ => {}
        }
        let effects =
            self.machine.as_mut().map_or_else(Vec::new, |machine| machine.handle(now, random, input));
        self.log.extend(effects.iter().cloned());
        effects
    }

    fn tell(&mut self, now: Timestamp, items: &[ContentItem], spread: Span) {
        let mut told = BTreeMap::new();
        for item in items {
            let known = self.told.get(&item.channel).filter(|(known, ..)| known.manifest == item.manifest);
            let (since, least) =
                known.map_or((now, spread), |(_, since, least)| (*since, spread.min(*least)));
            told.insert(item.channel.clone(), (item.clone(), since, least));
        }
        self.began.retain(|manifest| told.values().any(|(item, ..)| item.manifest == *manifest));
        self.told = told;
    }

    fn is_told(&self, manifest: Digest) -> bool {
        self.told.values().any(|(item, ..)| item.manifest == manifest)
    }

    fn good(&self, channel: &ChannelName) -> Option<Digest> {
        self.machine.as_ref()?.durable().good(channel).map(|good| good.item.manifest)
    }

    fn begin(&mut self, running: Running) {
        assert!(self.running.is_none(), "{}: {running:?} while {:?} runs", self.id, self.running);
        self.runs += 1;
        self.running = Some(running);
    }

    /// Carries out an effect. Returns its answer if that comes at once.
    pub(crate) fn act(&mut self, now: Timestamp, effect: Effect) -> Option<Input> {
        let written = || if self.disk.full { Err(Reason::new("No space left on device")) } else { Ok(()) };
        match effect {
            Effect::Survey { item, remote } => {
                self.surveyed = Some(item.manifest);
                self.begin(Running::Survey { item, remote });
            }
            Effect::Fetch { item, plan } => {
                self.watch_fetch(now, &item, &plan);
                self.begin(Running::Fetch { item, plan, next: 0, fetched: 0, stopping: false });
            }
            Effect::StopFetch => {
                let Some(Running::Fetch { stopping, .. }) = &mut self.running else {
                    panic!("no fetch to stop")
                };
                *stopping = true;
            }
            Effect::Persist { ticket } => {
                let result = written();
                if result.is_ok() {
                    self.disk.durable = self.machine.as_ref()?.durable().clone();
                }
                self.unsaved = result.is_err();
                return Some(Input::Persisted { ticket, result });
            }
            Effect::Switch { channel, to } => {
                let is_there = to.as_ref().is_none_or(|item| self.disk.trees.contains(&item.manifest));
                let result = if is_there { written() } else { Err(Reason::new("is not on the disk")) };
                if to.is_some() && !is_there {
                    let manifest = to.as_ref().map(|item| item.manifest);
                    assert_eq!(self.good(&channel), manifest, "{}: {to:?} is switched on in part", self.id);
                }
                if result.is_ok() {
                    self.watch_switch(&channel, to.as_ref());
                    match to {
                        Some(item) => self.disk.active.insert(channel, item),
                        None => self.disk.active.remove(&channel),
                    };
                }
                return Some(Input::Switched(result));
            }
            Effect::RunHandler { channel, item } => {
                self.watch_handler(&channel, item.as_ref());
                self.begin(Running::Handler { channel, item });
            }
            Effect::CheckHealth(item) => self.begin(Running::Health(item)),
            Effect::Prune { keep, drafts } => self.prune(&keep, &drafts),
            Effect::CheckDrift(items) => {
                let drifted = |item: &ContentItem| !self.disk.is_whole(&item.manifest);
                let found: Vec<ChannelName> =
                    items.into_iter().filter(drifted).map(|item| item.channel).collect();
                return (!found.is_empty()).then_some(Input::DriftFound(found));
            }
            Effect::Wish(wish) => self.wish = wish,
            Effect::Report(statuses) => {
                assert!(statuses.is_sorted_by(|a, b| a.channel < b.channel));
                self.reported = statuses;
            }
            Effect::Note(Note::Failed(item, _)) => {
                self.given_up.insert(assigned(&item));
            }
            Effect::Limit(_) | Effect::Note(_) => {}
        }
        None
    }

    fn watch_fetch(&mut self, now: Timestamp, item: &ContentItem, plan: &Plan) {
        let is_repair = self.good(&item.channel) == Some(item.manifest);
        assert!(
            self.is_told(item.manifest) || is_repair,
            "{}: {item:?} is fetched and not assigned",
            self.id
        );
        assert!(
            is_repair || !self.given_up.contains(&assigned(item)),
            "{}: {item:?} is fetched again although it failed",
            self.id
        );
        assert_eq!(self.surveyed, Some(item.manifest), "{}: {item:?} was not looked at last", self.id);
        if plan.pieces.is_empty() {
            return;
        }
        let begun = self.disk.durable.channels.get(&item.channel).and_then(|state| state.begun);
        if self.began.insert(item.manifest) && !is_repair && begun != Some(item.manifest) {
            let (_, since, spread) = self.told[&item.channel];
            let turn = since + phase(&self.id, &item.channel, &item.manifest, spread);
            assert!(now >= turn, "{}: {item:?} is fetched before its turn", self.id);
        }
        assert!(
            !plan.needs_allowance() || now < self.granted_until,
            "{}: {item:?} is fetched without an allowance",
            self.id
        );
    }

    fn watch_switch(&mut self, channel: &ChannelName, to: Option<&ContentItem>) {
        let Some(item) = to else {
            let good = self.good(channel);
            assert!(
                !self.told.contains_key(channel) || good.is_none(),
                "{}: {channel} is taken away",
                self.id
            );
            return;
        };
        if self.good(channel) == Some(item.manifest) {
            return;
        }
        assert!(self.disk.is_whole(&item.manifest), "{}: {item:?} is switched on in part", self.id);
        assert!(self.is_told(item.manifest), "{}: {item:?} is switched on and not assigned", self.id);
        let state = self.disk.durable.channels.get(channel);
        let on_trial = state.and_then(|state| state.applying.as_ref()).and_then(|it| it.item.as_ref());
        assert_eq!(
            on_trial.map(|it| it.manifest),
            Some(item.manifest),
            "{}: what is tried is durable",
            self.id
        );
        assert!(!self.given_up.contains(&assigned(item)), "{}: {item:?} is tried again", self.id);
    }

    fn watch_handler(&mut self, channel: &ChannelName, item: Option<&ContentItem>) {
        assert_eq!(
            self.disk.active.get(channel).map(|it| it.manifest),
            item.map(|it| it.manifest),
            "{}: the handler is told of what is in force",
            self.id
        );
        if let Some(item) = item.filter(|item| self.good(channel) != Some(item.manifest)) {
            let count = self.trials.entry(assigned(item)).or_default();
            *count += 1;
            assert!(*count <= MAX_STARTS || self.unsaved, "{}: {item:?} is started {count} times", self.id);
        }
    }

    fn prune(&mut self, keep: &[Digest], drafts: &[Digest]) {
        let states = self.disk.durable.channels.values();
        let named = states.filter_map(|state| state.good.as_ref()).map(|good| &good.item);
        for item in self.disk.active.values().chain(named) {
            assert!(keep.contains(&item.manifest), "{}: {item:?} is needed and pruned", self.id);
        }
        let wanted =
            self.told.values().map(|(item, ..)| item).filter(|item| !self.given_up.contains(&assigned(item)));
        for item in wanted {
            let stays = drafts.contains(&item.manifest) || keep.contains(&item.manifest);
            assert!(stays, "{}: what was begun of {item:?} is pruned", self.id);
        }
        self.disk.trees.retain(|manifest| keep.contains(manifest));
        self.disk.damaged.retain(|manifest| keep.contains(manifest));
        self.disk.drafts.retain(|manifest, _| keep.contains(manifest) || drafts.contains(manifest));
    }

    /// One step of what runs. Returns its answer when it ended. `fails`: the network or a handler does not work.
    pub(crate) fn step(&mut self, now: Timestamp, content: &Content, fails: bool) -> Option<Input> {
        let retry = |text: &str| Failure { reason: Reason::new(text), retry: true };
        let (channel, manifest) = (content.channel.clone(), content.manifest);
        match self.running.take()? {
            Running::Survey { remote, .. } => {
                let known = self.disk.drafts.contains_key(&manifest) || self.disk.trees.contains(&manifest);
                let works = if remote { self.online && !fails } else { known };
                let survey = Survey { plan: self.disk.plan(content), space: self.disk.space(content) };
                let result = if works { Ok(survey) } else { Err(retry("no answer")) };
                Some(Input::Surveyed { channel, manifest, result })
            }
            Running::Fetch { item, plan, next, mut fetched, stopping } => {
                let name = channel.clone();
                let done =
                    |fetched, result| Some(Input::Fetched { channel: name, manifest, fetched, result });
                let Some(piece) = plan.pieces.get(next) else {
                    if content.nature == Nature::Broken {
                        return done(fetched, Err(Failure { reason: Reason::new("broken"), retry: false }));
                    }
                    self.disk.drafts.remove(&manifest);
                    self.disk.trees.insert(manifest);
                    self.disk.damaged.remove(&manifest);
                    return done(fetched, Ok(()));
                };
                if stopping || fails || !self.online || self.disk.full {
                    return done(fetched, Err(retry("cut off")));
                }
                let late = self.granted_until + Span::from_secs(5);
                assert!(!plan.needs_allowance() || now < late, "{}: goes on without an allowance", self.id);
                let new = self.disk.drafts.entry(manifest).or_default().insert(*piece);
                assert!(new, "{}: a piece is fetched twice", self.id);
                fetched += Disk::piece_length(*piece);
                self.fetched += Disk::piece_length(*piece);
                self.running = Some(Running::Fetch { item, plan, next: next + 1, fetched, stopping });
                Some(Input::Progress { channel, manifest, fetched })
            }
            Running::Handler { item, .. } => {
                let refuses = match item {
                    Some(_) => content.nature == Nature::Refused,
                    None => fails || self.keeps_all,
                };
                Some(Input::HandlerDone(if refuses { Err(Reason::new("no")) } else { Ok(()) }))
            }
            Running::Health(_) => {
                let sick = content.nature == Nature::Sick;
                Some(Input::HealthChecked(if sick { Err(Reason::new("not well")) } else { Ok(()) }))
            }
        }
    }
}
