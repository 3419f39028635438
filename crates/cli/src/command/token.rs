//! `muster token`.

use clap::{Args, Subcommand};
use domain::Span;
use domain::enrol::HostPattern;
use wire::api::v1::{
    CreateTokenRequest, EnrolmentRule, ListTokensRequest, ListTokensResponse, RevokeTokenRequest,
    Token as Message,
};
use wire::time::to_duration;

use super::parse_duration;
use crate::args::{Consent, Limit, TakeOver};
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
  muster token create --group /servers --rule '/servers/web:site=north,hostname=web-*' --rule /servers/db:tier=db
  muster token create --group /edge --uses 500 --approval
  TOKEN=$(muster token create --group /servers/web -o json | jq -r .token)")]
pub(crate) struct Create {
    /// Path or name of the group that agents join [default: the group at /default]
    #[arg(long, default_value = "", hide_default_value = true)]
    group: String,
    /// Put agents into another group that have these labels and whose host name looks so; the first rule that matches
    /// counts; may be repeated. What an agent says of itself is not proven: rules sort, and keep nobody out
    #[arg(long = "rule", value_name = "GROUP:KEY=VALUE,...", value_parser = rule)]
    rules: Vec<EnrolmentRule>,
    /// Let nobody in whom `muster agent approve` has not let in
    #[arg(long)]
    approval: bool,
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
    #[command(flatten)]
    claim: TakeOver,
}

/// Reads `/servers/web:site=north,hostname=web-*`.
fn rule(text: &str) -> Result<EnrolmentRule, String> {
    const FORM: &str = "must be GROUP:KEY=VALUE,..., such as '/servers/web:site=north,hostname=web-*'";
    let (group, facts) = text.split_once(':').filter(|(group, _)| !group.is_empty()).ok_or(FORM)?;
    let mut rule = EnrolmentRule { group: group.to_owned(), ..EnrolmentRule::default() };
    for fact in facts.split(',') {
        let (key, value) = fact.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or(FORM)?;
        let twice = match key {
            "hostname" => {
                HostPattern::new(value).map_err(|error| format!("hostname {error}"))?;
                !std::mem::replace(&mut rule.hostname, value.to_owned()).is_empty()
            }
            _ => rule.labels.insert(key.to_owned(), value.to_owned()).is_some(),
        };
        if twice {
            return Err(format!("names {key:?} twice; agents have one of each"));
        }
    }
    Ok(rule)
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
            rules: self.rules,
            approval_required: self.approval,
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
        let request = RevokeTokenRequest {
            name: self.token.clone(),
            manager: String::new(),
            take_over: self.claim.take_over,
        };
        let response = session.client.identity().revoke_token(request).await;
        let response = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&response, |_, _| format!("revoked    EnrollmentToken  {}\n", safe(&self.token)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_have_a_short_form() {
        let read = rule("/servers/web:site=north,hostname=web-*,empty=,at=a=b").unwrap();
        let mut labels: Vec<_> = read.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        labels.sort();
        assert_eq!((read.group.as_str(), read.hostname.as_str()), ("/servers/web", "web-*"));
        assert_eq!(labels, ["at=a=b", "empty=", "site=north"]);
        for (text, expected) in [
            ("", "must be GROUP:KEY=VALUE"),
            ("/web", "must be GROUP:KEY=VALUE"),
            (":a=b", "must be GROUP:KEY=VALUE"),
            ("/web:", "must be GROUP:KEY=VALUE"),
            ("/web:a", "must be GROUP:KEY=VALUE"),
            ("/web:=b", "must be GROUP:KEY=VALUE"),
            ("/web:a=b,", "must be GROUP:KEY=VALUE"),
            ("/web:a=b,a=c", "names \"a\" twice"),
            ("/web:hostname=a,hostname=b", "names \"hostname\" twice"),
            ("/web:hostname=a b", "hostname has the character ' '"),
        ] {
            let error = rule(text).unwrap_err();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
