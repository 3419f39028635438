//! What a backup is: a folder with one file a stream, and a page that says what they are.

use std::fmt;
use std::io;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use domain::{FleetId, Timestamp};
use futures::StreamExt as _;
use futures::stream::BoxStream;
use object_store::buffered::BufWriter;
use object_store::{GetOptions, ObjectStoreExt as _, PutPayload};
use runtime::nats::Packed;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::s3::S3Args;
use super::shelf::{Location, Shelf, local, reason};

/// What the format is called by; another number is another format.
const FORMAT: u32 = 1;
/// The page. It is written last: a folder without it is no backup.
const PAGE: &str = "backup.json";
/// Largest page.
const MAX_PAGE_BYTES: u64 = 1 << 20;
/// Bytes that go to an object store at once. It takes 10,000 pieces a file, so that a stream may have 156 GiB. Some
/// seven of these are in memory (measured: 119 MiB in all).
const PIECE_BYTES: usize = 16 << 20;
/// Pieces that are on their way to an object store while the next one is gathered.
const PIECES_AT_ONCE: usize = 2;
/// Time after which a backup that is not whole is taken for one that nobody will finish.
const ABANDONED_MS: u64 = 24 * 3600 * 1000;
/// Backups that are named to somebody who has to choose.
const MAX_NAMED: usize = 5;

/// Why a backup cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ArchiveError {
    /// A place, or a file of it, cannot be used.
    #[error("cannot {action} {name}: {}", reason(error))]
    File {
        /// "open", "create", "list", "write", "read" or "remove".
        action: &'static str,
        /// The place or the file.
        name: String,
        /// Why not.
        error: object_store::Error,
    },
    /// It is no backup, or not a whole one.
    #[error("{name} is no backup: {why}")]
    NotOne {
        /// The folder.
        name: String,
        /// Why not.
        why: String,
    },
}

impl ArchiveError {
    fn file(action: &'static str, name: impl fmt::Display) -> impl FnOnce(object_store::Error) -> Self {
        let name = name.to_string();
        move |error| Self::File { action, name, error }
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

/// A backup that is being written: nothing but [`Draft::finish`] makes it one.
pub(crate) struct Draft {
    shelf: Shelf,
    folder: String,
    page: Page,
    writing: Option<Writing>,
}

impl Draft {
    /// Begins a backup in a place, which is made if it is a folder that is not there.
    pub(crate) fn begin(
        to: &Location,
        s3: &S3Args,
        fleet: &FleetId,
        now: Timestamp,
    ) -> Result<Self, ArchiveError> {
        let shelf = Shelf::make(to, s3).map_err(ArchiveError::file("create", to))?;
        let page = Page {
            format: FORMAT,
            fleet: fleet.to_string(),
            taken_at_ms: now.0,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            streams: Vec::new(),
        };
        Ok(Self { shelf, folder: folder(fleet.as_str(), now), page, writing: None })
    }

    /// Begins the file of the next stream.
    pub(crate) fn next(&mut self, stream: &str) -> &mut Writing {
        let path = self.shelf.at(&[&self.folder, stream]);
        let name = self.shelf.called(&path);
        let file = BufWriter::with_capacity(self.shelf.store.clone(), path, PIECE_BYTES)
            .with_max_concurrency(PIECES_AT_ONCE);
        let stream = stream.to_owned();
        self.writing.insert(Writing { stream, file, name, digest: Sha256::new(), bytes: 0 })
    }

    /// That stream is whole.
    pub(crate) async fn add(&mut self, packed: Packed) -> Result<&Part, ArchiveError> {
        let mut writing = self.writing.take().expect("invariant: next came before");
        let written = writing.file.shutdown().await.map_err(local);
        written.map_err(ArchiveError::file("write", writing.name))?;
        let sha256 = hex::encode(writing.digest.finalize());
        self.page.streams.push(Part { stream: writing.stream, bytes: writing.bytes, sha256, packed });
        Ok(&self.page.streams[self.page.streams.len() - 1])
    }

    /// All of it is there: writes the page, and says what the backup is called.
    pub(crate) async fn finish(&self) -> Result<String, ArchiveError> {
        let path = self.shelf.at(&[&self.folder, PAGE]);
        let text = serde_json::to_vec_pretty(&self.page).expect("invariant: the page is plain JSON");
        let written = self.shelf.store.put(&path, PutPayload::from(text)).await;
        written.map_err(ArchiveError::file("write", self.shelf.called(&path)))?;
        Ok(self.called(&self.folder))
    }

    /// Takes away what is there of it.
    pub(crate) async fn discard(mut self) -> Result<(), ArchiveError> {
        if let Some(mut writing) = self.writing.take() {
            writing.file.abort().await.map_err(ArchiveError::file("remove", writing.name))?;
        }
        self.remove(&self.folder).await
    }

    /// Removes the oldest backups of the fleet in the same place until `keep` are left, and what was begun a day or more
    /// before this one and never became whole. Says what was removed. What is no backup of the fleet stays.
    pub(crate) async fn prune(&self, keep: usize) -> Result<Vec<String>, ArchiveError> {
        let folders = self.shelf.folders().await.map_err(ArchiveError::file("list", &self.shelf))?;
        let (mut whole, mut removed) = (Vec::new(), Vec::new());
        for folder in folders {
            match read_page(&self.shelf, Some(&folder)).await {
                Ok(page) if page.fleet == self.page.fleet => whole.push((page.taken_at_ms, folder)),
                Err(ArchiveError::File { error: object_store::Error::NotFound { .. }, .. })
                    if self.is_abandoned(&folder) =>
                {
                    removed.push(folder);
                }
                Ok(_) | Err(_) => {}
            }
        }
        whole.sort();
        whole.truncate(whole.len().saturating_sub(keep));
        removed.extend(whole.into_iter().map(|(_, folder)| folder));
        for folder in &removed {
            self.remove(folder).await?;
        }
        Ok(removed.iter().map(|folder| self.called(folder)).collect())
    }

    fn is_abandoned(&self, folder: &str) -> bool {
        let begun = folder.strip_prefix(&self.page.fleet).and_then(|rest| rest.strip_prefix('-'));
        let begun = begun.and_then(at);
        begun.is_some_and(|begun| begun.0 + ABANDONED_MS <= self.page.taken_at_ms)
    }

    fn called(&self, folder: &str) -> String {
        self.shelf.called(&self.shelf.at(&[folder]))
    }

    async fn remove(&self, folder: &str) -> Result<(), ArchiveError> {
        let removed = self.shelf.remove(folder, PAGE).await;
        removed.map_err(ArchiveError::file("remove", self.called(folder)))
    }
}

/// The file of a stream, on its way.
pub(crate) struct Writing {
    stream: String,
    file: BufWriter,
    name: String,
    digest: Sha256,
    bytes: u64,
}

impl Writing {
    /// Writes the next piece.
    pub(crate) async fn write(&mut self, piece: Bytes) -> io::Result<()> {
        self.digest.update(&piece);
        self.bytes += piece.len() as u64;
        self.file
            .put(piece)
            .await
            .map_err(|error| io::Error::other(format!("cannot write {}: {}", self.name, reason(&error))))
    }
}

/// A whole backup.
pub(crate) struct Archive {
    shelf: Shelf,
    /// What it says of itself.
    pub(crate) page: Page,
    /// Versions of its files as they were verified.
    versions: Vec<Option<String>>,
}

impl Archive {
    /// Opens a backup and verifies every byte of it.
    pub(crate) async fn open(from: &Location, s3: &S3Args) -> Result<Self, ArchiveError> {
        let shelf = Shelf::open(from, s3).map_err(ArchiveError::file("open", from))?;
        let page = match read_page(&shelf, None).await {
            Err(ArchiveError::File { error: object_store::Error::NotFound { .. }, .. }) => {
                return Err(ArchiveError::NotOne { name: from.to_string(), why: none_there(&shelf).await });
            }
            read => read?,
        };
        let mut archive = Self { shelf, page, versions: Vec::new() };
        for index in 0..archive.page.streams.len() {
            let (mut reading, version) = archive.begin(index, None).await?;
            let (mut digest, mut bytes) = (Sha256::new(), 0);
            while let Some(piece) = reading.pieces.next().await {
                let piece = piece.map_err(ArchiveError::file("read", &reading.name))?;
                digest.update(&piece);
                bytes += piece.len() as u64;
            }
            let part = &archive.page.streams[index];
            if (bytes, hex::encode(digest.finalize())) != (part.bytes, part.sha256.clone()) {
                let why = format!("{} is not as it was written; take another backup", part.stream);
                return Err(ArchiveError::NotOne { name: from.to_string(), why });
            }
            archive.versions.push(version);
        }
        Ok(archive)
    }

    /// Begins to read one of its streams, by its place in the page; refused if the file is another one than that which
    /// was verified.
    pub(crate) async fn read(&self, index: usize) -> Result<Reading, ArchiveError> {
        Ok(self.begin(index, self.versions[index].clone()).await?.0)
    }

    /// Reads a file, of this version if one is named; and says which it is.
    async fn begin(
        &self,
        index: usize,
        version: Option<String>,
    ) -> Result<(Reading, Option<String>), ArchiveError> {
        let path = self.shelf.at(&[&self.page.streams[index].stream]);
        let name = self.shelf.called(&path);
        let options = GetOptions::new().with_if_match(version);
        let got = self.shelf.store.get_opts(&path, options).await;
        let got = got.map_err(ArchiveError::file("read", &name))?;
        let version = got.meta.e_tag.clone();
        Ok((Reading { pieces: got.into_stream(), rest: Bytes::new(), name }, version))
    }
}

/// The file of a stream, as it comes.
pub(crate) struct Reading {
    pieces: BoxStream<'static, object_store::Result<Bytes>>,
    rest: Bytes,
    name: String,
}

impl Reading {
    /// The next bytes, so many at most; none at the end.
    pub(crate) async fn next(&mut self, most: usize) -> io::Result<Bytes> {
        while self.rest.is_empty() {
            let Some(piece) = self.pieces.next().await else { break };
            self.rest = piece.map_err(|error| {
                io::Error::other(format!("cannot read {}: {}", self.name, reason(&error)))
            })?;
        }
        Ok(self.rest.split_to(self.rest.len().min(most)))
    }
}

/// Reads the page of a backup: in that folder of a place, or in the place itself.
async fn read_page(shelf: &Shelf, folder: Option<&str>) -> Result<Page, ArchiveError> {
    let names: Vec<&str> = folder.into_iter().chain([PAGE]).collect();
    let (path, of) = (shelf.at(&names), shelf.called(&shelf.at(&names[..names.len() - 1])));
    let file = || ArchiveError::file("read", shelf.called(&path));
    let not_one = |why: String| ArchiveError::NotOne { name: of.clone(), why };
    let got = shelf.store.get(&path).await.map_err(file())?;
    if got.meta.size > MAX_PAGE_BYTES {
        return Err(not_one(format!("{PAGE} has more than {MAX_PAGE_BYTES} bytes")));
    }
    let bytes = got.bytes().await.map_err(file())?;
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

/// Why a place is no backup, and which are in it.
async fn none_there(shelf: &Shelf) -> String {
    let mut found = shelf.folders().await.unwrap_or_default();
    found.sort();
    match &found[found.len().saturating_sub(MAX_NAMED)..] {
        [] => format!("it has no {PAGE}"),
        last => format!("it has no {PAGE}, but folders; the last are {}", last.join(", ")),
    }
}

/// Name of a backup, `FLEET-2026-01-31T02-03-04.567Z`: the order of names is that of times.
fn folder(fleet: &str, at: Timestamp) -> String {
    let time = UNIX_EPOCH + Duration::from_millis(at.0);
    let time = humantime::format_rfc3339_millis(time).to_string().replace(':', "-");
    format!("{fleet}-{time}")
}

/// The time that a name ends with.
fn at(time: &str) -> Option<Timestamp> {
    let (day, clock) = time.split_once('T')?;
    let time = humantime::parse_rfc3339(&format!("{day}T{}", clock.replace('-', ":"))).ok()?;
    Some(Timestamp(time.duration_since(UNIX_EPOCH).ok()?.as_millis().try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    const DAY_MS: u64 = 86_400_000;
    const S3: S3Args = S3Args { s3_endpoint: None, s3_region: None };

    fn draft(parent: &Path, fleet: &str, at: u64) -> Draft {
        let to = Location::Folder(parent.to_owned());
        Draft::begin(&to, &S3, &FleetId::new(fleet).unwrap(), Timestamp(at)).unwrap()
    }

    async fn begun(parent: &Path, fleet: &str, at: u64) -> Draft {
        let mut draft = draft(parent, fleet, at);
        let writing = draft.next("POLICY");
        writing.write(Bytes::from("some")).await.unwrap();
        writing.write(Bytes::from(" bytes")).await.unwrap();
        let packed = Packed { config: serde_json::Map::new(), state: serde_json::Map::new() };
        assert_eq!(draft.add(packed).await.unwrap().bytes, 10);
        draft
    }

    async fn taken(parent: &Path, fleet: &str, at: u64) -> PathBuf {
        begun(parent, fleet, at).await.finish().await.unwrap().into()
    }

    async fn refusal(path: &Path) -> String {
        Archive::open(&Location::Folder(path.to_owned()), &S3).await.err().unwrap().to_string()
    }

    #[tokio::test]
    async fn a_backup_is_whole_or_none() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path();
        let path = taken(parent, "red", 1_790_000_000_000).await;
        assert!(path.ends_with("red-2026-09-21T14-13-20.000Z"), "{}", path.display());
        let archive = Archive::open(&Location::Folder(path.clone()), &S3).await.unwrap();
        let mut reading = archive.read(0).await.unwrap();
        let mut pieces = Vec::new();
        for _ in 0..3 {
            pieces.push(reading.next(6).await.unwrap());
        }
        assert_eq!(pieces, ["some b", "ytes", ""]);
        fs::write(path.join("POLICY"), "some Bytes").unwrap();
        assert!(archive.read(0).await.is_err(), "it is another file now");
        let said = refusal(&path).await;
        assert!(said.contains("POLICY is not as it was written"), "{said}");

        let mut dropped = begun(parent, "red", 1).await;
        dropped.next("CONTENT").write(Bytes::from(vec![0; 2 * PIECE_BYTES])).await.unwrap();
        dropped.discard().await.unwrap();
        assert_eq!(fs::read_dir(parent).unwrap().count(), 1, "no draft is left");
        let said = refusal(parent).await;
        assert!(said.contains("no backup.json, but folders; the last are red-2026-09-21"), "{said}");
        for (text, why) in [
            ("{}", "missing field"),
            (r#"{"format":2,"fleet":"a","taken_at_ms":1,"version":"","streams":[]}"#, "it has format 2"),
            (
                r#"{"format":1,"fleet":"a","taken_at_ms":1,"version":"","streams":[{"stream":"../x","bytes":0,"sha256":"","packed":{"config":{},"state":{}}}]}"#,
                "is no name of a stream",
            ),
            (&" ".repeat((1 << 20) + 1), "more than 1048576 bytes"),
        ] {
            fs::write(path.join(PAGE), text).unwrap();
            let said = refusal(&path).await;
            assert!(said.contains(why), "{said}");
        }
    }

    #[tokio::test]
    async fn the_oldest_of_a_fleet_go_first() {
        let parent = tempfile::tempdir().unwrap();
        let parent = parent.path();
        let day = |n: u64| 1_790_000_000_000 + n * DAY_MS;
        let mut red = Vec::new();
        for n in 0..3 {
            red.push(taken(parent, "red", day(n)).await);
        }
        let blue = taken(parent, "blue", day(0)).await;
        fs::create_dir(parent.join("red-else")).unwrap();
        let kept = || red[2].exists() && blue.exists() && parent.join("red-else").exists();
        // One that was killed, one that is under way, and one of another fleet.
        let killed = begun(parent, "red", day(3)).await.called("red-2026-09-24T14-13-20.000Z");
        fs::write(Path::new(&killed).join("CONTENT#1"), "half").unwrap();
        let _other = begun(parent, "red-2", day(3)).await;
        let _under_way = begun(parent, "red", day(4) + 1).await;
        let last = draft(parent, "red", day(4));
        let removed = last.prune(1).await.unwrap();
        let names = [Path::new(&killed), &red[0], &red[1]];
        assert_eq!(removed.iter().map(Path::new).collect::<Vec<_>>(), names);
        assert!(kept() && !names.iter().any(|path| path.exists()));
        assert!(last.prune(1).await.unwrap().is_empty() && kept());
        assert_eq!(fs::read_dir(parent).unwrap().count(), 5);
    }
}
