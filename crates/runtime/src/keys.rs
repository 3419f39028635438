//! Ed25519 keys that sign what agents obey, each kept in a file: root keys, the director key, the content key.
//!
//! Whoever signs takes a [`Signer`]: a file is one kind of it, a device or a key service can be another.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::{SECRET_KEY_LENGTH, SigningKey};
pub use wire::sign::Signer;

/// Permission bits of a key file: its owner reads and writes it, nobody else does.
const KEY_FILE_MODE: u32 = 0o600;

/// Why a key file cannot be used or made.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be opened, read or written.
    #[error("cannot {action} the key file {}", path.display())]
    Io {
        /// "read", "create" or "write".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Others may read the file.
    #[error(
        "the key file {} has mode {mode:04o}: others may read it; if only its owner ever could, run chmod 600, else replace the key",
        path.display()
    )]
    Mode {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file does not hold a key.
    #[error(
        "the key file {} has {bytes} bytes instead of {SECRET_KEY_LENGTH}: it is no Ed25519 seed; restore it from a backup, or make a new one and name it in the fleet's next trust root",
        path.display()
    )]
    Length {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
}

/// Loads what signs from a key file.
///
/// # Errors
/// As [`load`].
pub fn signer(path: &Path) -> Result<Arc<dyn Signer>, KeyError> {
    Ok(Arc::new(load(path)?))
}

/// Whether nobody but us can read a file: its owner alone may, or it belongs to another user, who lets our group read it.
/// So are Secrets mounted in Kubernetes, where files belong to root and the process is somebody else.
#[must_use]
pub fn is_private(metadata: &std::fs::Metadata) -> bool {
    private(metadata.mode() & 0o777, metadata.uid(), rustix::process::geteuid().as_raw())
}

fn private(mode: u32, owner: u32, me: u32) -> bool {
    mode & 0o077 == 0 || (owner != me && mode & 0o037 == 0)
}

/// Loads the key from `path`.
///
/// # Errors
/// [`KeyError`] if the file is absent, readable by others, or not exactly one 32-byte seed.
pub fn load(path: &Path) -> Result<SigningKey, KeyError> {
    let failed = |source| KeyError::Io { action: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    let mode = metadata.mode() & 0o777;
    if !is_private(&metadata) {
        return Err(KeyError::Mode { path: path.to_owned(), mode });
    }
    let expected = SECRET_KEY_LENGTH as u64;
    if !metadata.is_file() || metadata.len() != expected {
        return Err(KeyError::Length { path: path.to_owned(), bytes: metadata.len() });
    }
    let mut seed = [0; SECRET_KEY_LENGTH];
    file.read_exact(&mut seed).map_err(failed)?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Loads the key from `path`; makes a new one there if the file does not exist. The file is made with mode
/// 0600 under another name, synced and linked into place, so that a crash leaves no half of a key and of
/// two processes that start together one wins and both use its key.
///
/// # Errors
/// [`KeyError`] if an existing file cannot be used, or a new one cannot be made.
pub fn load_or_create(path: &Path) -> Result<SigningKey, KeyError> {
    match load(path) {
        Err(KeyError::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {}
        loaded_or_refused => return loaded_or_refused,
    }
    let draft = path.with_extension(format!("{}.draft", crate::ids::random_id()));
    let made = write_draft(&draft).and_then(|()| match std::fs::hard_link(&draft, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    let removed = std::fs::remove_file(&draft);
    made.and(removed).and_then(|()| sync_parent(path)).map_err(|source| KeyError::Io {
        action: "create",
        path: path.to_owned(),
        source,
    })?;
    let key = load(path)?;
    tracing::info!(path = %path.display(), "made a new key");
    Ok(key)
}

fn write_draft(draft: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(KEY_FILE_MODE).open(draft)?;
    file.write_all(&crate::ids::random_secret::<SECRET_KEY_LENGTH>())?;
    file.sync_all()
}

fn sync_parent(path: &Path) -> std::io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_made_once_with_mode_0600() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("director.key");
        let absent = load(&path).unwrap_err();
        assert!(matches!(absent, KeyError::Io { action: "read", .. }), "{absent}");
        let made = load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert_eq!(load_or_create(&path).unwrap(), made);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no draft is left");
    }

    #[test]
    fn processes_that_start_together_share_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("director.key");
        let keys: Vec<SigningKey> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_create(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]));
    }

    #[test]
    fn a_file_of_another_user_may_be_lent_to_our_group() {
        for (mode, owner, expected) in [
            (0o600, 1, true),
            (0o400, 1, true),
            (0o440, 0, true),
            (0o640, 0, true),
            (0o440, 1, false),
            (0o640, 1, false),
            (0o444, 0, false),
            (0o460, 0, false),
        ] {
            assert_eq!(private(mode, owner, 1), expected, "{mode:o} of {owner}");
        }
    }

    #[test]
    fn unfit_files_are_refused_with_the_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("director.key");
        std::fs::write(&path, [1; 31]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("mode 0640") && error.contains("chmod 600"), "{error}");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = load_or_create(&path).unwrap_err().to_string();
        assert!(error.contains("31 bytes instead of 32") && error.contains("backup"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), [1; 31], "a refused file is left alone");
    }
}
