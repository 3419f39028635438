//! What a fleet's agents trust, and the join tokens that carry it: one place for every service that makes
//! tokens (`identity` for `token create`, `policy` for manifests), so that their tokens are the same.

use std::sync::Arc;

use bytes::Bytes;
use domain::catalog::Token;
use domain::enrol::Scope;
use domain::token::Terms;
use domain::{Digest, FleetId, Span, Timestamp, TokenId};
use nkeys::{KeyPair, KeyPairType};
use wire::DecodeError;
use wire::join::{BrokerTrust, Door, JoinToken, MAX_SERVERS, SECRET_BYTES, SEED_BYTES};
use wire::jwt::{User, Validity};

use crate::ids::{random_id, random_secret};
use crate::roots::Roots;
use crate::tls::PemError;

/// Longest server URL in a join token, in bytes: eight of them leave the token within what
/// [`wire::join::MAX_TOKEN_CHARS`] lets an agent read.
pub const MAX_SERVER_BYTES: usize = 255;

/// How long after its end the holder of a token is still let in to be told that it has ended.
const DOOR_GRACE: Span = Span::from_secs(7 * 86_400);

/// Why join tokens cannot name these servers.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// None, or more than a token holds.
    #[error("join tokens name 1 to {MAX_SERVERS} NATS servers, not {0}: give fewer with --agent-servers")]
    Number(usize),
    /// Too long for a token.
    #[error("the server address {0:?}… is longer than {MAX_SERVER_BYTES} bytes")]
    Length(String),
    /// The file of their CAs cannot be used.
    #[error("the CAs for agents cannot be used")]
    Pem(#[from] PemError),
    /// A token does not hold the CAs.
    #[error("join tokens cannot name these CAs: give fewer or smaller ones with --agent-ca-file")]
    Ca(#[source] DecodeError),
}

/// A token would tell its agent to trust nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the fleet has no trust root yet, which join tokens carry the fingerprint of: give identity --root-key, or publish one (`muster key --help`)"
)]
pub struct NoRoot;

/// The trust roots of a fleet and where its agents find the broker.
#[derive(Clone)]
pub struct Trust {
    fleet: FleetId,
    servers: Vec<String>,
    broker: BrokerTrust,
    roots: Roots,
    doors: Option<Doors>,
}

/// Makes logins with which one may ask the broker to be let in.
#[derive(Clone)]
struct Doors {
    signer: Arc<KeyPair>,
    /// Public key of the account of the agents.
    account: String,
}

/// Makes tokens that pin one root.
#[derive(Clone, Copy)]
pub struct Issuer<'a> {
    trust: &'a Trust,
    root: Digest,
}

/// A token that was made. The secret is in `join_token` and nowhere else: hand it out only after `token` is
/// stored. No `Debug`, so that it is not printed by accident.
pub struct IssuedToken {
    /// What is stored.
    pub token: Token,
    /// What `muster-agent run --join` takes.
    pub join_token: String,
}

impl Trust {
    /// The trust of `fleet` in its roots. `servers` are the NATS URLs for agents, `broker` says how agents verify
    /// them.
    ///
    /// # Errors
    /// [`TrustError`] if a join token cannot hold the servers.
    pub fn new(
        fleet: FleetId,
        roots: Roots,
        (servers, broker): (Vec<String>, BrokerTrust),
    ) -> Result<Self, TrustError> {
        if servers.is_empty() || servers.len() > MAX_SERVERS {
            return Err(TrustError::Number(servers.len()));
        }
        if let Some(server) = servers.iter().find(|server| server.len() > MAX_SERVER_BYTES) {
            return Err(TrustError::Length(server.chars().take(64).collect()));
        }
        Ok(Self { fleet, servers, broker, roots, doors: None })
    }

    /// The same at a broker that lets in whom it knows: tokens carry a login, signed with `signer`, a key of the
    /// agents' `account`.
    #[must_use]
    pub fn with_doors(self, signer: Arc<KeyPair>, account: String) -> Self {
        Self { doors: Some(Doors { signer, account }), ..self }
    }

    /// The fleet.
    #[must_use]
    pub fn fleet(&self) -> &FleetId {
        &self.fleet
    }

    /// NATS URLs for agents.
    #[must_use]
    pub fn servers(&self) -> &[String] {
        &self.servers
    }

    /// How agents verify them.
    #[must_use]
    pub fn broker(&self) -> &BrokerTrust {
        &self.broker
    }

    /// Bytes of the chain of roots from the one with this fingerprint to the newest; from the newest without a
    /// fingerprint. `None` if there is no such root.
    #[must_use]
    pub fn chain_from(&self, fingerprint: Option<&Digest>) -> Option<Bytes> {
        let known = self.roots.known()?;
        let version = match fingerprint {
            None => known.trust.version,
            Some(fingerprint) => known.chain.version_of(fingerprint)?,
        };
        Some(known.chain.encode_from(version))
    }

    /// What makes tokens that pin the newest root.
    ///
    /// # Errors
    /// [`NoRoot`] while the fleet has none.
    pub fn issuer(&self) -> Result<Issuer<'_>, NoRoot> {
        let known = self.roots.known().ok_or(NoRoot)?;
        Ok(Issuer { trust: self, root: known.chain.fingerprint() })
    }
}

impl Issuer<'_> {
    /// Makes a token of this scope with a new secret, on `terms` from `now` on. Without an `id` it gets a random
    /// one. Nothing is stored: the caller writes [`IssuedToken::token`] to the catalogue.
    #[must_use]
    pub fn issue(&self, id: Option<TokenId>, scope: Scope, terms: Terms, now: Timestamp) -> IssuedToken {
        let id = id.unwrap_or_else(|| TokenId::new(random_id()).expect("invariant: a random id is an id"));
        let secret = random_secret::<SECRET_BYTES>();
        let stored = terms.token(id.clone(), scope, Digest::of(&secret), now);
        let door = self.trust.doors.as_ref().map(|doors| doors.make(&stored, now));
        let join_token = JoinToken {
            servers: self.trust.servers.clone(),
            fleet: self.trust.fleet.clone(),
            trust_root: self.root,
            token: id,
            secret,
            broker: self.trust.broker.clone(),
            door,
        };
        IssuedToken { token: stored, join_token: join_token.encode() }
    }
}

impl Doors {
    /// A login of its own for a token. It outlives the token, so that who comes too late is told so.
    fn make(&self, token: &Token, now: Timestamp) -> Door {
        let seed = random_secret::<SEED_BYTES>();
        let key = KeyPair::new_from_raw(KeyPairType::User, seed).expect("invariant: any 32 bytes are a seed");
        let user = User {
            key: key.public_key(),
            name: token.id.to_string(),
            account: self.account.clone(),
            group: None,
            permissions: None,
        };
        let expires_at = Some(token.expires_at + DOOR_GRACE);
        let claims = user.sign(&self.signer, Validity { issued_at: now, expires_at });
        Door { claims: claims.expect("invariant: signers hold private keys"), seed }
    }
}

#[cfg(test)]
mod tests {
    use domain::GroupId;
    use wire::join::{MAX_BROKER_CAS, MAX_CA_BYTES};

    use super::*;

    fn trust(servers: Vec<String>) -> Result<Trust, TrustError> {
        let broker = BrokerTrust { cas: vec![vec![7; MAX_CA_BYTES]; MAX_BROKER_CAS], tls_first: true };
        let fleet = FleetId::new("f".repeat(64)).unwrap();
        let roots = Roots::new(fleet.clone());
        Trust::new(fleet, roots, (servers, broker))
    }

    #[test]
    fn the_longest_token_is_one_that_agents_read() {
        let trust = trust(vec!["s".repeat(MAX_SERVER_BYTES); MAX_SERVERS]).unwrap();
        let account = KeyPair::new_account();
        let trust = trust.with_doors(Arc::new(KeyPair::new_account()), account.public_key());
        let id = TokenId::new("t".repeat(64)).unwrap();
        let terms = Terms::new(None, None).unwrap();
        assert_eq!(trust.issuer().err(), Some(NoRoot));
        let issuer = Issuer { trust: &trust, root: Digest([7; 32]) };
        let issued = issuer.issue(Some(id.clone()), GroupId::new("web").unwrap().into(), terms, Timestamp(5));
        let read = JoinToken::decode(&issued.join_token).unwrap();
        assert_eq!((read.token, read.servers.as_slice()), (id, trust.servers()));
        assert_eq!(Digest::of(&read.secret), issued.token.secret_digest);
        assert_eq!((read.trust_root, &read.broker), (Digest([7; 32]), trust.broker()));
    }

    #[test]
    fn each_token_has_its_own_id_and_secret() {
        let trust = trust(vec!["nats://127.0.0.1:4222".into()]).unwrap();
        let issuer = Issuer { trust: &trust, root: Digest([7; 32]) };
        let terms = Terms::new(None, None).unwrap();
        let [a, b] = [1, 2]
            .map(|_| issuer.issue(None, GroupId::new("web").unwrap().into(), terms, Timestamp(5)).token);
        assert_ne!(a.id, b.id);
        assert_ne!(a.secret_digest, b.secret_digest);
    }

    #[test]
    fn servers_that_no_token_holds_are_refused() {
        assert!(matches!(trust(vec![]), Err(TrustError::Number(0))));
        assert!(matches!(trust(vec!["s".into(); 9]), Err(TrustError::Number(9))));
        let error = trust(vec!["s".repeat(256)]).err().unwrap();
        assert!(matches!(error, TrustError::Length(start) if start == "s".repeat(64)));
    }
}
