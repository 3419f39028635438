//! Follows what stands in DESIRED, and makes the stream again if it is gone.

use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::{Cursor, GroupId};
use runtime::nats::{DESIRED, Follow, Followed, From, StreamMessage};
use runtime::{Condition, Shutdown};
use wire::subject::{STREAM_DESIRED, header, parse_group, pattern};

use crate::heads::{Circumstances, Head, Heads, Published, Says, Step, decide};
use crate::replica::{Gone, Replica};
use crate::seal::wanted;

/// Pause between tries to make the stream again.
const REMAKE_PAUSE: Duration = Duration::from_secs(1);

/// Follows the heads and the marker until the shutdown.
pub(crate) async fn follow(
    replica: &Replica,
    (ready, may_sign): (Condition, Condition),
    shutdown: &Shutdown,
) -> Result<(), Gone> {
    let follow = |filter| replica.nats.follow(STREAM_DESIRED, filter, From::LastPerSubject, false);
    let mut heads: Follow = follow(pattern::DESIRED_GROUPS);
    let mut markers: Follow = follow(pattern::DESIRED_COMPILED);
    let mut roots = replica.roots.changes();
    let mut directors = replica.roots.directors();
    let mut stopped = std::pin::pin!(replica.stopped(shutdown));
    loop {
        say_whether_it_may_sign(replica, &may_sign);
        tokio::select! {
            changed = roots.changed() => {
                changed.map_err(|_| Gone("the trust roots"))?;
                // Whose signature holds is another question now: all heads are read again.
                let now = replica.roots.directors();
                if std::mem::replace(&mut directors, now) != replica.roots.directors() {
                    ready.set_not_ready("is loading the heads");
                    replica.heads_mut(Heads::forget);
                    heads = follow(pattern::DESIRED_GROUPS);
                }
            }
            event = heads.next() => match event.ok_or(Gone("the stream of heads"))? {
                Followed::Message(message) => note(replica, message),
                Followed::CaughtUp => {
                    replica.heads_mut(Heads::set_complete);
                    replica.compare_epochs.store(true, Ordering::Release);
                    if let Some(view) = replica.current() {
                        replica.look_at_all(&view);
                    }
                    replica.work.wake();
                    ready.set_ready();
                }
                Followed::Reset => {
                    ready.set_not_ready("is loading the heads");
                    replica.heads_mut(Heads::forget);
                }
                Followed::Missing => {
                    ready.set_not_ready("has no stream of heads");
                    remake(replica, shutdown).await;
                }
            },
            event = markers.next() => match event.ok_or(Gone("the marker of heads"))? {
                Followed::Message(message) => {
                    let cursor = cursor(&message).unwrap_or(Cursor::NONE);
                    replica.heads_mut(|heads| heads.note_marker(message.sequence, cursor));
                }
                Followed::Reset => {
                    replica.heads_mut(Heads::forget_marker);
                    replica.work.wake();
                }
                Followed::CaughtUp | Followed::Missing => {}
            },
            () = &mut stopped => return Ok(()),
        }
    }
}

/// A replica whose key the fleet does not trust publishes nothing: agents would refuse it.
fn say_whether_it_may_sign(replica: &Replica, may_sign: &Condition) {
    match (replica.may_sign(), replica.roots.version()) {
        (true, _) => may_sign.set_ready(),
        (false, 0) => may_sign.set_not_ready("waits for the fleet's trust root"),
        (false, version) => may_sign.set_not_ready(format!(
            "is not the key that trust root {version} names for the role director: give that one with --director-key"
        )),
    }
}

/// Everything in the stream can be made again from the store, so a missing one is made without asking.
async fn remake(replica: &Replica, shutdown: &Shutdown) {
    loop {
        tracing::warn!("the stream of heads is gone: making it again");
        match replica.nats.ensure_stream(&DESIRED, replica.stream_replicas).await {
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(error = %runtime::log::chain(&error), "cannot make the stream of heads yet");
            }
        }
        tokio::select! {
            () = tokio::time::sleep(REMAKE_PAUSE) => {}
            () = shutdown.requested() => return,
        }
    }
}

fn note(replica: &Replica, message: StreamMessage) {
    let Some(group) = parse_group(&message.subject) else { return };
    let is_own =
        replica.heads(|heads| heads.get(&group).is_some_and(|head| head.sequence == message.sequence));
    if !is_own {
        let head = Head { sequence: message.sequence, says: says(replica, &group, &message) };
        replica.heads_mut(|heads| heads.note(group.clone(), head.clone()));
        look_again(replica, &group, &head);
    }
    replica.work.hasten(&group);
}

/// Somebody wrote this head. If it is not as it should be, it has to be written again.
fn look_again(replica: &Replica, group: &GroupId, head: &Head) {
    let Some(view) = replica.current() else { return };
    let now = runtime::clock::now();
    let at = Circumstances { catalog: view.cursor(), check_path: false, now };
    match decide(wanted(&view, group).as_ref(), Some(head), at) {
        Step::Keep | Step::Behind => {}
        Step::Publish(_) | Step::Renew(_) | Step::Remove(_) => {
            let due = tokio::time::Instant::now();
            replica.work.add([group.clone()], crate::work::Item { due, check_path: false });
        }
    }
}

fn says(replica: &Replica, group: &GroupId, message: &StreamMessage) -> Says {
    if message.payload.is_empty() {
        return cursor(message).map_or(Says::Nothing, Says::Gone);
    }
    let opened = wire::envelope::parse(&message.payload)
        .and_then(|envelope| wire::snapshot::open(&envelope, &replica.roots.directors()));
    match opened {
        Ok(snapshot) if snapshot.group == *group && snapshot.fleet == replica.fleet => {
            Says::Snapshot(Published::from(&snapshot))
        }
        Ok(snapshot) => {
            tracing::warn!(%group, signed_for = %snapshot.group, fleet = %snapshot.fleet, "a head is in a wrong place");
            Says::Nothing
        }
        Err(error) => {
            tracing::warn!(%group, error = %runtime::log::chain(&error), "a head is not one of ours");
            Says::Nothing
        }
    }
}

fn cursor(message: &StreamMessage) -> Option<Cursor> {
    let number = |name| message.headers.get_number(name);
    Some(Cursor::new(number(header::EPOCH)?, number(header::REVISION)?))
}
