//! Uses of tokens: how many are consumed, and consuming one by compare-and-set.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use domain::catalog::Token;
use domain::token::{Admission, Claim, Refusal, Uses, admit};
use domain::{Digest, GroupId, TokenId};
use runtime::nats::{Expect, Followed, From, GetError, Headers, PublishError};
use runtime::{Nats, Shutdown, clock, ids};
use wire::subject::{STREAM_IDENTITY, identity_token, parse_token_use, pattern};

use crate::Shared;
use crate::catalogue::CatchUpError;

/// Tries to count a use while other replicas count theirs. Each replica consumes one at a time, so this many
/// lost races in a row do not happen with any number of replicas that makes sense.
const MAX_TRIES: u32 = 32;

/// Pause before another try: full jitter below this, the time of a write.
const RETRY_PAUSE: Duration = Duration::from_millis(10);

/// How often each token was used, for showing. Follows the registry, so it may be behind for a moment; what
/// lets agents in is [`consume`].
#[derive(Default)]
pub(crate) struct UseCounts(Mutex<BTreeMap<TokenId, Uses>>);

/// The connection was closed for good while the registry was followed.
#[derive(Debug, thiserror::Error)]
#[error("the registry cannot be followed: the connection is closed")]
pub(crate) struct FollowError;

impl UseCounts {
    /// Agents that joined with the token.
    pub(crate) fn of(&self, token: &Token) -> u32 {
        let uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        domain::token::used(token, uses.get(&token.id))
    }

    /// Follows the registry until the shutdown.
    pub(crate) async fn follow(&self, nats: &Nats, shutdown: &Shutdown) -> Result<(), FollowError> {
        let mut follow = nats.follow(STREAM_IDENTITY, pattern::IDENTITY_TOKENS, From::LastPerSubject, false);
        loop {
            let followed = tokio::select! {
                followed = follow.next() => followed.ok_or(FollowError)?,
                () = shutdown.requested() => return Ok(()),
            };
            let mut uses = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            match followed {
                Followed::Message(message) => {
                    let read = wire::registry::read_uses(&message.payload);
                    if let (Some(token), Ok(read)) = (parse_token_use(&message.subject), read) {
                        uses.insert(token, read);
                    }
                }
                Followed::Reset | Followed::Missing => uses.clear(),
                Followed::CaughtUp => {}
            }
        }
    }
}

/// Why no use was consumed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsumeError {
    /// The token lets nobody in.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Its group was deleted.
    #[error("the group of the join token does not exist any more")]
    GroupMissing,
    /// The newest state of the token is not known.
    #[error("the token cannot be looked up")]
    CatchUp(#[from] CatchUpError),
    /// The uses cannot be read.
    #[error("the uses of the token cannot be read")]
    Read(#[from] GetError),
    /// What is stored of the uses is broken.
    #[error("the stored uses of the token are broken")]
    Broken(#[from] wire::DecodeError),
    /// The use cannot be stored.
    #[error("the use of the token cannot be stored")]
    Write(#[source] PublishError),
    /// Other replicas counted theirs before every try.
    #[error("the uses of the token changed before each of {MAX_TRIES} tries")]
    Contended,
}

/// The uses of the token that was used last, as this replica left them. It saves the reading when many agents
/// join with one token; if it is out of date, the compare-and-set says so.
#[derive(Default)]
pub(crate) struct Consuming(tokio::sync::Mutex<Option<Known>>);

struct Known {
    token: TokenId,
    sequence: u64,
    uses: Option<Uses>,
}

/// Consumes a use of `token` for `claim`, unless its last use is that agent's already.
///
/// # Returns
/// The group that the token lets into.
pub(crate) async fn consume(
    shared: &Shared,
    token: &TokenId,
    presented: &Digest,
    claim: &Claim,
) -> Result<GroupId, ConsumeError> {
    shared.catalogue.catch_up().await?;
    let mut last = shared.consuming.0.lock().await;
    for _ in 0..MAX_TRIES {
        let known = match last.take().filter(|known| known.token == *token) {
            Some(known) => known,
            None => {
                let known = read(&shared.nats, token).await?;
                // The token is looked at after its uses: else these could be of a newer token with this id.
                shared.catalogue.catch_up().await?;
                known
            }
        };
        let (group, admission) = decide(shared, &known, presented, claim)?;
        let Admission::Consume(uses) = admission else {
            *last = Some(known);
            return Ok(group);
        };
        let message = (Headers::new(), wire::registry::encode_uses(&uses).into());
        let expect = Expect::LastSubject(known.sequence);
        match shared.nats.publish_cas(STREAM_IDENTITY, &identity_token(token), message, expect).await {
            Ok(sequence) => {
                *last = Some(Known { token: token.clone(), sequence, uses: Some(uses) });
                return Ok(group);
            }
            Err(PublishError::Conflict { .. }) => tokio::time::sleep(ids::jitter(RETRY_PAUSE)).await,
            Err(error) => return Err(ConsumeError::Write(error)),
        }
    }
    Err(ConsumeError::Contended)
}

async fn read(nats: &Nats, token: &TokenId) -> Result<Known, ConsumeError> {
    let stored = nats.leader_get_last(STREAM_IDENTITY, &identity_token(token)).await?;
    let sequence = stored.as_ref().map_or(0, |message| message.sequence);
    let uses = stored.map(|message| wire::registry::read_uses(&message.payload)).transpose()?;
    Ok(Known { token: token.clone(), sequence, uses })
}

fn decide(
    shared: &Shared,
    known: &Known,
    presented: &Digest,
    claim: &Claim,
) -> Result<(GroupId, Admission), ConsumeError> {
    shared.catalogue.look(|catalog| {
        let token = catalog.token(&known.token).map(|token| &*token.value);
        let admission = admit(token, presented, known.uses.as_ref(), claim, clock::now())?;
        // A token that admits exists.
        let group = token.map(|token| &token.group).filter(|group| catalog.group(group).is_some());
        Ok((group.cloned().ok_or(ConsumeError::GroupMissing)?, admission))
    })
}
