//! W7: a change at the root is planned and compiled for every group below it.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use domain::change::{Current, Plan, Wanted, plan};
use domain::compile::Compiled;

use crate::sample::{self, Tree};
use crate::stats::{Series, float, number};
use crate::{Bench, page, say};

/// Sizes of the tree; the last is the work, the others show that the time grows no faster than the tree.
const GROUPS: [usize; 3] = [1_000, 3_000, 10_000];

/// Measures W7 and gives its section.
///
/// # Errors
/// When the change is refused.
pub fn section(bench: &Bench) -> Result<String> {
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
    let head =
        ["groups below the root", "groups", "ms", "µs a group", "µs a group, against the smallest tree"];
    Ok(format!(
        "## W7: compile a change at the root\n\n{}\n\nOne value of a 4 KiB policy of the root changes. Timed is the whole plan \
         of the change: checks, overlay, validation of every\ndocument that differs, canonical bytes and digest of every group's \
         content; without I/O, on one core. Goal: 10,000 groups in less\nthan 1,000 ms, and linear: the last column stays near 1. \
         Limit: groups that only inherit share their parent's content, so they\ncost a look-up; groups that overlay cost a merge, a \
         schema validation and a SHA-256 of 4 KiB each.\n\n{}",
        bench.machine.line(),
        page::table(&head, &rows)
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
