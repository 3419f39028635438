//! `muster content fetch`: what is written, what is refused, what is left behind.

use domain::Timestamp;
use domain::trust::{Role, Root};

use super::*;

fn fetch(server: &Server, folder: &Path, more: &[&str]) -> Outcome {
    let folder = folder.display().to_string();
    server.run(&[&["content", "fetch", "definitions/ips", "--to", &folder], more].concat())
}

fn serving(content: &Content, replies: Vec<Reply>) -> Server {
    Server::start([("GetChannel", vec![two_revisions(content)]), ("Fetch", replies)])
}

#[test]
fn a_fetch_writes_the_newest_revision_and_needs_no_second_one() {
    let (content, temporary) = (Content::sample(), tempfile::tempdir().unwrap());
    let server = serving(&content, vec![Reply::Messages(content.pieces(0))]);
    let target = temporary.path().join("target");
    let outcome = fetch(&server, &target, &[]);
    assert_eq!((outcome.code, outcome.err.as_str()), (exit::OK, ""));
    content.assert_at(&target);
    let first = format!("revision 2 of definitions/ips is in {}: 2 files, 683 KiB\n", target.display());
    assert!(outcome.out.starts_with(&first), "{}", outcome.out);
    let json = fetch(&server, &target, &["-o", "json"]).json();
    assert_eq!(json["revision"], 2);
    let asked = server.requests::<FetchRequest>("Fetch").concat();
    assert_eq!(asked.iter().map(|it| it.from_chunk).collect::<Vec<_>>(), [0, 0]);
}

#[test]
fn a_fetch_that_breaks_off_goes_on_at_the_next_chunk() {
    let (content, temporary) = (Content::sample(), tempfile::tempdir().unwrap());
    let half = content.chunks() / 2;
    let first = Reply::Messages(content.pieces(0)[..=half].to_vec());
    let server = serving(&content, vec![Reply::Broken(vec![]), first, Reply::Messages(content.pieces(half))]);
    let outcome = fetch(&server, &temporary.path().join("target"), &[]);
    assert_eq!(outcome.code, exit::OK, "{}", outcome.err);
    let told = [
        "note: the connection broke off; trying again",
        "note: the server ended before the content did; trying again",
    ];
    assert_eq!(outcome.err.lines().collect::<Vec<_>>(), told);
    content.assert_at(&temporary.path().join("target"));
    let asked = server.requests::<FetchRequest>("Fetch").concat();
    assert_eq!(
        asked.iter().map(|it| it.from_chunk).collect::<Vec<_>>(),
        [0, 0, u32::try_from(half).unwrap()]
    );
}

#[test]
fn wrong_bytes_are_refused_and_not_left_behind() {
    let content = Content::sample();
    let other = Content::new(&[("a.rules", noise(400_000, 3)), ("b/c.rules", noise(300_000, 2))]);
    let wrong = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
        let temporary = tempfile::tempdir().unwrap();
        let mut pieces = content.pieces(0);
        change(&mut pieces);
        let server = serving(&content, vec![Reply::Messages(pieces)]);
        let outcome = fetch(&server, &temporary.path().join("target"), &[]);
        assert_eq!(outcome.out, "");
        let left: Vec<_> = walk(&temporary.path().join("target"));
        assert!(left.iter().all(|path| path.contains("/.muster-fetch")), "{left:?}");
        (outcome.code, outcome.err)
    };
    let chunk = "error: chunk 0 is not what the manifest says: nothing of it was kept\n";
    let frame = |raw: &[u8]| piece(Piece::Frame(codec::frame::compress(raw)));
    let flipped = |pieces: &mut Vec<Vec<u8>>| {
        let mut raw = content.chunk(0).to_vec();
        raw[7] ^= 1;
        pieces[1] = frame(&raw);
    };
    assert_eq!(wrong(&flipped), (exit::REFUSED, chunk.to_owned()));
    let swapped = |pieces: &mut Vec<Vec<u8>>| pieces.swap(1, 2);
    assert_eq!(wrong(&swapped), (exit::REFUSED, chunk.to_owned()));
    let bomb = |pieces: &mut Vec<Vec<u8>>| pieces[1] = frame(&vec![0; 64 << 20]);
    assert_eq!(wrong(&bomb), (exit::REFUSED, chunk.to_owned()));
    let garbage = |pieces: &mut Vec<Vec<u8>>| pieces[1] = piece(Piece::Frame(vec![1, 2, 3]));
    assert_eq!(wrong(&garbage), (exit::REFUSED, chunk.to_owned()));
    let manifest = |pieces: &mut Vec<Vec<u8>>| pieces[0] = other.head();
    let (code, told) = wrong(&manifest);
    assert_eq!(
        (code, told.contains("the manifest is not the one of the revision")),
        (exit::FAILED, true),
        "{told}"
    );
}

fn walk(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries
        .flat_map(|entry| {
            let path = entry.expect("the test can be set up").path();
            if path.is_dir() { walk(&path) } else { vec![path.display().to_string()] }
        })
        .collect()
}

#[test]
fn a_fetch_takes_only_the_manifest_that_the_caller_pinned_and_trusts() {
    let (content, temporary) = (Content::sample(), tempfile::tempdir().unwrap());
    let target = temporary.path().join("target");
    let server = serving(&content, vec![Reply::Messages(content.pieces(0))]);
    let pinned = fetch(&server, &target, &["--manifest", &Digest::of(b"x").to_string()]);
    assert_eq!((pinned.code, pinned.out.as_str()), (exit::REFUSED, ""));
    assert!(pinned.err.contains(&format!("not {}", Digest::of(b"x"))), "{}", pinned.err);

    let key = |seed: u8| ed25519_dalek::SigningKey::from_bytes(&[seed; 32]);
    let role = |seed| Role::of_one(wire::sign::public_key(&key(seed).verifying_key()));
    let trust = |seed: u8, fleet: &str| {
        let path = temporary.path().join(format!("trust-root-{seed}-{fleet}"));
        let root = Root {
            fleet: FleetId::new(fleet).unwrap(),
            version: 1,
            issued_at: Timestamp(1),
            expires_at: Timestamp(2),
            root: role(1),
            director: role(2),
            content: role(seed),
        };
        let mut envelope = wire::root::unsigned(&root);
        wire::root::sign(&mut envelope, &key(1)).unwrap();
        fs::write(&path, wire::root::Chain::begin(envelope).unwrap().encode()).unwrap();
        path.display().to_string()
    };
    for (seed, fleet, why) in
        [(8, "main", "it is not signed content"), (7, "other", "it is for fleet main, not other")]
    {
        let outcome = fetch(&server, &target, &["--trust-root", &trust(seed, fleet)]);
        assert_eq!((outcome.code, target.exists()), (exit::REFUSED, false));
        assert!(outcome.err.contains(why), "{}", outcome.err);
    }
    let right = ["--manifest", &content.digest().to_string(), "--trust-root", &trust(7, "main")];
    let outcome = fetch(&server, &target, &right);
    assert_eq!(outcome.code, exit::OK, "{}", outcome.err);
    assert!(outcome.out.ends_with("digests and signatures are right\n"), "{}", outcome.out);
    content.assert_at(&target);
}
