//! `muster token`.

use clap::{Args, Subcommand};
use domain::Span;
use wire::api::v1::{
    CreateTokenRequest, ListTokensRequest, ListTokensResponse, RevokeTokenRequest, Token as Message,
};
use wire::time::to_duration;

use super::parse_duration;
use crate::args::{Consent, Limit};
use crate::client::Pages;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;
use crate::view::style::safe;

/// Enrolment tokens: what a machine needs to join
#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    Create(Create),
    List(List),
    Revoke(Revoke),
}

/// Make a join token; its secret is printed this once
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster token create --group /servers/web
  muster token create --group /servers/web --uses 10 --ttl 24h
  TOKEN=$(muster token create --group /servers/web -o json | jq -r .token)")]
pub(crate) struct Create {
    /// Path or name of the group that agents join
    #[arg(long)]
    group: String,
    /// How many agents may join with it, 1 to 100000
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    uses: u32,
    /// How long it is good for, at most 30d
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = parse_duration)]
    ttl: Span,
    /// Its id [default: the server makes one]
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
}

/// List tokens in order of id, without their secrets
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster token list\n  muster token list -o json")]
pub(crate) struct List {
    #[command(flatten)]
    limit: Limit,
}

/// Make a token useless at once; agents that joined with it stay
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster token revoke web --yes")]
pub(crate) struct Revoke {
    /// Id of the token
    token: String,
    #[command(flatten)]
    consent: Consent,
}

impl Token {
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
            group: self.group,
            uses: self.uses,
            ttl: Some(to_duration(self.ttl)),
            ..Message::default()
        };
        let request = CreateTokenRequest { details: Some(details) };
        let response = session.client.identity().create_token(request).await;
        let made = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&made, view::token::secret)?;
        session.notice("The join token is shown this once: its secret is kept nowhere.")
    }
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let client = &session.client;
        let tokens = Pages::of_small(self.limit.limit)
            .fetch(|page_size, page_token| async move {
                let page = client.identity().list_tokens(ListTokensRequest { page_size, page_token }).await;
                let page = page.map_err(|status| client.refusal(status))?.into_inner();
                Ok((page.tokens, page.next_page_token))
            })
            .await?;
        let empty =
            tokens.is_empty().then_some("There is no enrolment token; `muster token create` makes one.");
        let response = ListTokensResponse { tokens, next_page_token: String::new() };
        session.show_list(&response, empty, view::token::list)
    }
}

impl Revoke {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        if !self.consent.yes {
            session.terminal.confirm(&format!("revoke token {}", self.token))?;
        }
        let request = RevokeTokenRequest { name: self.token.clone() };
        let response = session.client.identity().revoke_token(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |_, _| format!("revoked    EnrollmentToken  {}\n", safe(&self.token)))
    }
}
