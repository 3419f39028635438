//! The data directory of `musterd all`: who uses it, and where to reach them.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

const LOCK: &str = "lock";
const ADDRESSES: &str = "addresses.json";
const NATS: &str = "nats";
const TLS: &str = "tls";
const BROKER: &str = "broker";
const NATS_PORT: &str = "nats-port";
const DIRECTOR_KEY: &str = "director.key";
const CONTENT_KEY: &str = "content.key";
const ADMIN_TOKEN: &str = "admin.token";
const ROOT_KEY: &str = "root.key";

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// A file or directory cannot be used.
    #[error("cannot {action} {}", path.display())]
    File {
        /// "create", "write" or "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Another process uses it.
    #[error(
        "the data directory {} is in use by another musterd: stop that one, or give this one a directory of its own with --data-dir",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
    },
}

/// Where a running `musterd all` is reached: `addresses.json` in its data directory, there while it serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// URL of the API, the probes and health.
    pub api: String,
    /// URLs of NATS.
    pub nats: Vec<String>,
    /// Process id.
    pub pid: u32,
}

/// A data directory that this process alone uses, until it is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes it if it is not there, and locks it. The lock goes with the process, however it ends.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
        let create = |path: &Path| {
            let failed = |source| DataDirError::File { action: "create", path: path.to_owned(), source };
            std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
        };
        create(path)?;
        // nats-server and messages need a path that does not depend on the working directory.
        let failed = |source| DataDirError::File { action: "resolve", path: path.to_owned(), source };
        let path = path.canonicalize().map_err(failed)?;
        let lock_path = path.join(LOCK);
        let failed = |source| DataDirError::File { action: "create", path: lock_path.clone(), source };
        let lock = File::options().write(true).create(true).truncate(false).mode(0o600).open(&lock_path);
        let lock = lock.map_err(failed)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(DataDirError::InUse { path }),
            Err(error) => return Err(failed(error.into())),
        }
        let dir = Self { path, _lock: lock };
        dir.clear_addresses()?;
        create(&dir.nats())?;
        Ok(dir)
    }

    /// The directory of nats-server.
    pub(crate) fn nats(&self) -> PathBuf {
        self.path.join(NATS)
    }

    /// The directory of the local CA.
    pub(crate) fn tls(&self) -> PathBuf {
        self.path.join(TLS)
    }

    /// The directory of the broker's operator and accounts.
    pub(crate) fn broker(&self) -> PathBuf {
        self.path.join(BROKER)
    }

    /// The file of the director key.
    pub(crate) fn director_key(&self) -> PathBuf {
        self.path.join(DIRECTOR_KEY)
    }

    /// The file of the key that signs content.
    pub(crate) fn content_key(&self) -> PathBuf {
        self.path.join(CONTENT_KEY)
    }

    /// The file of the API token of whoever owns this directory.
    pub(crate) fn admin_token(&self) -> PathBuf {
        self.path.join(ADMIN_TOKEN)
    }

    /// The file of the key that signs trust roots.
    pub(crate) fn root_key(&self) -> PathBuf {
        self.path.join(ROOT_KEY)
    }

    /// The port that nats-server had before: agents were told it.
    pub(crate) fn nats_port(&self) -> Option<u16> {
        std::fs::read_to_string(self.path.join(NATS_PORT)).ok()?.trim().parse().ok()
    }

    /// Keeps the port of nats-server for the next start.
    pub(crate) fn keep_nats_port(&self, port: u16) -> Result<(), DataDirError> {
        self.write(NATS_PORT, format!("{port}\n").as_bytes())
    }

    /// Says where this process is reached.
    pub(crate) fn write_addresses(&self, addresses: &Addresses) -> Result<(), DataDirError> {
        let mut json = serde_json::to_vec_pretty(addresses).expect("invariant: addresses are plain JSON");
        json.push(b'\n');
        self.write(ADDRESSES, &json)
    }

    /// This process is reached no more.
    pub(crate) fn clear_addresses(&self) -> Result<(), DataDirError> {
        let path = self.path.join(ADDRESSES);
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                Err(DataDirError::File { action: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Replaces a file as a whole, so that no reader sees a part of it.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
        let path = self.path.join(name);
        let draft = path.with_extension("draft");
        let written = File::create(&draft).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&draft, &path)
        });
        written.map_err(|source| DataDirError::File { action: "write", path, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_uses_a_directory() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("a/b");
        let dir = DataDir::open(&path).unwrap();
        let error = DataDir::open(&path).err().unwrap().to_string();
        assert!(error.contains("in use by another musterd") && error.contains("--data-dir"), "{error}");
        drop(dir);
        DataDir::open(&path).unwrap();
        std::fs::write(parent.path().join("file"), "").unwrap();
        let error = DataDir::open(&parent.path().join("file")).err().unwrap().to_string();
        assert!(error.contains("cannot create"), "{error}");
    }

    #[test]
    fn addresses_go_and_the_port_stays() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        assert_eq!(dir.nats_port(), None);
        dir.keep_nats_port(4222).unwrap();
        let addresses = Addresses { api: "http://a".into(), nats: vec!["nats://b".into()], pid: 7 };
        dir.write_addresses(&addresses).unwrap();
        let text = std::fs::read(parent.path().join(ADDRESSES)).unwrap();
        assert_eq!(serde_json::from_slice::<Addresses>(&text).unwrap(), addresses);
        drop(dir);
        let dir = DataDir::open(parent.path()).unwrap();
        assert!(!parent.path().join(ADDRESSES).exists());
        assert_eq!(dir.nats_port(), Some(4222));
    }
}
