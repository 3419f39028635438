//! Which content agents hold, as presence counts it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::content::{Census, ChannelName, ContentRevision};
use futures::StreamExt as _;
use tokio::sync::Notify;
use tokio::time::Instant;
use wire::subject::pattern;

use crate::replica::Replica;
use crate::{Refused, refuse};

/// How long a census counts: several times the pause between two. Without one it is as if no agent held anything, and
/// no revision goes by retention.
const GOOD_FOR: Duration = Duration::from_secs(300);

/// How long one is waited for where it is needed: longer than the pause between two.
const WAIT: Duration = Duration::from_secs(15);

/// The subscription ended: the connection was closed for good.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CensusError {
    /// It cannot be made.
    #[error("the census of content cannot be subscribed to")]
    Subscribe(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It ended.
    #[error("the census of content does not come any more: the connection is closed")]
    Closed,
}

/// The last census. Each presence replica counts the whole fleet, so the last one heard says all there is.
#[derive(Default)]
pub(crate) struct Latest {
    latest: Mutex<Option<(Instant, Census)>>,
    heard: Notify,
}

impl Latest {
    fn note(&self, census: Census) -> bool {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let news = latest.as_ref().is_none_or(|(_, before)| before.holders != census.holders);
        *latest = Some((Instant::now(), census));
        self.heard.notify_waiters();
        news
    }

    fn read<T: Default>(&self, read: impl FnOnce(&Census) -> T) -> T {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest
            .as_ref()
            .filter(|(at, _)| at.elapsed() < GOOD_FOR)
            .map(|(_, census)| read(census))
            .unwrap_or_default()
    }

    /// Returns when it is known what agents are fetching.
    ///
    /// # Errors
    /// `UNAVAILABLE` if presence does not tell.
    pub(crate) async fn known(&self) -> Result<(), Refused> {
        let heard = async {
            loop {
                let next = self.heard.notified();
                if self.read(|_| true) {
                    return;
                }
                next.await;
            }
        };
        tokio::time::timeout(WAIT, heard).await.map_err(|_| {
            let message = "it is not known which contents agents are fetching, so no revision goes by retention: presence has \
                           not told; does it run?";
            Refused(refuse::later("NO_CENSUS", message.to_owned(), WAIT))
        })
    }

    /// How many agents have each revision of a channel in force.
    pub(crate) fn holders(&self, channel: &ChannelName) -> BTreeMap<ContentRevision, u64> {
        self.read(|census| {
            let of_channel = census.holders.iter().filter(|it| it.channel == *channel && it.active > 0);
            of_channel.map(|it| (it.revision, it.active)).collect()
        })
    }

    /// Revisions of a channel that agents are fetching.
    pub(crate) fn fetching(&self, channel: &ChannelName) -> BTreeSet<ContentRevision> {
        self.read(|census| {
            let of_channel = census.holders.iter().filter(|it| it.channel == *channel && it.fetching > 0);
            of_channel.map(|it| it.revision).collect()
        })
    }
}

/// Listens until the shutdown.
pub(crate) async fn follow(replica: &Replica) -> Result<(), CensusError> {
    let subscribed = replica.store.nats().subscribe(pattern::CENSUS).await;
    let mut messages = subscribed.map_err(|error| CensusError::Subscribe(Box::new(error)))?;
    loop {
        let message = tokio::select! {
            message = messages.next() => message.ok_or(CensusError::Closed)?,
            () = replica.shutdown.requested() => return Ok(()),
        };
        match wire::content::read_census(&message.payload) {
            Ok(census) => {
                if replica.census.note(census) {
                    replica.wake.notify_one();
                }
            }
            Err(error) => {
                let error = runtime::log::chain(&error);
                tracing::warn!(error, "a census of content cannot be read: ignored");
            }
        }
    }
}
