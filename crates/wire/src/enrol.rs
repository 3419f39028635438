//! What a token lets whom into, between its domain form and the API's.

use domain::GroupId;
use domain::enrol::{Approval, DEFAULT, HostPattern, MAX_RULES, Rule, Scope};

use crate::api::v1::{EnrolmentRule, Token};

/// A field of a token, as `rules[1].hostname`, and what is wrong with it.
pub type Wrong = (String, String);

/// Rules as the API shows them; `path` gives the path of a group.
#[must_use]
pub fn rules(scope: &Scope, path: impl Fn(&GroupId) -> String) -> Vec<EnrolmentRule> {
    let rule = |rule: &Rule| EnrolmentRule {
        labels: rule.labels().clone().into_iter().collect(),
        hostname: rule.hostname().map(HostPattern::to_string).unwrap_or_default(),
        group: path(rule.group()),
    };
    scope.rules().iter().map(rule).collect()
}

/// The path of the group of agents that no rule matches, as the API shows it.
#[must_use]
pub fn group(scope: &Scope, path: impl Fn(&GroupId) -> String) -> String {
    scope.group().map_or_else(|| DEFAULT.to_owned(), path)
}

/// Reads what a token lets whom into. `find` gives a group that the caller may name, by path or name, or says why not.
///
/// # Errors
/// All that is wrong.
pub fn read_scope(
    token: &Token,
    find: &dyn Fn(&str) -> Result<GroupId, String>,
) -> Result<Scope, Vec<Wrong>> {
    let mut wrong = Vec::new();
    let group = match token.group.as_str() {
        "" => {
            if find(DEFAULT).is_err() {
                let why =
                    format!("must be given: there is no group {DEFAULT:?}, which is for tokens without one");
                wrong.push(("group".to_owned(), why));
            }
            None
        }
        text => find(text).map_err(|why| wrong.push(("group".to_owned(), why))).ok(),
    };
    let mut rules = Vec::new();
    // Each rule may say something wrong, so not more are looked at than there may be.
    for (index, rule) in token.rules.iter().take(MAX_RULES + 1).enumerate() {
        match read_rule(rule, find) {
            Ok(rule) => rules.push(rule),
            Err((field, why)) => wrong.push((format!("rules[{index}]{field}"), why)),
        }
    }
    if token.rules.len() > MAX_RULES {
        let why = format!("has {} entries; at most {MAX_RULES} are allowed", token.rules.len());
        wrong.push(("rules".to_owned(), why));
    }
    let approval = if token.approval_required { Approval::Required } else { Approval::None };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    Scope::new(group, rules, approval).map_err(|error| vec![("rules".to_owned(), error.to_string())])
}

fn read_rule(
    rule: &EnrolmentRule,
    find: &dyn Fn(&str) -> Result<GroupId, String>,
) -> Result<Rule, (&'static str, String)> {
    let pattern = match rule.hostname.as_str() {
        "" => None,
        text => Some(HostPattern::new(text).map_err(|error| (".hostname", error.to_string()))?),
    };
    let group = find(&rule.group).map_err(|why| (".group", why))?;
    let labels = rule.labels.clone().into_iter().collect();
    Rule::new(labels, pattern, group).map_err(|error| ("", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(site: &str, hostname: &str, group: &str) -> EnrolmentRule {
        let labels = Some(("site".to_owned(), site.to_owned())).filter(|(_, site)| !site.is_empty());
        EnrolmentRule { labels: labels.into_iter().collect(), hostname: hostname.into(), group: group.into() }
    }

    fn find(text: &str) -> Result<GroupId, String> {
        let id = text.strip_prefix('/').filter(|id| ["web", "db"].contains(id));
        id.map(|id| GroupId::new(id).unwrap()).ok_or_else(|| format!("there is no group {text:?}"))
    }

    #[test]
    fn scopes_are_read_and_shown_again() {
        let token = Token {
            group: "/web".into(),
            rules: vec![rule("north", "", "/db"), rule("", "Web-*", "/web")],
            approval_required: true,
            ..Token::default()
        };
        let scope = read_scope(&token, &find).unwrap();
        assert_eq!(scope.approval(), Approval::Required);
        let path = |id: &GroupId| format!("/{id}");
        assert_eq!(group(&scope, path), "/web");
        assert_eq!(rules(&scope, path), [rule("north", "", "/db"), rule("", "web-*", "/web")]);
        assert_eq!(group(&Scope::default(), path), "/default");
    }

    #[test]
    fn all_that_is_wrong_is_named() {
        let check = |token: Token, expected: &[(&str, &str)]| {
            let wrong = read_scope(&token, &find).unwrap_err();
            assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
            for ((field, why), (at, part)) in wrong.iter().zip(expected) {
                assert!(field == at && why.contains(part), "{field}: {why}");
            }
        };
        check(
            Token {
                group: "/nowhere".into(),
                rules: vec![
                    rule("", "", "/web"),
                    rule("north", "", "/web"),
                    rule("north", "a b", "/web"),
                    rule("north", "", "/edge"),
                    rule("north", "", ""),
                ],
                ..Token::default()
            },
            &[
                ("group", "there is no group \"/nowhere\""),
                ("rules[0]", "must have labels or a host name"),
                ("rules[2].hostname", "has the character ' '"),
                ("rules[3].group", "there is no group \"/edge\""),
                ("rules[4].group", "there is no group \"\""),
            ],
        );
        check(Token::default(), &[("group", "must be given: there is no group \"/default\"")]);
        let many = Token { group: "/web".into(), rules: vec![rule("a", "", "/web"); 33], ..Token::default() };
        check(many, &[("rules", "has 33 entries")]);
    }
}
