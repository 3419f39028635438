//! What attackers can do: what the broker lets whom do, with every role and raw clients with real credentials, and what
//! signatures, keys and freshness answer. A number names the threat that a test stands for.

use agent::join::{self, About, JoinError};
use domain::{AgentId, GroupId};
use live::{Creds, Fleet};
use nkeys::KeyPair;
use runtime::nats::Nats;
use runtime::tls::BrokerTls;
use wire::join::JoinToken;

mod approval;
mod attacks;
mod broker_ca;
mod ceremony;
mod enrolment;
mod floods;
mod freshness;
mod matrix;
mod mutual;
mod offline;
mod revocation;
mod rotation;
mod rules;

/// An agent that joined, as the broker knows it.
#[derive(Clone)]
pub(crate) struct Member {
    pub(crate) id: AgentId,
    pub(crate) group: GroupId,
    /// For all that an agent does.
    pub(crate) user: Creds,
    /// To ask for new claims.
    pub(crate) door: Creds,
}

impl Member {
    /// A subject of its own for answers.
    pub(crate) fn inbox(&self) -> String {
        format!("_INBOX_agent.{}.test", self.id)
    }
}

/// Lets a key join under an id, as an agent does.
pub(crate) async fn join(token: &str, key: &KeyPair, id: &str) -> Result<Member, JoinError> {
    let token = JoinToken::decode(token).expect("a token");
    let nats = Nats::connect(&join::connection(&token, &BrokerTls::default(), key)).await?;
    let about = About { id: Some(AgentId::new(id).expect("an id")), ..About::default() };
    let joined = join::request(&nats, &token, key, &about).await;
    nats.close().await;
    let enrolment = joined?.enrolment;
    let access = enrolment.access.expect("the broker asks who is there");
    let claims = access.claims();
    let creds = |claims: String| Creds { key: key.clone(), claims };
    Ok(Member {
        id: enrolment.agent,
        group: access.facts().group.expect("claims of an agent name its group"),
        user: creds(claims.user),
        door: creds(claims.door),
    })
}

/// A new agent in a group.
pub(crate) async fn member(fleet: &Fleet, id: &str, group: &str) -> Member {
    let token = fleet.token(group, 1).await;
    join(&token, &KeyPair::new_user(), id).await.expect("a token lets it in")
}
