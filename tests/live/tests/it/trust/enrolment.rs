//! Joining, and claims that are renewed.

use agent::join::JoinError;
use futures::StreamExt as _;
use live::{AgentProcess, Bare, Fleet};
use nkeys::KeyPair;
use serde_json::json;
use wire::agent::v1::JoinErrorCode;
use wire::jwt::UserFacts;

use super::{join, member};
use crate::seed;

/// Settings of /push under which a change arrives by push, or too late for any test.
const BEATS_RARELY: &str = r"
apiVersion: muster.dev/v1alpha1
kind: Group
metadata: {name: push}
spec: {path: /push, settings: {mode: push, heartbeatInterval: 10m, offlineAfter: 30m}, policies: [app-push]}
";

/// What the file of an agent's claims says.
fn facts(bytes: &[u8]) -> UserFacts {
    let text = String::from_utf8_lossy(bytes);
    let json = &text[text.find('{').expect("JSON")..=text.rfind('}').expect("JSON")];
    let file: serde_json::Value = serde_json::from_str(json).expect("JSON");
    wire::jwt::read_user(file["user"].as_str().expect("claims")).expect("claims of a user")
}

/// Waits until the claims of an agent that does not run have expired.
pub(super) async fn claims_expire(agent: &AgentProcess) {
    let kept = facts(&std::fs::read(agent.state.join("claims.json")).expect("claims are kept"));
    let over = kept.validity.expires_at.expect("they expire");
    live::until("its claims expire", || {
        (runtime::clock::now() > over).then_some(()).ok_or_else(|| "not yet".to_owned())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t19_of_a_hundred_who_redeem_a_token_for_one_at_once_one_is_let_in() {
    let fleet = Fleet::with_replicas(2).await;
    seed::groups(&fleet.cli("policy")).await;
    let token = &fleet.token("/push", 1).await;
    let tries = futures::stream::iter(0..100)
        .map(|n| async move { join(token, &KeyPair::new_user(), &format!("racer-{n}")).await });
    let ended: Vec<_> = tries.buffer_unordered(100).collect().await;
    let (joined, refused): (Vec<_>, Vec<_>) = ended.into_iter().partition(Result::is_ok);
    assert_eq!((joined.len(), refused.len()), (1, 99));
    for error in refused.into_iter().filter_map(Result::err) {
        assert!(matches!(error, JoinError::Refused { code: JoinErrorCode::TokenSpent, .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t20_an_id_belongs_to_its_first_key_for_ever() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let first = member(&fleet, "mine", "/push").await;
    let taken = join(&fleet.token("/pull", 1).await, &KeyPair::new_user(), "mine").await.err();
    assert!(matches!(taken, Some(JoinError::Refused { code: JoinErrorCode::IdTaken, .. })), "{taken:?}");
    // The first key is let in again, with a token that is spent.
    let token = fleet.token("/push", 1).await;
    let _ = join(&token, &KeyPair::new_user(), "another").await.expect("it is let in");
    let again = join(&token, &first.user.key, "mine").await.expect("it is known");
    assert_eq!(again.group, first.group);
    let _ = fleet.cli("identity").run("agent delete mine --yes").await.ok();
    for key in [&first.user.key, &KeyPair::new_user()] {
        let gone = join(&fleet.token("/push", 1).await, key, "mine").await.err();
        assert!(matches!(gone, Some(JoinError::Refused { code: JoinErrorCode::IdTaken, .. })), "{gone:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_outlives_its_claims_while_it_runs_and_while_it_is_off() {
    let fleet = Fleet::start_with(&["--agent-claims-ttl", "5s"]).await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let _ = policy.apply(BEATS_RARELY).await;
    let mut agent = fleet.agent("push-1", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let claims = agent.state.join("claims.json");
    let first = std::fs::read(&claims).expect("claims are kept");
    let mode = std::fs::metadata(&claims).expect("claims are kept").permissions();
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o777, 0o600);
    // Three times over: what the broker let in at the start, it would have cut off by then.
    for n in 1..4 {
        let before = std::fs::read(&claims).expect("claims are kept");
        live::until(format!("new claims, {n}"), || {
            let now = std::fs::read(&claims).map_err(|error| error.to_string())?;
            (now != before).then_some(()).ok_or_else(|| "the same".to_owned())
        })
        .await;
        let _ = policy.apply(&seed::app_push(n)).await;
        agent.reaches("app", "/n", &json!(n)).await;
    }
    agent.kill().await;
    let last = facts(&std::fs::read(&claims).expect("claims are kept"));
    assert!(last.validity.issued_at > facts(&first).validity.issued_at);
    claims_expire(&agent).await;
    let _ = policy.apply(&seed::app_push(9)).await;
    agent.start();
    agent.reaches("app", "/n", &json!(9)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_moves_gets_claims_for_its_new_group_and_loses_the_old_one() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let _ = policy.apply(BEATS_RARELY).await;
    let mut agent = fleet.agent("rover", "/push").await;
    agent.reaches("app", "/n", &json!(0)).await;
    let _ = fleet.cli("identity").run("agent move rover --to /push/child").await.ok();
    agent.reaches("app", "/extra", &json!("child")).await;
    // Twice: the first may be found by the look that follows a new connection.
    for n in 1..3 {
        let _ = policy.apply(&seed::app_push(n)).await;
        agent.reaches("app", "/n", &json!(n)).await;
    }
    let log = agent.process().log();
    assert!(log.contains("new claims for the broker"), "{log}");
    assert!(!log.contains("Permissions Violation"), "it asks for what it may: {log}");
    let member = member(&fleet, "still", "/push").await;
    let mut bare = Bare::connect(&fleet.nats.url(), Some(&member.user)).await.expect("it is let in");
    assert!(bare.subscribe("notify.group.child", "", 1).await.is_refusal());
}

#[tokio::test(flavor = "multi_thread")]
async fn t20_a_cloned_disk_is_noticed_and_the_younger_machine_is_told() {
    let fleet = Fleet::start().await;
    let policy = fleet.cli("policy");
    seed::groups(&policy).await;
    let mut first = fleet.agent("web-1", "/push").await;
    first.reaches("app", "/n", &json!(0)).await;
    let suspected = |shown: &serde_json::Value| shown["duplicateSuspected"] == true;
    let _ =
        fleet.shows("web-1", "one machine", |shown| shown["state"] == "ONLINE" && !suspected(shown)).await;

    let mut copy = first.copied();
    copy.start();
    let _ = fleet.shows("web-1", "two machines", suspected).await;
    live::until("the copy is told", || {
        let log = copy.process().log();
        log.contains("was this disk copied").then_some(()).ok_or(log)
    })
    .await;
    assert!(!first.process().log().contains("was this disk copied"), "the first goes on as it was");
    let text = fleet.cli("presence").run("agent show web-1").await.ok();
    assert!(text.contains("seems to be used by two machines"), "{text}");

    // The way out that its log names.
    copy.kill().await;
    std::fs::remove_dir_all(&copy.state).expect("its state is there");
    let mut anew = fleet.agent("web-2", "/push").await;
    anew.reaches("app", "/n", &json!(0)).await;
    assert!(!anew.process().log().contains("was this disk copied"));
}
