use ed25519_dalek::SigningKey;

use super::*;
use crate::agent::v1::Signature;

pub(super) fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

pub(super) fn role(seeds: &[u8], threshold: u32) -> Role {
    Role::new(seeds.iter().map(|seed| public_key(&key(*seed).verifying_key())), threshold)
}

/// A root with these root keys, director 10 and content 20.
pub(super) fn root(version: u64, seeds: &[u8], threshold: u32) -> Root {
    Root {
        fleet: FleetId::new("main").unwrap(),
        version,
        issued_at: Timestamp(1),
        expires_at: Timestamp(2),
        root: role(seeds, threshold),
        director: role(&[10], 1),
        content: role(&[20, 21], 2),
    }
}

pub(super) fn signed(root: &Root, seeds: &[u8]) -> Envelope {
    let mut envelope = unsigned(root);
    seeds.iter().for_each(|seed| sign(&mut envelope, &key(*seed)).unwrap());
    envelope
}

#[test]
fn a_root_survives_the_wire_and_gives_its_keys() {
    let made = root(3, &[1, 2, 3], 2);
    assert_eq!(read(&encode(&made)).unwrap(), made);
    let trust = Trust::from(&made);
    assert_eq!(trust.directors, KeySet::from(key(10).verifying_key()));
    assert_eq!((trust.content.keys.len(), trust.content.threshold, trust.version), (2, 2, 3));
    assert_eq!(trust.content.role(), made.content);
    let many = root(1, &[1, 2, 3, 4, 5, 6, 7, 8], 8);
    let full = Root { fleet: FleetId::new("f".repeat(64)).unwrap(), version: u64::MAX, ..many };
    let full =
        Root { content: role(&[20, 21, 22, 23, 24, 25, 26, 27], 8), issued_at: Timestamp(1 << 62), ..full };
    let full = Root {
        director: role(&[10, 11, 12, 13, 14, 15, 16, 17], 8),
        expires_at: Timestamp(u64::MAX),
        ..full
    };
    assert_eq!(read(&encode(&full)).unwrap(), full, "the largest root is read");
    let bytes = crate::encode(&signed(&full, &(1..=16).collect::<Vec<u8>>()));
    assert!(parse(&bytes).is_ok(), "with all its signatures as well: {} bytes", bytes.len());
}

#[test]
fn t9_a_chain_is_verified_link_by_link() {
    let first = signed(&root(1, &[1, 2, 3], 2), &[1, 3]);
    let mut chain = Chain::begin(first.clone()).unwrap();
    let refused = |chain: &mut Chain, envelope: Envelope, expected: &str| {
        let before = chain.clone();
        let error = chain.follow(envelope).unwrap_err();
        let mut texts = vec![error.to_string()];
        let mut source = std::error::Error::source(&error);
        while let Some(inner) = source {
            texts.push(inner.to_string());
            source = inner.source();
        }
        assert!(texts.join(": ").contains(expected), "{texts:?}");
        assert_eq!(*chain, before);
    };
    let second = root(2, &[4, 5], 2);
    refused(&mut chain, signed(&second, &[4, 5]), "0 of the 2 keys that root 1 asks for");
    refused(&mut chain, signed(&second, &[1, 4, 5]), "1 of the 2 keys that root 1 asks for");
    refused(&mut chain, signed(&second, &[1, 2, 4]), "1 of the 2 keys that it asks for itself");
    // The same key twice, under its own id and under another's.
    let mut twice = signed(&second, &[1, 4, 5]);
    let again = twice.signatures[0].clone();
    twice.signatures.push(again.clone());
    let other = Bytes::copy_from_slice(&envelope::key_id(&key(2).verifying_key()));
    twice.signatures.push(Signature { key_id: other, ..again });
    refused(&mut chain, twice, "1 of the 2 keys that root 1 asks for");
    refused(&mut chain, signed(&root(3, &[1, 2, 3], 2), &[1, 2]), "versions go up by one");
    refused(&mut chain, first, "versions go up by one");
    let other_fleet = Root { fleet: FleetId::new("other").unwrap(), ..root(2, &[1, 2, 3], 2) };
    refused(&mut chain, signed(&other_fleet, &[1, 2]), "for fleet other, not main");
    let snapshot = Envelope { payload_type: envelope::SNAPSHOT.into(), ..signed(&second, &[1, 2, 4, 5]) };
    refused(&mut chain, snapshot, "the envelope holds");
    let mut garbage = Envelope { payload: Bytes::from_static(b"\xff"), ..unsigned(&second) };
    refused(&mut chain, garbage.clone(), "0 of the 2 keys that root 1 asks for");
    [1, 2].iter().for_each(|seed| sign(&mut garbage, &key(*seed)).unwrap());
    refused(&mut chain, garbage, "the signed payload cannot be read");

    chain.follow(signed(&second, &[1, 2, 4, 5])).unwrap();
    refused(&mut chain, signed(&root(3, &[1, 2, 3], 2), &[1, 2, 3]), "0 of the 2 keys that root 2 asks for");
    chain.follow(signed(&root(3, &[5], 1), &[4, 5])).unwrap();
    assert_eq!(chain.newest().version, 3);
    assert_eq!(Chain::read(&chain.encode()).unwrap(), chain);
}

#[test]
fn a_chain_begins_at_what_was_pinned() {
    let first = signed(&root(1, &[1], 1), &[1]);
    let mut chain = Chain::begin(first.clone()).unwrap();
    chain.follow(signed(&root(2, &[1, 2], 1), &[1])).unwrap();
    let pinned = chain.first_fingerprint();
    assert_eq!(Chain::read_pinned(&chain.encode(), &pinned).unwrap(), chain);
    assert_eq!((chain.version_of(&pinned), chain.version_of(&chain.fingerprint())), (Some(1), Some(2)));
    let late = Chain::read_pinned(&chain.encode_from(2), &chain.fingerprint()).unwrap();
    assert_eq!(late.roots().map(|root| root.version).collect::<Vec<_>>(), [2]);
    assert_eq!(Chain::read(&chain.encode_from(9)).unwrap(), late, "the newest is always there");
    let wrong = Chain::read_pinned(&chain.encode_from(2), &pinned).unwrap_err();
    assert!(matches!(wrong, RootError::Fingerprint { .. }), "{wrong}");
    assert_eq!(Chain::read(&[]), Err(RootError::Length(0)));
    let gap = RootChain { roots: vec![first, signed(&root(3, &[1], 1), &[1])] };
    let error = Chain::read(&crate::encode(&gap)).unwrap_err().to_string();
    assert_eq!(error, "root 3 cannot follow root 1: versions go up by one");
    let unsigned = Chain::begin(unsigned(&root(1, &[1], 1))).unwrap_err().to_string();
    assert!(unsigned.contains("0 of the 1 keys that it asks for itself"), "{unsigned}");
}

#[test]
fn roots_that_break_a_rule_are_not_read() {
    let check = |change: &dyn Fn(&mut TrustRoot), expected: &str| {
        let mut message = TrustRoot::decode(&encode(&root(1, &[1, 2], 2))[..]).unwrap();
        change(&mut message);
        let error = read(&message.encode_to_vec()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(&|root| root.fleet = "A".into(), "fleet");
    check(&|root| root.root_keys = vec![vec![1; 31]], "root_keys has a key that is not Ed25519");
    check(&|root| root.director_keys = vec![vec![0; 32]], "director_keys has a key that is not Ed25519");
    check(
        &|root| root.content_keys = vec![key(20).verifying_key().to_bytes().to_vec(); 9],
        "more than 8 keys",
    );
    check(
        &|root| root.root_keys[1] = root.root_keys[0].clone(),
        "asks for 2 signatures and has 1 different keys",
    );
    check(&|root| root.director_keys = root.root_keys.clone(), "serves the roles root and director");
    check(&|root| root.expires_at_ms = 0, "expires before it is issued");
    assert!(matches!(read(&[0; MAX_ROOT_BYTES + 1]), Err(DecodeError::TooLarge { .. })));
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
        let _ = read(&bytes);
        let _ = Chain::read(&bytes);
        let mut chain = Chain::begin(signed(&root(1, &[1], 1), &[1])).unwrap();
        let _ = chain.follow_bytes(&bytes);
    }
}
