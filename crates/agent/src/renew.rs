//! Asking for new claims: at half of their time, when the group is another, and when the broker refuses the old ones.

use std::time::Duration;

use domain::Span;
use domain::agent::backoff;
use prost::Message as _;
use runtime::Shutdown;
use runtime::clock::now;
use runtime::nats::{ConnectError, Connection, Headers, Nats};
use tokio::time::Instant;
use wire::agent::v1;
use wire::broker::Broker;
use wire::jwt::Validity;

use crate::access::{Access, Claims};
use crate::agent::Enrolment;
use crate::join::ANSWER_WITHIN;
use crate::trust::LiveTrust;

/// Part of their time after which claims are renewed, in percent: half, more or less, so that agents that joined together
/// do not all ask at once.
const DUE_PERCENT: std::ops::RangeInclusive<u64> = 40..=60;
/// Longest sleep. The wall clock may jump meanwhile; it is looked at at least this often.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// Claims that are younger are not renewed because of what the wall clock says, which may be years wrong.
const MIN_AGE: Duration = Duration::from_secs(300);
/// When claims without an end are renewed: a year is longer than a process runs.
const NEVER: Duration = Duration::from_secs(365 * 86_400);
/// Pause after the fleet said that this agent is none of its. An operator may have made a mistake and undo it.
const REVOKED_PAUSE: Duration = Duration::from_secs(3600);

/// Why there are no new claims.
#[derive(Debug, thiserror::Error)]
enum RenewError {
    #[error("the broker cannot be asked")]
    Connect(#[from] ConnectError),
    #[error("nobody answered")]
    Request(#[from] runtime::nats::RequestError),
    #[error("the answer cannot be read")]
    Answer(#[from] wire::DecodeError),
    #[error("the agent's key cannot sign")]
    Key(#[from] nkeys::error::Error),
    #[error("the fleet refused: {message}")]
    Refused { revoked: bool, message: String },
    #[error("they cannot be kept")]
    Keep(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Keeps claims on disk, before they are used, and what was learnt of the NATS servers.
pub type Keep = Box<
    dyn Fn(&Claims, Option<&Broker>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> + Send + Sync,
>;

/// Renews the claims of an agent until the shutdown. Returns at once if it has none.
pub async fn run(enrolment: Enrolment, keep: Keep, shutdown: Shutdown) {
    if let Some(access) = enrolment.access.clone() {
        tokio::select! {
            () = renew_for_ever(&enrolment, &access, &keep) => {}
            () = shutdown.requested() => {}
        }
    } else {
        shutdown.requested().await;
    }
}

async fn renew_for_ever(enrolment: &Enrolment, access: &Access, keep: &Keep) {
    let mut failures = 0;
    // Of claims that were kept, the wall clock tells how old they are; it may be wrong, but not for long.
    let validity = access.facts().validity;
    let mut due = Instant::now() + due_in(validity, now().since(validity.issued_at));
    loop {
        wait_for_a_reason(access, due).await;
        let renewed = renew(enrolment, access, keep).await;
        if renewed.is_ok() {
            due = Instant::now() + due_in(access.facts().validity, Span(0));
        }
        let pause = match renewed {
            Ok(()) if !access.is_elsewhere() => {
                failures = 0;
                continue;
            }
            Ok(()) => {
                tracing::debug!(agent = %enrolment.agent, "the claims name another group than the assignment does");
                None
            }
            Err(error) => {
                let why = runtime::log::chain(&error);
                if let RenewError::Refused { revoked: true, .. } = error {
                    tracing::error!(agent = %enrolment.agent, why, "this agent is none of the fleet's any more");
                    Some(REVOKED_PAUSE)
                } else {
                    tracing::warn!(agent = %enrolment.agent, why, "no new claims for the broker; trying again");
                    None
                }
            }
        };
        let backoff = backoff::full_jitter(failures, backoff::BASE, backoff::CAP, rand::random());
        failures = failures.saturating_add(1);
        tokio::time::sleep(pause.unwrap_or(backoff.into())).await;
    }
}

/// Returns when new claims are needed: their time has come, the group is another, or the broker refused them.
async fn wait_for_a_reason(access: &Access, due: Instant) {
    let (mut wanted, mut refusals) = access.reasons();
    let begin = Instant::now();
    loop {
        // A machine that slept has not counted the time.
        let overslept = begin.elapsed() > MIN_AGE && access.is_expired(now());
        if access.is_elsewhere() || overslept || due <= Instant::now() {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep_until(due.min(Instant::now() + MAX_SLEEP)) => {}
            _ = wanted.changed() => {}
            _ = refusals.changed() => return,
        }
    }
}

/// When claims of this age are to be renewed.
fn due_in(validity: Validity, age: Span) -> Duration {
    let Some(expires_at) = validity.expires_at else { return NEVER };
    let time = expires_at.since(validity.issued_at).0 / 100 * rand::random_range(DUE_PERCENT);
    Span(time.saturating_sub(age.0)).into()
}

/// Asks over a connection of its own: with the claims that are to be replaced if they hold, else through the door.
async fn renew(enrolment: &Enrolment, access: &Access, keep: &Keep) -> Result<(), RenewError> {
    let connection = Connection {
        name: format!("agent {} renews", enrolment.agent),
        login: Some(access.login()),
        tls: enrolment.tls.clone(),
        patience: Duration::ZERO,
        ..Connection::agent(enrolment.servers.clone(), &enrolment.agent)
    };
    let through_the_door = Connection {
        inbox_prefix: wire::subject::join_inbox_prefix(access.public_key()).into(),
        login: Some(access.door()),
        ..connection.clone()
    };
    let nats = if access.is_expired(now()) {
        Nats::connect(&through_the_door).await?
    } else {
        match Nats::connect(&connection).await {
            // By the broker's clock they may have expired, or an operator has changed the keys.
            Err(ConnectError::Refused { .. }) => Nats::connect(&through_the_door).await?,
            connected => connected?,
        }
    };
    let asked = ask(&nats, enrolment, access).await;
    nats.close().await;
    let bundle = asked?;
    let learnt = learnt(bundle.broker.as_ref(), &enrolment.trust);
    let claims = Claims { user: bundle.user_jwt, ..access.claims() };
    keep(&claims, learnt.as_ref()).map_err(RenewError::Keep)?;
    access.renew(&claims.user)?;
    tracing::info!(agent = %enrolment.agent, group = ?access.facts().group, "new claims for the broker");
    Ok(())
}

/// What the fleet signed of its broker. Without that the agent keeps what it knows: claims need no signature, for they are
/// of no use at a broker that does not know them, but a CA that is believed would be believed for long.
fn learnt(signed: Option<&v1::Envelope>, trust: &LiveTrust) -> Option<Broker> {
    match wire::broker::open(signed?, &trust.now().directors) {
        Ok(broker) if broker.fleet == trust.fleet() => Some(broker),
        Ok(broker) => {
            tracing::warn!(fleet = %broker.fleet, "the broker of another fleet: not believed");
            None
        }
        // It may be signed with the key of a root that this agent has not heard of yet.
        Err(error) => {
            let why = runtime::log::chain(&error);
            tracing::warn!(why, "what is said of the NATS servers is not signed by this fleet: not believed");
            None
        }
    }
}

async fn ask(nats: &Nats, enrolment: &Enrolment, access: &Access) -> Result<v1::JoinBundle, RenewError> {
    let request = v1::RenewRequest {
        fleet: enrolment.trust.fleet().to_string(),
        agent: enrolment.agent.to_string(),
        public_key: access.public_key().to_string(),
        requested_at_ms: now().0,
    };
    let payload = wire::join::seal_renewal(&request, access.key())?.encode_to_vec();
    let subject = wire::subject::enrol();
    let reply = nats.request(&subject, Headers::new(), payload.into(), ANSWER_WITHIN).await?;
    match wire::join::read_reply(&reply.payload)?.outcome {
        Some(v1::join_reply::Outcome::Bundle(bundle)) => Ok(bundle),
        Some(v1::join_reply::Outcome::Error(error)) => {
            let revoked = error.code() == v1::JoinErrorCode::Revoked;
            Err(RenewError::Refused { revoked, message: error.message })
        }
        None => Err(RenewError::Refused { revoked: false, message: "neither yes nor no".to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use domain::Timestamp;

    use super::*;
    use crate::test_fleet::{director, fleet, trust};

    #[test]
    fn what_is_said_of_the_broker_is_believed_only_if_the_fleet_signed_it() {
        let broker = |fleet| Broker {
            fleet,
            issued_at: Timestamp(7),
            servers: vec!["tls://nats:4222".to_owned()],
            trust: wire::join::BrokerTrust { cas: vec![vec![1]], tls_first: true },
        };
        let sealed = |broker: &Broker, key: &ed25519_dalek::SigningKey| {
            wire::envelope::seal(wire::envelope::BROKER, wire::broker::encode(broker), key)
        };
        let (own, other) = (broker(fleet()), broker(domain::FleetId::new("elsewhere").unwrap()));
        assert_eq!(learnt(Some(&sealed(&own, &director())), &trust()), Some(own.clone()));
        assert_eq!(learnt(Some(&sealed(&other, &director())), &trust()), None);
        let stranger = ed25519_dalek::SigningKey::from_bytes(&[77; 32]);
        assert_eq!(learnt(Some(&sealed(&own, &stranger)), &trust()), None);
        assert_eq!(learnt(None, &trust()), None);
    }

    #[test]
    fn claims_are_renewed_in_the_middle_of_their_time() {
        let day = 86_400_000;
        let validity = |expires_at| Validity { issued_at: Timestamp(1_000), expires_at };
        for _ in 0..100 {
            let due = due_in(validity(Some(Timestamp(1_000 + day))), Span(0));
            assert!(
                (day / 5 * 2..=day / 5 * 3).contains(&u64::try_from(due.as_millis()).unwrap()),
                "{due:?}"
            );
        }
        // A clock that is years wrong, either way.
        assert_eq!(due_in(validity(Some(Timestamp(1_000 + day))), Span(u64::MAX)), Duration::ZERO);
        assert_eq!(due_in(validity(Some(Timestamp(0))), Span(0)), Duration::ZERO);
        assert_eq!(due_in(validity(None), Span(5)), NEVER);
    }
}
