//! `muster content list`, `show`, `diff` and `status`.

use std::cell::Cell;

use clap::Args;
use wire::api::v1::{
    DiffRevisionsRequest, GetContentStatusRequest, GetRevisionRequest, ListChannelsRequest,
    ListChannelsResponse, RevisionSelector, revision_selector::Which,
};

use super::revision::{REVISIONS, Selected, channel, find, parse_channel};
use crate::args::Limit;
use crate::client::{Pages, patiently};
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// List channels in order of name
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster content list\n  muster content list -o json")]
pub(crate) struct List {
    #[command(flatten)]
    limit: Limit,
}

/// Show a channel with its stages and revisions, or one revision with its files and the ways to it
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content show definitions/ips                  # the channel\n  \
     muster content show definitions/ips@stable           # what the stage names\n  \
     muster content show definitions/ips 7 --files -o json\n\n{REVISIONS}"
))]
pub(crate) struct Show {
    #[command(flatten)]
    selected: Selected,
    /// List every file of the revision
    #[arg(long)]
    files: bool,
}

/// Show which files differ between two revisions, and what an agent fetches to get from one to the other
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content diff definitions/ips 6 7\n  \
     muster content diff definitions/ips @stable @canary\n\n{REVISIONS}"
))]
pub(crate) struct Diff {
    /// The channel, e.g. definitions/ips
    #[arg(value_parser = parse_channel)]
    channel: String,
    /// The revision before
    from: String,
    /// The revision after
    to: String,
}

/// Show how far a channel's revisions have got among the agents
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster content status definitions/ips
  muster content status definitions/ips --group /servers -o json | jq .failed

Agents that wait have not started to download: contentSpread spreads them over time, and downloads \
of whole contents wait for their turn.")]
pub(crate) struct Status {
    /// The channel, e.g. definitions/ips
    #[arg(value_parser = parse_channel)]
    channel: String,
    /// Only agents of this group and those below it (path or name)
    #[arg(long, value_name = "GROUP", default_value = "", hide_default_value = true)]
    group: String,
}

impl List {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let (stored, quota) = (Cell::new(0), Cell::new(0));
        let (is_stored, may_be) = (&stored, &quota);
        let channels = Pages::of_small(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let page =
                    client.content().list_channels(ListChannelsRequest { page_size, page_token }).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                is_stored.set(page.stored_bytes);
                may_be.set(page.quota_bytes);
                Ok((page.channels, page.next_page_token))
            })
            .await?;
        let empty = channels
            .is_empty()
            .then_some("There is no content channel yet; `muster content push CHANNEL PATH` makes one.");
        let response = ListChannelsResponse {
            channels,
            next_page_token: String::new(),
            stored_bytes: stored.get(),
            quota_bytes: quota.get(),
        };
        session.show_list(&response, empty, view::content::list)
    }
}

impl Show {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let channel = channel(&session.client, self.selected.channel()).await?;
        let Some(text) = self.selected.revision()? else {
            return session.show(&channel, view::content::channel);
        };
        let which = Some(Which::Revision(find(&channel, text)?.revision));
        let request =
            GetRevisionRequest { selector: Some(RevisionSelector { channel: channel.name, which }) };
        let answer = patiently(session.client.content_unhurried().get_revision(request)).await;
        let detail = answer.map_err(|status| session.client.refusal(status))?;
        session.show(&detail, |it, style| view::content::revision(it, self.files, style))
    }
}

impl Diff {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let channel = channel(&session.client, &self.channel).await?;
        let selector = |text: &str| -> Result<_, Failure> {
            let which = Some(Which::Revision(find(&channel, text)?.revision));
            Ok(Some(RevisionSelector { channel: channel.name.clone(), which }))
        };
        let request = DiffRevisionsRequest { from: selector(&self.from)?, to: selector(&self.to)? };
        let answer = patiently(session.client.content_unhurried().diff_revisions(request)).await;
        let diff = answer.map_err(|status| session.client.refusal(status))?;
        session.show(&diff, view::content::diff)
    }
}

impl Status {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        // Presence knows agents and not channels: a name that is misspelled would look like one nobody follows.
        channel(&session.client, &self.channel).await?;
        let request = GetContentStatusRequest { channel: self.channel, group: self.group };
        let response = session.client.presence().get_content_status(request).await;
        let status = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&status, view::content::status)
    }
}
