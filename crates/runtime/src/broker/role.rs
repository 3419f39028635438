//! What one service is given: its credentials, and the keys it signs with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use domain::FleetId;
use nkeys::KeyPair;
use wire::access::{Account, Role};

use super::claims::FleetKeys;
use super::files;
use crate::nats::Login;

/// Names of files and folders.
pub(super) mod names {
    use wire::access::Account;

    pub(crate) const KEYS: &str = "keys";
    pub(crate) const ROLES: &str = "roles";
    pub(crate) const FLEET_KEYS: &str = "accounts.json";
    pub(crate) const AGENT_SIGNER: &str = "agent-signing.nk";
    pub(crate) const JOIN_SIGNER: &str = "join-signing.nk";
    pub(crate) const ACCOUNT_SIGNER: &str = "account-signing.nk";

    pub(crate) fn credentials(account: Account) -> String {
        format!("{}.creds", account.name())
    }
}

/// Why the credentials of a service cannot be used.
#[derive(Debug, thiserror::Error)]
#[error(
    "the broker's credential {} of service {role} cannot be used; `musterd init` makes it, and --nats-creds names the directory",
    path.display()
)]
pub struct RoleError {
    role: Role,
    path: PathBuf,
    source: io::Error,
}

impl RoleError {
    /// The file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.path
    }
}

/// Keys that make credentials for others. Each makes users of one kind only; that of accounts decides who counts.
#[derive(Clone, Default)]
pub struct Signers {
    /// Makes credentials for agents that have joined.
    pub agent: Option<Arc<KeyPair>>,
    /// Makes credentials with which one may ask to be let in.
    pub join: Option<Arc<KeyPair>>,
    /// Signs accounts.
    pub account: Option<Arc<KeyPair>>,
}

/// All of it. No `Debug`: it is made of secrets.
#[derive(Clone)]
pub struct RoleFiles {
    /// Public keys of the fleet's accounts.
    pub keys: FleetKeys,
    /// Login in the account of the fleet.
    pub fleet: Login,
    /// Login in the account of the agents, of services that talk to them.
    pub agents: Option<Login>,
    /// Login in the system account, of the service that says who counts.
    pub system: Option<Login>,
    /// Keys that make credentials.
    pub signers: Signers,
}

/// The credentials for the broker are of another fleet.
#[derive(Debug, thiserror::Error)]
#[error(
    "the credentials for the broker are of fleet {found:?}, not {wanted:?}: give those of that fleet, or --fleet {found}"
)]
pub struct OtherFleet {
    /// Whose credentials they are.
    found: String,
    /// The fleet that is served.
    wanted: FleetId,
}

impl RoleFiles {
    /// Makes sure that they are of this fleet.
    ///
    /// # Errors
    /// [`OtherFleet`].
    pub fn of_fleet(self, wanted: &FleetId) -> Result<Self, OtherFleet> {
        match self.keys.fleet == wanted.as_str() {
            true => Ok(self),
            false => Err(OtherFleet { found: self.keys.fleet, wanted: wanted.clone() }),
        }
    }

    /// Reads no more than the login in the account of the fleet, from a folder that may hold nothing else.
    ///
    /// # Errors
    /// [`RoleError`] names the file.
    pub fn fleet_login(dir: &Path, role: Role) -> Result<Login, RoleError> {
        let path = dir.join(names::credentials(Account::Fleet));
        read_login(&path).map_err(|source| RoleError { role, path, source })
    }

    /// Reads what is there for `role`: `dir` is what a fleet's directory of `musterd init` has for this role, or
    /// that directory.
    ///
    /// # Errors
    /// [`RoleError`] names the file that is missing, readable by others, or not what it should be.
    pub fn load(dir: &Path, role: Role) -> Result<Self, RoleError> {
        let own = dir.join(names::ROLES).join(role.name());
        let dir = if own.is_dir() { own } else { dir.to_owned() };
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| RoleError { role, path, source }
        };
        let path = dir.join(names::FLEET_KEYS);
        let keys = files::read(&path).and_then(|text| serde_json::from_str(&text).map_err(io::Error::other));
        let keys = keys.map_err(failed(&path))?;
        let login = |account: Account| {
            let path = dir.join(names::credentials(account));
            read_login(&path).map_err(failed(&path))
        };
        let optional = |account| role.is_in(account).then(|| login(account)).transpose();
        let signer = |name: &str| {
            let path = dir.join(name);
            files::read_key(&path).map(Arc::new).map_err(failed(&path))
        };
        let signs = |roles: &[Role], name: &str| roles.contains(&role).then(|| signer(name)).transpose();
        Ok(Self {
            keys,
            fleet: login(Account::Fleet)?,
            agents: optional(Account::Agents)?,
            system: optional(Account::System)?,
            signers: Signers {
                agent: signs(&[Role::Identity], names::AGENT_SIGNER)?,
                join: signs(&[Role::Identity, Role::Policy], names::JOIN_SIGNER)?,
                account: signs(&[Role::Identity], names::ACCOUNT_SIGNER)?,
            },
        })
    }
}

fn read_login(path: &Path) -> io::Result<Login> {
    Login::read(&files::read_secret(path)?).ok_or_else(|| io::Error::other("it is no credentials file"))
}
