//! A nats-server that holds content.

use bytes::Bytes;
use runtime::nats::{CONTENT, Connection, Expect, Headers, Nats};
use runtime::nats_server::{NatsServer, Setup, find};
use wire::subject::Subject;

use crate::content::test_content::{Files, Message, Stored, make};

/// A server with the stream for content.
pub(super) struct Store {
    pub(super) server: NatsServer,
    nats: Nats,
    _dir: tempfile::TempDir,
}

impl Store {
    pub(super) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut setup = Setup::new(find(None).await.unwrap(), dir.path());
        setup.sync_always = false;
        let server = NatsServer::start(setup).await.unwrap();
        let nats = Nats::connect(&Connection::service(vec![server.url()], "store")).await.unwrap();
        nats.ensure_stream(&CONTENT, 1).await.unwrap();
        Self { server, nats, _dir: dir }
    }

    pub(super) async fn put(&self, subject: &Subject, bytes: impl Into<Bytes>) {
        let message = (Headers::new(), bytes.into());
        self.nats.publish_cas(CONTENT.name, subject, message, Expect::Any).await.unwrap();
    }

    pub(super) async fn put_all(&self, messages: Vec<Message>) {
        for (subject, bytes) in messages {
            self.put(&subject, bytes).await;
        }
    }

    pub(super) async fn get(&self, subject: &Subject) -> Bytes {
        self.nats.direct_get_last(CONTENT.name, subject).await.unwrap().unwrap().payload
    }

    pub(super) async fn remove(&self, subject: &Subject) {
        self.nats.purge(CONTENT.name, subject.as_str(), u64::MAX).await.unwrap();
    }

    /// Stores a content: chunks, manifest, and an index without deltas.
    pub(super) async fn push(&self, channel: &str, number: u32, files: Files) -> Stored {
        let (stored, messages) = make(channel, number, files);
        self.put_all(messages).await;
        stored
    }

    /// Makes a delta to a content, from another one or from nothing, and lists it in the index.
    pub(super) async fn delta(&self, from: Option<&Stored>, to: &mut Stored) {
        let messages = to.delta(from, from.map(|from| from.bytes.as_slice()));
        self.put_all(messages).await;
    }
}
