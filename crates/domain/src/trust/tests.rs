use super::*;

fn keys(seeds: &[u8]) -> BTreeSet<PublicKey> {
    seeds.iter().map(|seed| PublicKey([*seed; 32])).collect()
}

fn role(seeds: &[u8], threshold: u32) -> Role {
    Role::new(seeds.iter().map(|seed| PublicKey([*seed; 32])), threshold)
}

/// Version, keys and threshold of the root role; directors 10 and up, content 20 and up.
fn root(version: u64, seeds: &[u8], threshold: u32) -> Root {
    Root {
        fleet: FleetId::new("f").unwrap(),
        version,
        issued_at: Timestamp(version),
        expires_at: Timestamp(1_000),
        root: role(seeds, threshold),
        director: role(&[10], 1),
        content: role(&[20], 1),
    }
}

#[test]
fn t9_a_root_is_refused_where_keys_do_not_add_up() {
    let check = |change: &dyn Fn(&mut Root), expected: &str| {
        let mut changed = root(1, &[1, 2, 3], 2);
        change(&mut changed);
        let got = changed.check().map_or_else(|error| error.to_string(), |()| "good".to_owned());
        assert_eq!(got, expected);
    };
    check(&|_| {}, "good");
    check(&|root| root.content = role(&[], 1), "good");
    check(&|root| root.version = 0, "the version is 0; versions count from 1");
    check(&|root| root.expires_at = root.issued_at, "it expires before it is issued");
    check(&|root| root.root = role(&[], 1), "role root has no key");
    check(&|root| root.director = role(&[], 1), "role director has no key");
    check(
        &|root| root.director = role(&[10], 0),
        "role director asks for 0 signatures and has 1 different keys",
    );
    check(&|root| root.root = role(&[1, 1], 2), "role root asks for 2 signatures and has 1 different keys");
    check(&|root| root.content = role(&[], 2), "role content asks for 2 signatures and has 0 different keys");
    check(&|root| root.content = role(&[1, 2, 3, 4, 5, 6, 7, 8, 9], 1), "role content has more than 8 keys");
    check(
        &|root| root.director = role(&[10, 2], 1),
        "a key serves the roles root and director: give each role keys of its own",
    );
    check(
        &|root| root.content = role(&[10], 1),
        "a key serves the roles director and content: give each role keys of its own",
    );
}

/// Each line: the trusted root, the next one, who signed, and what comes of it.
#[test]
fn t8_t9_a_chain_needs_the_old_threshold_and_the_new_one() {
    let check = |(trusted, next): (&Root, &Root), signed: &[u8], expected: &str| {
        let got = follows(trusted, next, &keys(signed));
        assert_eq!(got.map_or_else(|error| error.to_string(), |()| "follows".to_owned()), expected);
    };
    let first = root(1, &[1, 2, 3], 2);
    let same = (&first, &root(2, &[1, 2, 3], 2));
    check(same, &[1, 2], "follows");
    check(same, &[3, 1, 9], "follows");
    let sign_before = "sign it with more of the keys of role root before the change";
    let one_old = format!("root 2 is signed by 1 of the 2 keys that root 1 asks for: {sign_before}");
    check(same, &[1], &one_old);
    check(same, &[1, 1], &one_old);
    check(same, &[1, 10, 20], &one_old);
    let rotated = (&first, &root(2, &[4, 5], 2));
    let one_new = "root 2 is signed by 1 of the 2 keys that it asks for itself: sign it with more of its own keys of role root";
    check(rotated, &[1, 2, 4], one_new);
    check(rotated, &[4, 5, 1], &one_old);
    check(rotated, &[1, 2, 4, 5], "follows");
    let raised = (&first, &root(2, &[1, 2, 3], 3));
    let two_of_three = "root 2 is signed by 2 of the 3 keys that it asks for itself: sign it with more of its own keys of role root";
    check(raised, &[1, 2], two_of_three);
    check(raised, &[1, 2, 3], "follows");
    check((&first, &root(2, &[1], 1)), &[1, 3], "follows");
    check((&first, &root(3, &[1, 2, 3], 2)), &[1, 2], "root 3 cannot follow root 1: versions go up by one");
    check((&first, &first), &[1, 2], "root 1 cannot follow root 1: versions go up by one");
    let other = Root { fleet: FleetId::new("g").unwrap(), ..root(2, &[1, 2, 3], 2) };
    check((&first, &other), &[1, 2], "root 2 is for fleet g, not f");
    let last = Root { version: u64::MAX, ..first.clone() };
    check(
        (&last, &first),
        &[1, 2],
        &format!("root 1 cannot follow root {}: versions go up by one", u64::MAX),
    );
}

#[test]
fn an_expired_root_may_be_walked_over() {
    let before = Root { issued_at: Timestamp(0), expires_at: Timestamp(1), ..root(1, &[1], 1) };
    assert_eq!(follows(&before, &root(2, &[1], 1), &keys(&[1])), Ok(()));
}

#[test]
fn t5_what_takes_a_directors_key_away_is_remembered_along_the_chain() {
    let with = |version, directors: &[u8]| Root { director: role(directors, 1), ..root(version, &[1], 1) };
    let lost = |chain: &[Root]| Adopted::of(chain).map(|adopted| (adopted.version, adopted.director_lost));
    assert_eq!(lost(&[]), None);
    assert_eq!(lost(&[with(1, &[10])]), Some((1, 0)));
    assert_eq!(lost(&[with(1, &[10]), with(2, &[10, 11])]), Some((2, 0)));
    assert_eq!(lost(&[with(1, &[10]), with(2, &[10, 11]), with(3, &[11])]), Some((3, 3)));
    assert_eq!(lost(&[with(4, &[10]), with(5, &[11]), with(6, &[11])]), Some((6, 5)));
}
