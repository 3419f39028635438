//! What a backup is on disk: a folder with one file a stream, and a page that says what they are.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use domain::{FleetId, Timestamp};
use runtime::nats::Packed;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// What the format is called by; another number is another format.
const FORMAT: u32 = 1;
/// The page. It is written last: a folder without it is no backup.
const PAGE: &str = "backup.json";
/// Largest page.
const MAX_PAGE_BYTES: u64 = 1 << 20;
/// End of the name of a folder that is being written.
const DRAFT: &str = ".draft";

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// A file or folder cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// "create", "write", "read", "rename" or "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is no backup, or not a whole one.
    #[error("{} is no backup: {why}", path.display())]
    NotOne {
        /// The folder.
        path: PathBuf,
        /// Why not.
        why: String,
    },
}

impl FolderError {
    fn file<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> Self + use<'a> {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}

/// The page of a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Page {
    format: u32,
    /// Whose it is.
    pub(crate) fleet: String,
    /// When it was begun, in milliseconds since 1970.
    pub(crate) taken_at_ms: u64,
    /// Version of the `musterd` that took it.
    pub(crate) version: String,
    /// Its streams, in the order in which they were taken.
    pub(crate) streams: Vec<Part>,
}

/// A stream in a backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// Its name.
    pub(crate) stream: String,
    /// Bytes of its file.
    pub(crate) bytes: u64,
    /// SHA-256 of its file, in hexadecimal digits.
    sha256: String,
    /// What it was.
    pub(crate) packed: Packed,
}

impl Part {
    /// Messages that it had.
    fn messages(&self) -> u64 {
        self.packed.state.get("messages").and_then(serde_json::Value::as_u64).unwrap_or_default()
    }
}

/// A row for people.
impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = wire::size::rounded(self.bytes);
        write!(f, "{:<10} {:>12} messages  {size:>12}", self.stream, self.messages())
    }
}

/// A backup that is being written; what is there of it goes away unless it is finished.
pub(crate) struct Draft {
    path: PathBuf,
    page: Page,
}

impl Draft {
    /// Begins a backup in `parent`, which is made if it is not there.
    pub(crate) fn begin(parent: &Path, fleet: &FleetId, now: Timestamp) -> Result<Self, FolderError> {
        let path = parent.join(format!("{}{DRAFT}", name(fleet.as_str(), now)));
        let make = |path: &Path, recursive| DirBuilder::new().recursive(recursive).mode(0o700).create(path);
        make(parent, true).map_err(FolderError::file("create", parent))?;
        make(&path, false).map_err(FolderError::file("create", &path))?;
        let version = env!("CARGO_PKG_VERSION").to_owned();
        let page = Page {
            format: FORMAT,
            fleet: fleet.to_string(),
            taken_at_ms: now.0,
            version,
            streams: Vec::new(),
        };
        Ok(Self { path, page })
    }

    /// The file of the next stream.
    pub(crate) fn next(&self, stream: &str) -> Result<Writing, FolderError> {
        let path = self.path.join(stream);
        let file = File::options().write(true).create_new(true).mode(0o600).open(&path);
        let file = file.map_err(FolderError::file("create", &path))?;
        Ok(Writing { file, path, digest: Sha256::new(), bytes: 0 })
    }

    /// The stream is whole.
    pub(crate) fn add(
        &mut self,
        stream: &str,
        writing: Writing,
        packed: Packed,
    ) -> Result<&Part, FolderError> {
        writing.file.sync_all().map_err(FolderError::file("write", &writing.path))?;
        let sha256 = hex::encode(writing.digest.finalize());
        let part = Part { stream: stream.to_owned(), bytes: writing.bytes, sha256, packed };
        self.page.streams.push(part);
        Ok(&self.page.streams[self.page.streams.len() - 1])
    }

    /// All of it is there: gives it its name.
    pub(crate) fn finish(self) -> Result<(PathBuf, Page), FolderError> {
        let page = self.path.join(PAGE);
        let text = serde_json::to_vec_pretty(&self.page).expect("invariant: the page is plain JSON");
        let write = || {
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&page)?;
            file.write_all(&text)?;
            file.sync_all()?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(FolderError::file("write", &page))?;
        let parent = self.path.parent().unwrap_or(Path::new("."));
        let whole = parent.join(name(&self.page.fleet, Timestamp(self.page.taken_at_ms)));
        let rename = || {
            fs::rename(&self.path, &whole)?;
            File::open(parent)?.sync_all()
        };
        rename().map_err(FolderError::file("rename", &self.path))?;
        Ok((whole, self.page.clone()))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // After a failure; a finished one has another name by now.
        let _removed = fs::remove_dir_all(&self.path);
    }
}

/// The file of a stream, on its way.
pub(crate) struct Writing {
    file: File,
    path: PathBuf,
    digest: Sha256,
    bytes: u64,
}

impl Writing {
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.file.write_all(piece)?;
        self.digest.update(piece);
        self.bytes += piece.len() as u64;
        Ok(())
    }
}

/// A whole backup.
pub(crate) struct Folder {
    path: PathBuf,
    /// What it says of itself.
    pub(crate) page: Page,
}

impl Folder {
    /// Opens a backup and verifies every byte of it.
    pub(crate) fn open(path: &Path) -> Result<Self, FolderError> {
        let page = read_page(path)?;
        for part in &page.streams {
            let file = path.join(&part.stream);
            let mut digest = Sha256::new();
            let mut open = File::open(&file).map_err(FolderError::file("read", &file))?;
            let bytes = io::copy(&mut open, &mut digest).map_err(FolderError::file("read", &file))?;
            if (bytes, hex::encode(digest.finalize())) != (part.bytes, part.sha256.clone()) {
                let why = format!("{} is not as it was written; take another backup", part.stream);
                return Err(FolderError::NotOne { path: path.to_owned(), why });
            }
        }
        Ok(Self { path: path.to_owned(), page })
    }

    /// Gives the bytes of a stream, so many at a time, nothing at the end.
    pub(crate) fn read(
        &self,
        part: &Part,
    ) -> Result<impl FnMut(usize) -> io::Result<Vec<u8>> + use<>, FolderError> {
        let path = self.path.join(&part.stream);
        let mut file = File::open(&path).map_err(FolderError::file("read", &path))?;
        Ok(move |most: usize| {
            let mut piece = Vec::with_capacity(most);
            (&mut file).take(most as u64).read_to_end(&mut piece)?;
            Ok(piece)
        })
    }
}

/// Removes the oldest backups of a fleet in a folder until `keep` are left. What is no backup of it stays.
pub(crate) fn prune(parent: &Path, fleet: &FleetId, keep: usize) -> Result<Vec<PathBuf>, FolderError> {
    let entries = fs::read_dir(parent).map_err(FolderError::file("read", parent))?;
    let mut found: Vec<(u64, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let page = read_page(&path).ok()?;
            let is_whole = !path.to_string_lossy().ends_with(DRAFT);
            (is_whole && page.fleet == fleet.as_str()).then_some((page.taken_at_ms, path))
        })
        .collect();
    found.sort();
    found.truncate(found.len().saturating_sub(keep));
    for (_, path) in &found {
        fs::remove_dir_all(path).map_err(FolderError::file("remove", path))?;
    }
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

fn read_page(path: &Path) -> Result<Page, FolderError> {
    let file = path.join(PAGE);
    let mut bytes = Vec::new();
    let read = File::open(&file).and_then(|file| file.take(MAX_PAGE_BYTES).read_to_end(&mut bytes));
    read.map_err(FolderError::file("read", &file))?;
    let not_one = |why: String| FolderError::NotOne { path: path.to_owned(), why };
    let page: Page = serde_json::from_slice(&bytes).map_err(|error| not_one(format!("{PAGE}: {error}")))?;
    if page.format != FORMAT {
        return Err(not_one(format!("it has format {}, this version reads {FORMAT}", page.format)));
    }
    let is_name = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase());
    match page.streams.iter().find(|part| !is_name(&part.stream)) {
        Some(part) => Err(not_one(format!("{:?} is no name of a stream", part.stream))),
        None => Ok(page),
    }
}

/// `FLEET-2026-01-31T02-03-04.567Z`: the order of names is that of times.
fn name(fleet: &str, at: Timestamp) -> String {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_millis(at.0);
    let time = humantime::format_rfc3339_millis(time).to_string().replace(':', "-");
    format!("{fleet}-{time}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(id: &str) -> FleetId {
        FleetId::new(id).unwrap()
    }

    fn taken(parent: &Path, id: &str, at: u64) -> PathBuf {
        let mut draft = Draft::begin(parent, &fleet(id), Timestamp(at)).unwrap();
        let mut writing = draft.next("POLICY").unwrap();
        writing.write(b"some").unwrap();
        writing.write(b" bytes").unwrap();
        let packed = Packed { config: serde_json::Map::new(), state: serde_json::Map::new() };
        assert_eq!(draft.add("POLICY", writing, packed).unwrap().bytes, 10);
        draft.finish().unwrap().0
    }

    #[test]
    fn a_backup_is_whole_or_none() {
        let parent = tempfile::tempdir().unwrap();
        let path = taken(parent.path(), "red", 1_790_000_000_000);
        assert!(path.ends_with("red-2026-09-21T14-13-20.000Z"), "{}", path.display());
        let folder = Folder::open(&path).unwrap();
        let mut read = folder.read(&folder.page.streams[0]).unwrap();
        assert_eq!(
            [read(6).unwrap(), read(6).unwrap(), read(6).unwrap()],
            [b"some b".to_vec(), b"ytes".to_vec(), vec![]]
        );
        fs::write(path.join("POLICY"), "some Bytes").unwrap();
        assert!(Folder::open(&path).err().unwrap().to_string().contains("POLICY is not as it was written"));

        let draft = Draft::begin(parent.path(), &fleet("red"), Timestamp(1)).unwrap();
        drop(draft.next("POLICY").unwrap());
        drop(draft);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1, "no draft is left");
        assert!(Folder::open(parent.path()).err().unwrap().to_string().contains("cannot read"));
        for (text, why) in [
            ("{}", "missing field"),
            (r#"{"format":2,"fleet":"a","taken_at_ms":1,"version":"","streams":[]}"#, "it has format 2"),
            (
                r#"{"format":1,"fleet":"a","taken_at_ms":1,"version":"","streams":[{"stream":"../x","bytes":0,"sha256":"","packed":{"config":{},"state":{}}}]}"#,
                "is no name of a stream",
            ),
        ] {
            fs::write(path.join(PAGE), text).unwrap();
            let said = Folder::open(&path).err().unwrap().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn the_oldest_of_a_fleet_go_first() {
        let parent = tempfile::tempdir().unwrap();
        let day = |n: u64| 1_790_000_000_000 + n * 86_400_000;
        let red: Vec<PathBuf> = (0..3).map(|n| taken(parent.path(), "red", day(n))).collect();
        let blue = taken(parent.path(), "blue", day(0));
        fs::create_dir(parent.path().join("red-else")).unwrap();
        assert_eq!(prune(parent.path(), &fleet("red"), 1).unwrap(), red[..2]);
        assert!(red[2].exists() && blue.exists() && parent.path().join("red-else").exists());
        assert!(prune(parent.path(), &fleet("red"), 1).unwrap().is_empty());
    }
}
