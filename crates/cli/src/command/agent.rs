//! `muster agent`.

use std::cell::Cell;
use std::error::Error as _;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use domain::Span;
use tonic::Code;
use wire::api::v1::{
    AgentFilter, ApproveAgentRequest, DeleteAgentRequest, EnrolOfflineRequest, GetAgentRequest,
    GetRegistrationRequest, ListAgentsRequest, ListAgentsResponse, ListPendingAgentsRequest,
    ListPendingAgentsResponse, Mode, MoveAgentRequest, PresenceState, Progress, RejectAgentRequest,
    RevokeAgentRequest,
};
use wire::offline::{MAX_REQUEST_CHARS, open_request};
use wire::time::to_duration;

use super::{ModeName, parse_duration};
use crate::args::{Consent, Format, Limit, MODES};
use crate::client::{Client, Pages};
use crate::failure::{Failure, counted};
use crate::manifests::read_bounded;
use crate::session::Session;
use crate::view;

/// Agents: which are there, and what they run
#[derive(Debug, Subcommand)]
pub(crate) enum Agent {
    List(List),
    Show(Show),
    Move(Move),
    Approve(Approve),
    Reject(Reject),
    Enrol(Enrol),
    Delete(Delete),
    Revoke(Revoke),
}

/// List agents in order of id
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster agent list --group /servers --children\n  muster agent list --state offline --state late\n  \
     muster agent list --progress failed -o json\n  muster agent list --mode pull --limit 20\n  \
     muster agent list --pending\n\n{MODES}"
))]
pub(crate) struct List {
    /// Those that wait for approval instead
    #[arg(long, conflicts_with_all = ["group", "children", "states", "mode", "progress", "revision", "agent_version"])]
    pending: bool,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    limit: Limit,
}

/// Which agents; what is not said is "any".
#[derive(Debug, Args)]
struct Filter {
    /// In this group (path or name)
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    group: String,
    /// Also in the groups below it
    #[arg(long, requires = "group")]
    children: bool,
    /// In this state; may be repeated
    #[arg(long = "state", value_name = "STATE")]
    states: Vec<State>,
    /// In this mode
    #[arg(long)]
    mode: Option<ModeName>,
    /// Standing so against the head of their group
    #[arg(long)]
    progress: Option<ProgressName>,
    /// Running exactly this revision
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    revision: u64,
    /// Of this agent version
    #[arg(long = "version", value_name = "VERSION", default_value = "", hide_default_value = true)]
    agent_version: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    /// Enrolled, no heartbeat yet
    NeverSeen,
    /// Within its interval
    Online,
    /// Silent for more than one and a half intervals
    Late,
    /// Silent for longer than offlineAfter
    Offline,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProgressName {
    /// It runs the head
    Current,
    /// It has not reached the head yet
    Pending,
    /// It refused the head, or went back from it
    Failed,
}

/// Show an agent with the state of each policy on it
#[derive(Debug, Args)]
#[command(
    after_long_help = format!("Examples:\n  muster agent show web-1-0a1b2c3d\n  muster agent show web-1-0a1b2c3d -o json\n\n{MODES}")
)]
pub(crate) struct Show {
    /// Id of the agent
    agent: String,
}

/// Move an agent to another group; a connected agent follows at once
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster agent move web-1-0a1b2c3d --to /servers/db")]
pub(crate) struct Move {
    /// Id of the agent
    agent: String,
    /// Path or name of the new group
    #[arg(long, alias = "group", value_name = "GROUP")]
    to: String,
}

/// Let in an agent that waits for approval
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster agent approve web-1-0a1b2c3d\n  muster agent approve web-1-0a1b2c3d --group /servers/web"
)]
pub(crate) struct Approve {
    /// Id of the agent
    agent: String,
    /// Path or name of its group [default: the one that its token gives it]
    #[arg(long, default_value = "", hide_default_value = true)]
    group: String,
}

/// Turn away an agent that waits for approval; its id is never used again
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster agent reject web-1-0a1b2c3d --yes")]
pub(crate) struct Reject {
    /// Id of the agent
    agent: String,
    #[command(flatten)]
    consent: Consent,
}

/// Let in a machine that cannot reach its fleet yet, by a request that was carried here
#[derive(Debug, Args)]
#[command(
    long_about = "Let in a machine that cannot reach its fleet yet.\n\n`muster-agent request` writes the request there, with a join token. What the token allows and consumes is the same as if the machine had asked itself. The bundle is carried back, where `muster-agent join --bundle` takes it; it is of use to that machine only.",
    after_long_help = "Examples:\n  muster agent enrol --request web-9.request --bundle web-9.bundle\n  muster agent enrol --request web-9.request --bundle web-9.bundle --ttl 7d"
)]
pub(crate) struct Enrol {
    /// What `muster-agent request` wrote
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// File for the bundle
    #[arg(long, value_name = "FILE")]
    bundle: PathBuf,
    /// How long the bundle is good for, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    ttl: Span,
}

/// Delete an agent; its id is never used again
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster agent delete web-1-0a1b2c3d --yes")]
pub(crate) struct Delete {
    /// Id of the agent
    agent: String,
    #[command(flatten)]
    consent: Consent,
}

/// Cut off an agent whose key may be in wrong hands, at once and for ever
#[derive(Debug, Args)]
#[command(
    long_about = "Cut off an agent whose key may be in wrong hands, at once and for ever.\n\nIt is deleted, its connection is ended within seconds, and the broker does not let it in again. Its id is never used again: let the machine join under another one, with a new state directory.",
    after_long_help = "Examples:\n  muster agent revoke web-1-0a1b2c3d --yes"
)]
pub(crate) struct Revoke {
    /// Id of the agent
    agent: String,
    #[command(flatten)]
    consent: Consent,
}

impl Agent {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::List(it) => it.run(session).await,
            Self::Show(it) => it.run(session).await,
            Self::Move(it) => it.run(session).await,
            Self::Approve(it) => it.run(session).await,
            Self::Reject(it) => it.run(session).await,
            Self::Enrol(it) => it.run(session).await,
            Self::Delete(it) => it.run(session).await,
            Self::Revoke(it) => it.run(session).await,
        }
    }
}

impl From<Filter> for AgentFilter {
    fn from(filter: Filter) -> Self {
        let state = |state: &State| match state {
            State::NeverSeen => PresenceState::NeverSeen.into(),
            State::Online => PresenceState::Online.into(),
            State::Late => PresenceState::Late.into(),
            State::Offline => PresenceState::Offline.into(),
        };
        let progress = match filter.progress {
            None => Progress::Unspecified,
            Some(ProgressName::Current) => Progress::Current,
            Some(ProgressName::Pending) => Progress::Pending,
            Some(ProgressName::Failed) => Progress::Failed,
        };
        Self {
            group: filter.group,
            include_children: filter.children,
            states: filter.states.iter().map(state).collect(),
            mode: filter.mode.map_or(Mode::Unspecified, Mode::from).into(),
            progress: progress.into(),
            revision: filter.revision,
            agent_version: filter.agent_version,
        }
    }
}

/// The agents that a filter lets through, and how many there are beyond the limit.
pub(super) async fn list(
    client: &Client,
    filter: AgentFilter,
    limit: Option<usize>,
) -> Result<ListAgentsResponse, Failure> {
    let total = Cell::new(0);
    let (filter, matching) = (&filter, &total);
    let agents = Pages::of_small(limit)
        .fetch(|page_size, page_token| async move {
            let request = ListAgentsRequest { filter: Some(filter.clone()), page_size, page_token };
            let page = client.presence().list_agents(request).await;
            let page = page.map_err(|status| client.refusal(status))?.into_inner();
            matching.set(page.total);
            Ok((page.agents, page.next_page_token))
        })
        .await?;
    Ok(ListAgentsResponse { agents, next_page_token: String::new(), total: total.get() })
}

/// Lists those that wait for approval.
async fn pending(limit: Option<usize>, session: &mut Session<'_>) -> Result<(), Failure> {
    let client = &session.client;
    let agents = Pages::of_small(limit)
        .fetch(|page_size, page_token| async move {
            let request = ListPendingAgentsRequest { page_size, page_token };
            let page = client.identity().list_pending_agents(request).await;
            let page = page.map_err(|status| client.refusal(status))?.into_inner();
            Ok((page.agents, page.next_page_token))
        })
        .await?;
    let empty = agents.is_empty().then_some("No agent waits for approval.");
    let response = ListPendingAgentsResponse { agents, next_page_token: String::new() };
    session.show_list(&response, empty, view::agent::pending)
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if self.pending {
            return pending(self.limit.limit, session).await;
        }
        let filter = AgentFilter::from(self.filter);
        let sentence = if filter == AgentFilter::default() {
            "No agent has joined yet; `muster token create` makes what one needs to join."
        } else {
            "No agent is like this."
        };
        let response = list(&session.client, filter, self.limit.limit).await?;
        let empty = response.agents.is_empty().then_some(sentence);
        session.show_list(&response, empty, view::agent::list)?;
        let total = usize::try_from(response.total).unwrap_or(usize::MAX);
        let more = total.saturating_sub(response.agents.len());
        if more > 0 && !response.agents.is_empty() {
            return session.notice(&format!("... and {}", counted(more, "more agent", "more agents")));
        }
        Ok(())
    }
}

impl Show {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let request = GetRegistrationRequest { agent: self.agent.clone() };
        let agent = match client.presence().get_agent(GetAgentRequest { name: self.agent }).await {
            Ok(agent) => agent.into_inner(),
            // Identity knows more of it if it waits for approval.
            Err(status) if status.code() == Code::NotFound => {
                let known = client.identity().get_registration(request).await;
                return Err(client.refusal(known.err().unwrap_or(status)));
            }
            Err(status) => return Err(client.refusal(status)),
        };
        let registration = match session.format {
            Format::Table => {
                match client.identity().get_registration(request).await {
                    Ok(registration) => Some(registration.into_inner()),
                    // Deleted a moment ago: presence has not heard of it yet.
                    Err(status) if status.code() == Code::NotFound => None,
                    Err(status) => return Err(client.refusal(status)),
                }
            }
            Format::Json | Format::Yaml => None,
        };
        session.show(&agent, |it, style| view::agent::show(it, registration.as_ref(), style))
    }
}

impl Move {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = MoveAgentRequest { agent: self.agent, group: self.to };
        let response = session.client.identity().move_agent(request).await;
        let registration = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&registration, view::agent::moved)
    }
}

impl Approve {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = ApproveAgentRequest { agent: self.agent, group: self.group };
        let response = session.client.identity().approve_agent(request).await;
        let registration = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&registration, view::agent::approved)
    }
}

impl Reject {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes {
            session.terminal.confirm(&format!("reject agent {}; its id is never used again", self.agent))?;
        }
        let request = RejectAgentRequest { agent: self.agent.clone() };
        let response = session.client.identity().reject_agent(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |_, _| format!("rejected   Agent  {}\n", self.agent))
    }
}

impl Enrol {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let text = read_bounded(&self.request, MAX_REQUEST_CHARS as u64)?;
        let text = String::from_utf8_lossy(&text).trim().to_owned();
        let asked = open_request(&text).map_err(|error| {
            let why = match error.source() {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            };
            Failure::Input(format!("{}: {why}", self.request.display()))
        })?;
        let ttl = Some(to_duration(self.ttl));
        let request = EnrolOfflineRequest { agent: asked.agent.to_string(), request: text, ttl };
        let response = session.client.identity().enrol_offline(request).await;
        let made = response.map_err(|status| session.client.refusal(status))?.into_inner();
        let written = std::fs::write(&self.bundle, format!("{}\n", made.bundle));
        written
            .map_err(|error| Failure::Input(format!("cannot write {}: {error}", self.bundle.display())))?;
        session.show(&made, view::agent::enrolled)
    }
}

impl Revoke {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes {
            session.terminal.confirm(&format!("cut off agent {}; its id is never used again", self.agent))?;
        }
        let request = RevokeAgentRequest { agent: self.agent.clone() };
        let response = session.client.identity().revoke_agent(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |_, _| format!("revoked    Agent  {}\n", self.agent))
    }
}

impl Delete {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes {
            session.terminal.confirm(&format!("delete agent {}; its id is never used again", self.agent))?;
        }
        let request = DeleteAgentRequest { agent: self.agent.clone() };
        let response = session.client.identity().delete_agent(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |_, _| format!("deleted    Agent  {}\n", self.agent))
    }
}
