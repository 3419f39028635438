//! API tokens and who one is.

use wire::api::v1::{ApiToken, ApiTokenSecret, ListApiTokensResponse, Role, WhoAmIResponse};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::text;

/// Where a token that is bound to no group reaches.
const WHOLE: &str = "whole fleet";

/// A new token with its secret.
pub(crate) fn secret(secret: &ApiTokenSecret, style: Style) -> String {
    let details = secret.details.clone().unwrap_or_default();
    format!(
        "API token {}: {} of {} until {}\n\n{}\n",
        safe(&details.name),
        role(details.role()),
        reach(&details.group),
        text::time(details.expire_time.as_ref()),
        style.paint(&safe(&secret.token), Tone::Heading),
    )
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Viewer => "viewer",
        Role::Enroller => "enroller",
        Role::Operator => "operator",
        Role::Admin => "admin",
        Role::Unspecified => "unknown",
    }
}

fn reach(group: &str) -> String {
    if group.is_empty() { WHOLE.to_owned() } else { safe(group).into_owned() }
}

pub(crate) fn list(response: &ListApiTokensResponse, style: Style) -> String {
    let mut table = Table::new(&["TOKEN", "ROLE", "REACH", "STATE", "CREATED", "BY", "ENDS"]);
    for token in &response.tokens {
        let (state, tone) = state(token, style);
        table.row([
            Cell::from(&token.name),
            Cell::from(role(token.role()).to_owned()),
            Cell::from(reach(&token.group)),
            Cell::toned(state, tone),
            Cell::from(text::time(token.create_time.as_ref())),
            Cell::from(&token.created_by),
            Cell::from(text::time(token.expire_time.as_ref())),
        ]);
    }
    table.render(style)
}

fn state(token: &ApiToken, style: Style) -> (&'static str, Tone) {
    let now = i64::try_from(style.now.0 / 1_000).unwrap_or(i64::MAX);
    if token.expire_time.is_some_and(|end| end.seconds <= now) {
        ("expired", Tone::Quiet)
    } else {
        ("usable", Tone::Good)
    }
}

/// Who the caller is.
pub(crate) fn whoami(answer: &WhoAmIResponse, _: Style) -> String {
    let until = answer.expire_time.as_ref();
    format!(
        "name   {}\nrole   {}\nreach  {}\nuntil  {}\n",
        safe(&answer.name),
        role(answer.role()),
        reach(&answer.group),
        until.map_or_else(|| "-".to_owned(), |until| text::time(Some(until))),
    )
}

/// Who the caller is, in a line.
pub(crate) fn acting_as(answer: &WhoAmIResponse) -> String {
    format!("{} ({} of {})", safe(&answer.name), role(answer.role()), reach(&answer.group))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, group: &str, end: i64) -> ApiToken {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        ApiToken {
            name: name.into(),
            role: Role::Operator.into(),
            group: group.into(),
            ttl: None,
            create_time: at(1_700_000_000),
            expire_time: at(end),
            created_by: "token:local-admin".into(),
        }
    }

    #[test]
    fn tokens_tell_what_they_are_good_for() {
        let style = Style::plain_at(domain::Timestamp(1_700_000_100_000));
        let tokens = vec![token("ci", "/servers/web", 1_700_086_400), token("old", "", 1_700_000_050)];
        assert_eq!(
            list(&ListApiTokensResponse { tokens, next_page_token: String::new() }, style),
            "TOKEN  ROLE      REACH         STATE    CREATED               BY                 ENDS\n\
             ci     operator  /servers/web  usable   2023-11-14T22:13:20Z  token:local-admin  2023-11-15T22:13:20Z\n\
             old    operator  whole fleet   expired  2023-11-14T22:13:20Z  token:local-admin  2023-11-14T22:14:10Z\n"
        );
    }

    #[test]
    fn a_caller_is_told_who_it_is() {
        let answer = WhoAmIResponse {
            name: "token:ci".into(),
            role: Role::Viewer.into(),
            group: "/servers".into(),
            expire_time: None,
        };
        let shown = whoami(&answer, Style::now(false));
        assert_eq!(shown, "name   token:ci\nrole   viewer\nreach  /servers\nuntil  -\n");
    }
}
