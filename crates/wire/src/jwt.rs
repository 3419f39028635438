//! Claims of NATS in operator mode (JWT version 2): written here, verified by the broker.
//!
//! A token is `header.claims.signature`, each base64url without padding; the signature covers the first two parts
//! and is made with the nkey that `iss` names.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use domain::registry::AgentKey;
use domain::{Digest, GroupId, Timestamp};
use nkeys::KeyPair;
use serde_json::{Map, Value, json};

use crate::DecodeError;
use crate::access::{Permissions, ShareKind, Shared};

/// The only header that NATS knows.
const HEADER: &str = r#"{"typ":"JWT","alg":"ed25519-nkey"}"#;
/// Longest user token that is read, in characters: those of agents have about 700.
pub const MAX_USER_CHARS: usize = 4096;
/// Prefix of the tag that holds an agent's group. The broker compares tags in lower case, as ids are.
const GROUP_TAG: &str = "group:";
/// What NATS writes where there is no limit.
const NO_LIMIT: i64 = -1;
const BEGIN_JWT: &str = "-----BEGIN NATS USER JWT-----";
const END_JWT: &str = "------END NATS USER JWT------";
const BEGIN_SEED: &str = "-----BEGIN USER NKEY SEED-----";
const END_SEED: &str = "------END USER NKEY SEED------";

/// Since when and until when claims hold. NATS counts in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// When they were issued. Of two versions of an account the broker keeps the younger.
    pub issued_at: Timestamp,
    /// `None`: until they are replaced or revoked.
    pub expires_at: Option<Timestamp>,
}

impl Validity {
    /// From `now` on, without an end.
    #[must_use]
    pub const fn from(now: Timestamp) -> Self {
        Self { issued_at: now, expires_at: None }
    }
}

/// What all users whose claims are signed with one key may do: the broker takes it from the account, not from
/// the user, so whoever holds the key can make users of this kind only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Public key that signs such users.
    pub key: String,
    /// For people.
    pub role: String,
    /// What they may do.
    pub permissions: Permissions,
    /// Most subscriptions of a connection; `None`: any number.
    pub subscriptions: Option<u32>,
    /// Largest message that one may publish, in bytes; `None`: the broker's limit.
    pub payload: Option<usize>,
}

/// An account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// Its public key.
    pub key: String,
    /// For people.
    pub name: String,
    /// Whether it has streams.
    pub jetstream: bool,
    /// What other accounts may reach.
    pub exports: Vec<Shared>,
    /// What it reaches, all of one other account.
    pub imports: Option<(String, Vec<Shared>)>,
    /// Keys that sign its users.
    pub scopes: Vec<Scope>,
    /// Keys that sign its users without a scope: those of the system account.
    pub signing: Vec<String>,
    /// Users that count no more: public key, and until when their claims must have been issued to be void.
    pub revoked: BTreeMap<String, Timestamp>,
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Its public key.
    pub key: String,
    /// Its name: an agent's id.
    pub name: String,
    /// Public key of its account.
    pub account: String,
    /// An agent's group.
    pub group: Option<GroupId>,
    /// What it may do; `None`: what the scope of the signing key says.
    pub permissions: Option<Permissions>,
}

/// What a user's claims say that matters to the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFacts {
    /// The key they are for.
    pub key: AgentKey,
    /// Since when and until when they hold.
    pub validity: Validity,
    /// An agent's group.
    pub group: Option<GroupId>,
}

fn seconds(at: Timestamp) -> u64 {
    at.0 / 1000
}

/// Signs claims.
fn sign(
    issuer: &KeyPair,
    (subject, name): (&str, &str),
    nats: Value,
    validity: Validity,
) -> Result<String, nkeys::error::Error> {
    let mut claims = json!({
        "iat": seconds(validity.issued_at),
        "iss": issuer.public_key(),
        "name": name,
        "sub": subject,
        "nats": nats,
    });
    if let Some(at) = validity.expires_at {
        claims["exp"] = seconds(at).into();
    }
    // An id that tells two versions apart; the broker attaches no meaning to it.
    claims["jti"] = Digest::of(claims.to_string().as_bytes()).to_string().into();
    let encode = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed = format!("{}.{}", encode(HEADER), encode(&claims.to_string()));
    let signature = issuer.sign(signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
}

/// The claims of an operator: signed by itself. `signing` are keys that sign accounts in its place.
///
/// # Errors
/// If the key cannot sign.
pub fn operator(
    key: &KeyPair,
    name: &str,
    (signing, system_account): (&[String], &str),
    now: Timestamp,
) -> Result<String, nkeys::error::Error> {
    let nats = json!({
        "signing_keys": signing,
        "system_account": system_account,
        "type": "operator",
        "version": 2,
    });
    sign(key, (&key.public_key(), name), nats, Validity::from(now))
}

impl Account {
    /// The claims of the account, signed with a key of the operator.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn sign(&self, operator: &KeyPair, now: Timestamp) -> Result<String, nkeys::error::Error> {
        let mut limits = json!({
            "subs": NO_LIMIT, "data": NO_LIMIT, "payload": NO_LIMIT, "imports": NO_LIMIT, "exports": NO_LIMIT,
            "wildcards": true, "disallow_bearer": true, "conn": NO_LIMIT, "leaf": NO_LIMIT,
        });
        if self.jetstream {
            for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
                limits[limit] = NO_LIMIT.into();
            }
        }
        let scopes = self.scopes.iter().map(Scope::claims);
        let revoked: Map<String, Value> =
            self.revoked.iter().map(|(key, until)| (key.clone(), seconds(*until).into())).collect();
        let imports = self.imports.iter().flat_map(|(account, shared)| {
            shared.iter().map(move |shared| {
                let Shared { subject, .. } = shared;
                json!({"name": subject, "subject": subject, "account": account, "type": kind(shared)})
            })
        });
        let nats = json!({
            "exports": self.exports.iter().map(export).collect::<Vec<_>>(),
            "imports": imports.collect::<Vec<_>>(),
            "limits": limits,
            "signing_keys": scopes.chain(self.signing.iter().map(|key| key.as_str().into())).collect::<Vec<_>>(),
            "revocations": revoked,
            "default_permissions": {"pub": {}, "sub": {}},
            "type": "account",
            "version": 2,
        });
        sign(operator, (&self.key, &self.name), nats, Validity::from(now))
    }
}

impl Scope {
    fn claims(&self) -> Value {
        let mut template = permissions(&self.permissions);
        template["subs"] = self.subscriptions.map_or(NO_LIMIT, i64::from).into();
        template["payload"] =
            self.payload.map_or(NO_LIMIT, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)).into();
        template["data"] = NO_LIMIT.into();
        json!({"kind": "user_scope", "key": self.key, "role": self.role, "template": template})
    }
}

impl User {
    /// The claims of the user, signed with a key of its account.
    ///
    /// # Errors
    /// If the key cannot sign.
    pub fn sign(&self, signer: &KeyPair, validity: Validity) -> Result<String, nkeys::error::Error> {
        let mut nats = match &self.permissions {
            // The broker refuses a user of a scope that brings along anything of its own.
            None => json!({"pub": {}, "sub": {}}),
            Some(own) => {
                let mut own = permissions(own);
                for limit in ["subs", "data", "payload"] {
                    own[limit] = NO_LIMIT.into();
                }
                own
            }
        };
        if let Some(group) = &self.group {
            nats["tags"] = json!([format!("{GROUP_TAG}{group}")]);
        }
        if signer.public_key() != self.account {
            nats["issuer_account"] = self.account.as_str().into();
        }
        nats["type"] = "user".into();
        nats["version"] = 2.into();
        sign(signer, (&self.key, &self.name), nats, validity)
    }
}

/// An empty list of permissions would mean everything: nothing is said as the refusal of everything.
fn permissions(permissions: &Permissions) -> Value {
    let list = |subjects: &[String]| match subjects {
        [] => json!({"deny": [">"]}),
        some => json!({"allow": some}),
    };
    json!({"pub": list(&permissions.publish), "sub": list(&permissions.subscribe)})
}

fn kind(shared: &Shared) -> &'static str {
    match shared.kind {
        ShareKind::Service => "service",
        ShareKind::Stream => "stream",
    }
}

fn export(shared: &Shared) -> Value {
    json!({"name": shared.subject, "subject": shared.subject, "type": kind(shared)})
}

/// Reads what a user's claims say of it. Their signature is the broker's concern: who forged them gets in nowhere.
///
/// # Errors
/// [`DecodeError`] if it is too long or is not the token of a user.
pub fn read_user(token: &str) -> Result<UserFacts, DecodeError> {
    if token.len() > MAX_USER_CHARS {
        return Err(DecodeError::TooLarge { size: token.len(), limit: MAX_USER_CHARS });
    }
    let bad = |problem: &'static str| DecodeError::field("user_jwt", problem);
    let claims = token.split('.').nth(1).ok_or_else(|| bad("is not a token"))?;
    let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| bad("is not base64url"))?;
    let claims: Value = serde_json::from_slice(&claims).map_err(|_| bad("holds no JSON"))?;
    if claims["nats"]["type"] != "user" {
        return Err(bad("is not the token of a user"));
    }
    let time = |name: &str| claims[name].as_u64().map(|at| Timestamp(at.saturating_mul(1000)));
    let group = claims["nats"]["tags"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let group = group.filter_map(|tag| tag.strip_prefix(GROUP_TAG)).map(GroupId::new).next();
    Ok(UserFacts {
        key: AgentKey::new(claims["sub"].as_str().unwrap_or_default())
            .map_err(|_| bad("is for no user's key"))?,
        validity: Validity {
            issued_at: time("iat").ok_or_else(|| bad("does not say when it was issued"))?,
            expires_at: time("exp"),
        },
        group: group.transpose().map_err(|_| bad("names a group that cannot be one"))?,
    })
}

/// Reads what the broker says of claims that it was sent.
///
/// # Errors
/// What is wrong with them, as the broker says it.
pub fn read_claims_answer(bytes: &[u8]) -> Result<(), String> {
    /// Longest part of the broker's text that is passed on.
    const MAX_PROBLEM_CHARS: usize = 200;
    let answer: Value = serde_json::from_slice(bytes).map_err(|_| "the answer is no JSON".to_owned())?;
    match answer["error"]["description"].as_str() {
        Some(problem) => Err(problem.chars().take(MAX_PROBLEM_CHARS).collect()),
        None if answer["data"]["code"] == 200 => Ok(()),
        None => Err("the answer says neither yes nor no".to_owned()),
    }
}

/// A file as tools of NATS read it: the token of a user and its seed. A secret.
#[must_use]
pub fn credentials_file(token: &str, seed: &str) -> String {
    format!(
        "{BEGIN_JWT}\n{token}\n{END_JWT}\n\nThe seed is a secret: whoever has it is this user.\n\n{BEGIN_SEED}\n{seed}\n{END_SEED}\n"
    )
}

/// The token and the seed of such a file; `None` if it is not one.
#[must_use]
pub fn read_credentials_file(text: &str) -> Option<(&str, &str)> {
    let between = |begin: &str, end: &str| {
        let (_, rest) = text.split_once(begin)?;
        // One word: a file whose parts lie in each other is none.
        Some(rest.split_once(end)?.0.trim()).filter(|word| !word.contains(char::is_whitespace))
    };
    Some((between(BEGIN_JWT, END_JWT)?, between(BEGIN_SEED, END_SEED)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(group: Option<&str>) -> User {
        User {
            key: KeyPair::new_user().public_key(),
            name: "web-1".into(),
            account: KeyPair::new_account().public_key(),
            group: group.map(|group| GroupId::new(group).unwrap()),
            permissions: None,
        }
    }

    #[test]
    fn a_user_reads_what_was_signed_for_it() {
        let signer = KeyPair::new_account();
        for (group, expires_at) in [(None, None), (Some("servers-web"), Some(Timestamp(90_000)))] {
            let user = user(group);
            let validity = Validity { issued_at: Timestamp(5_000), expires_at };
            let token = user.sign(&signer, validity).unwrap();
            let facts = read_user(&token).unwrap();
            assert_eq!((facts.key.as_str(), facts.validity), (user.key.as_str(), validity));
            assert_eq!(facts.group, user.group);
            let (signed, signature) = token.rsplit_once('.').unwrap();
            signer.verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).unwrap()).unwrap();
        }
    }

    #[test]
    fn no_permissions_are_none_and_not_all() {
        assert_eq!(
            permissions(&Permissions::default()),
            json!({"pub": {"deny": [">"]}, "sub": {"deny": [">"]}})
        );
    }

    #[test]
    fn the_brokers_answer_is_yes_or_no() {
        assert_eq!(read_claims_answer(br#"{"data":{"code":200}}"#), Ok(()));
        let refused = br#"{"error":{"code":500,"description":"jwt is not signed by the operator"}}"#;
        assert_eq!(read_claims_answer(refused), Err("jwt is not signed by the operator".to_owned()));
        assert!(read_claims_answer(b"{}").is_err() && read_claims_answer(b"").is_err());
    }

    #[test]
    fn credential_files_round_trip() {
        let text = credentials_file("a.b.c", "SUSEED");
        assert_eq!(read_credentials_file(&text), Some(("a.b.c", "SUSEED")));
        for cut in [0, 10, text.len() / 2] {
            assert_eq!(read_credentials_file(&text[..cut]), None);
        }
        // Found by the fuzzer: the seed's part within the token's.
        let nested = text.replacen(END_JWT, "", 1) + END_JWT;
        assert_eq!(read_credentials_file(&nested), None);
    }

    #[test]
    fn what_is_no_users_token_is_refused() {
        let account = Account {
            key: KeyPair::new_account().public_key(),
            name: "f".into(),
            jetstream: true,
            exports: Vec::new(),
            imports: None,
            scopes: Vec::new(),
            signing: Vec::new(),
            revoked: BTreeMap::new(),
        };
        let account = account.sign(&KeyPair::new_operator(), Timestamp(1)).unwrap();
        for token in ["", "a", "a.b", "a.!.c", &account, &"x".repeat(MAX_USER_CHARS + 1)] {
            assert!(read_user(token).is_err(), "{token}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,300}", claims in ".{0,100}") {
            let _ = read_user(&text);
            let _ = read_user(&format!("a.{}.c", URL_SAFE_NO_PAD.encode(claims)));
            let _ = read_credentials_file(&text);
            let _ = read_claims_answer(text.as_bytes());
        }
    }
}
