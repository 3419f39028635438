//! Answers that carry envelopes: snapshots for pull agents, assignments for agents that moved.
//!
//! The bytes come from the streams by Direct Get and go out as they are stored. They are fetched outside of
//! the task that answers heartbeats, so an agent that has nothing to get never waits for one that has.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use bytes::Bytes;
use domain::{AgentId, Cursor, GroupId, Span};
use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use runtime::Nats;
use runtime::telemetry::{Name, metrics};
use tokio::sync::mpsc;
use wire::agent::v1::HeartbeatReply;
use wire::subject::{self, STREAM_DESIRED, STREAM_IDENTITY, header};
use wire::trace::TRACEPARENT;

use crate::cache::{Cache, Head};

/// Answers that wait to be taken up. A fleet that all wants a new head at once fills it; who finds it full is
/// answered without an envelope and asked to come back soon.
pub(crate) const MAX_WAITING: usize = 4_096;
/// Fetches at the same time: enough to keep a broker busy at a round trip of a millisecond.
const MAX_FETCHES: usize = 64;
/// Answers that wait for the same few snapshots. With [`MAX_WAITING`] a bound on memory: an answer that waits
/// is some 300 bytes.
const MAX_PARKED: usize = 16_384;
/// A replica of the stream may be behind what was announced: this many tries, one [`STALE_PAUSE`] apart.
const STALE_TRIES: u32 = 5;
/// Pause before a stream is asked again that was behind: replication takes milliseconds.
const STALE_PAUSE: Duration = Duration::from_millis(40);

/// An agent that could not be given what is newer comes back within this and twice this, whatever its
/// interval: soon, and not all at once.
const COME_BACK: Duration = Duration::from_secs(5);

/// Asks an agent to come back sooner than its slot, because there is something for it that it could not be
/// given.
pub(crate) fn come_back(reply: &mut HeartbeatReply) {
    let soon = Span::from(COME_BACK + runtime::ids::jitter(COME_BACK));
    reply.next_heartbeat_ms = reply.next_heartbeat_ms.min(soon.0);
}

/// An answer that is complete but for its envelopes.
#[derive(Debug)]
pub(crate) struct Offer {
    /// Where it goes: an inbox of the agent.
    pub(crate) to: async_nats::Subject,
    pub(crate) reply: HeartbeatReply,
    /// The agent whose assignment is to be sent along.
    pub(crate) agent: Option<AgentId>,
    /// The group whose snapshot is to be sent along, and which one at least.
    pub(crate) group: Option<(GroupId, Cursor)>,
    /// When the heartbeat was taken up, if that is measured.
    pub(crate) taken: Option<Instant>,
}

/// A fetch that is over.
enum Fetched {
    Assignment(Box<Offer>, Option<Bytes>),
    Snapshot(GroupId, Option<(Cursor, Head)>),
}

/// An offer whose assignment is there, if it needed one.
struct Parked {
    offer: Offer,
    assignment: Option<Bytes>,
}

pub(crate) struct Offers {
    nats: Nats,
    /// Where answers go.
    agents: Nats,
    cache: Cache,
    fetches: FuturesUnordered<BoxFuture<'static, Fetched>>,
    /// Answers that wait for the snapshot of a group, which is being fetched once for all of them.
    parked: BTreeMap<GroupId, Vec<Parked>>,
    parked_count: usize,
}

impl Offers {
    pub(crate) fn new((nats, agents): (Nats, Nats), max_cache_bytes: usize) -> Self {
        let (fetches, parked) = (FuturesUnordered::new(), BTreeMap::new());
        Self { nats, agents, cache: Cache::new(max_cache_bytes), fetches, parked, parked_count: 0 }
    }

    /// Answers until no more offers can come and all are answered.
    pub(crate) async fn run(mut self, mut offers: mpsc::Receiver<Offer>) {
        let mut open = true;
        while open || !self.fetches.is_empty() {
            let room = self.fetches.len() < MAX_FETCHES && self.parked_count < MAX_PARKED;
            tokio::select! {
                Some(fetched) = self.fetches.next() => self.fetched(fetched).await,
                offer = offers.recv(), if open && room => match offer {
                    Some(offer) => self.take(offer).await,
                    None => open = false,
                },
            }
        }
    }

    async fn take(&mut self, offer: Offer) {
        match offer.agent.clone() {
            None => self.with_assignment(offer, None).await,
            Some(agent) => {
                let nats = self.nats.clone();
                self.fetches.push(Box::pin(async move {
                    let assignment = fetch_assignment(&nats, &agent).await;
                    Fetched::Assignment(Box::new(offer), assignment)
                }));
            }
        }
    }

    async fn with_assignment(&mut self, offer: Offer, assignment: Option<Bytes>) {
        let Some((group, wanted)) = offer.group.clone() else {
            return self.answer(offer, None, assignment.as_ref()).await;
        };
        if let Some(head) = self.cache.get(&group, wanted) {
            return self.answer(offer, Some(&head), assignment.as_ref()).await;
        }
        self.parked_count += 1;
        let waiting = self.parked.entry(group.clone()).or_default();
        waiting.push(Parked { offer, assignment });
        if waiting.len() == 1 {
            let nats = self.nats.clone();
            self.fetches.push(Box::pin(async move {
                let snapshot = fetch_snapshot(&nats, &group, wanted).await;
                Fetched::Snapshot(group, snapshot)
            }));
        }
    }

    async fn fetched(&mut self, fetched: Fetched) {
        match fetched {
            Fetched::Assignment(offer, assignment) => self.with_assignment(*offer, assignment).await,
            Fetched::Snapshot(group, found) => {
                if let Some((cursor, head)) = &found {
                    self.cache.put(group.clone(), *cursor, head.clone());
                }
                let waiting = self.parked.remove(&group).unwrap_or_default();
                self.parked_count -= waiting.len();
                for Parked { offer, assignment } in waiting {
                    let head = found.as_ref().map(|(_, head)| head);
                    self.answer(offer, head, assignment.as_ref()).await;
                }
            }
        }
    }

    /// Says with a snapshot where it was published, as the message of a head does.
    async fn answer(&mut self, mut offer: Offer, head: Option<&Head>, assignment: Option<&Bytes>) {
        let missing =
            (offer.group.is_some() && head.is_none()) || (offer.agent.is_some() && assignment.is_none());
        if missing {
            come_back(&mut offer.reply);
        }
        let (snapshot, assignment) =
            (head.map(|head| &head.snapshot[..]), assignment.map(|bytes| &bytes[..]));
        let reply = wire::heartbeat::encode_reply(&offer.reply, snapshot, assignment);
        let agents = self.agents.client();
        let sent = match head.and_then(|head| head.place) {
            Some(place) => {
                let mut headers = HeaderMap::new();
                headers.insert(TRACEPARENT, place.to_string());
                agents.publish_with_headers(offer.to, headers, reply).await
            }
            None => agents.publish(offer.to, reply).await,
        };
        if let Err(error) = sent {
            // The agent asks again.
            tracing::debug!(%error, "the answer to a heartbeat could not be sent");
        }
        metrics::since(Name::HeartbeatLag, offer.taken, &[]);
    }
}

/// The assignment of an agent, as it is in the registry. `None` if it cannot be had now.
async fn fetch_assignment(nats: &Nats, agent: &AgentId) -> Option<Bytes> {
    let found = nats.direct_get_last(STREAM_IDENTITY, &subject::identity_agent(agent)).await;
    let record = match found {
        Ok(message) => wire::registry::read_agent(&message?.payload),
        Err(error) => {
            tracing::warn!(%agent, error = %runtime::log::chain(&error), "an assignment cannot be fetched");
            return None;
        }
    };
    match record {
        Ok(record) => record.assignment.map(|envelope| wire::encode(&envelope)),
        Err(error) => {
            tracing::warn!(%agent, error = %runtime::log::chain(&error), "a record in the registry is malformed");
            None
        }
    }
}

/// The head of a group, if one at least as new as `wanted` can be had now.
async fn fetch_snapshot(nats: &Nats, group: &GroupId, wanted: Cursor) -> Option<(Cursor, Head)> {
    for _ in 0..STALE_TRIES {
        match nats.direct_get_last(STREAM_DESIRED, &subject::desired_group(group)).await {
            Ok(Some(message)) => {
                let number = |name| message.headers.get_number(name).unwrap_or(0);
                let cursor = Cursor::new(number(header::EPOCH), number(header::REVISION));
                if message.payload.is_empty() {
                    return None;
                }
                if cursor >= wanted {
                    let place = message.headers.place();
                    return Some((cursor, Head { snapshot: message.payload, place }));
                }
            }
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%group, error = %runtime::log::chain(&error), "a snapshot cannot be fetched");
                return None;
            }
        }
        tokio::time::sleep(STALE_PAUSE).await;
    }
    tracing::warn!(%group, %wanted, "the stream of heads is behind what it announced");
    None
}
