//! Entries of enrolment tokens between their domain form and stored bytes.

use std::sync::Arc;

use domain::catalog::{Entry, Token};
use domain::enrol::{Approval, HostPattern, Rule, Scope};
use domain::{Digest, GroupId, Timestamp, TokenId};

use crate::DecodeError;
use crate::store::v1::{EnrolmentRuleState, TokenState};

pub(super) fn token(token: &Token) -> TokenState {
    let rule = |rule: &Rule| EnrolmentRuleState {
        labels: rule.labels().clone().into_iter().collect(),
        hostname: rule.hostname().map(HostPattern::to_string).unwrap_or_default(),
        group: rule.group().to_string(),
    };
    TokenState {
        group: token.scope.group().map(GroupId::to_string).unwrap_or_default(),
        uses: token.uses,
        created_at_ms: token.created_at.0,
        expires_at_ms: token.expires_at.0,
        secret_sha256: token.secret_digest.0.to_vec(),
        rules: token.scope.rules().iter().map(rule).collect(),
        approval_required: token.scope.approval() == Approval::Required,
        manager: super::mark(token.manager.as_ref()),
    }
}

pub(super) fn read_token(id: TokenId, state: TokenState) -> Result<Entry, DecodeError> {
    let digest = state.secret_sha256.try_into();
    let digest = digest.map_err(|_| DecodeError::field("secret_sha256", "is not 32 bytes long"))?;
    let group = Some(state.group).filter(|group| !group.is_empty());
    let group = group.map(GroupId::new).transpose().map_err(|e| DecodeError::field("group", e))?;
    let rules = state.rules.into_iter().map(read_rule).collect::<Result<_, _>>()?;
    let approval = if state.approval_required { Approval::Required } else { Approval::None };
    Ok(Entry::Token(Arc::new(Token {
        id,
        scope: Scope::new(group, rules, approval).map_err(|e| DecodeError::field("rules", e))?,
        uses: state.uses,
        created_at: Timestamp(state.created_at_ms),
        expires_at: Timestamp(state.expires_at_ms),
        secret_digest: Digest(digest),
        manager: super::read_mark(&state.manager)?,
    })))
}

fn read_rule(state: EnrolmentRuleState) -> Result<Rule, DecodeError> {
    let hostname = Some(state.hostname).filter(|pattern| !pattern.is_empty());
    let hostname =
        hostname.map(HostPattern::new).transpose().map_err(|e| DecodeError::field("rules.hostname", e))?;
    let group = GroupId::new(&state.group).map_err(|e| DecodeError::field("rules.group", e))?;
    let labels = state.labels.into_iter().collect();
    Rule::new(labels, hostname, group).map_err(|e| DecodeError::field("rules", e))
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use super::*;

    pub(in crate::catalog) fn sample() -> Entry {
        let labels = BTreeMap::from([("site".to_owned(), "north".to_owned())]);
        let pattern = HostPattern::new("web-*").unwrap();
        let group = |id: &str| GroupId::new(id).unwrap();
        let rules = vec![
            Rule::new(labels, None, group("edge")).unwrap(),
            Rule::new(BTreeMap::new(), Some(pattern), group("web")).unwrap(),
        ];
        Entry::Token(Arc::new(Token {
            id: TokenId::new("t").unwrap(),
            scope: Scope::new(Some(group("web")), rules, Approval::Required).unwrap(),
            uses: 10,
            created_at: Timestamp(1),
            expires_at: Timestamp(2),
            secret_digest: Digest([3; 32]),
            manager: None,
        }))
    }

    #[test]
    fn a_token_without_a_group_has_none_and_broken_rules_let_nobody_in() {
        let good = || TokenState { secret_sha256: vec![3; 32], ..TokenState::default() };
        let read = |state| read_token(TokenId::new("t").unwrap(), state);
        let Ok(Entry::Token(token)) = read(good()) else { panic!("it is a token") };
        assert_eq!((&token.scope, self::token(&token)), (&Scope::default(), good()));
        let rule = |hostname: &str, group: &str| EnrolmentRuleState {
            hostname: hostname.into(),
            group: group.into(),
            ..EnrolmentRuleState::default()
        };
        for rules in [
            vec![rule("", "web")],
            vec![rule("a b", "web")],
            vec![rule("*", "")],
            vec![rule("*", "a.b")],
            vec![rule("*", "web"); 33],
        ] {
            assert!(read(TokenState { rules: rules.clone(), ..good() }).is_err(), "{rules:?}");
        }
    }
}
