//! `muster group`.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};

use clap::{Args, Subcommand};
use domain::Span;
use prost_types::FieldMask;
use wire::api::v1::{
    ContentReference, CreateGroupRequest, DeleteGroupRequest, GetGroupRequest, Group as Message,
    ListGroupsRequest, ListGroupsResponse, MoveGroupRequest, Settings, UpdateGroupRequest,
};
use wire::time::to_duration;

use super::content::{parse_assignment, parse_channel};
use super::{ModeName, parse_duration, parse_label};
use crate::args::{Change, Consent, Limit, MODES, TakeOver};
use crate::client::{Client, Pages};
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Groups: the tree that settings and policies are inherited along
#[derive(Debug, Subcommand)]
pub(crate) enum Group {
    List(List),
    Show(Show),
    Create(Create),
    Set(Set),
    Move(Move),
    Delete(Delete),
}

/// List groups in order of path
#[derive(Debug, Args)]
#[command(
    after_long_help = format!("Examples:\n  muster group list\n  muster group list --under /servers -o json\n\n{MODES}")
)]
pub(crate) struct List {
    /// Only this group and those below it
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    under: String,
    #[command(flatten)]
    limit: Limit,
}

/// Show a group with its settings and where they come from
#[derive(Debug, Args)]
#[command(
    after_long_help = format!("Examples:\n  muster group show /servers/web\n  muster group show servers-web -o yaml\n\n{MODES}")
)]
pub(crate) struct Show {
    /// Path (/servers/web) or name (servers-web)
    group: String,
}

/// Create a group
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster group create /servers/web\n  muster group create /kiosks --mode pull --heartbeat-interval 10m \
     --policy kiosk-base\n\n{MODES}"
))]
pub(crate) struct Create {
    /// Where it goes in the tree, e.g. /servers/web
    path: String,
    /// Its name, which stays when it moves [default: made from the path]
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// Assign this policy; may be repeated
    #[arg(long = "policy", value_name = "POLICY")]
    policies: Vec<String>,
    /// Assign content: a stage of a channel, or a revision by number (CHANNEL=#7); may be repeated
    #[arg(long = "content", value_name = "CHANNEL=STAGE", value_parser = parse_assignment)]
    content: Vec<ContentReference>,
    /// Give it this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Push or pull [default: as the parent]
    #[arg(long)]
    mode: Option<ModeName>,
    /// Time between heartbeats, e.g. 1m [default: as the parent]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    heartbeat_interval: Option<Span>,
    /// Silence after which an agent counts as offline [default: as the parent]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    offline_after: Option<Span>,
    #[command(flatten)]
    change: Change,
}

/// Change the policies, content or labels of a group (`settings set` changes its settings)
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster group set /servers/web --add-policy firewall-web
  muster group set /servers/web --remove-policy firewall-web --dry-run
  muster group set /servers/web --policy firewall-web --policy logging-web   # these and no others
  muster group set /servers --content definitions/ips=stable
  muster group set /servers/web --content definitions/ips=#7       # this revision and no other
  muster group set /servers/web --remove-content definitions/ips   # as the group above again
  muster group set /servers/web --label tier=front --remove-label test")]
#[group(id = "what", required = true, multiple = true,
    args = ["policies", "no_policies", "add_policies", "remove_policies", "content", "remove_content", "labels",
        "remove_labels"])]
pub(crate) struct Set {
    /// Path or name
    group: String,
    /// Assign this policy and no others but those named likewise; may be repeated
    #[arg(long = "policy", value_name = "POLICY", conflicts_with_all = ["add_policies", "remove_policies"])]
    policies: Vec<String>,
    /// Assign no policy
    #[arg(long, conflicts_with_all = ["policies", "add_policies", "remove_policies"])]
    no_policies: bool,
    /// Assign this policy too; may be repeated
    #[arg(long = "add-policy", value_name = "POLICY")]
    add_policies: Vec<String>,
    /// Assign this policy no longer; may be repeated
    #[arg(long = "remove-policy", value_name = "POLICY")]
    remove_policies: Vec<String>,
    /// Assign content: a stage of a channel, or a revision by number (CHANNEL=#7); may be repeated
    #[arg(long = "content", value_name = "CHANNEL=STAGE", value_parser = parse_assignment)]
    content: Vec<ContentReference>,
    /// Assign nothing of this channel here any longer; may be repeated
    #[arg(long = "remove-content", value_name = "CHANNEL", value_parser = parse_channel)]
    remove_content: Vec<String>,
    /// Give it this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// Take this label away; may be repeated
    #[arg(long = "remove-label", value_name = "KEY")]
    remove_labels: Vec<String>,
    #[command(flatten)]
    change: Change,
}

/// Move a group and all below it to another place in the tree
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster group move /servers/web --to /edge/web --dry-run\n  muster group move servers-web --to /web"
)]
pub(crate) struct Move {
    /// Path or name
    group: String,
    /// New path of the group itself
    #[arg(long, value_name = "PATH")]
    to: String,
    #[command(flatten)]
    change: Change,
}

/// Delete a group that has no groups below it and no agents
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster group delete /servers/old --dry-run\n  muster group delete /servers/old --yes"
)]
pub(crate) struct Delete {
    /// Path or name
    group: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    claim: TakeOver,
}

impl Group {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::List(it) => it.run(session).await,
            Self::Show(it) => session.show(&get(&session.client, it.group).await?, view::group::show),
            Self::Create(it) => it.run(session).await,
            Self::Set(it) => it.run(session).await,
            Self::Move(it) => it.run(session).await,
            Self::Delete(it) => it.run(session).await,
        }
    }
}

/// One group as it is now.
pub(super) async fn get(client: &Client, group: String) -> Result<Message, Failure> {
    let request = GetGroupRequest { group, min_revision: 0 };
    let response = client.policy().get_group(request).await;
    Ok(response.map_err(|status| client.refusal(status))?.into_inner())
}

/// Changes the named fields of a group and shows what that did.
pub(super) async fn update(
    session: &mut Session<'_>,
    group: Message,
    fields: Vec<String>,
    change: Change,
) -> Result<(), Failure> {
    let request = UpdateGroupRequest {
        group: Some(group),
        update_mask: Some(FieldMask { paths: fields }),
        dry_run: change.dry_run,
        message: change.message,
    };
    let response = session.client.policy().update_group(request).await;
    let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
    session.show(&response, |it, style| {
        it.result.as_ref().map(|result| view::change::change(result, style)).unwrap_or_default()
    })
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let revision = Cell::new(0);
        let (under, at) = (&self.under, &revision);
        let groups = Pages::of_small(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let request =
                    ListGroupsRequest { under: under.clone(), page_size, page_token, min_revision: 0 };
                let page = client.policy().list_groups(request).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                at.set(page.revision);
                Ok((page.groups, page.next_page_token))
            })
            .await?;
        let empty = groups.is_empty().then_some("There is no group here.");
        let response =
            ListGroupsResponse { groups, next_page_token: String::new(), revision: revision.get() };
        session.show_list(&response, empty, view::group::list)
    }
}

impl Create {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let settings = Settings {
            mode: self.mode.map(|mode| wire::api::v1::Mode::from(mode).into()),
            heartbeat_interval: self.heartbeat_interval.map(to_duration),
            offline_after: self.offline_after.map(to_duration),
            ..Settings::default()
        };
        let group = Message {
            name: self.name,
            path: self.path,
            settings: Some(settings),
            policies: self.policies,
            content: merged(&[], &self.content),
            labels: self.labels.into_iter().collect(),
            ..Message::default()
        };
        let request = CreateGroupRequest {
            group: Some(group),
            dry_run: self.change.dry_run,
            message: self.change.message,
        };
        let response = session.client.policy().create_group(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |it, style| {
            it.result.as_ref().map(|result| view::change::change(result, style)).unwrap_or_default()
        })
    }
}

impl Set {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let now = get(&session.client, self.group.clone()).await?;
        let mut fields = Vec::new();
        let policies = self.policies(&now.policies);
        if policies != now.policies || self.no_policies || !self.policies.is_empty() {
            fields.push("policies".to_owned());
        }
        let labels = self.labels(&now.labels);
        if labels != now.labels {
            fields.push("labels".to_owned());
        }
        let kept: Vec<ContentReference> =
            now.content.iter().filter(|it| !self.remove_content.contains(&it.channel)).cloned().collect();
        let content = merged(&kept, &self.content);
        if content != now.content {
            fields.push("content".to_owned());
        }
        if fields.is_empty() {
            return session.notice(&format!("{} is so already; nothing was changed", now.path));
        }
        // The revision makes sure that nobody else's change in between is undone.
        let group = Message {
            name: now.name,
            path: now.path,
            policies,
            content,
            labels,
            revision: now.revision,
            ..Message::default()
        };
        update(session, group, fields, self.change).await
    }

    fn policies(&self, now: &[String]) -> Vec<String> {
        if self.no_policies || !self.policies.is_empty() {
            return self.policies.clone();
        }
        let mut policies: Vec<String> =
            now.iter().filter(|name| !self.remove_policies.contains(name)).cloned().collect();
        for name in &self.add_policies {
            if !policies.contains(name) {
                policies.push(name.clone());
            }
        }
        policies
    }

    fn labels(&self, now: &HashMap<String, String>) -> HashMap<String, String> {
        let mut labels = now.clone();
        labels.retain(|key, _| !self.remove_labels.contains(key));
        labels.extend(self.labels.iter().cloned());
        labels
    }
}

/// Assignments in order of channel; the last one of a channel holds.
fn merged(now: &[ContentReference], then: &[ContentReference]) -> Vec<ContentReference> {
    let all = now.iter().chain(then).map(|it| (it.channel.as_str(), it));
    all.collect::<BTreeMap<_, _>>().into_values().cloned().collect()
}

impl Move {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = MoveGroupRequest {
            group: self.group,
            to: self.to,
            dry_run: self.change.dry_run,
            message: self.change.message,
        };
        let response = session.client.policy().move_group(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |it, style| {
            it.result.as_ref().map(|result| view::change::change(result, style)).unwrap_or_default()
        })
    }
}

impl Delete {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes && !self.change.dry_run {
            session.terminal.confirm(&format!("delete group {}", self.group))?;
        }
        let request = DeleteGroupRequest {
            group: self.group,
            revision: 0,
            dry_run: self.change.dry_run,
            message: self.change.message,
            manager: String::new(),
            take_over: self.claim.take_over,
        };
        let response = session.client.policy().delete_group(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, view::change::change)
    }
}
