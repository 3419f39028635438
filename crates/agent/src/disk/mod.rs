//! An agent's state directory.
//!
//! ```text
//! lock                   held by the running agent
//! agent.key              its nkey seed, mode 0600
//! identity.json          who it is and where its broker is (sealed)
//! broker-ca.pem          who vouches for its broker, if not whom the machine trusts
//! trust-root             the chain of trust roots, from the one whose fingerprint the join token carried
//! state.json             what must survive a crash (sealed)
//! assignment.envelope    signed proof of its group
//! floors/<group>         signed proof of each floor
//! generations/<epoch>-<revision>-<group>/envelope, policies/<kind>.json
//! current                link to the generation in force
//! status.json            how it fares, for people
//! ```

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use domain::agent::{Durable, Generation, GenerationId, Offer, Reason};
use domain::snapshot::MAX_DOCUMENT_BYTES;
use domain::{Cursor, Digest, GroupId, KindName, Snapshot};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use wire::envelope::MAX_ENVELOPE_BYTES;
use wire::root::Chain;

use crate::crash;
use crate::storage::{Drift, Proofs, Storage, View};
use crate::trust::LiveTrust;

pub(crate) mod files;
mod load;
mod show;
mod state;

pub use load::DiskError;
pub use show::{Shown, ShownContent, ShownItem};
use state::State;

/// Link to the generation in force.
const CURRENT: &str = "current";
/// Directory of the generations.
const GENERATIONS: &str = "generations";
/// Directory of the proofs of floors.
const FLOORS: &str = "floors";
/// The state file.
const STATE: &str = "state.json";
/// The chain of trust roots.
pub(crate) const TRUST_ROOT: &str = "trust-root";
/// Proof of the assignment.
const ASSIGNMENT: &str = "assignment.envelope";
/// The envelope of a generation.
const ENVELOPE: &str = "envelope";
/// Directory of the documents of a generation.
const POLICIES: &str = "policies";

/// Storage in a directory.
#[derive(Debug)]
pub struct DiskStorage {
    root: PathBuf,
    trust: LiveTrust,
    handlers: Digest,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    active: Option<Active>,
    /// Cursors of the proofs on disk.
    proved: Vec<(GroupId, Cursor)>,
}

/// What the files in force should be.
#[derive(Debug, Clone)]
struct Active {
    id: GenerationId,
    documents: Vec<(KindName, Digest)>,
    envelope: Digest,
}

impl Active {
    fn of(snapshot: &Snapshot, envelope: &[u8]) -> Self {
        Self {
            id: GenerationId { group: snapshot.group.clone(), cursor: snapshot.cursor },
            documents: snapshot.policies.iter().map(|item| (item.kind.clone(), item.digest)).collect(),
            envelope: Digest::of(envelope),
        }
    }
}

fn failed(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Reason {
    let message = format!("cannot {what} {}", path.display());
    move |error| Reason::new(format!("{message}: {error}"))
}

fn file_name(kind: &KindName) -> String {
    format!("{kind}.json")
}

impl DiskStorage {
    fn generation_dir(&self, id: &GenerationId) -> PathBuf {
        self.root.join(GENERATIONS).join(id.to_string())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The snapshot in a generation's envelope, its signature checked: by the keys that counted when it was put here,
    /// or that count now.
    fn signed(&self, id: &GenerationId) -> Result<(Snapshot, Vec<u8>), Reason> {
        let path = self.generation_dir(id).join(ENVELOPE);
        let bytes = files::read(&path, MAX_ENVELOPE_BYTES).map_err(failed("read", &path))?;
        let bytes = bytes.ok_or_else(|| Reason::new(format!("{} is missing", path.display())))?;
        let snapshot = wire::envelope::parse(&bytes)
            .and_then(|envelope| self.trust.open_held(&envelope))
            .map_err(|error| Reason::new(format!("{}: {}", path.display(), runtime::log::chain(&error))))?;
        if snapshot.group != id.group || snapshot.cursor != id.cursor || snapshot.fleet != self.trust.fleet()
        {
            return Err(Reason::new(format!("{} holds another snapshot", path.display())));
        }
        Ok((snapshot, bytes))
    }

    /// Keeps the envelope that proves a floor, if it proves a higher one than the envelope there.
    fn prove(&self, offer: &Offer) -> Result<(), Reason> {
        let snapshot = &offer.snapshot;
        let mut inner = self.inner();
        let known = inner.proved.iter().find(|(group, _)| *group == snapshot.group);
        if known.is_some_and(|(_, cursor)| *cursor >= snapshot.cursor) {
            return Ok(());
        }
        let path = self.root.join(FLOORS).join(snapshot.group.as_str());
        files::replace(&path, &offer.envelope, files::PUBLIC, || {}).map_err(failed("write", &path))?;
        inner.proved.retain(|(group, _)| *group != snapshot.group);
        inner.proved.push((snapshot.group.clone(), snapshot.cursor));
        crash::point("proof-written");
        Ok(())
    }

    /// Removes the proofs of floors that are no longer kept.
    fn forget_proofs(&self, durable: &Durable) {
        let mut inner = self.inner();
        if inner.proved.len() <= domain::agent::floors::MAX_SCOPES {
            return;
        }
        inner.proved.retain(|(group, _)| {
            let keep = durable.floors.of(group).is_some();
            if !keep {
                // One that cannot be removed costs nothing but its place.
                let _removed = fs::remove_file(self.root.join(FLOORS).join(group.as_str()));
            }
            keep
        });
    }

    fn write_generation(&self, dir: &Path, offer: &Offer) -> io::Result<()> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        let policies = dir.join(POLICIES);
        fs::create_dir_all(&policies)?;
        crash::point("stage-begin");
        for item in &offer.snapshot.policies {
            files::write_new(&policies.join(file_name(&item.kind)), &item.document, files::PUBLIC)?;
        }
        files::write_new(&dir.join(ENVELOPE), &offer.envelope, files::PUBLIC)?;
        files::sync_dir(&policies)?;
        files::sync_dir(dir)?;
        crash::point("stage-written");
        for item in &offer.snapshot.policies {
            let path = policies.join(file_name(&item.kind));
            let read = files::read(&path, MAX_DOCUMENT_BYTES)?.unwrap_or_default();
            if Digest::of(&read) != item.digest {
                let message = format!("{} does not read back as it was written", path.display());
                return Err(io::Error::new(ErrorKind::InvalidData, message));
            }
        }
        Ok(())
    }

    /// Puts a written generation in its place, also over one of the same name that may be in force.
    fn place(&self, draft: &Path, dir: &Path) -> io::Result<()> {
        match fs::rename(draft, dir) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                renameat_with(CWD, draft, CWD, dir, RenameFlags::EXCHANGE)?;
                fs::remove_dir_all(draft)?;
            }
            renamed => renamed?,
        }
        files::sync_dir(&self.root.join(GENERATIONS))
    }

    fn link(&self, id: &GenerationId) -> io::Result<()> {
        let draft = self.root.join(".current.draft");
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::os::unix::fs::symlink(target(id), &draft)?;
        crash::point("activate-link");
        fs::rename(&draft, self.root.join(CURRENT))?;
        files::sync_dir(&self.root)
    }

    fn switch(&self, id: &GenerationId) -> Result<(), Reason> {
        let (snapshot, envelope) = self.signed(id)?;
        self.link(id).map_err(failed("switch", &self.root.join(CURRENT)))?;
        self.inner().active = Some(Active::of(&snapshot, &envelope));
        Ok(())
    }

    fn is_linked(&self, id: &GenerationId) -> bool {
        fs::read_link(self.root.join(CURRENT)).is_ok_and(|link| link == target(id))
    }

    /// Names in the directory of documents that no document has.
    fn strangers(&self, active: &Active) -> io::Result<Vec<PathBuf>> {
        let known: Vec<String> = active.documents.iter().map(|(kind, _)| file_name(kind)).collect();
        let mut strangers = Vec::new();
        for entry in fs::read_dir(self.generation_dir(&active.id).join(POLICIES))? {
            let entry = entry?;
            if !known.iter().any(|name| entry.file_name() == name.as_str()) {
                strangers.push(entry.path());
            }
        }
        Ok(strangers)
    }

    fn restore(&self, active: &Active, snapshot: &Snapshot, kinds: &[KindName]) -> io::Result<()> {
        let policies = self.generation_dir(&active.id).join(POLICIES);
        fs::create_dir_all(&policies)?;
        for path in self.strangers(active)? {
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(path)?
            } else {
                fs::remove_file(path)?
            }
        }
        for item in snapshot.policies.iter().filter(|item| kinds.contains(&item.kind)) {
            let path = policies.join(file_name(&item.kind));
            if path.is_dir() && !path.is_symlink() {
                fs::remove_dir_all(&path)?;
            }
            files::replace(&path, &item.document, files::PUBLIC, || {})?;
        }
        if !self.is_linked(&active.id) {
            self.link(&active.id)?;
        }
        Ok(())
    }
}

/// What the link says: relative, so that the directory can be moved.
fn target(id: &GenerationId) -> PathBuf {
    Path::new(GENERATIONS).join(id.to_string())
}

impl Storage for DiskStorage {
    const INLINE: bool = false;

    fn persist(&self, durable: &Durable, proofs: &Proofs) -> Result<(), Reason> {
        if let Some(offer) = &proofs.snapshot {
            self.prove(offer)?;
        }
        if let Some(envelope) = &proofs.assignment {
            let path = self.root.join(ASSIGNMENT);
            let known = files::read(&path, MAX_ENVELOPE_BYTES).ok().flatten();
            if known.as_deref() != Some(&envelope[..]) {
                files::replace(&path, envelope, files::PUBLIC, || {}).map_err(failed("write", &path))?;
            }
        }
        let good = durable.good.as_ref().map(Generation::id);
        let state = State { durable: durable.clone(), good, handlers: Some(self.handlers) };
        let path = self.root.join(STATE);
        let drafted = || crash::point("state-draft");
        files::replace(&path, &files::seal(&state.encode()), files::PUBLIC, drafted)
            .map_err(failed("write", &path))?;
        self.forget_proofs(durable);
        crash::point("state-written");
        Ok(())
    }

    fn keep_roots(&self, chain: &Chain) -> Result<(), Reason> {
        let path = self.root.join(TRUST_ROOT);
        files::replace(&path, &chain.encode(), files::PUBLIC, || crash::point("root-draft"))
            .map_err(failed("write", &path))?;
        crash::point("root-written");
        Ok(())
    }

    fn stage(&self, offer: &Offer) -> Result<(), Reason> {
        let snapshot = &offer.snapshot;
        let id = GenerationId { group: snapshot.group.clone(), cursor: snapshot.cursor };
        let dir = self.generation_dir(&id);
        let draft = self.root.join(GENERATIONS).join(format!(".{id}.draft"));
        let staged = self.write_generation(&draft, offer).and_then(|()| self.place(&draft, &dir));
        if staged.is_err() {
            // Makes room on a full disk; what is left is removed with the old generations.
            let _removed = fs::remove_dir_all(&draft);
        }
        staged.map_err(failed("write", &dir))?;
        crash::point("stage-renamed");
        self.prove(offer)
    }

    fn activate(&self, id: &GenerationId) -> Result<(), Reason> {
        self.switch(id)?;
        crash::point("activated");
        Ok(())
    }

    fn revert(&self, to: Option<&GenerationId>) -> Result<(), Reason> {
        match to {
            Some(id) => self.switch(id)?,
            None => {
                let link = self.root.join(CURRENT);
                let removed = match fs::remove_file(&link) {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    other => other,
                };
                removed.and_then(|()| files::sync_dir(&self.root)).map_err(failed("remove", &link))?;
                self.inner().active = None;
            }
        }
        crash::point("reverted");
        Ok(())
    }

    fn refresh(&self, offer: &Offer) -> Result<(), Reason> {
        let active = Active::of(&offer.snapshot, &offer.envelope);
        let path = self.generation_dir(&active.id).join(ENVELOPE);
        files::replace(&path, &offer.envelope, files::PUBLIC, || {}).map_err(failed("write", &path))?;
        let mut inner = self.inner();
        if inner.active.as_ref().is_some_and(|known| known.id == active.id) {
            inner.active = Some(active);
        }
        drop(inner);
        crash::point("refreshed");
        Ok(())
    }

    fn repair(&self, kinds: &[KindName]) -> Result<(), Reason> {
        let Some(active) = self.inner().active.clone() else {
            return Err(Reason::new("no generation is in force"));
        };
        let (snapshot, _) = self.signed(&active.id)?;
        let dir = self.generation_dir(&active.id);
        self.restore(&active, &snapshot, kinds).map_err(failed("restore", &dir))?;
        crash::point("repaired");
        Ok(())
    }

    fn check_drift(&self) -> Drift {
        let Some(active) = self.inner().active.clone() else { return Drift::None };
        let dir = self.generation_dir(&active.id);
        let envelope = files::read(&dir.join(ENVELOPE), MAX_ENVELOPE_BYTES).ok().flatten();
        if envelope.is_none_or(|envelope| Digest::of(&envelope) != active.envelope) {
            return Drift::Lost;
        }
        let all = || active.documents.iter().map(|(kind, _)| kind.clone()).collect();
        if !self.is_linked(&active.id) || self.strangers(&active).map_or(true, |found| !found.is_empty()) {
            return Drift::Kinds(all());
        }
        let drifted = |(kind, digest): &&(KindName, Digest)| {
            let read = files::read(&dir.join(POLICIES).join(file_name(kind)), MAX_DOCUMENT_BYTES);
            read.ok().flatten().is_none_or(|bytes| Digest::of(&bytes) != *digest)
        };
        let kinds: Vec<KindName> =
            active.documents.iter().filter(drifted).map(|(kind, _)| kind.clone()).collect();
        if kinds.is_empty() { Drift::None } else { Drift::Kinds(kinds) }
    }

    fn prune(&self, keep: &[GenerationId]) -> Result<(), Reason> {
        let dir = self.root.join(GENERATIONS);
        let names: Vec<String> = keep.iter().map(GenerationId::to_string).collect();
        let active = self.inner().active.as_ref().map(|active| active.id.to_string());
        let entries = fs::read_dir(&dir).map_err(failed("list", &dir))?;
        for entry in entries {
            let entry = entry.map_err(failed("list", &dir))?;
            let name = entry.file_name();
            if names.iter().chain(&active).any(|kept| name == kept.as_str()) {
                continue;
            }
            fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
        }
        crash::point("pruned");
        Ok(())
    }

    fn document(&self, kind: &KindName) -> Result<(Option<Bytes>, Option<PathBuf>), Reason> {
        let path = self.root.join(CURRENT).join(POLICIES).join(file_name(kind));
        let bytes = files::read(&path, MAX_DOCUMENT_BYTES).map_err(failed("read", &path))?;
        Ok((bytes.map(Bytes::from), Some(path)))
    }

    fn show(&self, view: &View) {
        if let Err(error) = show::write(&self.root, view) {
            tracing::debug!(%error, "cannot write what `muster-agent status` shows");
        }
    }
}

#[cfg(test)]
mod tests;
