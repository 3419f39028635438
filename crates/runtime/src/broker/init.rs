//! Making the operator and the accounts of a fleet, once.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::path::{Path, PathBuf};

use domain::{FleetId, Timestamp};
use nkeys::KeyPair;
use wire::access::{Account, Permissions, Role, permissions};
use wire::jwt::{User, Validity, credentials_file};

use super::claims::{FleetKeys, OperatorKeys, scope_name, scopes};
use super::files;
use super::role::names;

const OPERATOR: &str = "operator";
const FLEETS: &str = "fleets";
const CONFIG: &str = "nats.conf";
const OPERATOR_KEYS: &str = "operator.json";
const OPERATOR_KEY: &str = "operator.nk";
const SIGNING_KEY: &str = "signing.nk";
const SYSTEM_KEY: &str = "system.nk";
const SYSTEM_SIGNING_KEY: &str = "system-signing.nk";

/// Why the directory cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// A part of it cannot be made.
    #[error("cannot make {}", path.display())]
    Make {
        /// The part.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A part of it is there and lacks something.
    #[error(
        "{} is there, but {} in it cannot be used: it was copied in part or changed. Restore it from a backup, or move {} away to start anew (then every service needs its new credentials, and every agent must join again)",
        part.display(), file.display(), part.display()
    )]
    HalfMade {
        /// The part.
        part: PathBuf,
        /// What is missing or wrong.
        file: PathBuf,
        /// What is wrong with it.
        source: io::Error,
    },
    /// A key cannot sign.
    #[error("a key cannot sign")]
    Sign(#[from] nkeys::error::Error),
}

/// Where the accounts of a fleet are, with the credentials of its services.
#[must_use]
pub fn fleet_dir(dir: &Path, fleet: &FleetId) -> PathBuf {
    dir.join(FLEETS).join(fleet.as_str())
}

/// What [`init`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Made {
    /// Whether the operator was made now.
    pub operator: bool,
    /// Whether the fleet's accounts were made now.
    pub fleet: bool,
}

/// Makes the operator, if there is none in `dir`, and the accounts of `fleet`, if there are none. What is there is
/// checked and left as it is. Afterwards `nats.conf` speaks of all fleets there are.
///
/// # Errors
/// [`InitError`] with what is wrong and the way out.
pub fn init(dir: &Path, fleet: &FleetId) -> Result<Made, InitError> {
    let operator_dir = dir.join(OPERATOR);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| InitError::Make { path, source }
    };
    let operator = files::make(&operator_dir, make_operator).map_err(failed(&operator_dir))?;
    let (keys, secrets) = read_operator(dir)?;
    let place = fleet_dir(dir, fleet);
    let fill = |draft: &Path| make_fleet(draft, fleet, (&keys, &secrets));
    let made = files::make(&place, fill).map_err(failed(&place))?;
    check_fleet(&place, fleet)?;
    let config = dir.join(CONFIG);
    let text = server_config(dir, Path::new("accounts"))?;
    files::replace(&config, &text).map_err(failed(&config))?;
    Ok(Made { operator, fleet: made })
}

/// Keys of the operator that are needed when something is made.
struct OperatorSecrets {
    signing: KeyPair,
    system_signing: KeyPair,
    operator: KeyPair,
}

fn make_operator(draft: &Path) -> io::Result<()> {
    let (operator, signing) = (KeyPair::new_operator(), KeyPair::new_operator());
    let (system, system_signing) = (KeyPair::new_account(), KeyPair::new_account());
    let keys = OperatorKeys {
        operator: operator.public_key(),
        signing: signing.public_key(),
        system: system.public_key(),
        system_signing: system_signing.public_key(),
        made_at_ms: crate::clock::now().0,
    };
    let secrets = [
        (OPERATOR_KEY, &operator),
        (SIGNING_KEY, &signing),
        (SYSTEM_KEY, &system),
        (SYSTEM_SIGNING_KEY, &system_signing),
    ];
    for (name, key) in secrets {
        files::write_key(&draft.join(name), key)?;
    }
    files::replace(&draft.join(OPERATOR_KEYS), &json(&keys))
}

fn json(keys: &impl serde::Serialize) -> String {
    let text = serde_json::to_string_pretty(keys).expect("invariant: keys are plain JSON");
    text + "\n"
}

fn read_operator(dir: &Path) -> Result<(OperatorKeys, OperatorSecrets), InitError> {
    let part = dir.join(OPERATOR);
    let keys: OperatorKeys = read_json(&part, OPERATOR_KEYS)?;
    let secret = |name: &str, public: &str| read_key(&part, &part.join(name), public);
    let secrets = OperatorSecrets {
        signing: secret(SIGNING_KEY, &keys.signing)?,
        system_signing: secret(SYSTEM_SIGNING_KEY, &keys.system_signing)?,
        operator: secret(OPERATOR_KEY, &keys.operator)?,
    };
    Ok((keys, secrets))
}

fn read_json<T: serde::de::DeserializeOwned>(part: &Path, name: &str) -> Result<T, InitError> {
    let file = part.join(name);
    let read = files::read(&file).and_then(|text| serde_json::from_str(&text).map_err(io::Error::other));
    read.map_err(|source| InitError::HalfMade { part: part.to_owned(), file, source })
}

fn read_key(part: &Path, file: &Path, public: &str) -> Result<KeyPair, InitError> {
    let other = || io::Error::other("it is another key than the one that was made");
    let read = files::read_key(file).and_then(|key| match key.public_key() == public {
        true => Ok(key),
        false => Err(other()),
    });
    read.map_err(|source| InitError::HalfMade { part: part.to_owned(), file: file.to_owned(), source })
}

fn make_fleet(
    draft: &Path,
    fleet: &FleetId,
    (operator, secrets): (&OperatorKeys, &OperatorSecrets),
) -> io::Result<()> {
    let now = crate::clock::now();
    let (account, agents) = (KeyPair::new_account(), KeyPair::new_account());
    let signers: BTreeMap<String, KeyPair> =
        scopes().map(|(account, role)| (scope_name(account, role), KeyPair::new_account())).collect();
    let keys = FleetKeys {
        fleet: fleet.to_string(),
        account: account.public_key(),
        agents: agents.public_key(),
        scopes: signers.iter().map(|(name, key)| (name.clone(), key.public_key())).collect(),
        made_at_ms: now.0,
    };
    let folder = draft.join(names::KEYS);
    files::make_dir(&folder)?;
    files::write_key(&folder.join("account.nk"), &account)?;
    files::write_key(&folder.join("agents.nk"), &agents)?;
    for (name, key) in &signers {
        files::write_key(&folder.join(name).with_extension("nk"), key)?;
    }
    for role in Role::SERVICES {
        let folder = draft.join(names::ROLES).join(role.name());
        files::make_dir(&folder)?;
        files::replace(&folder.join(names::FLEET_KEYS), &json(&keys))?;
        for account in Account::ALL.into_iter().filter(|account| role.is_in(*account)) {
            let (signer, key) = match account {
                Account::System => (&secrets.system_signing, operator.system.as_str()),
                Account::Fleet => (&signers[&scope_name(account, role)], keys.account.as_str()),
                Account::Agents => (&signers[&scope_name(account, role)], keys.agents.as_str()),
            };
            let own = (account == Account::System).then(|| permissions(role, account));
            let text = user(role.name(), (signer, key), own, now).map_err(io::Error::other)?;
            files::write_secret(&folder.join(names::credentials(account)), &text)?;
        }
        let held: &[(&str, &KeyPair)] = match role {
            Role::Identity => &[
                (names::AGENT_SIGNER, &signers[&scope_name(Account::Agents, Role::Agent)]),
                (names::JOIN_SIGNER, &signers[&scope_name(Account::Agents, Role::Join)]),
                (names::ACCOUNT_SIGNER, &secrets.signing),
            ],
            Role::Policy => &[(names::JOIN_SIGNER, &signers[&scope_name(Account::Agents, Role::Join)])],
            _ => &[],
        };
        for (name, key) in held {
            files::write_key(&folder.join(name), key)?;
        }
    }
    files::replace(&draft.join(names::FLEET_KEYS), &json(&keys))
}

/// A credentials file of a new user without an end.
fn user(
    name: &str,
    (signer, account): (&KeyPair, &str),
    permissions: Option<Permissions>,
    now: Timestamp,
) -> Result<String, nkeys::error::Error> {
    let key = KeyPair::new_user();
    let (name, account) = (name.to_owned(), account.to_owned());
    let user = User { key: key.public_key(), name, account, group: None, permissions };
    Ok(credentials_file(&user.sign(signer, Validity::from(now))?, &key.seed()?))
}

/// Refuses a fleet's directory that lacks something.
fn check_fleet(part: &Path, fleet: &FleetId) -> Result<FleetKeys, InitError> {
    let keys: FleetKeys = read_json(part, names::FLEET_KEYS)?;
    let half_made = |file: PathBuf, source| InitError::HalfMade { part: part.to_owned(), file, source };
    if keys.id().as_ref() != Some(fleet) {
        let problem = io::Error::other(format!("it is of fleet {:?}", keys.fleet));
        return Err(half_made(part.join(names::FLEET_KEYS), problem));
    }
    let folder = part.join(names::KEYS);
    read_key(part, &folder.join("account.nk"), &keys.account)?;
    read_key(part, &folder.join("agents.nk"), &keys.agents)?;
    for (account, role) in scopes() {
        let name = scope_name(account, role);
        let public = keys.scopes.get(&name).map_or("", String::as_str);
        read_key(part, &folder.join(&name).with_extension("nk"), public)?;
    }
    for role in Role::SERVICES {
        super::RoleFiles::load(part, role).map_err(|error| {
            let file = error.file().to_owned();
            half_made(file, io::Error::other(error))
        })?;
    }
    Ok(keys)
}

/// What a nats-server needs to serve the fleets of `dir`: to be included in its configuration. It keeps accounts in
/// `accounts`, where changes outlive restarts.
///
/// # Errors
/// [`InitError`] if something in `dir` is missing.
pub fn server_config(dir: &Path, accounts: &Path) -> Result<String, InitError> {
    let (operator, secrets) = read_operator(dir)?;
    let mut preload = vec![(operator.system.clone(), operator.system_claims(&secrets.signing)?)];
    let fleets = dir.join(FLEETS);
    let listed = std::fs::read_dir(&fleets).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let listed = listed.map_err(|source| InitError::Make { path: fleets.clone(), source })?;
    let mut ids: Vec<FleetId> =
        listed.iter().filter_map(|entry| FleetId::new(entry.file_name().to_string_lossy()).ok()).collect();
    ids.sort();
    for fleet in ids {
        let keys = check_fleet(&fleets.join(fleet.as_str()), &fleet)?;
        let made_at = Timestamp(keys.made_at_ms);
        preload.extend(keys.claims(&secrets.signing, BTreeMap::new(), made_at)?);
    }
    let operator_claims = operator.operator_claims(&secrets.operator)?;
    let mut text = format!(
        "# Who may do what: made by `musterd init`, no secret. Include it in the configuration of every nats-server.\n\
         operator: {operator_claims:?}\n\
         system_account: {:?}\n\
         resolver {{\n  type: full\n  dir: {:?}\n  allow_delete: false\n  interval: \"2m\"\n}}\n\
         resolver_preload {{\n",
        operator.system,
        accounts.display().to_string(),
    );
    for (key, claims) in preload {
        writeln!(text, "  {key}: {claims:?}").expect("invariant: a String takes all");
    }
    text.push_str("}\n");
    Ok(text)
}

/// A credentials file for a user of `account` that may do as `permissions` says, made with the account's own key:
/// for tests and benchmarks that stand where no service may.
///
/// # Errors
/// [`InitError`] if the keys of the fleet are not in `dir`.
pub fn mint(
    dir: &Path,
    fleet: &FleetId,
    account: Account,
    permissions: Permissions,
) -> Result<String, InitError> {
    let part = fleet_dir(dir, fleet);
    let keys = check_fleet(&part, fleet)?;
    let (signer, public) = match account {
        Account::Fleet => (part.join(names::KEYS).join("account.nk"), keys.account),
        Account::Agents => (part.join(names::KEYS).join("agents.nk"), keys.agents),
        Account::System => {
            let (operator, _) = read_operator(dir)?;
            (dir.join(OPERATOR).join(SYSTEM_SIGNING_KEY), operator.system)
        }
    };
    let signer = files::read_key(&signer).map_err(|source| InitError::HalfMade {
        part,
        file: signer.clone(),
        source,
    })?;
    Ok(user("minted", (&signer, &public), Some(permissions), crate::clock::now())?)
}
