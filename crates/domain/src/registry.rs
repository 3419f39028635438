//! The registry: which agents there are, whose key each id belongs to, and the group each is in.
//!
//! An id belongs to the first key that joined with it, for ever: a deleted agent leaves a tombstone that
//! nobody can take over.

use std::collections::BTreeMap;
use std::fmt;

use crate::enrol::Reason;
use crate::id::{AgentId, FleetId, GroupId, TokenId};
use crate::revision::{Cursor, Epoch, Revision};
use crate::snapshot::Assignment;
use crate::time::Timestamp;

/// Length of an nkey public key, in characters: one byte of kind, 32 of key and 2 of checksum in base32.
pub const KEY_CHARS: usize = 56;

/// Why a text is not an agent's public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not the public key of a user nkey: {KEY_CHARS} characters of base32 that start with U")]
pub struct KeyError;

/// An agent's nkey public key ("U…"). This checks its form; that it is a key, who verifies a signature.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AgentKey(Box<str>);

impl AgentKey {
    /// Checks the form and wraps it.
    ///
    /// # Errors
    /// [`KeyError`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, KeyError> {
        let text = text.as_ref();
        let base32 = |b: u8| b.is_ascii_uppercase() || matches!(b, b'2'..=b'7');
        let fits = text.len() == KEY_CHARS && text.starts_with('U') && text.bytes().all(base32);
        if fits { Ok(Self(text.into())) } else { Err(KeyError) }
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for AgentKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AgentKey({})", self.0)
    }
}

/// What the registry says of an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Registered {
    /// An agent joined and may be there.
    Agent(Registration),
    /// An agent would like to join and waits for approval. It is in no group and has no assignment.
    Pending(Pending),
    /// The agent was deleted.
    Deleted(Gone),
}

/// What is left of a deleted agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gone {
    /// The key it had.
    pub key: AgentKey,
    /// When it was deleted.
    pub deleted_at: Timestamp,
    /// Its last assignment, so that the count never starts again.
    pub assignment: Cursor,
    /// It was never in: somebody rejected it.
    pub rejected: bool,
}

/// An agent that waits for approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    /// What it brings along.
    pub newcomer: Newcomer,
    /// The group it gets unless somebody names another.
    pub group: GroupId,
    /// Why that one.
    pub reason: Reason,
    /// When it asked first.
    pub asked_at: Timestamp,
}

/// An agent that joined.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its public key.
    pub key: AgentKey,
    /// Its group.
    pub group: GroupId,
    /// Why it is in that group.
    pub reason: Reason,
    /// Labels given at join.
    pub labels: BTreeMap<String, String>,
    /// Host name given at join.
    pub hostname: String,
    /// When it joined.
    pub joined_at: Timestamp,
    /// The token it joined with.
    pub token: TokenId,
    /// Which of its assignments is the newest: the epoch it was made in, and a count from 1.
    pub assignment: Cursor,
}

/// What an agent brings along when it joins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newcomer {
    /// Its public key; it proved that it holds the private one.
    pub key: AgentKey,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Host name.
    pub hostname: String,
    /// The token it shows.
    pub token: TokenId,
}

/// How a request to join under an id stands to what is registered under it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Join<'a> {
    /// The id is free: the token decides.
    Free,
    /// The same key joined before: it gets the same answer, and no use of a token is consumed.
    Again(&'a Registration),
    /// The same key asked before and waits for approval.
    Waits(&'a Pending),
}

/// The id belongs to another key, or to a deleted agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdTaken {
    /// Another key joined under it.
    #[error("the id belongs to an agent with another key")]
    OtherKey,
    /// Its agent was deleted.
    #[error("the id belonged to an agent that was deleted; ids are never used again")]
    Deleted,
    /// Its agent was rejected.
    #[error("an operator rejected the agent of this id; ids are never used again")]
    Rejected,
}

/// Decides on a request to join by the holder of `key` under an id.
///
/// # Errors
/// [`IdTaken`].
pub fn join<'a>(registered: Option<&'a Registered>, key: &AgentKey) -> Result<Join<'a>, IdTaken> {
    match registered {
        None => Ok(Join::Free),
        Some(Registered::Agent(agent)) if agent.key == *key => Ok(Join::Again(agent)),
        Some(Registered::Pending(pending)) if pending.newcomer.key == *key => Ok(Join::Waits(pending)),
        Some(Registered::Agent(_) | Registered::Pending(_)) => Err(IdTaken::OtherKey),
        Some(Registered::Deleted(gone)) if gone.rejected && gone.key == *key => Err(IdTaken::Rejected),
        Some(Registered::Deleted(_)) => Err(IdTaken::Deleted),
    }
}

impl Newcomer {
    /// The first registration of this agent, in a group and why in that.
    #[must_use]
    pub fn registration(
        self,
        (group, reason): (GroupId, Reason),
        epoch: Epoch,
        now: Timestamp,
    ) -> Registration {
        Registration {
            key: self.key,
            group,
            reason,
            labels: self.labels,
            hostname: self.hostname,
            joined_at: now,
            token: self.token,
            assignment: Cursor { epoch, revision: Revision(1) },
        }
    }

    /// This agent while it waits for approval, with the group that it will get and why.
    #[must_use]
    pub fn pending(self, (group, reason): (GroupId, Reason), now: Timestamp) -> Pending {
        Pending { newcomer: self, group, reason, asked_at: now }
    }
}

impl Pending {
    /// The agent once it is approved, in the group that was named or else in the one that was found for it. The caller
    /// has seen that the group exists.
    #[must_use]
    pub fn approved(&self, named: Option<GroupId>, epoch: Epoch, now: Timestamp) -> Registration {
        let named = named.filter(|group| *group != self.group).map(|group| (group, Reason::Operator));
        let place = named.unwrap_or_else(|| (self.group.clone(), self.reason));
        self.newcomer.clone().registration(place, epoch, now)
    }

    /// What is left when somebody rejects it.
    #[must_use]
    pub fn rejected(&self, now: Timestamp) -> Gone {
        let key = self.newcomer.key.clone();
        Gone { key, deleted_at: now, assignment: Cursor::new(0, 0), rejected: true }
    }
}

impl Registration {
    /// The registration after a move to `group`; `None` if the agent is there already. The caller has seen
    /// that the group exists.
    #[must_use]
    pub fn moved(&self, group: &GroupId, epoch: Epoch) -> Option<Self> {
        let moved = || Self { reason: Reason::Operator, ..self.assigned(group.clone(), epoch) };
        (self.group != *group).then(moved)
    }

    /// The registration with an assignment of `epoch`; `None` if its assignment is not older than that.
    /// After the store was restored from a backup, agents may hold assignments newer than the backup: the
    /// higher epoch makes those of the restored registry count again.
    #[must_use]
    pub fn renewed(&self, epoch: Epoch) -> Option<Self> {
        (self.assignment.epoch < epoch).then(|| self.assigned(self.group.clone(), epoch))
    }

    /// The registration with the same assignment under a new number, to be signed by another key: the one that
    /// signed it is trusted no more.
    #[must_use]
    pub fn signed_anew(&self) -> Self {
        self.assigned(self.group.clone(), self.assignment.epoch)
    }

    /// Epoch and count both only rise, so the assignment is newer than any before it.
    fn assigned(&self, group: GroupId, epoch: Epoch) -> Self {
        let assignment = Cursor {
            epoch: self.assignment.epoch.max(epoch),
            revision: Revision(self.assignment.revision.0.saturating_add(1)),
        };
        Self { group, assignment, ..self.clone() }
    }

    /// What is left when the agent is deleted.
    #[must_use]
    pub fn deleted(&self, now: Timestamp) -> Gone {
        Gone { key: self.key.clone(), deleted_at: now, assignment: self.assignment, rejected: false }
    }

    /// The assignment to sign.
    #[must_use]
    pub fn assignment(&self, fleet: FleetId, agent: AgentId, now: Timestamp) -> Assignment {
        Assignment { fleet, agent, group: self.group.clone(), cursor: self.assignment, issued_at: now }
    }
}

impl Registered {
    /// The agent, if it is in.
    #[must_use]
    pub fn agent(&self) -> Option<&Registration> {
        match self {
            Self::Agent(agent) => Some(agent),
            Self::Pending(_) | Self::Deleted(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop_assert, prop_assert_eq};

    use super::*;

    fn key(c: char) -> AgentKey {
        AgentKey::new(format!("U{}", c.to_string().repeat(55))).unwrap()
    }

    fn group(id: &str) -> GroupId {
        GroupId::new(id).unwrap()
    }

    fn newcomer(key: AgentKey) -> Newcomer {
        let labels = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
        Newcomer { key, labels, hostname: "web-1".into(), token: TokenId::new("t").unwrap() }
    }

    fn agent() -> Registration {
        newcomer(key('A')).registration((group("web"), Reason::Token), Epoch(1), Timestamp(5))
    }

    #[test]
    fn keys_have_a_form() {
        let good = format!("U{}", "A2".repeat(28)).chars().take(KEY_CHARS).collect::<String>();
        assert_eq!(AgentKey::new(&good).unwrap().as_str(), good);
        for bad in [
            "",
            "U",
            &good[1..],
            &good.replacen('U', "A", 1),
            &good.replace('2', "1"),
            &good.replace('2', "é"),
        ] {
            assert_eq!(AgentKey::new(bad), Err(KeyError), "{bad:?}");
        }
    }

    #[test]
    fn an_id_belongs_to_its_first_key_for_ever() {
        let check = |registered: Option<&Registered>, key: AgentKey, expected: Result<Join<'_>, IdTaken>| {
            assert_eq!(join(registered, &key), expected);
        };
        let present = Registered::Agent(agent());
        let gone = Registered::Deleted(agent().deleted(Timestamp(9)));
        check(None, key('A'), Ok(Join::Free));
        check(Some(&present), key('A'), Ok(Join::Again(&agent())));
        check(Some(&present), key('B'), Err(IdTaken::OtherKey));
        check(Some(&gone), key('A'), Err(IdTaken::Deleted));
        check(Some(&gone), key('B'), Err(IdTaken::Deleted));
        let pending = newcomer(key('A')).pending((group("web"), Reason::Rule(2)), Timestamp(5));
        let rejected = Registered::Deleted(pending.rejected(Timestamp(9)));
        let waits = Registered::Pending(pending.clone());
        assert_eq!(join(Some(&waits), &key('A')), Ok(Join::Waits(&pending)));
        assert_eq!(join(Some(&waits), &key('B')), Err(IdTaken::OtherKey));
        assert_eq!(join(Some(&rejected), &key('A')), Err(IdTaken::Rejected));
        assert_eq!(join(Some(&rejected), &key('B')), Err(IdTaken::Deleted));
        assert_eq!((waits.agent(), rejected.agent()), (None, None));
    }

    #[test]
    fn who_is_approved_gets_the_group_that_was_found_or_the_one_that_is_named() {
        let pending = newcomer(key('A')).pending((group("web"), Reason::Rule(2)), Timestamp(5));
        let check = |named: Option<&str>, expected: (&str, Reason)| {
            let approved = pending.approved(named.map(group), Epoch(3), Timestamp(8));
            assert_eq!((approved.group.as_str(), approved.reason), expected);
            assert_eq!((approved.joined_at, approved.assignment), (Timestamp(8), Cursor::new(3, 1)));
            assert_eq!((approved.key, approved.token.as_str()), (key('A'), "t"));
        };
        check(None, ("web", Reason::Rule(2)));
        check(Some("web"), ("web", Reason::Rule(2)));
        check(Some("db"), ("db", Reason::Operator));
    }

    #[test]
    fn a_move_raises_the_count_and_a_move_to_the_same_group_changes_nothing() {
        assert_eq!(agent().moved(&group("web"), Epoch(7)), None);
        let moved = agent().moved(&group("db"), Epoch(1)).unwrap();
        assert_eq!((moved.group.as_str(), moved.assignment), ("db", Cursor::new(1, 2)));
        assert_eq!(
            (moved.reason, moved.renewed(Epoch(9)).unwrap().reason),
            (Reason::Operator, Reason::Operator)
        );
        let assignment =
            moved.assignment(FleetId::new("main").unwrap(), AgentId::new("web-1").unwrap(), Timestamp(8));
        assert_eq!((assignment.group, assignment.cursor), (group("db"), Cursor::new(1, 2)));
        assert_eq!((moved.key, moved.joined_at), (agent().key, agent().joined_at));
    }

    #[test]
    fn an_assignment_is_renewed_in_a_later_epoch_only() {
        assert_eq!(agent().renewed(Epoch(1)), None);
        let renewed = agent().renewed(Epoch(3)).unwrap();
        assert_eq!((renewed.group.clone(), renewed.assignment), (group("web"), Cursor::new(3, 2)));
        assert_eq!(renewed.renewed(Epoch(2)), None);
    }

    proptest::proptest! {
        /// Whatever happens to an agent, each of its assignments is newer than the one before, also when a
        /// replica decides with an epoch that is behind.
        #[test]
        fn assignments_never_go_backwards(steps in proptest::collection::vec((any::<bool>(), 0usize..3, 0u64..4), 0..40)) {
            let mut agent = agent();
            for (moves, to, epoch) in steps {
                let before = agent.clone();
                let next = if moves {
                    agent.moved(&group(["web", "db", "edge"][to]), Epoch(epoch))
                } else {
                    agent.renewed(Epoch(epoch))
                };
                agent = next.unwrap_or(agent);
                prop_assert_eq!(agent == before, agent.assignment == before.assignment);
                prop_assert!(agent.assignment >= before.assignment);
                prop_assert!(agent.assignment.revision >= before.assignment.revision);
            }
        }
    }
}
