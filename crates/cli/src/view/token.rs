//! Enrolment tokens.

use wire::api::v1::{EnrolmentRule, JoinTokenSecret, ListTokensResponse, Token};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::text;
use crate::failure::counted;

/// A new token with its secret and how to use it.
pub(crate) fn secret(secret: &JoinTokenSecret, style: Style) -> String {
    let details = secret.details.clone().unwrap_or_default();
    let uses = usize::try_from(details.uses.max(1)).unwrap_or(usize::MAX);
    let joins = counted(uses, "agent may join", "agents may join");
    let rules: String = details.rules.iter().zip(1..).map(|(it, number)| rule(number, it)).collect();
    let approval = match details.approval_required {
        true => "Each waits until it is approved: muster agent list --pending\n",
        false => "",
    };
    format!(
        "token {}: {joins} {} with it until {}\n{rules}{approval}\n{}\n\nOn each machine:\n  muster-agent run --join {} --state-dir DIR\n",
        safe(&details.name),
        safe(&details.group),
        text::time(details.expire_time.as_ref()),
        style.paint(&safe(&secret.token), Tone::Heading),
        safe(&secret.token),
    )
}

/// One line for each rule of a new token.
fn rule(number: u32, rule: &EnrolmentRule) -> String {
    let hostname = Some(&rule.hostname).filter(|pattern| !pattern.is_empty());
    let labels = Some(&rule.labels).filter(|labels| !labels.is_empty()).map(text::labels);
    let facts: Vec<_> =
        labels.into_iter().chain(hostname.map(|it| format!("hostname={}", safe(it)))).collect();
    format!("  rule {number}: {} get {}\n", facts.join(", "), safe(&rule.group))
}

pub(crate) fn list(response: &ListTokensResponse, style: Style) -> String {
    let mut table = Table::new(&["TOKEN", "GROUP", "RULES", "APPROVAL", "USED", "STATE", "CREATED", "ENDS"]);
    for token in &response.tokens {
        let (state, tone) = state(token, style);
        table.row([
            Cell::from(&token.name),
            Cell::from(&token.group),
            Cell::from(token.rules.len().to_string()),
            Cell::from(if token.approval_required { "required" } else { "-" }),
            Cell::from(format!("{}/{}", token.used, token.uses.max(1))),
            Cell::toned(state, tone),
            Cell::from(text::time(token.create_time.as_ref())),
            Cell::from(text::time(token.expire_time.as_ref())),
        ]);
    }
    table.render(style)
}

fn state(token: &Token, style: Style) -> (&'static str, Tone) {
    let now = i64::try_from(style.now.0 / 1_000).unwrap_or(i64::MAX);
    if token.used >= token.uses.max(1) {
        ("used up", Tone::Quiet)
    } else if token.expire_time.is_some_and(|end| end.seconds <= now) {
        ("expired", Tone::Quiet)
    } else {
        ("usable", Tone::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, uses: u32, used: u32, end: i64) -> Token {
        let at = |seconds| Some(prost_types::Timestamp { seconds, nanos: 0 });
        Token {
            name: name.into(),
            group: "/servers/web".into(),
            uses,
            used,
            create_time: at(1_700_000_000),
            expire_time: at(end),
            ..Token::default()
        }
    }

    #[test]
    fn tokens_tell_whether_they_are_of_use() {
        let style = Style::plain_at(domain::Timestamp(1_700_000_100_000));
        let rules = vec![EnrolmentRule::default(); 2];
        let tokens = vec![
            Token { rules, approval_required: true, ..token("a", 10, 3, 1_700_086_400) },
            token("b", 0, 1, 1_700_086_400),
            token("c", 2, 0, 1_700_000_050),
        ];
        assert_eq!(
            list(&ListTokensResponse { tokens, next_page_token: String::new() }, style),
            "TOKEN  GROUP         RULES  APPROVAL  USED  STATE    CREATED               ENDS\n\
             a      /servers/web  2      required  3/10  usable   2023-11-14T22:13:20Z  2023-11-15T22:13:20Z\n\
             b      /servers/web  0      -         1/1   used up  2023-11-14T22:13:20Z  2023-11-15T22:13:20Z\n\
             c      /servers/web  0      -         0/2   expired  2023-11-14T22:13:20Z  2023-11-14T22:14:10Z\n"
        );
    }

    #[test]
    fn a_new_token_says_how_to_use_it() {
        let made =
            JoinTokenSecret { token: "mjt1_abc".into(), details: Some(token("web", 10, 0, 1_700_086_400)) };
        assert_eq!(
            secret(&made, Style::now(false)),
            "token web: 10 agents may join /servers/web with it until 2023-11-15T22:13:20Z\n\n\
             mjt1_abc\n\n\
             On each machine:\n  muster-agent run --join mjt1_abc --state-dir DIR\n"
        );
        let rule = |labels: &[(&str, &str)], hostname: &str, group: &str| EnrolmentRule {
            labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            hostname: hostname.into(),
            group: group.into(),
        };
        let details = Token {
            rules: vec![rule(&[("site", "north")], "web-*", "/servers/web"), rule(&[], "db", "/servers/db")],
            approval_required: true,
            ..token("web", 1, 0, 1_700_086_400)
        };
        let made = JoinTokenSecret { token: "mjt1_abc".into(), details: Some(details) };
        let text = secret(&made, Style::now(false));
        let middle = "Z\n  rule 1: site=north, hostname=web-* get /servers/web\n  rule 2: hostname=db get /servers/db\n\
                      Each waits until it is approved: muster agent list --pending\n\nmjt1_abc\n";
        assert!(text.contains(middle), "{text}");
    }
}
