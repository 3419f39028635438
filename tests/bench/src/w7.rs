//! W7: a change at the root is planned and compiled for every group below it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use domain::change::{Current, Plan, Wanted, plan};
use domain::compile::Compiled;

use crate::control::Control;
use crate::sample::{self, Tree};
use crate::stats::{Series, float, number};
use crate::{Bench, page, say};

/// Sizes of the tree; the last is the work, the others show that the time grows no faster than the tree.
const GROUPS: [usize; 3] = [1_000, 3_000, 10_000];

/// Size of the policy of the root.
const POLICY_BYTES: usize = 4096;

/// Measures W7 and gives its section.
///
/// # Errors
/// When the change is refused, or `musterd` fails.
pub async fn section(bench: &Bench) -> Result<String> {
    let mut rows = Vec::new();
    for (tree, name) in
        [(Tree::Inherits, "inherit only"), (Tree::Overlays, "each overlays the root's policy")]
    {
        let mut first = None;
        for groups in GROUPS {
            let series = measure(groups, tree, bench.runs())?;
            say(&format!("W7 {groups} groups, {name}: {series} ms"));
            let each = series.median() * 1e3 / float(u64::try_from(groups)?);
            let growth = each / *first.get_or_insert(each);
            rows.push(vec![
                number(float(u64::try_from(groups)?)),
                name.to_owned(),
                series.to_string(),
                number(each),
                number(growth),
            ]);
        }
    }
    let live = match bench.args.floors_only {
        true => Vec::new(),
        false => live(bench).await?,
    };
    let live_head = ["groups", "call answered, ms", "all heads published and known, ms", "heads a second"];
    let head =
        ["groups below the root", "groups", "ms", "µs a group", "µs a group, against the smallest tree"];
    Ok(format!(
        "## W7: compile a change at the root\n\n{}\n\nOne value of a 4 KiB policy of the root changes. Timed is the whole plan \
         of the change: checks, overlay, validation of every\ndocument that differs, canonical bytes and digest of every group's \
         content; without I/O, on one core. Goal: 10,000 groups in less\nthan 1,000 ms, and linear: the last column stays near 1. \
         Limit: groups that only inherit share their parent's content, so they\ncost a look-up; groups that overlay cost a merge, a \
         schema validation and a SHA-256 of 4 KiB each.\n\n{}\nThe same change on a running `musterd all`, groups that inherit: \
         until `PolicyService.Apply` is answered, and until presence knows the new\nhead of every group. By then each head is \
         signed and stored (`sync_interval: always`) and is on its way to the group's push agents.\n\n{}",
        bench.machine.line(),
        page::table(&head, &rows),
        page::table(&live_head, &live)
    ))
}

fn measure(groups: usize, tree: Tree, runs: usize) -> Result<Series> {
    let catalog = sample::catalog(groups, tree)?;
    let (compiled, problems) = Compiled::full(&catalog);
    ensure!(problems.is_empty(), "the sample breaks a rule: {problems:?}");
    let agents = sample::no_agents();
    let mut series = Series::default();
    // The first run finds cold caches; it is not counted.
    for run in 0..=runs {
        let current = Current { catalog: &catalog, compiled: &compiled, agents: &agents };
        let (plan, time) = timed(current, u64::try_from(run)? + 1)?;
        ensure!(plan.touched.len() == groups + 1, "{} groups touched", plan.touched.len());
        if run > 0 {
            series.push_ms(time);
        }
    }
    Ok(series)
}

fn timed(current: Current<'_>, salt: u64) -> Result<(Plan, Duration)> {
    let wanted = vec![Wanted::Policy(sample::root_policy(salt)?).into()];
    let begin = Instant::now();
    let plan = plan(current, wanted)?;
    Ok((plan, begin.elapsed()))
}

/// The same work on a running server: rows of a table.
async fn live(bench: &Bench) -> Result<Vec<Vec<String>>> {
    let mut rows = Vec::new();
    for groups in GROUPS.into_iter().filter(|groups| !bench.args.quick || *groups == GROUPS[0]) {
        let mut control = Control::start(&bench.musterd()?, &bench.nats_server).await?;
        control.prepare(POLICY_BYTES).await?;
        control.grow_tree(groups).await?;
        let (mut answered, mut known) = (Series::default(), Series::default());
        for run in 0..=bench.runs() {
            let begin = Instant::now();
            let revision = control.change(POLICY_BYTES, u64::try_from(run)? + 1).await?;
            let call = begin.elapsed();
            control.status(revision).await?;
            if run > 0 {
                answered.push_ms(call);
                known.push_ms(begin.elapsed());
            }
        }
        say(&format!("W7 {groups} groups, live: answered {answered} ms, all heads known {known} ms"));
        let count = float(u64::try_from(groups)?);
        let rate = number(count / known.median() * 1e3);
        rows.push(vec![number(count), answered.to_string(), known.to_string(), rate]);
    }
    Ok(rows)
}
