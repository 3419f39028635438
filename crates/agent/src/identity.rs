//! Who the agent is, kept in its state directory: the lock, the key, and what it learnt when it joined.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use domain::{AgentId, Digest, FleetId};
use nkeys::{KeyPair, KeyPairType};
use runtime::tls::BrokerTls;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use wire::broker::Broker;
use wire::envelope::MAX_ENVELOPE_BYTES;
use wire::join::BrokerTrust;
use wire::root::{Chain, MAX_CHAIN_BYTES};

use crate::access::{Access, Claims};
use crate::agent::Enrolment;
use crate::disk::{DiskError, TRUST_ROOT, files};
use crate::join::Pinned;
use crate::trust::LiveTrust;

/// Held by the running agent.
const LOCK: &str = "lock";
/// The nkey seed.
const KEY: &str = "agent.key";
/// Who the agent is.
const IDENTITY: &str = "identity.json";
/// Who vouches for the NATS servers.
const BROKER_CA: &str = "broker-ca.pem";
/// What it shows the broker.
const CLAIMS: &str = "claims.json";
/// What it pinned when it wrote a request that is carried by hand.
const REQUESTED: &str = "requested.json";
/// Its group.
const ASSIGNMENT: &str = "assignment.envelope";
/// Largest identity file: an id and eight URLs.
const MAX_IDENTITY_BYTES: usize = 64 * 1024;
/// Largest file of claims: two of them.
const MAX_CLAIMS_BYTES: usize = 2 * wire::jwt::MAX_USER_CHARS + 1024;
/// Largest file of CAs that is compared with new ones: four of them in PEM.
const MAX_CA_FILE_BYTES: usize = 64 * 1024;
/// Largest key file: a seed has 58 characters.
const MAX_KEY_BYTES: usize = 256;

/// Why an agent's identity cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// Another agent runs there.
    #[error("another muster-agent is running with the state directory {}", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The key file is damaged or readable by others.
    #[error("the key file {} {problem}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The identity is damaged.
    #[error("the identity in {} is damaged ({problem}); start the agent with --join and a valid token: with its key it gets the same identity again", path.display())]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

#[derive(Serialize, Deserialize)]
struct ClaimsFile {
    user: String,
    door: String,
}

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    agent: String,
    fleet: String,
    servers: Vec<String>,
    /// Fingerprint of the first root of the chain.
    trust_root_sha256: String,
    #[serde(default)]
    tls_first: bool,
    /// When what is kept of the broker was signed: nothing older counts.
    #[serde(default)]
    broker_issued_at_ms: u64,
}

/// What a request was made with.
#[derive(Serialize, Deserialize)]
struct RequestedFile {
    fleet: String,
    servers: Vec<String>,
    trust_root_sha256: String,
}

/// A state directory that this process has locked.
#[derive(Debug)]
pub struct StateDir {
    root: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Makes the directory if needed, and locks it for this process.
    ///
    /// # Errors
    /// [`IdentityError::Locked`] if another agent runs there, [`IdentityError::Disk`] if it cannot be used.
    pub fn lock(root: &Path) -> Result<Self, IdentityError> {
        fs::create_dir_all(root).map_err(DiskError::io("create", root))?;
        let root = fs::canonicalize(root).map_err(DiskError::io("find", root))?;
        let path = root.join(LOCK);
        let mut options = fs::OpenOptions::new();
        let file = options.create(true).append(true).open(&path).map_err(DiskError::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { root, _lock: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(IdentityError::Locked { path: root }),
            Err(error) => Err(DiskError::io("lock", &path)(error.into()).into()),
        }
    }

    /// Whether an agent runs with this directory.
    #[must_use]
    pub fn is_locked(root: &Path) -> bool {
        let Ok(file) = File::open(root.join(LOCK)) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
    }

    /// The directory.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The agent's own key; made here the first time, and never leaves.
    ///
    /// # Errors
    /// [`IdentityError`] if the file cannot be read or written, is damaged, or readable by others.
    pub fn key(&self) -> Result<KeyPair, IdentityError> {
        let path = self.root.join(KEY);
        let bytes = files::read(&path, MAX_KEY_BYTES).map_err(DiskError::io("read", &path))?;
        let Some(bytes) = bytes else { return self.make_key(&path) };
        let refuse = |problem| IdentityError::Key { path: path.clone(), problem };
        let metadata = fs::metadata(&path).map_err(DiskError::io("read", &path))?;
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
            return Err(refuse("may be read by others; run chmod 600 if only its owner ever could"));
        }
        let seed = std::str::from_utf8(&bytes).unwrap_or_default();
        let key = KeyPair::from_seed(seed.trim()).ok();
        key.filter(|key| key.key_pair_type() == KeyPairType::User)
            .ok_or_else(|| refuse("holds no user nkey seed; remove it and join as a new agent"))
    }

    fn make_key(&self, path: &Path) -> Result<KeyPair, IdentityError> {
        let key = KeyPair::new_user();
        let seed = key.seed().expect("invariant: a new pair holds its private key");
        files::replace(path, seed.as_bytes(), files::SECRET, || {}).map_err(DiskError::io("write", path))?;
        tracing::info!(path = %path.display(), public_key = key.public_key(), "made a new key");
        Ok(key)
    }

    /// What the agent learnt when it joined; `None` if it has not joined.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] if it did and part of that cannot be read.
    pub fn enrolment(&self) -> Result<Option<Enrolment>, IdentityError> {
        let damaged =
            |problem: &str| IdentityError::Damaged { path: self.root.clone(), problem: problem.to_owned() };
        let path = self.root.join(IDENTITY);
        let read = |path: &Path, limit| match files::read(path, limit) {
            Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidData) => {
                Err(damaged(&format!("{} {error}", path.display())))
            }
            other => other.map_err(|error| DiskError::io("read", path)(error).into()),
        };
        let Some(bytes) = read(&path, MAX_IDENTITY_BYTES)? else { return Ok(None) };
        let file = unseal(&bytes).map_err(damaged)?;
        let roots = read(&self.root.join(TRUST_ROOT), MAX_CHAIN_BYTES)?.unwrap_or_default();
        let chain = Chain::read(&roots).map_err(|error| damaged(&runtime::log::chain(&error)))?;
        if chain.first_fingerprint().to_string() != file.trust_root_sha256 {
            return Err(damaged("trust-root does not begin with the root the agent joined with"));
        }
        let trust = LiveTrust::new(chain);
        let agent = AgentId::new(&file.agent).map_err(|_| damaged("the agent's id is not one"))?;
        if FleetId::new(&file.fleet).ok() != Some(trust.fleet()) {
            return Err(damaged("trust-root is for another fleet"));
        }
        let assignment = read(&self.root.join(ASSIGNMENT), MAX_ENVELOPE_BYTES)?.map(Bytes::from);
        let access = match read(&self.root.join(CLAIMS), MAX_CLAIMS_BYTES)? {
            Some(bytes) => Some(self.access(&bytes).ok_or_else(|| damaged("claims.json cannot be used"))?),
            None => None,
        };
        let tls = self.broker(file.tls_first);
        Ok(Some(Enrolment { agent, trust, servers: file.servers, tls, assignment, access }))
    }

    /// Keeps how to verify the NATS servers, from the join token or the answer to the join.
    ///
    /// # Errors
    /// [`IdentityError::Disk`] if it cannot be written.
    pub fn keep_broker(&self, broker: &BrokerTrust) -> Result<BrokerTls, IdentityError> {
        let path = self.root.join(BROKER_CA);
        if broker.cas.is_empty() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(DiskError::io("remove", &path)(error).into());
                }
                _ => {}
            }
        } else {
            let pem = runtime::tls::pem_of(&broker.cas);
            let written = files::replace(&path, pem.as_bytes(), files::PUBLIC, || {});
            written.map_err(DiskError::io("write", &path))?;
        }
        Ok(self.broker(broker.tls_first))
    }

    /// Keeps what was learnt of the NATS servers after the join, unless something newer is kept already: the CAs count
    /// from the next connection on, the servers from the next start. True if anything is new but its date.
    ///
    /// # Errors
    /// [`IdentityError`] if it cannot be written, or the identity cannot be read.
    pub fn keep_learnt(&self, broker: &Broker) -> Result<bool, IdentityError> {
        let path = self.root.join(IDENTITY);
        let bytes = files::read(&path, MAX_IDENTITY_BYTES).map_err(DiskError::io("read", &path))?;
        let damaged =
            |problem: &str| IdentityError::Damaged { path: self.root.clone(), problem: problem.to_owned() };
        let before = unseal(&bytes.unwrap_or_default()).map_err(damaged)?;
        if broker.issued_at.0 <= before.broker_issued_at_ms {
            return Ok(false);
        }
        let ca = self.root.join(BROKER_CA);
        let known = files::read(&ca, MAX_CA_FILE_BYTES).map_err(DiskError::io("read", &ca))?;
        let wanted = Some(runtime::tls::pem_of(&broker.trust.cas).into_bytes()).filter(|pem| !pem.is_empty());
        let (servers, tls_first) = (broker.servers.clone(), broker.trust.tls_first);
        let new = (&known, &before.servers, before.tls_first) != (&wanted, &servers, tls_first);
        if known != wanted {
            let _tls = self.keep_broker(&broker.trust)?;
        }
        let broker_issued_at_ms = broker.issued_at.0;
        let file = IdentityFile { servers, tls_first, broker_issued_at_ms, ..before };
        let json = serde_json::to_vec_pretty(&file).expect("invariant: texts have a JSON form");
        let written = files::replace(&path, &files::seal(&json), files::PUBLIC, || {});
        written.map_err(DiskError::io("write", &path))?;
        Ok(new)
    }

    fn broker(&self, first: bool) -> BrokerTls {
        let ca = Some(self.root.join(BROKER_CA)).filter(|path| path.exists());
        BrokerTls { ca, identity: None, first }
    }

    /// Keeps what a request to join was made with, for the bundle that comes back.
    ///
    /// # Errors
    /// [`IdentityError::Disk`] if it cannot be written.
    pub fn keep_requested(&self, pinned: &Pinned) -> Result<(), IdentityError> {
        let file = RequestedFile {
            fleet: pinned.fleet.to_string(),
            servers: pinned.servers.clone(),
            trust_root_sha256: pinned.trust_root.to_string(),
        };
        let json = serde_json::to_vec_pretty(&file).expect("invariant: texts have a JSON form");
        let path = self.root.join(REQUESTED);
        let written = files::replace(&path, &files::seal(&json), files::PUBLIC, || {});
        Ok(written.map_err(DiskError::io("write", &path))?)
    }

    /// What the last request was made with; `None` if there was none.
    ///
    /// # Errors
    /// [`IdentityError::Damaged`] if it cannot be read any more.
    pub fn requested(&self) -> Result<Option<Pinned>, IdentityError> {
        let path = self.root.join(REQUESTED);
        let bytes = files::read(&path, MAX_IDENTITY_BYTES).map_err(DiskError::io("read", &path))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let read = || {
            let file: RequestedFile = serde_json::from_slice(files::unseal(&bytes)?).ok()?;
            let mut trust_root = Digest::default();
            hex::decode_to_slice(file.trust_root_sha256, &mut trust_root.0).ok()?;
            Some(Pinned { fleet: FleetId::new(file.fleet).ok()?, trust_root, servers: file.servers })
        };
        let problem = || format!("{} cannot be used", path.display());
        read().map(Some).ok_or_else(|| IdentityError::Damaged { path: self.root.clone(), problem: problem() })
    }

    fn access(&self, bytes: &[u8]) -> Option<Access> {
        let file: ClaimsFile = serde_json::from_slice(files::unseal(bytes)?).ok()?;
        Access::new(self.key().ok()?, &Claims { user: file.user, door: file.door }).ok()
    }

    /// Keeps what the agent learnt when it joined.
    ///
    /// # Errors
    /// [`IdentityError::Disk`] if it cannot be written; the agent has then not joined as far as it knows.
    pub fn save(&self, enrolment: &Enrolment) -> Result<(), IdentityError> {
        let chain = enrolment.trust.chain();
        let file = IdentityFile {
            agent: enrolment.agent.to_string(),
            fleet: enrolment.trust.fleet().to_string(),
            servers: enrolment.servers.clone(),
            trust_root_sha256: chain.first_fingerprint().to_string(),
            tls_first: enrolment.tls.first,
            broker_issued_at_ms: 0,
        };
        let json = serde_json::to_vec_pretty(&file).expect("invariant: texts have a JSON form");
        let write = |name: &str, bytes: &[u8]| {
            let path = self.root.join(name);
            files::replace(&path, bytes, files::PUBLIC, || {}).map_err(DiskError::io("write", &path))
        };
        write(TRUST_ROOT, &chain.encode())?;
        if let Some(assignment) = &enrolment.assignment {
            write(ASSIGNMENT, assignment)?;
        }
        if let Some(access) = &enrolment.access {
            save_claims(&self.root, &access.claims())?;
        }
        // Last: its presence means that the rest is there.
        Ok(write(IDENTITY, &files::seal(&json))?)
    }
}

fn unseal(bytes: &[u8]) -> Result<IdentityFile, &'static str> {
    let json = files::unseal(bytes).ok_or("the checksum of identity.json does not hold")?;
    serde_json::from_slice(json).map_err(|_| "identity.json is not an identity")
}

/// Keeps new claims in a state directory.
///
/// # Errors
/// [`IdentityError::Disk`] if they cannot be written; the old ones are there still.
pub fn save_claims(root: &Path, claims: &Claims) -> Result<(), IdentityError> {
    let file = ClaimsFile { user: claims.user.clone(), door: claims.door.clone() };
    let json = serde_json::to_vec_pretty(&file).expect("invariant: texts have a JSON form");
    let path = root.join(CLAIMS);
    let written = files::replace(&path, &files::seal(&json), files::SECRET, || {});
    Ok(written.map_err(DiskError::io("write", &path))?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use domain::Timestamp;

    use super::*;

    fn enrolment() -> Enrolment {
        let trust = crate::test_fleet::trust();
        let servers = vec!["nats://127.0.0.1:4222".to_owned()];
        Enrolment {
            agent: AgentId::new("a").unwrap(),
            trust,
            servers,
            tls: BrokerTls { first: true, ..BrokerTls::default() },
            assignment: Some(Bytes::from_static(b"x")),
            access: None,
        }
    }

    #[test]
    fn a_second_agent_is_refused_and_the_first_may_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = StateDir::lock(dir.path()).unwrap();
        assert!(StateDir::is_locked(dir.path()));
        assert!(matches!(StateDir::lock(dir.path()), Err(IdentityError::Locked { .. })));
        drop(first);
        assert!(!StateDir::is_locked(dir.path()));
        StateDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::lock(dir.path()).unwrap();
        let key = state.key().unwrap();
        assert_eq!(state.key().unwrap().public_key(), key.public_key());
        let path = dir.path().join(KEY);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(state.key().unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn an_identity_survives_and_damage_is_noticed_and_explained() {
        let dir = tempfile::tempdir().unwrap();
        let state = StateDir::lock(dir.path()).unwrap();
        assert!(state.enrolment().unwrap().is_none());
        state.save(&enrolment()).unwrap();
        let read = state.enrolment().unwrap().unwrap();
        assert_eq!(
            (read.agent.as_str(), read.servers.len(), read.trust.chain()),
            ("a", 1, enrolment().trust.chain())
        );
        assert_eq!(read.tls, enrolment().tls);
        let broker = BrokerTrust { cas: vec![vec![1, 2], vec![3]], tls_first: true };
        let tls = state.keep_broker(&broker).unwrap();
        assert_eq!(state.enrolment().unwrap().unwrap().tls, tls);
        let kept = runtime::tls::certificates(&tls.ca.unwrap()).unwrap();
        assert_eq!(kept.iter().map(|ca| ca.to_vec()).collect::<Vec<_>>(), broker.cas);
        assert_eq!(state.keep_broker(&BrokerTrust::default()).unwrap(), BrokerTls::default());
        state.save(&enrolment()).unwrap();
        let learnt = |at: u64, server: &str, ca: u8| Broker {
            fleet: FleetId::new("f").unwrap(),
            issued_at: Timestamp(at),
            servers: vec![server.to_owned()],
            trust: BrokerTrust { cas: vec![vec![ca]], tls_first: false },
        };
        // What is newer counts, what is older or of the same time does not.
        for (at, ca, new) in [(5, 1, true), (6, 1, false), (6, 2, false), (5, 2, false), (7, 2, true)] {
            assert_eq!(state.keep_learnt(&learnt(at, "tls://b:1", ca)).unwrap(), new, "{at} {ca}");
        }
        let read = state.enrolment().unwrap().unwrap();
        assert_eq!((read.servers, read.tls.first), (vec!["tls://b:1".to_owned()], false));
        let kept = runtime::tls::certificates(&read.tls.ca.unwrap()).unwrap();
        assert_eq!(kept[0].to_vec(), vec![2]);
        assert_eq!(state.requested().unwrap(), None);
        let fleet = FleetId::new("f").unwrap();
        let pinned = Pinned { fleet, trust_root: Digest([7; 32]), servers: vec!["tls://a:1".into()] };
        state.keep_requested(&pinned).unwrap();
        assert_eq!(state.requested().unwrap(), Some(pinned));
        fs::write(dir.path().join(REQUESTED), b"other").unwrap();
        assert!(matches!(state.requested(), Err(IdentityError::Damaged { .. })));
        let path = dir.path().join(IDENTITY);
        let good = fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut flipped = good.clone();
            flipped[at] ^= 4;
            fs::write(&path, &flipped).unwrap();
            assert!(state.enrolment().unwrap_err().to_string().contains("--join"), "byte {at}");
        }
        fs::write(&path, &good).unwrap();
        fs::write(dir.path().join(TRUST_ROOT), b"other").unwrap();
        assert!(matches!(state.enrolment(), Err(IdentityError::Damaged { .. })));
    }
}
