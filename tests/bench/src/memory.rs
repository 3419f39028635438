//! Storage of the agents: the product's own in memory, with a count of what was switched on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Mutex;

use agent::{Drift, MemoryStorage, Proofs, Storage, View};
use bytes::Bytes;
use domain::KindName;
use domain::agent::{Durable, Generation, GenerationId, Loaded, Offer, Reason};

use crate::agents::locked;

/// What an agent keeps, over its restarts too.
#[derive(Default)]
pub struct Kept {
    memory: MemoryStorage,
    staged: Mutex<BTreeMap<GenerationId, Generation>>,
    switched_on: Mutex<Vec<GenerationId>>,
}

impl Kept {
    /// What a start of the agent finds.
    #[must_use]
    pub fn load(&self) -> Loaded {
        let current = self.memory.current();
        let active = current.and_then(|id| locked(&self.staged).get(&id).cloned());
        Loaded { durable: self.memory.durable().unwrap_or_default(), active }
    }

    /// Revision of the snapshot that is switched on.
    #[must_use]
    pub fn revision(&self) -> Option<u64> {
        self.memory.current().map(|id| id.cursor.revision.0)
    }

    /// Times a snapshot was switched on that had been before.
    #[must_use]
    pub fn repeated(&self) -> usize {
        let mut all = locked(&self.switched_on).clone();
        let times = all.len();
        all.sort();
        all.dedup();
        times - all.len()
    }
}

impl Storage for Kept {
    const INLINE: bool = MemoryStorage::INLINE;

    fn persist(&self, durable: &Durable, proofs: &Proofs) -> Result<(), Reason> {
        self.memory.persist(durable, proofs)
    }

    fn stage(&self, offer: &Offer) -> Result<(), Reason> {
        let generation = Generation::of(&offer.snapshot);
        locked(&self.staged).insert(generation.id(), generation);
        self.memory.stage(offer)
    }

    fn activate(&self, id: &GenerationId) -> Result<(), Reason> {
        locked(&self.switched_on).push(id.clone());
        self.memory.activate(id)
    }

    fn revert(&self, to: Option<&GenerationId>) -> Result<(), Reason> {
        self.memory.revert(to)
    }

    fn refresh(&self, offer: &Offer) -> Result<(), Reason> {
        self.memory.refresh(offer)
    }

    fn repair(&self, kinds: &[KindName]) -> Result<(), Reason> {
        self.memory.repair(kinds)
    }

    fn check_drift(&self) -> Drift {
        self.memory.check_drift()
    }

    fn prune(&self, keep: &[GenerationId]) -> Result<(), Reason> {
        locked(&self.staged).retain(|id, _| keep.contains(id));
        self.memory.prune(keep)
    }

    fn document(&self, kind: &KindName) -> Result<(Option<Bytes>, Option<PathBuf>), Reason> {
        self.memory.document(kind)
    }

    fn show(&self, view: &View) {
        self.memory.show(view);
    }
}
