//! Bytes from the broker, from callers, and from those who hand over tokens.

use std::fmt::{Debug, Display};

use domain::content::DeltaFrame;
use domain::trust::Root;
use domain::{AgentId, Digest, FleetId, Timestamp};
use ed25519_dalek::SigningKey;
use prost::Message as _;
use prost::bytes::Bytes;
use wire::agent::v1::Envelope;
use wire::envelope;
use wire::join::{self, JoinToken};
use wire::root::{self, Chain};
use wire::sign::KeySet;
use wire::subject::{self, StoreKey};
use wire::{
    broker as brokers, catalog, content as contents, heartbeat as beats, jwt, offline, piece, registry,
    snapshot as snapshots,
};

/// Largest result that a frame may promise here, in bytes.
const MAX_RAW_BYTES: usize = 1 << 20;

/// What was read is written and read again: it must be the same.
fn again<T: Debug + PartialEq, E: Display>(first: &T, second: Result<T, E>) {
    match second {
        Ok(second) => assert_eq!(first, &second),
        Err(error) => panic!("what was read cannot be read again: {error}"),
    }
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn trusted() -> KeySet {
    KeySet::from(key().verifying_key())
}

/// Nobody who does not hold the key is believed, and whoever does is.
pub(crate) fn envelope(data: &[u8]) {
    let trusted = trusted().keys;
    let sealed = envelope::seal(envelope::SNAPSHOT, data.to_vec(), &key());
    let opened = envelope::open(&sealed, envelope::SNAPSHOT, &trusted);
    assert_eq!(opened.expect("it was sealed with the key").as_ref(), data);
    assert!(envelope::open(&sealed, envelope::ASSIGNMENT, &trusted).is_err(), "it is of another type");
    if let Ok(found) = envelope::parse(data) {
        again(&found, envelope::parse(&found.encode_to_vec()));
        for payload_type in [envelope::SNAPSHOT, envelope::ASSIGNMENT] {
            assert!(envelope::open(&found, payload_type, &trusted).is_err(), "nobody signed it");
        }
        let named = Digest::of(&found.payload);
        assert!(contents::open_manifest(&found, &named, &self::trusted()).is_err(), "nobody signed it");
    }
}

/// The first root of a fleet.
pub(crate) fn chain() -> Chain {
    let role = |seed| KeySet::from(SigningKey::from_bytes(&[seed; 32]).verifying_key()).role();
    let first = Root {
        fleet: FleetId::new("main").expect("it is an id"),
        version: 1,
        issued_at: Timestamp(1),
        expires_at: Timestamp(u64::MAX),
        root: role(8),
        director: trusted().role(),
        content: role(9),
    };
    let mut sealed = root::unsigned(&first);
    root::sign(&mut sealed, &SigningKey::from_bytes(&[8; 32])).expect("a key in memory signs");
    Chain::begin(sealed).expect("it signed itself")
}

/// A root that nobody signed is followed by nobody; what is read is written the same.
pub(crate) fn root(data: &[u8]) {
    if let Ok(found) = root::read(data) {
        again(&found, root::read(&root::encode(&found)));
    }
    let mut trusting = chain();
    assert!(trusting.follow_bytes(data).is_err(), "nobody signed it");
    if let Ok(found) = Chain::read(data) {
        again(&found, Chain::read(&found.encode()));
    }
    assert_eq!(trusting, chain());
}

pub(crate) fn snapshot(data: &[u8]) {
    if let Ok(found) = snapshots::read(&Bytes::copy_from_slice(data)) {
        again(&found, snapshots::read(&snapshots::encode(&found).into()));
    }
    let sealed = envelope::seal(envelope::ASSIGNMENT, data.to_vec(), &key());
    if let Ok(found) = snapshots::open_assignment(&sealed, &trusted()) {
        let sealed = snapshots::seal_assignment(&found, &key());
        again(&found, snapshots::open_assignment(&sealed, &trusted()));
    }
}

/// What is said of the broker is believed only of who holds the key; what is read is written the same.
pub(crate) fn broker(data: &[u8]) {
    let opened =
        |payload: Vec<u8>| brokers::open(&envelope::seal(envelope::BROKER, payload, &key()), &trusted());
    if let Ok(found) = opened(data.to_vec()) {
        again(&found, opened(brokers::encode(&found)));
    }
    let payload = Bytes::copy_from_slice(data);
    let unsigned = Envelope { payload_type: envelope::BROKER.to_owned(), payload, signatures: Vec::new() };
    assert!(brokers::open(&unsigned, &trusted()).is_err(), "nobody signed it");
}

pub(crate) fn heartbeat(data: &[u8]) {
    drop((beats::read(data), beats::read_reply(data), beats::read_batch_origin(data)));
    drop((beats::read_batch(data), beats::read_checkpoint(data)));
}

pub(crate) fn content(data: &[u8]) {
    if let Ok(found) = contents::read_manifest(data) {
        again(&found, contents::read_manifest(&contents::encode_manifest(&found)));
    }
    if let Ok(found) = contents::read_index(data) {
        again(&found, contents::read_index(&contents::encode_index(&found)));
    }
    if let Ok(found) = contents::read_census(data) {
        again(&found, contents::read_census(&contents::encode_census(&found)));
    }
}

/// Two bytes say how long the result shall be, the rest is what came from the store.
pub(crate) fn frame(data: &[u8]) {
    let Some((length, stored)) = data.split_first_chunk::<2>() else { return };
    let raw_bytes = usize::from(u16::from_be_bytes(*length)) * (MAX_RAW_BYTES >> 16);
    if let Ok(raw) = codec::frame::decompress(stored, raw_bytes) {
        assert_eq!(raw.len(), raw_bytes, "it is as long as was promised");
    }
    let prefix = b"what the agent holds already";
    let frame = DeltaFrame {
        bytes: u32::try_from(raw_bytes).expect("it is at most a mebibyte"),
        stored_bytes: u32::try_from(stored.len()).expect("fuzzers make short inputs"),
        old: Vec::new(),
        new_bytes: u32::try_from(prefix.len()).expect("it is short"),
    };
    if let Ok(raw) = codec::delta::decode(&frame, stored, prefix) {
        assert_eq!(raw.len(), raw_bytes, "it is as long as was promised");
    }
    let packed = codec::frame::compress(data);
    assert_eq!(codec::frame::decompress(&packed, data.len()).expect("it was just made"), data);
}

/// A token as it is, and one whose checksum holds, so that what lies behind it is reached.
pub(crate) fn join(data: &[u8]) {
    let text = String::from_utf8_lossy(data).into_owned();
    let sum = Digest::of(data);
    let whole = [data, &sum.0[..4]].concat();
    for text in [text, format!("{}{}", join::PREFIX, base64_url(&whole))] {
        if let Ok(token) = JoinToken::decode(&text) {
            again(&token, JoinToken::decode(&token.encode()));
        }
    }
    let pinned = Digest::of(b"a root");
    for prefix in ["", offline::REQUEST_PREFIX, offline::BUNDLE_PREFIX] {
        let text = format!("{prefix}{}", base64_url(&whole));
        assert!(offline::open_request(&text).is_err(), "nobody signed it");
        assert!(offline::open_bundle(&text, &pinned).is_err(), "no root leads to it");
    }
    drop((join::open(data), join::read_reply(data)));
    for payload_type in [envelope::JOIN_REQUEST, envelope::RENEW_REQUEST, envelope::OFFLINE_REQUEST] {
        let payload = Bytes::copy_from_slice(data);
        let unsigned = Envelope { payload_type: payload_type.to_owned(), payload, signatures: Vec::new() };
        assert!(join::open(&unsigned.encode_to_vec()).is_err(), "nobody signed it");
    }
}

/// Claims as text, and as what a token holds, so that what lies behind the base64 is reached.
pub(crate) fn jwt(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    drop((jwt::read_user(&text), jwt::read_claims_answer(data)));
    drop(jwt::read_user(&format!("e30.{}.e30", base64_url(data))));
    if let Some((claims, seed)) = jwt::read_credentials_file(&text) {
        let written = jwt::credentials_file(claims, seed);
        assert_eq!(jwt::read_credentials_file(&written), Some((claims, seed)));
    }
}

/// base64url without padding, which tokens are written in.
fn base64_url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let wide =
            chunk.iter().enumerate().fold(0, |wide, (at, byte)| wide | u32::from(*byte) << (16 - 8 * at));
        text.extend((0..=chunk.len()).map(|at| char::from(DIGITS[(wide >> (18 - 6 * at)) as usize & 63])));
    }
    text
}

pub(crate) fn manifest(data: &[u8]) {
    if let Err(errors) = wire::manifest::read("fuzz.yaml", data) {
        assert!(errors.iter().all(|error| error.to_string().contains("fuzz.yaml")), "it names the file");
    }
}

/// The first line names the object, the rest is what the log has of it.
pub(crate) fn store(data: &[u8]) {
    drop((registry::read_agent(data), registry::read_uses(data)));
    let Some(end) = data.iter().position(|byte| *byte == b'\n') else { return };
    let subject = String::from_utf8_lossy(&data[..end]);
    let Some(key) = StoreKey::parse(&subject) else { return };
    if let Ok(found) = catalog::read(&key, &data[end + 1..]) {
        let written = catalog::encode(&found).expect("what was read can be written");
        again(&found, catalog::read(&key, &written));
    }
}

pub(crate) fn subject(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    if let Some(key) = StoreKey::parse(&text) {
        assert_eq!(key.subject().as_str(), text);
    }
    if let Some(piece) = piece::parse(&text) {
        assert_eq!(piece::subject(&piece).as_str(), text);
    }
    if let Some(agent) = subject::parse_heartbeat(&text) {
        assert_eq!(subject::heartbeat(&agent).as_str(), text);
    }
    if let Some(agent) = subject::parse_agent(&text) {
        assert!(text.ends_with(agent.as_str()));
    }
    drop((subject::parse_group(&text), subject::parse_token_use(&text)));
    let tokens = |text: &str| {
        text.split('.').all(|token| !token.is_empty() && !token.contains(['*', '>', ' ', '\r', '\n']))
    };
    let agent = AgentId::new("a").expect("it is one");
    if subject::is_inbox_of(&text, &agent) || subject::is_join_inbox(&text) {
        assert!(tokens(&text), "it is published to: {text:?}");
    }
    if let Ok(id) = AgentId::new(&text) {
        assert!(tokens(id.as_str()) && !id.as_str().contains('.'), "it becomes one token: {text:?}");
    }
}
