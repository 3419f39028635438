//! Where an agent keeps what it applied: a directory, or memory for agents that are embedded or simulated.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use domain::KindName;
use domain::agent::{Durable, GenerationId, Offer, Reason, Status};
use domain::{AgentId, Cursor, FleetId, GroupId, Settings, Timestamp};
use wire::root::Chain;

/// Signed envelopes that prove what a durable state says; the state can be rebuilt from them.
#[derive(Debug, Clone, Default)]
pub struct Proofs {
    /// The snapshot whose cursor is a floor.
    pub snapshot: Option<Arc<Offer>>,
    /// The envelope of the assignment.
    pub assignment: Option<Bytes>,
}

/// What a comparison of the files in force with what was applied found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Drift {
    /// Nothing.
    None,
    /// Documents of these kinds differ, are missing, or do not belong there.
    Kinds(Vec<KindName>),
    /// The generation is gone, or its envelope is.
    Lost,
}

/// What `muster-agent status` shows beside the state.
#[derive(Debug, Clone)]
pub struct View {
    /// The fleet.
    pub fleet: FleetId,
    /// The agent.
    pub agent: AgentId,
    /// Its group.
    pub group: Option<GroupId>,
    /// Cursor in force.
    pub active: Cursor,
    /// Settings in force.
    pub settings: Settings,
    /// Whether there is a connection.
    pub connected: bool,
    /// When a heartbeat was answered last.
    pub last_reply: Option<Timestamp>,
    /// State of the items, and counts.
    pub status: Status,
}

/// The operations of the agent machine on its files. Each either happens as a whole or not at all, and is
/// durable when it returns. Calls come one at a time. Errors are for people.
pub trait Storage: Send + Sync + 'static {
    /// Whether the operations are quick enough to run without a thread of their own.
    const INLINE: bool;

    /// Makes the state durable, its proofs first.
    ///
    /// # Errors
    /// If it could not be written. The state before stays in force.
    fn persist(&self, durable: &Durable, proofs: &Proofs) -> Result<(), Reason>;

    /// Keeps the chain of trust roots. It is obeyed once it is durable.
    ///
    /// # Errors
    /// If it could not be written.
    fn keep_roots(&self, chain: &Chain) -> Result<(), Reason>;

    /// Writes a generation beside the one in force and checks what was written.
    ///
    /// # Errors
    /// If it could not be written or does not read back as it should.
    fn stage(&self, offer: &Offer) -> Result<(), Reason>;

    /// Switches to a staged generation.
    ///
    /// # Errors
    /// If nothing was switched.
    fn activate(&self, id: &GenerationId) -> Result<(), Reason>;

    /// Switches back, or to nothing.
    ///
    /// # Errors
    /// If nothing was switched.
    fn revert(&self, to: Option<&GenerationId>) -> Result<(), Reason>;

    /// Replaces the envelope of the generation in force by one of the same content.
    ///
    /// # Errors
    /// If it could not be written.
    fn refresh(&self, offer: &Offer) -> Result<(), Reason>;

    /// Restores documents from the stored envelope.
    ///
    /// # Errors
    /// If they could not be written, or the envelope does not hold what was applied.
    fn repair(&self, kinds: &[KindName]) -> Result<(), Reason>;

    /// Compares the files in force with what was applied.
    fn check_drift(&self) -> Drift;

    /// Removes all generations but these.
    ///
    /// # Errors
    /// If one could not be removed.
    fn prune(&self, keep: &[GenerationId]) -> Result<(), Reason>;

    /// The document of a kind in force, and the file that holds it where there is one.
    ///
    /// # Errors
    /// If it could not be read.
    fn document(&self, kind: &KindName) -> Result<(Option<Bytes>, Option<PathBuf>), Reason>;

    /// Shows how the agent fares to people on its machine. Not durable, and never in the way of anything.
    fn show(&self, view: &View);
}

/// Storage in memory: for agents that are embedded, tests and simulated fleets.
#[derive(Debug, Default)]
pub struct MemoryStorage(Mutex<Memory>);

/// Documents of a generation, by kind.
type Documents = Arc<[(KindName, Arc<[u8]>)]>;

#[derive(Debug, Default)]
struct Memory {
    durable: Option<Durable>,
    generations: BTreeMap<GenerationId, Documents>,
    current: Option<GenerationId>,
}

impl MemoryStorage {
    /// The state last made durable.
    #[must_use]
    pub fn durable(&self) -> Option<Durable> {
        self.memory().durable.clone()
    }

    /// The generation in force.
    #[must_use]
    pub fn current(&self) -> Option<GenerationId> {
        self.memory().current.clone()
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        // Nothing panics while it holds this lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Storage for MemoryStorage {
    const INLINE: bool = true;

    fn persist(&self, durable: &Durable, _proofs: &Proofs) -> Result<(), Reason> {
        self.memory().durable = Some(durable.clone());
        Ok(())
    }

    fn keep_roots(&self, _chain: &Chain) -> Result<(), Reason> {
        Ok(())
    }

    fn stage(&self, offer: &Offer) -> Result<(), Reason> {
        let snapshot = &offer.snapshot;
        let id = GenerationId { group: snapshot.group.clone(), cursor: snapshot.cursor };
        let documents = snapshot.policies.iter().map(|item| (item.kind.clone(), Arc::clone(&item.document)));
        self.memory().generations.insert(id, documents.collect());
        Ok(())
    }

    fn activate(&self, id: &GenerationId) -> Result<(), Reason> {
        self.memory().current = Some(id.clone());
        Ok(())
    }

    fn revert(&self, to: Option<&GenerationId>) -> Result<(), Reason> {
        self.memory().current = to.cloned();
        Ok(())
    }

    fn refresh(&self, _offer: &Offer) -> Result<(), Reason> {
        Ok(())
    }

    fn repair(&self, _kinds: &[KindName]) -> Result<(), Reason> {
        Ok(())
    }

    fn check_drift(&self) -> Drift {
        Drift::None
    }

    fn prune(&self, keep: &[GenerationId]) -> Result<(), Reason> {
        self.memory().generations.retain(|id, _| keep.contains(id));
        Ok(())
    }

    fn document(&self, kind: &KindName) -> Result<(Option<Bytes>, Option<PathBuf>), Reason> {
        let memory = self.memory();
        let documents = memory.current.as_ref().and_then(|id| memory.generations.get(id));
        let found = documents.and_then(|documents| documents.iter().find(|(name, _)| name == kind));
        Ok((found.map(|(_, document)| Bytes::copy_from_slice(document)), None))
    }

    fn show(&self, _view: &View) {}
}
