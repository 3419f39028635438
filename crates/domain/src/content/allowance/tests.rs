use std::collections::VecDeque;

use proptest::prelude::*;

use super::DownloadWish::{Done, Held, Nothing, Wanted};
use super::waiting::{GRACE, MAX_WAITING};
use super::*;

const NOW: Timestamp = Timestamp(1_700_000_000_000);
const HALF: Span = Span(GRANT.0 / 2);

fn agent(number: usize) -> AgentId {
    AgentId::new(format!("agent-{number}")).unwrap()
}

fn allowance(replica: u64, cap: u32) -> Allowance {
    Allowance::new(replica, Terms { cap, grant: GRANT })
}

#[test]
fn slots_are_granted_held_and_given_back() {
    let mut allowance = allowance(1, 2);
    let mut ask =
        |now: Timestamp, number, wish| allowance.ask(now, &agent(number), wish).granted_by.is_some();
    assert!(ask(NOW, 1, Wanted));
    assert!(ask(NOW, 1, Wanted), "the reply may have been lost");
    assert!(ask(NOW, 2, Wanted));
    assert!(ask(NOW + HALF, 1, Held));
    assert!(!ask(NOW + GRANT, 3, Wanted));
    assert!(!ask(NOW + GRANT, 4, Wanted));
    let end = NOW + GRANT + SLACK;
    assert!(!ask(end, 4, Wanted), "2 has lost its slot, but 3 waits longer");
    assert!(ask(end, 3, Wanted));
    assert!(!ask(end, 4, Wanted));
    assert!(!ask(end, 1, Done));
    assert!(ask(end, 4, Wanted));
    assert!(!ask(end, 3, Nothing));
    assert!(!ask(end, 4, Nothing));
    assert_eq!((allowance.slots(), allowance.waiting()), (0, 0));
}

#[test]
fn one_whose_answer_was_lost_has_its_place_again() {
    let mut one = allowance(1, 1);
    let mut two = allowance(2, 1);
    one.heard_replica(NOW, 2);
    two.heard_replica(NOW, 1);
    let granted = one.ask(NOW, &agent(1), Wanted);
    two.observe(NOW, &agent(1), Wanted, granted.granted_by);
    for number in 2..50 {
        assert_eq!(two.ask(NOW, &agent(number), Wanted).granted, None);
        one.observe(NOW, &agent(number), Wanted, None);
    }
    // It asks again, first where none can be granted.
    assert_eq!(two.ask(NOW, &agent(1), Wanted).granted, None);
    one.observe(NOW, &agent(1), Wanted, None);
    assert_eq!(one.ask(NOW, &agent(2), Wanted).granted, None, "the other one was there before");
    assert_eq!(one.ask(NOW, &agent(1), Wanted), granted);
}

#[test]
fn holders_renew_at_half_and_the_queue_asks_ever_more_rarely() {
    let mut one = allowance(7, 1);
    let granted = Decision { granted: Some(GRANT), again: Some(HALF), granted_by: Some(7) };
    assert_eq!(one.ask(NOW, &agent(0), Wanted), granted);
    assert_eq!(one.ask(NOW + HALF, &agent(0), Held), granted);
    for (number, again) in [(1, 1_000), (2, 1_020), (3, 1_040)] {
        assert_eq!(one.ask(NOW, &agent(number), Wanted).again, Some(Span(again)));
    }
    one.forget(&agent(1));
    assert_eq!(one.ask(NOW, &agent(3), Wanted).again, Some(Span(1_020)), "it moved up");
    let granted = Decision { granted_by: None, ..granted };
    let mut unlimited = allowance(7, 0);
    for number in 0..10 {
        assert_eq!(unlimited.ask(NOW, &agent(number), Wanted), granted);
    }
    assert_eq!(unlimited.ask(NOW, &agent(0), Done), Decision::default());
}

#[test]
fn who_went_away_holds_up_nobody_for_long() {
    let mut allowance = allowance(1, 1);
    let mut ask = |now, number, wish| allowance.ask(now, &agent(number), wish).granted.is_some();
    assert!(ask(NOW, 0, Wanted));
    assert!((1..50).all(|number| !ask(NOW, number, Wanted)));
    ask(NOW, 0, Done);
    let late = NOW + GRACE + HEAD_PAUSE.scaled(2, 1);
    assert!(!ask(late, 50, Wanted), "1 may have lost a heartbeat");
    assert!(ask(late + PAUSE_A_PLACE.scaled(100, 1), 50, Wanted));
    assert_eq!(allowance.waiting(), 0);
}

#[test]
fn a_replica_that_cannot_know_grants_nothing_new() {
    let mut new = allowance(1, 2);
    new.distrust(NOW);
    assert_eq!(new.ask(NOW, &agent(0), Wanted).granted, None);
    assert!(new.ask(NOW, &agent(1), Held).granted.is_some(), "a download goes on");
    assert!(new.ask(NOW + HALF, &agent(2), Held).granted.is_some());
    assert_eq!(new.ask(NOW, &agent(3), Held).granted, None, "more than there can be");
    let late = NOW + GRANT + SLACK;
    assert_eq!(new.ask(late - Span(1), &agent(0), Wanted).granted, None);
    assert!(new.ask(late, &agent(0), Wanted).granted.is_some());
}

#[test]
fn each_replica_has_its_share_and_one_that_stopped_counts_until_its_slots_ended() {
    let mut one = allowance(1, 5);
    let mut two = allowance(2, 5);
    one.heard_replica(NOW, 2);
    two.heard_replica(NOW, 1);
    let grants = |of: &mut Allowance, now, numbers: std::ops::Range<usize>| {
        numbers.filter(|number| of.ask(now, &agent(*number), Wanted).granted.is_some()).count()
    };
    assert_eq!(grants(&mut one, NOW, 0..10), 3);
    assert_eq!(grants(&mut two, NOW, 10..20), 2);
    // The second one stops. What it granted last was not heard of.
    two.forget(&agent(10));
    let late = NOW + GRANT + SLACK - Span(1);
    assert!((0..3).all(|number| one.ask(late - HALF, &agent(number), Held).granted.is_some()));
    assert_eq!(grants(&mut one, late, 20..30), 0);
    assert_eq!(grants(&mut one, late + Span(1), 20..30), 2);
}

#[test]
fn memory_is_bounded() {
    let mut allowance = allowance(1, 1);
    for number in 0..MAX_WAITING + 100 {
        allowance.ask(NOW, &agent(number), Wanted);
        allowance.ask(NOW, &agent(MAX_WAITING + 200 + number), Held);
        allowance.heard_replica(NOW, number as u64);
    }
    assert_eq!((allowance.waiting(), allowance.slots()), (MAX_WAITING, 1));
    assert_eq!(allowance.peers.len(), MAX_PEERS);
    let beyond = allowance.ask(NOW, &agent(usize::MAX), Wanted);
    assert_eq!(beyond.again, Some(Span(HEAD_PAUSE.0 + PAUSE_A_PLACE.0 * MAX_WAITING as u64)));
}

/// Ten thousand agents that all want a full download, which takes ten seconds. The beats stay few, and hardly a
/// slot is idle.
#[test]
fn a_long_queue_beats_rarely_and_keeps_the_slots_busy() {
    let mut allowance = allowance(1, 100);
    let (agents, download) = (10_000, Span::from_secs(10));
    let mut due: BTreeMap<(Timestamp, usize), Option<Timestamp>> =
        (0..agents).map(|number| ((NOW + Span(number as u64 * 7 % 60_000), number), None)).collect();
    let (mut beats, mut done, mut worst) = (VecDeque::new(), 0, 0);
    let mut last = NOW;
    while let Some(((now, number), until)) = due.pop_first() {
        if until.is_some_and(|until| until <= now) {
            allowance.ask(now, &agent(number), Done);
            (done, last) = (done + 1, now);
            continue;
        }
        let wish = if until.is_some() { Held } else { Wanted };
        let decision = allowance.ask(now, &agent(number), wish);
        let again = decision.again.unwrap();
        match decision.granted {
            Some(_) => {
                let until = until.unwrap_or(now + download);
                due.insert(((now + again).min(until), number), Some(until));
            }
            None => {
                let spread = Span((number as u64).wrapping_mul(0x9e37_79b9) % again.0);
                due.insert((now + again + spread, number), None);
            }
        }
        beats.push_back(now);
        while beats.front().is_some_and(|first| now.since(*first) >= Span::from_secs(10)) {
            beats.pop_front();
        }
        // The first beats come as each agent's slot has them.
        worst = if now.since(NOW) > Span::from_secs(120) { worst.max(beats.len()) } else { worst };
    }
    assert_eq!(done, agents);
    assert!(worst < 10 * 250, "{} beats in a second", worst / 10);
    let ideal = download.scaled(agents as u64, 100);
    assert!(last.since(NOW) < ideal.scaled(120, 100), "{:?} instead of {ideal:?}", last.since(NOW));
}

/// What one replica tells the others.
#[derive(Debug, Clone)]
enum Told {
    Lives(u64),
    Beat { agent: usize, number: u32, wish: DownloadWish, granted_by: Option<u64> },
}

#[derive(Debug, Clone)]
enum Step {
    /// An agent's heartbeat reaches a replica. Whether it has enough of its download, and gets the answer.
    Beat(usize, usize, bool, bool),
    /// Some of what one replica said reaches another.
    Deliver(usize, usize, usize),
    Pass(u64),
    /// A replica is killed; of what it said last, this much is heard.
    Kill(usize, usize),
    Start(usize),
}

const AGENTS: usize = 14;
const REPLICAS: usize = 4;
/// Time within which everything said is heard.
const DELAY: Span = Span(300);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let beat = (0..AGENTS, 0..REPLICAS, prop::bool::weighted(0.2), prop::bool::weighted(0.8));
    let step = prop_oneof![
        30 => beat.prop_map(|(agent, replica, enough, heard)| Step::Beat(agent, replica, enough, heard)),
        8 => (0..REPLICAS, 0..REPLICAS, 1..20_usize).prop_map(|(from, to, n)| Step::Deliver(from, to, n)),
        4 => (0..200_u64).prop_map(Step::Pass),
        2 => (200..70_000_u64).prop_map(Step::Pass),
        1 => (0..REPLICAS, 0..8_usize).prop_map(|(replica, heard)| Step::Kill(replica, heard)),
        2 => (0..REPLICAS).prop_map(Step::Start),
    ];
    prop::collection::vec(step, 1..400)
}

/// A replica, and the number of the last heartbeat of each agent that it heard of.
struct Replica {
    id: u64,
    allowance: Allowance,
    heard: [u32; AGENTS],
}

/// Some replicas, what is on the way between them, and agents.
struct World {
    now: Timestamp,
    cap: u32,
    replicas: Vec<Option<Replica>>,
    on_the_way: BTreeMap<(usize, usize), VecDeque<Told>>,
    /// Since when something may be on the way.
    since: Timestamp,
    /// Until when each agent may download.
    slots: [Timestamp; AGENTS],
    /// Heartbeats that each agent has sent.
    sent: [u32; AGENTS],
    started: u64,
}

impl World {
    fn new(cap: u32) -> Self {
        let mut world = Self {
            now: NOW,
            cap,
            replicas: (0..REPLICAS).map(|_| None).collect(),
            on_the_way: BTreeMap::new(),
            since: NOW,
            slots: [Timestamp(0); AGENTS],
            sent: [0; AGENTS],
            started: 0,
        };
        world.start(0);
        world
    }

    fn live(&self) -> impl Iterator<Item = usize> + use<> {
        let live: Vec<usize> = (0..REPLICAS).filter(|at| self.replicas[*at].is_some()).collect();
        live.into_iter()
    }

    fn start(&mut self, at: usize) {
        if self.replicas[at].is_some() {
            return;
        }
        self.started += 1;
        // Any order of ids: the lower one is not always the older one.
        let id = self.started.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut new = Allowance::new(id, Terms { cap: self.cap, grant: GRANT });
        if self.started > 1 {
            new.distrust(self.now);
        }
        for other in self.live() {
            let other = self.replicas[other].as_mut().unwrap();
            other.allowance.heard_replica(self.now, id);
            new.heard_replica(self.now, other.id);
        }
        self.replicas[at] = Some(Replica { id, allowance: new, heard: [0; AGENTS] });
    }

    fn tell(&mut self, from: usize, told: &Told) {
        for to in self.live().filter(|to| *to != from) {
            self.on_the_way.entry((from, to)).or_default().push_back(told.clone());
        }
    }

    fn deliver(&mut self, from: usize, to: usize, count: usize) {
        let Some(queue) = self.on_the_way.get_mut(&(from, to)) else { return };
        let Some(Replica { id: _, allowance, heard }) = &mut self.replicas[to] else { return };
        for told in queue.drain(..count.min(queue.len())) {
            match told {
                Told::Lives(id) => allowance.heard_replica(self.now, id),
                // Presence passes on only what is newer than what it knows of the agent.
                Told::Beat { agent: from, number, wish, granted_by } => {
                    if number > heard[from] {
                        heard[from] = number;
                        allowance.observe(self.now, &agent(from), wish, granted_by);
                    }
                }
            }
        }
    }

    fn deliver_all(&mut self) {
        for (from, to) in self.on_the_way.keys().copied().collect::<Vec<_>>() {
            self.deliver(from, to, usize::MAX);
        }
        self.since = self.now;
    }

    /// Time passes; every replica shows that it lives, and what was said is heard in time.
    fn pass(&mut self, span: Span) {
        let end = self.now + span;
        while self.now < end {
            let quiet = self.on_the_way.values().all(VecDeque::is_empty);
            let step = if quiet { Span(5_000) } else { Span(50) };
            self.now = end.min(self.now + step);
            if quiet || self.now.since(self.since) >= DELAY {
                self.deliver_all();
            }
            for at in self.live().filter(|_| quiet) {
                let id = self.replicas[at].as_ref().unwrap().id;
                self.tell(at, &Told::Lives(id));
            }
        }
    }

    fn beat(&mut self, from: usize, at: usize, enough: bool, answered: bool) {
        let Some(Replica { id: _, allowance, heard }) = &mut self.replicas[at] else { return };
        let holds = self.slots[from] > self.now;
        let wish = match (holds, enough) {
            (true, true) => Done,
            (true, false) => Held,
            (false, true) => Nothing,
            (false, false) => Wanted,
        };
        self.sent[from] += 1;
        let number = self.sent[from];
        heard[from] = number;
        let Decision { granted, again: _, granted_by } = allowance.ask(self.now, &agent(from), wish);
        self.tell(at, &Told::Beat { agent: from, number, wish, granted_by });
        if wish == Done {
            self.slots[from] = Timestamp(0);
        } else if answered {
            // One whose renewal is refused goes on until its time is over.
            self.slots[from] = granted.map_or(self.slots[from], |grant| self.now + grant);
        }
    }

    fn apply(&mut self, step: Step) {
        match step {
            Step::Beat(agent, replica, enough, heard) => self.beat(agent, replica, enough, heard),
            Step::Deliver(from, to, count) => self.deliver(from, to, count),
            Step::Pass(ms) => self.pass(Span(ms)),
            Step::Kill(at, heard) => {
                self.replicas[at] = None;
                self.on_the_way.retain(|(_, to), _| *to != at);
                for ((_, _), queue) in self.on_the_way.iter_mut().filter(|((from, _), _)| *from == at) {
                    queue.truncate(heard);
                }
            }
            Step::Start(at) => self.start(at),
        }
    }

    fn held(&self) -> usize {
        self.slots.iter().filter(|until| **until > self.now).count()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// However beats are spread over replicas that hear of each other late, start and are killed.
    #[test]
    fn slots_never_exceed_the_cap(steps in steps(), cap in 1_u32..9) {
        let mut world = World::new(cap);
        for step in steps {
            world.apply(step);
            prop_assert!(world.held() <= cap as usize, "{} of {cap}", world.held());
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Once replicas stay and agents keep asking, each gets a slot.
    #[test]
    fn nobody_starves(steps in steps(), cap in 1_u32..5) {
        let mut world = World::new(cap);
        for step in steps {
            world.apply(step);
        }
        (2..REPLICAS).for_each(|at| world.apply(Step::Kill(at, 0)));
        world.start(0);
        world.start(1);
        let mut served = [false; AGENTS];
        for turn in 0..300 {
            world.pass(Span::from_secs(1));
            for (number, served) in served.iter_mut().enumerate() {
                let held = world.slots[number] > world.now;
                *served |= held;
                world.beat(number, (turn + number * 3) % 2, held && turn % 10 == 0, true);
                world.deliver_all();
            }
        }
        prop_assert!(served.iter().all(|served| *served), "{served:?}");
    }
}
