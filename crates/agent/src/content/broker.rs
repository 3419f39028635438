//! The connection for content: apart from the one for policies, and there only while something is fetched, so that
//! a policy never waits behind content in a socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use domain::AgentId;
use runtime::nats::{Connection, Headers, Nats, RequestError};
use tokio::sync::Mutex;
use wire::subject::{STREAM_CONTENT, Subject, direct_get};

/// Longest pause between tries to reconnect amid a download. Shorter than for policies: a download that waits
/// longer than [`super::fetch::PATIENCE`] begins anew with a connection of its own.
const BACKOFF_CAP: Duration = Duration::from_secs(10);
/// Status of a stored message that is not there.
const NOT_FOUND: u16 = 404;

/// Called with the subject and the length of each message of content that arrives, before it is used.
pub type PieceObserver = Arc<dyn Fn(&str, usize) + Send + Sync>;

/// What came of asking for a message.
#[derive(Debug)]
pub(crate) enum Got {
    /// It.
    Message(Bytes),
    /// There is none.
    Missing,
    /// Nothing in time.
    Late,
    /// No connection, or nobody answers.
    Failed(String),
}

/// The connection, when there is one.
pub(crate) struct Broker {
    connection: Connection,
    observer: Option<PieceObserver>,
    session: Mutex<Option<Nats>>,
}

impl Broker {
    pub(crate) fn new(servers: Vec<String>, agent: &AgentId, observer: Option<PieceObserver>) -> Self {
        let mut connection = Connection::agent(servers, agent);
        connection.name = format!("agent {agent} content");
        connection.backoff_cap = BACKOFF_CAP;
        Self { connection, observer, session: Mutex::new(None) }
    }

    async fn session(&self) -> Result<Nats, String> {
        let mut session = self.session.lock().await;
        if let Some(nats) = &*session {
            return Ok(nats.clone());
        }
        let nats = Nats::connect(&self.connection).await.map_err(|error| runtime::log::chain(&error))?;
        *session = Some(nats.clone());
        Ok(nats)
    }

    /// Reads a message of content by Direct Get.
    pub(crate) async fn get(&self, subject: &Subject, timeout: Duration) -> Got {
        let nats = match self.session().await {
            Ok(nats) => nats,
            Err(why) => return Got::Failed(why),
        };
        let target = direct_get(STREAM_CONTENT, subject);
        let reply = match nats.request(&target, Headers::new(), Bytes::new(), timeout).await {
            Ok(reply) => reply,
            Err(RequestError::TimedOut { .. }) => return Got::Late,
            Err(error) => return Got::Failed(runtime::log::chain(&error)),
        };
        match reply.status.map(u16::from) {
            None | Some(200) => {
                if let Some(observer) = &self.observer {
                    observer(subject.as_str(), reply.payload.len());
                }
                Got::Message(reply.payload)
            }
            Some(NOT_FOUND) => Got::Missing,
            Some(status) => Got::Failed(format!("the store answered with status {status}")),
        }
    }

    /// Ends the connection; the next message makes a new one.
    pub(crate) async fn close(&self) {
        if let Some(nats) = self.session.lock().await.take() {
            nats.close().await;
        }
    }
}
