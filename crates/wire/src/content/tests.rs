use domain::Revision;
use proptest::prelude::*;

use super::*;

fn digest(name: u32) -> Digest {
    Digest::of(&name.to_be_bytes())
}

fn file(path: &str, bytes: u64) -> ManifestFile {
    let path = FilePath::new(path).unwrap();
    ManifestFile {
        digest: Digest::of(path.as_str().as_bytes()),
        path,
        bytes,
        executable: bytes.is_multiple_of(2),
    }
}

fn manifest(files: Vec<ManifestFile>, chunks: Vec<ChunkEntry>) -> Manifest {
    let (fleet, channel) = (FleetId::new("main").unwrap(), ChannelName::new("definitions/ips").unwrap());
    Manifest::new(fleet, channel, files, chunks, digest(0)).unwrap()
}

fn sample() -> Manifest {
    let chunk = |name, bytes| ChunkEntry { digest: digest(name), bytes };
    manifest(vec![file("a", 3), file("b/c", 4)], vec![chunk(1, 6), chunk(2, 1)])
}

fn sample_index() -> ContentIndex {
    let frame = |bytes, old: &[(u64, u32)], new_bytes| DeltaFrame {
        bytes,
        stored_bytes: 5,
        old: old.iter().map(|&(offset, bytes)| OldRun { offset, bytes }).collect(),
        new_bytes,
    };
    let part = |bytes| DeltaPart { bytes, digest: digest(bytes) };
    let full = Delta::new(None, vec![frame(5, &[], 0), frame(2, &[], 5)], vec![part(10)]).unwrap();
    let patch = vec![frame(7, &[(9, 3), (0, 2)], 0)];
    let patch = Delta::new(Some(digest(8)), patch, vec![part(1), part(4)]).unwrap();
    let fleet = FleetId::new("main").unwrap();
    ContentIndex::new(fleet, manifest_digest(&sample()), vec![6, 3], vec![full, patch]).unwrap()
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn trust(seeds: &[u8], threshold: usize) -> KeySet {
    KeySet { keys: seeds.iter().map(|seed| key(*seed).verifying_key()).collect(), threshold }
}

fn item(manifest: &Manifest) -> ContentItem {
    ContentItem {
        channel: manifest.channel().clone(),
        number: ContentRevision(3),
        revision: Revision(40),
        manifest: manifest_digest(manifest),
        manifest_bytes: encode_manifest(manifest).len() as u64,
        content_bytes: manifest.content_bytes(),
    }
}

#[test]
fn manifests_and_indexes_round_trip_through_envelopes() {
    let (manifest, index) = (sample(), sample_index());
    let sealed = seal_manifest(&manifest, &[key(1), key(2)]);
    let sealed = envelope::parse(&sealed.encode_to_vec()).unwrap();
    let named = manifest_digest(&manifest);
    assert_eq!(open_manifest(&sealed, &named, &trust(&[1, 2, 3], 2)), Ok(manifest.clone()));
    let fleet = FleetId::new("main").unwrap();
    assert_eq!(open_assigned(&sealed, &fleet, &item(&manifest), &trust(&[2], 1)), Ok(manifest.clone()));

    let sealed = envelope::parse(&seal_index(&index, &key(1)).encode_to_vec()).unwrap();
    assert_eq!(open_index(&sealed, &named, &manifest, &trust(&[1], 1).keys), Ok(index));
}

#[test]
fn only_the_assigned_manifest_is_opened() {
    let (manifest, fleet) = (sample(), FleetId::new("main").unwrap());
    let sealed = seal_manifest(&manifest, &[key(1)]);
    let check = |change: &dyn Fn(&mut ContentItem), trust: &KeySet, expected: &str| {
        let mut item = item(&manifest);
        change(&mut item);
        let error = open_assigned(&sealed, &fleet, &item, trust).unwrap_err();
        assert!(format!("{error}: {error:?}").contains(expected), "{error}: {error:?}");
    };
    let good = trust(&[1], 1);
    check(&|item| item.manifest_bytes += 1, &good, "bytes long, not");
    check(&|item| item.manifest = digest(7), &good, &format!("not {}", digest(7)));
    check(&|item| item.content_bytes += 1, &good, "it is for another content");
    check(&|item| item.channel = ChannelName::new("x").unwrap(), &good, "it is for another channel");
    check(&|_| (), &trust(&[1, 2], 2), "TooFew");
    check(&|_| (), &trust(&[2], 1), "Untrusted");
    let other = FleetId::new("other").unwrap();
    let error = open_assigned(&sealed, &other, &item(&manifest), &good).unwrap_err();
    assert_eq!(error, ContentError::Elsewhere("fleet"));

    // The digest is looked at before the signature, the signature before the payload.
    let broken = envelope::seal(envelope::MANIFEST, b"no manifest".to_vec(), &key(1));
    let named = Digest::of(b"no manifest");
    let error = open_manifest(&broken, &named, &trust(&[2], 1)).unwrap_err();
    assert_eq!(error, ContentError::Envelope(EnvelopeError::Untrusted));
    let error = open_manifest(&broken, &named, &good).unwrap_err();
    assert!(matches!(error, ContentError::Envelope(EnvelopeError::Payload(_))));
}

#[test]
fn an_index_for_another_manifest_is_refused() {
    let sealed = seal_index(&sample_index(), &key(1));
    let keys = trust(&[1], 1).keys;
    let error = open_index(&sealed, &digest(1), &sample(), &keys).unwrap_err();
    assert_eq!(error, ContentError::Elsewhere("manifest"));
}

#[test]
fn signed_but_broken_manifests_are_refused_by_field() {
    let check = |change: &dyn Fn(&mut v1::Manifest), expected: &str| {
        let mut message = v1::Manifest::decode(&encode_manifest(&sample())[..]).unwrap();
        change(&mut message);
        assert_eq!(read_manifest(&message.encode_to_vec()).unwrap_err().to_string(), expected);
    };
    let path = |text: &str| {
        let text = text.to_owned();
        move |m: &mut v1::Manifest| m.files[0].path.clone_from(&text)
    };
    let dots = "field path has the name \"..\", which means another folder";
    check(&path("../../etc/cron.d/x"), dots);
    let absolute = "field path starts with \"/\"; only paths inside the content are allowed";
    check(&path("/etc/passwd"), absolute);
    check(&path(""), "field path is empty");
    check(&path(&"x".repeat(10_240)), "field path is 10240 bytes long; at most 1024 are allowed");
    let twice = "field manifest names \"b/c\" twice or out of order: files must be ordered by path";
    check(&path("b/c"), twice);
    check(&path("b"), "field manifest names \"b\" as a file and as a folder");
    let case = "field manifest names \"B/c\" and \"b/c\", which are the same where case makes no difference";
    check(&path("B/x"), &case.replace("B/c", "B").replace("b/c", "b"));
    check(
        &|m| m.files[0].bytes = 2,
        "field manifest has files of 6 bytes and chunks of 7 bytes; both must be the whole content",
    );
    let long = "field manifest is a content of 18446744073709551615 bytes; at most 4294967296 are allowed";
    check(&|m| m.files[0].bytes = u64::MAX, long);
    let each = "field chunk_digests is not 32 bytes for each of chunk_bytes";
    check(&|m| m.chunk_bytes.push(1), each);
    check(&|m| m.chunk_digests.push(1), each);
    check(&|m| m.files[0].digest.push(1), "field digest is not 32 bytes long");
    check(&|m| m.channel = "a//b".to_owned(), "field channel \"\" in it must not be empty");
    check(&|m| m.fleet.clear(), "field fleet must not be empty");
    let many = vec![v1::ManifestFile::default(); 4097];
    check(&|m| m.files.clone_from(&many), "field files has more than 4096 entries");
    check(&|m| m.chunk_digests = vec![0; 1_000_000], "is 1000151 bytes long; at most 983040 are accepted");
}

#[test]
fn signed_but_broken_indexes_are_refused_by_field() {
    let check = |change: &dyn Fn(&mut v1::ContentIndex), expected: &str| {
        let mut message = v1::ContentIndex::decode(&encode_index(&sample_index())[..]).unwrap();
        change(&mut message);
        assert_eq!(read_index(&message.encode_to_vec()).unwrap_err().to_string(), expected);
    };
    check(&|m| m.manifest.clear(), "field manifest is not 32 bytes long");
    let runs = "field old_offsets has another number of entries than old_bytes, or more than 256";
    check(&|m| m.deltas[1].frames[0].old_bytes.push(1), runs);
    let sums = "field deltas has frames stored in 5 bytes and parts of 6 bytes; both must be all of it";
    check(&|m| m.deltas[1].parts[0].bytes = 2, sums);
    check(&|m| m.deltas.reverse(), "field index has deltas twice from one content or out of order");
    check(&|m| m.deltas[0].from = vec![1], "field from is not 32 bytes long");
    check(&|m| m.deltas = vec![v1::Delta::default(); 129], "field deltas has more than 128 entries");
}

#[test]
fn a_census_is_cut_to_what_fits() {
    let holders = |channel: &str| Holders {
        channel: ChannelName::new(channel).unwrap(),
        revision: ContentRevision(7),
        active: 1_000_000,
        fetching: 3,
    };
    let census = Census { replica: 5, holders: vec![holders("rules"), holders("a/b")] };
    assert_eq!(read_census(&encode_census(&census)), Ok(census));

    let name = vec!["n".repeat(64); 4].join("/");
    let long = Census { replica: 5, holders: vec![holders(&name); 5_000] };
    let bytes = encode_census(&long);
    assert!(bytes.len() <= MAX_CENSUS_BYTES && bytes.len() > MAX_CENSUS_BYTES - 300);
    assert!(read_census(&bytes).unwrap().holders.iter().all(|found| *found == long.holders[0]));
    let short = Census { replica: 5, holders: vec![holders("a"); 5_000] };
    assert_eq!(read_census(&encode_census(&short)).unwrap().holders.len(), MAX_HOLDERS);
}

#[test]
fn the_largest_of_each_fits_into_one_message() {
    for (files, chunks) in [(2_010, 20_480_u64), (1, 16_384)] {
        let bytes = if files == 1 { 262_144 } else { 209_000 };
        let total = chunks * u64::from(bytes);
        let files = (0..files).map(|n| file(&format!("{n:020}/{n:044}"), if n == 0 { total } else { 0 }));
        let chunks = (0..chunks).map(|n| ChunkEntry { digest: Digest::of(&n.to_be_bytes()), bytes });
        let manifest = manifest(files.collect(), chunks.collect());
        let encoded = encode_manifest(&manifest);
        assert!(encoded.len() <= MAX_MANIFEST_BYTES, "{}", encoded.len());
        assert_eq!(read_manifest(&encoded), Ok(manifest));
    }
}

fn frames() -> impl Strategy<Value = DeltaFrame> {
    let run = (0..u64::from(u32::MAX) / 2, 1_u32..1000).prop_map(|(offset, bytes)| OldRun { offset, bytes });
    let old = proptest::collection::vec(run, 0..5);
    (1_u32..1 << 23, 1_u32..512, old).prop_map(|(bytes, stored_bytes, old)| DeltaFrame {
        bytes,
        stored_bytes,
        old,
        new_bytes: 0,
    })
}

proptest! {
    #[test]
    fn manifests_round_trip_and_keep_their_bound(
        lengths in proptest::collection::vec(0_u32..1_000_000, 1..50),
        name in "[a-z]{1,200}",
    ) {
        let files = lengths.iter().enumerate().map(|(n, bytes)| file(&format!("{n:03}/{name}"), (*bytes).into()));
        let total: u32 = lengths.iter().sum();
        let longest = domain::content::manifest::MAX_CHUNK_BYTES;
        let chunks = (0..total.div_ceil(longest))
            .map(|n| ChunkEntry { digest: digest(n), bytes: (total - n * longest).min(longest) });
        let manifest = manifest(files.collect(), chunks.collect());
        prop_assert_eq!(read_manifest(&encode_manifest(&manifest)), Ok(manifest));
    }

    #[test]
    fn deltas_round_trip(frames in proptest::collection::vec(frames(), 1..20), from in 1_u32..5) {
        let stored = frames.iter().map(|frame| frame.stored_bytes).sum();
        let parts = vec![DeltaPart { bytes: stored, digest: digest(1) }];
        let delta = Delta::new(Some(digest(from)), frames, parts).unwrap();
        let fleet = FleetId::new("main").unwrap();
        let index = ContentIndex::new(fleet, digest(0), vec![1; 100], vec![delta]).unwrap();
        prop_assert_eq!(read_index(&encode_index(&index)), Ok(index));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = read_manifest(&bytes);
        let _ = read_index(&bytes);
        let _ = read_census(&bytes);
    }

    #[test]
    fn no_changed_byte_makes_it_panic(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        for mut bytes in [encode_manifest(&sample()), encode_index(&sample_index())] {
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _ = read_manifest(&bytes);
            let _ = read_index(&bytes);
        }
    }
}
