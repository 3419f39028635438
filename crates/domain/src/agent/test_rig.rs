//! A machine with a disk that answers at once, for tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::agent::{
    Assignment, Durable, Effect, Generation, GenerationId, Identity, Input, Loaded, Machine, Note, Offer,
    Placement, Reason, Reply, Source, Standing, Timing,
};
use crate::digest::Digest;
use crate::id::{AgentId, FleetId, GroupId, KindName};
use crate::path::GroupPath;
use crate::revision::{Cursor, Revision};
use crate::settings::{Mode, Settings, SettingsOverlay};
use crate::snapshot::{PolicyItem, Snapshot};
use crate::time::{Span, Timestamp};

/// Start of every test, in ms: any time will do.
pub(super) const T0: u64 = 1_700_000_000_000;
/// Validity of the snapshots in tests, in ms.
pub(super) const VALID_MS: u64 = 3_600_000;

pub(super) fn group(name: &str) -> GroupId {
    GroupId::new(name).unwrap()
}

pub(super) fn kind(name: &str) -> KindName {
    KindName::new(name).unwrap()
}

pub(super) fn settings(mode: Mode, secs: u64) -> Settings {
    let overlay = SettingsOverlay {
        mode: Some(mode),
        heartbeat_interval: Some(Span::from_secs(secs)),
        ..SettingsOverlay::default()
    };
    overlay.effective().unwrap()
}

/// A snapshot of group `g` in fleet `f`. Policies: kind, revision, document.
pub(super) fn snapshot(revision: u64, settings: Settings, policies: &[(&str, u64, &str)]) -> Snapshot {
    let item = |(name, revision, document): &(&str, u64, &str)| PolicyItem {
        kind: kind(name),
        revision: Revision(*revision),
        document: document.as_bytes().into(),
        digest: Digest::of(document.as_bytes()),
    };
    Snapshot {
        fleet: FleetId::new("f").unwrap(),
        group: group("g"),
        path: GroupPath::new("/g").unwrap(),
        cursor: Cursor::new(1, revision),
        issued_at: Timestamp(T0),
        expires_at: Timestamp(T0 + VALID_MS),
        settings,
        policies: policies.iter().map(item).collect(),
        content: Vec::new(),
        trace_id: [0; 16],
    }
}

pub(super) fn push(revision: u64, policies: &[(&str, u64, &str)]) -> Snapshot {
    snapshot(revision, settings(Mode::Push, 60), policies)
}

/// A machine, its time, its disk and everything it did.
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) now: Timestamp,
    pub(super) log: Vec<Effect>,
    pub(super) disk: Durable,
    pub(super) current: Option<GenerationId>,
    pub(super) staged: BTreeMap<GenerationId, Generation>,
    /// Kinds whose handlers say no to anything but the last known good, and what they say.
    pub(super) sick: BTreeMap<&'static str, &'static str>,
    /// Whether the disk refuses to write.
    pub(super) full: bool,
    /// Effects of the disk and of handlers are not carried out after this many.
    pub(super) steps_left: usize,
    /// Every generation that was switched on.
    pub(super) switched_on: Vec<GenerationId>,
}

impl Rig {
    pub(super) fn fresh() -> Self {
        let placement = Placement { group: group("g"), cursor: Cursor::new(1, 1) };
        let durable = Durable { assignment: Some(placement), ..Durable::default() };
        Self::load(durable, None, BTreeMap::new(), Timestamp(T0))
    }

    fn load(
        disk: Durable,
        current: Option<GenerationId>,
        staged: BTreeMap<GenerationId, Generation>,
        now: Timestamp,
    ) -> Self {
        let identity = Identity { fleet: FleetId::new("f").unwrap(), agent: AgentId::new("a").unwrap() };
        let timing = Timing { first_spread: Span(0), ..Timing::default() };
        let active = current.as_ref().map(|id| staged[id].clone());
        let machine = Machine::new(identity, timing, Loaded { durable: disk.clone(), active });
        let (log, sick, switched_on) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self {
            machine,
            now,
            log,
            disk,
            current,
            staged,
            sick,
            full: false,
            steps_left: usize::MAX,
            switched_on,
        }
    }

    /// Kills the agent and starts it again from its disk, for so many steps.
    pub(super) fn restart(&mut self, steps_left: usize) {
        let staged = std::mem::take(&mut self.staged);
        let sick = std::mem::take(&mut self.sick);
        let loaded = Self::load(self.disk.clone(), self.current.clone(), staged, self.now);
        *self = Self { sick, steps_left, ..loaded };
        self.feed(Input::Started);
    }

    /// Started, connected, and past its first heartbeat and fetch.
    pub(super) fn online(first: Snapshot) -> Self {
        let mut rig = Self::fresh();
        rig.feed(Input::Started);
        rig.feed(Input::Connected);
        rig.receive(first, Source::Fetch);
        rig.reply(1, Cursor::NONE);
        rig.log.clear();
        rig
    }

    /// Passes an input, carries out what touches the disk, and returns all effects in order.
    pub(super) fn feed(&mut self, input: Input) -> Vec<Effect> {
        let mut inputs = std::collections::VecDeque::from([input]);
        let mut all = Vec::new();
        while let Some(input) = inputs.pop_front() {
            for effect in self.machine.handle(self.now, 7, input) {
                inputs.extend(self.carry_out(&effect));
                all.push(effect);
            }
        }
        self.log.extend(all.iter().cloned());
        all
    }

    fn carry_out(&mut self, effect: &Effect) -> Vec<Input> {
        if self.steps_left == 0 {
            return Vec::new();
        }
        let written = if self.full { Err(Reason::new("No space left on device")) } else { Ok(()) };
        let inputs = match effect {
            Effect::Persist { ticket } => {
                if !self.full {
                    self.disk = self.machine.durable().clone();
                }
                vec![Input::Persisted { ticket: *ticket, result: written }]
            }
            Effect::Stage(offer) => {
                let generation = Generation::of(&offer.snapshot);
                self.staged.insert(generation.id(), generation);
                vec![Input::Staged(written)]
            }
            Effect::Activate(id) => {
                self.current = Some(id.clone());
                self.switched_on.push(id.clone());
                vec![Input::Activated(Ok(()))]
            }
            Effect::RevertTo(id) => {
                self.current.clone_from(id);
                vec![Input::Reverted(Ok(()))]
            }
            Effect::RunHandlers(changes) => {
                let done =
                    |kind: &KindName| Input::HandlerDone { kind: kind.clone(), result: self.verdict(kind) };
                changes.iter().map(|change| done(&change.kind)).collect()
            }
            Effect::CheckHealth(_) => vec![Input::HealthChecked(Ok(()))],
            Effect::Repair(_) => vec![Input::Repaired(Ok(()))],
            Effect::Connect
            | Effect::Disconnect
            | Effect::Reconnect
            | Effect::Subscribe(_)
            | Effect::Unsubscribe(_)
            | Effect::FetchSnapshot { .. }
            | Effect::Refresh(_)
            | Effect::CheckDrift
            | Effect::Prune { .. }
            | Effect::SendHeartbeat(_)
            | Effect::SendStatus(_)
            | Effect::Note(_) => Vec::new(),
        };
        self.steps_left -= usize::from(!inputs.is_empty());
        inputs
    }

    fn verdict(&self, kind: &KindName) -> Result<(), Reason> {
        if self.current == self.disk.good.as_ref().map(Generation::id) {
            return Ok(());
        }
        self.sick.get(kind.as_str()).map_or(Ok(()), |reason| Err(Reason::new(reason)))
    }

    pub(super) fn receive(&mut self, snapshot: Snapshot, source: Source) -> Vec<Effect> {
        let offer = Arc::new(Offer { snapshot, envelope: Arc::from([]) });
        self.feed(Input::SnapshotReceived { offer, source })
    }

    pub(super) fn assign(&mut self, to: &str, revision: u64) -> Vec<Effect> {
        self.feed(Input::AssignmentReceived(Assignment {
            fleet: FleetId::new("f").unwrap(),
            agent: AgentId::new("a").unwrap(),
            group: group(to),
            cursor: Cursor::new(1, revision),
            issued_at: Timestamp(T0),
        }))
    }

    pub(super) fn reply(&mut self, beat: u64, head: Cursor) -> Vec<Effect> {
        let (server_time, next) = (self.now, self.machine.settings().heartbeat_interval);
        let standing = Standing::Ok;
        self.feed(Input::HeartbeatReplied(Reply {
            beat,
            server_time,
            next,
            head,
            want_status: false,
            standing,
        }))
    }

    /// Lets `span` pass, calling the machine at each deadline.
    pub(super) fn pass(&mut self, span: Span) -> Vec<Effect> {
        let end = self.now + span;
        let mut all = Vec::new();
        while let Some(due) = self.machine.next_deadline().filter(|due| *due <= end) {
            assert!(
                due > self.now || self.now.0 == T0 || !all.is_empty(),
                "called again at once: {:?}",
                self.machine
            );
            self.now = self.now.max(due);
            all.extend(self.feed(Input::Tick));
        }
        self.now = end;
        all
    }

    /// Lets time pass until the next heartbeat is sent; says how long it took.
    pub(super) fn until_beat(&mut self) -> Span {
        let (from, last) = (self.now, self.last_beat());
        for _ in 0..1000 {
            let due = self.machine.next_deadline().unwrap();
            self.pass(due.since(self.now));
            if self.last_beat() != last {
                return self.now.since(from);
            }
        }
        panic!("no heartbeat: {:?}", self.machine);
    }

    /// Number of the last heartbeat sent.
    pub(super) fn last_beat(&self) -> u64 {
        let beat =
            |effect: &Effect| if let Effect::SendHeartbeat(beat) = effect { Some(beat.beat) } else { None };
        self.log.iter().rev().find_map(beat).unwrap_or(1)
    }
}

/// Short names of effects, for comparisons.
pub(super) fn names(effects: &[Effect]) -> Vec<String> {
    effects.iter().filter_map(name).collect()
}

fn name(effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Connect => "connect".into(),
        Effect::Disconnect => "disconnect".into(),
        Effect::Reconnect => "reconnect".into(),
        Effect::Subscribe(group) => format!("subscribe {group}"),
        Effect::Unsubscribe(group) => format!("unsubscribe {group}"),
        Effect::FetchSnapshot { group, .. } => format!("fetch {group}"),
        Effect::Persist { .. } => "persist".into(),
        Effect::Stage(offer) => format!("stage {}", offer.snapshot.cursor),
        Effect::Activate(id) => format!("activate {}", id.cursor),
        Effect::RunHandlers(changes) => {
            let sign = |removed: bool| if removed { "-" } else { "" };
            let kinds: Vec<String> =
                changes.iter().map(|c| format!("{}{}", sign(c.removed), c.kind)).collect();
            format!("run {}", kinds.join(","))
        }
        Effect::CheckHealth(_) => "health".into(),
        Effect::RevertTo(id) => {
            format!("revert {}", id.as_ref().map_or("none".into(), |id| id.cursor.to_string()))
        }
        Effect::Refresh(_) => "refresh".into(),
        Effect::Repair(_) => "repair".into(),
        Effect::SendHeartbeat(beat) => {
            format!("beat {}", if beat.status.is_some() { "full" } else { "short" })
        }
        Effect::SendStatus(_) => "status".into(),
        Effect::Note(Note::Refused { refusal, .. }) => format!("refused {refusal:?}"),
        Effect::CheckDrift | Effect::Prune { .. } | Effect::Note(_) => return None,
    })
}
