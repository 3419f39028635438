//! What one revision of a channel's content consists of: files, and the chunks that their bytes are cut into.

use std::collections::BTreeMap;

use super::name::ChannelName;
use super::path::{FilePath, folded};
use crate::digest::Digest;
use crate::id::FleetId;

/// Most files of a content: their names alone have to fit into one message.
pub const MAX_FILES: usize = 4096;
/// Most chunks of a content: 36 bytes of the manifest each, so that they leave a quarter of it to the files.
pub const MAX_CHUNKS: usize = 20_480;
/// Longest chunk before compression: as one message it fits the 1 MiB that a NATS server accepts by default, even
/// if it does not compress, and two of them fit what a connection buffers.
pub const MAX_CHUNK_BYTES: u32 = 512 * 1024;
/// Longest content: [`MAX_CHUNKS`] chunks of 256 KiB are a little more.
pub const MAX_CONTENT_BYTES: u64 = 4 << 30;
/// Longest manifest as signed: fits the 1 MiB that a NATS server accepts by default, with its envelope.
pub const MAX_MANIFEST_BYTES: usize = 960 * 1024;

/// What a manifest takes at most beside its files and chunks: ids, digest, lengths of lists.
const FRAME_WEIGHT: usize = 512;
/// What a file takes at most beside its path.
const FILE_WEIGHT: usize = 56;
/// What a chunk takes at most: digest and length.
const CHUNK_WEIGHT: usize = 36;

/// Why files and chunks do not make a manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A content without files is none.
    #[error("names no files")]
    NoFiles,
    /// More than [`MAX_FILES`].
    #[error("names {0} files; at most {MAX_FILES} are allowed: pack them into one file")]
    TooManyFiles(usize),
    /// More than [`MAX_CHUNKS`].
    #[error("has {0} chunks; at most {MAX_CHUNKS} are allowed: cut them longer")]
    TooManyChunks(usize),
    /// More than [`MAX_MANIFEST_BYTES`] when written.
    #[error(
        "takes up to {0} bytes; at most {MAX_MANIFEST_BYTES} are allowed: use fewer files or shorter paths"
    )]
    TooHeavy(usize),
    /// A path twice, or paths out of order.
    #[error("names \"{0}\" twice or out of order: files must be ordered by path")]
    Order(FilePath),
    /// Two paths that are one where case makes no difference.
    #[error("names {0:?} and {1:?}, which are the same where case makes no difference")]
    Case(String, String),
    /// A path is a file and a folder.
    #[error("names {0:?} as a file and as a folder")]
    FileAndFolder(String),
    /// A chunk of no bytes or of more than [`MAX_CHUNK_BYTES`].
    #[error("has a chunk of {0} bytes; 1 to {MAX_CHUNK_BYTES} are allowed")]
    ChunkLength(u32),
    /// One digest with two lengths.
    #[error("has the chunk {0} with two lengths")]
    ChunkTwice(Digest),
    /// Longer than [`MAX_CONTENT_BYTES`].
    #[error("is a content of {0} bytes; at most {MAX_CONTENT_BYTES} are allowed")]
    TooLong(u64),
    /// The lengths of files and chunks differ.
    #[error("has files of {files} bytes and chunks of {chunks} bytes; both must be the whole content")]
    Sums {
        /// Sum over the files.
        files: u64,
        /// Sum over the chunks.
        chunks: u64,
    },
}

/// One file of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestFile {
    /// Where it lies in the content.
    pub path: FilePath,
    /// Its length.
    pub bytes: u64,
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// Whether it may be executed.
    pub executable: bool,
}

/// One chunk of a content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkEntry {
    /// SHA-256 of its bytes before compression: its name.
    pub digest: Digest,
    /// Its length before compression, 1 to [`MAX_CHUNK_BYTES`].
    pub bytes: u32,
}

/// What one revision of a channel's content consists of. The bytes of the files, one after the other, are the
/// content; chunks cut it without regard to where a file ends. One that exists keeps all the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    fleet: FleetId,
    channel: ChannelName,
    files: Vec<ManifestFile>,
    chunks: Vec<ChunkEntry>,
    digest: Digest,
    bytes: u64,
}

impl Manifest {
    /// Checks what the content consists of. `digest` is the SHA-256 of the whole content; whether it is true shows
    /// when the content is there.
    ///
    /// # Errors
    /// [`ManifestError`] names the first rule that is broken.
    pub fn new(
        fleet: FleetId,
        channel: ChannelName,
        files: Vec<ManifestFile>,
        chunks: Vec<ChunkEntry>,
        digest: Digest,
    ) -> Result<Self, ManifestError> {
        check_counts(&files, &chunks)?;
        if let Some(pair) = files.windows(2).find(|pair| pair[0].path >= pair[1].path) {
            return Err(ManifestError::Order(pair[1].path.clone()));
        }
        check_names(&files)?;
        check_chunks(&chunks)?;
        let sum = |all: &mut dyn Iterator<Item = u64>| all.fold(0, u64::saturating_add);
        let in_files = sum(&mut files.iter().map(|file| file.bytes));
        let in_chunks = sum(&mut chunks.iter().map(|chunk| u64::from(chunk.bytes)));
        if in_files > MAX_CONTENT_BYTES {
            return Err(ManifestError::TooLong(in_files));
        }
        if in_files != in_chunks {
            return Err(ManifestError::Sums { files: in_files, chunks: in_chunks });
        }
        Ok(Self { fleet, channel, files, chunks, digest, bytes: in_files })
    }

    /// The fleet it is meant for.
    #[must_use]
    pub fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    /// The channel it is meant for.
    #[must_use]
    pub fn channel(&self) -> &ChannelName {
        &self.channel
    }

    /// The files, ordered by path.
    #[must_use]
    pub fn files(&self) -> &[ManifestFile] {
        &self.files
    }

    /// The chunks, in the order of the content.
    #[must_use]
    pub fn chunks(&self) -> &[ChunkEntry] {
        &self.chunks
    }

    /// SHA-256 of the whole content.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Length of the whole content.
    #[must_use]
    pub fn content_bytes(&self) -> u64 {
        self.bytes
    }

    /// Each chunk and where it starts in the content.
    pub fn placed_chunks(&self) -> impl Iterator<Item = (u64, ChunkEntry)> {
        self.chunks.iter().scan(0, |next, chunk| {
            let at = *next;
            *next += u64::from(chunk.bytes);
            Some((at, *chunk))
        })
    }

    /// Each file and where it starts in the content.
    pub fn placed_files(&self) -> impl Iterator<Item = (u64, &ManifestFile)> {
        self.files.iter().scan(0, |next, file| {
            let at = *next;
            *next += file.bytes;
            Some((at, file))
        })
    }
}

fn check_counts(files: &[ManifestFile], chunks: &[ChunkEntry]) -> Result<(), ManifestError> {
    if files.is_empty() {
        return Err(ManifestError::NoFiles);
    }
    if files.len() > MAX_FILES {
        return Err(ManifestError::TooManyFiles(files.len()));
    }
    if chunks.len() > MAX_CHUNKS {
        return Err(ManifestError::TooManyChunks(chunks.len()));
    }
    let paths: usize = files.iter().map(|file| file.path.as_str().len() + FILE_WEIGHT).sum();
    let weight = FRAME_WEIGHT + paths + chunks.len() * CHUNK_WEIGHT;
    if weight > MAX_MANIFEST_BYTES {
        return Err(ManifestError::TooHeavy(weight));
    }
    Ok(())
}

/// What stands under a name that was folded.
struct Name<'a> {
    text: &'a str,
    is_file: bool,
}

/// No two files or folders may be one on a file system that ignores case, and none may be both.
fn check_names(files: &[ManifestFile]) -> Result<(), ManifestError> {
    let mut seen: BTreeMap<String, Name<'_>> = BTreeMap::new();
    for file in files {
        let path = file.path.as_str();
        let folders = file.path.folders().map(|folder| Name { text: folder, is_file: false });
        for name in folders.chain([Name { text: path, is_file: true }]) {
            let Some(other) = seen.get(&folded(name.text)) else {
                seen.insert(folded(name.text), name);
                continue;
            };
            if other.text != name.text {
                return Err(ManifestError::Case(other.text.to_owned(), name.text.to_owned()));
            }
            if other.is_file || name.is_file {
                return Err(ManifestError::FileAndFolder(name.text.to_owned()));
            }
        }
    }
    Ok(())
}

fn check_chunks(chunks: &[ChunkEntry]) -> Result<(), ManifestError> {
    let mut lengths: BTreeMap<Digest, u32> = BTreeMap::new();
    for chunk in chunks {
        if chunk.bytes == 0 || chunk.bytes > MAX_CHUNK_BYTES {
            return Err(ManifestError::ChunkLength(chunk.bytes));
        }
        if *lengths.entry(chunk.digest).or_insert(chunk.bytes) != chunk.bytes {
            return Err(ManifestError::ChunkTwice(chunk.digest));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, bytes: u64) -> ManifestFile {
        let digest = Digest::of(path.as_bytes());
        ManifestFile { path: FilePath::new(path).unwrap(), bytes, digest, executable: false }
    }

    fn chunk(name: u32, bytes: u32) -> ChunkEntry {
        ChunkEntry { digest: Digest::of(&name.to_be_bytes()), bytes }
    }

    fn make(files: Vec<ManifestFile>, chunks: Vec<ChunkEntry>) -> Result<Manifest, ManifestError> {
        let (fleet, channel) = (FleetId::new("main").unwrap(), ChannelName::new("rules").unwrap());
        Manifest::new(fleet, channel, files, chunks, Digest::of(b"all"))
    }

    #[track_caller]
    fn check(files: &[(&str, u64)], chunks: &[(u32, u32)], expected: Result<u64, &str>) {
        let files = files.iter().map(|(path, bytes)| file(path, *bytes)).collect();
        let chunks = chunks.iter().map(|(name, bytes)| chunk(*name, *bytes)).collect();
        let got = make(files, chunks).map(|manifest| manifest.content_bytes());
        assert_eq!(got.map_err(|error| error.to_string()), expected.map_err(str::to_owned));
    }

    #[test]
    fn files_and_chunks_must_agree() {
        check(&[("a", 0)], &[], Ok(0));
        check(&[("a", 1), ("b/c", 7), ("b/d", 0)], &[(1, 4), (2, 4)], Ok(8));
        check(&[("a", 8)], &[(1, 4), (1, 4)], Ok(8));

        check(&[], &[], Err("names no files"));
        let sums = "has files of 3 bytes and chunks of 4 bytes; both must be the whole content";
        check(&[("a", 3)], &[(1, 4)], Err(sums));
        let twice = format!("has the chunk {} with two lengths", chunk(1, 4).digest);
        check(&[("a", 7)], &[(1, 4), (1, 3)], Err(&twice));
        check(&[("a", 0)], &[(1, 0)], Err("has a chunk of 0 bytes; 1 to 524288 are allowed"));
        check(
            &[("a", 524_289)],
            &[(1, 524_289)],
            Err("has a chunk of 524289 bytes; 1 to 524288 are allowed"),
        );
        let long = "is a content of 4294967297 bytes; at most 4294967296 are allowed";
        check(&[("a", (4 << 30) + 1)], &[(1, 4)], Err(long));
        let overflow = "is a content of 18446744073709551615 bytes; at most 4294967296 are allowed";
        check(&[("a", u64::MAX), ("b", 5)], &[(1, 4)], Err(overflow));
    }

    #[test]
    fn paths_are_ordered_and_unambiguous() {
        let order = "names \"a\" twice or out of order: files must be ordered by path";
        check(&[("a", 0), ("a", 0)], &[], Err(order));
        check(&[("b", 0), ("a", 0)], &[], Err(order));
        let case = "names \"Data\" and \"data\", which are the same where case makes no difference";
        check(&[("Data", 0), ("data", 0)], &[], Err(case));
        check(&[("Data/x", 0), ("data/y", 0)], &[], Err(case));
        check(&[("Data", 0), ("data/y", 0)], &[], Err(case));
        let sharp = "names \"STRASSE\" and \"straße\", which are the same where case makes no difference";
        check(&[("STRASSE", 0), ("straße", 0)], &[], Err(sharp));
        check(&[("a", 0), ("a/b", 0)], &[], Err("names \"a\" as a file and as a folder"));
        check(&[("a", 0), ("a-b", 0), ("a/b", 0)], &[], Err("names \"a\" as a file and as a folder"));
        check(&[("a/b", 0), ("a/b/c/d", 0)], &[], Err("names \"a/b\" as a file and as a folder"));
        check(&[("a/b", 0), ("a/c", 0)], &[], Ok(0));
    }

    #[test]
    fn it_fits_into_one_message() {
        let many = (0..4097).map(|n| file(&format!("{n:05}"), 0)).collect();
        let error = make(many, Vec::new()).unwrap_err();
        let told = "names 4097 files; at most 4096 are allowed: pack them into one file";
        assert_eq!(error.to_string(), told);

        let chunks = (0..20_481).map(|n| chunk(n, 1)).collect();
        let error = make(vec![file("a", 20_481)], chunks).unwrap_err();
        assert_eq!(error.to_string(), "has 20481 chunks; at most 20480 are allowed: cut them longer");

        let long = (0..4096).map(|n| file(&format!("{n:0200}"), 0)).collect();
        let error = make(long, Vec::new()).unwrap_err();
        assert_eq!(error, ManifestError::TooHeavy(512 + 4096 * 256));

        let chunks: Vec<_> = (0..20_480).map(|n| chunk(n, 1)).collect();
        assert!(make(vec![file("a", 20_480)], chunks).is_ok());
    }

    #[test]
    fn places_follow_from_lengths() {
        let manifest = make(vec![file("a", 3), file("b", 5)], vec![chunk(1, 6), chunk(2, 2)]).unwrap();
        let chunks: Vec<u64> = manifest.placed_chunks().map(|(at, _)| at).collect();
        let files: Vec<u64> = manifest.placed_files().map(|(at, _)| at).collect();
        assert_eq!((chunks, files), (vec![0, 6], vec![0, 3]));
    }
}
