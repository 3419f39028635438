//! Whom an agent obeys: the chain of roots from the one it pinned when it joined, shared by everything that verifies.

use std::sync::{Arc, PoisonError, RwLock};

use domain::content::{ContentItem, Manifest};
use domain::trust::Adopted;
use domain::{Digest, FleetId, Snapshot};
use wire::agent::v1::Envelope;
use wire::content::ContentError;
use wire::envelope::EnvelopeError;
use wire::root::{Chain, Trust};

/// The chain and what it comes to. Clones share it, and see a further root as soon as it is adopted.
#[derive(Debug, Clone)]
pub struct LiveTrust(Arc<RwLock<State>>);

#[derive(Debug)]
struct State {
    chain: Chain,
    now: Arc<Trust>,
    /// Roots of the chain, newest first: what was taken under one of them stays in force under the next.
    held: Arc<[Trust]>,
}

impl State {
    fn of(chain: Chain) -> Self {
        let held: Arc<[Trust]> = chain.roots().rev().map(Trust::from).collect();
        Self { now: Arc::new(Trust::from(chain.newest())), held, chain }
    }
}

impl LiveTrust {
    /// Trust in a chain that was verified.
    #[must_use]
    pub fn new(chain: Chain) -> Self {
        Self(Arc::new(RwLock::new(State::of(chain))))
    }

    fn read<T>(&self, read: impl FnOnce(&State) -> T) -> T {
        // Nothing panics while it holds this lock.
        read(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The keys of the newest root: what arrives is held against them.
    #[must_use]
    pub fn now(&self) -> Arc<Trust> {
        self.read(|state| Arc::clone(&state.now))
    }

    fn held(&self) -> Arc<[Trust]> {
        self.read(|state| Arc::clone(&state.held))
    }

    /// The fleet.
    #[must_use]
    pub fn fleet(&self) -> FleetId {
        self.read(|state| state.now.fleet.clone())
    }

    /// The chain.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.read(|state| state.chain.clone())
    }

    /// What the agent's machine has to know of it.
    #[must_use]
    pub fn adopted(&self) -> Adopted {
        self.read(|state| state.chain.adopted())
    }

    /// Obeys a longer chain from now on; it is on disk.
    pub fn adopt(&self, chain: Chain) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = State::of(chain);
    }

    /// Opens a snapshot that lay on this machine's disk: its signature held when it was put there, under this root or
    /// one before it.
    ///
    /// # Errors
    /// [`EnvelopeError`] as of the newest root.
    pub fn open_held(&self, envelope: &Envelope) -> Result<Snapshot, EnvelopeError> {
        wire::snapshot::open(envelope, &self.now().directors).or_else(|error| {
            let mut held = self.held().iter().map(|trust| trust.directors.clone()).collect::<Vec<_>>();
            held.dedup();
            held.iter().skip(1).find_map(|keys| wire::snapshot::open(envelope, keys).ok()).ok_or(error)
        })
    }

    /// As [`LiveTrust::open_held`], for a manifest of content.
    ///
    /// # Errors
    /// [`ContentError`] as of the newest root.
    pub fn open_held_manifest(&self, envelope: &Envelope, named: &Digest) -> Result<Manifest, ContentError> {
        let open = |trust: &Trust| wire::content::open_manifest(envelope, named, &trust.content);
        open(&self.now())
            .or_else(|error| self.held().iter().skip(1).find_map(|it| open(it).ok()).ok_or(error))
    }

    /// As [`LiveTrust::open_held_manifest`], for the one that an item names.
    ///
    /// # Errors
    /// [`ContentError`] as of the newest root.
    pub fn open_held_assigned(
        &self,
        envelope: &Envelope,
        item: &ContentItem,
    ) -> Result<Manifest, ContentError> {
        let open = |trust: &Trust| wire::content::open_assigned(envelope, &trust.fleet, item, &trust.content);
        open(&self.now())
            .or_else(|error| self.held().iter().skip(1).find_map(|it| open(it).ok()).ok_or(error))
    }
}
