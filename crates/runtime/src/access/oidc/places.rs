//! Which groups stand where roles are bound to: as few as the rules name, out of all groups.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::catalog::Entry;
use domain::{GroupId, GroupPath};
use tokio::sync::watch;
use wire::subject::{STREAM_POLICY, StoreKey, pattern};

use crate::nats::{Followed, From, Nats, StreamMessage};
use crate::ready::Condition;
use crate::tasks::Shutdown;

/// The stream cannot be followed any more.
#[derive(Debug, thiserror::Error)]
#[error("the groups cannot be followed: the connection is closed")]
pub(super) struct FollowError;

/// Not all groups have been read yet.
pub(super) struct Loading;

#[derive(Default)]
struct Known {
    groups: BTreeMap<GroupId, GroupPath>,
    loaded: bool,
}

/// The groups at some places, kept up to date. Clones share them.
#[derive(Clone)]
pub(super) struct Places {
    wanted: Arc<BTreeSet<GroupPath>>,
    known: Arc<watch::Sender<Known>>,
}

impl Places {
    pub(super) fn new(wanted: BTreeSet<GroupPath>) -> Self {
        Self { wanted: Arc::new(wanted), known: Arc::new(watch::Sender::new(Known::default())) }
    }

    /// Follows the catalogue until the shutdown.
    pub(super) async fn follow(
        &self,
        nats: &Nats,
        ready: &Condition,
        shutdown: &Shutdown,
    ) -> Result<(), FollowError> {
        let mut follow = nats.follow(STREAM_POLICY, pattern::STORE_GROUPS, From::LastPerSubject, false);
        loop {
            let followed = tokio::select! {
                followed = follow.next() => followed.ok_or(FollowError)?,
                () = shutdown.requested() => return Ok(()),
            };
            self.known.send_modify(|known| match followed {
                Followed::Message(message) => known.take(&message, &self.wanted),
                Followed::CaughtUp => {
                    known.loaded = true;
                    ready.set_ready();
                }
                Followed::Reset | Followed::Missing => {
                    *known = Known::default();
                    ready.set_not_ready("is loading the groups that roles are bound to");
                }
            });
        }
    }

    /// The group at a place. While groups change places there may be two for a moment, and then it is none.
    pub(super) fn group_at(&self, path: &GroupPath) -> Result<Option<GroupId>, Loading> {
        let known = self.known.borrow();
        if !known.loaded {
            return Err(Loading);
        }
        let mut there = known.groups.iter().filter(|(_, at)| *at == path);
        Ok(match (there.next(), there.next()) {
            (Some((id, _)), None) => Some(id.clone()),
            (Some(_), Some(_)) | (None, _) => None,
        })
    }
}

impl Known {
    fn take(&mut self, message: &StreamMessage, wanted: &BTreeSet<GroupPath>) {
        let Some(key @ StoreKey::Group(id)) = &StoreKey::parse(&message.subject) else { return };
        self.groups.remove(id);
        match wire::catalog::read(key, &message.payload) {
            Ok(Entry::Group(group)) if wanted.contains(&group.path) => {
                self.groups.insert(id.clone(), group.path.clone());
            }
            Ok(_) => {}
            // What cannot be read is bound to by nobody.
            Err(error) => {
                tracing::error!(%id, error = crate::log::chain(&error), "a stored group cannot be read");
            }
        }
    }
}
