//! What the parts of one replica share.

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use domain::{FleetId, GroupId, Revision, Span, TokenId};
use runtime::keys::Signer;
use runtime::registry::AgentCounts;
use runtime::serve::CALLS_GRACE;
use runtime::store::Log;
use runtime::{Nats, Roots, Shutdown, Trust};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::fold::{Affected, View};
use crate::heads::Heads;
use crate::work::{Item, Taken, Work};

/// How long a replica leaves the heads of a change to the replica that committed it: several times what
/// compiling and publishing takes. Heads that are still missing then, it publishes itself.
const LEAVE_TO_OTHERS: Duration = Duration::from_millis(500);

/// Own commits that are remembered until they come back in the log. They come back within milliseconds; when
/// a commit without an answer never does, it must not stay here for ever.
const MAX_OWN: usize = 1024;

/// A stream cannot be followed any more: the connection was closed for good.
#[derive(Debug, thiserror::Error)]
#[error("{0} cannot be followed any more: the connection is closed")]
pub(crate) struct Gone(pub(crate) &'static str);

/// One replica of the service.
pub(crate) struct Replica {
    pub(crate) nats: Nats,
    pub(crate) log: Log,
    pub(crate) fleet: FleetId,
    pub(crate) director: Arc<dyn Signer>,
    /// Whose signature makes a head one of ours.
    pub(crate) roots: Roots,
    pub(crate) trust: Trust,
    /// How long a snapshot proves freshness.
    pub(crate) validity: Span,
    /// Replicas of a stream that is made again.
    pub(crate) stream_replicas: u8,
    /// The newest state; `None` until the log is loaded.
    pub(crate) view: watch::Sender<Option<Arc<View>>>,
    /// Up to which revision this replica has seen all heads published, by itself or others.
    pub(crate) published: watch::Sender<Revision>,
    pub(crate) heads: RwLock<Heads>,
    pub(crate) agents: AgentCounts,
    pub(crate) work: Work,
    /// Held while a view and its work are shown, and while work is taken with the view that it is for.
    pub(crate) showing: Mutex<()>,
    pub(crate) own: OwnChanges,
    /// Whether the store has to be compared with what was published: after either was loaded.
    pub(crate) compare_epochs: AtomicBool,
    /// One change of this replica at a time: they would only conflict with each other.
    pub(crate) writer: tokio::sync::Mutex<()>,
    /// How many changes are being made.
    pub(crate) changes: watch::Sender<usize>,
}

/// A change that is being made, until it is dropped.
pub(crate) struct Busy<'a>(&'a watch::Sender<usize>);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|changes| *changes -= 1);
    }
}

impl Replica {
    /// A new state of the catalogue, and the groups whose heads it affects. `own` if this replica is the one
    /// to publish them.
    pub(crate) fn show(&self, view: Arc<View>, affected: Affected, own: bool) {
        // One with the other: work that was taken with an older view would find nothing to do, and be lost.
        let showing = self.showing();
        match affected {
            Affected::All => self.look_at_all(&view),
            Affected::Groups(groups) => {
                let wait = if own { Duration::ZERO } else { LEAVE_TO_OTHERS };
                self.work.add(groups, Item { due: Instant::now() + wait, check_path: true });
            }
        }
        self.view.send_replace(Some(view));
        drop(showing);
        self.work.wake();
    }

    /// The newest state, if the log is loaded, and what is due of its work. If there is none at all, every head
    /// of this state is as it should be.
    pub(crate) fn take_work(&self, now: Instant, most: usize) -> Option<(Arc<View>, Taken)> {
        let _showing = self.showing();
        Some((self.current()?, self.work.take(now, most)))
    }

    fn showing(&self) -> MutexGuard<'_, ()> {
        // It guards no data that a panic could have left in pieces.
        self.showing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a change is being made.
    pub(crate) fn busy(&self) -> Busy<'_> {
        self.changes.send_modify(|changes| *changes += 1);
        Busy(&self.changes)
    }

    /// Waits until stopping is requested and the changes that are being made have had their time to be
    /// answered: their callers wait for the log to be followed and for heads to be published.
    pub(crate) async fn stopped(&self, shutdown: &Shutdown) {
        shutdown.requested().await;
        let mut changes = self.changes.subscribe();
        let none = changes.wait_for(|changes| *changes == 0);
        if tokio::time::timeout(CALLS_GRACE, none).await.is_err() {
            tracing::warn!("stopping with changes that are not answered yet");
        }
    }

    /// The catalogue is not known any more.
    pub(crate) fn hide(&self) {
        let _showing = self.showing();
        self.view.send_replace(None);
        self.published.send_replace(Revision(0));
        self.work.clear();
    }

    /// Looks at every head that is there or should be.
    pub(crate) fn look_at_all(&self, view: &View) {
        let there: BTreeSet<GroupId> = self.heads(|heads| heads.groups().cloned().collect());
        let wanted = view.compiled.all().map(|(group, _)| group.clone());
        let all: BTreeSet<GroupId> = wanted.chain(there).collect();
        self.work.add(all, Item { due: Instant::now(), check_path: true });
    }

    /// Whether agents obey what this replica signs: the fleet's trust root names its key for the role director.
    pub(crate) fn may_sign(&self) -> bool {
        let directors = self.roots.directors();
        directors.threshold == 1 && directors.keys.contains(&self.director.public_key())
    }

    /// The newest state, if the log is loaded.
    pub(crate) fn current(&self) -> Option<Arc<View>> {
        self.view.borrow().clone()
    }

    /// Reads the heads. The closure must be short: it holds a lock.
    pub(crate) fn heads<T>(&self, read: impl FnOnce(&Heads) -> T) -> T {
        // No code panics while it holds this lock, and the heads stay usable if it did.
        read(&self.heads.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the heads. The closure must be short: it holds a lock.
    pub(crate) fn heads_mut<T>(&self, change: impl FnOnce(&mut Heads) -> T) -> T {
        change(&mut self.heads.write().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Changes that this replica commits: it publishes their heads without waiting for others to do it.
#[derive(Default)]
pub(crate) struct OwnChanges(Mutex<BTreeSet<TokenId>>);

impl OwnChanges {
    pub(crate) fn remember(&self, change: TokenId) {
        let mut own = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= MAX_OWN {
            own.clear();
        }
        own.insert(change);
    }

    /// Whether it was remembered.
    pub(crate) fn forget(&self, change: &TokenId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(change)
    }
}
