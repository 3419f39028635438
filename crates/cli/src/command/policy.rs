//! `muster policy`.

use std::cell::Cell;

use clap::{Args, Subcommand};
use wire::api::v1::{
    DeletePolicyRequest, DiffPolicyRequest, ExplainGroupRequest, GetPolicyRequest, ListPoliciesRequest,
    ListPoliciesResponse, ListPolicyHistoryRequest, ListPolicyHistoryResponse, RollbackPolicyRequest,
};

use crate::args::{Change, Consent, Limit, TakeOver};
use crate::client::Pages;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Policies: named documents that groups assign and agents apply
#[derive(Debug, Subcommand)]
pub(crate) enum Policy {
    List(List),
    Show(Show),
    History(History),
    Diff(Diff),
    Rollback(Rollback),
    Explain(Explain),
    Delete(Delete),
}

/// List policies in order of name
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster policy list\n  muster policy list --kind firewall -o yaml")]
pub(crate) struct List {
    /// Only policies of this kind
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    #[command(flatten)]
    limit: Limit,
}

/// Show a policy with its document
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster policy show firewall-base\n  muster policy show firewall-base --generation 3 -o json"
)]
pub(crate) struct Show {
    /// Name of the policy
    name: String,
    /// Which generation [default: the newest]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    generation: u64,
}

/// Show who changed a policy, when and why, newest first
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster policy history firewall-base\n  muster policy history firewall-base --limit 5"
)]
pub(crate) struct History {
    /// Name of the policy; a deleted one keeps its history
    name: String,
    #[command(flatten)]
    limit: Limit,
}

/// Show what differs between two generations of a policy
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster policy diff firewall-base                  # the newest against the one before\n  muster policy diff firewall-base --from 3 --to 5"
)]
pub(crate) struct Diff {
    /// Name of the policy
    name: String,
    /// Older generation [default: the one before]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    from: u64,
    /// Newer generation [default: the newest]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    to: u64,
}

/// Make an older generation of a policy the newest again, under a new, higher number
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster policy rollback firewall-base --dry-run\n  muster policy rollback firewall-base --to 3 -m 'generation 4 cut off ssh'"
)]
pub(crate) struct Rollback {
    /// Name of the policy
    name: String,
    /// Generation to go back to [default: the one before the newest]
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    to: u64,
    #[command(flatten)]
    change: Change,
}

/// Show the documents in force for a group and where each value comes from
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster policy explain --group /servers/web\n  muster policy explain --group /servers/web --kind firewall --pointer /rules/ssh"
)]
pub(crate) struct Explain {
    /// Path or name of the group
    #[arg(long)]
    group: String,
    /// Only this kind
    #[arg(long, default_value = "", hide_default_value = true)]
    kind: String,
    /// Only this JSON Pointer and what lies below it
    #[arg(long, default_value = "", hide_default_value = true)]
    pointer: String,
}

/// Delete a policy that no group assigns
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster policy delete firewall-old --dry-run\n  muster policy delete firewall-old --yes"
)]
pub(crate) struct Delete {
    /// Name of the policy
    name: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    claim: TakeOver,
}

impl Policy {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::List(it) => it.run(session).await,
            Self::Show(it) => it.run(session).await,
            Self::History(it) => it.run(session).await,
            Self::Diff(it) => it.run(session).await,
            Self::Rollback(it) => it.run(session).await,
            Self::Explain(it) => it.run(session).await,
            Self::Delete(it) => it.run(session).await,
        }
    }
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let revision = Cell::new(0);
        let (kind, at) = (&self.kind, &revision);
        let policies = Pages::of_documents(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let request =
                    ListPoliciesRequest { kind: kind.clone(), page_size, page_token, min_revision: 0 };
                let page = client.policy().list_policies(request).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                at.set(page.revision);
                Ok((page.policies, page.next_page_token))
            })
            .await?;
        let empty = policies.is_empty().then(|| match kind.as_str() {
            "" => "There is no policy yet; `muster apply` makes one.".to_owned(),
            kind => format!("There is no policy of kind {kind}."),
        });
        let response =
            ListPoliciesResponse { policies, next_page_token: String::new(), revision: revision.get() };
        session.show_list(&response, empty.as_deref(), view::policy::list)
    }
}

impl Show {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = GetPolicyRequest { name: self.name, generation: self.generation, min_revision: 0 };
        let response = session.client.policy().get_policy(request).await;
        let policy = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&policy, view::policy::show)
    }
}

impl History {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let name = &self.name;
        let generations = Pages::of_history(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let request = ListPolicyHistoryRequest { name: name.clone(), page_size, page_token };
                let page = client.policy().list_policy_history(request).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                Ok((page.generations, page.next_page_token))
            })
            .await?;
        let empty = generations.is_empty().then(|| format!("Policy {name} has no history."));
        let response = ListPolicyHistoryResponse { generations, next_page_token: String::new() };
        session.show_list(&response, empty.as_deref(), view::policy::history)
    }
}

impl Diff {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = DiffPolicyRequest { name: self.name, from: self.from, to: self.to };
        let response = session.client.policy().diff_policy(request).await;
        let diff = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&diff, view::policy::diff)
    }
}

impl Rollback {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = RollbackPolicyRequest {
            name: self.name,
            to: self.to,
            revision: 0,
            dry_run: self.change.dry_run,
            message: self.change.message,
        };
        let response = session.client.policy().rollback_policy(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |it, style| {
            it.result.as_ref().map(|result| view::change::change(result, style)).unwrap_or_default()
        })
    }
}

impl Explain {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let everything = self.kind.is_empty() && self.pointer.is_empty();
        let request = ExplainGroupRequest {
            group: self.group,
            kind: self.kind,
            pointer: self.pointer,
            min_revision: 0,
        };
        let response = session.client.policy().explain_group(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        let nothing = response.documents.iter().all(|document| document.values.is_empty());
        session.show(&response, |it, style| view::explain::explain(it, everything, style))?;
        if nothing {
            return session.notice("No policy sets a value here.");
        }
        Ok(())
    }
}

impl Delete {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes && !self.change.dry_run {
            session.terminal.confirm(&format!("delete policy {}", self.name))?;
        }
        let request = DeletePolicyRequest {
            name: self.name,
            revision: 0,
            dry_run: self.change.dry_run,
            message: self.change.message,
            manager: String::new(),
            take_over: self.claim.take_over,
        };
        let response = session.client.policy().delete_policy(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, view::change::change)
    }
}
