//! Seals heads: decides what each has to say and signs it. No effects: who publishes takes what is made here.

use std::sync::Arc;
use std::vec::IntoIter;

use bytes::Bytes;
use domain::snapshot::MAX_SNAPSHOT_BYTES;
use domain::{Cursor, GroupId, Mode, PolicyItem, Snapshot};
use runtime::clock;
use runtime::nats::{Expect, Headers, MAX_BATCH_MESSAGES};
use runtime::telemetry::{MAX_LINKS, spans};
use wire::subject::header;
use wire::trace::{TRACEPARENT, TraceParent};

use crate::fold::View;
use crate::heads::{Circumstances, Head, Published, Says, Step, Wanted, decide};
use crate::replica::Replica;
use crate::work::Item;

/// Payload bytes at which a batch is closed; the head that reaches it is still in. As much as a change of the
/// store may have: it bounds what the server holds for an open batch, and what signed heads take here.
pub(crate) const BATCH_BYTES: usize = 8 * 1024 * 1024;

/// Pause before a key is asked again that did not sign.
const AFTER_NO_SIGNATURE: std::time::Duration = std::time::Duration::from_secs(5);

/// A head to look at.
pub(crate) type Due = (GroupId, Item);

/// A head that is ready to be written.
pub(crate) struct Sealed {
    pub(crate) group: GroupId,
    /// Why it was looked at, in case it has to be looked at again.
    pub(crate) item: Item,
    /// What must stand there for it to be written.
    pub(crate) expect: Expect,
    pub(crate) cursor: Cursor,
    pub(crate) message: (Headers, Bytes),
    /// What the head says once it is written.
    pub(crate) says: Says,
}

/// Seals the next heads of `rest` that have to be written, as many as go into one batch. The messages name `place` as
/// the span that publishes them.
pub(crate) fn batch(
    replica: &Replica,
    view: &View,
    rest: &mut IntoIter<Due>,
    place: Option<TraceParent>,
) -> Vec<Sealed> {
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for due in rest {
        let Some(sealed) = seal(replica, view, due, place) else { continue };
        bytes += sealed.message.1.len();
        batch.push(sealed);
        if batch.len() >= MAX_BATCH_MESSAGES || bytes >= BATCH_BYTES {
            break;
        }
    }
    batch
}

/// Looks at one head. `None` if there is nothing to write.
pub(crate) fn seal(
    replica: &Replica,
    view: &View,
    (group, item): Due,
    place: Option<TraceParent>,
) -> Option<Sealed> {
    let head = replica.heads(|heads| heads.get(&group).cloned());
    let at = Circumstances { catalog: view.cursor(), check_path: item.check_path, now: clock::now() };
    let (cursor, message, says) = match decide(wanted(view, &group).as_ref(), head.as_ref(), at) {
        Step::Keep | Step::Behind => return None,
        Step::Publish(_) | Step::Renew(_) if !replica.may_sign() => return None,
        Step::Publish(cursor) | Step::Renew(cursor) => {
            let snapshot = snapshot(replica, view, &group, (cursor, head.as_ref()))?;
            let (headers, bytes) = sealed(replica, &snapshot, item)?;
            let headers = match place {
                Some(place) => text(headers, TRACEPARENT, &place.to_string()),
                None => headers,
            };
            (cursor, (headers, bytes), Says::Snapshot(Published::from(&snapshot)))
        }
        Step::Remove(cursor) => (cursor, (cursor_headers(cursor), Bytes::new()), Says::Gone(cursor)),
    };
    let expect = Expect::LastSubject(head.map_or(0, |head| head.sequence));
    Some(Sealed { group, item, expect, cursor, message, says })
}

/// The spans that stored the changes which the next heads of `rest` are about, as many as one batch has. A head that is
/// only signed again is about none.
pub(crate) fn causes(replica: &Replica, view: &View, rest: &[Due]) -> Vec<TraceParent> {
    if !spans::on() {
        return Vec::new();
    }
    let mut causes: Vec<TraceParent> = Vec::new();
    for (group, _) in rest.iter().take(MAX_BATCH_MESSAGES) {
        let Some(since) = view.since(group) else { continue };
        let known = replica.heads(|heads| heads.revision(group)) >= since.revision;
        if let Some(place) = since.place.filter(|place| !known && !causes.contains(place)) {
            causes.push(place);
            if causes.len() == MAX_LINKS as usize {
                break;
            }
        }
    }
    causes
}

/// What the catalogue wants a group's head to be; `None` if there is no such group.
pub(crate) fn wanted(view: &View, group: &GroupId) -> Option<Wanted> {
    let (effective, since) = (view.compiled.effective(group)?, view.since(group)?);
    let path = view.catalog.group(group)?.value.path.clone();
    Some(Wanted { digest: effective.digest(), path, since: since.revision })
}

fn snapshot(
    replica: &Replica,
    view: &View,
    group: &GroupId,
    (cursor, head): (Cursor, Option<&Head>),
) -> Option<Snapshot> {
    let effective = view.compiled.effective(group)?;
    let before = head.and_then(|head| match &head.says {
        Says::Snapshot(published) => Some(published),
        Says::Gone(_) | Says::Nothing => None,
    });
    let policies = effective.kinds().iter().map(|(kind, resolved)| {
        let digest = resolved.document.digest();
        PolicyItem {
            kind: kind.clone(),
            revision: before.and_then(|p| p.item_revision(kind, &digest)).unwrap_or(cursor.revision),
            document: Arc::clone(resolved.document.bytes()),
            digest,
        }
    });
    let content = effective.targets().map(|(channel, target)| {
        let since = before.and_then(|p| p.content_revision(channel, target));
        target.item(channel.clone(), since.unwrap_or(cursor.revision))
    });
    let issued_at = clock::now();
    Some(Snapshot {
        fleet: replica.fleet.clone(),
        group: group.clone(),
        path: view.catalog.group(group)?.value.path.clone(),
        cursor,
        issued_at,
        expires_at: issued_at + replica.validity,
        settings: *effective.settings(),
        policies: policies.collect(),
        content: content.collect(),
        trace_id: view.since(group)?.trace_id,
    })
}

/// The message of a head. `None` if it does not fit: the planner refuses such a change, so it can only come
/// from a store that another version wrote.
fn sealed(replica: &Replica, snapshot: &Snapshot, item: Item) -> Option<(Headers, Bytes)> {
    let (group, payload) = (&snapshot.group, wire::snapshot::encode(snapshot));
    if payload.len() > MAX_SNAPSHOT_BYTES {
        tracing::error!(%group, bytes = payload.len(), "the snapshot of a group is too large to be published");
        return None;
    }
    let envelope = match wire::envelope::seal_by(wire::envelope::SNAPSHOT, payload, &*replica.director) {
        Ok(envelope) => envelope,
        Err(error) => {
            tracing::error!(%group, %error, "a snapshot is not signed: trying again");
            let due = tokio::time::Instant::now() + AFTER_NO_SIGNATURE;
            replica.work.add([group.clone()], Item { due, ..item });
            return None;
        }
    };
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
    let headers = texts.into_iter().fold(headers, |headers, (name, value)| text(headers, name, &value));
    Some((headers, wire::encode(&envelope)))
}

fn text(headers: Headers, name: &'static str, text: &str) -> Headers {
    headers.text(name, text).expect("invariant: digests, paths, modes and traces have no line break")
}

/// Headers that say which state a message is of.
pub(crate) fn cursor_headers(cursor: Cursor) -> Headers {
    Headers::new().number(header::EPOCH, cursor.epoch.0).number(header::REVISION, cursor.revision.0)
}
