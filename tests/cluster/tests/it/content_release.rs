//! Content that a resource of Kubernetes releases, from a real upload to the agents that hold it.

use cluster::{NAMESPACE, have};
use live::{AgentProcess, Tree, eventually};
use serde_json::{Value, json};

use super::bootstrap::PROGRAMS;
use super::rig::{Rig, condition_of, joined};

const CHANNEL: &str = "rules/ips";

/// Uploads a tree. Answers its revision.
async fn push(rig: &Rig, tree: &Tree) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tree");
    tree.write(&path);
    let pushed = rig.cli().json(&format!("content push {CHANNEL} {}", path.display())).await;
    pushed["revision"]["revision"].clone()
}

async fn release(rig: &Rig, revision: u32) {
    let spec = json!({ "channel": CHANNEL, "stage": "stable", "revision": revision });
    rig.apply("ContentRelease", "ips-stable", spec).await;
}

/// Waits until the release is Ready with all agents, and returns it.
async fn ready(rig: &Rig, total: u32) -> Value {
    let release = rig.reaches("ContentRelease", "ips-stable", ("Ready", "True")).await;
    let everybody = json!({ "total": total, "atRevision": total, "failed": 0 });
    assert_eq!(release["status"]["agents"], everybody, "{release:#}");
    assert_eq!(condition_of(&release, "Degraded")["status"], "False", "{release:#}");
    release
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_ready_when_the_agents_hold_its_content() {
    if !have(&PROGRAMS) || !have(&["nats-server"]) {
        return;
    }
    let rig = Rig::start().await;
    let first = Tree::made(1, 200_000);
    let second = first.next(2);
    assert_eq!((push(&rig, &first).await, push(&rig, &second).await), (json!(1), json!(2)));
    let settings =
        json!({ "mode": "push", "heartbeatInterval": "10s", "offlineAfter": "1m", "contentSpread": "0s" });
    let content = json!([{ "channel": CHANNEL, "stage": "stable" }]);
    rig.apply("Group", "web", json!({ "path": "/web", "settings": settings, "content": content })).await;
    // A group may follow a stage that names nothing yet.
    rig.reaches("Group", "web", ("Ready", "True")).await;
    release(&rig, 1).await;
    ready(&rig, 0).await;
    rig.reaches("Group", "web", ("Ready", "True")).await;
    let mut agents = Vec::new();
    for id in ["web-1", "web-2"] {
        agents.push(joined(&rig, id).await);
    }
    let hold = async |agents: &[AgentProcess], tree: &Tree| {
        for agent in agents {
            agent.holds(CHANNEL, tree).await;
        }
    };
    hold(&agents, &first).await;
    eventually("both agents are counted", async || {
        let release = rig.get("ContentRelease", "ips-stable").await.unwrap_or_default();
        if release["status"]["agents"]["atRevision"] == 2 { Ok(()) } else { Err(format!("{release:#}")) }
    })
    .await;
    let before = ready(&rig, 2).await;

    // The next revision, by somebody who changes one line in Git.
    release(&rig, 2).await;
    hold(&agents, &second).await;
    let after = ready(&rig, 2).await;
    assert!(after["status"]["revision"].as_u64() > before["status"]["revision"].as_u64(), "{after:#}");

    by_hand(&rig).await;
    hold(&agents, &second).await;
    ready(&rig, 2).await;

    // A revision that nobody has pushed changes nothing for agents.
    release(&rig, 9).await;
    let lost = rig.reaches("ContentRelease", "ips-stable", ("Synced", "False")).await;
    let why = condition_of(&lost, "Synced")["message"].as_str().unwrap();
    assert!(why.contains('9') && why.contains(CHANNEL), "{why}");
    assert_eq!(condition_of(&lost, "Degraded")["status"], "True");
    hold(&agents, &second).await;
    // Back to the first one, which agents still have.
    release(&rig, 1).await;
    hold(&agents, &first).await;
    ready(&rig, 2).await;

    // Whoever ends the resource ends the guard and not the release.
    rig.delete("ContentRelease", "ips-stable").await;
    rig.gone("ContentRelease", "ips-stable").await;
    drop(rig.cli().run(&format!("content promote {CHANNEL} 2 --stage stable")).await.ok());
    hold(&agents, &second).await;
}

/// Who promotes by hand is told where to do it; who insists is put right.
async fn by_hand(rig: &Rig) {
    for line in [
        format!("content promote {CHANNEL} 1 --stage stable"),
        format!("content rollback {CHANNEL} --stage stable"),
    ] {
        let said = rig.cli().run(&line).await.refused(3);
        assert!(said.contains(&format!("is managed by kubernetes:{NAMESPACE}")), "{line}: {said}");
        assert!(
            said.contains("contentreleases.muster.dev") && said.contains("--take-over"),
            "{line}: {said}"
        );
    }
    // Another stage is nobody's.
    drop(rig.cli().run(&format!("content promote {CHANNEL} 1 --stage canary")).await.ok());
    let manifest = format!(
        "apiVersion: muster.dev/v1alpha1\nkind: ContentRelease\nmetadata: {{name: x}}\nspec: {{channel: {CHANNEL}, stage: stable, revision: 1}}\n"
    );
    drop(rig.cli().run_with(&["apply", "-f", "-", "--take-over"], &manifest).await.ok());
    eventually("it is as Kubernetes says again", async || {
        let shown = rig.cli().json(&format!("content show {CHANNEL}")).await;
        let stages = shown["stages"].as_array().cloned().unwrap_or_default();
        let stage = stages.into_iter().find(|stage| stage["name"] == "stable").unwrap_or_default();
        match (&stage["revision"], &stage["manager"]) {
            (revision, manager) if *revision == 2 && *manager == format!("kubernetes:{NAMESPACE}") => Ok(()),
            _ => Err(format!("{shown:#} {}", rig.logs())),
        }
    })
    .await;
}
