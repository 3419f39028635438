//! Trees and manifests that must not become content.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use domain::Digest;
use live::{Fleet, Tree};
use tonic::Code;
use wire::api::v1::{BeginUploadRequest, ContentFile};

use super::{CHANNEL, raw};

/// An upload of files with these names, each empty.
fn named(names: &[&str]) -> BeginUploadRequest {
    let files = names.iter().map(|&name| ContentFile {
        path: name.to_owned(),
        bytes: 0,
        digest: Digest::of(b"").0.to_vec(),
        executable: false,
    });
    BeginUploadRequest {
        channel: CHANNEL.to_owned(),
        files: files.collect(),
        chunk_digests: Vec::new(),
        chunk_bytes: Vec::new(),
        digest: Digest::of(b"").0.to_vec(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_that_could_harm_are_refused_with_the_entry_named() {
    let fleet = Fleet::start().await;
    let mut api = raw::content(&fleet).await;
    let long = "a".repeat(10_000);
    let deep = vec!["a"; 65].join("/");
    let wide = format!("x/{}", "b".repeat(256));
    let many: Vec<String> = (0..4097).map(|n| format!("f{n:04}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let cases: Vec<(Vec<&str>, &str)> = vec![
        (vec!["/etc/passwd"], "files[0].path"),
        (vec!["ok", "../up"], "files[1].path"),
        (vec!["a/../../up"], "files[0].path"),
        (vec!["a/./b"], "files[0].path"),
        (vec!["a//b"], "files[0].path"),
        (vec!["a/"], "files[0].path"),
        (vec![""], "files[0].path"),
        (vec!["."], "files[0].path"),
        (vec![".."], "files[0].path"),
        (vec!["a\\b"], "files[0].path"),
        (vec!["a\0b"], "files[0].path"),
        (vec!["a\nb"], "files[0].path"),
        (vec!["a\u{7f}b"], "files[0].path"),
        (vec!["a", "a"], "\"a\""),
        (vec!["b", "a"], "\"a\""),
        (vec!["README", "readme"], "readme"),
        (vec!["A/x", "a/y"], "\"a\""),
        (vec!["\u{c4}rger", "\u{e4}rger"], "\u{e4}rger"),
        (vec!["a", "a/b"], "\"a\""),
        (vec![&long], "files[0].path"),
        (vec![&deep], "64"),
        (vec![&wide], "255"),
        (many, "4096"),
        (vec![], "file"),
    ];
    for (names, told) in cases {
        let shown: Vec<String> = names.iter().take(3).map(|name| name.chars().take(40).collect()).collect();
        let refused = api.begin_upload(named(&names)).await.expect_err(&shown.join(" "));
        assert_eq!(refused.code(), Code::InvalidArgument, "{shown:?}: {refused}");
        assert!(refused.message().contains(told), "{shown:?}: {}\nwithout {told}", refused.message());
        assert!(refused.message().len() < 2000, "{shown:?}: an answer for people");
    }
    let channels = fleet.cli("content").json("content list").await;
    assert!(channels["channels"].as_array().is_none_or(Vec::is_empty), "{channels}");
    assert!(raw::Store::of(&fleet).await.subjects("manifest").await.is_empty(), "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn manifests_whose_sums_do_not_add_up_are_refused() {
    let fleet = Fleet::start().await;
    let mut api = raw::content(&fleet).await;
    let good = raw::Upload::of(CHANNEL, &Tree::made(1, 300_000)).begin;
    type Spoil = fn(&mut BeginUploadRequest);
    let spoils: &[(&str, Spoil)] = &[
        ("a chunk too few", |begin| begin.chunk_bytes.truncate(1)),
        ("half a digest", |begin| begin.chunk_digests.truncate(31)),
        ("a chunk of nothing", |begin| begin.chunk_bytes[0] = 0),
        ("a chunk of 4 GiB", |begin| begin.chunk_bytes[0] = u32::MAX),
        ("a file of 16 EiB", |begin| begin.files[0].bytes = u64::MAX),
        ("files longer than chunks", |begin| begin.files[0].bytes += 1),
        ("no digest", |begin| begin.digest.clear()),
        ("a file without digest", |begin| begin.files[0].digest = vec![1; 31]),
        ("no channel", |begin| begin.channel.clear()),
        ("a channel with a wildcard", |begin| begin.channel = "rules/>".to_owned()),
        ("a channel of five names", |begin| begin.channel = "a/b/c/d/e".to_owned()),
        ("a channel that injects", |begin| begin.channel = "a\r\nPUB x 0\r\n".to_owned()),
    ];
    for (what, spoil) in spoils {
        let mut begin = good.clone();
        spoil(&mut begin);
        let refused = api.begin_upload(begin).await.expect_err(what);
        assert_eq!(refused.code(), Code::InvalidArgument, "{what}: {refused}");
    }
    // Chunks that are all there and in order, but not the content that was announced.
    let mut lying = good.clone();
    lying.digest = vec![9; 32];
    let upload = raw::Upload::of(CHANNEL, &Tree::made(1, 300_000));
    let outcome = async {
        let begun = api.begin_upload(lying).await?.into_inner();
        let _ = raw::send(&mut api, upload.chunks(&begun.manifest, &begun.missing)).await?;
        api.finish_upload(upload.finish(&begun.manifest)).await
    }
    .await;
    let refused = outcome.expect_err("the digest of the whole is checked");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let mut lying = good.clone();
    lying.files[1].digest = vec![9; 32];
    let outcome = async {
        let begun = api.begin_upload(lying).await?.into_inner();
        let _ = raw::send(&mut api, upload.chunks(&begun.manifest, &begun.missing)).await?;
        api.finish_upload(upload.finish(&begun.manifest)).await
    }
    .await;
    let refused = outcome.expect_err("the digest of each file is checked");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
}

/// Adds something to a tree that is no plain file.
type Plant = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn trees_with_more_than_files_are_refused_with_the_path() {
    let fleet = Fleet::start().await;
    let content = fleet.cli("content");
    let plants: &[(&str, &str, Plant)] = &[
        ("link", "rules/link", |dir| symlink("/etc/passwd", dir.join("rules/link")).expect("a link")),
        ("inner", "rules/inner", |dir| symlink("ips.rules", dir.join("rules/inner")).expect("a link")),
        ("dirlink", "etc", |dir| symlink("/etc", dir.join("etc")).expect("a link")),
        ("fifo", "rules/fifo", |dir| made("mkfifo", &[], &dir.join("rules/fifo"))),
        ("device", "rules/null", |dir| made("mknod", &["c", "1", "3"], &dir.join("rules/null"))),
        ("socket", "rules/socket", |dir| {
            drop(std::os::unix::net::UnixListener::bind(dir.join("rules/socket")).expect("a socket"));
        }),
        ("case", "rules/IPS.rules", |dir| {
            std::fs::write(dir.join("rules/IPS.rules"), b"").expect("a file");
        }),
        ("backslash", "back", |dir| std::fs::write(dir.join("back\\slash"), b"").expect("a file")),
        ("newline", "new", |dir| std::fs::write(dir.join("new\nline"), b"").expect("a file")),
        ("bytes", "no", |dir| {
            let name: &std::ffi::OsStr = std::os::unix::ffi::OsStrExt::from_bytes(b"no\xffutf");
            std::fs::write(dir.join(name), b"").expect("a file");
        }),
    ];
    for (what, named, plant) in plants {
        let dir = fleet.dir().join(what);
        Tree::made(1, 10_000).write(&dir);
        plant(&dir);
        let said = content.run(&format!("content push {CHANNEL} {}", dir.display())).await.refused(3);
        assert!(said.contains(named), "{what}: {said}\nwithout: {named}");
    }
    let empty = fleet.dir().join("hollow");
    std::fs::create_dir(&empty).expect("a directory can be made");
    let said = content.run(&format!("content push {CHANNEL} {}", empty.display())).await.refused(3);
    assert!(said.contains("hollow"), "{said}");
    let said = content.run(&format!("content push {CHANNEL} /nowhere/at-all")).await;
    assert!(said.code != 0 && said.stderr.contains("/nowhere/at-all"), "{}", said.stderr);
    let channels = content.json("content list").await;
    assert!(channels["channels"].as_array().is_none_or(Vec::is_empty), "{channels}");
}

/// Runs a program that makes a special file.
fn made(program: &str, args: &[&str], path: &Path) {
    let status = std::process::Command::new(program).arg(path).args(args).status();
    if status.is_ok_and(|status| status.success()) {
        return;
    }
    // Without the right to make a device a FIFO stands in for it.
    let status = std::process::Command::new("mkfifo").arg(path).status();
    assert!(status.is_ok_and(|status| status.success()), "a FIFO can be made");
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_are_levelled_to_executable_or_not() {
    let fleet = Fleet::start().await;
    let tree = Tree::made(1, 10_000);
    let dir = super::on_disk(&fleet, &tree);
    for (file, mode) in [("bin/scan", 0o4711), ("rules/ips.rules", 0o600), ("empty", 0o666)] {
        std::fs::set_permissions(dir.join(file), std::fs::Permissions::from_mode(mode)).expect("a mode");
    }
    let content = fleet.cli("content");
    let _ = content.json(&format!("content push {CHANNEL} {}", dir.display())).await;
    let to = fleet.dir().join("fetched");
    let _ = content.run(&format!("content fetch {CHANNEL} --to {}", to.display())).await.ok();
    assert_eq!(Tree::read(&to).expect("it was written"), tree);
    for (file, mode) in [("bin/scan", 0o755), ("rules/ips.rules", 0o644), ("empty", 0o644)] {
        let found = std::fs::metadata(to.join(file)).expect("it is there").permissions().mode();
        assert_eq!(found & 0o7777, mode, "{file}");
    }
}
