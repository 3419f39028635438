//! `muster kind`.

use std::cell::Cell;

use clap::{Args, Subcommand};
use wire::api::v1::{DeleteKindRequest, GetKindRequest, ListKindsRequest, ListKindsResponse};

use crate::args::{Change, Consent, Limit, TakeOver};
use crate::client::Pages;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Policy kinds: each has a JSON Schema that its policies satisfy
#[derive(Debug, Subcommand)]
pub(crate) enum Kind {
    List(List),
    Show(Show),
    Delete(Delete),
}

/// List kinds in order of name
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster kind list\n  muster kind list -o json")]
pub(crate) struct List {
    #[command(flatten)]
    limit: Limit,
}

/// Show a kind with its schema
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster kind show firewall\n  muster kind show firewall -o json")]
pub(crate) struct Show {
    /// Name of the kind
    name: String,
}

/// Delete a kind that no policy uses
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster kind delete firewall --dry-run\n  muster kind delete firewall --yes"
)]
pub(crate) struct Delete {
    /// Name of the kind
    name: String,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    claim: TakeOver,
}

impl Kind {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::List(it) => it.run(session).await,
            Self::Show(it) => it.run(session).await,
            Self::Delete(it) => it.run(session).await,
        }
    }
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let revision = Cell::new(0);
        let at = &revision;
        let kinds = Pages::of_documents(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let request = ListKindsRequest { page_size, page_token, min_revision: 0 };
                let page = client.policy().list_kinds(request).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                at.set(page.revision);
                Ok((page.kinds, page.next_page_token))
            })
            .await?;
        let empty = kinds.is_empty().then_some("There is no policy kind yet; `muster apply` makes one.");
        let response = ListKindsResponse { kinds, next_page_token: String::new(), revision: revision.get() };
        session.show_list(&response, empty, view::policy::kinds)
    }
}

impl Show {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let request = GetKindRequest { name: self.name, min_revision: 0 };
        let response = session.client.policy().get_kind(request).await;
        let kind = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&kind, view::policy::kind)
    }
}

impl Delete {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes && !self.change.dry_run {
            session.terminal.confirm(&format!("delete policy kind {}", self.name))?;
        }
        let request = DeleteKindRequest {
            name: self.name,
            revision: 0,
            dry_run: self.change.dry_run,
            message: self.change.message,
            manager: String::new(),
            take_over: self.claim.take_over,
        };
        let response = session.client.policy().delete_kind(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, view::change::change)
    }
}
