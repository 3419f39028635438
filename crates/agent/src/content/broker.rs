//! The connection for content: apart from the one for policies, and there only while something is fetched, so that
//! a policy never waits behind content in a socket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use runtime::nats::{Connection, Headers, Link, Nats, RequestError};
use tokio::sync::{Mutex, watch};
use wire::subject::{STREAM_CONTENT, Subject, direct_get};

use crate::access::Access;
use crate::agent::Enrolment;

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
    pub(crate) fn new(enrolment: &Enrolment, observer: Option<PieceObserver>) -> Self {
        let agent = &enrolment.agent;
        let mut connection = Connection::agent(enrolment.servers.clone(), agent);
        connection.login = enrolment.access.as_ref().map(Access::login);
        connection.tls = enrolment.tls.clone();
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
        let mut link = nats.link();
        if !is_up(&nats, &mut link, timeout).await {
            return Got::Failed("no connection to the broker".to_owned());
        }
        let target = direct_get(STREAM_CONTENT, subject);
        let reply = tokio::select! {
            reply = nats.request(&target, Headers::new(), Bytes::new(), timeout) => reply,
            () = lost(&mut link) => return Got::Failed("the connection to the broker is lost".to_owned()),
        };
        let reply = match reply {
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
        // Closing one that leads nowhere takes seconds, in which the next one can be made.
        let session = self.session.lock().await.take();
        if let Some(nats) = session {
            nats.close().await;
        }
    }
}

/// Waits for a connection that is being made again, at most `timeout`.
async fn is_up(nats: &Nats, link: &mut watch::Receiver<Link>, timeout: Duration) -> bool {
    if nats.is_connected() {
        return true;
    }
    let connected = tokio::time::timeout(timeout, link.wait_for(|link| link.connected)).await;
    connected.is_ok_and(|link| link.is_ok())
}

/// Waits until the connection goes, and with it what was asked for: also if it is back already.
async fn lost(link: &mut watch::Receiver<Link>) {
    // What reports the first connection may still be on its way.
    let known = link.borrow().connections.max(1);
    let is_lost = |link: &Link| link.connections > known || (link.connections > 0 && !link.connected);
    if link.wait_for(is_lost).await.is_err() {
        std::future::pending().await
    }
}
