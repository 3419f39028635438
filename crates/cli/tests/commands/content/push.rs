//! `muster content push`: what travels, what is refused, what it says.

use std::sync::OnceLock;

use tonic::Code;
use tonic_types::{ErrorDetails, StatusExt as _};

use super::*;

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
fn a_push_begins_again_when_the_server_lost_some_of_it() {
    let content = Content::sample();
    let info =
        |reason: &str| ErrorDetails::with_error_info(reason, "muster.dev", std::collections::HashMap::new());
    let gone = |reason, message: &str| {
        Reply::Refusal(Status::with_error_details(Code::FailedPrecondition, message, info(reason)))
    };
    let server = Server::start([
        ("BeginUpload", vec![content.begun([]), content.begun([1])]),
        ("UploadChunks", vec![gone("NO_UPLOAD", "its time is over"), stored()]),
        ("FinishUpload", vec![gone("MISSING_CHUNKS", "chunk 1 is gone"), content.finished()]),
    ]);
    let outcome = push(&server, &content, &[]);
    assert_eq!(outcome.code, exit::OK, "{}", outcome.err);
    assert!(outcome.err.starts_with("note: chunk 1 is gone; "), "{}", outcome.err);
    let begun = server.asked().iter().filter(|method| *method == "BeginUpload").count();
    assert_eq!(begun, 3);

    let refused = gone("SIGNATURES", "two keys must sign");
    let server = Server::start([("BeginUpload", vec![content.begun([])]), ("FinishUpload", vec![refused])]);
    assert_eq!(push(&server, &content, &[]).code, exit::REFUSED);
    assert_eq!(server.asked(), ["BeginUpload", "FinishUpload"], "what cannot pass is not tried again");
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
fn ctrl_c_says_that_the_same_command_goes_on() {
    let content = Content::sample();
    let child: Arc<OnceLock<u32>> = Arc::default();
    let of_child = Arc::clone(&child);
    let interrupt = move || {
        let id = of_child.wait().to_string();
        let sent = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(sent.is_ok_and(|status| status.success()), "the command can be interrupted");
    };
    let server = Server::start([
        ("BeginUpload", vec![content.begun(0..content.chunks())]),
        ("UploadChunks", vec![Reply::After(Arc::new(interrupt), Box::new(Reply::Broken(vec![])))]),
    ]);
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_muster"))
        .args(["content", "push", "definitions/ips", &content.path(), "--server", &server.url()])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.set(command.id()).unwrap();
    let output = command.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(exit::STOPPED.into()));
    let expected = "error: stopped; what was sent is kept until 2023-11-14T22:13:20Z, and the same command goes on \
                    from there\n";
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(told.ends_with(expected), "{told}");
}
