//! The key rotations that the conformance suite of The Update Framework asks of its clients, for roots and for what other
//! roles sign. docs/security-tuf.md says which of its scenarios apply, and where the others stand.

use super::tests::{key, role, root, signed};
use super::*;

/// Seeds of keys, one hexadecimal digit each; key 0 has seed 100, because seed 0 is nobody's.
fn seeds(text: &str) -> Vec<u8> {
    let digit = |digit: char| u8::try_from(digit.to_digit(16).unwrap()).unwrap() + 100;
    text.chars().map(digit).collect()
}

/// Versions of a root, each `keys/threshold:signatures`. All but the last are followed; the last one, if `good`.
fn check_roots(name: &str, versions: &str, good: bool) {
    let mut chain: Option<Chain> = None;
    let all: Vec<&str> = versions.split(' ').collect();
    for (number, version) in (1..).zip(&all) {
        let (keys, rest) = version.split_once('/').unwrap();
        let (threshold, signatures) = rest.split_once(':').unwrap();
        let root = root(number, &seeds(keys), threshold.parse().unwrap());
        let envelope = signed(&root, &seeds(signatures));
        let followed = match &mut chain {
            None => Chain::begin(envelope).map(|begun| chain = Some(begun)),
            Some(chain) => chain.follow(envelope),
        };
        let expected = good || number < all.len() as u64;
        assert_eq!(followed.is_ok(), expected, "{name}: version {number}: {followed:?}");
    }
}

#[test]
fn t8_t9_root_rotations() {
    for (name, versions, good) in [
        ("one key gives way to another", "1/1:1 2/1:21 2/1:2", true),
        ("signatures of strangers do no harm", "1/1:314 2/1:3214 2/1:324", true),
        ("any three of five", "01234/3:024 01234/3:041 01234/3:013 01234/3:013", true),
        ("one of five changes", "01234/3:024 01345/3:041", true),
        ("one of five changes, signed by three of each", "01234/3:024 01345/3:0245 01345/3:045", true),
        ("all five change, signed by three of each", "01234/3:024 56789/3:024567 56789/3:567", true),
        ("the threshold rises to two of three", "123/1:1 123/2:12", true),
        ("the threshold falls to one of three", "123/2:12 123/1:12 123/1:1", true),
        ("a second key, and both must sign", "1/1:1 12/2:12", true),
        ("the old key has not signed", "1/1:1 2/1:234", false),
        ("the new key has not signed", "1/1:1 2/1:134", false),
        ("too few of the new five have signed", "01234/3:024 01345/3:024", false),
        ("too few of the old five have signed", "01234/3:024 01345/3:045", false),
        ("the threshold rises and is not reached", "123/1:1 123/2:2", false),
        ("the threshold falls and the old one is not reached", "123/2:12 123/1:1", false),
    ] {
        check_roots(name, versions, good);
    }
}

#[test]
fn t8_t9_rotations_of_other_roles() {
    for (name, keys, threshold, signatures, good) in [
        ("one key", "2", 1, "2", true),
        ("signatures of strangers do no harm", "1", 1, "314", true),
        ("another key has signed", "2", 1, "134", false),
        ("three of five needed, one of three is a stranger", "01345", 3, "024", false),
        ("two of three needed", "01345", 3, "04", false),
        ("any three of five", "01234", 3, "024", true),
        ("any three of five", "01234", 3, "041", true),
        ("any three of five", "01234", 3, "013", true),
        ("the same key three times", "01234", 3, "000", false),
    ] {
        let trusted = KeySet::of("keys", &role(&seeds(keys), threshold)).unwrap();
        let each = seeds(signatures).into_iter();
        let each =
            each.flat_map(|seed| envelope::seal(envelope::MANIFEST, b"m".to_vec(), &key(seed)).signatures);
        let sealed = Envelope {
            payload_type: envelope::MANIFEST.to_owned(),
            payload: Bytes::from_static(b"m"),
            signatures: each.collect(),
        };
        let opened = envelope::open_threshold(&sealed, envelope::MANIFEST, &trusted.keys, trusted.threshold);
        assert_eq!(opened.is_ok(), good, "{name}: {opened:?}");
    }
}
