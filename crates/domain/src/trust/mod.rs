//! Whose signatures count: roots, each of which names the keys of every role, in versions that follow each
//! other.
//!
//! The rules are those of The Update Framework (its section on the root role): a receiver pins one root and goes
//! from there version by version. Each next root is signed by as many keys of the root before it as that one asks
//! for, and by as many of its own as it asks for itself. What signatures hold is checked elsewhere; here stands what
//! follows from whose they are.

use std::collections::BTreeSet;

use crate::id::FleetId;
use crate::time::Timestamp;

#[cfg(test)]
mod tests;

/// Most keys of one role, and most signatures that are looked at.
pub const MAX_ROLE_KEYS: usize = 8;
/// Most roots from the pinned one to the newest: some decades of renewals, and a bound for what an agent keeps.
pub const MAX_CHAIN: usize = 128;

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

/// What a key may sign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RoleName {
    /// Roots.
    Root,
    /// Snapshots and assignments.
    Director,
    /// Manifests and indexes of content.
    Content,
}

impl RoleName {
    /// All roles.
    pub const ALL: [Self; 3] = [Self::Root, Self::Director, Self::Content];
}

impl std::fmt::Display for RoleName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Root => "root",
            Self::Director => "director",
            Self::Content => "content",
        })
    }
}

/// Why a root is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootError {
    /// A role that must have keys has none.
    #[error("role {0} has no key")]
    NoKey(RoleName),
    /// More keys than are looked at.
    #[error("role {0} has more than {MAX_ROLE_KEYS} keys")]
    TooManyKeys(RoleName),
    /// Nobody could sign, or nobody would have to.
    #[error("role {role} asks for {threshold} signatures and has {keys} different keys")]
    Threshold {
        /// The role.
        role: RoleName,
        /// How many signatures it asks for.
        threshold: u32,
        /// How many keys it has, each counted once.
        keys: usize,
    },
    /// One key for two purposes: who steals it has both.
    #[error("a key serves the roles {0} and {1}: give each role keys of its own")]
    SharedKey(RoleName, RoleName),
    /// Versions count from 1.
    #[error("the version is 0; versions count from 1")]
    Version,
    /// It would never be good.
    #[error("it expires before it is issued")]
    Expiry,
}

/// The keys of one role and how many of them must have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    keys: BTreeSet<PublicKey>,
    threshold: u32,
}

impl Role {
    /// A role. A key that is given twice counts once.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = PublicKey>, threshold: u32) -> Self {
        Self { keys: keys.into_iter().collect(), threshold }
    }

    /// A role of one key.
    #[must_use]
    pub fn of_one(key: PublicKey) -> Self {
        Self::new([key], 1)
    }

    /// Its keys, each once.
    #[must_use]
    pub fn keys(&self) -> &BTreeSet<PublicKey> {
        &self.keys
    }

    /// How many different ones must have signed.
    #[must_use]
    pub fn threshold(&self) -> u32 {
        self.threshold
    }

    /// How many of its keys are among those that signed, each counted once.
    #[must_use]
    pub fn count(&self, signed: &BTreeSet<PublicKey>) -> usize {
        self.keys.intersection(signed).count()
    }

    fn is_met_by(&self, signed: &BTreeSet<PublicKey>) -> bool {
        self.count(signed) >= usize::try_from(self.threshold).unwrap_or(usize::MAX).max(1)
    }

    fn check(&self, name: RoleName) -> Result<(), RootError> {
        if self.keys.is_empty() && name != RoleName::Content {
            return Err(RootError::NoKey(name));
        }
        if self.keys.len() > MAX_ROLE_KEYS {
            return Err(RootError::TooManyKeys(name));
        }
        // A fleet without content needs no key for it: then nothing is good content.
        let most = u32::try_from(self.keys.len().max(1)).unwrap_or(u32::MAX);
        if !(1..=most).contains(&self.threshold) {
            let (threshold, keys) = (self.threshold, self.keys.len());
            return Err(RootError::Threshold { role: name, threshold, keys });
        }
        Ok(())
    }
}

/// One version of what a fleet's agents trust.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The fleet.
    pub fleet: FleetId,
    /// Counts from 1, without gaps.
    pub version: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Until when it is good. What is in force then stays, but nothing new is taken under it.
    pub expires_at: Timestamp,
    /// Who signs the next root.
    pub root: Role,
    /// Who signs snapshots and assignments.
    pub director: Role,
    /// Who signs content.
    pub content: Role,
}

impl Root {
    /// A role by its name.
    #[must_use]
    pub fn role(&self, name: RoleName) -> &Role {
        match name {
            RoleName::Root => &self.root,
            RoleName::Director => &self.director,
            RoleName::Content => &self.content,
        }
    }

    /// Checks what a root alone must be.
    ///
    /// # Errors
    /// [`RootError`]: the first rule that is broken.
    pub fn check(&self) -> Result<(), RootError> {
        if self.version == 0 {
            return Err(RootError::Version);
        }
        if self.expires_at <= self.issued_at {
            return Err(RootError::Expiry);
        }
        for name in RoleName::ALL {
            self.role(name).check(name)?;
        }
        let [root, director, content] = RoleName::ALL;
        for (one, other) in [(root, director), (root, content), (director, content)] {
            if !self.role(one).keys.is_disjoint(&self.role(other).keys) {
                return Err(RootError::SharedKey(one, other));
            }
        }
        Ok(())
    }

    /// The root after this one with the same keys, signed anew for longer. The caller changes what is to change.
    #[must_use]
    pub fn next(&self, issued_at: Timestamp, expires_at: Timestamp) -> Self {
        Self { version: self.version.saturating_add(1), issued_at, expires_at, ..self.clone() }
    }
}

/// Why a root is not followed. Nothing changes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// It is for another fleet.
    #[error("root {version} is for fleet {found}, not {wanted}")]
    OtherFleet {
        /// Its version.
        version: u64,
        /// Whose it is.
        found: FleetId,
        /// Whose it must be.
        wanted: FleetId,
    },
    /// Not the one after the root that is trusted.
    #[error("root {found} cannot follow root {trusted}: versions go up by one")]
    Version {
        /// What is trusted.
        trusted: u64,
        /// What was offered.
        found: u64,
    },
    /// The root before it did not agree.
    #[error(
        "root {version} is signed by {found} of the {needed} keys that root {} asks for: sign it with more of the keys of role root before the change",
        version.saturating_sub(1)
    )]
    Before {
        /// Its version.
        version: u64,
        /// How many signed.
        found: usize,
        /// How many must.
        needed: u32,
    },
    /// Its own keys did not agree.
    #[error(
        "root {version} is signed by {found} of the {needed} keys that it asks for itself: sign it with more of its own keys of role root"
    )]
    Own {
        /// Its version.
        version: u64,
        /// How many signed.
        found: usize,
        /// How many must.
        needed: u32,
    },
}

/// Checks the first root of a chain: its own keys have signed it. Why this one and no other is for the caller to know,
/// by a fingerprint that came another way.
///
/// # Errors
/// [`ChainError::Own`].
pub fn begins(root: &Root, signed: &BTreeSet<PublicKey>) -> Result<(), ChainError> {
    if root.root.is_met_by(signed) {
        return Ok(());
    }
    let (found, needed) = (root.root.count(signed), root.root.threshold);
    Err(ChainError::Own { version: root.version, found, needed })
}

/// Checks whether the keys of a trusted root let another follow, before anything is known of it but who signed it.
///
/// # Errors
/// [`ChainError::Before`].
pub fn lets_follow(trusted: &Root, signed: &BTreeSet<PublicKey>) -> Result<(), ChainError> {
    if trusted.root.is_met_by(signed) {
        return Ok(());
    }
    let (found, needed) = (trusted.root.count(signed), trusted.root.threshold);
    Err(ChainError::Before { version: trusted.version.saturating_add(1), found, needed })
}

/// Checks that `next` follows `trusted`, signed by these. Expiry is no matter here: whoever was away for long walks
/// over roots that have expired; only the last one must be good.
///
/// # Errors
/// [`ChainError`]: the first rule that is broken.
pub fn follows(trusted: &Root, next: &Root, signed: &BTreeSet<PublicKey>) -> Result<(), ChainError> {
    if next.fleet != trusted.fleet {
        let (found, wanted) = (next.fleet.clone(), trusted.fleet.clone());
        return Err(ChainError::OtherFleet { version: next.version, found, wanted });
    }
    if Some(next.version) != trusted.version.checked_add(1) {
        return Err(ChainError::Version { trusted: trusted.version, found: next.version });
    }
    lets_follow(trusted, signed)?;
    begins(next, signed)
}

/// Whether the step from one root to the next takes a director's key away. What that key signed counts no more, so
/// that the floors it raised must not count either: whoever stole it may have raised them out of reach.
#[must_use]
pub fn takes_director_away(before: &Root, after: &Root) -> bool {
    !before.director.keys.is_subset(&after.director.keys)
}

/// What an agent has to know of the root that it trusts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adopted {
    /// Its version.
    pub version: u64,
    /// When it was made.
    pub issued_at: Timestamp,
    /// Until when it is good.
    pub expires_at: Timestamp,
    /// The newest version that took a director's key away; 0 if none in the chain did.
    pub director_lost: u64,
}

impl Adopted {
    /// What a chain of roots, oldest first, comes to. `None` without any.
    #[must_use]
    pub fn of(chain: &[Root]) -> Option<Self> {
        let newest = chain.last()?;
        let steps = chain.iter().zip(chain.iter().skip(1));
        let lost = steps.filter(|(before, after)| takes_director_away(before, after)).map(|(_, after)| after);
        Some(Self {
            version: newest.version,
            issued_at: newest.issued_at,
            expires_at: newest.expires_at,
            director_lost: lost.map(|root| root.version).max().unwrap_or(0),
        })
    }
}
