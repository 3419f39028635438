//! One rule: what it looks for in an agent, and the group it names.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::Facts;
use crate::id::GroupId;

/// Most labels of one rule.
pub const MAX_RULE_LABELS: usize = 8;
/// Longest key or value of an agent's label, in bytes.
pub const MAX_LABEL_BYTES: usize = 128;
/// Longest pattern of a host name, in characters. The longest label of a name in DNS has 63.
pub const MAX_PATTERN_CHARS: usize = 128;
/// Most `*` of a pattern: what is between two of them is looked for from left to right, once.
pub const MAX_STARS: usize = 4;

/// Why a text is not a pattern of host names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Empty or too long.
    #[error("must have 1 to {MAX_PATTERN_CHARS} characters")]
    Length,
    /// A character that no host name has.
    #[error("has the character {0:?}; only letters, digits, '.', '-', '_' and '*' are allowed")]
    Character(char),
    /// More than [`MAX_STARS`].
    #[error("has more than {MAX_STARS} \"*\"")]
    Stars,
}

/// What a host name looks like: `*` stands for any characters, also none. Case does not count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPattern(Box<str>);

impl HostPattern {
    /// Checks the pattern.
    ///
    /// # Errors
    /// [`PatternError`].
    pub fn new(text: impl AsRef<str>) -> Result<Self, PatternError> {
        let text = text.as_ref();
        if text.is_empty() || text.len() > MAX_PATTERN_CHARS {
            return Err(PatternError::Length);
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
        if let Some(character) = text.chars().find(|c| !plain(*c)) {
            return Err(PatternError::Character(character));
        }
        if text.matches('*').count() > MAX_STARS {
            return Err(PatternError::Stars);
        }
        Ok(Self(text.to_ascii_lowercase().into()))
    }

    /// Whether a host name looks so.
    #[must_use]
    pub fn matches(&self, hostname: &str) -> bool {
        let hostname = hostname.to_ascii_lowercase();
        let Some((first, rest)) = self.0.split_once('*') else { return *hostname == *self.0 };
        let Some(mut left) = hostname.strip_prefix(first) else { return false };
        let (between, last) = rest.rsplit_once('*').map_or((None, rest), |(a, b)| (Some(a), b));
        for part in between.into_iter().flat_map(|between| between.split('*')) {
            // The leftmost find leaves the most for what follows.
            let Some(at) = left.find(part) else { return false };
            left = &left[at + part.len()..];
        }
        left.ends_with(last)
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;
    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::new(text)
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a rule is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RuleError {
    /// It would match every agent.
    #[error("must have labels or a host name; agents that no rule matches get the token's group")]
    Empty,
    /// More than [`MAX_RULE_LABELS`].
    #[error("has {0} labels; at most {MAX_RULE_LABELS} are allowed")]
    TooManyLabels(usize),
    /// A label that no agent can have.
    #[error(
        "has a label whose key is not of 1 to {MAX_LABEL_BYTES} bytes, or whose value is longer than that"
    )]
    Label,
}

/// Which agents get which group. A value that exists looks for something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    labels: BTreeMap<String, String>,
    hostname: Option<HostPattern>,
    group: GroupId,
}

impl Rule {
    /// Checks what the rule looks for.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn new(
        labels: BTreeMap<String, String>,
        hostname: Option<HostPattern>,
        group: GroupId,
    ) -> Result<Self, RuleError> {
        if labels.is_empty() && hostname.is_none() {
            return Err(RuleError::Empty);
        }
        if labels.len() > MAX_RULE_LABELS {
            return Err(RuleError::TooManyLabels(labels.len()));
        }
        let fits = |(key, value): (&String, &String)| {
            (1..=MAX_LABEL_BYTES).contains(&key.len()) && value.len() <= MAX_LABEL_BYTES
        };
        if !labels.iter().all(fits) {
            return Err(RuleError::Label);
        }
        Ok(Self { labels, hostname, group })
    }

    /// Labels that the agent must have.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// What its host name must look like; `None`: whatever it is.
    #[must_use]
    pub fn hostname(&self) -> Option<&HostPattern> {
        self.hostname.as_ref()
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> &GroupId {
        &self.group
    }

    /// Whether it is about this agent: all that it looks for is there.
    #[must_use]
    pub fn matches(&self, facts: Facts<'_>) -> bool {
        self.labels.iter().all(|(key, value)| facts.labels.get(key) == Some(value))
            && self.hostname.as_ref().is_none_or(|pattern| pattern.matches(facts.hostname))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::prop_assert_eq;

    use super::*;

    #[test]
    fn patterns_match_host_names() {
        for (pattern, hostname, expected) in [
            ("web-1", "web-1", true),
            ("web-1", "WEB-1", true),
            ("Web-*", "web-1", true),
            ("web-*", "web-", true),
            ("web-*", "web", false),
            ("web-*", "xweb-1", false),
            ("*.example.org", "a.example.org", true),
            ("*.example.org", "example.org", false),
            ("*", "", true),
            ("*", "anything", true),
            ("a*a", "a", false),
            ("a*a", "aa", true),
            ("*b*", "abc", true),
            ("*b*", "ac", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
            ("web-1", "web-1.example.org", false),
            ("*-1", "größe-1", true),
        ] {
            let pattern = HostPattern::new(pattern).unwrap();
            assert_eq!(pattern.matches(hostname), expected, "{pattern} {hostname}");
        }
        assert_eq!(HostPattern::new(""), Err(PatternError::Length));
        assert_eq!(HostPattern::new("a".repeat(129)), Err(PatternError::Length));
        assert_eq!(HostPattern::new("a b"), Err(PatternError::Character(' ')));
        assert_eq!(HostPattern::new("ö"), Err(PatternError::Character('ö')));
        assert_eq!(HostPattern::new("*****"), Err(PatternError::Stars));
    }

    #[test]
    fn rules_look_for_something_within_bounds() {
        let labels = |n: usize| (0..n).map(|n| (format!("k{n}"), "v".to_owned())).collect::<BTreeMap<_, _>>();
        let group = GroupId::new("g").unwrap();
        let new = |labels, hostname: Option<&str>| {
            let hostname = hostname.map(|text| HostPattern::new(text).unwrap());
            Rule::new(labels, hostname, group.clone()).map(drop)
        };
        assert_eq!(new(labels(0), None), Err(RuleError::Empty));
        assert_eq!(new(labels(0), Some("*")), Ok(()));
        assert_eq!(new(labels(8), None), Ok(()));
        assert_eq!(new(labels(9), None), Err(RuleError::TooManyLabels(9)));
        for (key, value) in
            [(String::new(), String::new()), ("k".repeat(129), String::new()), ("k".into(), "v".repeat(129))]
        {
            assert_eq!(new([(key, value)].into(), None), Err(RuleError::Label));
        }
    }

    /// The same by trying every way.
    fn slow(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|at| slow(rest, &text[at..])),
            Some((c, rest)) => text.first() == Some(c) && slow(rest, &text[1..]),
        }
    }

    proptest::proptest! {
        #[test]
        fn patterns_match_what_the_definition_says(pattern in "[ab*]{1,8}", text in "[ab]{0,8}") {
            if let Ok(read) = HostPattern::new(&pattern) {
                prop_assert_eq!(read.matches(&text), slow(pattern.as_bytes(), text.as_bytes()));
            }
        }

        #[test]
        fn no_host_name_makes_it_panic(pattern in "[a-c*]{1,10}", text in ".{0,30}") {
            let _ = HostPattern::new(&pattern).map(|pattern| pattern.matches(&text));
        }
    }
}
