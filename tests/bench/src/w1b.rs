//! W1b: a tenth of the agents is away while policies change, then comes back.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::agents::Fleet;
use crate::control::Control;
use crate::micro::POLICY_BYTES;
use crate::stats::{Series, float, number};
use crate::w1::{counts, until_current};
use crate::{Bench, page, say};

/// Changes that the absent agents do not hear of.
const CHANGES: u64 = 20;

/// What one number of agents showed.
#[derive(Default)]
struct Outcome {
    missed: usize,
    repeated: usize,
    back: Series,
}

/// Measures W1b and gives its section.
///
/// # Errors
/// When anything fails on the way.
pub async fn section(bench: &Bench) -> Result<String> {
    let mut rows = Vec::new();
    for agents in counts(bench).into_iter().filter(|agents| *agents >= 100) {
        let outcome = measure(bench, agents).await?;
        say(&format!(
            "W1b {agents} agents: missed {}, twice {}, back {} ms",
            outcome.missed, outcome.repeated, outcome.back
        ));
        rows.push(vec![
            number(float(u64::try_from(agents)?)),
            number(float(u64::try_from(agents / 10)?)),
            outcome.missed.to_string(),
            outcome.repeated.to_string(),
            outcome.back.to_string(),
        ]);
    }
    let head = ["agents", "away", "missed", "switched on twice", "until all are current again, ms"];
    Ok(format!(
        "## W1b: a tenth of the agents is away\n\n{}\n\nA tenth of the agents stops; {CHANGES} changes of 4 KiB follow, each \
         one awaited on all others; then the absent ones start\nagain at one moment, with what they kept, and catch up with one \
         fetch each. *Missed*: snapshots that an agent which was there did not\nswitch on, and agents not at the head in the end. \
         *Twice*: snapshots that any agent switched on again. Goals: 0 and 0. Limit of the\nlast column: the connections, which \
         all come at once. For comparison, mosquitto (QoS 1, measured earlier elsewhere) hands all 20 stale\nstates to each of 900 \
         agents that return and needs 347–599 ms.\n\n{}",
        bench.machine.line(),
        page::table(&head, &rows)
    ))
}

async fn measure(bench: &Bench, agents: usize) -> Result<Outcome> {
    let away = agents / 10;
    let mut control = Control::start(&bench.musterd()?, &bench.nats_server).await?;
    control.prepare(POLICY_BYTES[0]).await?;
    let token = control.token(agents).await?;
    let mut fleet = Fleet::join(&token, agents).await?;
    fleet.start(0..agents, 1).await?;
    until_current(&mut control, agents, 1).await?;
    let mut outcome = Outcome::default();
    let mut salt = 0;
    for _ in 0..bench.runs() {
        fleet.stop(0..away).await?;
        let mut revisions = Vec::new();
        for _ in 0..CHANGES {
            salt += 1;
            let revision = control.change(POLICY_BYTES[0], salt).await?;
            until_current(&mut control, agents - away, revision).await?;
            revisions.push(revision);
        }
        let head = revisions.last().copied().unwrap_or_default();
        let begin = Instant::now();
        fleet.start_at_once(0..away);
        until_current(&mut control, agents, head).await?;
        outcome.back.push_ms(begin.elapsed());
        outcome.missed += fleet.missing(away..agents, &revisions);
        let (missed, repeated) = fleet.missed_and_repeated(head);
        outcome.missed += missed;
        outcome.repeated = repeated;
    }
    fleet.stop(0..agents).await?;
    ensure!(fleet.len() == agents, "agents were lost");
    Ok(outcome)
}
