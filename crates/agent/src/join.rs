//! Joining a fleet: the token says where and whom to trust, the agent's own key signs the request.

use std::collections::HashMap;
use std::time::Duration;

use domain::agent::backoff;
use domain::catalog::GroupRef;
use domain::registry::AgentKey;
use domain::{AgentId, Digest, FleetId, Span, Timestamp};
use nkeys::{KeyPair, KeyPairType};
use prost::Message as _;
use runtime::Shutdown;
use runtime::nats::{ConnectError, Connection, Headers, Login, Nats, RequestError};
use runtime::tls::BrokerTls;
use wire::agent::v1;
use wire::broker::Broker;
use wire::envelope::EnvelopeError;
use wire::join::{BrokerTrust, JoinToken};
use wire::root::{Chain, RootError};

use crate::access::{Access, Claims};
use crate::agent::Enrolment;
use crate::trust::LiveTrust;

/// How long an answer may take: identity writes to the store before it answers.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Longest pause of an agent that waits for approval: it is in so soon after somebody approved it.
const APPROVAL_CAP: Span = Span::from_secs(60);
/// How long one try to connect goes on.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the key's digest in an agent's default id: 2^32 keys of one host name.
const ID_DIGEST_BYTES: usize = 4;
/// Longest part of a host name in an agent's default id.
const ID_HOST_CHARS: usize = 40;

/// What an agent says of itself when it joins.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The id it would like; made from host name and key if absent.
    pub id: Option<AgentId>,
    /// Host name, for people.
    pub hostname: String,
    /// Labels.
    pub labels: HashMap<String, String>,
    /// The group it would like to be in, within what its token allows; whichever the token gives it if absent.
    pub group: Option<GroupRef>,
}

impl About {
    /// The id that the holder of a key asks for.
    fn wanted(&self, public_key: &str) -> AgentId {
        self.id.clone().unwrap_or_else(|| default_id(&self.hostname, public_key))
    }
}

/// Why an agent is not in.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// No connection.
    #[error("cannot reach the fleet")]
    Connect(#[from] ConnectError),
    /// Stopped before there was an answer.
    #[error("stopped before the fleet answered")]
    Stopped,
    /// Stopped before somebody approved it.
    #[error("stopped while waiting for approval: muster agent approve {0}")]
    Waits(AgentId),
    /// The fleet says no.
    #[error("the fleet refused the join: {message}")]
    Refused {
        /// For programs.
        code: v1::JoinErrorCode,
        /// For people.
        message: String,
    },
    /// The answer cannot be read.
    #[error("the answer to the join cannot be read")]
    Answer(#[from] wire::DecodeError),
    /// Whoever answered is not the fleet that the token names.
    #[error(
        "whoever answers at {servers} is not the fleet of the join token: its trust root has another fingerprint"
    )]
    Fingerprint {
        /// The servers.
        servers: String,
    },
    /// The trust roots in the answer do not hold.
    #[error("the trust roots in the answer do not hold")]
    Roots(#[from] RootError),
    /// The assignment in the answer does not hold.
    #[error("the assignment in the answer does not hold")]
    Assignment(#[from] EnvelopeError),
    /// What the answer says of the broker does not hold.
    #[error("what the answer says of the broker does not hold")]
    Broker(#[source] EnvelopeError),
    /// The answer contradicts itself or the token.
    #[error("the answer to the join {0}")]
    Contradiction(&'static str),
    /// The key cannot sign.
    #[error("the agent's key cannot sign")]
    Key(#[from] nkeys::error::Error),
}

/// What an agent knows of its fleet before it is in, from its join token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// The fleet.
    pub fleet: FleetId,
    /// Fingerprint of the trust root from which it starts.
    pub trust_root: Digest,
    /// NATS URLs.
    pub servers: Vec<String>,
}

impl From<&JoinToken> for Pinned {
    fn from(token: &JoinToken) -> Self {
        let JoinToken { fleet, trust_root, servers, .. } = token.clone();
        Self { fleet, trust_root, servers }
    }
}

/// An agent that is in.
#[derive(Debug, Clone)]
pub struct Joined {
    /// What it learnt.
    pub enrolment: Enrolment,
    /// Where the servers are and how to verify them from now on, for [`crate::StateDir::keep_broker`].
    pub broker: Broker,
}

/// The id of an agent that asks for none: its host name and the start of its key's digest.
#[must_use]
pub fn default_id(hostname: &str, public_key: &str) -> AgentId {
    let digest = Digest::of(public_key.as_bytes());
    let suffix = hex::encode(&digest.0[..ID_DIGEST_BYTES]);
    let name: String =
        hostname.to_lowercase().split('.').next().unwrap_or_default().chars().take(ID_HOST_CHARS).collect();
    let slug: String =
        name.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).collect();
    let slug = slug.trim_matches('-');
    let slug = if slug.is_empty() { "agent" } else { slug };
    AgentId::new(format!("{slug}-{suffix}"))
        .expect("invariant: slug and digest are made of the characters of ids")
}

/// Joins over a connection of its own, to servers verified by `tls`. Tries until the fleet lets it in or refuses, or
/// `shutdown` is requested: a machine may boot long before its fleet is there, and may have to be approved.
///
/// # Errors
/// [`JoinError`] for what trying again does not change.
pub async fn join(
    (token, tls): (&JoinToken, &BrokerTls),
    key: &KeyPair,
    about: &About,
    shutdown: &Shutdown,
) -> Result<Joined, JoinError> {
    let connection = connection(token, tls, key);
    let wanted = about.wanted(&key.public_key());
    let (mut attempt, mut waits) = (0, false);
    loop {
        let tried = tokio::select! {
            () = shutdown.requested() => return Err(stopped(waits, wanted)),
            tried = join_once(&connection, token, key, about) => tried,
        };
        match tried {
            // A certificate or a clock may be put right meanwhile.
            Err(JoinError::Connect(
                error @ (ConnectError::Unreachable { .. } | ConnectError::Unsafe { .. }),
            )) => {
                tracing::warn!(error = %runtime::log::chain(&error), "the fleet cannot be reached; trying again");
            }
            Err(JoinError::Refused { code: v1::JoinErrorCode::Unavailable, message }) => {
                tracing::warn!(message, "the fleet cannot answer now; trying again");
            }
            Err(JoinError::Refused { code: v1::JoinErrorCode::Pending, message }) if waits => {
                tracing::debug!(message, "still waiting for approval");
            }
            Err(JoinError::Refused { code: v1::JoinErrorCode::Pending, message }) => {
                tracing::warn!(message, "waiting for approval: muster agent approve {wanted}");
                (attempt, waits) = (0, true);
            }
            done => return done,
        }
        let cap = if waits { APPROVAL_CAP } else { backoff::CAP };
        let wait = backoff::full_jitter(attempt, backoff::BASE, cap, rand::random());
        attempt = attempt.saturating_add(1);
        tokio::select! {
            () = shutdown.requested() => return Err(stopped(waits, wanted)),
            () = tokio::time::sleep(wait.into()) => {}
        }
    }
}

fn stopped(waits: bool, wanted: AgentId) -> JoinError {
    if waits { JoinError::Waits(wanted) } else { JoinError::Stopped }
}

/// The connection over which an agent with `key` asks to be let in.
///
/// # Panics
/// If `key` is not that of a user.
#[must_use]
pub fn connection(token: &JoinToken, tls: &BrokerTls, key: &KeyPair) -> Connection {
    let inbox = AgentKey::new(key.public_key()).expect("invariant: agents have keys of users");
    let door = token.door.as_ref().and_then(|door| {
        let key = KeyPair::new_from_raw(KeyPairType::User, door.seed).ok()?;
        Some((AgentKey::new(key.public_key()).ok()?, Login::fixed(key, door.claims.as_str())))
    });
    let (inbox, login) = door.map_or((inbox, None), |(inbox, login)| (inbox, Some(login)));
    Connection {
        name: "agent that joins".to_owned(),
        inbox_prefix: wire::subject::join_inbox_prefix(&inbox).into(),
        tls: tls.clone(),
        login,
        // The caller's schedule decides when to try again.
        patience: PATIENCE,
        ..Connection::service(token.servers.clone(), "")
    }
}

async fn join_once(
    connection: &Connection,
    token: &JoinToken,
    key: &KeyPair,
    about: &About,
) -> Result<Joined, JoinError> {
    let nats = Nats::connect(connection).await?;
    let joined = request(&nats, token, key, about).await;
    nats.close().await;
    joined
}

/// Asks once, over a connection whose inbox prefix is one for joins.
///
/// # Errors
/// [`JoinError`]; [`v1::JoinErrorCode::Unavailable`] stands also for "nobody answered".
pub async fn request(
    nats: &Nats,
    token: &JoinToken,
    key: &KeyPair,
    about: &About,
) -> Result<Joined, JoinError> {
    let request = request_of(token, &key.public_key(), about);
    let payload = wire::join::seal_request(&request, key)?.encode_to_vec();
    let enrol = wire::subject::enrol();
    let reply =
        nats.request(&enrol, Headers::new(), payload.into(), ANSWER_WITHIN).await.map_err(unanswered)?;
    let reply: v1::JoinReply = wire::decode(&reply.payload, wire::join::MAX_REPLY_BYTES)?;
    match reply.outcome {
        Some(v1::join_reply::Outcome::Bundle(bundle)) => check(&token.into(), key, bundle),
        Some(v1::join_reply::Outcome::Error(error)) => {
            Err(JoinError::Refused { code: error.code(), message: error.message })
        }
        None => Err(JoinError::Contradiction("says neither yes nor no")),
    }
}

/// What the holder of a key asks for with a token.
pub(crate) fn request_of(token: &JoinToken, public_key: &str, about: &About) -> v1::JoinRequest {
    v1::JoinRequest {
        fleet: token.fleet.to_string(),
        token: token.token.to_string(),
        secret: token.secret.to_vec(),
        agent: about.wanted(public_key).to_string(),
        public_key: public_key.to_owned(),
        hostname: about.hostname.clone(),
        labels: about.labels.clone().into_iter().collect(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        requested_at_ms: runtime::clock::now().0,
        trust_root_sha256: token.trust_root.0.to_vec(),
        group: about.group.as_ref().map(GroupRef::to_string).unwrap_or_default(),
    }
}

fn unanswered(error: RequestError) -> JoinError {
    let message = format!("nobody answers ({error}); is musterd running?");
    JoinError::Refused { code: v1::JoinErrorCode::Unavailable, message }
}

/// Believes nothing that does not lead back to the fingerprint in the token.
pub(crate) fn check(pinned: &Pinned, key: &KeyPair, bundle: v1::JoinBundle) -> Result<Joined, JoinError> {
    let chain = match Chain::read_pinned(&bundle.trust_root, &pinned.trust_root) {
        Err(RootError::Fingerprint { .. }) => {
            return Err(JoinError::Fingerprint { servers: runtime::nats::shown(&pinned.servers) });
        }
        read => read?,
    };
    let live = LiveTrust::new(chain);
    let trust = live.now();
    if trust.fleet != pinned.fleet {
        return Err(JoinError::Contradiction("names another fleet than the token"));
    }
    let envelope = bundle.assignment.ok_or(JoinError::Contradiction("has no assignment"))?;
    let assignment = wire::snapshot::open_assignment(&envelope, &trust.directors)?;
    if assignment.agent.as_str() != bundle.agent || assignment.fleet != trust.fleet {
        return Err(JoinError::Contradiction("assigns another agent"));
    }
    let broker = match bundle.broker {
        Some(signed) => wire::broker::open(&signed, &trust.directors).map_err(JoinError::Broker)?,
        // A control plane from before there was a signed one: the token vouches for who says it.
        None => Broker {
            fleet: trust.fleet.clone(),
            issued_at: Timestamp(0),
            servers: if bundle.servers.is_empty() { pinned.servers.clone() } else { bundle.servers },
            trust: BrokerTrust::read(bundle.broker_cas, bundle.tls_first)?,
        },
    };
    if broker.fleet != trust.fleet {
        return Err(JoinError::Contradiction("names the broker of another fleet"));
    }
    let access = match bundle.user_jwt.is_empty() {
        true => None,
        false => {
            let claims = Claims { user: bundle.user_jwt, door: bundle.door_jwt };
            Some(Access::new(key.clone(), &claims)?)
        }
    };
    let enrolment = Enrolment {
        agent: assignment.agent,
        trust: live,
        servers: broker.servers.clone(),
        tls: BrokerTls::default(),
        access,
        assignment: Some(envelope.encode_to_vec().into()),
    };
    Ok(Joined { enrolment, broker })
}

#[cfg(test)]
mod tests {
    use domain::{Assignment, Cursor, GroupId, TokenId};
    use ed25519_dalek::SigningKey;

    use super::*;
    use crate::test_claims::claims;

    #[test]
    fn default_ids_are_ids_whatever_the_host_is_called() {
        for (host, expected) in [
            ("web-1.example.com", "web-1-"),
            ("WEB", "web-"),
            ("", "agent-"),
            ("--", "agent-"),
            ("größe x", "gr--e-x-"),
        ] {
            let id = default_id(host, "UABC");
            assert!(id.as_str().starts_with(expected), "{id}");
            assert_eq!(id.as_str().len(), expected.len() + 8);
        }
        assert_ne!(default_id("h", "UA"), default_id("h", "UB"));
        assert!(default_id(&"x".repeat(500), "U").as_str().len() <= 64);
    }

    fn bundle(director: &SigningKey, agent: &str) -> v1::JoinBundle {
        let assignment = Assignment {
            fleet: FleetId::new("f").unwrap(),
            agent: AgentId::new("a").unwrap(),
            group: GroupId::new("g").unwrap(),
            cursor: Cursor::new(1, 1),
            issued_at: Timestamp(1),
        };
        let mut root = crate::test_fleet::root(&wire::sign::KeySet::default());
        root.director = domain::trust::Role::of_one(wire::sign::public_key(&director.verifying_key()));
        let chain = Chain::begin(crate::test_fleet::signed_root(&root)).unwrap();
        v1::JoinBundle {
            agent: agent.to_owned(),
            trust_root: chain.encode().to_vec(),
            assignment: Some(wire::snapshot::seal_assignment(&assignment, director)),
            servers: Vec::new(),
            broker_cas: vec![vec![4]],
            tls_first: true,
            user_jwt: String::new(),
            door_jwt: String::new(),
            broker: None,
        }
    }

    #[test]
    fn an_answer_is_believed_only_if_it_leads_back_to_the_token() {
        let (key, other) = (SigningKey::from_bytes(&[1; 32]), SigningKey::from_bytes(&[2; 32]));
        let good = bundle(&key, "a");
        let token = JoinToken {
            servers: vec!["nats://127.0.0.1:1".to_owned()],
            fleet: FleetId::new("f").unwrap(),
            trust_root: Chain::read(&good.trust_root).unwrap().fingerprint(),
            token: TokenId::new("t").unwrap(),
            secret: [0; 32],
            broker: BrokerTrust::default(),
            door: None,
        };
        let own = KeyPair::new_user();
        let pinned = Pinned::from(&token);
        let joined = check(&pinned, &own, good.clone()).unwrap();
        assert_eq!((joined.enrolment.agent.as_str(), &joined.enrolment.servers), ("a", &token.servers));
        assert_eq!(joined.broker.trust, BrokerTrust { cas: vec![vec![4]], tls_first: true });
        // What is signed counts more than what is not.
        let signed = |fleet: &str, key| {
            let broker = Broker {
                fleet: FleetId::new(fleet).unwrap(),
                issued_at: Timestamp(7),
                servers: vec!["tls://other:1".to_owned()],
                trust: BrokerTrust::default(),
            };
            let broker = wire::envelope::seal(wire::envelope::BROKER, wire::broker::encode(&broker), key);
            v1::JoinBundle { broker: Some(broker), ..good.clone() }
        };
        let joined = check(&pinned, &own, signed("f", &key)).unwrap();
        assert_eq!((joined.broker.issued_at, &joined.broker.trust), (Timestamp(7), &BrokerTrust::default()));
        assert_eq!(joined.enrolment.servers, ["tls://other:1"]);
        let refused = |bundle| check(&pinned, &own, bundle).unwrap_err().to_string();
        assert!(refused(bundle(&other, "a")).contains("another fingerprint"));
        assert_eq!(refused(signed("f", &other)), "what the answer says of the broker does not hold");
        assert!(refused(signed("g", &key)).contains("the broker of another fleet"));
        let forged = v1::JoinBundle { assignment: bundle(&other, "a").assignment, ..good.clone() };
        assert_eq!(refused(forged), "the assignment in the answer does not hold");
        let Claims { user, door } = claims(&KeyPair::new_user(), "g", 9);
        let foreign = v1::JoinBundle { user_jwt: user, door_jwt: door, ..good.clone() };
        assert_eq!(refused(foreign), "the answer to the join cannot be read");
        assert_eq!(refused(bundle(&key, "b")), "the answer to the join assigns another agent");
        assert_eq!(
            refused(v1::JoinBundle { assignment: None, ..good }),
            "the answer to the join has no assignment"
        );
    }
}
