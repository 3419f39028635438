//! A root key in a file of this process: for fleets whose owner keeps no keys apart. It makes the first root, and the
//! next one when the keys changed or a root is half over.

use std::sync::Arc;

use domain::trust::{Role, Root};
use domain::{FleetId, Span, Timestamp};
use wire::sign::{KeySet, Signer, public_key};

use super::{Roots, RootsError};
use crate::clock;
use crate::nats::Nats;

/// How often a root is made again when another process makes one at the same time.
const MAX_TRIES: u32 = 8;

/// What this process puts into roots.
#[derive(Clone)]
pub struct LocalRoot {
    fleet: FleetId,
    signer: Arc<dyn Signer>,
    director: Role,
    content: Role,
    validity: Span,
}

impl LocalRoot {
    /// Roots of `fleet` that `signer` signs, which name this director and these keys of content.
    #[must_use]
    pub fn new(
        fleet: FleetId,
        signer: Arc<dyn Signer>,
        (director, content): (&dyn Signer, &KeySet),
        validity: Span,
    ) -> Self {
        let director = Role::of_one(public_key(&director.public_key()));
        Self { fleet, signer, director, content: content.role(), validity }
    }

    /// The root to make now; `None` if the newest one is as it should be, or other keys decide.
    fn wanted(&self, newest: Option<&Root>, now: Timestamp) -> Option<Root> {
        let own = Role::of_one(public_key(&self.signer.public_key()));
        let Some(newest) = newest else {
            return Some(Root {
                fleet: self.fleet.clone(),
                version: 1,
                issued_at: now,
                expires_at: now + self.validity,
                root: own,
                director: self.director.clone(),
                content: self.content.clone(),
            });
        };
        if newest.root != own {
            tracing::debug!(version = newest.version, "the newest trust root is in the hands of other keys");
            return None;
        }
        let same = newest.director == self.director && newest.content == self.content;
        let half = newest.issued_at + newest.expires_at.since(newest.issued_at).scaled(1, 2);
        // One that was made by a clock ahead of this one is not made again before its time.
        (!same || now >= half).then(|| Root {
            director: self.director.clone(),
            content: self.content.clone(),
            ..newest.next(now.max(newest.issued_at), now.max(newest.issued_at) + self.validity)
        })
    }

    /// Makes the root that is due, if one is.
    ///
    /// # Errors
    /// [`RootsError`].
    pub async fn make(&self, roots: &Roots, nats: &Nats) -> Result<(), RootsError> {
        for _ in 0..MAX_TRIES {
            roots.catch_up(nats).await?;
            let known = roots.known();
            let newest = known.as_ref().map(|known| known.chain.newest());
            let Some(root) = self.wanted(newest, clock::now()) else { return Ok(()) };
            root.check()?;
            let mut envelope = wire::root::unsigned(&root);
            wire::root::sign(&mut envelope, &*self.signer)?;
            match roots.publish(nats, envelope).await {
                // Another replica was quicker: perhaps with the same.
                Err(RootsError::Conflict(_)) => {}
                done => return done,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::SigningKey;

    use super::*;

    fn key(seed: u8) -> SigningKey {
        SigningKey::from_bytes(&[seed; 32])
    }

    fn local(director: u8, content: &[u8]) -> LocalRoot {
        let keys = content.iter().map(|seed| key(*seed).verifying_key()).collect();
        let content = KeySet { keys, threshold: 1 };
        LocalRoot::new(FleetId::new("f").unwrap(), Arc::new(key(1)), (&key(director), &content), Span(100))
    }

    #[test]
    fn a_root_is_made_when_keys_changed_or_it_is_half_over() {
        let first = local(2, &[3]).wanted(None, Timestamp(1_000)).unwrap();
        assert_eq!((first.version, first.expires_at), (1, Timestamp(1_100)));
        first.check().unwrap();
        let wanted =
            |local: LocalRoot, now| local.wanted(Some(&first), Timestamp(now)).map(|root| root.version);
        assert_eq!(wanted(local(2, &[3]), 1_049), None);
        assert_eq!(wanted(local(2, &[3]), 1_050), Some(2));
        assert_eq!(wanted(local(2, &[3]), 10), None);
        assert_eq!(wanted(local(4, &[3]), 1_001), Some(2));
        assert_eq!(wanted(local(2, &[3, 4]), 1_001), Some(2));
        assert_eq!(wanted(local(2, &[]), 1_001), Some(2));
        let next = local(4, &[3]).wanted(Some(&first), Timestamp(10)).unwrap();
        assert_eq!(
            (next.issued_at, next.expires_at),
            (first.issued_at, Timestamp(1_100)),
            "a clock set back"
        );
    }

    #[test]
    fn a_root_in_other_hands_is_left_alone() {
        let first = local(2, &[3]).wanted(None, Timestamp(1_000)).unwrap();
        let other = Root { root: Role::of_one(public_key(&key(9).verifying_key())), ..first.clone() };
        assert_eq!(local(4, &[3]).wanted(Some(&other), Timestamp(2_000)), None);
        let two = Root {
            root: Role::new(first.root.keys().iter().copied().chain(other.root.keys().iter().copied()), 1),
            ..first
        };
        assert_eq!(local(4, &[3]).wanted(Some(&two), Timestamp(2_000)), None);
    }
}
