//! Claims for the broker: what an agent shows when it connects, signed with keys that make agents and nothing else.

use std::sync::Arc;
use std::time::Duration;

use domain::registry::Registration;
use domain::{AgentId, Span, Timestamp};
use nkeys::KeyPair;
use runtime::broker::RoleFiles;
use wire::jwt::{User, Validity};

/// Shortest time for which claims hold: an agent needs a part of it to ask for new ones.
const MIN_TTL: Duration = Duration::from_secs(5);
/// Longest time: a machine that was stolen and not reported is let in for no longer.
const MAX_TTL: Duration = Duration::from_secs(30 * 86_400);

pub(crate) fn ttl(text: &str) -> Result<Duration, String> {
    let ttl = runtime::config::duration(text)?;
    match (MIN_TTL..=MAX_TTL).contains(&ttl) {
        true => Ok(ttl),
        false => Err("must be between 5s and 30d".to_owned()),
    }
}

/// Makes claims for agents.
pub(crate) struct Issuer {
    agent: Arc<KeyPair>,
    join: Arc<KeyPair>,
    /// Public key of the account of the agents.
    account: String,
    ttl: Span,
}

/// The claims of one agent.
#[derive(Default)]
pub(crate) struct Claims {
    /// For all that an agent does. They expire.
    pub(crate) user: String,
    /// To ask for new ones. They do not expire.
    pub(crate) door: String,
}

impl Issuer {
    /// `None` if the role has no keys for it.
    pub(crate) fn new(role: &RoleFiles, ttl: Duration) -> Option<Self> {
        let (agent, join) = (role.signers.agent.clone()?, role.signers.join.clone()?);
        Some(Self { agent, join, account: role.keys.agents.clone(), ttl: ttl.into() })
    }

    /// Claims for an agent as it is registered.
    pub(crate) fn claims(&self, agent: &AgentId, registration: &Registration, now: Timestamp) -> Claims {
        let user = User {
            key: registration.key.to_string(),
            name: agent.to_string(),
            account: self.account.clone(),
            group: Some(registration.group.clone()),
            permissions: None,
        };
        let door = User { group: None, ..user.clone() };
        let sign = |user: &User, signer, expires_at| {
            let validity = Validity { issued_at: now, expires_at };
            user.sign(signer, validity).expect("invariant: signers hold private keys")
        };
        let expires_at = Some(now + self.ttl);
        Claims { user: sign(&user, &self.agent, expires_at), door: sign(&door, &self.join, None) }
    }
}
