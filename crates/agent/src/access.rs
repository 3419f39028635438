//! What an agent shows the broker: its key, the claims it has for it, and whether they still fit.
//!
//! There are two. The *user* claims let it do all that an agent of its group may, for a day or so. The *door* claims
//! do not expire and let it ask for new ones, and nothing else: an agent that was switched off for a month comes back by
//! itself, unless somebody revoked it meanwhile.

use std::fmt;
use std::sync::Arc;

use domain::registry::AgentKey;
use domain::{GroupId, Timestamp};
use nkeys::KeyPair;
use runtime::nats::Login;
use tokio::sync::watch;
use wire::DecodeError;
use wire::jwt::{UserFacts, read_user};

/// The claims of an agent as it got them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// For all that an agent does.
    pub user: String,
    /// To ask for new ones.
    pub door: String,
}

/// Shared by all connections of one agent. Clones are the same.
#[derive(Clone)]
pub struct Access(Arc<Inner>);

struct Inner {
    key: Arc<KeyPair>,
    public_key: AgentKey,
    door: Arc<str>,
    user: watch::Sender<Arc<str>>,
    facts: watch::Sender<UserFacts>,
    /// The group that the agent should listen to.
    wanted: watch::Sender<Option<GroupId>>,
    /// Times the broker refused the user claims.
    refusals: watch::Sender<u64>,
}

impl Access {
    /// The access of the holder of `key`.
    ///
    /// # Errors
    /// [`DecodeError`] if the claims are none of a user, or are for another key.
    pub fn new(key: KeyPair, claims: &Claims) -> Result<Self, DecodeError> {
        let facts = read_user(&claims.user)?;
        let door = read_user(&claims.door)?;
        let public_key = facts.key.clone();
        if public_key.as_str() != key.public_key() || door.key != public_key {
            let problem = "is for another key than the agent's".to_owned();
            return Err(DecodeError::Field { field: "user_jwt", problem });
        }
        Ok(Self(Arc::new(Inner {
            key: Arc::new(key),
            public_key,
            door: claims.door.as_str().into(),
            user: watch::Sender::new(claims.user.as_str().into()),
            facts: watch::Sender::new(facts),
            wanted: watch::Sender::new(None),
            refusals: watch::Sender::new(0),
        })))
    }

    /// The agent's key.
    pub(crate) fn key(&self) -> &KeyPair {
        &self.0.key
    }

    /// The agent's public key.
    #[must_use]
    pub fn public_key(&self) -> &AgentKey {
        &self.0.public_key
    }

    /// The claims as they are now.
    #[must_use]
    pub fn claims(&self) -> Claims {
        Claims { user: self.0.user.borrow().to_string(), door: self.0.door.to_string() }
    }

    /// What the user claims say.
    #[must_use]
    pub fn facts(&self) -> UserFacts {
        self.0.facts.borrow().clone()
    }

    /// A login that always shows the newest user claims.
    #[must_use]
    pub fn login(&self) -> Login {
        Login::renewed(Arc::clone(&self.0.key), self.0.user.subscribe())
    }

    /// A login that may ask for new claims.
    #[must_use]
    pub fn door(&self) -> Login {
        Login::fixed(KeyPair::clone(&self.0.key), Arc::clone(&self.0.door))
    }

    /// Whether the user claims have expired.
    #[must_use]
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.0.facts.borrow().validity.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether the user claims let the agent hear of `group`. If not, new ones are wanted.
    pub(crate) fn covers(&self, group: &GroupId) -> bool {
        let covered = self.0.facts.borrow().group.as_ref() == Some(group);
        self.0.wanted.send_if_modified(|wanted| {
            let changed = wanted.as_ref() != Some(group);
            *wanted = Some(group.clone());
            changed
        });
        covered
    }

    /// Whether the claims are for another group than the agent is in.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let wanted = self.0.wanted.borrow();
        wanted.as_ref().is_some_and(|wanted| self.0.facts.borrow().group.as_ref() != Some(wanted))
    }

    /// The broker does not take the user claims.
    pub(crate) fn refused(&self) {
        self.0.refusals.send_modify(|refusals| *refusals += 1);
    }

    /// Puts new user claims in place of the old ones.
    pub(crate) fn renew(&self, user: &str) -> Result<(), DecodeError> {
        let facts = read_user(user)?;
        if facts.key != self.0.public_key {
            let problem = "is for another key than the agent's".to_owned();
            return Err(DecodeError::Field { field: "user_jwt", problem });
        }
        self.0.user.send_replace(user.into());
        // After the claims: who hears of the change reads them.
        self.0.facts.send_replace(facts);
        Ok(())
    }

    /// Hears of new claims.
    pub(crate) fn changes(&self) -> watch::Receiver<UserFacts> {
        self.0.facts.subscribe()
    }

    /// Hears of reasons to ask for new claims: another group, or a refusal.
    pub(crate) fn reasons(&self) -> (watch::Receiver<Option<GroupId>>, watch::Receiver<u64>) {
        (self.0.wanted.subscribe(), self.0.refusals.subscribe())
    }
}

/// Shows no secret.
impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("key", &self.0.public_key).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_claims::claims;

    #[test]
    fn claims_are_for_the_key_they_were_made_for() {
        let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
        let access = Access::new(key.clone(), &claims(&key, "web", 90)).unwrap();
        assert!(Access::new(other.clone(), &claims(&key, "web", 90)).is_err());
        assert!(access.renew(&claims(&other, "web", 90).user).is_err());
        assert!(!access.is_expired(Timestamp(89_999)) && access.is_expired(Timestamp(90_000)));
        assert!(!format!("{access:?}").contains(&key.seed().unwrap()));
    }

    #[test]
    fn a_group_that_the_claims_do_not_name_is_a_reason_to_ask() {
        let (web, db) = (GroupId::new("web").unwrap(), GroupId::new("db").unwrap());
        let key = KeyPair::new_user();
        let access = Access::new(key.clone(), &claims(&key, "web", 90)).unwrap();
        let (mut wanted, _) = access.reasons();
        assert!(access.covers(&web) && !access.is_elsewhere());
        assert!(wanted.has_changed().unwrap());
        wanted.mark_unchanged();
        assert!(!access.covers(&db) && access.is_elsewhere());
        assert!(wanted.has_changed().unwrap());
        let mut changes = access.changes();
        access.renew(&claims(&key, "db", 95).user).unwrap();
        assert!(changes.has_changed().unwrap() && !access.is_elsewhere());
        assert_eq!(changes.borrow_and_update().group, Some(db));
    }
}
