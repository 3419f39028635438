//! Connecting: how often, for how long, to which servers, and what happened to the connection since.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;
use wire::access::Role;
use wire::subject::service_inbox_prefix;

use super::login::Login;
use crate::ids::jitter;
use crate::telemetry::{Name, metrics};
use crate::tls::{BrokerTls, PemError, is_loopback_plaintext, is_secure, tls_problem};

/// Oldest NATS server that works: older ones lack the fixes of 2026 to what Muster relies on.
pub const OLDEST_SERVER: (u64, u64, u64) = (2, 14, 7);

/// Ping interval: a dead server is noticed after two of these (the client's own default takes minutes).
const PING_INTERVAL: Duration = Duration::from_secs(20);

/// Time for one attempt, TCP and handshake together.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Pause between attempts of the first connection.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Start of the exponential back-off between reconnects.
const BACKOFF_BASE: Duration = Duration::from_millis(100);

/// Commands that wait for the socket. Small, so that a caller feels a connection that is down.
const COMMAND_CAPACITY: usize = 2048;

/// How a process uses the broker.
#[derive(Debug, Clone)]
pub struct Connection {
    /// Server URLs: `tls://host:port`, `wss://host:port` for a WebSocket, or either without TLS on this machine (`nats://`,
    /// `ws://`).
    pub servers: Vec<String>,
    /// Name of the connection, for people who look at the broker.
    pub name: String,
    /// Prefix of all reply subjects, as `wire::subject` makes them.
    pub inbox_prefix: String,
    /// Who it is to the broker; `None` for a broker that lets everyone in.
    pub login: Option<Login>,
    /// How long to try for the first connection.
    pub patience: Duration,
    /// Longest pause between reconnects: full jitter below it, so that a fleet comes back spread out.
    pub backoff_cap: Duration,
    /// The first reconnect comes after a random part of this. Grows with the size of the fleet.
    pub first_delay: Duration,
    /// How to verify the servers.
    pub tls: BrokerTls,
}

impl Connection {
    /// A service's connection: back within seconds. Of no role yet, so that only a broker without authorisation
    /// lets it in.
    #[must_use]
    pub fn service(servers: Vec<String>, name: impl Into<String>) -> Self {
        Self {
            servers,
            name: name.into(),
            inbox_prefix: "_INBOX".to_owned(),
            login: None,
            // A broker that restarts beside its services needs a few seconds.
            patience: Duration::from_secs(30),
            backoff_cap: Duration::from_secs(2),
            first_delay: Duration::from_millis(100),
            tls: BrokerTls::default(),
        }
    }

    /// The same as `role`, with its inboxes.
    #[must_use]
    pub fn with_login(self, role: Role, login: Login) -> Self {
        Self { inbox_prefix: service_inbox_prefix(role).into(), login: Some(login), ..self }
    }

    /// An agent's connection: replies below its own inboxes, reconnects spread over two minutes.
    #[must_use]
    pub fn agent(servers: Vec<String>, agent: &domain::AgentId) -> Self {
        Self {
            servers,
            name: format!("agent {agent}"),
            inbox_prefix: wire::subject::inbox_prefix(agent).into(),
            login: None,
            // The agent's own schedule decides when to try again.
            patience: Duration::from_secs(5),
            backoff_cap: Duration::from_secs(120),
            first_delay: Duration::from_secs(2),
            tls: BrokerTls::default(),
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No server could be reached.
    #[error("cannot connect to NATS at {servers} (tried for {} s); is nats-server running there?", patience.as_secs())]
    Unreachable {
        /// The URLs tried.
        servers: String,
        /// For how long.
        patience: Duration,
        /// The last attempt's error.
        source: async_nats::ConnectError,
    },
    /// A server address is not one.
    #[error("{server:?} is not a NATS URL such as tls://nats.example:4222 or wss://nats.example:443")]
    Address {
        /// As configured.
        server: String,
        /// What is wrong.
        source: std::io::Error,
    },
    /// A connection to another machine would not be secret.
    #[error(
        "{server} is a connection without TLS to another machine: begin the URL with tls:// or wss:// (nats:// and ws:// are for a server on this machine)"
    )]
    Plaintext {
        /// The URL.
        server: String,
    },
    /// A connection goes one way or the other.
    #[error("{servers} mixes WebSockets (wss://) with plain NATS (tls://): take one kind")]
    Mixed {
        /// The URLs.
        servers: String,
    },
    /// A file of certificates or keys cannot be used.
    #[error("the NATS servers cannot be verified")]
    Pem(#[from] PemError),
    /// The servers were reached and are not those that should be there.
    #[error("the connection to NATS at {servers} is not safe: {problem}")]
    Unsafe {
        /// The URLs tried.
        servers: String,
        /// What is wrong with TLS.
        problem: &'static str,
        /// The last attempt's error.
        source: async_nats::ConnectError,
    },
    /// The server does not let this process in.
    #[error(
        "the NATS server at {servers} refuses the login of {name}: there is none, or it has expired, was revoked, or is of another broker; services get theirs with --nats-creds, agents with a join token"
    )]
    Refused {
        /// The URLs tried.
        servers: String,
        /// Name of the connection.
        name: String,
        /// The last attempt's error.
        source: async_nats::ConnectError,
    },
    /// The server is too old.
    #[error("the NATS server at {servers} is version {found}; Muster needs {}.{}.{} or newer", OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2)]
    ServerTooOld {
        /// The URLs.
        servers: String,
        /// Its version.
        found: String,
    },
    /// The subscription for replies failed.
    #[error("cannot subscribe to replies")]
    Replies(#[source] async_nats::SubscribeError),
}

/// What happened to the connection. Counters only rise, so a change is seen even if several came at once.
/// This is advice: the client reports such events best-effort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the last event said connected.
    pub connected: bool,
    /// Connections made so far. A rise means: messages may have been missed, resync now.
    pub connections: u64,
    /// Times a subscription of ours was too slow and lost messages: resync now.
    pub drops: u64,
    /// Times a server announced that it will stop. The connection moves by itself.
    pub lame_ducks: u64,
}

/// A server's URL without the user, password or token that may stand in it, for logs and for agents.
#[must_use]
pub fn without_login(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let (scheme, rest) = url.split_at(start);
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}{}", &rest[at + 1..]),
        None => url.to_owned(),
    }
}

/// Servers in one line, without logins.
#[must_use]
pub fn shown(servers: &[String]) -> String {
    servers.iter().map(|server| without_login(server)).collect::<Vec<_>>().join(",")
}

/// Checks `a.b.c…` against [`OLDEST_SERVER`].
pub(crate) fn new_enough(version: &str) -> bool {
    let release = version.split(['-', '+']).next().unwrap_or_default();
    let mut numbers = release.split('.').map(|part| part.parse::<u64>().ok());
    let mut number = || numbers.next().flatten();
    match (number(), number(), number()) {
        (Some(major), Some(minor), Some(patch)) => (major, minor, patch) >= OLDEST_SERVER,
        _ => false,
    }
}

/// Pause before reconnect number `attempt` (from 1): full jitter below an exponential that ends at the cap.
fn pause(connection: &Connection, attempt: usize) -> Duration {
    if attempt <= 1 {
        return jitter(connection.first_delay);
    }
    let doublings = u32::try_from(attempt - 1).unwrap_or(u32::MAX).min(20);
    jitter(BACKOFF_BASE.saturating_mul(1 << doublings).min(connection.backoff_cap))
}

pub(crate) async fn connect(
    connection: &Connection,
) -> Result<(Client, Arc<watch::Sender<Link>>), ConnectError> {
    let link = Arc::new(watch::Sender::new(Link::default()));
    let deadline = tokio::time::Instant::now() + connection.patience;
    let servers = shown(&connection.servers);
    let addresses = addresses(&connection.servers)?;
    connection.tls.check()?;
    loop {
        let options = connection.tls.apply(&addresses, options(connection, &link));
        let attempt = options.connect(addresses.as_slice()).await;
        match attempt {
            Ok(client) => {
                let found = client.server_info().version;
                if !new_enough(&found) {
                    return Err(ConnectError::ServerTooOld { servers, found });
                }
                return Ok((client, link));
            }
            Err(source) if tokio::time::Instant::now() + FIRST_PAUSE >= deadline => {
                if is_refusal(&source) {
                    return Err(ConnectError::Refused { servers, name: connection.name.clone(), source });
                }
                return Err(match tls_problem(&source) {
                    Some(problem) => ConnectError::Unsafe { servers, problem, source },
                    None => ConnectError::Unreachable { servers, patience: connection.patience, source },
                });
            }
            Err(error) => {
                tracing::debug!(%servers, %error, "cannot connect yet");
                tokio::time::sleep(FIRST_PAUSE).await;
            }
        }
    }
}

/// Reads the URLs. None of them may mean a connection without TLS to another machine.
fn addresses(servers: &[String]) -> Result<Vec<ServerAddr>, ConnectError> {
    let read = |server: &String| {
        let failed = |source| ConnectError::Address { server: without_login(server), source };
        let address: ServerAddr = server.parse().map_err(failed)?;
        if is_secure(&address) || is_loopback_plaintext(&address) {
            return Ok(address);
        }
        Err(ConnectError::Plaintext { server: without_login(server) })
    };
    let addresses: Vec<ServerAddr> = servers.iter().map(read).collect::<Result<_, _>>()?;
    if addresses.iter().any(|address| address.is_websocket() != addresses[0].is_websocket()) {
        return Err(ConnectError::Mixed { servers: shown(servers) });
    }
    Ok(addresses)
}

/// Whether the server said no. It may say so for a moment while it starts.
fn is_refusal(error: &async_nats::ConnectError) -> bool {
    use async_nats::ConnectErrorKind as Kind;
    matches!(error.kind(), Kind::Authentication | Kind::AuthorizationViolation)
}

/// Connects as [`super::Nats::connect`] does, without the tasks that match replies and leave lame ducks: for
/// agents, thousands of which may live in one process and which do both themselves.
///
/// # Errors
/// [`ConnectError`] when no server can be reached within the patience of `connection`, or one is too old.
pub async fn connect_client(
    connection: &Connection,
) -> Result<(Client, watch::Receiver<Link>), ConnectError> {
    // The sender lives in the client's event callback, as long as the client.
    connect(connection).await.map(|(client, link)| (client, link.subscribe()))
}

fn options(connection: &Connection, link: &Arc<watch::Sender<Link>>) -> ConnectOptions {
    let events = Arc::clone(link);
    let connected_before = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&connected_before);
    let pauses = connection.clone();
    let options = match connection.login.clone() {
        Some(login) => ConnectOptions::with_auth_callback(move |nonce| {
            let auth = login.answer(&nonce);
            std::future::ready(auth)
        }),
        None => ConnectOptions::new(),
    };
    options
        .name(&connection.name)
        .custom_inbox_prefix(&connection.inbox_prefix)
        .ping_interval(PING_INTERVAL)
        .connection_timeout(ATTEMPT_TIMEOUT)
        .client_capacity(COMMAND_CAPACITY)
        .reconnect_delay_callback(move |attempt| {
            // The first connection is paced by `connect`.
            if connected_before.load(Ordering::Relaxed) { pause(&pauses, attempt) } else { Duration::ZERO }
        })
        .event_callback(move |event| {
            if matches!(event, Event::Connected) {
                seen.store(true, Ordering::Relaxed);
            }
            note(&events, &event);
            std::future::ready(())
        })
}

fn note(link: &watch::Sender<Link>, event: &Event) {
    match event {
        Event::Connected => {
            let again = link.borrow().connections > 0;
            if again {
                metrics::add(Name::BrokerReconnects, 1, &[]);
            }
            link.send_modify(|link| {
                link.connected = true;
                link.connections += 1;
            });
        }
        Event::Disconnected => {
            tracing::info!("connection to NATS lost");
            link.send_modify(|link| link.connected = false);
        }
        // Asked for: an agent that pulls closes its connection after each heartbeat.
        Event::Closed => {
            tracing::debug!("connection to NATS closed");
            link.send_modify(|link| link.connected = false);
        }
        Event::LameDuckMode => link.send_modify(|link| link.lame_ducks += 1),
        Event::SlowConsumer(subscription) => {
            tracing::warn!(subscription, "a subscription was too slow and lost messages");
            metrics::add(Name::BrokerDrops, 1, &[]);
            link.send_modify(|link| link.drops += 1);
        }
        Event::ServerError(error) => tracing::warn!(%error, "error from the NATS server"),
        Event::ClientError(error) => tracing::debug!(%error, "error in the NATS client"),
        Event::Draining => {}
    }
}

/// Leaves a server that announced its stop: after a random part of the back-off cap, so that its clients
/// move one after the other.
pub(crate) async fn leave_lame_ducks(client: Client, mut link: watch::Receiver<Link>, spread: Duration) {
    let mut seen = link.borrow().lame_ducks;
    while link.changed().await.is_ok() {
        let ducks = link.borrow().lame_ducks;
        if ducks == seen {
            continue;
        }
        seen = ducks;
        let wait = jitter(spread);
        tracing::info!(wait_ms = wait.as_millis(), "the NATS server will stop: moving to another");
        tokio::time::sleep(wait).await;
        if client.force_reconnect().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_below_the_floor_are_refused() {
        for good in ["2.14.7", "2.15.0", "2.15.1-RC.1", "3.0.0"] {
            assert!(new_enough(good), "{good}");
        }
        for bad in ["2.14.6", "2.9.10", "1.99.99", "", "2", "x.y.z", "2.15"] {
            assert!(!new_enough(bad), "{bad}");
        }
    }

    #[test]
    fn only_this_machine_is_spoken_to_without_tls() {
        for good in [
            &["tls://nats.example:4222", "tls://other.example:4222"][..],
            &["wss://nats.example:443"],
            &["nats://127.0.0.1:4222", "tls://nats.example:4222"],
            &["ws://[::1]:8080"],
            &["ws://localhost:8080"],
        ] {
            let servers: Vec<String> = good.iter().map(|&url| url.to_owned()).collect();
            assert_eq!(addresses(&servers).unwrap().len(), good.len());
        }
        for (bad, why) in [
            (&["nats://nats.example:4222"][..], "without TLS to another machine"),
            (&["ws://nats.example:80"], "without TLS to another machine"),
            (&["tls://nats.example:4222", "ws://10.0.0.1:80"], "without TLS to another machine"),
            (&["https://nats.example"], "is not a NATS URL"),
            (&["tls://nats.example:4222", "wss://nats.example:443"], "mixes WebSockets"),
        ] {
            let servers: Vec<String> = bad.iter().map(|&url| url.to_owned()).collect();
            let said = addresses(&servers).unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn logins_are_not_shown() {
        for (url, expected) in [
            ("tls://user:secret@nats.example:4222", "tls://nats.example:4222"),
            ("tls://to@ken@h/", "tls://h/"),
            ("secret@h:1", "h:1"),
            ("nats://127.0.0.1:4222", "nats://127.0.0.1:4222"),
            ("tls://h/x@y", "tls://h/x@y"),
            ("", ""),
        ] {
            assert_eq!(without_login(url), expected);
        }
    }

    #[test]
    fn pauses_stay_below_the_cap() {
        let connection = Connection::service(Vec::new(), "test");
        for attempt in [0, 1, 2, 5, 40, usize::MAX] {
            assert!(pause(&connection, attempt) <= connection.backoff_cap);
        }
        let agent = Connection::agent(Vec::new(), &domain::AgentId::new("a").unwrap());
        let longest = (0..200).map(|_| pause(&agent, 30)).max().unwrap();
        assert!(longest > Duration::from_secs(60) && longest <= Duration::from_secs(120), "{longest:?}");
    }
}
