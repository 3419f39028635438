//! What an agent finds when it starts, whatever state the last one left.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use domain::agent::{Durable, Floor, Generation, GenerationId, Loaded, Placement};
use domain::{Cursor, Digest, GroupId, Snapshot};
use wire::envelope::MAX_ENVELOPE_BYTES;
use wire::sign::KeySet;

use super::state::State;
use super::{ASSIGNMENT, Active, CURRENT, DiskStorage, ENVELOPE, FLOORS, GENERATIONS, Inner, STATE, files};
use crate::trust::LiveTrust;

/// Largest state file: 64 floors and 32 failures with their reasons take some 60 KiB.
const MAX_STATE_BYTES: usize = 1024 * 1024;
/// Where a state that cannot be read is kept for people to look at.
const CORRUPT: &str = "state.json.corrupt";

/// Why a state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// It cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl DiskError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl DiskStorage {
    /// Opens the state directory, which the caller has locked, and reads what is there. A state file that
    /// cannot be read is kept aside and the state rebuilt from the signed envelopes, so that floors do not go
    /// down. `handlers` identifies the configuration of handlers: if it changed, items that failed are tried
    /// again.
    ///
    /// # Errors
    /// [`DiskError`] if the directory cannot be read or written.
    pub fn open(root: &Path, trust: &LiveTrust, handlers: Digest) -> Result<(Self, Loaded), DiskError> {
        for dir in [GENERATIONS, FLOORS] {
            let dir = root.join(dir);
            fs::create_dir_all(&dir).map_err(DiskError::io("create", &dir))?;
        }
        let inner = Mutex::new(Inner::default());
        let storage = Self { root: root.to_owned(), trust: trust.clone(), handlers, inner };
        let state = storage.read_state()?;
        let active = storage.read_active();
        let mut loaded = match state {
            Some(state) => storage.as_stored(state, active),
            None => storage.rebuilt(active),
        };
        storage.raise_floors(&mut loaded.durable);
        Ok((storage, loaded))
    }

    /// The state file; `None` if there is none that can be read.
    fn read_state(&self) -> Result<Option<State>, DiskError> {
        let path = self.root.join(STATE);
        let bytes = match files::read(&path, MAX_STATE_BYTES) {
            Ok(None) => return Ok(None),
            Ok(Some(bytes)) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidData) => {
                Vec::new()
            }
            Err(error) => return Err(DiskError::io("read", &path)(error)),
        };
        let why = match files::unseal(&bytes).map(State::decode) {
            Some(Ok(state)) => return Ok(Some(state)),
            Some(Err(error)) => runtime::log::chain(&error),
            None => "its checksum does not hold".to_owned(),
        };
        let aside = self.root.join(CORRUPT);
        fs::rename(&path, &aside).map_err(DiskError::io("move aside", &path))?;
        tracing::warn!(
            path = %path.display(), kept = %aside.display(), why,
            "the state file is damaged: it is kept aside, and the state is rebuilt from signed envelopes"
        );
        Ok(None)
    }

    /// The generation that `current` names, if its envelope holds.
    fn read_active(&self) -> Option<Generation> {
        let link = fs::read_link(self.root.join(CURRENT)).ok()?;
        let id = parse_name(link.file_name()?.to_str()?)?;
        match self.signed(&id) {
            Ok((snapshot, envelope)) => {
                self.inner().active = Some(Active::of(&snapshot, &envelope));
                Some(Generation::of(&snapshot))
            }
            Err(reason) => {
                tracing::warn!(%reason, "the generation in force cannot be verified; it is fetched again");
                None
            }
        }
    }

    fn as_stored(&self, state: State, active: Option<Generation>) -> Loaded {
        let State { mut durable, good, handlers } = state;
        durable.good = good.and_then(|id| match self.signed(&id) {
            Ok((snapshot, _)) => Some(Generation::of(&snapshot)),
            Err(reason) => {
                tracing::warn!(%reason, "the last known good cannot be verified");
                None
            }
        });
        if handlers != Some(self.handlers) && !durable.failed.is_empty() {
            tracing::info!("the configuration of handlers changed: items that failed are tried again");
            durable.failed.clear();
        }
        Loaded { durable, active }
    }

    /// A state from signed envelopes alone. The generation in force counts as the last known good, unless an
    /// older one of the group is still kept: then the one in force was under trial.
    fn rebuilt(&self, active: Option<Generation>) -> Loaded {
        let mut durable = Durable::default();
        let assignment = files::read(&self.root.join(ASSIGNMENT), MAX_ENVELOPE_BYTES).ok().flatten();
        let assignment =
            assignment.and_then(|bytes| wire::envelope::parse(&bytes).ok()).and_then(|envelope| {
                wire::snapshot::open_assignment(&envelope, &self.trust.now().directors).ok()
            });
        if let Some(assignment) = assignment {
            durable.time_floor = assignment.issued_at;
            durable.assignment = Some(Placement { group: assignment.group, cursor: assignment.cursor });
        }
        let older = self.generations().into_iter().filter(|snapshot| {
            active
                .as_ref()
                .is_some_and(|active| active.group == snapshot.group && active.cursor > snapshot.cursor)
        });
        let older = older.max_by_key(|snapshot| snapshot.cursor).as_ref().map(Generation::of);
        durable.good = older.or_else(|| active.clone());
        Loaded { durable, active }
    }

    /// All generations on disk whose envelopes hold.
    fn generations(&self) -> Vec<Snapshot> {
        let Ok(entries) = fs::read_dir(self.root.join(GENERATIONS)) else { return Vec::new() };
        let ids = entries.flatten().filter_map(|entry| parse_name(entry.file_name().to_str()?));
        ids.filter_map(|id| self.signed(&id).ok()).map(|(snapshot, _)| snapshot).collect()
    }

    /// Those of them that are signed by keys that count now. Others stay in force, and stand for no floor.
    fn generations_signed_by(&self, keys: &KeySet) -> Vec<Snapshot> {
        let holds = |snapshot: &Snapshot| {
            let id = GenerationId { group: snapshot.group.clone(), cursor: snapshot.cursor };
            let bytes = files::read(&self.generation_dir(&id).join(ENVELOPE), MAX_ENVELOPE_BYTES);
            let envelope = bytes.ok().flatten().and_then(|bytes| wire::envelope::parse(&bytes).ok());
            envelope.is_some_and(|envelope| wire::snapshot::open(&envelope, keys).is_ok())
        };
        self.generations().into_iter().filter(holds).collect()
    }

    /// Signed envelopes on disk raise the floors of a state that is older than they are.
    fn raise_floors(&self, durable: &mut Durable) {
        let trust = self.trust.now();
        let mut snapshots = self.generations_signed_by(&trust.directors);
        let mut proved = Vec::new();
        for entry in fs::read_dir(self.root.join(FLOORS)).into_iter().flatten().flatten() {
            let bytes = files::read(&entry.path(), MAX_ENVELOPE_BYTES).ok().flatten();
            let opened = bytes.and_then(|bytes| wire::envelope::parse(&bytes).ok());
            let snapshot = opened.and_then(|e| wire::snapshot::open(&e, &trust.directors).ok());
            let Some(snapshot) = snapshot else { continue };
            proved.push((snapshot.group.clone(), snapshot.cursor));
            snapshots.push(snapshot);
        }
        for snapshot in snapshots.iter().filter(|snapshot| snapshot.fleet == trust.fleet) {
            let floor = Floor { cursor: snapshot.cursor, digest: snapshot.content_digest() };
            durable.floors.raise(&snapshot.group, floor);
            durable.time_floor = durable.time_floor.max(snapshot.issued_at);
        }
        self.inner().proved = proved;
    }
}

/// Reads `<epoch>-<revision>-<group>`.
pub(super) fn parse_name(name: &str) -> Option<GenerationId> {
    let mut parts = name.splitn(3, '-');
    let (epoch, revision) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let group = GroupId::new(parts.next()?).ok()?;
    Some(GenerationId { group, cursor: Cursor::new(epoch, revision) })
}
