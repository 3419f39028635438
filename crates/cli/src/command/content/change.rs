//! `muster content promote`, `rollback`, `pin`, `unpin`, `retire`, `delete`, `set` and `gc`.

use clap::Args;
use domain::Span;
use wire::api::v1::{
    CollectGarbageRequest, ContentChange, DeleteChannelRequest, PinRequest, PromoteRequest, RetireRequest,
    RevisionSelector, RollbackContentRequest, UpdateChannelRequest, revision_selector::Which,
};
use wire::time::to_duration;

use super::revision::{REVISIONS, Selected, channel, find, parse_channel, parse_stage};
use crate::args::{Change, Consent};
use crate::client::patiently;
use crate::command::parse_duration;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Make a stage name a revision; agents of groups that follow the stage fetch it
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content promote definitions/ips --stage canary             # the newest revision\n  \
     muster content promote definitions/ips @canary --stage stable     # what canary names\n  \
     muster content promote definitions/ips 7 --stage stable --dry-run\n\n{REVISIONS}"
))]
pub(crate) struct Promote {
    #[command(flatten)]
    selected: Selected,
    /// The stage; made if there is none of this name
    #[arg(long, value_parser = parse_stage)]
    stage: String,
    #[command(flatten)]
    change: Change,
}

/// Make a stage name the revision that it named before, or another older one
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content rollback definitions/ips --stage stable\n  \
     muster content rollback definitions/ips --stage stable --to 5 -m 'revision 7 is slow'\n\n{REVISIONS}"
))]
pub(crate) struct Rollback {
    /// The channel, e.g. definitions/ips
    #[arg(value_parser = parse_channel)]
    channel: String,
    /// The stage
    #[arg(long, value_parser = parse_stage)]
    stage: String,
    /// The revision to go back to [default: the one that the stage named before]
    #[arg(long, value_name = "REVISION")]
    to: Option<String>,
    #[command(flatten)]
    change: Change,
}

/// Keep a revision whatever its age and number
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content pin definitions/ips 7\n  muster content pin definitions/ips@stable\n\n{REVISIONS}"
))]
pub(crate) struct Pin {
    #[command(flatten)]
    selected: Selected,
}

/// Leave a revision to retention again
#[derive(Debug, Args)]
#[command(after_long_help = format!("Examples:\n  muster content unpin definitions/ips 7\n\n{REVISIONS}"))]
pub(crate) struct Unpin {
    #[command(flatten)]
    selected: Selected,
}

/// Remove a revision that no stage, pin or group names
#[derive(Debug, Args)]
#[command(after_long_help = format!(
    "Examples:\n  muster content retire definitions/ips 3 --dry-run\n  muster content retire definitions/ips 3 --yes\n\n\
     {REVISIONS}"
))]
pub(crate) struct Retire {
    #[command(flatten)]
    selected: Selected,
    #[command(flatten)]
    consent: Consent,
    /// Show what would happen and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Delete a channel that no group uses, with all its revisions
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster content delete definitions/old --dry-run\n  muster content delete definitions/old --yes"
)]
pub(crate) struct Delete {
    /// The channel, e.g. definitions/ips
    #[arg(value_parser = parse_channel)]
    channel: String,
    #[command(flatten)]
    consent: Consent,
    /// Show what would happen and write nothing
    #[arg(long)]
    dry_run: bool,
}

/// Change how long a channel keeps its revisions
///
/// What a stage, a pin or a group names is kept anyway, and so is what agents hold or fetch.
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster content set definitions/ips --keep-revisions 30 --keep-for 14d
  muster content set definitions/ips --keep-revisions default")]
pub(crate) struct Set {
    /// The channel, e.g. definitions/ips
    #[arg(value_parser = parse_channel)]
    channel: String,
    /// Revisions to keep beside those in use, or "default"
    #[arg(long, value_name = "N", required_unless_present = "keep_for", value_parser = parse_keep_revisions)]
    keep_revisions: Option<u32>,
    /// How long to keep each at least, or "default"
    #[arg(long, value_name = "DURATION", value_parser = parse_keep_for)]
    keep_for: Option<Span>,
}

/// Delete what nothing needs any more, after applying retention
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster content gc --dry-run\n  muster content gc")]
pub(crate) struct Gc {
    /// Show what would be deleted and delete nothing
    #[arg(long)]
    dry_run: bool,
}

/// What stands for the server's own value.
const DEFAULT: &str = "default";

fn parse_keep_revisions(text: &str) -> Result<u32, String> {
    match text.parse() {
        _ if text == DEFAULT => Ok(0),
        Ok(number @ 1..) => Ok(number),
        Ok(0) | Err(_) => Err("must be a number from 1, or \"default\"".to_owned()),
    }
}

fn parse_keep_for(text: &str) -> Result<Span, String> {
    match parse_duration(text) {
        _ if text == DEFAULT => Ok(Span(0)),
        Ok(Span(0)) => Err("must be longer than nothing, or \"default\"".to_owned()),
        Ok(span) => Ok(span),
        Err(error) => Err(error.to_string()),
    }
}

/// Shows what a change did.
fn show(
    session: &mut Session<'_>,
    answer: Result<ContentChange, tonic::Status>,
    verb: view::content::Verb,
) -> Result<(), Failure> {
    let change = answer.map_err(|status| session.client.refusal(status))?;
    session.show(&change, |it, style| view::content::changed(it, verb, style))
}

impl Promote {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let which = match self.selected.revision()? {
            None => None,
            Some(text) => {
                let channel = channel(&session.client, self.selected.channel()).await?;
                Some(Which::Revision(find(&channel, text)?.revision))
            }
        };
        let request = PromoteRequest {
            selector: Some(RevisionSelector { channel: self.selected.channel().to_owned(), which }),
            stage: self.stage,
            dry_run: self.change.dry_run,
            message: self.change.message,
        };
        let answer = patiently(session.client.content_unhurried().promote(request)).await;
        show(session, answer, view::content::Verb::Stage)
    }
}

impl Rollback {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let to = match &self.to {
            None => 0,
            Some(text) => find(&channel(&session.client, &self.channel).await?, text)?.revision,
        };
        let request = RollbackContentRequest {
            channel: self.channel,
            stage: self.stage,
            to,
            dry_run: self.change.dry_run,
            message: self.change.message,
        };
        let answer = patiently(session.client.content_unhurried().rollback(request)).await;
        show(session, answer, view::content::Verb::Stage)
    }
}

impl Pin {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        pin(&self.selected, true, session).await
    }
}

impl Unpin {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        pin(&self.selected, false, session).await
    }
}

async fn pin(selected: &Selected, pinned: bool, session: &mut Session<'_>) -> Result<(), Failure> {
    let revision = selected.required(&session.client).await?;
    let request = PinRequest { channel: selected.channel().to_owned(), revision, pinned };
    let answer = patiently(session.client.content_unhurried().pin(request)).await;
    show(session, answer, if pinned { view::content::Verb::Pin } else { view::content::Verb::Unpin })
}

impl Retire {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let revision = self.selected.required(&session.client).await?;
        let channel = self.selected.channel().to_owned();
        if !self.consent.yes && !self.dry_run {
            session.terminal.confirm(&format!("retire revision {revision} of {channel}"))?;
        }
        let request = RetireRequest { channel, revision, dry_run: self.dry_run };
        let answer = patiently(session.client.content_unhurried().retire(request)).await;
        show(session, answer, view::content::Verb::Retire)
    }
}

impl Delete {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        // Who deletes by mistake learns it here, and who misspelled learns what there is.
        let found = channel(&session.client, &self.channel).await?;
        if !self.consent.yes && !self.dry_run {
            let revisions = super::revision::revisions(found.revisions.len());
            session.terminal.confirm(&format!("delete channel {} with its {revisions}", self.channel))?;
        }
        let request = DeleteChannelRequest { channel: self.channel.clone(), dry_run: self.dry_run };
        let answer = patiently(session.client.content_unhurried().delete_channel(request)).await;
        show(session, answer, view::content::Verb::Delete { channel: self.channel })
    }
}

impl Set {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = UpdateChannelRequest {
            channel: self.channel,
            keep_revisions: self.keep_revisions,
            keep_for: self.keep_for.map(to_duration),
        };
        let answer = patiently(session.client.content_unhurried().update_channel(request)).await;
        let channel = answer.map_err(|status| session.client.refusal(status))?;
        session.show(&channel, view::content::kept)
    }
}

impl Gc {
    pub(super) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = CollectGarbageRequest { dry_run: self.dry_run };
        let answer = patiently(session.client.content_unhurried().collect_garbage(request)).await;
        let collected = answer.map_err(|status| session.client.refusal(status))?;
        session.show(&collected, view::content::garbage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retention_is_a_number_a_duration_or_the_default() {
        assert_eq!(parse_keep_revisions("30"), Ok(30));
        assert_eq!(parse_keep_revisions("default"), Ok(0));
        assert!(parse_keep_revisions("0").is_err() && parse_keep_revisions("all").is_err());
        assert_eq!(parse_keep_for("14d"), Ok(Span::from_secs(14 * 86_400)));
        assert_eq!(parse_keep_for("default"), Ok(Span(0)));
        assert!(parse_keep_for("0s").is_err() && parse_keep_for("14").is_err());
    }
}
