//! Backups: what was there comes back, and agents follow although they have seen newer.

use std::path::Path;

use live::{Process, Tree};
use serde_json::json;

use crate::laptop::Laptop;
use crate::seed;

/// Runs `musterd` to its end; what it said, or what it said when it failed.
async fn musterd(dir: &Path, name: &str, args: &[&str]) -> Result<String, String> {
    let found = runtime::nats_server::find(None).await.expect("nats-server is there: make tools");
    let found = found.canonicalize().expect("it exists").to_string_lossy().into_owned();
    let mut process = Process::start(dir, name, "musterd", args, &[("MUSTER_NATS_SERVER", &found)]);
    let status = process.wait().await;
    let log = process.log();
    if status.success() { Ok(log) } else { Err(log) }
}

#[tokio::test(flavor = "multi_thread")]
async fn f34_an_old_backup_comes_back_and_agents_follow() {
    let laptop = Laptop::start(&[]).await;
    let cli = laptop.cli(&laptop.ca());
    seed::groups(&cli).await;
    // More than the server sends ahead of what was acknowledged.
    let tree = Tree::dense(1, 12 << 20);
    tree.write(&laptop.dir.path().join("rules"));
    let _ = cli.run("content push definitions/ips rules --note first").await.ok();
    let mut agent = laptop.agent("one").await;
    agent.start();
    agent.reaches("app", "/n", &json!(0)).await;

    let dir = laptop.dir.path().to_owned();
    for number in 0..2 {
        let take = ["backup", "--data-dir", "data", "--to", "backups", "--keep", "1"];
        let said = musterd(&dir, &format!("backup-{number}"), &take).await.expect("a backup is taken");
        for stream in ["POLICY", "IDENTITY", "CONTENT", "AUDIT"] {
            assert!(said.contains(stream), "{said}");
        }
    }
    let backups: Vec<_> = std::fs::read_dir(dir.join("backups")).expect("a folder").flatten().collect();
    assert_eq!(backups.len(), 1, "the older one was removed");
    let backup = format!("backups/{}", backups[0].file_name().to_string_lossy());

    cli.apply(&seed::app_push(7)).await;
    agent.reaches("app", "/n", &json!(7)).await;

    // While it runs, the directory is in use; when it is stopped, nothing is deleted by accident.
    let put = ["restore", "--data-dir", "data", "--from", &backup];
    let said = musterd(&dir, "restore-0", &put).await.expect_err("it runs");
    assert!(said.contains("in use by another musterd"), "{said}");
    let stopped = laptop.stopped().await;
    let said = musterd(&dir, "restore-1", &put).await.expect_err("there are streams");
    assert!(said.contains("has a stream POLICY") && said.contains("--replace"), "{said}");
    let replace = [&put[..], &["--replace"]].concat();
    let said = musterd(&dir, "restore-2", &replace).await.expect("it is put back");
    assert!(said.contains("The store has epoch") && said.contains("revoke them again"), "{said}");
    let laptop = stopped.started(&[]).await;
    agent.reaches("app", "/n", &json!(0)).await;

    // The same backup once more, after all streams were lost: what agents saw meanwhile does not hold them back.
    let cli = laptop.cli(&laptop.ca());
    cli.apply(&seed::app_push(9)).await;
    agent.reaches("app", "/n", &json!(9)).await;
    let stopped = laptop.stopped().await;
    std::fs::remove_dir_all(dir.join("data/nats")).expect("it can be lost");
    musterd(&dir, "restore-3", &put).await.expect("it is put back");
    let laptop = stopped.started(&[]).await;
    agent.reaches("app", "/n", &json!(0)).await;

    let cli = laptop.cli(&laptop.ca());
    let _ = cli.run("audit verify").await.ok();
    let _ = cli.run("content fetch definitions/ips --to fetched").await.ok();
    assert_eq!(Tree::read(&dir.join("fetched")).expect("it was fetched"), tree);
    cli.apply(&seed::app_push(11)).await;
    agent.reaches("app", "/n", &json!(11)).await;

    // A byte that changed on the way is noticed before anything is touched.
    let path = dir.join(&backup).join("POLICY");
    let mut bytes = std::fs::read(&path).expect("it is there");
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).expect("it can be written");
    let _stopped = laptop.stopped().await;
    let said = musterd(&dir, "restore-4", &replace).await.expect_err("it is broken");
    assert!(said.contains("POLICY is not as it was written"), "{said}");
}
