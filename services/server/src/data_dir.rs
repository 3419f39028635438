//! The data directory of `musterd all`: who uses it, and where to reach them.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use domain::FleetId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

const LOCK: &str = "lock";
const ADDRESSES: &str = "addresses.json";
const NATS: &str = "nats";
const FLEETS: &str = "fleets";
/// Whose keys lie here.
const FLEET: &str = "fleet";
const TLS: &str = "tls";
/// The CA in the folder of the local CA.
const CA: &str = "ca.pem";
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
        /// "create", "read", "write" or "remove".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Its keys are those of another fleet.
    #[error(
        "the data directory {} is that of fleet {found:?}: give --fleet {found}, serve this one beside it with --also-fleet, or give it a directory of its own with --data-dir",
        path.display()
    )]
    OtherFleet {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
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
    /// The CA that vouches for it, where it has its certificate from the data directory.
    pub ca: PathBuf,
    /// URLs of NATS.
    pub nats: Vec<String>,
    /// Process id.
    pub pid: u32,
}

impl Addresses {
    /// Reads what a running `musterd all` left in its directory.
    pub(crate) fn read(data_dir: &Path) -> Result<Self, DataDirError> {
        let path = data_dir.join(ADDRESSES);
        let read = std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice(&bytes)?));
        read.map_err(|source| DataDirError::File { action: "read", path, source })
    }
}

/// The directory of the broker's operator and accounts in a data directory.
pub(crate) fn broker_of(data_dir: &Path) -> PathBuf {
    data_dir.join(BROKER)
}

/// A data directory that this process alone uses, until it is dropped.
pub(crate) struct DataDir {
    path: PathBuf,
    /// That of the local CA: fleets of one process share it.
    tls: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Makes it if it is not there, and locks it. The lock goes with the process, however it ends.
    pub(crate) fn open(path: &Path) -> Result<Self, DataDirError> {
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
        let dir = Self { tls: path.join(TLS), path, _lock: lock };
        dir.clear_addresses()?;
        Ok(dir)
    }

    /// Makes sure that it is this fleet's, from the first time on.
    pub(crate) fn belongs_to(&self, fleet: &FleetId) -> Result<(), DataDirError> {
        let path = self.path.join(FLEET);
        match std::fs::read_to_string(&path) {
            Ok(found) if found.trim() == fleet.as_str() => Ok(()),
            Ok(found) => {
                Err(DataDirError::OtherFleet { path: self.path.clone(), found: found.trim().to_owned() })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.write(FLEET, format!("{fleet}\n").as_bytes())
            }
            Err(source) => Err(DataDirError::File { action: "read", path, source }),
        }
    }

    /// The directory of another fleet of this process, which has keys of its own and shares the rest.
    pub(crate) fn of_fleet(&self, fleet: &FleetId) -> Result<Self, DataDirError> {
        let dir = Self::open(&self.path.join(FLEETS).join(fleet.as_str()))?;
        dir.belongs_to(fleet)?;
        Ok(Self { tls: self.tls(), ..dir })
    }

    /// The directory of nats-server, made if it is not there.
    pub(crate) fn nats(&self) -> Result<PathBuf, DataDirError> {
        let path = self.path.join(NATS);
        create(&path)?;
        Ok(path)
    }

    /// The directory of the local CA.
    pub(crate) fn tls(&self) -> PathBuf {
        self.tls.clone()
    }

    /// The file of the local CA.
    pub(crate) fn ca(&self) -> PathBuf {
        self.tls.join(CA)
    }

    /// The directory of the broker's operator and accounts.
    pub(crate) fn broker(&self) -> PathBuf {
        broker_of(&self.path)
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

fn create(path: &Path) -> Result<(), DataDirError> {
    let failed = |source| DataDirError::File { action: "create", path: path.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)
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
    fn a_directory_is_one_fleets() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        let [red, blue] = ["red", "blue"].map(|id| FleetId::new(id).unwrap());
        dir.belongs_to(&red).unwrap();
        dir.belongs_to(&red).unwrap();
        let error = dir.belongs_to(&blue).unwrap_err().to_string();
        assert!(error.contains("is that of fleet \"red\"") && error.contains("--also-fleet"), "{error}");
        let below = dir.of_fleet(&blue).unwrap();
        assert_eq!((below.ca(), below.director_key().exists()), (dir.ca(), false));
        assert!(matches!(dir.of_fleet(&blue), Err(DataDirError::InUse { .. })));
    }

    #[test]
    fn addresses_go_and_the_port_stays() {
        let parent = tempfile::tempdir().unwrap();
        let dir = DataDir::open(parent.path()).unwrap();
        assert_eq!(dir.nats_port(), None);
        dir.keep_nats_port(4222).unwrap();
        let addresses =
            Addresses { api: "http://a".into(), ca: dir.ca(), nats: vec!["nats://b".into()], pid: 7 };
        dir.write_addresses(&addresses).unwrap();
        let text = std::fs::read(parent.path().join(ADDRESSES)).unwrap();
        assert_eq!(serde_json::from_slice::<Addresses>(&text).unwrap(), addresses);
        drop(dir);
        let dir = DataDir::open(parent.path()).unwrap();
        assert!(!parent.path().join(ADDRESSES).exists());
        assert_eq!(dir.nats_port(), Some(4222));
    }
}
