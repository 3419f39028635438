//! Publishes heads: signs what the catalogue compiles to and writes it by compare-and-set, so that of any
//! number of replicas one wins and the others see it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use domain::snapshot::MAX_SNAPSHOT_BYTES;
use domain::{Cursor, Epoch, GroupId, Mode, PolicyItem, Revision, Snapshot};
use futures::StreamExt as _;
use runtime::nats::{Expect, Headers, PublishError};
use runtime::store::{ChangeInfo, CommitError};
use runtime::{Shutdown, clock, ids};
use tokio::time::Instant;
use wire::subject::{self, STREAM_DESIRED, header};

use crate::fold::View;
use crate::heads::{Circumstances, Head, Published, Says, Step, Wanted, decide};
use crate::replica::{Gone, Replica};
use crate::work::{Item, Taken};

/// Heads that are published at the same time: enough to keep the stream busy while each waits for its
/// acknowledgement.
const AT_ONCE: usize = 128;
/// Heads that are taken up together. Between two such batches, new work and the shutdown are noticed.
const BATCH: usize = 1024;
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
pub(crate) async fn run(replica: &Replica, shutdown: &Shutdown) -> Result<(), Gone> {
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
async fn step(replica: &Replica) -> Next {
    // The view comes first: its work was added before it was shown, so if there is no work now, all heads of
    // this view are published.
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
    match replica.work.take(Instant::now(), BATCH) {
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

async fn publish_all(replica: &Replica, view: &Arc<View>, items: Vec<(GroupId, Item)>) {
    let count = items.len();
    let outcomes = futures::stream::iter(items)
        .map(|(group, item)| async move {
            let outcome = publish(replica, view, &group, item).await;
            (group, item, outcome)
        })
        .buffer_unordered(AT_ONCE);
    let (mut written, mut failure) = (0, None);
    let mut outcomes = std::pin::pin!(outcomes);
    while let Some((group, item, outcome)) = outcomes.next().await {
        let pause = match outcome {
            Ok(wrote) => {
                written += usize::from(wrote);
                continue;
            }
            Err(PublishError::Conflict { .. }) => AFTER_CONFLICT,
            Err(
                error @ (PublishError::TooLarge { .. }
                | PublishError::Full { .. }
                | PublishError::Unavailable { .. }
                | PublishError::Refused { .. }),
            ) => {
                failure = Some(error);
                AFTER_FAILURE + ids::jitter(AFTER_FAILURE)
            }
        };
        replica.work.add([group], Item { due: Instant::now() + pause, ..item });
    }
    if let Some(error) = failure {
        let error = runtime::log::chain(&error);
        tracing::warn!(error, "heads could not be published; trying again");
    }
    if written > 0 {
        tracing::info!(heads = written, looked_at = count, revision = view.revision().0, "published heads");
    }
}

/// What the catalogue wants a group's head to be; `None` if there is no such group.
pub(crate) fn wanted(view: &View, group: &GroupId) -> Option<Wanted> {
    let (content, since) = (view.compiled.content(group)?, view.since(group)?);
    let path = view.catalog.group(group)?.value.path.clone();
    Some(Wanted { digest: content.digest(), path, since: since.revision })
}

/// Looks at one head and does what is to be done. True if something was written.
async fn publish(replica: &Replica, view: &View, group: &GroupId, item: Item) -> Result<bool, PublishError> {
    let head = replica.heads(|heads| heads.get(group).cloned());
    let at = Circumstances { catalog: view.cursor(), check_path: item.check_path, now: clock::now() };
    let (cursor, message, says) = match decide(wanted(view, group).as_ref(), head.as_ref(), at) {
        Step::Keep | Step::Behind => return Ok(false),
        Step::Publish(cursor) | Step::Renew(cursor) => {
            let snapshot = snapshot(replica, view, group, (cursor, head.as_ref()));
            let Some(snapshot) = snapshot else { return Ok(false) };
            let Some(message) = sealed(replica, &snapshot) else { return Ok(false) };
            (cursor, message, Says::Snapshot(Published::from(&snapshot)))
        }
        Step::Remove(cursor) => (cursor, (cursor_headers(cursor), Bytes::new()), Says::Gone(cursor)),
    };
    let expect = Expect::LastSubject(head.map_or(0, |head| head.sequence));
    let subject = subject::desired_group(group);
    runtime::crash::point("publish-head");
    let sequence = replica.nats.publish_cas(STREAM_DESIRED, &subject, message, expect).await?;
    tracing::debug!(%group, %cursor, sequence, "published a head");
    replica.heads_mut(|heads| heads.note(group.clone(), Head { sequence, says }));
    Ok(true)
}

fn snapshot(
    replica: &Replica,
    view: &View,
    group: &GroupId,
    (cursor, head): (Cursor, Option<&Head>),
) -> Option<Snapshot> {
    let content = view.compiled.content(group)?;
    let before = head.and_then(|head| match &head.says {
        Says::Snapshot(published) => Some(published),
        Says::Gone(_) | Says::Nothing => None,
    });
    let policies = content.kinds().iter().map(|(kind, resolved)| {
        let digest = resolved.document.digest();
        PolicyItem {
            kind: kind.clone(),
            revision: before.and_then(|p| p.item_revision(kind, &digest)).unwrap_or(cursor.revision),
            document: Arc::clone(resolved.document.bytes()),
            digest,
        }
    });
    let issued_at = clock::now();
    Some(Snapshot {
        fleet: replica.fleet.clone(),
        group: group.clone(),
        path: view.catalog.group(group)?.value.path.clone(),
        cursor,
        issued_at,
        expires_at: issued_at + replica.validity,
        settings: *content.settings(),
        policies: policies.collect(),
        trace_id: view.since(group)?.trace_id,
    })
}

/// The message of a head. `None` if it does not fit: the planner refuses such a change, so it can only come
/// from a store that another version wrote.
fn sealed(replica: &Replica, snapshot: &Snapshot) -> Option<(Headers, Bytes)> {
    let envelope = wire::snapshot::seal(snapshot, &replica.director);
    if envelope.payload.len() > MAX_SNAPSHOT_BYTES {
        let (group, bytes) = (&snapshot.group, envelope.payload.len());
        tracing::error!(%group, bytes, "the snapshot of a group is too large to be published");
        return None;
    }
    let mode = match snapshot.settings.mode {
        Mode::Pull => "pull",
        Mode::Push => "push",
    };
    let headers = cursor_headers(snapshot.cursor)
        .number(header::ISSUED_AT, snapshot.issued_at.0)
        .number(header::EXPIRES_AT, snapshot.expires_at.0)
        .number(header::HEARTBEAT_INTERVAL, snapshot.settings.heartbeat_interval.0)
        .number(header::OFFLINE_AFTER, snapshot.settings.offline_after.0);
    let texts = [
        (header::DIGEST, snapshot.content_digest().to_string()),
        (header::GROUP_PATH, snapshot.path.to_string()),
        (header::MODE, mode.to_owned()),
    ];
    let headers = texts.into_iter().fold(headers, |headers, (name, text)| {
        headers.text(name, &text).expect("invariant: digests, paths and modes have no line break")
    });
    Some((headers, wire::encode(&envelope)))
}

fn cursor_headers(cursor: Cursor) -> Headers {
    Headers::new().number(header::EPOCH, cursor.epoch.0).number(header::REVISION, cursor.revision.0)
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
