//! What the operator says of an object: its conditions, and how many agents have it.

use domain::Timestamp;
use serde::{Deserialize, Serialize};

use crate::object::Object;

/// Longest message of a condition, in bytes: enough for the first reasons of a refusal.
const MAX_MESSAGE_BYTES: usize = 2_000;

/// The status of an object.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Status {
    pub(crate) observed_generation: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) agents: Option<Agents>,
    #[serde(flatten)]
    pub(crate) token: Option<TokenStatus>,
    pub(crate) conditions: Vec<Condition>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The token behind an EnrollmentToken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokenStatus {
    pub(crate) secret_name: String,
    pub(crate) token: String,
    pub(crate) expires: String,
    pub(crate) uses: u64,
    pub(crate) used: u64,
}

/// Agents that should have something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Agents {
    pub(crate) total: u64,
    pub(crate) at_revision: u64,
    pub(crate) failed: u64,
    /// Online or late ones that do not have it yet or failed. Not told.
    #[serde(skip)]
    pub(crate) lacking: u64,
}

/// A condition, as Kubernetes wants one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Condition {
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) status: String,
    pub(crate) observed_generation: i64,
    pub(crate) last_transition_time: String,
    pub(crate) reason: String,
    pub(crate) message: String,
}

/// How it went with an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The fleet has it as it stands in Kubernetes, since this revision.
    Synced { revision: u64, agents: Option<Agents> },
    /// The Secret holds a token that agents may join with.
    Token(TokenStatus),
    /// Something is wrong: a word for programs, and in words.
    Refused { reason: &'static str, message: String },
}

/// Who must have an object before it is Ready, in percent of all agents; `None`: all that are online or late.
pub(crate) type Share = Option<u64>;

/// The status of an object after a pass.
pub(crate) fn status(object: &Object, outcome: &Outcome, share: Share, now: Timestamp) -> Status {
    let mut next = Status {
        observed_generation: object.generation,
        // What is known of it stays known while something is wrong.
        revision: object.status.revision,
        agents: object.status.agents,
        token: object.status.token.clone(),
        conditions: Vec::new(),
    };
    let told = |yes: bool, reason: &str, message: String| (yes, reason.to_owned(), message);
    let (synced, ready, degraded) = match outcome {
        Outcome::Synced { revision, agents } => {
            next.revision = *revision;
            next.agents = *agents;
            let synced = told(true, "Synced", format!("the fleet has it since revision {revision}"));
            let failed = agents.map_or(0, |agents| agents.failed);
            let own_share = object.ready_share.as_ref().ok().copied().flatten();
            let degraded = match failed {
                0 => told(false, "Fine", String::new()),
                failed => {
                    told(true, "AgentsFailed", format!("{failed} agents refused it or went back from it"))
                }
            };
            (synced, ready(*agents, own_share.or(share)), degraded)
        }
        Outcome::Token(token) => {
            next.token = Some(token.clone());
            let ready = match token.used >= token.uses {
                true => told(
                    false,
                    "UsedUp",
                    format!("all {} uses are consumed until the next token", token.uses),
                ),
                false => told(true, "Joinable", format!("Secret {} holds a token", token.secret_name)),
            };
            (
                told(true, "Synced", format!("token {}", token.token)),
                ready,
                told(false, "Fine", String::new()),
            )
        }
        Outcome::Refused { reason, message } => {
            let bad = |yes| told(yes, reason, message.clone());
            (bad(false), bad(false), bad(true))
        }
    };
    for (name, (yes, reason, message)) in [("Ready", ready), ("Synced", synced), ("Degraded", degraded)] {
        next.conditions.push(condition(object, name, (yes, reason, message), now));
    }
    next
}

/// Whether the agents have it.
fn ready(agents: Option<Agents>, share: Share) -> (bool, String, String) {
    let Some(agents) = agents else {
        return (true, "Synced".to_owned(), "agents have nothing of it".to_owned());
    };
    let Agents { total, at_revision, failed, lacking } = agents;
    let enough = match share {
        Some(share) => u128::from(at_revision) * 100 >= u128::from(total) * u128::from(share),
        None => lacking == 0,
    };
    let reason = match (enough, failed) {
        (true, _) => "AgentsCurrent",
        (false, 0) => "AgentsPending",
        (false, _) => "AgentsFailed",
    };
    let wanted = share.map_or("all that are online or late".to_owned(), |share| format!("{share} %"));
    (enough, reason.to_owned(), format!("{at_revision} of {total} agents have it; {wanted} should"))
}

fn condition(
    object: &Object,
    name: &str,
    (yes, reason, mut message): (bool, String, String),
    now: Timestamp,
) -> Condition {
    let status = if yes { "True" } else { "False" };
    let before = object.status.conditions.iter().find(|before| before.name == name);
    let since =
        before.filter(|before| before.status == status).map(|before| before.last_transition_time.clone());
    message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
    Condition {
        name: name.to_owned(),
        status: status.to_owned(),
        observed_generation: object.generation,
        last_transition_time: since.unwrap_or_else(|| time(now)),
        reason,
        message,
    }
}

/// A moment as Kubernetes writes it, in seconds.
pub(crate) fn time(at: Timestamp) -> String {
    wire::time::to_timestamp(Timestamp(at.0 / 1_000 * 1_000)).to_string()
}

impl Status {
    /// Whether a condition is true.
    pub(crate) fn is(&self, name: &str) -> bool {
        self.conditions.iter().any(|one| one.name == name && one.status == "True")
    }

    /// A condition by name.
    pub(crate) fn condition(&self, name: &str) -> Option<&Condition> {
        self.conditions.iter().find(|one| one.name == name)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::object::{Key, Kind};

    /// An object of the planner's tests.
    pub(crate) fn object(kind: Kind, name: &str) -> Object {
        Object {
            key: Key { kind, namespace: "fleet".into(), name: name.into() },
            uid: "u".into(),
            generation: 4,
            deleted: false,
            held: true,
            ready_share: Ok(None),
            wanted: Err("unread".into()),
            status: Status::default(),
        }
    }

    /// Ready, Synced, Degraded of an outcome, and the reason of Ready.
    fn check(outcome: &Outcome, share: Share) -> (bool, bool, bool, String) {
        let status = status(&object(Kind::Policy, "p"), outcome, share, Timestamp(5_500));
        assert_eq!(status.observed_generation, 4);
        let reason = status.condition("Ready").unwrap().reason.clone();
        (status.is("Ready"), status.is("Synced"), status.is("Degraded"), reason)
    }

    #[test]
    fn ready_means_that_the_agents_have_it() {
        let synced = |total, at_revision, failed, lacking| Outcome::Synced {
            revision: 9,
            agents: Some(Agents { total, at_revision, failed, lacking }),
        };
        for (outcome, share, expected) in [
            (synced(0, 0, 0, 0), None, (true, true, false, "AgentsCurrent")),
            (synced(3, 3, 0, 0), None, (true, true, false, "AgentsCurrent")),
            (synced(3, 2, 0, 1), None, (false, true, false, "AgentsPending")),
            // One is off: those that are there have it.
            (synced(3, 2, 0, 0), None, (true, true, false, "AgentsCurrent")),
            (synced(3, 2, 0, 0), Some(100), (false, true, false, "AgentsPending")),
            (synced(100, 94, 0, 6), Some(95), (false, true, false, "AgentsPending")),
            (synced(100, 95, 5, 5), Some(95), (true, true, true, "AgentsCurrent")),
            (synced(3, 2, 1, 1), None, (false, true, true, "AgentsFailed")),
            (Outcome::Synced { revision: 9, agents: None }, None, (true, true, false, "Synced")),
            (
                Outcome::Refused { reason: "Locked", message: "x".into() },
                None,
                (false, false, true, "Locked"),
            ),
        ] {
            let (ready, synced, degraded, reason) = expected;
            assert_eq!(
                check(&outcome, share),
                (ready, synced, degraded, reason.to_owned()),
                "{outcome:?} {share:?}"
            );
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_it_changes() {
        let mut object = object(Kind::PolicyKind, "k");
        let fine = Outcome::Synced { revision: 9, agents: None };
        object.status = status(&object, &fine, None, Timestamp(5_500));
        assert_eq!(object.status.conditions[0].last_transition_time, "1970-01-01T00:00:05Z");
        assert_eq!(status(&object, &fine, None, Timestamp(99_000)), object.status);
        let wrong = Outcome::Refused { reason: "Locked", message: "é".repeat(MAX_MESSAGE_BYTES) };
        let next = status(&object, &wrong, None, Timestamp(99_000));
        assert_eq!(next.conditions[0].last_transition_time, "1970-01-01T00:01:39Z");
        assert!(next.conditions[0].message.len() <= MAX_MESSAGE_BYTES);
        // What is known of it stays.
        assert_eq!(next.revision, 9);
        let text = serde_json::to_value(&next).unwrap();
        assert_eq!(serde_json::from_value::<Status>(text).unwrap(), next);
    }
}
