//! W5: memory that presence takes for each agent.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::stats::{Series, float, number};
use crate::{Bench, machine, page, sample, say};

/// Sizes of the fleet.
const AGENTS: [u64; 3] = [10_000, 100_000, 1_000_000];

/// Measures W5 and gives its section.
///
/// # Errors
/// When a child fails.
pub fn section(bench: &Bench) -> Result<String> {
    let mut rows = Vec::new();
    for agents in AGENTS {
        let mut series = Series::default();
        for _ in 0..bench.runs() {
            series.push(float(in_a_fresh_process(agents)?) / float(agents));
        }
        say(&format!("W5 {agents} agents: {series} bytes each"));
        rows.push(vec![
            number(float(agents)),
            series.to_string(),
            number(series.median() * float(agents) / 1e6),
        ]);
    }
    Ok(format!(
        "## W5: memory of presence\n\n{}\n\nGrowth of the resident memory of a fresh process while agents enrol in 1,000 groups \
         (ids of 21 bytes, host names, two labels) and\nreport four policies and four channels each: all that presence keeps, with the \
         allocator's overhead and half-filled pages. Goal: at most 300 bytes\nfor each of 1,000,000 agents. Limit: the record of \
         an agent (its two cursors, four times, two sessions and the links of the lists\nit is in), its id and host name, and the \
         hash index; statuses, states of content and labels that are equal are kept once. Small fleets pay for\nthe process's first pages.\n\n{}",
        bench.machine.line(),
        page::table(&["agents", "bytes for each agent", "MB in all"], &rows)
    ))
}

fn in_a_fresh_process(agents: u64) -> Result<u64> {
    let program = std::env::current_exe()?;
    let mut command = Command::new(program);
    command.args(["--role", "memory", "--size", &agents.to_string()]).stdin(Stdio::null());
    let output = command.output()?;
    ensure!(output.status.success(), "the process that fills presence failed: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    text.trim().parse().with_context(|| format!("not a number of bytes: {text:?}"))
}

/// The child: fills presence and gives the growth of this process's memory, in bytes.
///
/// # Errors
/// When the system does not tell, or the fleet is not as it should be.
pub fn grow(agents: u64) -> Result<u64> {
    // What building the inputs alone needs is there before the measurement begins.
    drop(sample::fleet(1_000)?);
    let before = machine::resident_bytes("self");
    let fleet = sample::fleet(agents)?;
    let after = machine::resident_bytes("self");
    ensure!(before > 0, "this system does not tell a process's memory");
    ensure!(u64::try_from(fleet.len())? == agents, "{} agents instead of {agents}", fleet.len());
    Ok(after.saturating_sub(before))
}
