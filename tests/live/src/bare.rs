//! A client of the broker that says exactly what it is told, and hears what the broker has to say about it.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

/// Longest wait for a word of the broker. Reached only by a failure.
const PATIENCE: Duration = Duration::from_secs(30);

/// Operations that are sent before their answers are read: what is said of so many fits into any socket.
const AT_ONCE: usize = 64;

/// A key and its claims, as a credentials file holds them.
#[derive(Clone)]
pub struct Creds {
    /// The key.
    pub key: KeyPair,
    /// The claims.
    pub claims: String,
}

impl Creds {
    /// Reads a credentials file.
    ///
    /// # Panics
    /// If it is none.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let (claims, seed) = wire::jwt::read_credentials_file(text).expect("a credentials file");
        Self { key: KeyPair::from_seed(seed).expect("a seed"), claims: claims.to_owned() }
    }
}

/// What came between an operation and the answer to the ping after it.
#[derive(Debug, Default)]
pub struct Said {
    /// Errors, as the broker words them.
    pub errors: Vec<String>,
    /// Messages: subject, reply subject, headers and payload.
    pub messages: Vec<(String, Option<String>, Vec<u8>)>,
}

impl Said {
    /// Whether the broker refused an operation.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        self.errors.iter().any(|error| error.contains("Permissions Violation"))
    }
}

/// A connection.
pub struct Bare {
    stream: BufReader<TcpStream>,
}

impl Bare {
    /// Connects; `Err` is what the broker says instead of letting it in.
    ///
    /// # Errors
    /// The broker's words.
    ///
    /// # Panics
    /// If there is no broker.
    pub async fn connect(url: &str, creds: Option<&Creds>) -> Result<Self, String> {
        let address = url.trim_start_matches("nats://");
        let stream = TcpStream::connect(address).await.expect("the broker is there");
        let mut bare = Self { stream: BufReader::new(stream) };
        let info = bare.line().await.ok_or("closed before the greeting")?;
        let info: Value = serde_json::from_str(info.trim_start_matches("INFO ")).expect("a greeting in JSON");
        let mut options = json!({
            "verbose": false, "pedantic": false, "headers": true, "no_responders": true, "protocol": 1,
            "lang": "test", "version": "1", "name": "bare",
        });
        if let Some(creds) = creds {
            let nonce = info["nonce"].as_str().unwrap_or_default();
            let signature = creds.key.sign(nonce.as_bytes()).expect("a key signs");
            options["jwt"] = creds.claims.as_str().into();
            options["sig"] = URL_SAFE_NO_PAD.encode(signature).into();
        }
        bare.write(format!("CONNECT {options}\r\n").as_bytes()).await;
        let said = bare.until_pong().await?;
        match said.errors.first() {
            Some(error) => Err(error.clone()),
            None => Ok(bare),
        }
    }

    /// Publishes.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn publish(&mut self, subject: &str, reply: &str, payload: &[u8]) -> Said {
        let mut bytes = format!("PUB {subject} {reply} {}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.carry_out(&bytes).await
    }

    /// Publishes with headers.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn publish_with(&mut self, subject: &str, headers: &[(&str, &str)], payload: &[u8]) -> Said {
        let mut head = String::from("NATS/1.0\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        let (headers, total) = (head.len(), head.len() + payload.len());
        let mut bytes = format!("HPUB {subject} {headers} {total}\r\n{head}").into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        self.carry_out(&bytes).await
    }

    /// Subscribes under a number; `queue` may be empty.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn subscribe(&mut self, subject: &str, queue: &str, number: u64) -> Said {
        self.carry_out(format!("SUB {subject} {queue} {number}\r\n").as_bytes()).await
    }

    /// Carries out operations of the protocol, each with what belongs to it, without waiting for one before the next.
    ///
    /// # Panics
    /// If the connection is closed.
    pub async fn carry_out_all(&mut self, operations: &[Vec<u8>]) -> Vec<Said> {
        let mut said = Vec::with_capacity(operations.len());
        for some in operations.chunks(AT_ONCE) {
            let mut bytes = Vec::new();
            for operation in some {
                bytes.extend_from_slice(operation);
                bytes.extend_from_slice(b"PING\r\n");
            }
            self.write(&bytes).await;
            for _ in some {
                said.push(self.hear().await.expect("the connection is open"));
            }
        }
        said
    }

    /// Asks, and waits for the first message on `inbox`, which is subscribed to.
    ///
    /// # Panics
    /// If none comes.
    pub async fn ask(&mut self, subject: &str, inbox: &str, payload: &[u8]) -> Vec<u8> {
        let mut said = self.publish(subject, inbox, payload).await;
        loop {
            if let Some((_, _, payload)) = said.messages.into_iter().find(|(to, ..)| to == inbox) {
                return payload;
            }
            said = self.until_pong().await.expect("the connection is open");
        }
    }

    /// Sends operations without hearing what is said of them, also on a connection that the broker closes meanwhile.
    pub async fn pour(&mut self, operations: &[u8]) {
        self.write(operations).await;
    }

    /// What the broker says next, on a connection that it may close.
    pub async fn until_closed(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(line) = self.line().await {
            if line.starts_with("PING") {
                self.write(b"PONG\r\n").await;
            }
            said.push(line);
        }
        said
    }

    async fn carry_out(&mut self, bytes: &[u8]) -> Said {
        self.write(bytes).await;
        self.until_pong().await.expect("the connection is open")
    }

    async fn write(&mut self, bytes: &[u8]) {
        // A connection that was closed shows when it is read.
        let _sent = self.stream.get_mut().write_all(bytes).await;
    }

    async fn until_pong(&mut self) -> Result<Said, String> {
        self.write(b"PING\r\n").await;
        self.hear().await
    }

    /// All that is said before the next answer to a ping.
    async fn hear(&mut self) -> Result<Said, String> {
        let mut said = Said::default();
        loop {
            let Some(line) = self.line().await else {
                return Err(said.errors.pop().unwrap_or_else(|| "closed".to_owned()));
            };
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["PONG", ..] => return Ok(said),
                ["PING", ..] => self.write(b"PONG\r\n").await,
                ["-ERR", ..] => said.errors.push(line),
                ["MSG" | "HMSG", subject, _, rest @ .., total] => {
                    let parts = rest.len() - usize::from(words[0] == "HMSG");
                    let reply = (parts > 0).then(|| rest[0].to_owned());
                    let mut payload = vec![0; total.parse::<usize>().expect("a length") + 2];
                    self.stream.read_exact(&mut payload).await.map_err(|error| error.to_string())?;
                    payload.truncate(payload.len() - 2);
                    said.messages.push(((*subject).to_owned(), reply, payload));
                }
                _ => {}
            }
        }
    }

    /// A line without its end; `None` once the connection is closed.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, self.stream.read_line(&mut line)).await;
        match read.expect("the broker says something") {
            Ok(1..) => Some(line.trim_end().to_owned()),
            Ok(0) | Err(_) => None,
        }
    }
}
