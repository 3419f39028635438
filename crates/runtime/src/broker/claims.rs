//! Accounts as the broker sees them, computed from public keys: whoever computes them comes to the same.

use std::collections::BTreeMap;

use domain::{FleetId, Timestamp};
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};
use wire::access::{Account, Role, permissions, shares};
use wire::heartbeat::MAX_HEARTBEAT_BYTES;
use wire::jwt::{self, Scope};

/// Subscriptions of an agent's connection: inbox, assignment and group, and those of the other group while it moves.
const AGENT_SUBSCRIPTIONS: u32 = 8;
/// Subscriptions of whoever joins: the inbox.
const JOIN_SUBSCRIPTIONS: u32 = 2;
/// Largest message of an agent: a heartbeat and its headers.
const AGENT_PAYLOAD: usize = MAX_HEARTBEAT_BYTES + 4096;
/// Largest message of whoever joins: a request and its headers.
const JOIN_PAYLOAD: usize = wire::join::MAX_REQUEST_BYTES + 1024;

/// Public keys of the operator and of the system account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OperatorKeys {
    /// Of the operator.
    pub operator: String,
    /// Of the key that signs accounts in its place.
    pub signing: String,
    /// Of the system account.
    pub system: String,
    /// Of the key that signs users of the system account.
    pub system_signing: String,
    /// When they were made, milliseconds since the Unix epoch.
    pub made_at_ms: u64,
}

/// Public keys of the accounts of a fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FleetKeys {
    /// The fleet.
    pub fleet: String,
    /// Of the account of services and streams.
    pub account: String,
    /// Of the account of agents.
    pub agents: String,
    /// Of the keys that sign users, by account and role.
    pub scopes: BTreeMap<String, String>,
    /// When they were made, milliseconds since the Unix epoch.
    pub made_at_ms: u64,
}

/// Name of the key that signs users of a role in an account.
pub(super) fn scope_name(account: Account, role: Role) -> String {
    format!("{}-{role}", account.name())
}

/// All kinds of users that a fleet's accounts have, but for those that are minted for one occasion.
pub(super) fn scopes() -> impl Iterator<Item = (Account, Role)> {
    let roles = Role::ALL.into_iter().filter(|role| *role != Role::Bench);
    roles.flat_map(|role| {
        [Account::Fleet, Account::Agents]
            .into_iter()
            .filter_map(move |account| role.is_in(account).then_some((account, role)))
    })
}

impl OperatorKeys {
    /// The operator's own claims.
    pub(super) fn operator_claims(&self, operator: &KeyPair) -> Result<String, nkeys::error::Error> {
        let signing = [self.signing.clone()];
        jwt::operator(operator, "muster", (&signing, &self.system), Timestamp(self.made_at_ms))
    }

    /// The claims of the system account.
    pub(super) fn system_claims(&self, signing: &KeyPair) -> Result<String, nkeys::error::Error> {
        let account = jwt::Account {
            key: self.system.clone(),
            name: "system".to_owned(),
            jetstream: false,
            exports: Vec::new(),
            imports: None,
            scopes: Vec::new(),
            signing: vec![self.system_signing.clone()],
            revoked: BTreeMap::new(),
        };
        account.sign(signing, Timestamp(self.made_at_ms))
    }
}

impl FleetKeys {
    /// Public key of one of the accounts.
    #[must_use]
    pub fn account(&self, account: Account) -> Option<&str> {
        match account {
            Account::Fleet => Some(&self.account),
            Account::Agents => Some(&self.agents),
            Account::System => None,
        }
    }

    /// The claims of both accounts as of `now`, the agents' with the users that count no more.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn claims(
        &self,
        signing: &KeyPair,
        revoked: BTreeMap<String, Timestamp>,
        now: Timestamp,
    ) -> Result<[(String, String); 2], nkeys::error::Error> {
        let fleet = jwt::Account {
            key: self.account.clone(),
            name: format!("fleet {}", self.fleet),
            jetstream: true,
            exports: shares(),
            imports: None,
            scopes: self.scopes_of(Account::Fleet),
            signing: Vec::new(),
            revoked: BTreeMap::new(),
        };
        let agents = jwt::Account {
            key: self.agents.clone(),
            name: format!("agents of {}", self.fleet),
            jetstream: false,
            exports: Vec::new(),
            imports: Some((self.account.clone(), shares())),
            scopes: self.scopes_of(Account::Agents),
            signing: Vec::new(),
            revoked,
        };
        let (of_fleet, of_agents) = (fleet.sign(signing, now)?, agents.sign(signing, now)?);
        Ok([(fleet.key, of_fleet), (agents.key, of_agents)])
    }

    fn scopes_of(&self, account: Account) -> Vec<Scope> {
        let scope = |role: Role| {
            let key = self.scopes.get(&scope_name(account, role))?.clone();
            let (subscriptions, payload) = match role {
                Role::Agent => (Some(AGENT_SUBSCRIPTIONS), Some(AGENT_PAYLOAD)),
                Role::Join => (Some(JOIN_SUBSCRIPTIONS), Some(JOIN_PAYLOAD)),
                Role::Policy
                | Role::Content
                | Role::Presence
                | Role::Identity
                | Role::Command
                | Role::Gateway
                | Role::Site
                | Role::Backup
                | Role::Bench => (None, None),
            };
            let permissions = permissions(role, account);
            Some(Scope { key, role: role.name().to_owned(), permissions, subscriptions, payload })
        };
        scopes().filter(|(of, _)| *of == account).filter_map(|(_, role)| scope(role)).collect()
    }

    /// The fleet, as the id that it is.
    pub(super) fn id(&self) -> Option<FleetId> {
        FleetId::new(&self.fleet).ok()
    }
}
