//! Who counts no more at the broker: agents that were deleted, until the last claims they may have got are over, and
//! agents that flood, for a while.
//!
//! The registry says who was deleted. Every replica follows it and tells the broker, at the start, after each deletion, and
//! when the connection was made anew: a broker that lost what it had been told hears it again. Presence says who floods, to
//! every replica; it is nowhere stored, and who goes on is shut out again.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use domain::flood::Bans;
use domain::registry::{AgentKey, Gone, Registered};
use domain::{AgentId, Span, Timestamp};
use futures::StreamExt as _;
use runtime::nats::{Followed, From, Headers, RequestError};
use runtime::{Nats, Shutdown, clock};
use tokio::time::Instant;
use wire::subject::{STREAM_IDENTITY, claims, parse_agent, pattern};

use crate::{Shared, registry};

/// How long the broker may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Deletions that come within this are told together. Short: someone may have stolen a key.
const GATHER: Duration = Duration::from_millis(50);
/// Pause after the broker could not be told.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long after the end of its claims a deleted agent is still named: clocks differ.
const MARGIN: Span = Span::from_secs(3600);
/// Most that are named, besides those who flood: the claims of an account are one message, and each takes about 80 bytes
/// of it.
const MAX_REVOKED: usize = 8_000;

/// Why the broker was not told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TellError {
    #[error("the broker does not answer")]
    Request(#[from] RequestError),
    #[error("the broker does not take the changed account: {0}")]
    Refused(String),
    #[error("the key that signs accounts cannot sign")]
    Sign(#[from] nkeys::error::Error),
}

/// Why it is not known any more who counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FollowError {
    #[error("the registry cannot be followed: the connection is closed")]
    Closed,
    #[error("what presence says of floods cannot be subscribed to")]
    Subscribe(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Who counts no more, as far as this replica knows.
#[derive(Default)]
pub(crate) struct Revoked(Mutex<BTreeMap<AgentKey, Timestamp>>);

impl Revoked {
    /// True if this is news.
    pub(crate) fn note(&self, gone: &Gone) -> bool {
        let mut revoked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.insert(gone.key.clone(), gone.deleted_at) != Some(gone.deleted_at)
    }

    /// Those whose claims may still hold; the youngest, if they are too many.
    fn current(&self, ttl: Span, now: Timestamp) -> BTreeMap<String, Timestamp> {
        let mut revoked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.retain(|_, deleted_at| *deleted_at + ttl + MARGIN > now);
        if revoked.len() > MAX_REVOKED {
            let (all, most) = (revoked.len(), MAX_REVOKED);
            tracing::error!(
                all,
                most,
                "more agents were deleted than an account can name: the first keep their claims until these expire"
            );
        }
        let mut youngest: Vec<_> = revoked.iter().map(|(key, at)| (*at, key.to_string())).collect();
        youngest.sort_unstable_by(|a, b| b.cmp(a));
        youngest.into_iter().take(MAX_REVOKED).map(|(at, key)| (key, at)).collect()
    }
}

/// Tells the broker who counts no more, and what the roles may do. Nothing at a broker that lets everyone in.
pub(crate) async fn tell(shared: &Shared) -> Result<(), TellError> {
    let (Some(system), Some(role)) = (&shared.system, &shared.role) else { return Ok(()) };
    let Some(signer) = &role.signers.account else { return Ok(()) };
    let now = clock::now();
    let mut revoked = shared.revoked.current(shared.claims_ttl, now);
    for (key, until) in bans(shared).current(now) {
        // Claims that are made before then do not count either.
        revoked.entry(key.to_string()).or_insert(until);
    }
    let count = revoked.len();
    for (_, account) in role.keys.claims(signer, revoked, now)? {
        let answer = system.request(&claims(), Headers::new(), account.into(), ANSWER_WITHIN).await?;
        wire::jwt::read_claims_answer(&answer.payload).map_err(TellError::Refused)?;
    }
    tracing::debug!(revoked = count, "the broker was told who counts");
    Ok(())
}

/// Follows the registry until the shutdown: tells the broker, and notes who waits for approval.
pub(crate) async fn run(shared: &Shared, shutdown: &Shutdown) -> Result<(), FollowError> {
    tokio::select! {
        // Where the broker lets everyone in, there is nobody to tell.
        ended = follow(shared, shared.system.as_ref().unwrap_or(&shared.nats)) => ended,
        () = shutdown.requested() => Ok(()),
    }
}

async fn follow(shared: &Shared, system: &Nats) -> Result<(), FollowError> {
    let mut records =
        shared.nats.follow(STREAM_IDENTITY, pattern::IDENTITY_AGENTS, From::LastPerSubject, false);
    let floods = shared.nats.subscribe(pattern::FLOODS).await;
    let mut floods = floods.map_err(|error| FollowError::Subscribe(Box::new(error)))?;
    let mut link = system.link();
    let mut due = None;
    loop {
        let now = clock::now();
        let ban_ends = bans(shared).next_end(now).map(|end| Instant::now() + end.since(now).into());
        tokio::select! {
            followed = records.next() => {
                if is_news(shared, followed.ok_or(FollowError::Closed)?) {
                    due.get_or_insert(Instant::now() + GATHER);
                }
            }
            changed = link.changed() => {
                changed.map_err(|_| FollowError::Closed)?;
                due.get_or_insert(Instant::now() + GATHER);
            }
            flood = floods.next() => {
                let flood = flood.ok_or(FollowError::Closed)?;
                if let Some(agent) = parse_agent(&flood.subject) && ban(shared, &agent).await {
                    due.get_or_insert_with(Instant::now);
                }
            }
            () = tokio::time::sleep_until(ban_ends.unwrap_or_else(Instant::now)), if ban_ends.is_some() => {
                due.get_or_insert(Instant::now() + GATHER);
            }
            () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                due = match tell(shared).await {
                    Ok(()) => None,
                    Err(error) => {
                        tracing::warn!(error = %runtime::log::chain(&error), "the broker was not told who counts no more; trying again");
                        Some(Instant::now() + RETRY_PAUSE)
                    }
                };
            }
        }
    }
}

fn bans(shared: &Shared) -> MutexGuard<'_, Bans> {
    shared.bans.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Shuts an agent out for a while. True if the broker has to be told.
async fn ban(shared: &Shared, agent: &AgentId) -> bool {
    let stored = match registry::read(&shared.nats, agent).await {
        Ok(stored) => stored,
        Err(error) => {
            tracing::warn!(%agent, error = %runtime::log::chain(&error), "an agent that floods is not shut out");
            return false;
        }
    };
    let Some(registration) = stored.as_ref().and_then(|stored| stored.record.registered.agent()) else {
        return false;
    };
    let Some(length) = bans(shared).flood(clock::now(), &registration.key) else { return false };
    tracing::warn!(%agent, seconds = length.0 / 1000, "this agent sent far more than it may: the broker shuts it out; `muster agent revoke` does for good");
    true
}

/// Whether the broker has to be told: of an agent that was deleted, and once the registry was read.
fn is_news(shared: &Shared, followed: Followed) -> bool {
    match followed {
        Followed::Message(message) => {
            let Some(agent) = parse_agent(&message.subject) else { return false };
            let Ok(record) = wire::registry::read_agent(&message.payload) else { return false };
            shared.waiting.note(agent, &record.registered);
            match record.registered {
                // The broker never heard of who was rejected.
                Registered::Deleted(gone) => !gone.rejected && shared.revoked.note(&gone),
                Registered::Agent(_) | Registered::Pending(_) => false,
            }
        }
        Followed::CaughtUp => true,
        // Who was deleted stays deleted, also if the registry forgot it.
        Followed::Reset | Followed::Missing => {
            shared.waiting.clear();
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::Cursor;

    use super::*;

    fn gone(n: u64, deleted_at: u64) -> Gone {
        let digits: String =
            format!("{n:055}").bytes().map(|digit| char::from(b'A' + digit - b'0')).collect();
        Gone {
            key: AgentKey::new(format!("U{digits}")).unwrap(),
            deleted_at: Timestamp(deleted_at),
            assignment: Cursor::new(1, 1),
            rejected: false,
        }
    }

    #[test]
    fn the_deleted_are_named_until_their_claims_are_over() {
        let revoked = Revoked::default();
        let ttl = Span::from_secs(60);
        assert!(revoked.note(&gone(1, 1_000)));
        assert!(!revoked.note(&gone(1, 1_000)));
        assert!(revoked.note(&gone(2, 50_000)));
        assert_eq!(revoked.current(ttl, Timestamp(50_000)).len(), 2);
        let over = Timestamp(1_000) + ttl + MARGIN;
        assert_eq!(revoked.current(ttl, over).len(), 1);
    }

    #[test]
    fn of_too_many_the_youngest_are_named() {
        let revoked = Revoked::default();
        for n in 0..MAX_REVOKED as u64 + 5 {
            revoked.note(&gone(n, n));
        }
        let named = revoked.current(Span::from_secs(60), Timestamp(0));
        assert_eq!(named.len(), MAX_REVOKED);
        assert!(!named.contains_key(gone(4, 4).key.as_str()) && named.contains_key(gone(5, 5).key.as_str()));
    }
}
