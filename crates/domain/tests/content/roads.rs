//! Roads walked with real bytes: whatever is held, a plan that is carried out ends with the content.

use std::collections::{BTreeMap, BTreeSet};

use domain::content::plan::{Held, Plan, Road, plan};
use domain::content::{
    ChannelName, ChunkEntry, ContentIndex, Delta, DeltaFrame, DeltaPart, FilePath, Manifest, ManifestFile,
    OldRun,
};
use domain::{Digest, FleetId};
use proptest::prelude::*;

/// Shortest run worth a copy instead of its bytes.
const MIN_COPY: usize = 8;

/// One frame: copies out of the prefix, and bytes. Without the right prefix it decodes to something else.
fn encode(run: &[u8], prefix: &[u8]) -> Vec<u8> {
    let (mut stored, mut at, mut plain) = (Vec::new(), 0, 0);
    let flush = |stored: &mut Vec<u8>, bytes: &[u8]| {
        for part in bytes.chunks(255) {
            stored.extend([0, u8::try_from(part.len()).expect("it fits")]);
            stored.extend(part);
        }
    };
    while at < run.len() {
        let wanted = &run[at..(at + MIN_COPY).min(run.len())];
        let found = (wanted.len() == MIN_COPY)
            .then(|| prefix.windows(MIN_COPY).position(|window| window == wanted))
            .flatten();
        let Some(from) = found else {
            at += 1;
            continue;
        };
        flush(&mut stored, &run[plain..at]);
        let same = run[at..].iter().zip(&prefix[from..]).take(255).take_while(|(a, b)| a == b).count();
        stored.push(1);
        stored.extend(u16::try_from(from).expect("it fits").to_be_bytes());
        stored.push(u8::try_from(same).expect("it fits"));
        at += same;
        plain = at;
    }
    flush(&mut stored, &run[plain..]);
    stored
}

fn decode(stored: &[u8], prefix: &[u8]) -> Vec<u8> {
    let (mut run, mut at) = (Vec::new(), 0);
    while at < stored.len() {
        if stored[at] == 0 {
            let length = usize::from(stored[at + 1]);
            run.extend(&stored[at + 2..at + 2 + length]);
            at += 2 + length;
        } else {
            let from = usize::from(u16::from_be_bytes([stored[at + 1], stored[at + 2]]));
            run.extend(&prefix[from..from + usize::from(stored[at + 3])]);
            at += 4;
        }
    }
    run
}

/// How the server cuts.
#[derive(Debug, Clone)]
struct Cuts {
    chunk: Vec<usize>,
    frame: usize,
    part: usize,
    /// What of the old and of the new content each frame's prefix has.
    reach: usize,
}

/// A delta as stored.
struct Stored {
    parts: Vec<Vec<u8>>,
    /// The content it starts from.
    old: Vec<u8>,
}

/// A content as the server offers it.
struct Store {
    content: Vec<u8>,
    manifest: Manifest,
    index: ContentIndex,
    chunks: BTreeMap<Digest, Vec<u8>>,
    /// Deltas by where they start.
    deltas: BTreeMap<Option<Digest>, Stored>,
}

fn pieces(bytes: &[u8], lengths: &[usize]) -> Vec<Vec<u8>> {
    let (mut all, mut at) = (Vec::new(), 0);
    for length in lengths.iter().cycle() {
        if at == bytes.len() {
            break;
        }
        let end = (at + length).min(bytes.len());
        all.push(bytes[at..end].to_vec());
        at = end;
    }
    all
}

fn delta(old: Option<(Digest, &[u8])>, new: &[u8], cuts: &Cuts) -> (Delta, Vec<Vec<u8>>) {
    let (mut frames, mut stored, mut at) = (Vec::new(), Vec::new(), 0);
    for run in pieces(new, &[cuts.frame]) {
        let new_bytes = at.min(cuts.reach);
        // Two runs of the old content, from about the same place and from its start.
        let mut runs = Vec::new();
        if let Some((_, old)) = old {
            let from = at.saturating_sub(cuts.reach).min(old.len());
            let to = (at + run.len() + cuts.reach).min(old.len());
            runs = vec![(from, to), (0, cuts.reach.min(old.len()))];
            runs.retain(|(from, to)| from < to);
        }
        let mut prefix: Vec<u8> = Vec::new();
        for (from, to) in &runs {
            prefix.extend(&old.expect("runs come from an old content").1[*from..*to]);
        }
        prefix.extend(&new[at - new_bytes..at]);
        let frame = encode(&run, &prefix);
        let number = |it: usize| u32::try_from(it).expect("it fits");
        let old_run = |(from, to): &(usize, usize)| OldRun { offset: *from as u64, bytes: number(to - from) };
        frames.push(DeltaFrame {
            bytes: number(run.len()),
            stored_bytes: number(frame.len()),
            old: runs.iter().map(old_run).collect(),
            new_bytes: number(new_bytes),
        });
        stored.extend(frame);
        at += run.len();
    }
    let parts = pieces(&stored, &[cuts.part]);
    let part = |bytes: &Vec<u8>| DeltaPart {
        bytes: u32::try_from(bytes.len()).expect("it fits"),
        digest: Digest::of(bytes),
    };
    let named = parts.iter().map(part).collect();
    (Delta::new(old.map(|(digest, _)| digest), frames, named).expect("it keeps the rules"), parts)
}

/// What a chunk is as stored: one byte in three is saved.
fn stored_length(bytes: usize) -> u32 {
    u32::try_from(bytes - bytes / 3).expect("it fits")
}

fn store(olds: &[Vec<u8>], content: &[u8], cuts: &Cuts, with_full: bool) -> Store {
    let chunks = pieces(content, &cuts.chunk);
    let entry = |bytes: &Vec<u8>| ChunkEntry {
        digest: Digest::of(bytes),
        bytes: u32::try_from(bytes.len()).expect("it fits"),
    };
    let file = ManifestFile {
        path: FilePath::new("data").expect("a valid name"),
        bytes: content.len() as u64,
        digest: Digest::of(content),
        executable: false,
    };
    let (fleet, channel) =
        (FleetId::new("main").expect("a valid name"), ChannelName::new("rules").expect("a valid name"));
    let entries = chunks.iter().map(entry).collect();
    let manifest = Manifest::new(fleet.clone(), channel, vec![file], entries, Digest::of(content))
        .expect("it keeps the rules");
    let mut deltas = BTreeMap::new();
    let mut listed = Vec::new();
    let named = olds.iter().map(|old| Some((Digest::of(old), old.as_slice())));
    for old in named.chain(with_full.then_some(None)) {
        let (delta, parts) = delta(old, content, cuts);
        let from = delta.from();
        let old = old.map_or(Vec::new(), |(_, old)| old.to_vec());
        if deltas.insert(from, Stored { parts, old }).is_none() {
            listed.push(delta);
        }
    }
    listed.sort_by_key(Delta::from);
    let stored = chunks.iter().map(|chunk| stored_length(chunk.len())).collect();
    let index =
        ContentIndex::new(fleet, Digest::of(b"manifest"), stored, listed).expect("it keeps the rules");
    let chunks = chunks.into_iter().map(|chunk| (Digest::of(&chunk), chunk)).collect();
    Store { content: content.to_vec(), manifest, index, chunks, deltas }
}

/// What an agent has on disk.
#[derive(Clone, Default)]
struct Agent {
    held: Held,
    fetched: u64,
}

impl Agent {
    /// Fetches the first `count` pieces of a plan.
    fn fetch(&mut self, store: &Store, plan: &Plan, count: usize) {
        for number in plan.pieces.iter().take(count) {
            let at = usize::try_from(*number).expect("it fits");
            let from = match plan.road {
                Road::Chunks => {
                    let chunk = store.manifest.chunks()[at];
                    assert!(self.held.chunks.insert(chunk.digest), "a chunk is fetched twice");
                    self.fetched += u64::from(store.index.stored_bytes()[at]);
                    continue;
                }
                Road::Patch { from } => Some(from),
                Road::Full => None,
            };
            let part = &store.deltas[&from].parts[at];
            assert!(self.held.parts.entry(from).or_default().insert(*number), "a part is fetched twice");
            self.fetched += part.len() as u64;
        }
    }

    /// Builds the content as the plan says, as far as `until` bytes.
    fn build(&self, store: &Store, plan: &Plan, until: u64) -> Vec<u8> {
        let mut draft: Vec<Option<u8>> = vec![None; store.content.len()];
        for (at, chunk) in
            store.manifest.placed_chunks().filter(|(_, it)| self.held.chunks.contains(&it.digest))
        {
            let at = usize::try_from(at).expect("it fits");
            let bytes = &store.chunks[&chunk.digest];
            draft[at..at + bytes.len()].iter_mut().zip(bytes).for_each(|(to, byte)| *to = Some(*byte));
        }
        let from = match plan.road {
            Road::Chunks => return draft.into_iter().map_while(|byte| byte).collect(),
            Road::Patch { from } => Some(from),
            Road::Full => None,
        };
        assert!(from.is_none_or(|from| self.held.contents.contains(&from)), "a patch from what is held");
        let Stored { parts, old } = &store.deltas[&from];
        let on_disk = &self.held.parts.get(&from).cloned().unwrap_or_default();
        let delta = store.index.delta(from).expect("the index names it");
        for (number, placed) in (0u32..).zip(delta.placed_frames()) {
            if !plan.frames.contains(&number) || placed.offset >= until {
                continue;
            }
            let run = |offset: u64, bytes: u32| {
                let offset = usize::try_from(offset).expect("it fits");
                offset..offset + usize::try_from(bytes).expect("it fits")
            };
            let mut prefix: Vec<u8> = Vec::new();
            placed.frame.old.iter().for_each(|it| prefix.extend(&old[run(it.offset, it.bytes)]));
            let new = run(placed.offset - u64::from(placed.frame.new_bytes), placed.frame.new_bytes);
            prefix.extend(draft[new].iter().map(|byte| byte.expect("what is before a frame is there")));
            let (mut stored, mut start) = (Vec::new(), 0);
            let wanted = run(placed.stored_offset, placed.frame.stored_bytes);
            for (number, part) in (0u32..).zip(parts) {
                let overlap = wanted.start.max(start)..wanted.end.min(start + part.len());
                if overlap.start < overlap.end {
                    assert!(on_disk.contains(&number), "a part that a frame needs is there");
                    stored.extend(&part[overlap.start - start..overlap.end - start]);
                }
                start += part.len();
            }
            let decoded = decode(&stored, &prefix);
            draft[run(placed.offset, placed.frame.bytes)]
                .iter_mut()
                .zip(decoded)
                .for_each(|(to, byte)| *to = Some(byte));
        }
        draft.into_iter().map_while(|byte| byte).collect()
    }

    /// How far a plan's frames can be decoded: up to the first whose parts are not all there.
    fn ready(&self, store: &Store, plan: &Plan) -> u64 {
        let from = match plan.road {
            Road::Chunks => return 0,
            Road::Patch { from } => Some(from),
            Road::Full => None,
        };
        let delta = store.index.delta(from).expect("the index names it");
        let on_disk = self.held.parts.get(&from).cloned().unwrap_or_default();
        let mut start = 0;
        let mut first_missing = u64::MAX;
        for (number, part) in (0u32..).zip(delta.parts()) {
            if !on_disk.contains(&number) {
                first_missing = first_missing.min(start);
            }
            start += u64::from(part.bytes);
        }
        let mut frames =
            (0u32..).zip(delta.placed_frames()).filter(|(number, _)| plan.frames.contains(number));
        let stuck =
            frames.find(|(_, it)| it.stored_offset + u64::from(it.frame.stored_bytes) > first_missing);
        stuck.map_or(u64::MAX, |(_, placed)| placed.offset)
    }

    /// Chunks that a draft of this length covers as a whole are held from now on.
    fn keep_draft(&mut self, store: &Store, draft: &[u8]) {
        for (at, chunk) in store.manifest.placed_chunks() {
            let run = usize::try_from(at).expect("it fits")
                ..usize::try_from(at + u64::from(chunk.bytes)).expect("it fits");
            if draft.get(run).is_some_and(|bytes| Digest::of(bytes) == chunk.digest) {
                self.held.chunks.insert(chunk.digest);
            }
        }
    }
}

/// The whole content's cost: the delta from nothing, or all chunks when that is cheaper or missing.
fn full_cost(store: &Store) -> u64 {
    let nothing = Held { unusable: BTreeSet::new(), ..Held::default() };
    plan(&store.manifest, Some(&store.index), &nothing).fetch_bytes
}

#[derive(Debug, Clone)]
struct Case {
    base: Vec<u8>,
    edits: Vec<(usize, usize, Vec<u8>)>,
    cuts: Cuts,
    with_full: bool,
    holds_old: [bool; 2],
    chunks: u64,
    parts: u64,
    draft: Vec<u8>,
    stop_after: usize,
    decoded: u64,
}

fn case() -> impl Strategy<Value = Case> {
    // Few different bytes, so that chunks repeat.
    let bytes = |most: usize| prop::collection::vec(0u8..3, 0..most);
    let edit = (0usize..400, 0usize..60, bytes(40));
    let cuts = (prop::collection::vec(5usize..40, 1..4), 20usize..90, 8usize..50, 0usize..120);
    let cuts = cuts.prop_map(|(chunk, frame, part, reach)| Cuts { chunk, frame, part, reach });
    let held = (any::<[bool; 2]>(), any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 4));
    (bytes(400), prop::collection::vec(edit, 0..4), cuts, any::<bool>(), held, 0usize..30, 0u64..500)
        .prop_map(|(base, edits, cuts, with_full, (holds_old, chunks, parts, draft), stop_after, decoded)| {
            Case { base, edits, cuts, with_full, holds_old, chunks, parts, draft, stop_after, decoded }
        })
}

fn edited(base: &[u8], edits: &[(usize, usize, Vec<u8>)]) -> Vec<u8> {
    let mut bytes = base.to_vec();
    for (at, gone, new) in edits {
        let at = *at % (bytes.len() + 1);
        let end = (at + gone).min(bytes.len());
        bytes.splice(at..end, new.iter().copied());
    }
    bytes.push(7);
    bytes
}

/// A store and an agent that holds something, and what it may not use.
fn set_up(case: &Case) -> (Store, Agent) {
    let content = edited(&case.base, &case.edits);
    let older = edited(&case.base, &case.edits[..case.edits.len() / 2]);
    let olds = [[case.base.as_slice(), &[9]].concat(), [older.as_slice(), &[8]].concat()];
    let store = store(&olds, &content, &case.cuts, case.with_full);
    let mut agent = Agent::default();
    for (old, holds) in olds.iter().zip(case.holds_old) {
        if holds {
            agent.held.contents.insert(Digest::of(old));
        }
    }
    let bit = |bits: u64, at: usize| bits >> (at % 64) & 1 == 1;
    let chunks = store.manifest.chunks().iter().enumerate().filter(|(at, _)| bit(case.chunks, *at));
    agent.held.chunks = chunks.map(|(_, chunk)| chunk.digest).collect();
    for (number, (from, Stored { parts, .. })) in store.deltas.iter().enumerate() {
        let some = case.parts & case.parts.rotate_left(u32::try_from(number).expect("it fits") * 7 + 3);
        let held = (0..parts.len()).filter(|at| bit(some, *at)).map(|at| u32::try_from(at).expect("it fits"));
        agent.held.parts.insert(*from, held.collect());
    }
    if case.draft[0] < 60 {
        let roads = [Road::Chunks, Road::Full, Road::Patch { from: Digest::of(&olds[0]) }];
        agent.held.unusable.insert(roads[usize::from(case.draft[1]) % 3]);
    }
    (store, agent)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_road_ends_with_the_content(case in case()) {
        let (store, mut agent) = set_up(&case);
        let plan = plan(&store.manifest, Some(&store.index), &agent.held);
        agent.fetch(&store, &plan, usize::MAX);
        prop_assert_eq!(agent.fetched, plan.fetch_bytes);
        prop_assert!(agent.build(&store, &plan, u64::MAX) == store.content, "{:?}", plan.road);
        prop_assert!(plan.held_bytes <= store.manifest.content_bytes());
        if agent.held.unusable.is_empty() {
            prop_assert!(plan.fetch_bytes <= full_cost(&store));
        }
        let all_roads = 1 + store.index.deltas().len();
        let is_used = !(plan.pieces.is_empty() && plan.frames.is_empty());
        prop_assert!(!agent.held.unusable.contains(&plan.road) || !is_used || all_roads == 1
            || plan.road == Road::Chunks && !case.with_full && !case.holds_old.contains(&true));
    }

    #[test]
    fn a_cut_costs_nothing_that_arrived(case in case()) {
        let (store, mut agent) = set_up(&case);
        let first = plan(&store.manifest, Some(&store.index), &agent.held);
        agent.fetch(&store, &first, case.stop_after);
        let left = first.fetch_bytes - agent.fetched;
        // Some of what arrived is rebuilt when the cut comes.
        let draft = agent.build(&store, &first, case.decoded.min(agent.ready(&store, &first)));
        prop_assert!(store.content.starts_with(&draft));
        agent.keep_draft(&store, &draft);
        let again = plan(&store.manifest, Some(&store.index), &agent.held);
        prop_assert!(again.fetch_bytes <= left, "{} to fetch, {left} were left", again.fetch_bytes);
        agent.fetch(&store, &again, usize::MAX);
        prop_assert!(agent.build(&store, &again, u64::MAX) == store.content);
    }
}

#[test]
fn without_an_index_there_are_chunks() {
    let cuts = Cuts { chunk: vec![4], frame: 20, part: 10, reach: 10 };
    let store = store(&[], b"abcdabcdwxyz!", &cuts, true);
    let none = plan(&store.manifest, None, &Held::default());
    assert_eq!((none.road, none.pieces.as_slice(), none.fetch_bytes), (Road::Chunks, &[0, 2, 3][..], 9));
    let chunks = BTreeSet::from([Digest::of(b"abcd"), Digest::of(b"!")]);
    let some = plan(&store.manifest, None, &Held { chunks, ..Held::default() });
    assert_eq!((some.pieces.as_slice(), some.fetch_bytes, some.held_bytes), (&[2][..], 4, 9));
    assert_eq!((some.sources(3).chunk, some.sources(3).held), (3, 9));
}
