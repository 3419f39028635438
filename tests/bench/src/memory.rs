//! Storage of the agents: the product's own in memory, with a count of what was switched on.

use std::path::PathBuf;
use std::sync::Mutex;

use agent::{Drift, MemoryStorage, Proofs, Storage, View};
use bytes::Bytes;
use domain::agent::{Durable, Generation, GenerationId, Loaded, Offer, Reason};
use domain::{Cursor, KindName};
use wire::root::Chain;

use crate::agents::locked;

/// What an agent keeps, over its restarts too.
#[derive(Default)]
pub struct Kept {
    memory: MemoryStorage,
    /// The one in force and one beside it.
    staged: Mutex<Vec<Generation>>,
    switched_on: Mutex<Vec<Cursor>>,
}

impl Kept {
    /// What a start of the agent finds.
    #[must_use]
    pub fn load(&self) -> Loaded {
        let current = self.memory.current();
        let active = current.and_then(|id| locked(&self.staged).iter().find(|one| one.id() == id).cloned());
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

    fn keep_roots(&self, chain: &Chain) -> Result<(), Reason> {
        self.memory.keep_roots(chain)
    }

    fn stage(&self, offer: &Offer) -> Result<(), Reason> {
        locked(&self.staged).push(Generation::of(&offer.snapshot));
        self.memory.stage(offer)
    }

    fn activate(&self, id: &GenerationId) -> Result<(), Reason> {
        locked(&self.switched_on).push(id.cursor);
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
        locked(&self.staged)
            .retain(|one| keep.iter().any(|id| id.cursor == one.cursor && id.group == one.group));
        self.memory.prune(keep)
    }

    fn document(&self, kind: &KindName) -> Result<(Option<Bytes>, Option<PathBuf>), Reason> {
        self.memory.document(kind)
    }

    fn show(&self, view: &View) {
        self.memory.show(view);
    }
}
