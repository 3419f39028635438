//! Deltas: the whole content in one, and patches from what agents hold, made in the background.
//!
//! What to make next is decided by [`domain::content::patches`] from the catalogue, the census and what the indexes
//! list. A worker fetches both contents into files without a name, compresses on a thread that stands back for all
//! others, stores the parts, and then lists them in the index by compare-and-set, so that of two replicas neither undoes
//! what the other did.
//!
//! Replicas do not agree on who makes what. Each prefers one half of the jobs, by a number of its own, looks into the
//! index again and again while it works, and lets go when another was quicker. The worst is that a delta is made twice:
//! the same bytes under the same names.

mod board;
mod make;
mod source;

use std::time::Duration;

use domain::catalog::{Catalog, StoredRevision};
use runtime::ids;
use tokio::time::Instant;

pub(crate) use board::{Board, targets};

use crate::Refused;
use crate::replica::Replica;
use board::Job;
use make::{Made, NotMade};

/// How long a worker sleeps at most: the catalogue and the census wake it, and failed jobs come back.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Pauses before a failed job is tried again: doubling from the first value up to the second, with full jitter.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(600));

/// Makes deltas until the shutdown.
pub(crate) async fn run(replica: &Replica) -> Result<(), std::convert::Infallible> {
    tokio::select! {
        () = run_on(replica) => {}
        () = replica.out_of_time() => tracing::debug!("stopping amid the making of a delta"),
    }
    Ok(())
}

async fn run_on(replica: &Replica) {
    tokio::select! {
        () = replica.catalogue.loaded() => {}
        () = replica.shutdown.requested() => return,
    }
    let mut sources = source::Sources::new(replica.config.work_dir.clone());
    while !replica.shutdown.is_requested() {
        let job = match board::next(replica).await {
            Ok(job) => job,
            Err(error) => {
                tracing::debug!(error = error.0.message(), "what deltas to make is not known");
                None
            }
        };
        match job {
            Some(job) => {
                work(replica, &mut sources, &job).await;
                replica.board.release(&job);
            }
            None => {
                sources.forget();
                tokio::select! {
                    () = replica.wake.notified() => {}
                    () = tokio::time::sleep(LOOK_AGAIN) => {}
                    () = replica.shutdown.requested() => {}
                }
            }
        }
    }
}

/// Makes one delta and says what came of it.
async fn work(replica: &Replica, sources: &mut source::Sources, job: &Job) {
    let start = Instant::now();
    let (channel, to) = (&job.channel, job.to.number.0);
    let from = job.from.as_ref().map_or(0, |from| from.number.0);
    match make::make(replica, sources, job).await {
        Ok(Made { bytes, chunk_bytes }) => {
            let ms = u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(%channel, from, to, bytes, chunk_bytes, ms, "made a delta");
            replica.board.note_made(job);
        }
        Err(NotMade::NotWorthIt) => {
            tracing::debug!(%channel, from, to, "a delta would not be smaller than the chunks");
            replica.board.note_dropped(job);
        }
        Err(NotMade::Elsewhere) => {
            tracing::debug!(%channel, from, to, "another replica made this delta");
            replica.board.forget_made(&job.to.manifest);
        }
        Err(NotMade::Overtaken) => tracing::debug!(%channel, from, to, "agents are not led there any more"),
        Err(NotMade::Stopping) => {}
        Err(NotMade::Gone) => tracing::debug!(%channel, from, to, "the revision is gone"),
        Err(error @ (NotMade::Quota | NotMade::Failed(_) | NotMade::Lost(_) | NotMade::Files(_))) => {
            let (failures, cause) = (replica.board.note_failed(job), runtime::log::chain(&error));
            let pause = RETRY.0.saturating_mul(1 << failures.min(10)).min(RETRY.1);
            let pause = RETRY.0 / 2 + ids::jitter(pause);
            replica.board.retry_at(job, Instant::now() + pause);
            tracing::warn!(%channel, from, to, cause, pause_s = pause.as_secs(), "a delta was not made");
        }
    }
}

/// How many deltas to a revision are being made or wait for that.
pub(crate) async fn pending(
    replica: &Replica,
    catalog: &Catalog,
    revision: &StoredRevision,
) -> Result<u32, Refused> {
    let Some(channel) = catalog.channel(&revision.channel) else { return Ok(0) };
    let wanted = board::wanted(replica, catalog, &channel.value).await?;
    let to_this = wanted.iter().filter(|wanted| wanted.to == revision.number).count();
    Ok(u32::try_from(to_this).unwrap_or(u32::MAX))
}
