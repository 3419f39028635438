//! Where an agent's content lies.
//!
//! ```text
//! content/state.json                                 what must survive a crash (sealed)
//! content/current/<channel>                          link to the files in force
//! content/revisions/<channel>/<manifest>/manifest    its signed manifest
//! content/revisions/<channel>/<manifest>/files/…     a content that is whole
//! content/revisions/<channel>/<manifest>.draft/…     one that is being built; beside `files`, `parts` of a delta
//! content/pieces/<chunk>                             chunks of contents that were removed, a bounded cache
//! ```
//!
//! Revisions share no bytes on the disk, neither by hard links nor otherwise: a hook that edits a file in force
//! cannot damage another revision. So the disk needs room for the old content, the new one, and the parts of the
//! delta that leads to it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use domain::Digest;
use domain::content::ChannelName;
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::disk::files;

/// Directory of all this below the state directory.
const CONTENT: &str = "content";
/// Directory of links to what is in force.
const CURRENT: &str = "current";
/// Directory of contents.
const REVISIONS: &str = "revisions";
/// Directory of cached chunks.
const PIECES: &str = "pieces";
/// What the directory of an unfinished content ends in.
const DRAFT: &str = ".draft";
/// What the directory of a content ends in while it is being removed.
const GONE: &str = ".gone";
/// Files of a content.
pub(crate) const FILES: &str = "files";
/// Parts of a delta.
pub(crate) const PARTS: &str = "parts";
/// The envelope of the manifest.
pub(crate) const MANIFEST: &str = "manifest";
/// The state.
const STATE: &str = "state.json";

/// The directories of one agent's content.
#[derive(Debug, Clone)]
pub(crate) struct Dirs {
    root: PathBuf,
}

/// A directory of a content, as found on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) manifest: Digest,
    pub(crate) draft: bool,
}

impl Dirs {
    /// Makes what is missing.
    pub(crate) fn create(state_dir: &Path) -> io::Result<Self> {
        let root = state_dir.join(CONTENT);
        for dir in [CURRENT, REVISIONS, PIECES] {
            fs::create_dir_all(root.join(dir))?;
        }
        files::sync_dir(&root)?;
        files::sync_dir(state_dir)?;
        Ok(Self { root })
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.root.join(STATE)
    }

    pub(crate) fn pieces(&self) -> PathBuf {
        self.root.join(PIECES)
    }

    pub(crate) fn current(&self, channel: &ChannelName) -> PathBuf {
        self.root.join(CURRENT).join(name(channel))
    }

    fn channel(&self, channel: &ChannelName) -> PathBuf {
        self.root.join(REVISIONS).join(name(channel))
    }

    pub(crate) fn content(&self, channel: &ChannelName, manifest: &Digest) -> PathBuf {
        self.channel(channel).join(manifest.to_string())
    }

    pub(crate) fn draft(&self, channel: &ChannelName, manifest: &Digest) -> PathBuf {
        self.channel(channel).join(format!("{manifest}{DRAFT}"))
    }

    /// What the link of a channel says: relative, so that the directory can be moved.
    fn target(channel: &ChannelName, manifest: &Digest) -> PathBuf {
        Path::new("..").join(REVISIONS).join(name(channel)).join(manifest.to_string()).join(FILES)
    }

    /// The content that the link of a channel names.
    pub(crate) fn linked(&self, channel: &ChannelName) -> Option<Digest> {
        let link = fs::read_link(self.current(channel)).ok()?;
        let manifest = digest(link.parent()?.file_name()?.to_str()?)?;
        (link == Self::target(channel, &manifest)).then_some(manifest)
    }

    /// Puts the link of a channel in its place, at once or not at all. `drafted` is called before it counts.
    pub(crate) fn link(
        &self,
        channel: &ChannelName,
        manifest: &Digest,
        drafted: impl FnOnce(),
    ) -> io::Result<()> {
        let draft = self.root.join(CURRENT).join(format!(".{}{DRAFT}", name(channel)));
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        std::os::unix::fs::symlink(Self::target(channel, manifest), &draft)?;
        drafted();
        let place = self.current(channel);
        if place.is_dir() && !place.is_symlink() {
            // Not ours: nothing else makes a directory here.
            fs::remove_dir_all(&place)?;
        }
        fs::rename(&draft, place)?;
        files::sync_dir(&self.root.join(CURRENT))
    }

    /// Removes the link of a channel.
    pub(crate) fn unlink(&self, channel: &ChannelName) -> io::Result<()> {
        match fs::remove_file(self.current(channel)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => files::sync_dir(&self.root.join(CURRENT)),
        }
    }

    /// Puts a finished draft in its place, also over a content of the same name that may be in force.
    pub(crate) fn place(&self, channel: &ChannelName, manifest: &Digest) -> io::Result<()> {
        let (draft, place) = (self.draft(channel, manifest), self.content(channel, manifest));
        match fs::rename(&draft, &place) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                renameat_with(CWD, &draft, CWD, &place, RenameFlags::EXCHANGE)?;
                fs::remove_dir_all(&draft)?;
            }
            renamed => renamed?,
        }
        files::sync_dir(&self.channel(channel))
    }

    /// Makes the directory of a channel durable.
    pub(crate) fn prepare(&self, channel: &ChannelName) -> io::Result<()> {
        fs::create_dir_all(self.channel(channel))?;
        files::sync_dir(&self.root.join(REVISIONS))
    }

    /// All contents and drafts. What has another name is no content.
    pub(crate) fn found(&self) -> io::Result<Vec<Found>> {
        let mut found = Vec::new();
        for channel in fs::read_dir(self.root.join(REVISIONS))? {
            let channel = channel?.path();
            if !channel.is_dir() {
                continue;
            }
            for entry in fs::read_dir(channel)? {
                let entry = entry?;
                let name = entry.file_name();
                let Some(name) = name.to_str() else { continue };
                let (hex, draft) = name.strip_suffix(DRAFT).map_or((name, false), |hex| (hex, true));
                if let Some(manifest) = digest(hex) {
                    found.push(Found { path: entry.path(), manifest, draft });
                }
            }
        }
        found.sort_by_key(|found: &Found| (found.manifest, found.draft));
        Ok(found)
    }

    /// Removes what a removal left behind, and directories of channels that hold nothing any more.
    pub(crate) fn tidy(&self) -> io::Result<()> {
        for channel in fs::read_dir(self.root.join(REVISIONS))? {
            let channel = channel?.path();
            for entry in fs::read_dir(&channel).into_iter().flatten() {
                let entry = entry?;
                if entry.file_name().to_string_lossy().ends_with(GONE) {
                    fs::remove_dir_all(entry.path())?;
                }
            }
            // Fails where there is something, as it should.
            let _removed = fs::remove_dir(channel);
        }
        Ok(())
    }

    /// Bytes that all of this takes on the disk.
    pub(crate) fn used(&self) -> io::Result<u64> {
        used(&self.root)
    }

    /// Bytes that the disk has left for users who are not its owner.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }
}

/// Path below the state directory that leads to the files in force of a channel.
pub(crate) fn path_in_force(channel: &ChannelName) -> String {
    format!("{CONTENT}/{CURRENT}/{}", name(channel))
}

/// Removes a directory of a content, whatever is in it. The rename first, so that half of it is never taken for
/// all of it.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let away = path.with_file_name(format!(".{name}{GONE}"));
    match fs::remove_dir_all(&away) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::rename(path, &away)?;
    fs::remove_dir_all(&away)
}

/// Bytes of all files below a directory.
pub(crate) fn used(dir: &Path) -> io::Result<u64> {
    let mut waiting = vec![dir.to_owned()];
    let mut used = 0;
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            // What goes away while it is counted takes nothing any more.
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                waiting.push(entry.path());
            } else {
                used += metadata.len();
            }
        }
    }
    Ok(used)
}

/// The name of a channel's directory: "--" for "/". A channel whose own names make that ambiguous is written with
/// dots, which no name can have.
pub(crate) fn name(channel: &ChannelName) -> String {
    let plain = channel.as_str().replace('/', "--");
    if plain.replace("--", "/") == channel.as_str() {
        plain
    } else {
        format!("{}.", channel.as_str().replace('/', "."))
    }
}

/// Reads a digest in hex.
pub(crate) fn digest(text: &str) -> Option<Digest> {
    let mut bytes = [0; 32];
    let lower = text.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase());
    (lower && hex::decode_to_slice(text, &mut bytes).is_ok()).then_some(Digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_two_channels_share_a_directory() {
        let channel = |text: &str| ChannelName::new(text).unwrap();
        assert_eq!(name(&channel("definitions/ips")), "definitions--ips");
        assert_eq!(name(&channel("rules")), "rules");
        let parts = ["a", "-a", "a-", "-", "--", "a--a", "---"];
        let mut all: Vec<String> = parts.map(str::to_owned).to_vec();
        for a in parts {
            for b in parts {
                all.push(format!("{a}/{b}"));
                all.extend(parts.map(|c| format!("{a}/{b}/{c}")));
            }
        }
        let names: BTreeSet<String> = all.iter().map(|text| name(&channel(text))).collect();
        assert_eq!(names.len(), all.len());
    }

    #[test]
    fn the_link_changes_as_a_whole_and_leads_to_the_files() {
        let dir = tempfile::tempdir().unwrap();
        let dirs = Dirs::create(dir.path()).unwrap();
        let channel = ChannelName::new("a/b").unwrap();
        assert_eq!(dirs.linked(&channel), None);
        for number in [1, 2] {
            let manifest = Digest([number; 32]);
            dirs.prepare(&channel).unwrap();
            fs::create_dir_all(dirs.draft(&channel, &manifest).join(FILES)).unwrap();
            fs::write(dirs.draft(&channel, &manifest).join(FILES).join("x"), [number]).unwrap();
            dirs.place(&channel, &manifest).unwrap();
            dirs.link(&channel, &manifest, || {}).unwrap();
            assert_eq!(dirs.linked(&channel), Some(manifest));
            assert_eq!(fs::read(dir.path().join("content/current/a--b/x")).unwrap(), [number]);
        }
        // A draft of what is in force takes its place.
        let manifest = Digest([2; 32]);
        fs::create_dir_all(dirs.draft(&channel, &manifest).join(FILES)).unwrap();
        dirs.place(&channel, &manifest).unwrap();
        assert!(!dir.path().join("content/current/a--b/x").exists());
        let found: Vec<_> = dirs.found().unwrap().into_iter().map(|f| (f.manifest, f.draft)).collect();
        assert_eq!(found, [(Digest([1; 32]), false), (manifest, false)]);
        dirs.unlink(&channel).unwrap();
        dirs.unlink(&channel).unwrap();
        assert_eq!(dirs.linked(&channel), None);
    }
}
