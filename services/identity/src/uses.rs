//! Uses of tokens: how many are consumed, and consuming one by compare-and-set.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use domain::Digest;
use domain::TokenId;
use domain::catalog::{GroupRef, Token};
use domain::enrol::{Applicant, Approval, Facts, PlaceError, Placement, place};
use domain::token::{Admission, Claim, Refusal, Uses, admit};
use runtime::nats::{Expect, Followed, From, GetError, Headers, PublishError};
use runtime::store::CatchUpError;
use runtime::{Nats, Shutdown, clock};
use wire::subject::{STREAM_IDENTITY, identity_token, parse_token_use, pattern};

use crate::Shared;

/// Tries to count a use while other replicas count theirs. Each replica consumes one at a time and all are
/// equally fast, so that of four one loses this many races in a row once in 10^8 joins.
const MAX_TRIES: u32 = 64;

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
    /// The token wants approval, and there is no room for one more that waits.
    #[error("too many agents wait for approval: approve or reject some of `muster agent list --pending`")]
    TooManyWait,
    /// It lets the agent into no group.
    #[error(transparent)]
    Place(#[from] PlaceError),
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

/// Lets this replica consume one use at a time: its joins would only lose races against each other.
#[derive(Default)]
pub(crate) struct Consuming(tokio::sync::Mutex<()>);

/// Uses as stored, and their place for compare-and-set.
struct Stored {
    sequence: u64,
    uses: Option<Uses>,
}

/// Who asks to be let in, and what for.
pub(crate) struct Asking<'a> {
    /// The digest of the secret that it shows.
    pub(crate) presented: Digest,
    /// Its id and key.
    pub(crate) claim: Claim,
    /// The group that it would like.
    pub(crate) group: Option<&'a GroupRef>,
    /// What it says of itself.
    pub(crate) facts: Facts<'a>,
}

/// Consumes a use of `token`, unless its last use is that agent's already. One that gets no group consumes none.
///
/// # Returns
/// Where the agent goes, and whether somebody has to approve it.
pub(crate) async fn consume(
    shared: &Shared,
    token: &TokenId,
    asking: &Asking<'_>,
) -> Result<(Placement, Approval), ConsumeError> {
    shared.catalogue.catch_up().await?;
    let _turn = shared.consuming.0.lock().await;
    for _ in 0..MAX_TRIES {
        let stored = read(&shared.nats, token).await?;
        if is_of_another(shared, token, &stored) {
            // Perhaps of a newer token with this id. Its count must not be taken for none.
            shared.catalogue.catch_up().await?;
        }
        let (placed, admission) = decide(shared, token, &stored, asking)?;
        let Admission::Consume(uses) = admission else { return Ok(placed) };
        let message = (Headers::new(), wire::registry::encode_uses(&uses).into());
        let expect = Expect::LastSubject(stored.sequence);
        match shared.nats.publish_cas(STREAM_IDENTITY, &identity_token(token), message, expect).await {
            Ok(_) => return Ok(placed),
            // No pause: the replica that won makes none either, and who pauses loses every race.
            Err(PublishError::Conflict { .. }) => {}
            Err(error) => return Err(ConsumeError::Write(error)),
        }
    }
    Err(ConsumeError::Contended)
}

async fn read(nats: &Nats, token: &TokenId) -> Result<Stored, ConsumeError> {
    let stored = nats.leader_get_last(STREAM_IDENTITY, &identity_token(token)).await?;
    let sequence = stored.as_ref().map_or(0, |message| message.sequence);
    let uses = stored.map(|message| wire::registry::read_uses(&message.payload)).transpose()?;
    Ok(Stored { sequence, uses })
}

/// Whether the stored uses are of a token that is not the one which this replica knows by that id.
fn is_of_another(shared: &Shared, token: &TokenId, stored: &Stored) -> bool {
    let Some(uses) = &stored.uses else { return false };
    let known = |token: &Token| token.secret_digest == uses.secret_digest;
    !shared.catalogue.look(|catalog| catalog.token(token).is_some_and(|token| known(&token.value)))
}

fn decide(
    shared: &Shared,
    token: &TokenId,
    stored: &Stored,
    asking: &Asking<'_>,
) -> Result<((Placement, Approval), Admission), ConsumeError> {
    shared.catalogue.look(|catalog| {
        let token = catalog.token(token).map(|token| &*token.value);
        let uses = stored.uses.as_ref();
        let admission = admit(token, &asking.presented, uses, &asking.claim, clock::now())?;
        // A token that admits exists.
        let scope = &token.ok_or(Refusal::Unknown)?.scope;
        let placed = place(catalog, Applicant::New(scope), asking.group, asking.facts)?;
        if scope.approval() == Approval::Required && shared.waiting.is_full() {
            return Err(ConsumeError::TooManyWait);
        }
        Ok(((placed, scope.approval()), admission))
    })
}
