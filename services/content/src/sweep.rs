//! Retention and garbage collection.
//!
//! First revisions go that retention does not keep, once presence has told what agents are fetching: one change of the
//! catalogue. Then what nothing names any more is deleted, in rounds. A round is planned on one state of the catalogue,
//! and announced there under the condition that this is still the newest one: so each upload either was noted before and
//! is spared, or is noted after and waits until the round is over. A round has an end by the clock, whatever becomes of
//! who runs it.

mod delete;
mod find;
mod retire;

use std::time::Duration;

use domain::Span;
use domain::catalog::{Entry, StoredRevision, Sweep};
use domain::change::Wanted;
use runtime::store::Author;
use runtime::{clock, ids};
use tokio::time::Instant;

use crate::replica::Replica;
use crate::{Refused, change, crash, refuse};
use find::Doomed;

/// How much clocks of replicas may differ.
pub(crate) const CLOCKS_DIFFER: Span = Span::from_secs(5);
/// How long a round may take. Uploads that begin meanwhile wait as long.
const ROUND: Span = Span::from_secs(30);
/// Before its end, no more deletions are started: one that gets no answer is tried again for this long.
const LAST_DELETION: Duration = Duration::from_secs(12);
/// Most rounds of one collection: each deletes tens of thousands of pieces, so that a store that needs more has other
/// troubles, and the next collection goes on.
const MAX_ROUNDS: u32 = 1000;
/// Tries to announce a round while others change the catalogue and uploads begin.
const MAX_TRIES: u32 = 64;
/// How long an upload takes to begin.
const UPLOAD_BEGINS: Duration = Duration::from_millis(100);

/// What a collection did, or would do.
#[derive(Debug, Default)]
pub(crate) struct Collected {
    pub(crate) retired: Vec<StoredRevision>,
    pub(crate) chunks: u64,
    pub(crate) parts: u64,
    pub(crate) manifests: u64,
    pub(crate) freed_bytes: u64,
}

impl Collected {
    fn count(&mut self, doomed: &[Doomed]) {
        for doomed in doomed {
            match doomed {
                Doomed::Manifest(_) => self.manifests += 1,
                Doomed::Index(_) => {}
                Doomed::Chunk(_) => self.chunks += 1,
                Doomed::Delta { parts, .. } => self.parts += parts,
            }
        }
    }
}

/// Applies retention and deletes what nothing needs, or only says what that would be.
///
/// # Errors
/// [`Refused`] as a caller of the API gets it.
pub(crate) async fn collect(replica: &Replica, author: &Author, dry_run: bool) -> Result<Collected, Refused> {
    let _alone = replica.collecting.lock().await;
    let retired = retire::retire(replica, author, dry_run).await?;
    let mut collected = Collected { retired, ..Collected::default() };
    if dry_run {
        let mut catalog = (*replica.catalogue.current()).clone();
        let (gone, revision) = (collected.retired.iter().map(retire::deletion), catalog.revision());
        catalog.fold(gone, revision);
        let doomed = find::find(replica, &catalog, (usize::MAX, true)).await?.ok_or_else(|| {
            let message = "an upload begins just now: try again".to_owned();
            Refused(refuse::later("UPLOAD_BEGINS", message, UPLOAD_BEGINS))
        })?;
        collected.count(&doomed);
        collected.freed_bytes = find::bytes(replica, &doomed).await?;
        return Ok(collected);
    }
    if !collected.retired.is_empty() {
        crash::point("retired");
    }
    replica.store.forget_used();
    let before = replica.store.used().await?;
    for _ in 0..MAX_ROUNDS {
        let deleted = round(replica, author).await?;
        collected.count(&deleted);
        if deleted.is_empty() || replica.shutdown.is_requested() {
            break;
        }
    }
    replica.store.forget_used();
    collected.freed_bytes = before.saturating_sub(replica.store.used().await?);
    if collected.chunks + collected.parts + collected.manifests > 0 {
        let Collected { retired, chunks, parts, manifests, freed_bytes } = &collected;
        let retired = retired.len();
        tracing::info!(retired, chunks, parts, manifests, freed_bytes, "collected garbage");
    }
    Ok(collected)
}

/// Deletes a part of what nothing needs.
///
/// # Returns
/// What was deleted; nothing if there was nothing to do.
async fn round(replica: &Replica, author: &Author) -> Result<Vec<Doomed>, Refused> {
    for _ in 0..MAX_TRIES {
        replica.catalogue.catch_up().await?;
        let catalog = replica.catalogue.current();
        if let Some(running) = catalog.sweep().filter(|sweep| is_running(sweep)) {
            wait_for(replica, running).await?;
            continue;
        }
        let below = replica.store.last_sequence().await?.saturating_add(1);
        let Some(doomed) = find::find(replica, &catalog, (find::MAX_DOOMED, false)).await? else {
            tokio::time::sleep(UPLOAD_BEGINS).await;
            continue;
        };
        if doomed.is_empty() {
            return Ok(doomed);
        }
        crash::point("sweep-planned");
        let start = Instant::now();
        let sweep = Sweep { id: ids::random_u64(), until: clock::now() + ROUND, done: false };
        let entry = [Entry::Sweep(sweep)];
        let announced = replica.catalogue.commit(author, &entry, catalog.revision()).await;
        if announced.map_err(change::NotMade::Commit)?.is_none() {
            continue;
        }
        crash::point("sweep-noted");
        let deadline = start + Duration::from(ROUND).saturating_sub(LAST_DELETION);
        // If this fails, deletions may be under way: only the end of the round says that they are over.
        let deleted = delete::delete(replica, doomed, (below, deadline)).await?;
        over(replica, author, sweep).await?;
        crash::point("sweep-done");
        return Ok(deleted);
    }
    let message = "uploads begin and end all the time: try again later".to_owned();
    Err(Refused(refuse::later("BUSY", message, ROUND.into())))
}

/// Whether a round may still delete.
fn is_running(sweep: &Sweep) -> bool {
    !sweep.done && clock::now() <= sweep.until + CLOCKS_DIFFER
}

/// Waits until a round of another replica is over.
///
/// # Errors
/// `UNAVAILABLE` if it says that it takes longer than a round does.
async fn wait_for(replica: &Replica, running: &Sweep) -> Result<(), Refused> {
    let left = (running.until + CLOCKS_DIFFER).since(clock::now());
    if left > Span(ROUND.0 + CLOCKS_DIFFER.0) {
        let message = "garbage is being collected already: try again later".to_owned();
        return Err(Refused(refuse::later("SWEEP", message, left.into())));
    }
    let over = replica
        .catalogue
        .until(|catalog| catalog.sweep().is_none_or(|newer| newer.id != running.id || newer.done));
    tokio::select! {
        () = over => Ok(()),
        () = tokio::time::sleep(left.into()) => Ok(()),
        () = replica.shutdown.requested() => {
            Err(Refused(refuse::later("STOPPING", "this replica stops".to_owned(), Duration::ZERO)))
        }
    }
}

/// Says that a round is over.
async fn over(replica: &Replica, author: &Author, sweep: Sweep) -> Result<(), Refused> {
    let done = Sweep { done: true, ..sweep };
    let change = change::make(replica, author, false, |catalog| {
        let ours = catalog.sweep().is_some_and(|newest| newest.id == sweep.id);
        Ok(if ours { vec![Wanted::Sweep(done).into()] } else { Vec::new() })
    });
    change.await?;
    Ok(())
}

/// Collects garbage again and again until the shutdown.
pub(crate) async fn run(replica: &Replica) -> Result<(), std::convert::Infallible> {
    let every = replica.config.gc_every;
    let author =
        Author { actor: "content".to_owned(), message: "garbage collection".to_owned(), trace_id: None };
    loop {
        // Replicas that started together do not collect together.
        let pause = every.mul_f64(0.9) + ids::jitter(every / 5);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = replica.shutdown.requested() => return Ok(()),
        }
        let _call = replica.call();
        let recent = replica.catalogue.look(|catalog| {
            catalog.sweep().is_some_and(|sweep| clock::now().since(sweep.until) < Span::from(every / 2))
        });
        if recent {
            tracing::debug!("another replica has collected garbage");
            continue;
        }
        let collected = tokio::select! {
            collected = collect(replica, &author, false) => collected,
            // The round that is open ends by the clock.
            () = replica.out_of_time() => return Ok(()),
        };
        if let Err(Refused(status)) = collected {
            tracing::warn!(error = status.message(), "garbage was not collected: the next try is in a while");
        }
    }
}
