//! A TCP proxy of our own: as bad as a network can be, and it counts what passes.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::tap::{Piece, Tap};

/// What lies between the server and the proxy. Little, as in a network: what the client does not take soon backs up
/// at the server, and is not lost sight of in buffers of megabytes.
const LINE_BYTES: u32 = 64 * 1024;
/// Bytes read at a time.
const BUFFER_BYTES: usize = 16 * 1024;
/// Slices of a second in which a limited lane lets bytes through.
const SLICES: u64 = 50;

/// What happens to the bytes of one direction of a connection. Places are counted from where the connection was when
/// the rule was made, or else from its beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lane {
    /// Each read waits this long before it goes on.
    pub latency: Duration,
    /// At most so many bytes in a second.
    pub bytes_per_second: Option<u64>,
    /// After so many bytes the connection is closed at both ends.
    pub cut_after: Option<u64>,
    /// After so many bytes nothing passes any more and nobody is told, until the rules change.
    pub hold_after: Option<u64>,
    /// One bit of the byte at this place is flipped.
    pub flip_at: Option<u64>,
}

/// What happens to a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Faults {
    /// To the client.
    pub down: Lane,
    /// To the server.
    pub up: Lane,
}

impl Faults {
    /// Faults of what the server sends.
    #[must_use]
    pub fn down(down: Lane) -> Self {
        Self { down, ..Self::default() }
    }

    /// Faults of what the client sends.
    #[must_use]
    pub fn up(up: Lane) -> Self {
        Self { up, ..Self::default() }
    }

    /// Nothing passes in either direction, and neither end is told.
    #[must_use]
    pub fn half_open() -> Self {
        let still = Lane { hold_after: Some(0), ..Lane::default() };
        Self { down: still, up: still }
    }
}

/// Whose connections, by a part of the name that a NATS client gives, and what happens to them.
type Rules = Vec<(String, Faults)>;

/// One connection that went through.
struct Seen {
    name: Mutex<String>,
    down: AtomicU64,
    up: AtomicU64,
    /// Where `down` and `up` stood when the latest rule was made.
    down_before: AtomicU64,
    up_before: AtomicU64,
    open: AtomicBool,
    tap: Mutex<Tap>,
    rules: watch::Receiver<Rules>,
    closed: watch::Sender<bool>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    Down,
    Up,
}

/// A proxy in front of one server. Its connections end when it is dropped.
pub struct Proxy {
    address: String,
    target: Arc<Mutex<String>>,
    rules: watch::Sender<Rules>,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
    accepting: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut("");
    }
}

impl Proxy {
    /// In front of a server at `host:port`, or at a URL with that.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start(server: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound").to_string();
        let target = Arc::new(Mutex::new(host(server)));
        let rules = watch::Sender::new(Rules::new());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let accepting = tokio::spawn(accept(listener, target.clone(), rules.subscribe(), seen.clone()));
        Self { address, target, rules, seen, accepting }
    }

    /// Where it listens, `host:port`.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it listens, for a NATS client.
    #[must_use]
    pub fn nats_url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// Leads new connections to another server.
    pub fn lead_to(&self, server: &str) {
        *locked(&self.target) = host(server);
    }

    /// From now on this happens to connections whose name contains `name` (all have the empty name in them).
    /// The latest rule that fits counts.
    pub fn set(&self, name: &str, faults: Faults) {
        for one in self.of(name) {
            one.down_before.store(one.down.load(Ordering::Relaxed), Ordering::Relaxed);
            one.up_before.store(one.up.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.rules.send_modify(|rules| rules.push((name.to_owned(), faults)));
    }

    /// Nothing bad happens any more; what was held goes on.
    pub fn calm(&self) {
        self.rules.send_modify(Vec::clear);
    }

    /// Closes the connections whose name contains `name`.
    pub fn cut(&self, name: &str) {
        for one in self.of(name) {
            one.closed.send_replace(true);
        }
    }

    /// Bytes that went to clients on connections whose name contains `name`, closed ones included.
    #[must_use]
    pub fn bytes_down(&self, name: &str) -> u64 {
        self.of(name).iter().map(|one| one.down.load(Ordering::Relaxed)).sum()
    }

    /// Bytes that came from clients, as for [`Proxy::bytes_down`].
    #[must_use]
    pub fn bytes_up(&self, name: &str) -> u64 {
        self.of(name).iter().map(|one| one.up.load(Ordering::Relaxed)).sum()
    }

    /// How many connections of this name there were, and how many are open.
    #[must_use]
    pub fn connections(&self, name: &str) -> (usize, usize) {
        let all = self.of(name);
        (all.len(), all.iter().filter(|one| one.open.load(Ordering::Relaxed)).count())
    }

    /// The stored messages that the broker sent whole to connections whose name contains `name`, in order for
    /// each connection.
    #[must_use]
    pub fn pieces(&self, name: &str) -> Vec<Piece> {
        self.of(name).iter().flat_map(|one| locked(&one.tap).pieces().to_vec()).collect()
    }

    /// Bytes of the pieces of content whose subject begins with `content.<kind>`, without what the protocol
    /// adds.
    #[must_use]
    pub fn piece_bytes(&self, name: &str, kind: &str) -> u64 {
        let prefix = format!("content.{kind}");
        let pieces = self.pieces(name);
        pieces.iter().filter(|piece| piece.subject.starts_with(&prefix)).map(|piece| piece.bytes).sum()
    }

    fn of(&self, name: &str) -> Vec<Arc<Seen>> {
        locked(&self.seen).iter().filter(|one| locked(&one.name).contains(name)).cloned().collect()
    }
}

/// `host:port` of a URL or of itself.
fn host(server: &str) -> String {
    server.rsplit("//").next().unwrap_or(server).to_owned()
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    target: Arc<Mutex<String>>,
    rules: watch::Receiver<Rules>,
    seen: Arc<Mutex<Vec<Arc<Seen>>>>,
) {
    while let Ok((client, _)) = listener.accept().await {
        let target = locked(&target).clone();
        let (rules, seen) = (rules.clone(), seen.clone());
        tokio::spawn(async move {
            // A server that is away looks to the client like one that closes at once.
            let Ok(server) = connect(&target).await else { return };
            let one = Arc::new(Seen {
                name: Mutex::default(),
                down: AtomicU64::new(0),
                up: AtomicU64::new(0),
                down_before: AtomicU64::new(0),
                up_before: AtomicU64::new(0),
                open: AtomicBool::new(true),
                tap: Mutex::default(),
                rules,
                closed: watch::Sender::new(false),
            });
            locked(&seen).push(one.clone());
            carry(client, server, &one).await;
            one.open.store(false, Ordering::Relaxed);
        });
    }
}

async fn connect(target: &str) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(LINE_BYTES)?;
    socket.connect(target.parse().map_err(std::io::Error::other)?).await
}

/// Both directions, until either ends or the connection is cut.
async fn carry(client: TcpStream, server: TcpStream, one: &Seen) {
    drop((client.set_nodelay(true), server.set_nodelay(true)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut closed = one.closed.subscribe();
    tokio::select! {
        () = pump(from_server, to_client, one, Direction::Down) => {}
        () = pump(from_client, to_server, one, Direction::Up) => {}
        _ = closed.wait_for(|closed| *closed) => {}
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, one: &Seen, direction: Direction) {
    let mut buffer = vec![0; BUFFER_BYTES];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if direction == Direction::Up {
            one.take_name(&buffer[..read]);
        }
        if !one.pass(&mut buffer[..read], &mut to, direction).await {
            return;
        }
    }
}

impl Seen {
    /// The name in the first line of a NATS client.
    fn take_name(&self, first: &[u8]) {
        if self.up.load(Ordering::Relaxed) > 0 {
            return;
        }
        let line = first.strip_prefix(b"CONNECT ").and_then(|rest| rest.split(|&byte| byte == b'\r').next());
        let options: Option<serde_json::Value> = line.and_then(|line| serde_json::from_slice(line).ok());
        if let Some(name) = options.as_ref().and_then(|options| options["name"].as_str()) {
            name.clone_into(&mut locked(&self.name));
        }
    }

    fn lane(&self, direction: Direction) -> Lane {
        let (rules, name) = (self.rules.borrow(), locked(&self.name));
        let rule = rules.iter().rev().find(|(part, _)| name.contains(part.as_str()));
        let faults = rule.map(|(_, faults)| *faults).unwrap_or_default();
        match direction {
            Direction::Down => faults.down,
            Direction::Up => faults.up,
        }
    }

    /// Bytes that went through, and how many of them before the latest rule.
    fn counters(&self, direction: Direction) -> (&AtomicU64, &AtomicU64) {
        match direction {
            Direction::Down => (&self.down, &self.down_before),
            Direction::Up => (&self.up, &self.up_before),
        }
    }

    /// Lets bytes through as the rules say; false once the connection has to end.
    async fn pass(&self, bytes: &mut [u8], to: &mut OwnedWriteHalf, direction: Direction) -> bool {
        tokio::time::sleep(self.lane(direction).latency).await;
        let (mut rest, mut rules) = (bytes, self.rules.clone());
        let (counter, before) = self.counters(direction);
        while !rest.is_empty() {
            rules.mark_unchanged();
            let lane = self.lane(direction);
            let passed = counter.load(Ordering::Relaxed) - before.load(Ordering::Relaxed);
            let until = |bound: Option<u64>| bound.map_or(u64::MAX, |bound| bound.saturating_sub(passed));
            if until(lane.cut_after) == 0 {
                return false;
            }
            if until(lane.hold_after) == 0 {
                if rules.changed().await.is_err() {
                    return false;
                }
                continue;
            }
            let slice = lane.bytes_per_second.map_or(u64::MAX, |rate| (rate / SLICES).max(1));
            let most = until(lane.cut_after).min(until(lane.hold_after)).min(slice);
            let length = rest.len().min(usize::try_from(most).unwrap_or(usize::MAX));
            let (now, later) = rest.split_at_mut(length);
            if let Some(at) = lane.flip_at.and_then(|at| at.checked_sub(passed))
                && let Some(byte) = usize::try_from(at).ok().and_then(|at| now.get_mut(at))
            {
                *byte ^= 0x01;
            }
            if to.write_all(now).await.is_err() {
                return false;
            }
            counter.fetch_add(length as u64, Ordering::Relaxed);
            if direction == Direction::Down {
                locked(&self.tap).feed(now);
            }
            if let Some(rate) = lane.bytes_per_second {
                tokio::time::sleep(Duration::from_secs_f64(length as f64 / rate.max(1) as f64)).await;
            }
            rest = later;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a client gets of 100,000 numbered bytes that a server sends to each.
    async fn received(proxy: &Proxy) -> Vec<u8> {
        let mut client = TcpStream::connect(proxy.address()).await.unwrap();
        client.write_all(b"CONNECT {\"name\":\"agent a content\"}\r\n").await.unwrap();
        let mut bytes = Vec::new();
        let _reset = client.read_to_end(&mut bytes).await;
        bytes
    }

    #[tokio::test]
    async fn it_does_what_it_is_told_and_counts() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Proxy::start(&format!("nats://{}", server.local_addr().unwrap())).await;
        let sent: Vec<u8> = (0..100_000_u32).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let bytes = sent.clone();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = server.accept().await {
                // Not before the client has said its name.
                drop(client.read(&mut [0; 64]).await);
                drop(client.write_all(&bytes).await);
            }
        });
        assert_eq!(received(&proxy).await, sent);
        assert_eq!((proxy.bytes_down("content"), proxy.bytes_down("other")), (100_000, 0));
        proxy.set("content", Faults::down(Lane { cut_after: Some(777), ..Lane::default() }));
        assert_eq!(received(&proxy).await, sent[..777]);
        proxy.set("content", Faults::down(Lane { flip_at: Some(50_000), ..Lane::default() }));
        let flipped = received(&proxy).await;
        let differ: Vec<usize> = (0..sent.len()).filter(|&at| flipped[at] != sent[at]).collect();
        assert_eq!(differ, [50_000]);
        proxy.set("other", Faults::half_open());
        proxy.set("content", Faults::down(Lane { hold_after: Some(1_000), ..Lane::default() }));
        let before = proxy.bytes_down("");
        let release = async {
            while proxy.bytes_down("") < before + 1_000 {
                tokio::task::yield_now().await;
            }
            proxy.calm();
        };
        let (held, ()) = tokio::join!(received(&proxy), release);
        assert_eq!(held, sent, "what was held goes on");
        assert_eq!(proxy.connections("content"), (4, 0));
    }
}
