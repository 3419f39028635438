//! `muster api-token`.

use clap::{Args, Subcommand, ValueEnum};
use domain::Span;
use wire::api::v1::{
    ApiToken as Message, CreateApiTokenRequest, ListApiTokensRequest, ListApiTokensResponse,
    RevokeApiTokenRequest, Role,
};
use wire::time::to_duration;

use super::parse_duration;
use crate::args::{Consent, Limit};
use crate::client::Pages;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;
use crate::view::style::safe;

/// API tokens: what people and programs show the server to be let in
#[derive(Debug, Subcommand)]
pub(crate) enum ApiToken {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// What the bearer of a token may do, as an argument.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum RoleName {
    /// Looks at everything, changes nothing
    Viewer,
    /// Makes enrolment tokens and sees who joined
    Enroller,
    /// Changes groups, policies and content, moves agents, and does what an enroller does
    Operator,
    /// Does everything, and says who else may
    Admin,
}

impl From<RoleName> for Role {
    fn from(name: RoleName) -> Self {
        match name {
            RoleName::Viewer => Self::Viewer,
            RoleName::Enroller => Self::Enroller,
            RoleName::Operator => Self::Operator,
            RoleName::Admin => Self::Admin,
        }
    }
}

/// Make an API token; its secret is printed this once
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster api-token create ana --role admin
  muster api-token create ci --role operator --group /servers/web --ttl 30d
  (umask 077; muster api-token create ci --role viewer -o json | jq -r .token > ci.token)")]
pub(crate) struct Create {
    /// Its name, of a-z, 0-9, '_' and '-': histories show who changed something as token:NAME
    name: String,
    /// What its bearer may do
    #[arg(long)]
    role: RoleName,
    /// Path or name of the group that its bearer is bound to, with those below it [default: the whole fleet]
    #[arg(long, default_value = "", hide_default_value = true)]
    group: String,
    /// How long it is good for, at most 366d
    #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = parse_duration)]
    ttl: Span,
}

/// List API tokens in order of name, without their secrets
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster api-token list\n  muster api-token list -o json")]
pub(crate) struct List {
    #[command(flatten)]
    limit: Limit,
}

/// Make an API token useless at once
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster api-token revoke ci --yes")]
pub(crate) struct Revoke {
    /// Name of the token
    token: String,
    #[command(flatten)]
    consent: Consent,
}

impl ApiToken {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::Create(it) => it.run(session).await,
            Self::List(it) => it.run(session).await,
            Self::Revoke(it) => it.run(session).await,
        }
    }
}

impl Create {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let details = Message {
            name: self.name,
            role: Role::from(self.role).into(),
            group: self.group,
            ttl: Some(to_duration(self.ttl)),
            ..Message::default()
        };
        let request = CreateApiTokenRequest { details: Some(details) };
        let response = session.client.access().create_api_token(request).await;
        let made = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&made, view::api_token::secret)?;
        session.notice("The API token is shown this once: its secret is kept nowhere.")
    }
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let tokens = Pages::of_small(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let request = ListApiTokensRequest { page_size, page_token };
                let page = client.access().list_api_tokens(request).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                Ok((page.tokens, page.next_page_token))
            })
            .await?;
        let empty =
            tokens.is_empty().then_some("There is no API token; `muster api-token create` makes one.");
        let response = ListApiTokensResponse { tokens, next_page_token: String::new() };
        session.show_list(&response, empty, view::api_token::list)
    }
}

impl Revoke {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes {
            session.terminal.confirm(&format!("revoke API token {}", self.token))?;
        }
        let request = RevokeApiTokenRequest { name: self.token.clone() };
        let response = session.client.access().revoke_api_token(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |_, _| format!("revoked    ApiToken  {}\n", safe(&self.token)))
    }
}
