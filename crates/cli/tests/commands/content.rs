//! `muster content` against a scripted server: what travels, what is refused, what is left behind.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::scripted::{Outcome, Reply, Server};
use cli::exit;
use cli::terminal::Traits;
use codec::chunk::Chunker;
use domain::content::{ChannelName, FilePath, Manifest, ManifestFile};
use domain::{Digest, FleetId};
use tempfile::TempDir;
use tonic::Status;
use wire::api::v1::fetch_response::Piece;
use wire::api::v1::revision_selector::Which;
use wire::api::v1::{
    BeginUploadRequest, BeginUploadResponse, Channel, ContentChange, FetchHead, FetchRequest, FetchResponse,
    FinishUploadRequest, FinishUploadResponse, GetRevisionRequest, ListChannelsResponse, Patch,
    PromoteRequest, Revision, RevisionDetail, RollbackContentRequest, Stage, UploadChunksRequest,
    UploadChunksResponse,
};

/// Bytes without repetition, the same in each run.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// A content on disk, and what a server would know of it.
struct Content {
    folder: TempDir,
    bytes: Vec<u8>,
    manifest: Manifest,
}

impl Content {
    fn new(files: &[(&str, Vec<u8>)]) -> Self {
        let folder = tempfile::tempdir().expect("the test can be set up");
        for (path, bytes) in files {
            let place = folder.path().join("rules").join(path);
            fs::create_dir_all(place.parent().expect("the test can be set up"))
                .expect("the test can be set up");
            fs::write(place, bytes).expect("the test can be set up");
        }
        let bytes = files.iter().flat_map(|(_, bytes)| bytes.clone()).collect::<Vec<u8>>();
        let length = u64::try_from(bytes.len()).expect("the test can be set up");
        let chunks = Chunker::new(&bytes[..], length)
            .map(|chunk| chunk.expect("the test can be set up").entry())
            .collect();
        let file = |(path, bytes): &(&str, Vec<u8>)| ManifestFile {
            path: FilePath::new(path).expect("the test can be set up"),
            bytes: bytes.len().try_into().expect("the test can be set up"),
            digest: Digest::of(bytes),
            executable: false,
        };
        let (fleet, channel) = (
            FleetId::new("main").expect("the test can be set up"),
            ChannelName::new("definitions/ips").expect("the test can be set up"),
        );
        let files = files.iter().map(file).collect();
        let manifest =
            Manifest::new(fleet, channel, files, chunks, Digest::of(&bytes)).expect("the test can be set up");
        Self { folder, bytes, manifest }
    }

    fn sample() -> Self {
        Self::new(&[("a.rules", noise(400_000, 1)), ("b/c.rules", noise(300_000, 2))])
    }

    fn path(&self) -> String {
        self.folder.path().join("rules").display().to_string()
    }

    fn digest(&self) -> Digest {
        wire::content::manifest_digest(&self.manifest)
    }

    fn chunks(&self) -> usize {
        self.manifest.chunks().len()
    }

    fn chunk(&self, position: usize) -> &[u8] {
        let (start, chunk) = self.manifest.placed_chunks().nth(position).expect("the test can be set up");
        let start = usize::try_from(start).expect("the test can be set up");
        &self.bytes[start..start + usize::try_from(chunk.bytes).expect("the test can be set up")]
    }

    fn begun(&self, missing: impl IntoIterator<Item = usize>) -> Reply {
        Reply::message(&BeginUploadResponse {
            manifest: self.digest().0.to_vec(),
            manifest_payload: wire::content::encode_manifest(&self.manifest),
            missing: missing
                .into_iter()
                .map(|position| position.try_into().expect("the test can be set up"))
                .collect(),
            expires_at: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            ..BeginUploadResponse::default()
        })
    }

    fn revision(&self, number: u32) -> Revision {
        Revision {
            channel: "definitions/ips".into(),
            revision: number,
            bytes: self.manifest.content_bytes(),
            files: self.manifest.files().len().try_into().expect("the test can be set up"),
            digest: self.manifest.digest().0.to_vec(),
            manifest: self.digest().0.to_vec(),
            ..Revision::default()
        }
    }

    fn finished(&self) -> Reply {
        let revision = Some(self.revision(2));
        Reply::message(&FinishUploadResponse { revision, created: true, store_revision: 9 })
    }

    fn head(&self) -> Vec<u8> {
        let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
        let sealed = wire::content::seal_manifest(&self.manifest, &[key]);
        let manifest = prost::Message::encode_to_vec(&sealed);
        piece(Piece::Head(FetchHead { revision: Some(self.revision(2)), manifest }))
    }

    /// What a fetch from this chunk on sends.
    fn pieces(&self, from: usize) -> Vec<Vec<u8>> {
        let frame = |position| piece(Piece::Frame(codec::frame::compress(self.chunk(position))));
        std::iter::once(self.head()).chain((from..self.chunks()).map(frame)).collect()
    }

    #[track_caller]
    fn assert_at(&self, folder: &Path) {
        for (start, file) in self.manifest.placed_files() {
            let start = usize::try_from(start).expect("the test can be set up");
            let end = start + usize::try_from(file.bytes).expect("the test can be set up");
            assert!(
                fs::read(folder.join(file.path.as_str())).expect("the test can be set up")
                    == self.bytes[start..end],
                "{}",
                file.path
            );
        }
        assert!(!folder.join(".muster-fetch").exists());
    }
}

fn piece(piece: Piece) -> Vec<u8> {
    prost::Message::encode_to_vec(&FetchResponse { piece: Some(piece) })
}

fn channel(revisions: Vec<Revision>) -> Reply {
    let stage = |name: &str, revision| Stage { name: name.into(), revision, previous: Vec::new() };
    Reply::message(&Channel {
        name: "definitions/ips".into(),
        revisions,
        stages: vec![stage("canary", 2), stage("stable", 1)],
        ..Channel::default()
    })
}

fn two_revisions(content: &Content) -> Reply {
    channel(vec![content.revision(2), Revision { label: "first".into(), ..content.revision(1) }])
}

fn stored() -> Reply {
    Reply::message(&UploadChunksResponse::default())
}

fn push(server: &Server, content: &Content, more: &[&str]) -> Outcome {
    let path = content.path();
    server.run(&[&["content", "push", "definitions/ips", &path], more].concat())
}

#[test]
fn a_push_sends_what_is_missing_and_says_what_it_saved() {
    let content = Content::sample();
    assert!(content.chunks() >= 4, "{}", content.chunks());
    let server = Server::start([
        ("BeginUpload", vec![content.begun([1, 3])]),
        ("UploadChunks", vec![stored()]),
        ("FinishUpload", vec![content.finished()]),
    ]);
    let outcome = push(&server, &content, &["--label", "nov", "--note", "why"]);
    assert_eq!((outcome.code, outcome.err.as_str()), (exit::OK, ""));
    assert_eq!(server.asked(), ["BeginUpload", "UploadChunks", "FinishUpload"]);

    let begun = &server.requests::<BeginUploadRequest>("BeginUpload")[0][0];
    let paths: Vec<&str> = begun.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!((begun.channel.as_str(), paths), ("definitions/ips", vec!["a.rules", "b/c.rules"]));
    assert_eq!(begun.digest, Digest::of(&content.bytes).0);
    assert_eq!(begun.chunk_bytes.len(), content.chunks());

    let sent = &server.requests::<UploadChunksRequest>("UploadChunks")[0];
    assert_eq!(sent.iter().map(|it| it.position).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(
        (sent[0].manifest.as_slice(), sent[1].manifest.as_slice()),
        (&content.digest().0[..], &[][..])
    );
    for request in sent {
        let raw = content.chunk(usize::try_from(request.position).unwrap());
        assert!(codec::frame::decompress(&request.frame, raw.len()).unwrap() == raw);
    }
    let finished = &server.requests::<FinishUploadRequest>("FinishUpload")[0][0];
    assert_eq!((finished.label.as_str(), finished.note.as_str()), ("nov", "why"));
    assert!(finished.signatures.is_empty());

    let travelled: usize = sent.iter().map(|request| request.frame.len()).sum();
    let saved = content.bytes.len() - travelled;
    let expected = format!(
        "revision 2 of definitions/ips: 2 files, 683 KiB in {} chunks\nsent {} in 2 chunks; saved {} ({} %)\n",
        content.chunks(),
        wire::size::rounded(travelled.try_into().unwrap()),
        wire::size::rounded(saved.try_into().unwrap()),
        saved * 100 / content.bytes.len()
    );
    assert_eq!(outcome.out, expected);
}

#[test]
fn a_push_that_breaks_off_goes_on_where_it_was() {
    let content = Content::sample();
    let all = 0..content.chunks();
    let last = content.chunks() - 1;
    let server = Server::start([
        ("BeginUpload", vec![content.begun(all), content.begun([last]), content.begun([])]),
        ("UploadChunks", vec![Reply::Broken(vec![]), stored()]),
        ("FinishUpload", vec![Reply::Refusal(Status::unavailable("restarting")), content.finished()]),
    ]);
    let outcome = push(&server, &content, &[]);
    assert_eq!(outcome.code, exit::OK, "{}", outcome.err);
    let expected = [
        "BeginUpload",
        "UploadChunks",
        "BeginUpload",
        "UploadChunks",
        "FinishUpload",
        "BeginUpload",
        "FinishUpload",
    ];
    assert_eq!(server.asked(), expected);
    let sent = server.requests::<UploadChunksRequest>("UploadChunks");
    assert_eq!(sent[1].iter().map(|it| usize::try_from(it.position).unwrap()).collect::<Vec<_>>(), [last]);
    let told: Vec<&str> = outcome.err.lines().collect();
    assert_eq!(told.len(), 2, "{}", outcome.err);
    assert!(told[0].starts_with("note: the connection broke off; "), "{}", told[0]);
    assert!(told[1].starts_with("note: restarting; "), "{}", told[1]);
}

#[test]
fn a_content_that_is_there_already_is_not_sent() {
    let content = Content::sample();
    let revision = Revision { label: "nov".into(), ..content.revision(7) };
    let existing = BeginUploadResponse { existing: Some(revision), ..BeginUploadResponse::default() };
    let change = ContentChange {
        store_revision: 12,
        revision: Some(Revision { stages: vec!["canary".into()], ..content.revision(7) }),
        stage: "canary".into(),
        stage_before: 6,
        groups_touched: 1,
        agents_touched: 3,
        ..ContentChange::default()
    };
    let newest = |patches: &[u32], patches_pending| {
        let patches = patches.iter().map(|from| Patch { from: *from, bytes: 1 }).collect();
        Reply::message(&RevisionDetail { patches, patches_pending, ..RevisionDetail::default() })
    };
    let server = Server::start([
        ("BeginUpload", vec![Reply::message(&existing)]),
        ("GetChannel", vec![two_revisions(&content)]),
        ("GetRevision", vec![newest(&[], 2), newest(&[1], 1), newest(&[1, 2], 3)]),
        ("Promote", vec![Reply::message(&change)]),
    ]);
    let already = "revision 7 (nov) of definitions/ips holds exactly this already; nothing was sent\n";
    push(&server, &content, &[]).assert(exit::OK, already, "");
    assert_eq!(server.asked(), ["BeginUpload"]);

    let promoted = "\nupdated  Channel  definitions/ips  canary: 6 -> 7\n\n\
         revision 12: 1 group gets a new snapshot; 3 agents are in it\n";
    push(&server, &content, &["--promote", "canary"]).assert(exit::OK, &format!("{already}{promoted}"), "");
    let asked = ["BeginUpload", "GetChannel", "GetRevision", "GetRevision", "GetRevision", "Promote"];
    assert_eq!(server.asked()[1..], asked, "the patch from what canary names is waited for");
    let json = push(&server, &content, &["--promote", "canary", "-o", "json"]).json();
    assert_eq!(json["revision"]["stages"], serde_json::json!(["canary"]));
    assert_eq!((&json["storeRevision"], &json["created"]), (&"12".into(), &serde_json::Value::Null));
}

#[test]
fn a_file_that_changes_during_a_push_is_refused() {
    let content = Content::sample();
    let place = Path::new(&content.path()).join("b/c.rules");
    let action = move || fs::write(&place, noise(300_000, 9)).unwrap();
    let begun = Reply::After(Arc::new(action), Box::new(content.begun([content.chunks() - 1])));
    let server = Server::start([("BeginUpload", vec![begun]), ("UploadChunks", vec![stored()])]);
    let path = content.path();
    push(&server, &content, &[]).assert(
        exit::REFUSED,
        "",
        &format!("error: {path}/b/c.rules changed while it was being pushed: push again when nothing writes to it\n"),
    );
    let sent = server.requests::<UploadChunksRequest>("UploadChunks").concat();
    assert!(sent.is_empty(), "nothing wrong was sent");
}

#[test]
fn names_and_things_that_are_no_files_never_reach_the_server() {
    let content = Content::sample();
    std::os::unix::fs::symlink("a.rules", Path::new(&content.path()).join("link")).unwrap();
    fs::write(Path::new(&content.path()).join("back\\slash"), "x").unwrap();
    let server = Server::start([]);
    let path = content.path();
    push(&server, &content, &[]).assert(
        exit::REFUSED,
        "",
        &format!(
            "error: {path} cannot be pushed\n\
             \u{20} {path}/back\\slash cannot have this path in a content: it has the character '\\\\' at byte 4; \
             backslashes and control characters are not allowed; rename it\n\
             \u{20} {path}/link is a symbolic link: put what it points to in its place, or leave it out\n"
        ),
    );
    let none = server.run(&["content", "push", "definitions/ips", "/nowhere/at/all"]);
    assert_eq!(none.code, exit::FAILED);
    assert!(none.err.starts_with("error: cannot read /nowhere/at/all: "), "{}", none.err);
    for label in ["7", "@stable", "#7", &"x".repeat(65)] {
        assert_eq!(push(&server, &content, &["--label", label]).code, exit::USAGE, "{label}");
    }
    assert_eq!(server.asked(), [] as [&str; 0]);
}

#[test]
fn a_server_that_would_sign_something_else_is_refused() {
    let (content, other) = (Content::sample(), Content::new(&[("a.rules", noise(10, 5))]));
    let server = Server::start([("BeginUpload", vec![other.begun([0])])]);
    push(&server, &content, &[]).assert(
        exit::FAILED,
        "",
        "error: the server's answer cannot be used: its manifest is not of the content that was sent\n",
    );
}

#[test]
fn further_keys_sign_what_the_server_will_sign() {
    use std::os::unix::fs::PermissionsExt as _;
    let content = Content::new(&[("a.rules", noise(10, 1))]);
    let path = content.folder.path().join("second.key");
    fs::write(&path, [7; 32]).unwrap();
    let server =
        Server::start([("BeginUpload", vec![content.begun([])]), ("FinishUpload", vec![content.finished()])]);
    let name = path.display().to_string();
    let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    mode(0o644);
    let readable = push(&server, &content, &["--sign-with", &name]);
    assert!(readable.code == exit::REFUSED && readable.err.contains("run chmod 600"), "{}", readable.err);
    mode(0o600);
    let outcome = push(&server, &content, &["--sign-with", &name]);
    assert_eq!(outcome.out.lines().nth(1), Some("sent nothing: every chunk was there already"));
    let request = server.requests::<FinishUploadRequest>("FinishUpload")[0][0].clone();
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let sealed = wire::content::seal_manifest(&content.manifest, &[key]);
    assert_eq!(request.signatures[0].key_id, sealed.signatures[0].key_id);
    assert_eq!(request.signatures[0].signature, sealed.signatures[0].signature);
    fs::write(&path, [7; 31]).unwrap();
    assert!(push(&server, &content, &["--sign-with", &name]).err.contains("it is no content key"));
}

#[test]
fn stages_are_set_to_the_newest_or_to_what_is_named() {
    let content = Content::sample();
    let change = ContentChange {
        store_revision: 12,
        revision: Some(content.revision(2)),
        stage: "stable".into(),
        dry_run: true,
        groups_touched: 2,
        agents_touched: 1,
        ..ContentChange::default()
    };
    let server = Server::start([
        ("GetChannel", vec![two_revisions(&content)]),
        ("Promote", vec![Reply::message(&change)]),
        ("Rollback", vec![Reply::message(&change)]),
    ]);
    server.run(&["content", "promote", "definitions/ips", "--stage", "stable", "--dry-run"]).assert(
        exit::OK,
        "updated  Channel  definitions/ips  stable: (none) -> 2\n\n\
         dry run, nothing was written: 2 groups would get a new snapshot; 1 agent is in them\n",
        "",
    );
    for named in [&["definitions/ips", "@stable"][..], &["definitions/ips@first"], &["definitions/ips", "1"]]
    {
        let outcome =
            server.run(&[&["content", "promote"], named, &["--stage", "@canary", "-m", "why"]].concat());
        assert_eq!(outcome.code, exit::OK, "{}", outcome.err);
    }
    let requests = server.requests::<PromoteRequest>("Promote").concat();
    let which: Vec<_> = requests.iter().map(|it| it.selector.as_ref().unwrap().which.clone()).collect();
    assert_eq!(which, [None, Some(Which::Revision(1)), Some(Which::Revision(1)), Some(Which::Revision(1))]);
    let last = requests.last().unwrap();
    assert_eq!((last.stage.as_str(), last.message.as_str(), last.dry_run), ("canary", "why", false));

    assert_eq!(server.run(&["content", "rollback", "definitions/ips", "--stage", "stable"]).code, exit::OK);
    let to = ["content", "rollback", "definitions/ips", "--stage", "stable", "--to", "first"];
    assert_eq!(server.run(&to).code, exit::OK);
    let requests = server.requests::<RollbackContentRequest>("Rollback").concat();
    assert_eq!(requests.iter().map(|it| it.to).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn what_is_not_there_is_told_with_what_there_is() {
    let content = Content::sample();
    let there = ListChannelsResponse {
        channels: ["definitions/ips", "models/text"]
            .map(|name| Channel { name: name.into(), ..Channel::default() })
            .into(),
        ..ListChannelsResponse::default()
    };
    let server = Server::start([
        ("GetChannel", vec![Reply::Refusal(Status::not_found("no")), two_revisions(&content)]),
        ("ListChannels", vec![Reply::message(&there)]),
    ]);
    server.run(&["content", "show", "definitions/isp"]).assert(
        exit::NOT_FOUND,
        "",
        "error: there is no content channel definitions/isp\n\
         try: there are definitions/ips, models/text; `muster content push CHANNEL PATH` makes another\n",
    );
    server.run(&["content", "pin", "definitions/ips", "9"]).assert(
        exit::NOT_FOUND,
        "",
        "error: definitions/ips has no revision 9\n\
         try: it has 2, 1 (first); stages: @canary (2), @stable (1)\n",
    );
    for wrong in [&["content", "pin", "definitions/ips"][..], &["content", "show", "definitions/ips@1", "1"]]
    {
        assert_eq!(server.run(wrong).code, exit::USAGE, "{wrong:?}");
    }
}

#[test]
fn a_channel_or_one_of_its_revisions_is_shown() {
    let content = Content::sample();
    let detail = RevisionDetail { revision: Some(content.revision(1)), ..RevisionDetail::default() };
    let server = Server::start([
        ("GetChannel", vec![two_revisions(&content)]),
        ("GetRevision", vec![Reply::message(&detail)]),
    ]);
    let whole = server.run(&["content", "show", "definitions/ips", "-o", "json"]).json();
    assert_eq!(whole["revisions"].as_array().unwrap().len(), 2);
    let one = server.run(&["content", "show", "definitions/ips@stable", "-o", "json"]).json();
    assert_eq!(one["revision"]["revision"], 1);
    let asked = server.requests::<GetRevisionRequest>("GetRevision").concat();
    assert_eq!(asked[0].selector.as_ref().unwrap().which, Some(Which::Revision(1)));
}

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

    let director = ed25519_dalek::SigningKey::from_bytes(&[1; 32]).verifying_key();
    let trust = |seed: u8, fleet: &str| {
        let keys = vec![ed25519_dalek::SigningKey::from_bytes(&[seed; 32]).verifying_key()];
        let content = wire::envelope::ContentTrust { keys, threshold: 1 };
        let path = temporary.path().join(format!("trust-root-{seed}-{fleet}"));
        fs::write(&path, wire::envelope::trust_root(&FleetId::new(fleet).unwrap(), &director, &content))
            .unwrap();
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

#[test]
fn what_is_gone_for_good_is_asked_for() {
    let content = Content::sample();
    let change =
        ContentChange { store_revision: 12, revision: Some(content.revision(1)), ..ContentChange::default() };
    let server = Server::start([
        ("GetChannel", vec![two_revisions(&content)]),
        ("Retire", vec![Reply::message(&change)]),
        (
            "DeleteChannel",
            vec![Reply::message(&ContentChange { store_revision: 13, ..ContentChange::default() })],
        ),
    ]);
    let person = Traits { in_is_terminal: true, ..Traits::default() };
    server.run_with(&["content", "retire", "definitions/ips", "first"], "y\n", person).assert(
        exit::OK,
        "deleted  Channel  definitions/ips  revision 1\n\nrevision 12: no group gets a new snapshot\n",
        "retire revision 1 of definitions/ips? [y/N] ",
    );
    server.run_with(&["content", "delete", "definitions/ips"], "y\n", person).assert(
        exit::OK,
        "deleted  Channel  definitions/ips\n\nrevision 13: no group gets a new snapshot\n",
        "delete channel definitions/ips with its 2 revisions? [y/N] ",
    );
    assert_eq!(server.run(&["content", "delete", "definitions/ips"]).code, exit::USAGE);
}
