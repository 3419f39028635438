//! Files that are whole or not there: written beside their place, synced, renamed, the directory synced.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use domain::Digest;

/// Permission bits of what others on the machine may read: handlers often run as other users.
pub(crate) const PUBLIC: u32 = 0o644;
/// Permission bits of secrets.
pub(crate) const SECRET: u32 = 0o600;
/// First word of a sealed file; names its format.
const SEAL: &str = "muster-sealed-1";

/// Makes renames and new names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Writes a new file and syncs it; not its directory.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Replaces a file as a whole. `drafted` is called when the new content is durable under its draft name.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32, drafted: impl FnOnce()) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::from(ErrorKind::InvalidInput))?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = dir.join(format!(".{name}.draft"));
    write_new(&draft, bytes, mode)?;
    drafted();
    std::fs::rename(&draft, path)?;
    sync_dir(dir)
}

/// Reads a regular file of at most `limit` bytes. `None` if there is no such file.
pub(crate) fn read(path: &Path, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let metadata = match std::fs::symlink_metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidData, "is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(limit as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() > limit {
        return Err(io::Error::new(ErrorKind::FileTooLarge, format!("is larger than {limit} bytes")));
    }
    Ok(Some(bytes))
}

/// JSON behind a line with its checksum.
pub(crate) fn seal(json: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{SEAL} {}\n", Digest::of(json)).into_bytes();
    bytes.extend_from_slice(json);
    bytes
}

/// The JSON of a sealed file; `None` if the checksum does not hold.
pub(crate) fn unseal(bytes: &[u8]) -> Option<&[u8]> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let (head, json) = (&bytes[..end], &bytes[end + 1..]);
    (head == format!("{SEAL} {}", Digest::of(json)).as_bytes()).then_some(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_file_notices_every_flipped_bit_and_every_cut() {
        let sealed = seal(br#"{"a":1}"#);
        assert_eq!(unseal(&sealed), Some(&br#"{"a":1}"#[..]));
        for at in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert_eq!(unseal(&flipped), None, "bit {at}");
        }
        for length in 0..sealed.len() {
            assert_eq!(unseal(&sealed[..length]), None, "cut to {length}");
        }
    }

    #[test]
    fn links_and_long_files_are_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        replace(&path, b"12345", PUBLIC, || {}).unwrap();
        assert_eq!(read(&path, 5).unwrap().unwrap(), b"12345");
        assert_eq!(read(&path, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        std::os::unix::fs::symlink("file", dir.path().join("link")).unwrap();
        assert_eq!(read(&dir.path().join("link"), 5).unwrap_err().kind(), ErrorKind::InvalidData);
        assert_eq!(read(&dir.path().join("absent"), 5).unwrap(), None);
    }
}
