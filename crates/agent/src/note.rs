//! Log lines of the machine's notes. INFO: the state changed. WARN: a person may have to look.

use domain::AgentId;
use domain::agent::{Note, Refusal, Standing};
use runtime::telemetry::{Name, metrics};

pub(crate) fn log(agent: &AgentId, note: &Note) {
    count(note);
    match note {
        // Usual where messages overtake each other; the count is reported all the same.
        Note::Refused { refusal: refusal @ Refusal::Older, source } => {
            tracing::debug!(%agent, %refusal, ?source, "envelope refused");
        }
        Note::Refused { refusal, source } => tracing::warn!(%agent, %refusal, ?source, "envelope refused"),
        Note::Applying(generation) => tracing::info!(%agent, %generation, "applying"),
        Note::Applied(generation) => tracing::info!(%agent, %generation, "applied and healthy"),
        Note::NotTried(generation, reason) => {
            tracing::warn!(%agent, %generation, %reason, "not tried: an item in it failed before and has not changed");
        }
        Note::Failed { generation, kind, reason } => {
            let kind = kind.as_ref().map(domain::KindName::as_str);
            tracing::warn!(%agent, %generation, kind, %reason, "failed: returning to the last known good");
        }
        Note::Reverted(Some(generation)) => {
            tracing::info!(%agent, %generation, "last known good is in force")
        }
        Note::Reverted(None) => tracing::warn!(%agent, "nothing is in force: there is no last known good"),
        Note::Delayed { step, reason } => tracing::warn!(%agent, step, %reason, "failed, to be tried again"),
        Note::Repaired(kinds) => tracing::warn!(%agent, ?kinds, "files had been changed and are restored"),
        Note::Moved(group) => tracing::info!(%agent, %group, "moved to another group"),
        Note::RootAdopted(version) => tracing::info!(%agent, version, "obeys this trust root"),
        Note::FloorsReset => {
            tracing::warn!(%agent, "the trust root took a director's key away: floors start again");
        }
        Note::ModeChanged(mode) => tracing::info!(%agent, ?mode, "mode changed"),
        Note::Stale => {
            tracing::warn!(%agent, "the snapshot in force or the trust root has expired; what is in force stays");
        }
        Note::Fresh => tracing::info!(%agent, "the snapshot in force is fresh again"),
        Note::SettingsConfirmed => tracing::info!(%agent, "new settings are confirmed"),
        Note::SettingsReverted => {
            tracing::warn!(%agent, "no heartbeat was answered under the new settings: back to the previous ones");
        }
        Note::Standing(Standing::Duplicate) => tracing::error!(
            %agent,
            "another machine reports under this agent's id and was there before: was this disk copied from it? Let this one \
             join anew: stop it, remove its state directory, and start it with a join token of its own"
        ),
        Note::Standing(standing) => tracing::info!(%agent, ?standing, "standing changed"),
    }
}

fn count(note: &Note) {
    match note {
        Note::Refused { refusal, source: _ } => metrics::add(Name::VerifyFailures, 1, &[reason(*refusal)]),
        Note::Failed { .. } => metrics::add(Name::AgentRollbacks, 1, &["policy"]),
        Note::Applying(_)
        | Note::Applied(_)
        | Note::NotTried(..)
        | Note::Reverted(_)
        | Note::Delayed { .. }
        | Note::Repaired(_)
        | Note::Moved(_)
        | Note::RootAdopted(_)
        | Note::FloorsReset
        | Note::ModeChanged(_)
        | Note::Stale
        | Note::Fresh
        | Note::SettingsConfirmed
        | Note::SettingsReverted
        | Note::Standing(_) => {}
    }
}

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Signature => "signature",
        Refusal::Malformed => "malformed",
        Refusal::Oversized => "oversized",
        Refusal::WrongType => "wrong_type",
        Refusal::OtherFleet => "other_fleet",
        Refusal::OtherGroup => "other_group",
        Refusal::OtherAgent => "other_agent",
        Refusal::Expired => "expired",
        Refusal::Older => "older",
        Refusal::Conflict => "conflict",
        Refusal::TooFarAhead => "too_far_ahead",
        Refusal::Root => "root",
        Refusal::RootExpired => "root_expired",
    }
}
