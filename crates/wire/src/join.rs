//! Joining: the token that an operator hands over as one string, and the signed request.

use domain::catalog::GroupRef;
use domain::registry::AgentKey;
use domain::{AgentId, Digest, FleetId, TokenId};
use nkeys::{KeyPair, KeyPairType};
use prost::Message as _;

use crate::agent::v1::{self, Envelope};
use crate::armour::{self, Broken};
use crate::envelope::{self, EnvelopeError};
use crate::{DecodeError, decode};

/// What every join token starts with; names its version.
pub const PREFIX: &str = "mjt1_";
/// Longest join token, in characters: eight long servers, four CAs, and claims for the broker.
pub const MAX_TOKEN_CHARS: usize = 16 * 1024;
/// Largest join request: 32 labels of 256 bytes and a few texts.
pub const MAX_REQUEST_BYTES: usize = 16 * 1024;
/// Largest chain of trust roots in a reply: from the root that a token pins to the newest. Tokens live for days, roots
/// for months.
pub const MAX_CHAIN_BYTES: usize = 32 * 1024;
/// Largest reply to a join: four CAs stand in it twice, once signed.
pub const MAX_REPLY_BYTES: usize = MAX_CHAIN_BYTES + 32 * 1024;
/// Length of the token's secret, in bytes: 256 bits cannot be guessed, so a plain hash protects it.
pub const SECRET_BYTES: usize = 32;
/// Length of the seed of a key for the broker, in bytes.
pub const SEED_BYTES: usize = 32;
/// Most servers in a token.
pub const MAX_SERVERS: usize = 8;
/// Most CAs of the broker: two, and their successors while they change.
pub const MAX_BROKER_CAS: usize = 4;
/// Largest certificate of a CA, in bytes: one of RSA with 4096 bits has 1,400.
pub const MAX_CA_BYTES: usize = 2048;
/// Most labels of an agent.
pub const MAX_LABELS: usize = 32;
/// Longest key or value of a label, in bytes.
pub const MAX_LABEL_BYTES: usize = domain::enrol::MAX_LABEL_BYTES;

/// What lets someone ask the broker to be let in, and do nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Door {
    /// Claims for the broker.
    pub claims: String,
    /// Seed of the key they are for.
    pub seed: [u8; SEED_BYTES],
}

/// What a join token says. `Debug` hides the secrets.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// NATS URLs.
    pub servers: Vec<String>,
    /// The fleet to join.
    pub fleet: FleetId,
    /// Fingerprint of the trust root from which the agent starts.
    pub trust_root: Digest,
    /// Public part.
    pub token: TokenId,
    /// Secret part.
    pub secret: [u8; SECRET_BYTES],
    /// Login for the broker; `None` for one that lets everyone in.
    pub door: Option<Door>,
    /// Whom to believe that a NATS server is one of the fleet's.
    pub broker: BrokerTrust,
}

/// How agents verify the NATS servers that they are sent to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerTrust {
    /// Certificates (DER) of the CAs that vouch for them; none: those that the machine trusts anyway.
    pub cas: Vec<Vec<u8>>,
    /// Whether the servers want TLS before they say anything.
    pub tls_first: bool,
}

impl BrokerTrust {
    /// Reads it from a message.
    ///
    /// # Errors
    /// [`DecodeError`] if there are too many certificates or one is too large.
    pub fn read(cas: Vec<Vec<u8>>, tls_first: bool) -> Result<Self, DecodeError> {
        if cas.len() > MAX_BROKER_CAS || cas.iter().any(|ca| ca.is_empty() || ca.len() > MAX_CA_BYTES) {
            let problem = format!("must have at most {MAX_BROKER_CAS} entries of 1 to {MAX_CA_BYTES} bytes");
            return Err(DecodeError::field("broker_cas", problem));
        }
        Ok(Self { cas, tls_first })
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinToken")
            .field("servers", &self.servers)
            .field("fleet", &self.fleet)
            .field("token", &self.token)
            .field("broker", &self.broker)
            .finish_non_exhaustive()
    }
}

/// Why a text is not a join token. Never repeats any part of the text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Does not start with [`PREFIX`].
    #[error("a join token starts with {PREFIX:?}; copy it whole from `muster token create`")]
    Prefix,
    /// Cut, or changed on the way.
    #[error("the join token is damaged or cut; copy it whole from `muster token create`")]
    Damaged,
    /// A part of it is not as it should be.
    #[error("the join token cannot be used")]
    Content(#[source] DecodeError),
}

impl JoinToken {
    /// The token as one string.
    #[must_use]
    pub fn encode(&self) -> String {
        let bytes = v1::JoinToken {
            servers: self.servers.clone(),
            fleet: self.fleet.to_string(),
            trust_root_sha256: self.trust_root.0.to_vec(),
            token: self.token.to_string(),
            secret: self.secret.to_vec(),
            door_jwt: self.door.as_ref().map(|door| door.claims.clone()).unwrap_or_default(),
            door_seed: self.door.as_ref().map(|door| door.seed.to_vec()).unwrap_or_default(),
            broker_cas: self.broker.cas.clone(),
            tls_first: self.broker.tls_first,
        }
        .encode_to_vec();
        armour::encode(PREFIX, bytes)
    }

    /// Reads a token.
    ///
    /// # Errors
    /// [`TokenError`] says what is wrong without repeating the secret.
    pub fn decode(text: &str) -> Result<Self, TokenError> {
        let message = armour::decode(PREFIX, text, MAX_TOKEN_CHARS).map_err(|broken| match broken {
            Broken::Prefix => TokenError::Prefix,
            Broken::Damaged => TokenError::Damaged,
        })?;
        Self::read(&message).map_err(TokenError::Content)
    }

    fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let message: v1::JoinToken = decode(bytes, MAX_TOKEN_CHARS)?;
        if message.servers.is_empty() || message.servers.len() > MAX_SERVERS {
            return Err(DecodeError::field("servers", format!("must have 1 to {MAX_SERVERS} entries")));
        }
        let door = match (message.door_jwt, &message.door_seed[..]) {
            (claims, []) if claims.is_empty() => None,
            (claims, seed) => Some(Door {
                claims,
                seed: seed.try_into().map_err(|_| {
                    DecodeError::field("door_seed", format!("is not {SEED_BYTES} bytes long"))
                })?,
            }),
        };
        let trust_root = message
            .trust_root_sha256
            .try_into()
            .map_err(|_| DecodeError::field("trust_root_sha256", "is not 32 bytes long"))?;
        Ok(Self {
            servers: message.servers,
            fleet: FleetId::new(&message.fleet).map_err(|e| DecodeError::field("fleet", e))?,
            trust_root: Digest(trust_root),
            token: TokenId::new(&message.token).map_err(|e| DecodeError::field("token", e))?,
            secret: message
                .secret
                .try_into()
                .map_err(|_| DecodeError::field("secret", "is not 32 bytes long"))?,
            door,
            broker: BrokerTrust::read(message.broker_cas, message.tls_first)?,
        })
    }
}

/// Signs a join request with the agent's own key.
///
/// # Errors
/// [`nkeys::error::Error`] if the pair holds no private key.
pub fn seal_request(request: &v1::JoinRequest, key: &KeyPair) -> Result<Envelope, nkeys::error::Error> {
    seal(envelope::JOIN_REQUEST, request, key)
}

/// Signs a request for new claims with the agent's own key.
///
/// # Errors
/// [`nkeys::error::Error`] if the pair holds no private key.
pub fn seal_renewal(request: &v1::RenewRequest, key: &KeyPair) -> Result<Envelope, nkeys::error::Error> {
    seal(envelope::RENEW_REQUEST, request, key)
}

pub(crate) fn seal(
    payload_type: &str,
    request: &impl prost::Message,
    key: &KeyPair,
) -> Result<Envelope, nkeys::error::Error> {
    let payload = request.encode_to_vec();
    let signature = key.sign(&envelope::pae(payload_type, &payload))?;
    Ok(Envelope {
        payload_type: payload_type.to_owned(),
        payload: payload.into(),
        signatures: vec![v1::Signature { key_id: bytes::Bytes::new(), signature: signature.into() }],
    })
}

/// A join request whose signature holds under the key that it names.
#[derive(Debug, Clone, PartialEq)]
pub struct VerifiedRequest {
    /// The id the agent would like.
    pub agent: AgentId,
    /// The token.
    pub token: TokenId,
    /// The fleet it wants to join.
    pub fleet: FleetId,
    /// Fingerprint of the trust root that its token pins.
    pub trust_root: Option<Digest>,
    /// The group it would like to be in.
    pub group: Option<GroupRef>,
    /// The request as sent; texts and labels are within bounds.
    pub request: v1::JoinRequest,
}

/// What was asked for on [`crate::subject::enrol`].
#[derive(Debug, Clone, PartialEq)]
pub enum Asked {
    /// To be let in.
    Join(Box<VerifiedRequest>),
    /// New claims for the broker.
    Renew(VerifiedRenewal),
}

/// A request for new claims whose signature holds under the key that it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedRenewal {
    /// The fleet.
    pub fleet: FleetId,
    /// Who asks.
    pub agent: AgentId,
    /// The key that was proven.
    pub key: AgentKey,
}

/// Reads a request of either kind: the requester proves that it holds the key it names.
///
/// # Errors
/// [`EnvelopeError`]: too large, malformed, or the signature does not hold.
pub fn open(bytes: &[u8]) -> Result<Asked, EnvelopeError> {
    let envelope: Envelope = decode(bytes, MAX_REQUEST_BYTES).map_err(EnvelopeError::Malformed)?;
    match envelope.payload_type == envelope::RENEW_REQUEST {
        true => open_renewal(&envelope).map(Asked::Renew),
        false => open_join(&envelope).map(|request| Asked::Join(Box::new(request))),
    }
}

fn open_join(envelope: &Envelope) -> Result<VerifiedRequest, EnvelopeError> {
    open_as(envelope, envelope::JOIN_REQUEST, SECRET_BYTES)
}

/// Reads a request to join of a type that has a secret of so many bytes.
pub(crate) fn open_as(
    envelope: &Envelope,
    wanted: &'static str,
    secret_bytes: usize,
) -> Result<VerifiedRequest, EnvelopeError> {
    let request: v1::JoinRequest = of_type(envelope, wanted)?;
    prove(envelope, &request.public_key)?;
    check_request(request, secret_bytes).map_err(EnvelopeError::Payload)
}

fn open_renewal(envelope: &Envelope) -> Result<VerifiedRenewal, EnvelopeError> {
    let request: v1::RenewRequest = of_type(envelope, envelope::RENEW_REQUEST)?;
    prove(envelope, &request.public_key)?;
    let field =
        |name, problem: &dyn std::fmt::Display| EnvelopeError::Payload(DecodeError::field(name, problem));
    Ok(VerifiedRenewal {
        fleet: FleetId::new(&request.fleet).map_err(|e| field("fleet", &e))?,
        agent: AgentId::new(&request.agent).map_err(|e| field("agent", &e))?,
        key: AgentKey::new(&request.public_key).map_err(|e| field("public_key", &e))?,
    })
}

fn of_type<M: prost::Message + Default>(
    envelope: &Envelope,
    wanted: &'static str,
) -> Result<M, EnvelopeError> {
    if envelope.payload_type != wanted {
        let found = envelope.payload_type.chars().take(64).collect();
        return Err(EnvelopeError::WrongType { found, wanted });
    }
    decode(&envelope.payload, MAX_REQUEST_BYTES).map_err(EnvelopeError::Payload)
}

/// Checks that the holder of `public_key` signed the envelope.
fn prove(envelope: &Envelope, public_key: &str) -> Result<(), EnvelopeError> {
    let key = KeyPair::from_public_key(public_key)
        .ok()
        .filter(|key| key.key_pair_type() == KeyPairType::User)
        .ok_or_else(|| EnvelopeError::Payload(DecodeError::field("public_key", "is not a user nkey")))?;
    let signed = envelope::pae(&envelope.payload_type, &envelope.payload);
    let holds = envelope.signatures.first().is_some_and(|s| key.verify(&signed, &s.signature).is_ok());
    if holds { Ok(()) } else { Err(EnvelopeError::Untrusted) }
}

fn check_request(request: v1::JoinRequest, secret_bytes: usize) -> Result<VerifiedRequest, DecodeError> {
    let text = crate::heartbeat::MAX_TEXT_BYTES;
    if request.hostname.len() > text || request.agent_version.len() > text {
        return Err(DecodeError::field("hostname", format!("or agent_version is longer than {text} bytes")));
    }
    if request.labels.len() > MAX_LABELS {
        return Err(DecodeError::field("labels", format!("has more than {MAX_LABELS} entries")));
    }
    if request
        .labels
        .iter()
        .any(|(k, v)| k.is_empty() || k.len() > MAX_LABEL_BYTES || v.len() > MAX_LABEL_BYTES)
    {
        return Err(DecodeError::field("labels", format!("has a key or value over {MAX_LABEL_BYTES} bytes")));
    }
    if request.secret.len() != secret_bytes {
        return Err(DecodeError::field("secret", format!("is not {secret_bytes} bytes long")));
    }
    let trust_root = match &request.trust_root_sha256[..] {
        [] => None,
        bytes => Some(
            bytes
                .try_into()
                .map(Digest)
                .map_err(|_| DecodeError::field("trust_root_sha256", "is not 32 bytes long"))?,
        ),
    };
    let group = match request.group.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|e| DecodeError::field("group", e))?),
    };
    Ok(VerifiedRequest {
        group,
        trust_root,
        agent: AgentId::new(&request.agent).map_err(|e| DecodeError::field("agent", e))?,
        token: TokenId::new(&request.token).map_err(|e| DecodeError::field("token", e))?,
        fleet: FleetId::new(&request.fleet).map_err(|e| DecodeError::field("fleet", e))?,
        request,
    })
}

/// Reads the reply to a join.
///
/// # Errors
/// [`DecodeError`] if it is too large or malformed.
pub fn read_reply(bytes: &[u8]) -> Result<v1::JoinReply, DecodeError> {
    decode(bytes, MAX_REPLY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            servers: vec!["nats://127.0.0.1:4222".into()],
            fleet: FleetId::new("main").unwrap(),
            trust_root: Digest([3; 32]),
            token: TokenId::new("t1").unwrap(),
            secret: [9; 32],
            door: Some(Door { claims: "a.b.c".into(), seed: [9; 32] }),
            broker: BrokerTrust { cas: vec![vec![48; 400]], tls_first: true },
        }
    }

    fn open_request(bytes: &[u8]) -> Result<VerifiedRequest, EnvelopeError> {
        open(bytes).map(|asked| match asked {
            Asked::Join(request) => *request,
            Asked::Renew(renewal) => panic!("it is no request to join: {renewal:?}"),
        })
    }

    #[test]
    fn certificates_of_cas_have_bounds() {
        assert_eq!(BrokerTrust::read(Vec::new(), false), Ok(BrokerTrust::default()));
        for cas in [vec![vec![1]; MAX_BROKER_CAS + 1], vec![vec![1; MAX_CA_BYTES + 1]], vec![Vec::new()]] {
            let broker = BrokerTrust { cas, tls_first: false };
            let error = JoinToken::decode(&JoinToken { broker, ..token() }.encode()).unwrap_err();
            assert!(matches!(error, TokenError::Content(_)), "{error}");
        }
    }

    #[test]
    fn tokens_round_trip_and_hide_their_secret() {
        assert_eq!(JoinToken::decode(&token().encode()).unwrap(), token());
        let open = JoinToken { door: None, ..token() };
        assert_eq!(JoinToken::decode(&open.encode()).unwrap(), open);
        assert!(!format!("{:?}", token()).contains('9'));
    }

    #[test]
    fn damage_is_noticed() {
        let text = token().encode();
        assert_eq!(JoinToken::decode("x"), Err(TokenError::Prefix));
        assert_eq!(JoinToken::decode(PREFIX), Err(TokenError::Damaged));
        for at in PREFIX.len()..text.len() {
            assert_eq!(JoinToken::decode(&text[..at]), Err(TokenError::Damaged), "cut at {at}");
        }
    }

    fn request(key: &KeyPair) -> v1::JoinRequest {
        v1::JoinRequest {
            fleet: "main".into(),
            token: "t1".into(),
            secret: vec![9; 32],
            agent: "web-1".into(),
            public_key: key.public_key(),
            ..v1::JoinRequest::default()
        }
    }

    #[test]
    fn requests_prove_possession_of_their_key() {
        let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
        let sealed = seal_request(&request(&key), &key).unwrap().encode_to_vec();
        assert_eq!(open_request(&sealed).unwrap().agent.as_str(), "web-1");

        let stolen = seal_request(&request(&key), &other).unwrap().encode_to_vec();
        assert_eq!(open_request(&stolen), Err(EnvelopeError::Untrusted));
        for (group, fits) in
            [("", true), ("/servers/web", true), ("web", true), ("/a.b", false), ("a b", false)]
        {
            let asked = v1::JoinRequest { group: group.into(), ..request(&key) };
            let read = open_request(&seal_request(&asked, &key).unwrap().encode_to_vec());
            assert_eq!(read.is_ok(), fits, "{group}");
            let named = read.ok().and_then(|read| read.group).map(|group| group.to_string());
            assert_eq!(named.as_deref(), Some(group).filter(|group| fits && !group.is_empty()));
        }
        let renewal = v1::RenewRequest {
            fleet: "main".into(),
            agent: "web-1".into(),
            public_key: key.public_key(),
            requested_at_ms: 1,
        };
        let stolen = seal_renewal(&renewal, &other).unwrap().encode_to_vec();
        assert_eq!(open(&stolen), Err(EnvelopeError::Untrusted));
        let sealed = seal_renewal(&renewal, &key).unwrap();
        assert!(
            matches!(open(&sealed.encode_to_vec()), Ok(Asked::Renew(r)) if r.key.as_str() == key.public_key())
        );
        // A signature counts for the kind of request that it was made for.
        let swapped = Envelope { payload_type: envelope::JOIN_REQUEST.to_owned(), ..sealed };
        assert!(open(&swapped.encode_to_vec()).is_err());

        let server = KeyPair::new_server();
        let wrong_kind = seal_request(&request(&server), &server).unwrap().encode_to_vec();
        assert!(matches!(open_request(&wrong_kind), Err(EnvelopeError::Payload(_))));
    }

    proptest::proptest! {
        #[test]
        fn no_input_makes_it_panic(text in ".{0,200}", bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = JoinToken::decode(&text);
            let _ = JoinToken::decode(&format!("{PREFIX}{text}"));
            let _ = open(&bytes);
            let _ = read_reply(&bytes);
        }
    }
}
