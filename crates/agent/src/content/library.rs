//! What an agent holds of content: contents that are whole, drafts, parts of deltas, cached chunks. All of it is
//! read back and held against its digest before it counts. Everything here blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domain::content::agent::Durable;
use domain::content::plan::Road;
use domain::content::{ChannelName, ContentIndex, ContentItem, ContentRevision, Delta, Manifest};
use domain::{Digest, Revision};
use wire::content::ContentError;
use wire::envelope::MAX_ENVELOPE_BYTES;

use super::dirs::{Dirs, FILES, Found, MANIFEST};
use super::files::{Checked, Files};
use super::pieces::Pieces;
use super::state::State;
use super::survey::Surveyed;
use super::tree::Tree;
use crate::crash;
use crate::disk::files as disk;
use crate::trust::LiveTrust;

/// Largest state file: 128 channels of 2 KiB and 128 failures of at most 1.5 KiB.
const MAX_STATE_BYTES: usize = 1024 * 1024;
/// Where a state that cannot be read is kept for people to look at.
const CORRUPT: &str = "state.json.corrupt";
/// Roads that led nowhere and are remembered, oldest forgotten first; each would be tried once more.
const MAX_BAD_ROADS: usize = 64;

/// A road to a content on which a piece was not there or not what it should be, or that led to something else. A
/// delta is named by its fingerprint too: one that is made anew is tried anew.
#[derive(Debug, PartialEq, Eq)]
struct BadRoad {
    manifest: Digest,
    road: Road,
    delta: Option<Digest>,
}

#[derive(Debug)]
pub(super) struct Inner {
    /// What was found the last time each content or draft was compared with its manifest.
    checked: BTreeMap<PathBuf, Checked>,
    pub(super) pieces: Pieces,
    bad_roads: Vec<BadRoad>,
}

/// All of it.
#[derive(Debug)]
pub(crate) struct Library {
    dirs: Dirs,
    trust: LiveTrust,
    hooks: Digest,
    pub(super) quota: Option<u64>,
    cache_bytes: u64,
    inner: Mutex<Inner>,
    ending: AtomicBool,
}

/// How much the disk may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) quota: Option<u64>,
    pub(crate) cache_bytes: u64,
}

impl Library {
    /// Opens what is there. The caller has locked the state directory.
    pub(crate) fn open(
        state_dir: &Path,
        trust: &LiveTrust,
        hooks: Digest,
        bounds: Bounds,
    ) -> io::Result<Self> {
        let dirs = Dirs::create(state_dir)?;
        let Bounds { quota, cache_bytes } = bounds;
        let cache_bytes = quota.map_or(cache_bytes, |quota| quota.min(cache_bytes));
        let pieces = Pieces::open(dirs.pieces(), cache_bytes)?;
        let inner = Inner { checked: BTreeMap::new(), pieces, bad_roads: Vec::new() };
        Ok(Self {
            dirs,
            trust: trust.clone(),
            hooks,
            quota,
            cache_bytes,
            inner: Mutex::new(inner),
            ending: AtomicBool::new(false),
        })
    }

    pub(crate) fn dirs(&self) -> &Dirs {
        &self.dirs
    }

    pub(crate) fn trust(&self) -> &LiveTrust {
        &self.trust
    }

    /// The agent stops: what takes long ends early from now on.
    pub(crate) fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The state last made durable. One that cannot be read is kept aside; what is in force then counts as good,
    /// for it was verified before it was put there.
    pub(crate) fn load(&self) -> io::Result<Durable> {
        let path = self.dirs.state();
        let bytes = match disk::read(&path, MAX_STATE_BYTES) {
            Ok(None) => return Ok(Durable::default()),
            Ok(Some(bytes)) => bytes,
            Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidData) => {
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let why = match disk::unseal(&bytes).map(State::decode) {
            Some(Ok(state)) => {
                let mut durable = state.durable;
                if state.hooks != Some(self.hooks) && !durable.failed.is_empty() {
                    tracing::info!(
                        "the configuration of hooks changed: contents that failed are tried again"
                    );
                    durable.failed.clear();
                }
                return Ok(durable);
            }
            Some(Err(error)) => runtime::log::chain(&error),
            None => "its checksum does not hold".to_owned(),
        };
        let aside = self.dirs.root().join(CORRUPT);
        fs::rename(&path, &aside)?;
        tracing::warn!(
            path = %path.display(), kept = %aside.display(), why,
            "the state of content is damaged: it is kept aside, and content is looked through anew"
        );
        Ok(Durable::default())
    }

    /// What is in force. The links are the truth about it; the state says what it was assigned as, if it is there.
    pub(crate) fn active(&self, durable: &Durable) -> io::Result<BTreeMap<ChannelName, ContentItem>> {
        let mut active = BTreeMap::new();
        for found in self.dirs.found()?.iter().filter(|found| !found.draft) {
            let Some(files) = self.files(found) else { continue };
            let channel = files.manifest().channel();
            if self.dirs.linked(channel) != Some(found.manifest) {
                continue;
            }
            let state = durable.channels.get(channel);
            let known = state.into_iter().flat_map(|state| {
                let applying = state.applying.as_ref().and_then(|applying| applying.item.as_ref());
                let good = state.good.as_ref().map(|good| &good.item);
                applying.into_iter().chain(good).chain(&state.previous)
            });
            let item = known.into_iter().find(|item| item.manifest == found.manifest).cloned();
            let item = item.unwrap_or_else(|| ContentItem {
                channel: channel.clone(),
                number: ContentRevision::default(),
                revision: Revision::default(),
                manifest: found.manifest,
                manifest_bytes: wire::content::encode_manifest(files.manifest()).len() as u64,
                content_bytes: files.manifest().content_bytes(),
            });
            active.insert(channel.clone(), item);
        }
        Ok(active)
    }

    /// Makes the state durable.
    pub(crate) fn persist(&self, durable: &Durable) -> io::Result<()> {
        let state = State { durable: durable.clone(), hooks: Some(self.hooks) };
        let drafted = || crash::point("content-state-draft");
        disk::replace(&self.dirs.state(), &disk::seal(&state.encode()), disk::PUBLIC, drafted)?;
        crash::point("content-state-written");
        Ok(())
    }

    /// The manifest of an item from the disk, verified as if it came from afar.
    pub(crate) fn manifest(&self, item: &ContentItem) -> Option<Manifest> {
        let dirs = [
            self.dirs.content(&item.channel, &item.manifest),
            self.dirs.draft(&item.channel, &item.manifest),
        ];
        dirs.iter().find_map(|dir| {
            let bytes = disk::read(&dir.join(MANIFEST), MAX_ENVELOPE_BYTES).ok().flatten()?;
            match self.open_held(item, &bytes) {
                Ok(manifest) => Some(manifest),
                Err(error) => {
                    let error = runtime::log::chain(&error);
                    tracing::warn!(dir = %dir.display(), %error, "a manifest on disk does not hold");
                    None
                }
            }
        })
    }

    /// Opens the manifest that an item names, as it arrived.
    pub(crate) fn open_manifest(&self, item: &ContentItem, bytes: &[u8]) -> Result<Manifest, ContentError> {
        let (envelope, trust) = (wire::envelope::parse(bytes)?, self.trust.now());
        wire::content::open_assigned(&envelope, &trust.fleet, item, &trust.content)
    }

    /// As [`Library::open_manifest`], for one that lay on this disk: what signed it counted when it was put here.
    fn open_held(&self, item: &ContentItem, bytes: &[u8]) -> Result<Manifest, ContentError> {
        self.trust.open_held_assigned(&wire::envelope::parse(bytes)?, item)
    }

    /// Makes sure that the draft of a content has its manifest: one that is built anew beside what is in force has
    /// it from there.
    pub(crate) fn share_manifest(&self, item: &ContentItem) -> io::Result<()> {
        let draft = self.dirs.draft(&item.channel, &item.manifest).join(MANIFEST);
        let is_one = |bytes: &Vec<u8>| self.open_held(item, bytes).is_ok();
        if disk::read(&draft, MAX_ENVELOPE_BYTES).ok().flatten().as_ref().is_some_and(is_one) {
            return Ok(());
        }
        let place = self.dirs.content(&item.channel, &item.manifest).join(MANIFEST);
        let bytes = disk::read(&place, MAX_ENVELOPE_BYTES)?.filter(is_one);
        let bytes = bytes.ok_or_else(|| io::Error::new(ErrorKind::NotFound, "its manifest is gone"))?;
        self.keep_manifest(item, &bytes)
    }

    /// Keeps a manifest that was opened, in the draft of its content.
    pub(crate) fn keep_manifest(&self, item: &ContentItem, bytes: &[u8]) -> io::Result<()> {
        self.dirs.prepare(&item.channel)?;
        let draft = Tree::create(&self.dirs.draft(&item.channel, &item.manifest))?;
        disk::replace(&draft.path().join(MANIFEST), bytes, disk::PUBLIC, || {})
    }

    /// A content or a draft as found on disk, with its manifest; `None` if that does not hold.
    pub(super) fn files(&self, found: &Found) -> Option<Arc<Files>> {
        let bytes = disk::read(&found.path.join(MANIFEST), MAX_ENVELOPE_BYTES).ok().flatten()?;
        let envelope = wire::envelope::parse(&bytes).ok()?;
        let manifest = self.trust.open_held_manifest(&envelope, &found.manifest).ok()?;
        if *manifest.fleet() != self.trust.fleet() {
            return None;
        }
        let tree = Tree::open(&found.path.join(FILES)).ok()?;
        Some(Arc::new(Files::new(tree, Arc::new(manifest))))
    }

    /// Compares a tree with its manifest; what did not change since the last time is not read again.
    pub(crate) fn check(&self, files: &Files) -> io::Result<Checked> {
        let path = files.tree().path().to_owned();
        let known = self.inner().checked.get(&path).cloned().unwrap_or_default();
        let checked = files.check(&known, &self.ending)?;
        self.inner().checked.insert(path, checked.clone());
        Ok(checked)
    }

    /// What is in a tree has to be read anew the next time.
    pub(crate) fn forget(&self, path: &Path) {
        self.inner().checked.remove(path);
    }

    /// A road did not lead to its content: the next plan goes another way if there is one.
    pub(crate) fn distrust(&self, surveyed: &Surveyed) {
        let (manifest, road) = (surveyed.item.manifest, surveyed.plan.road);
        let bad = BadRoad { manifest, road, delta: surveyed.delta().map(fingerprint) };
        let mut inner = self.inner();
        if inner.bad_roads.len() >= MAX_BAD_ROADS {
            inner.bad_roads.remove(0);
        }
        inner.bad_roads.push(bad);
        // The base may have rotted in a way that its times do not show.
        inner.checked.clear();
    }

    /// The roads to a content that led nowhere and are still the same.
    pub(super) fn unusable(&self, item: &ContentItem, index: Option<&ContentIndex>) -> BTreeSet<Road> {
        let now = |road: Road| {
            let from = match road {
                Road::Chunks => return None,
                Road::Patch { from } => Some(from),
                Road::Full => None,
            };
            index?.delta(from).map(fingerprint)
        };
        let inner = self.inner();
        let bad = inner.bad_roads.iter().filter(|bad| bad.manifest == item.manifest);
        bad.filter(|bad| bad.delta == now(bad.road)).map(|bad| bad.road).collect()
    }

    /// No road to a content is left: each is tried once more.
    pub(super) fn trust_again(&self, item: &ContentItem) {
        self.inner().bad_roads.retain(|bad| bad.manifest != item.manifest);
    }

    /// Puts a whole content in force, or none.
    pub(crate) fn switch(&self, channel: &ChannelName, to: Option<&ContentItem>) -> io::Result<()> {
        match to {
            Some(item) => {
                if self.manifest(item).is_none() || !self.dirs.content(channel, &item.manifest).is_dir() {
                    let text = format!("the content {} of {channel} is not on the disk", item.number);
                    return Err(io::Error::new(ErrorKind::NotFound, text));
                }
                self.dirs.link(channel, &item.manifest, || crash::point("content-link"))?;
            }
            None => self.dirs.unlink(channel)?,
        }
        crash::point("content-switched");
        Ok(())
    }

    /// Whether what is in force of a channel is another thing than it should be.
    pub(crate) fn has_drifted(&self, item: &ContentItem) -> io::Result<bool> {
        if self.dirs.linked(&item.channel) != Some(item.manifest) {
            return Ok(true);
        }
        let path = self.dirs.content(&item.channel, &item.manifest);
        let found = Found { path, manifest: item.manifest, draft: false };
        let Some(files) = self.files(&found) else { return Ok(true) };
        Ok(!files.is_exact()? || !self.check(&files)?.is_whole())
    }

    /// Removes all contents but those of `keep` and all drafts but those of `drafts`. Chunks that nothing else
    /// holds go to the cache, as far as its bound lets them.
    pub(crate) fn prune(&self, keep: &[Digest], drafts: &[Digest]) -> io::Result<()> {
        let (kept, gone): (Vec<Found>, Vec<Found>) = self.dirs.found()?.into_iter().partition(|found| {
            let list = if found.draft { drafts } else { keep };
            list.contains(&found.manifest)
        });
        let mut known: BTreeSet<Digest> = BTreeSet::new();
        if !gone.is_empty() {
            for found in kept.iter().filter(|found| !found.draft) {
                let files = self.files(found);
                known.extend(
                    files.iter().flat_map(|files| files.manifest().chunks()).map(|chunk| chunk.digest),
                );
            }
        }
        for found in gone {
            if let Some(files) = self.files(&found)
                && let Err(error) = self.save_chunks(&files, &mut known)
            {
                tracing::debug!(%error, path = %found.path.display(), "chunks are not kept");
            }
            self.forget(&found.path.join(FILES));
            crash::point("content-pruning");
            super::dirs::remove(&found.path)?;
        }
        self.dirs.tidy()?;
        crash::point("content-pruned");
        Ok(())
    }

    /// Keeps chunks that nothing else holds. The cache is no reason for a disk to be full.
    fn save_chunks(&self, files: &Files, known: &mut BTreeSet<Digest>) -> io::Result<()> {
        let room = self.cache_bytes.min(self.dirs.free()? / 2);
        let room = match self.quota {
            Some(quota) => room.min(quota.saturating_sub(self.dirs.used()?)),
            None => room,
        };
        let (mut saved, mut buffer) = (0, Vec::new());
        for (number, chunk) in files.manifest().chunks().iter().enumerate() {
            if saved + u64::from(chunk.bytes) > room {
                break;
            }
            if known.insert(chunk.digest) && files.chunk(number, &mut buffer)? {
                self.inner().pieces.put(&chunk.digest, &buffer)?;
                saved += u64::from(chunk.bytes);
            }
        }
        Ok(())
    }
}

/// Tells a delta from one that is made anew for the same way: by its parts and how its frames use them.
fn fingerprint(delta: &Delta) -> Digest {
    let parts = delta.parts().iter().flat_map(|part| part.digest.0);
    let frames = delta.frames().iter().flat_map(|frame| {
        let runs = frame.old.iter().flat_map(|run| [run.offset, run.bytes.into()]);
        [frame.bytes, frame.stored_bytes, frame.new_bytes].map(u64::from).into_iter().chain(runs)
    });
    Digest::of(&parts.chain(frames.flat_map(u64::to_le_bytes)).collect::<Vec<u8>>())
}
