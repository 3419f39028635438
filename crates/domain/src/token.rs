//! Enrolment tokens: on which terms one is made, and when it lets an agent in.

use std::sync::Arc;

use crate::catalog::{Catalog, Entry, ObjectKey, Token};
use crate::change::MAX_TOKENS;
use crate::digest::{Digest, same};
use crate::enrol::{DEFAULT, Scope, default_path};
use crate::id::{AgentId, GroupId, TokenId};
use crate::registry::AgentKey;
use crate::time::{Span, Timestamp};

/// Uses of a token whose maker says nothing: one string for one machine.
pub const DEFAULT_USES: u32 = 1;
/// Most uses of one token: the size of a large site. A leaked token lets in no more than this.
pub const MAX_USES: u32 = 100_000;
/// Life of a token whose maker says nothing: time to roll an installation out, not to forget it.
pub const DEFAULT_TTL: Span = Span::from_secs(24 * 3600);
/// Shortest life of a token, for tests and scripts that join at once.
pub const MIN_TTL: Span = Span::from_secs(1);
/// Longest life of a token: 30 days, so that no forgotten one lies around for years.
pub const MAX_TTL: Span = Span::from_secs(30 * 24 * 3600);

/// Why a token cannot be made on these terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TermsError {
    /// Outside 1..=[`MAX_USES`].
    #[error("must be between 1 and {MAX_USES}")]
    Uses,
    /// Outside [`MIN_TTL`]..=[`MAX_TTL`].
    #[error("must be between 1s and 30d")]
    Ttl,
}

/// How often and for how long a token may be used. A value that exists is within bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    uses: u32,
    ttl: Span,
}

impl Terms {
    /// Checks the terms; what is `None` gets its default.
    ///
    /// # Errors
    /// [`TermsError`] names the first term that is out of bounds.
    pub fn new(uses: Option<u32>, ttl: Option<Span>) -> Result<Self, TermsError> {
        let (uses, ttl) = (uses.unwrap_or(DEFAULT_USES), ttl.unwrap_or(DEFAULT_TTL));
        if !(1..=MAX_USES).contains(&uses) {
            return Err(TermsError::Uses);
        }
        if !(MIN_TTL..=MAX_TTL).contains(&ttl) {
            return Err(TermsError::Ttl);
        }
        Ok(Self { uses, ttl })
    }

    /// The token that is made on these terms at `now`. `secret_digest` is the SHA-256 of its secret.
    #[must_use]
    pub fn token(self, id: TokenId, scope: Scope, secret_digest: Digest, now: Timestamp) -> Token {
        let (created_at, expires_at) = (now, now + self.ttl);
        Token { id, scope, uses: self.uses, created_at, expires_at, secret_digest, manager: None }
    }
}

/// Why a token cannot be created.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CreateError {
    /// There is a token of that id.
    #[error("there is a token {id:?} already", id = .0.as_str())]
    Exists(TokenId),
    /// There is no such group.
    #[error("there is no group {id:?}", id = .0.as_str())]
    GroupMissing(GroupId),
    /// It names no group of its own, and there is no default.
    #[error("must name a group: there is none at {DEFAULT}, which is for tokens that name none")]
    NoDefault,
    /// The fleet has [`MAX_TOKENS`] tokens.
    #[error("the fleet has {MAX_TOKENS} tokens, which is the most: revoke some that are not needed")]
    TooMany,
}

/// Decides whether `token` can be created, and gives the entry to write.
///
/// # Errors
/// [`CreateError`].
pub fn create(catalog: &Catalog, token: Token) -> Result<Entry, CreateError> {
    if catalog.token(&token.id).is_some() {
        return Err(CreateError::Exists(token.id));
    }
    if let Some(missing) = token.scope.named().find(|group| catalog.group(group).is_none()) {
        return Err(CreateError::GroupMissing(missing.clone()));
    }
    if token.scope.group().is_none() && catalog.group_at(&default_path()).is_none() {
        return Err(CreateError::NoDefault);
    }
    if catalog.tokens().count() >= MAX_TOKENS {
        Err(CreateError::TooMany)
    } else {
        Ok(Entry::Token(Arc::new(token)))
    }
}

/// The entry that revokes a token; `None` if there is no such token.
#[must_use]
pub fn revoke(catalog: &Catalog, id: &TokenId) -> Option<Entry> {
    let key = catalog.token(id).map(|token| ObjectKey::Token(token.value.id.clone()))?;
    Some(Entry::Deleted { key, generation: 0 })
}

/// Why a token lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// There is no such token, it was revoked, or the secret is another one. One answer for the three: who
    /// does not know the secret learns nothing about the token.
    #[error("the join token is not known, or it was revoked")]
    Unknown,
    /// Its time is over.
    #[error("the join token has expired")]
    Expired,
    /// All its uses are consumed.
    #[error("the join token has no uses left")]
    Spent,
}

/// Who joins: the id and the key that its holder proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// The id.
    pub agent: AgentId,
    /// The public key.
    pub key: AgentKey,
}

/// Uses of a token so far, as stored beside the registry under the token's id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uses {
    /// Which token of this id: the digest of its secret.
    pub secret_digest: Digest,
    /// How many agents came in.
    pub used: u32,
    /// Who consumed the last use.
    pub last: Claim,
}

/// What letting an agent in takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// These uses must be stored first, and only if those that were decided on are still the stored ones.
    Consume(Uses),
    /// The last use is this agent's already: its join was cut off after consuming it.
    Consumed,
}

/// How many of the uses count for `token`. A token that was revoked and made again under the same id has
/// another secret and starts at none.
#[must_use]
pub fn used(token: &Token, uses: Option<&Uses>) -> u32 {
    uses.filter(|uses| uses.secret_digest == token.secret_digest).map_or(0, |uses| uses.used)
}

/// Decides whether a token lets one more agent in. `token` is `None` if there is none of that id,
/// `presented` the SHA-256 of the secret that the agent sent, `uses` what is stored of the token's uses.
///
/// A token is good until, not at, its `expires_at`.
///
/// # Errors
/// [`Refusal`]; the secret is looked at first.
pub fn admit(
    token: Option<&Token>,
    presented: &Digest,
    uses: Option<&Uses>,
    claim: &Claim,
    now: Timestamp,
) -> Result<Admission, Refusal> {
    let token = token.filter(|token| same(&token.secret_digest, presented)).ok_or(Refusal::Unknown)?;
    if now >= token.expires_at {
        return Err(Refusal::Expired);
    }
    let uses = uses.filter(|uses| uses.secret_digest == token.secret_digest);
    if uses.is_some_and(|uses| uses.last == *claim) {
        return Ok(Admission::Consumed);
    }
    let used = used(token, uses);
    if used >= token.uses {
        return Err(Refusal::Spent);
    }
    let secret_digest = token.secret_digest;
    Ok(Admission::Consume(Uses { secret_digest, used: used + 1, last: claim.clone() }))
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use proptest::prelude::{Just, Strategy, prop_assert, prop_oneof};

    use super::*;
    use crate::catalog::root_id;
    use crate::enrol::{Approval, HostPattern, Rule};
    use crate::revision::Revision;

    fn token(uses: u32, ttl: Span) -> Token {
        let (id, group) = (TokenId::new("t").unwrap(), GroupId::new("web").unwrap());
        let terms = Terms::new(Some(uses), Some(ttl)).unwrap();
        terms.token(id, group.into(), Digest::of(b"secret"), Timestamp(1_000))
    }

    #[test]
    fn terms_have_bounds_and_defaults() {
        let check = |uses, ttl, expected| assert_eq!(Terms::new(uses, ttl), expected, "{uses:?} {ttl:?}");
        check(None, None, Ok(Terms { uses: 1, ttl: Span(86_400_000) }));
        check(Some(100_000), Some(MAX_TTL), Ok(Terms { uses: 100_000, ttl: MAX_TTL }));
        check(Some(1), Some(MIN_TTL), Ok(Terms { uses: 1, ttl: MIN_TTL }));
        check(Some(0), None, Err(TermsError::Uses));
        check(Some(100_001), Some(Span(0)), Err(TermsError::Uses));
        check(None, Some(Span(999)), Err(TermsError::Ttl));
        check(None, Some(Span(MAX_TTL.0 + 1)), Err(TermsError::Ttl));
        check(None, Some(Span(u64::MAX)), Err(TermsError::Ttl));
    }

    #[test]
    fn a_token_is_created_once_for_a_group_that_exists() {
        let mut catalog = Catalog::new();
        let wanted = Token { scope: root_id().into(), ..token(1, MAX_TTL) };
        let entry = create(&catalog, wanted.clone()).unwrap();
        assert_eq!(entry, Entry::Token(Arc::new(wanted.clone())));
        assert_eq!(revoke(&catalog, &wanted.id), None);
        catalog.fold([entry], Revision(1));
        assert_eq!(create(&catalog, wanted.clone()), Err(CreateError::Exists(wanted.id.clone())));
        let elsewhere = Token { id: TokenId::new("u").unwrap(), ..token(1, MAX_TTL) };
        assert_eq!(
            create(&catalog, elsewhere.clone()),
            Err(CreateError::GroupMissing(GroupId::new("web").unwrap()))
        );
        let nowhere = Token { scope: Scope::default(), ..elsewhere.clone() };
        assert_eq!(create(&catalog, nowhere), Err(CreateError::NoDefault));
        let pattern = Some(HostPattern::new("*").unwrap());
        let rule = Rule::new(BTreeMap::new(), pattern, GroupId::new("db").unwrap()).unwrap();
        let scope = Scope::new(Some(root_id()), vec![rule], Approval::None).unwrap();
        let to_nowhere = Token { scope, ..elsewhere };
        assert_eq!(create(&catalog, to_nowhere), Err(CreateError::GroupMissing(GroupId::new("db").unwrap())));
        catalog.fold(revoke(&catalog, &wanted.id), Revision(2));
        assert_eq!(catalog.token(&wanted.id), None);
        assert!(create(&catalog, wanted).is_ok());
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let mut catalog = Catalog::new();
        let make = |n: usize| Token {
            id: TokenId::new(n.to_string()).unwrap(),
            scope: root_id().into(),
            ..token(1, MAX_TTL)
        };
        catalog.fold((0..MAX_TOKENS).map(|n| Entry::Token(Arc::new(make(n)))), Revision(1));
        assert_eq!(create(&catalog, make(MAX_TOKENS)), Err(CreateError::TooMany));
    }

    fn claim(n: u8) -> Claim {
        let key = format!("U{}", char::from(b'A' + n).to_string().repeat(55));
        Claim { agent: AgentId::new(format!("agent-{n}")).unwrap(), key: AgentKey::new(key).unwrap() }
    }

    fn uses(used: u32, last: u8) -> Uses {
        Uses { secret_digest: Digest::of(b"secret"), used, last: claim(last) }
    }

    #[test]
    fn a_token_lets_in_who_knows_the_secret_in_time_while_uses_are_left() {
        let token = token(2, Span(5_000));
        let check = |secret: &str, stored: Option<&Uses>, now, expected| {
            let presented = Digest::of(secret.as_bytes());
            let got = admit(Some(&token), &presented, stored, &claim(0), Timestamp(now));
            assert_eq!(got, expected, "{secret} {stored:?} at {now}");
        };
        let consume = |used| Ok(Admission::Consume(uses(used, 0)));
        check("secret", None, 1_000, consume(1));
        check("secret", Some(&uses(1, 1)), 5_999, consume(2));
        check("secret", None, 6_000, Err(Refusal::Expired));
        check("secret", Some(&uses(2, 1)), 1_000, Err(Refusal::Spent));
        check("secret", Some(&uses(u32::MAX, 1)), 1_000, Err(Refusal::Spent));
        check("secret", Some(&uses(2, 1)), 6_000, Err(Refusal::Expired));
        // A join that was cut off goes on.
        check("secret", Some(&uses(2, 0)), 1_000, Ok(Admission::Consumed));
        check("secret", Some(&uses(2, 0)), 6_000, Err(Refusal::Expired));
        let other_key = Uses { last: Claim { key: claim(1).key, ..claim(0) }, ..uses(2, 0) };
        check("secret", Some(&other_key), 1_000, Err(Refusal::Spent));
        // Uses of an earlier token of the same id do not count.
        let earlier = Uses { secret_digest: Digest::of(b"earlier"), ..uses(2, 0) };
        check("secret", Some(&earlier), 1_000, consume(1));
        // Without the secret, all states of a token look alike.
        check("guess", None, 1_000, Err(Refusal::Unknown));
        check("guess", Some(&uses(2, 0)), 9_000, Err(Refusal::Unknown));
        let none = admit(None, &Digest::of(b"secret"), None, &claim(0), Timestamp(1_000));
        assert_eq!(none, Err(Refusal::Unknown));
    }

    /// Replicas that serve joins at the same time: a step reads the stored uses, or writes what was decided
    /// on them, by compare-and-set. A join may stop after any step and start again.
    #[derive(Debug, Clone)]
    enum Step {
        Read,
        Write,
        Crash,
    }

    fn steps() -> impl Strategy<Value = Vec<(u8, Step)>> {
        let step = prop_oneof![3 => Just(Step::Read), 3 => Just(Step::Write), 1 => Just(Step::Crash)];
        proptest::collection::vec((0u8..4, step), 0..80)
    }

    proptest::proptest! {
        #[test]
        fn secrets_match_only_themselves(secret: [u8; 32], at in 0usize..256) {
            let mut other = secret;
            other[at / 8] ^= 1 << (at % 8);
            prop_assert!(same(&Digest(secret), &Digest(secret)));
            prop_assert!(!same(&Digest(secret), &Digest(other)));
        }

        #[test]
        fn no_more_come_in_than_there_are_uses(uses in 1u32..4, steps in steps()) {
            let token = token(uses, Span(5_000));
            let mut stored: Option<Uses> = None;
            let mut read: [Option<Option<Uses>>; 4] = Default::default();
            let mut joined = BTreeSet::new();
            for (who, step) in steps {
                let seen = &mut read[usize::from(who)];
                match (step, seen.take()) {
                    (Step::Read, _) => *seen = Some(stored.clone()),
                    (Step::Crash, _) | (Step::Write, None) => {}
                    (Step::Write, Some(decided_on)) => {
                        let secret = Digest::of(b"secret");
                        let now = Timestamp(1_000);
                        let admission = admit(Some(&token), &secret, decided_on.as_ref(), &claim(who), now);
                        match admission {
                            Ok(Admission::Consume(next)) if decided_on == stored => {
                                stored = Some(next);
                                joined.insert(who);
                            }
                            Ok(Admission::Consumed) => {
                                joined.insert(who);
                            }
                            Ok(Admission::Consume(_)) | Err(_) => {}
                        }
                    }
                }
                prop_assert!(joined.len() <= usize::try_from(uses).unwrap());
            }
        }
    }
}
