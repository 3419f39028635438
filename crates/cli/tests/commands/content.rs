//! `muster content` against a scripted server.

mod fetch;
mod push;

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
    let stage = |name: &str, revision| Stage { name: name.into(), revision, ..Stage::default() };
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
