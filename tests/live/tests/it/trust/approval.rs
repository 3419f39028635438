//! Agents that wait until somebody approves them.

use agent::join::JoinError;
use live::{AgentProcess, Bare, Creds, Fleet, until};
use nkeys::{KeyPair, KeyPairType};
use serde_json::json;
use wire::agent::v1::JoinErrorCode;
use wire::join::JoinToken;

use super::join;
use crate::seed;

async fn token(fleet: &Fleet, uses: u32) -> String {
    let line = format!("token create --name careful --group /push --approval --uses {uses}");
    fleet.cli("identity").json(&line).await["token"].as_str().expect("a token").to_owned()
}

/// Why a machine is not in.
async fn code(token: &str, key: &KeyPair, id: &str) -> JoinErrorCode {
    match join(token, key, id).await.err() {
        Some(JoinError::Refused { code, .. }) => code,
        other => panic!("{other:?}"),
    }
}

async fn waits(agent: &mut AgentProcess) {
    let wanted = format!("waiting for approval: muster agent approve {}", agent.id);
    until(format!("{} waits", agent.id), || {
        let log = agent.process().log();
        log.contains(&wanted).then_some(()).ok_or(log)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_waits_can_do_nothing_but_ask_and_goes_on_by_itself_once_it_is_approved() {
    let fleet = Fleet::start().await;
    let cli = fleet.cli("identity");
    seed::groups(&cli).await;
    let token = token(&fleet, 2).await;
    let mut agent = AgentProcess::new(fleet.dir(), "web-1", &token).with_options(&["--label", "site=north"]);
    agent.start();
    waits(&mut agent).await;
    assert!(!agent.state.join("identity.json").exists() && !agent.state.join("claims.json").exists());

    // It is in no group, and nobody waits for its heartbeat.
    let listed = cli.json("agent list --pending").await;
    let seen = &listed["agents"][0];
    assert_eq!(
        (&seen["agent"], &seen["group"], &seen["labels"]["site"]),
        (&json!("web-1"), &json!("/push"), &json!("north"))
    );
    assert_eq!(cli.json("agent list").await["agents"].as_array(), None);
    let said = cli.run("agent show web-1").await.refused(3);
    assert!(said.contains("waits for approval") && said.contains("muster agent approve web-1"), "{said}");
    assert_eq!(cli.json("token list").await["tokens"][0]["used"], 1);

    // All that it has for the broker is the login of its token.
    let door = JoinToken::decode(&token).expect("a token").door.expect("a login");
    let key = KeyPair::new_from_raw(KeyPairType::User, door.seed).expect("a seed");
    let creds = Creds { key, claims: door.claims };
    let mut bare = Bare::connect(&fleet.nats.url(), Some(&creds)).await.expect("it may ask");
    for subject in ["notify.agent.web-1", "notify.group.push", "desired.>", "_INBOX_agent.web-1.>", ">"] {
        assert!(bare.subscribe(subject, "", 1).await.is_refusal(), "{subject}");
    }
    let head = "$JS.API.DIRECT.GET.DESIRED.desired.group.push";
    for subject in ["svc.heartbeat.web-1", head, "notify.agent.web-1", "identity.agent.web-1"] {
        assert!(bare.publish(subject, "", b"").await.is_refusal(), "{subject}");
    }
    assert!(bare.publish("svc.enrol", "", b"").await.errors.is_empty());

    // The same key may ask as often as it likes; other keys do not get the id.
    let second = KeyPair::new_user();
    for _ in 0..3 {
        assert_eq!(code(&token, &second, "web-2").await, JoinErrorCode::Pending);
    }
    assert_eq!(code(&token, &KeyPair::new_user(), "web-2").await, JoinErrorCode::IdTaken);
    assert_eq!(code(&token, &KeyPair::new_user(), "web-3").await, JoinErrorCode::TokenSpent);
    assert_eq!(cli.json("token list").await["tokens"][0]["used"], 2);

    let said = cli.run("agent approve web-1").await.ok();
    assert!(said.contains("approved   Agent  web-1  in /push, as the group of token careful"), "{said}");
    agent.reaches("app", "/n", &json!(0)).await;
    let _ = fleet.shows("web-1", "it is there", |shown| shown["state"] == "ONLINE").await;
    // Once more is no failure; another group is a move.
    let _ = cli.run("agent approve web-1").await.ok();
    let said = cli.run("agent approve web-1 --group /pull").await.refused(3);
    assert!(said.contains("muster agent move web-1"), "{said}");

    // An operator knows better where it belongs.
    let _ = cli.run("agent approve web-2 --group /pull").await.ok();
    let member = join(&token, &second, "web-2").await.expect("it is in");
    assert_eq!(member.group.as_str(), "pull");
    assert_eq!(cli.json("agent list --pending").await["agents"].as_array(), None);
    // A group may go while somebody waits for it, once the token is gone.
    let _ = cli.run("group create /brief").await.ok();
    let brief = cli.json("token create --name brief --group /brief --approval").await;
    let third = KeyPair::new_user();
    let brief = brief["token"].as_str().expect("a token");
    assert_eq!(code(brief, &third, "web-4").await, JoinErrorCode::Pending);
    let _ = cli.run("token revoke brief --yes").await.ok();
    let _ = cli.run("group delete /brief --yes").await.ok();
    let said = cli.run("agent approve web-4").await.refused(3);
    assert!(said.contains("name another one with --group"), "{said}");
    let _ = cli.run("agent approve web-4 --group /push").await.ok();
    assert_eq!(join(brief, &third, "web-4").await.expect("it is in").group.as_str(), "push");
    let audited = cli.run("audit list").await.ok();
    assert!(audited.contains("ApproveAgent") && audited.contains("agent=web-2"), "{audited}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_rejected_is_refused_for_ever_also_after_a_restart() {
    let mut fleet = Fleet::start().await;
    seed::groups(&fleet.cli("identity")).await;
    let token = token(&fleet, 3).await;
    let mut agent = AgentProcess::new(fleet.dir(), "web-1", &token);
    agent.start();
    waits(&mut agent).await;
    let mut patient = AgentProcess::new(fleet.dir(), "web-2", &token);
    patient.start();
    waits(&mut patient).await;
    // Who is stopped meanwhile says what it was waiting for.
    let _ = patient.process().stop().await;
    let log = patient.process().log();
    assert!(log.contains("stopped while waiting for approval: muster agent approve web-2"), "{log}");

    let cli = fleet.cli("identity");
    let _ = cli.run("agent reject web-1 --yes").await.ok();
    assert!(!agent.process().wait().await.success(), "it gives up by itself");
    let log = agent.process().log();
    assert!(log.contains("an operator rejected the agent of this id") && log.contains("another id"), "{log}");
    for line in ["agent approve web-1", "agent reject web-1 --yes"] {
        let said = cli.run(line).await.refused(4);
        assert!(said.contains("there is no agent \"web-1\""), "{said}");
    }
    fleet.services[0].process.kill().await;
    fleet.restart(0).await;
    let cli = fleet.cli("identity");
    agent.start();
    assert!(!agent.process().wait().await.success(), "not after a restart either");
    let open = fleet.token("/push", 1).await;
    assert_eq!(code(&open, &KeyPair::new_user(), "web-1").await, JoinErrorCode::IdTaken);

    // Who waited through the restart is still there, and is let in.
    let listed = live::eventually("the list is read again", async || {
        let listed = cli.json("agent list --pending").await;
        listed["agents"][0]["agent"].as_str().map(str::to_owned).ok_or(listed.to_string())
    })
    .await;
    assert_eq!(listed, "web-2");
    let _ = cli.run("agent approve web-2").await.ok();
    patient.start();
    patient.reaches("app", "/n", &json!(0)).await;
    let said = cli.run("agent reject web-2 --yes").await.refused(3);
    assert!(said.contains("muster agent revoke web-2"), "{said}");
}
