//! An agent whose key may be in wrong hands.

use std::time::{Duration, Instant};

use agent::join::JoinError;
use live::{Bare, Fleet};
use wire::agent::v1::JoinErrorCode;

use super::{join, member};
use crate::seed;

/// By when a session has to be over.
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn t21_a_revoked_agent_is_cut_off_at_once_and_for_ever() {
    let mut fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let thief = member(&fleet, "thief", "/push").await;
    let honest = member(&fleet, "honest", "/push").await;
    let url = fleet.nats.url();
    let mut session = Bare::connect(&url, Some(&thief.user)).await.expect("it is let in");
    let mut door = Bare::connect(&url, Some(&thief.door)).await.expect("it is let in");
    let mut other = Bare::connect(&url, Some(&honest.user)).await.expect("it is let in");

    let begin = Instant::now();
    let output = fleet.cli("identity").run("agent revoke thief --yes").await.ok();
    assert!(output.contains("revoked    Agent  thief"), "{output}");
    for session in [&mut session, &mut door] {
        let said = session.until_closed().await;
        assert!(said.iter().any(|line| line.contains("Revoked")), "{said:?}");
    }
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
    assert!(other.publish("svc.enrol", "", b"").await.errors.is_empty(), "nobody else is cut off");

    let is_out = async |fleet: &Fleet| {
        for creds in [&thief.user, &thief.door] {
            let refused = Bare::connect(&fleet.nats.url(), Some(creds)).await.err();
            assert!(refused.is_some(), "it is not let in");
        }
        let again = join(&fleet.token("/push", 1).await, &thief.user.key, "thief").await.err();
        let taken = matches!(&again, Some(JoinError::Refused { code: JoinErrorCode::IdTaken, .. }));
        assert!(taken, "{again:?}");
    };
    is_out(&fleet).await;
    // Once more is no failure: it makes sure.
    let _ = fleet.cli("identity").run("agent revoke thief --yes").await.ok();

    // Identity first: what it tells the broker is a file there, which a kill in the middle would tear.
    fleet.services[0].process.kill().await;
    assert!(Bare::connect(&fleet.nats.url(), Some(&thief.user)).await.is_err(), "the broker knows");
    fleet.nats.kill().await.expect("the broker can be killed");
    fleet.nats.start_again().await.expect("the broker starts again");
    assert!(Bare::connect(&fleet.nats.url(), Some(&thief.user)).await.is_err(), "the broker remembers");
    fleet.restart(0).await;
    is_out(&fleet).await;
    let _ = Bare::connect(&fleet.nats.url(), Some(&honest.user)).await.expect("others are let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_a_broker_that_lost_what_it_was_told_hears_it_again() {
    let mut fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let thief = member(&fleet, "thief", "/push").await;
    let _ = fleet.cli("identity").run("agent revoke thief --yes").await.ok();
    fleet.nats.kill().await.expect("the broker can be killed");
    std::fs::remove_dir_all(fleet.nats.dir().join("accounts")).expect("its accounts are there");
    fleet.nats.start_again().await.expect("the broker starts again");
    live::eventually("the thief is shut out again", async || {
        match Bare::connect(&fleet.nats.url(), Some(&thief.user)).await {
            Err(_) => Ok(()),
            Ok(_) => Err("it is let in".to_owned()),
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t21_a_deleted_agent_is_cut_off_as_well() {
    let fleet = Fleet::start().await;
    seed::groups(&fleet.cli("policy")).await;
    let gone = member(&fleet, "gone", "/push").await;
    let mut session = Bare::connect(&fleet.nats.url(), Some(&gone.user)).await.expect("it is let in");
    let begin = Instant::now();
    let _ = fleet.cli("identity").run("agent delete gone --yes").await.ok();
    let said = session.until_closed().await;
    assert!(said.iter().any(|line| line.contains("Revoked")), "{said:?}");
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
}
