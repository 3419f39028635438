//! Which group an agent gets that joins, and why.
//!
//! A token says whom it lets in where: its [`Scope`]. What an agent says of itself, its labels and its host name, is not
//! proven by anything. Rules sort agents into groups; they keep nobody out of a group that the token lets into.

mod rule;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

pub use rule::{
    HostPattern, MAX_LABEL_BYTES, MAX_PATTERN_CHARS, MAX_RULE_LABELS, MAX_STARS, PatternError, Rule,
    RuleError,
};

use crate::access::Reach;
use crate::catalog::{Catalog, Group, GroupRef};
use crate::id::GroupId;
use crate::path::GroupPath;
use crate::registry::Registration;

/// Most rules of one token. They are tried in order at each join, and people read them in one go.
pub const MAX_RULES: usize = 32;
/// Most groups that a refusal names.
pub const MAX_NAMED: usize = 5;
/// Path of the group that agents get whose token names none.
pub const DEFAULT: &str = "/default";

/// The place of the group that agents get whose token names none.
#[must_use]
pub fn default_path() -> GroupPath {
    GroupPath::new(DEFAULT).expect("invariant: the default is a path")
}

/// Whether somebody has to approve the agents that join with a token.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Approval {
    /// They are in at once.
    #[default]
    None,
    /// They wait until somebody approves them.
    Required,
}

/// More than [`MAX_RULES`] rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has {0} rules; at most {MAX_RULES} are allowed")]
pub struct TooManyRules(pub usize);

/// Whom a token lets in where.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scope {
    /// The group of agents that no rule matches; `None`: that at [`DEFAULT`].
    group: Option<GroupId>,
    /// The first that matches counts.
    rules: Vec<Rule>,
    approval: Approval,
}

impl From<GroupId> for Scope {
    fn from(group: GroupId) -> Self {
        Self { group: Some(group), ..Self::default() }
    }
}

impl Scope {
    /// Checks the number of rules.
    ///
    /// # Errors
    /// [`TooManyRules`].
    pub fn new(group: Option<GroupId>, rules: Vec<Rule>, approval: Approval) -> Result<Self, TooManyRules> {
        if rules.len() > MAX_RULES {
            Err(TooManyRules(rules.len()))
        } else {
            Ok(Self { group, rules, approval })
        }
    }

    /// The group of agents that no rule matches; `None`: that at [`DEFAULT`].
    #[must_use]
    pub fn group(&self) -> Option<&GroupId> {
        self.group.as_ref()
    }

    /// The rules in order.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    /// Whether somebody has to approve who joins.
    #[must_use]
    pub fn approval(&self) -> Approval {
        self.approval
    }

    /// The groups that it names: its own, and those of its rules in order.
    pub fn named(&self) -> impl Iterator<Item = &GroupId> {
        self.group.iter().chain(self.rules.iter().map(Rule::group))
    }

    /// Whether it lets agents into `group`, as far as that is said by name or by the place of the default.
    #[must_use]
    pub fn uses(&self, group: &Group) -> bool {
        self.named().any(|named| *named == group.id)
            || (self.group.is_none() && group.path.as_str() == DEFAULT)
    }

    /// Whether every group that it lets into is within `reach`.
    #[must_use]
    pub fn is_within(&self, catalog: &Catalog, reach: &Reach) -> bool {
        self.named().all(|group| reach.holds_group(catalog, group))
            && (self.group.is_some() || reach.holds(catalog, &default_path()))
    }

    /// The group of agents that no rule matches, if it is there.
    fn base<'a>(&self, catalog: &'a Catalog) -> Option<&'a Group> {
        let base = match &self.group {
            Some(group) => catalog.group(group),
            None => catalog.group_at(&default_path()),
        };
        base.map(|group| &*group.value)
    }

    /// Whether an agent that asks for `group` gets it.
    fn allows(&self, catalog: &Catalog, group: &Group) -> bool {
        self.base(catalog).is_some_and(|base| group.path.is_within(&base.path))
            || self.rules.iter().any(|rule| *rule.group() == group.id)
    }

    /// What an agent may ask for, for people.
    fn allowed(&self, catalog: &Catalog) -> String {
        let base = self.base(catalog).map(|base| format!("{} and what is below", base.path));
        let paths = self.rules.iter().filter_map(|rule| catalog.group(rule.group()));
        let mut groups: Vec<String> = base.into_iter().collect();
        for path in paths.map(|group| group.value.path.to_string()) {
            if !groups.contains(&path) {
                groups.push(path);
            }
        }
        let more = groups.len().saturating_sub(MAX_NAMED);
        groups.truncate(MAX_NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        format!("{}{more}", groups.join(", "))
    }
}

/// What an agent says of itself.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// Its host name.
    pub hostname: &'a str,
}

/// Why an agent is in its group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reason {
    /// It asked for it, within what its token allows.
    Asked,
    /// This rule of its token matched, the first of those that do; counted from 1.
    Rule(u32),
    /// It is the group of its token.
    #[default]
    Token,
    /// Its token names no group.
    Default,
    /// Somebody moved it there, or approved it for that group.
    Operator,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Asked => f.write_str("asked"),
            Self::Rule(number) => write!(f, "rule {number}"),
            Self::Token => f.write_str("token"),
            Self::Default => f.write_str("default"),
            Self::Operator => f.write_str("operator"),
        }
    }
}

/// A text is not the form of a [`Reason`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a reason: \"asked\", \"rule N\", \"token\", \"default\" or \"operator\"")]
pub struct ReasonError;

impl FromStr for Reason {
    type Err = ReasonError;
    fn from_str(text: &str) -> Result<Self, ReasonError> {
        match text {
            "asked" => Ok(Self::Asked),
            "token" => Ok(Self::Token),
            "default" => Ok(Self::Default),
            "operator" => Ok(Self::Operator),
            _ => {
                let number = text.strip_prefix("rule ").and_then(|number| number.parse().ok());
                number.map(Self::Rule).ok_or(ReasonError)
            }
        }
    }
}

/// Who joins, as far as the registry knows.
#[derive(Debug, Clone, Copy)]
pub enum Applicant<'a> {
    /// An agent that joined before, with the same id and key.
    Known(&'a Registration),
    /// A new one, with a token of this scope.
    New(&'a Scope),
}

/// Where an agent goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The group.
    pub group: GroupId,
    /// Why that one.
    pub reason: Reason,
    /// The agent was there before and stays, for the reason of then.
    pub remembered: bool,
}

/// Why an agent gets no group.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// The token does not let into the group that the agent asks for. Whether there is such a group is not told.
    #[error("the join token does not let into {asked}; it lets into {allowed}")]
    NotAllowed {
        /// What the agent asks for.
        asked: GroupRef,
        /// What it may ask for.
        allowed: String,
    },
    /// The group was deleted.
    #[error("the group that the join token names does not exist any more")]
    GroupMissing,
    /// The token names no group and there is no default.
    #[error("the join token names no group, and there is none at {DEFAULT}")]
    NoDefault,
}

/// Decides which group an agent gets: the one it is in already; else the one that it asks for, if the token allows it;
/// else that of the first rule which matches; else the token's; else that at [`DEFAULT`].
///
/// # Errors
/// [`PlaceError`]. A group that is named and gone is an error: its agents get no other group by chance.
pub fn place(
    catalog: &Catalog,
    applicant: Applicant<'_>,
    asked: Option<&GroupRef>,
    facts: Facts<'_>,
) -> Result<Placement, PlaceError> {
    let scope = match applicant {
        Applicant::Known(agent) => {
            return Ok(Placement { group: agent.group.clone(), reason: agent.reason, remembered: true });
        }
        Applicant::New(scope) => scope,
    };
    let found = |group: &Group, reason| Placement { group: group.id.clone(), reason, remembered: false };
    if let Some(asked) = asked {
        let group = catalog.named(asked).map(|group| &*group.value);
        let group = group.filter(|group| scope.allows(catalog, group));
        let refused = || PlaceError::NotAllowed { asked: asked.clone(), allowed: scope.allowed(catalog) };
        return group.map(|group| found(group, Reason::Asked)).ok_or_else(refused);
    }
    if let Some((rule, number)) = scope.rules.iter().zip(1..).find(|(rule, _)| rule.matches(facts)) {
        let group = catalog.group(rule.group()).ok_or(PlaceError::GroupMissing)?;
        return Ok(found(&group.value, Reason::Rule(number)));
    }
    let (missing, reason) = match scope.group {
        Some(_) => (PlaceError::GroupMissing, Reason::Token),
        None => (PlaceError::NoDefault, Reason::Default),
    };
    scope.base(catalog).map(|group| found(group, reason)).ok_or(missing)
}

#[cfg(test)]
mod tests;
