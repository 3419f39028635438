//! Publishes heads: writes what the catalogue compiles to by compare-and-set, so that of any number of
//! replicas one wins and the others see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::vec::IntoIter;

use bytes::Bytes;
use domain::{Cursor, Epoch, GroupId, Revision};
use futures::{FutureExt as _, StreamExt as _};
use runtime::nats::{BatchMessage, Expect, MAX_BATCH_MESSAGES, PublishError};
use runtime::store::{ChangeInfo, CommitError};
use runtime::telemetry::spans;
use runtime::{Shutdown, clock, ids};
use tokio::time::Instant;
use tracing::Span;
use wire::subject::{self, STREAM_DESIRED};

use crate::fold::View;
use crate::heads::{Head, Says};
use crate::replica::{Gone, Replica};
use crate::seal::{self, Due, Sealed, cursor_headers};
use crate::work::{Item, Taken};

/// Heads that are published at the same time, each by itself: enough to keep the stream busy while each waits
/// for its acknowledgement.
const AT_ONCE: usize = 128;
/// Heads that are taken up together: a few full batches, so that sealing and storing overlap. Between two such
/// lots, new work is noticed.
const LOT: usize = 4 * MAX_BATCH_MESSAGES;
/// Pause before a head is looked at again that somebody else wrote at the same moment: the follower has
/// seen it by then.
const AFTER_CONFLICT: Duration = Duration::from_millis(50);
/// Pause before a head is tried again that could not be written, with full jitter on top.
const AFTER_FAILURE: Duration = Duration::from_secs(1);
/// How often heads are looked through for those that are to be renewed.
const RENEW_EVERY: Duration = Duration::from_secs(60);
/// Renewals are spread over this, or an eighth of a shorter validity, so that replicas do not all sign the
/// same heads.
const RENEW_SPREAD: Duration = Duration::from_secs(30);
/// Pause before the store is compared with the heads again.
const COMPARE_PAUSE: Duration = Duration::from_millis(50);

/// Publishes until the shutdown.
pub(crate) async fn run(replica: &Arc<Replica>, shutdown: &Shutdown) -> Result<(), Gone> {
    let mut renewal = tokio::time::interval(RENEW_EVERY);
    let mut stopped = std::pin::pin!(replica.stopped(shutdown));
    loop {
        // A step that is cut short leaves heads for the next one that looks after them.
        let next = tokio::select! {
            next = step(replica) => next,
            () = &mut stopped => return Ok(()),
        };
        let next = async {
            match next {
                Next::Now => {}
                Next::At(time) => tokio::time::sleep_until(time).await,
                Next::WhenAdded => std::future::pending().await,
            }
        };
        tokio::select! {
            () = next => {}
            () = replica.work.added() => {}
            _ = renewal.tick() => renew(replica),
            () = &mut stopped => return Ok(()),
        }
    }
}

enum Next {
    Now,
    At(Instant),
    WhenAdded,
}

/// Does what is due.
async fn step(replica: &Arc<Replica>) -> Next {
    let Some(view) = replica.current() else { return Next::WhenAdded };
    if !replica.heads(|heads| heads.is_complete()) {
        return Next::WhenAdded;
    }
    if replica.compare_epochs.swap(false, Ordering::AcqRel)
        && let Some(pause) = compare_epochs(replica, &view).await
    {
        replica.compare_epochs.store(true, Ordering::Release);
        return Next::At(Instant::now() + pause);
    }
    let Some((view, taken)) = replica.take_work(Instant::now(), LOT) else { return Next::WhenAdded };
    match taken {
        Taken::Items(items) => {
            publish_all(replica, &view, items).await;
            Next::Now
        }
        Taken::Later(time) => Next::At(time),
        Taken::Nothing => {
            replica.published.send_if_modified(|published| {
                std::mem::replace(published, view.revision()) != view.revision()
            });
            let again = mark(replica, view.cursor()).await;
            again.map_or(Next::WhenAdded, |pause| Next::At(Instant::now() + pause))
        }
    }
}

/// Takes up the heads that are to be renewed.
pub(crate) fn renew(replica: &Replica) {
    let due = replica.heads(|heads| heads.due(clock::now()));
    let spread = RENEW_SPREAD.min(Duration::from(replica.validity) / 8);
    for group in due {
        let due = Instant::now() + ids::jitter(spread);
        replica.work.add([group], Item { due, check_path: false });
    }
}

/// What became of heads that were looked at.
#[derive(Default)]
struct Outcome {
    written: usize,
    failure: Option<PublishError>,
}

impl Outcome {
    /// One head was looked at; whether it was written. One that could not be is looked at again later.
    fn note(&mut self, replica: &Replica, (group, item): Due, written: Result<bool, PublishError>) {
        let pause = match written {
            Ok(wrote) => {
                self.written += usize::from(wrote);
                return;
            }
            Err(PublishError::Conflict { .. }) => AFTER_CONFLICT,
            Err(
                error @ (PublishError::TooLarge { .. }
                | PublishError::Full { .. }
                | PublishError::Unavailable { .. }
                | PublishError::Refused { .. }),
            ) => {
                self.failure = Some(error);
                AFTER_FAILURE + ids::jitter(AFTER_FAILURE)
            }
        };
        replica.work.add([group], Item { due: Instant::now() + pause, ..item });
    }

    fn and(self, other: Self) -> Self {
        Self { written: self.written + other.written, failure: other.failure.or(self.failure) }
    }
}

pub(crate) async fn publish_all(replica: &Arc<Replica>, view: &Arc<View>, items: Vec<Due>) {
    let count = items.len();
    // One alone goes the shortest way: somebody may be waiting for it.
    let outcome = if count == 1 {
        publish_each(replica, view, items).await
    } else {
        publish_in_batches(replica, view, items).await
    };
    if let Some(error) = outcome.failure {
        let error = runtime::log::chain(&error);
        tracing::warn!(error, "heads could not be published; trying again");
    }
    if outcome.written > 0 {
        let (heads, revision) = (outcome.written, view.revision().0);
        tracing::info!(heads, looked_at = count, revision, "published heads");
    }
}

/// Publishes each head by itself.
async fn publish_each(replica: &Replica, view: &View, items: Vec<Due>) -> Outcome {
    let span = publishing(replica, view, &items);
    let place = spans::place(&span);
    let outcomes = futures::stream::iter(items)
        .map(|due| async move {
            let written = match seal::seal(replica, view, due.clone(), place) {
                Some(sealed) => publish(replica, sealed).await.map(|()| true),
                None => Ok(false),
            };
            (due, written)
        })
        .buffer_unordered(AT_ONCE);
    let (mut all, mut outcomes) = (Outcome::default(), std::pin::pin!(outcomes));
    while let Some((due, written)) = outcomes.next().await {
        all.note(replica, due, written);
    }
    published(&span, &all);
    all
}

/// The span of heads that are published together: one for all of them, whose place they name. None where no change is
/// behind it, or somebody else has published its heads.
fn publishing(replica: &Replica, view: &View, items: &[Due]) -> Span {
    match &seal::causes(replica, view, items)[..] {
        [] => Span::none(),
        causes => spans::publish_for("desired.group.{group}", causes),
    }
}

fn published(span: &Span, outcome: &Outcome) {
    spans::batch(span, outcome.written);
    if outcome.failure.is_some() {
        spans::failed(span, "not_published");
    }
}

/// Publishes heads in batches. While one is being stored, the next is sealed.
async fn publish_in_batches(replica: &Arc<Replica>, view: &Arc<View>, items: Vec<Due>) -> Outcome {
    let mut all = Outcome::default();
    let mut next = next_batch(replica, view, items.into_iter()).await;
    while let Some((batch, span, rest)) = next {
        let publishing = publish_batch(replica, view, batch).map(|outcome| {
            published(&span, &outcome);
            // Ends the span here, not when the next batch is sealed.
            drop(span);
            outcome
        });
        let (outcome, following) = tokio::join!(publishing, next_batch(replica, view, rest));
        all = all.and(outcome);
        next = following;
    }
    all
}

async fn next_batch(
    replica: &Arc<Replica>,
    view: &Arc<View>,
    mut rest: IntoIter<Due>,
) -> Option<(Vec<Sealed>, Span, IntoIter<Due>)> {
    if rest.as_slice().is_empty() {
        return None;
    }
    let span = publishing(replica, view, rest.as_slice());
    let place = spans::place(&span);
    let (replica, view) = (Arc::clone(replica), Arc::clone(view));
    // A thousand signatures take tens of milliseconds: too long for the threads that answer requests.
    let sealing = tokio::task::spawn_blocking(move || {
        let batch = seal::batch(&replica, &view, &mut rest, place);
        (batch, span, rest)
    });
    Some(sealing.await.expect("invariant: sealing does not panic"))
}

/// Publishes heads together.
async fn publish_batch(replica: &Replica, view: &View, mut batch: Vec<Sealed>) -> Outcome {
    let mut outcome = Outcome::default();
    let items: Vec<Due> = batch.iter().map(|sealed| (sealed.group.clone(), sealed.item)).collect();
    if batch.len() <= 1 {
        if let (Some(sealed), Some(due)) = (batch.pop(), items.into_iter().next()) {
            outcome.note(replica, due, publish(replica, sealed).await.map(|()| true));
        }
        return outcome;
    }
    let (messages, written): (Vec<_>, Vec<_>) = batch.into_iter().map(batched).unzip();
    match replica.nats.publish_batch_each(messages).await {
        Ok(last) => {
            outcome.written = written.len();
            let first = last + 1 - written.len() as u64;
            for (sequence, (group, cursor, says)) in (first..).zip(written) {
                note(replica, group, cursor, Head { sequence, says });
            }
            outcome
        }
        // One head may be to blame: the others must not wait until that one is settled.
        Err(error @ PublishError::Conflict { .. }) => {
            let error = runtime::log::chain(&error);
            tracing::debug!(error, heads = items.len(), "publishing the heads of a batch each by itself");
            publish_each(replica, view, items).await
        }
        Err(error @ (PublishError::TooLarge { .. } | PublishError::Refused { .. })) => {
            let error = runtime::log::chain(&error);
            tracing::warn!(error, heads = items.len(), "publishing the heads of a batch each by itself");
            publish_each(replica, view, items).await
        }
        // Each by itself would fare no better. They stay together, so that they make a batch again.
        Err(error @ (PublishError::Full { .. } | PublishError::Unavailable { .. })) => {
            let due = Instant::now() + AFTER_FAILURE + ids::jitter(AFTER_FAILURE);
            for (group, item) in items {
                replica.work.add([group], Item { due, ..item });
            }
            outcome.failure = Some(error);
            outcome
        }
    }
}

/// A head as a message of a batch, and what is to be noted when it is written.
fn batched(sealed: Sealed) -> ((BatchMessage, Expect), (GroupId, Cursor, Says)) {
    let subject = subject::desired_group(&sealed.group);
    let (headers, payload) = sealed.message;
    runtime::crash::point("publish-head");
    let message = BatchMessage { subject, headers, payload };
    ((message, sealed.expect), (sealed.group, sealed.cursor, sealed.says))
}

/// Publishes one head.
async fn publish(replica: &Replica, sealed: Sealed) -> Result<(), PublishError> {
    let subject = subject::desired_group(&sealed.group);
    runtime::crash::point("publish-head");
    let sequence = replica.nats.publish_cas(STREAM_DESIRED, &subject, sealed.message, sealed.expect).await?;
    note(replica, sealed.group, sealed.cursor, Head { sequence, says: sealed.says });
    Ok(())
}

fn note(replica: &Replica, group: GroupId, cursor: Cursor, head: Head) {
    tracing::debug!(%group, %cursor, sequence = head.sequence, "published a head");
    replica.heads_mut(|heads| heads.note(group, head));
}

/// Says that every head up to a cursor is published, unless that is said already. Returns when to try again,
/// if need be.
async fn mark(replica: &Replica, cursor: Cursor) -> Option<Duration> {
    let marker = replica.heads(|heads| heads.marker());
    if marker.is_some_and(|(_, marked)| marked >= cursor) {
        return None;
    }
    let expect = Expect::LastSubject(marker.map_or(0, |(sequence, _)| sequence));
    let message = (cursor_headers(cursor), Bytes::new());
    match replica.nats.publish_cas(STREAM_DESIRED, &subject::desired_compiled(), message, expect).await {
        Ok(sequence) => {
            replica.heads_mut(|heads| heads.note_marker(sequence, cursor));
            None
        }
        // Another replica said so, or more, or less; the follower will show it.
        Err(PublishError::Conflict { .. }) => Some(AFTER_CONFLICT),
        Err(
            error @ (PublishError::TooLarge { .. }
            | PublishError::Full { .. }
            | PublishError::Unavailable { .. }
            | PublishError::Refused { .. }),
        ) => {
            tracing::warn!(error = %runtime::log::chain(&error), "the marker of heads could not be published");
            Some(AFTER_FAILURE)
        }
    }
}

/// What the comparison of the store with the heads says.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// The store is at least as new as the heads.
    Fine,
    /// This replica has not folded all of the log yet.
    CatchUp,
    /// This epoch has to be written: the store is older than the heads, or it is empty.
    Write(Epoch),
}

fn verdict(highest: Cursor, folded: Cursor, end: Revision) -> Verdict {
    if highest <= folded && folded.revision > Revision(0) {
        Verdict::Fine
    } else if folded.revision < end {
        Verdict::CatchUp
    } else if highest > folded {
        Verdict::Write(Epoch(highest.epoch.0 + 1))
    } else {
        Verdict::Write(folded.epoch)
    }
}

/// If heads are newer than the store, the store was restored from a backup: revisions would repeat, and
/// agents refuse those. A new epoch makes all that follows newer. An empty store begins with an epoch too, so
/// that nothing is published under revision 0. Returns when to compare again, if need be.
async fn compare_epochs(replica: &Replica, view: &View) -> Option<Duration> {
    let (highest, folded) = (replica.heads(|heads| heads.highest()), view.cursor());
    let end = match replica.log.end().await {
        Ok(end) => end,
        Err(error) => {
            tracing::warn!(error = %runtime::log::chain(&error), "cannot compare the store with the heads yet");
            return Some(AFTER_FAILURE);
        }
    };
    let epoch = match verdict(highest, folded, end) {
        Verdict::Fine => return None,
        Verdict::CatchUp => return Some(COMPARE_PAUSE),
        Verdict::Write(epoch) => epoch,
    };
    let message = if highest > folded {
        tracing::warn!(%folded, %highest, %epoch, "the store is older than what was published: raising the epoch");
        format!("the store was restored: heads were published up to {highest}")
    } else {
        "the store begins".to_owned()
    };
    let info = ChangeInfo {
        id: ids::random_id().parse().expect("invariant: a random id is an id"),
        actor: "muster".to_owned(),
        message,
        time: clock::now(),
        trace_id: None,
    };
    let entry = crate::change::stored(&domain::catalog::Entry::Epoch(epoch));
    match replica.log.commit(&info, vec![entry], folded.revision).await {
        // Nothing is published before it has been folded.
        Ok(_) | Err(CommitError::Conflict { .. }) => Some(COMPARE_PAUSE),
        Err(error) => {
            tracing::warn!(error = %runtime::log::chain(&error), "the epoch could not be written yet");
            Some(AFTER_FAILURE)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_is_written_when_the_whole_store_is_older_than_the_heads_or_empty() {
        let at = Cursor::new;
        for (highest, folded, end, expected) in [
            (at(1, 5), at(1, 7), 7, Verdict::Fine),
            (at(1, 7), at(1, 7), 7, Verdict::Fine),
            (at(1, 9), at(1, 7), 9, Verdict::CatchUp),
            (at(1, 9), at(1, 7), 8, Verdict::CatchUp),
            (at(1, 5), at(1, 7), 8, Verdict::Fine),
            (at(0, 0), at(1, 0), 1, Verdict::CatchUp),
            (at(1, 9), at(1, 7), 7, Verdict::Write(Epoch(2))),
            (at(3, 2), at(1, 7), 7, Verdict::Write(Epoch(4))),
            (at(1, 9), at(2, 7), 7, Verdict::Fine),
            (at(0, 0), at(1, 0), 0, Verdict::Write(Epoch(1))),
            (at(1, 9), at(1, 0), 0, Verdict::Write(Epoch(2))),
        ] {
            assert_eq!(verdict(highest, folded, Revision(end)), expected, "{highest} {folded} {end}");
        }
    }
}
