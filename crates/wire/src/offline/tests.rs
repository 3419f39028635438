use domain::trust::Role;
use domain::{AgentId, FleetId, TokenId};
use ed25519_dalek::SigningKey;

use super::*;
use crate::join::SECRET_BYTES;

fn director(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// A chain of one root, whose director has this seed.
fn chain(seed: u8) -> Chain {
    let key = |seed: u8| Role::of_one(crate::sign::public_key(&director(seed).verifying_key()));
    let root = domain::trust::Root {
        fleet: FleetId::new("main").unwrap(),
        version: 1,
        issued_at: Timestamp(1),
        expires_at: Timestamp(1_000_000),
        root: key(100),
        director: key(seed),
        content: key(101),
    };
    let mut envelope = crate::root::unsigned(&root);
    crate::root::sign(&mut envelope, &director(100)).unwrap();
    Chain::begin(envelope).unwrap()
}

fn request(key: &KeyPair) -> JoinRequest {
    JoinRequest {
        fleet: "main".into(),
        token: "t1".into(),
        secret: vec![9; SECRET_BYTES],
        agent: "web-9".into(),
        public_key: key.public_key(),
        group: "/servers/web".into(),
        ..JoinRequest::default()
    }
}

fn bundle(seed: u8) -> JoinBundle {
    JoinBundle { agent: "web-9".into(), trust_root: chain(seed).encode().to_vec(), ..JoinBundle::default() }
}

#[test]
fn a_request_proves_its_key_and_carries_no_secret() {
    let (key, other) = (KeyPair::new_user(), KeyPair::new_user());
    let text = seal_request(&request(&key), &key).unwrap();
    let read = open_request(&format!("{text}\n")).unwrap();
    assert_eq!((read.agent, read.token), (AgentId::new("web-9").unwrap(), TokenId::new("t1").unwrap()));
    assert_eq!((read.group.unwrap().to_string().as_str(), read.request.secret.len()), ("/servers/web", 0));

    let stolen = seal_request(&request(&key), &other).unwrap();
    assert_eq!(open_request(&stolen), Err(OfflineError::Request(EnvelopeError::Untrusted)));
    assert!(matches!(open_request("mjt1_abc"), Err(OfflineError::Prefix { .. })));
    for at in REQUEST_PREFIX.len()..text.len() {
        assert_eq!(open_request(&text[..at]), Err(OfflineError::Damaged("the request to join")), "{at}");
    }
    // Neither kind of request passes for the other.
    let online = join::seal_request(&request(&key), &key).unwrap();
    let online = armour::encode(REQUEST_PREFIX, online.encode_to_vec());
    assert!(matches!(open_request(&online), Err(OfflineError::Request(EnvelopeError::WrongType { .. }))));
    let offline = armour::decode(REQUEST_PREFIX, &text, MAX_REQUEST_CHARS).unwrap();
    assert!(join::open(&offline).is_err());
}

#[test]
fn a_bundle_is_believed_only_if_pinned_roots_lead_to_who_signed_it() {
    let key = AgentKey::new(KeyPair::new_user().public_key()).unwrap();
    let sealed = |by: u8, seed: u8| seal_bundle((&key, Timestamp(7)), bundle(seed), &director(by)).unwrap();
    let good = sealed(1, 1);
    let pinned = chain(1).fingerprint();
    let read = open_bundle(&good, &pinned).unwrap();
    assert_eq!((&read.key, read.expires_at, &read.bundle), (&key, Timestamp(7), &bundle(1)));

    // Another fleet's, one that its own director did not sign, and one with foreign roots.
    assert!(matches!(open_bundle(&sealed(2, 2), &pinned), Err(OfflineError::Roots(_))));
    let forged = sealed(2, 1);
    assert_eq!(open_bundle(&forged, &pinned), Err(OfflineError::Bundle(EnvelopeError::Untrusted)));
    assert!(matches!(open_bundle(&good, &Digest([0; 32])), Err(OfflineError::Roots(_))));
    assert!(matches!(open_bundle("mjr1_abc", &pinned), Err(OfflineError::Prefix { .. })));
    for at in BUNDLE_PREFIX.len()..good.len() {
        assert_eq!(open_bundle(&good[..at], &pinned), Err(OfflineError::Damaged("the bundle")), "{at}");
    }
    // Every bit of what is carried counts, also where whoever changed it mends the sum.
    let bytes = armour::decode(BUNDLE_PREFIX, &good, MAX_BUNDLE_CHARS).unwrap();
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        // What nobody signs is a hint, such as which key it was: without weight, and the same bundle.
        if let Ok(read) = open_bundle(&armour::encode(BUNDLE_PREFIX, flipped), &pinned) {
            let bundle = JoinBundle { trust_root: bundle(1).trust_root, ..read.bundle };
            assert_eq!(
                (read.key, read.expires_at, bundle),
                (key.clone(), Timestamp(7), self::bundle(1)),
                "{bit}"
            );
        }
    }
}

proptest::proptest! {
    #[test]
    fn no_input_makes_it_panic(text in ".{0,200}", bytes in proptest::collection::vec(0u8.., 0..300)) {
        let pinned = Digest([1; 32]);
        for text in [text.clone(), format!("{REQUEST_PREFIX}{text}"), format!("{BUNDLE_PREFIX}{text}")] {
            let _ = (open_request(&text), open_bundle(&text, &pinned));
        }
        let _ = open_request(&armour::encode(REQUEST_PREFIX, bytes.clone()));
        let _ = open_bundle(&armour::encode(BUNDLE_PREFIX, bytes), &pinned);
    }
}
