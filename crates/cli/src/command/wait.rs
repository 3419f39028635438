//! `muster wait`.

mod content;

use std::time::{Duration, Instant};

use clap::Args;
use domain::Span;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tonic::{Code, Request};
use wire::api::v1::{
    AgentCounts, AgentFilter, FleetStatus, GetStatusRequest, ListGroupsRequest, PresenceState, Progress,
};
use wire::manifest::duration;

use super::{agent, parse_duration};
use crate::failure::{Failure, Goal, counted};
use crate::session::Session;
use crate::view::style::safe;

/// How often the fleet is asked: often enough for a person, seldom enough for the server.
const POLL_INTERVAL: Duration = Duration::from_millis(250);
/// Pause for each agent that is looked at: a server lists no more than a thousand a second for one who waits.
const PAUSE_FOR_EACH_AGENT: Duration = Duration::from_millis(1);
/// Most agents that a failure names: enough to look into, little enough to read.
const MAX_NAMED: usize = 5;

/// Wait until every online agent of a group, and of those below it, runs the head
///
/// With --content also until each of them holds the content that is assigned to it.
/// Agents that are not online are not waited for: they catch up when they return. An agent that fails ends
/// the wait at once.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster apply -f web.yaml && muster wait --group /servers/web --timeout 30s
  muster wait --group / --agents 3        # also until at least three agents are online
  muster wait --group / --content --timeout 10m

Exit codes: 0 all online agents run the head, 6 time ran out, 7 an agent failed")]
pub(crate) struct Wait {
    /// Path or name of the group
    #[arg(long)]
    group: String,
    /// How long to wait at most
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    timeout: Span,
    /// Wait for the heads of this store revision, or later ones [default: the newest change]
    #[arg(long, value_name = "N")]
    min_revision: Option<u64>,
    /// Wait until at least this many agents are online
    #[arg(long, value_name = "N", default_value_t = 0)]
    agents: u64,
    /// Wait until their content is there too
    #[arg(long)]
    content: bool,
}

/// Whether the wait is over.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Reached,
    Failed,
    Waiting,
}

fn judge(counts: &AgentCounts, wanted: u64) -> Verdict {
    if counts.online_failed > 0 {
        Verdict::Failed
    } else if counts.online_pending == 0 && counts.online >= wanted {
        Verdict::Reached
    } else {
        Verdict::Waiting
    }
}

impl Wait {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from(self.timeout);
        let min_revision = match self.min_revision {
            Some(revision) => revision,
            None => self.newest_revision(session).await?,
        };
        let bar = bar(session.terminal.draws_progress(), &self.group, "at the head");
        let mut last = None;
        let verdict = loop {
            match self.status(session, min_revision, deadline).await? {
                None => {}
                Some(status) => {
                    let counts = status.all.unwrap_or_default();
                    let reached = counts.online.saturating_sub(counts.online_pending + counts.online_failed);
                    bar.set_length(counts.online.max(self.agents));
                    bar.set_position(reached);
                    let verdict = judge(&counts, self.agents);
                    last = Some(status);
                    if verdict != Verdict::Waiting {
                        break verdict;
                    }
                }
            }
            if Instant::now() + POLL_INTERVAL >= deadline {
                break Verdict::Waiting;
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        };
        bar.finish_and_clear();
        if verdict == Verdict::Reached && self.content {
            self.wait_for_content(session, deadline).await?;
        }
        self.end(session, verdict, last).await
    }

    async fn wait_for_content(&self, session: &Session<'_>, deadline: Instant) -> Result<(), Failure> {
        let bar = bar(session.terminal.draws_progress(), &self.group, "with their content");
        loop {
            let survey = content::survey(&session.client, &self.group).await?;
            bar.set_length(survey.online);
            bar.set_position(survey.online.saturating_sub(survey.lacking.count));
            if survey.failed.count > 0 {
                let agents = online(survey.failed.count);
                let cause = format!("content failed on {agents}: {}", survey.failed);
                return Err(Failure::AgentsFailed { cause, goal: Goal::Content });
            }
            if survey.lacking.count == 0 {
                bar.finish_and_clear();
                return Ok(());
            }
            let pause =
                POLL_INTERVAL + PAUSE_FOR_EACH_AGENT * u32::try_from(survey.online).unwrap_or(u32::MAX);
            if Instant::now() + pause >= deadline {
                let agents = counted(size(survey.lacking.count), "online agent does", "online agents do");
                let after = duration::format(self.timeout);
                let lacking = survey.lacking;
                let cause = format!("after {after} {agents} not hold their content: {lacking}");
                return Err(Failure::TimedOut { cause, goal: Goal::Content });
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// The revision of the newest change: what was applied before this command is waited for.
    async fn newest_revision(&self, session: &Session<'_>) -> Result<u64, Failure> {
        let request =
            ListGroupsRequest { under: self.group.clone(), page_size: 1, ..ListGroupsRequest::default() };
        let response = session.client.policy().list_groups(request).await;
        Ok(response.map_err(|status| session.client.refusal(status))?.into_inner().revision)
    }

    /// The status, or nothing if the server does not have it yet.
    async fn status(
        &self,
        session: &Session<'_>,
        min_revision: u64,
        deadline: Instant,
    ) -> Result<Option<FleetStatus>, Failure> {
        let mut request =
            Request::new(GetStatusRequest { group: self.group.clone(), only_itself: false, min_revision });
        request.set_timeout(deadline.saturating_duration_since(Instant::now()).max(POLL_INTERVAL));
        match session.client.presence().get_status(request).await {
            Ok(response) => Ok(Some(response.into_inner())),
            // A replica that is behind or being replaced: the deadline is ours to keep.
            Err(status)
                if matches!(status.code(), Code::DeadlineExceeded | Code::Unavailable | Code::Cancelled) =>
            {
                Ok(None)
            }
            Err(status) => Err(session.client.refusal(status)),
        }
    }

    async fn end(
        &self,
        session: &mut Session<'_>,
        verdict: Verdict,
        last: Option<FleetStatus>,
    ) -> Result<(), Failure> {
        let status = last.unwrap_or_default();
        let counts = status.all.unwrap_or_default();
        match verdict {
            Verdict::Reached => session.show(&status, |_, _| reached(&self.group, &counts, self.content)),
            Verdict::Failed => {
                let agents = self.name_agents(session, Progress::Failed).await?;
                let cause = format!("{} failed: {agents}", online(counts.online_failed));
                Err(Failure::AgentsFailed { cause, goal: Goal::Head })
            }
            Verdict::Waiting => {
                let after = duration::format(self.timeout);
                let cause = match (counts.online_pending, counts.online) {
                    (0, online) if online < self.agents => format!(
                        "after {after} {} of {} online; {} wanted",
                        counted_are(online),
                        self.group,
                        self.agents
                    ),
                    (0, _) => format!("after {after} the server does not know the newest heads yet"),
                    (pending, _) => {
                        let agents = self.name_agents(session, Progress::Pending).await?;
                        format!("after {after} {} not at the head yet: {agents}", counted_are_online(pending))
                    }
                };
                Err(Failure::TimedOut { cause, goal: Goal::Head })
            }
        }
    }

    /// The first few agents that stand so, with the reason of those that failed.
    async fn name_agents(&self, session: &Session<'_>, progress: Progress) -> Result<String, Failure> {
        let filter = AgentFilter {
            group: self.group.clone(),
            include_children: true,
            states: vec![PresenceState::Online.into()],
            progress: progress.into(),
            ..AgentFilter::default()
        };
        let response = agent::list(&session.client, filter, Some(MAX_NAMED)).await?;
        let mut names: Vec<String> = response.agents.iter().map(named).collect();
        let total = usize::try_from(response.total).unwrap_or(usize::MAX);
        if total > names.len() {
            names.push(format!("and {} more", total - names.len()));
        }
        Ok(names.join(", "))
    }
}

fn named(agent: &wire::api::v1::Agent) -> String {
    match agent.items.iter().find(|item| item.state == "failed") {
        Some(item) => format!("{} ({}: {})", agent.name, item.kind, item.reason),
        None => agent.name.clone(),
    }
}

fn size(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn online(agents: u64) -> String {
    counted(size(agents), "online agent", "online agents")
}

fn counted_are_online(agents: u64) -> String {
    counted(size(agents), "online agent is", "online agents are")
}

fn counted_are(agents: u64) -> String {
    counted(size(agents), "agent", "agents")
}

fn reached(group: &str, counts: &AgentCounts, content: bool) -> String {
    let group = safe(group);
    let away = counts.total.saturating_sub(counts.online);
    let rest = match away {
        0 => String::new(),
        1 => "; 1 agent that is not online will follow".to_owned(),
        away => format!("; {away} agents that are not online will follow"),
    };
    match counts.online {
        0 => format!("no agent of {group} is online{rest}\n"),
        1 => {
            let holds = if content { " and holds its content" } else { "" };
            format!("the only online agent of {group} runs the head{holds}{rest}\n")
        }
        online => {
            let hold = if content { " and hold their content" } else { "" };
            format!("all {online} online agents of {group} run the head{hold}{rest}\n")
        }
    }
}

fn bar(visible: bool, group: &str, what: &'static str) -> ProgressBar {
    let target = if visible { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style =
        ProgressStyle::with_template("{prefix} [{bar:30}] {pos}/{len} online agents {msg}, {elapsed}")
            .expect("invariant: the template is valid");
    ProgressBar::with_draw_target(Some(0), target)
        .with_style(style.progress_chars("=> "))
        .with_prefix(safe(group).into_owned())
        .with_message(what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_all_online_agents_are_there_or_one_failed() {
        let check = |online, pending, failed, wanted, expected: Verdict| {
            let counts = AgentCounts {
                online,
                online_pending: pending,
                online_failed: failed,
                ..AgentCounts::default()
            };
            assert_eq!(judge(&counts, wanted), expected, "{counts:?} {wanted}");
        };
        check(3, 0, 0, 0, Verdict::Reached);
        check(0, 0, 0, 0, Verdict::Reached);
        check(3, 1, 0, 0, Verdict::Waiting);
        check(3, 2, 1, 0, Verdict::Failed);
        check(2, 0, 0, 3, Verdict::Waiting);
        check(3, 0, 0, 3, Verdict::Reached);
    }

    #[test]
    fn the_end_is_told_in_words() {
        let told = |total, online, content| {
            let counts = AgentCounts { total, online, ..AgentCounts::default() };
            reached("/a", &counts, content)
        };
        let check = |total, online, expected: &str| {
            assert_eq!(told(total, online, false), format!("{expected}\n"));
        };
        check(3, 3, "all 3 online agents of /a run the head");
        check(1, 1, "the only online agent of /a runs the head");
        check(4, 2, "all 2 online agents of /a run the head; 2 agents that are not online will follow");
        check(1, 0, "no agent of /a is online; 1 agent that is not online will follow");
        check(0, 0, "no agent of /a is online");
        assert_eq!(told(1, 1, true), "the only online agent of /a runs the head and holds its content\n");
        assert_eq!(told(2, 2, true), "all 2 online agents of /a run the head and hold their content\n");
    }
}
