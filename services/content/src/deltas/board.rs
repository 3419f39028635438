//! Which deltas there are, are being made, failed, and come next.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::Digest;
use domain::catalog::{Catalog, Channel, StoredRevision};
use domain::content::patches::{self, Known, Wanted};
use domain::content::{ChannelName, ContentIndex, ContentPointer, ContentRevision, Delta};
use runtime::ids;
use tokio::time::Instant;

use crate::Refused;
use crate::replica::Replica;

/// How long it is taken for true what an index listed. Another replica's deltas are seen with this delay; before a
/// delta is made its index is read again.
const LISTED_FOR: Duration = Duration::from_secs(600);
/// Of how many of the next jobs a replica prefers its half.
const PREFERRED_AMONG: usize = 8;

/// A delta to make.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) channel: ChannelName,
    /// The revision it starts from; `None`: from nothing.
    pub(crate) from: Option<StoredRevision>,
    pub(crate) to: StoredRevision,
}

/// Names a delta: where it leads and where it starts.
pub(super) type Name = (Digest, Option<Digest>);

impl Job {
    pub(super) fn name(&self) -> Name {
        (self.to.manifest, self.from.as_ref().map(|from| from.manifest))
    }
}

/// What this replica knows of deltas.
pub(crate) struct Board {
    /// Tells replicas apart.
    number: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What each index listed, and when it was read.
    listed: BTreeMap<Digest, (Instant, BTreeSet<Option<Digest>>)>,
    /// Made and not worth keeping. Only this process knows of them: the next one finds out again.
    dropped: BTreeSet<Name>,
    running: BTreeSet<Name>,
    /// How often each failed, and when it may be tried again.
    failed: BTreeMap<Name, (u32, Instant)>,
}

impl Default for Board {
    fn default() -> Self {
        Self { number: ids::random_u64(), state: Mutex::default() }
    }
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code panics while it holds this lock, and the sets stay usable if it did.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The job is not being worked on any more.
    pub(super) fn release(&self, job: &Job) {
        self.state().running.remove(&job.name());
    }

    pub(super) fn note_made(&self, job: &Job) {
        let (to, from) = job.name();
        let mut state = self.state();
        state.failed.remove(&(to, from));
        if let Some((_, listed)) = state.listed.get_mut(&to) {
            listed.insert(from);
        }
    }

    pub(super) fn note_dropped(&self, job: &Job) {
        self.state().dropped.insert(job.name());
    }

    /// What is known of the index of this manifest is old.
    pub(crate) fn forget_made(&self, to: &Digest) {
        self.state().listed.remove(to);
    }

    /// Notes a failure and says how many there were before.
    pub(super) fn note_failed(&self, job: &Job) -> u32 {
        let mut state = self.state();
        let (failures, _) = state.failed.entry(job.name()).or_insert((0, Instant::now()));
        *failures += 1;
        *failures - 1
    }

    pub(super) fn retry_at(&self, job: &Job, at: Instant) {
        if let Some((_, retry_at)) = self.state().failed.get_mut(&job.name()) {
            *retry_at = at;
        }
    }

    /// Forgets what is about revisions that are gone.
    fn prune(&self, catalog: &Catalog) {
        let channels = catalog.channels().map(|channel| &channel.value.name);
        let there: BTreeSet<Digest> =
            channels.flat_map(|name| catalog.content_revisions(name)).map(|it| it.value.manifest).collect();
        let mut state = self.state();
        state.listed.retain(|to, _| there.contains(to));
        state.dropped.retain(|(to, _)| there.contains(to));
        state.failed.retain(|(to, _), _| there.contains(to));
    }

    /// Takes the job to work on next, of these in the order of their urgency.
    fn take(&self, jobs: Vec<Job>) -> Option<Job> {
        let now = Instant::now();
        let mut state = self.state();
        let free = |job: &Job| {
            let name = job.name();
            let waits = state.failed.get(&name).is_some_and(|(_, retry_at)| now < *retry_at);
            !waits && !state.running.contains(&name)
        };
        let free: Vec<Job> = jobs.into_iter().filter(free).collect();
        let ours = |job: &&Job| {
            let (to, from) = job.name();
            let hash = to.0[0] ^ from.map_or(0, |from| from.0[0]);
            (u64::from(hash) ^ self.number) & 1 == 0
        };
        let job = free.iter().take(PREFERRED_AMONG).find(ours).or(free.first()).cloned()?;
        state.running.insert(job.name());
        Some(job)
    }
}

/// Takes the next job; it is this worker's until it is released.
pub(super) async fn next(replica: &Replica) -> Result<Option<Job>, Refused> {
    let catalog = replica.catalogue.current();
    replica.board.prune(&catalog);
    let mut jobs = Vec::new();
    for channel in catalog.channels() {
        let name = &channel.value.name;
        let stored = |number| catalog.content_revision(name, number).map(|it| (*it.value).clone());
        for wanted in wanted(replica, &catalog, &channel.value).await? {
            let from = wanted.from.map(stored);
            let (Some(to), Some(from)) = (stored(wanted.to), from.map_or(Some(None), |it| it.map(Some)))
            else {
                continue;
            };
            jobs.push(Job { channel: name.clone(), from, to });
        }
    }
    // Channels take turns: what serves most in each comes before what serves less in any.
    let mut turns: BTreeMap<ChannelName, usize> = BTreeMap::new();
    jobs.sort_by_cached_key(|job| {
        let turn = turns.entry(job.channel.clone()).or_default();
        *turn += 1;
        *turn
    });
    Ok(replica.board.take(jobs))
}

/// What is still to be made in a channel, in the order of its urgency.
pub(super) async fn wanted(
    replica: &Replica,
    catalog: &Catalog,
    channel: &Channel,
) -> Result<Vec<Wanted>, Refused> {
    let name = &channel.name;
    let stored: BTreeSet<ContentRevision> =
        catalog.content_revisions(name).map(|it| it.value.number).collect();
    let named = named(catalog, channel);
    let mut made = BTreeSet::new();
    for target in targets(catalog, channel) {
        let Some(to) = catalog.content_revision(name, target) else { continue };
        // One without bytes needs no delta.
        let empty = to.value.content_bytes == 0;
        let done = done(replica, &to.value.manifest).await?;
        for revision in catalog.content_revisions(name) {
            if empty || done.contains(&Some(revision.value.manifest)) {
                made.insert(Wanted { to: target, from: Some(revision.value.number) });
            }
        }
        if empty || done.contains(&None) {
            made.insert(Wanted { to: target, from: None });
        }
    }
    let holders = replica.census.holders(name);
    let known = Known { channel, stored: &stored, named: &named, holders: &holders, made: &made };
    Ok(patches::next(&known, replica.config.patches.into()))
}

/// Revisions that a group names by number.
fn named(catalog: &Catalog, channel: &Channel) -> BTreeSet<ContentRevision> {
    let pointers =
        catalog.followers(&channel.name).filter_map(|group| group.value.content.get(&channel.name));
    pointers
        .filter_map(|pointer| match pointer {
            ContentPointer::Revision(number) => Some(*number),
            ContentPointer::Stage(_) => None,
        })
        .collect()
}

/// Revisions that agents are led to, or soon will be.
pub(crate) fn targets(catalog: &Catalog, channel: &Channel) -> BTreeSet<ContentRevision> {
    let newest = catalog.content_revisions(&channel.name).next_back().map(|it| it.value.number);
    let staged = channel.stages.values().filter_map(|stage| stage.revision);
    staged.chain(named(catalog, channel)).chain(newest).collect()
}

/// Where the deltas to a manifest start that are listed or were dropped.
async fn done(replica: &Replica, to: &Digest) -> Result<BTreeSet<Option<Digest>>, Refused> {
    let kept = replica.board.state().listed.get(to).filter(|(at, _)| at.elapsed() < LISTED_FOR).cloned();
    let mut done = match kept {
        Some((_, listed)) => listed,
        None => {
            let listed = read(replica, to).await?;
            replica.board.state().listed.insert(*to, (Instant::now(), listed.clone()));
            listed
        }
    };
    let state = replica.board.state();
    done.extend(state.dropped.iter().filter(|(dropped, _)| dropped == to).map(|(_, from)| *from));
    Ok(done)
}

/// Where the deltas start that an index lists. Those of which a part is missing are taken out of it: they are made
/// again.
async fn read(replica: &Replica, to: &Digest) -> Result<BTreeSet<Option<Digest>>, Refused> {
    let store = &replica.store;
    let Some(manifest) = store.manifest(to).await? else { return Ok(BTreeSet::new()) };
    let stored = store.index(to, &manifest).await?;
    let Some(index) = stored.index else { return Ok(BTreeSet::new()) };
    let (mut whole, mut broken): (Vec<Delta>, usize) = (Vec::new(), 0);
    for delta in index.deltas() {
        if store.count_parts(delta.from().as_ref(), to).await? >= delta.parts().len() {
            whole.push(delta.clone());
        } else {
            broken += 1;
        }
    }
    let listed = whole.iter().map(Delta::from).collect();
    if broken > 0 {
        tracing::warn!(manifest = %to, broken, "parts of deltas are missing: they are made again");
        let (fleet, lengths) = (index.fleet().clone(), index.stored_bytes().to_vec());
        if let Ok(repaired) = ContentIndex::new(fleet, *to, lengths, whole) {
            store.put_index(&repaired, stored.sequence).await?;
        }
    }
    Ok(listed)
}
