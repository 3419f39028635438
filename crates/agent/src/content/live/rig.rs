//! An agent's content without the agent: what a snapshot assigns is said by the test.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use domain::agent::ItemState;
use domain::content::agent::{Note, Pace};
use domain::content::{ContentItem, ContentStatus, DownloadWish};
use domain::{AgentId, Span};
use runtime::Shutdown;
use runtime::tls::BrokerTls;
use tokio::sync::watch;

use super::store::Store;
use crate::agent::Enrolment;
use crate::content::link::{ContentLink, Wanted};
use crate::content::test_content::{Stored, content_trust};
use crate::content::{ContentOptions, Timing};
use crate::handler::{ContentChange, Handler};
use crate::test_fleet::{PATIENCE, trust_in};

/// Remembers what it was asked, and refuses contents by number.
#[derive(Default)]
pub(super) struct Recorder {
    pub(super) changes: Mutex<Vec<(String, u32)>>,
    pub(super) refused: Mutex<Vec<u32>>,
    pub(super) sick: Mutex<Vec<u32>>,
}

impl Recorder {
    fn number(change: &ContentChange) -> u32 {
        change.revision.map_or(0, |held| held.number.0)
    }
}

impl Handler for Recorder {
    fn handles(&self, _kind: &domain::KindName) -> bool {
        false
    }

    async fn apply(&self, _change: crate::handler::PolicyChange) -> Result<(), String> {
        Ok(())
    }

    async fn check_health(&self, _kind: &domain::KindName) -> Result<(), String> {
        Ok(())
    }

    async fn apply_content(&self, change: ContentChange) -> Result<(), String> {
        let number = Self::number(&change);
        self.changes.lock().unwrap().push((change.channel.to_string(), number));
        if self.refused.lock().unwrap().contains(&number) { Err("refused".to_owned()) } else { Ok(()) }
    }

    async fn check_content(&self, change: &ContentChange) -> Result<(), String> {
        if self.sick.lock().unwrap().contains(&Self::number(change)) {
            Err("sick".to_owned())
        } else {
            Ok(())
        }
    }
}

/// Each message of content that arrived: subject and length.
pub(super) type Arrivals = Arc<Mutex<Vec<(String, u64)>>>;

/// An agent's content, running.
pub(super) struct Running {
    pub(super) link: ContentLink,
    pub(super) notes: watch::Receiver<Vec<Note>>,
    pub(super) handler: Arc<Recorder>,
    shutdown: Shutdown,
    task: tokio::task::JoinHandle<()>,
}

/// Where it runs.
pub(super) struct Rig {
    pub(super) dir: PathBuf,
    pub(super) servers: Vec<String>,
    pub(super) arrivals: Arrivals,
    pub(super) options: ContentOptions,
    pub(super) pace: Pace,
    _temp: Option<tempfile::TempDir>,
}

impl Rig {
    pub(super) fn new(store: &Store) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let rig = Self::at(store, temp.path());
        Self { _temp: Some(temp), ..rig }
    }

    pub(super) fn at(store: &Store, dir: &Path) -> Self {
        Self::of(vec![store.server.url()], dir)
    }

    pub(super) fn of(servers: Vec<String>, dir: &Path) -> Self {
        let arrivals = Arrivals::default();
        let heard = Arc::clone(&arrivals);
        let options = ContentOptions {
            pieces: Some(Arc::new(move |subject: &str, length| {
                heard.lock().unwrap().push((subject.to_owned(), length as u64));
            })),
            timing: Timing { drift_every: Span(500) },
            ..ContentOptions::default()
        };
        Self { dir: dir.to_owned(), servers, arrivals, options, pace: Pace::default(), _temp: None }
    }

    pub(super) fn start(&self) -> Running {
        let trust = trust_in(&content_trust());
        let agent = AgentId::new("a").unwrap();
        let servers = self.servers.clone();
        let enrolment =
            Enrolment { agent, trust, servers, tls: BrokerTls::default(), assignment: None, access: None };
        let (sender, notes) = watch::channel(Vec::new());
        let options = ContentOptions {
            observer: Some(Arc::new(move |_: &AgentId, note: &Note| {
                sender.send_modify(|all: &mut Vec<Note>| all.push(note.clone()));
            })),
            ..self.options.clone()
        };
        let handler = Arc::new(Recorder::default());
        let (content, link) =
            crate::content::open(&self.dir, &enrolment, Arc::clone(&handler), options).unwrap();
        let shutdown = Shutdown::new();
        let task = tokio::spawn(content.run(shutdown.clone()));
        Running { link, notes, handler, shutdown, task }
    }

    /// Path of a file in force.
    pub(super) fn file(&self, channel: &str, path: &str) -> PathBuf {
        self.dir.join("content/current").join(channel.replace('/', "--")).join(path)
    }

    /// All files in force of a channel.
    pub(super) fn in_force(&self, channel: &str) -> Option<BTreeMap<String, Vec<u8>>> {
        let root = self.file(channel, "");
        root.exists().then(|| read_tree(&root))
    }

    /// Pieces that arrived: chunks and parts of deltas, with their lengths.
    pub(super) fn pieces(&self) -> Vec<(String, u64)> {
        let arrivals = self.arrivals.lock().unwrap().clone();
        let is_piece = |(subject, _): &(String, u64)| {
            subject.starts_with("content.chunk.") || subject.starts_with("content.patch.")
        };
        arrivals.into_iter().filter(is_piece).collect()
    }

    /// Bytes of the pieces whose subjects begin so.
    pub(super) fn bytes_of(&self, kind: &str) -> u64 {
        let pieces = self.pieces();
        pieces.iter().filter(|(subject, _)| subject.starts_with(kind)).map(|(_, length)| length).sum()
    }

    /// Nothing has arrived yet.
    pub(super) fn forget_arrivals(&self) {
        self.arrivals.lock().unwrap().clear();
    }

    /// How many pieces arrived more than once.
    pub(super) fn repeated(&self) -> usize {
        let pieces = self.pieces();
        let all: std::collections::BTreeSet<&String> = pieces.iter().map(|(subject, _)| subject).collect();
        pieces.len() - all.len()
    }

    pub(super) fn assign(&self, running: &Running, items: &[&Stored]) {
        let items: Vec<ContentItem> = items.iter().map(|stored| stored.item.clone()).collect();
        running.assign(items, self.pace);
    }
}

/// Waits for a state of the disk, which tells nobody when it changes.
pub(super) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("{what}"));
}

pub(super) fn read_tree(root: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![String::new()];
    while let Some(prefix) = waiting.pop() {
        for entry in std::fs::read_dir(root.join(&prefix)).unwrap() {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            let path = if prefix.is_empty() { name } else { format!("{prefix}/{name}") };
            if entry.file_type().unwrap().is_dir() {
                waiting.push(path);
            } else {
                found.insert(path, std::fs::read(entry.path()).unwrap());
            }
        }
    }
    found
}

impl Running {
    pub(super) fn assign(&self, items: Vec<ContentItem>, pace: Pace) {
        self.link.told.send_modify(|told| told.wanted = Some(Wanted { items: items.into(), pace }));
    }

    /// Answers wishes for the allowance, as presence does.
    pub(super) fn grant(&self, granted_for: Option<Span>) {
        self.link.told.send_modify(|told| told.allowance = (told.allowance.0 + 1, granted_for));
    }

    /// Grants whatever is wished for, until the test ends.
    pub(super) fn generous(&self) -> tokio::task::JoinHandle<()> {
        let (mut said, told) = (self.link.said.clone(), self.link.told.clone());
        tokio::spawn(async move {
            loop {
                let wish = said.borrow_and_update().wish;
                if matches!(wish, DownloadWish::Wanted | DownloadWish::Held) {
                    told.send_modify(|told| {
                        told.allowance = (told.allowance.0 + 1, Some(Span::from_secs(60)))
                    });
                }
                if said.changed().await.is_err() {
                    return;
                }
            }
        })
    }

    /// Waits until a note that fits was made.
    pub(super) async fn noted(&mut self, what: &str, fits: impl Fn(&Note) -> bool) {
        let found = self.notes.wait_for(|notes| notes.iter().any(&fits));
        let found = tokio::time::timeout(PATIENCE, found).await.map(|found| found.is_ok());
        assert_eq!(found, Ok(true), "{what}: {:#?}", *self.notes.borrow());
    }

    pub(super) async fn applied(&mut self, stored: &Stored) {
        let what = format!("{} {} is in force", stored.item.channel, stored.item.number);
        let item = stored.item.clone();
        self.noted(&what, move |note| matches!(note, Note::Applied(applied) if *applied == item)).await;
    }

    /// Waits until a content is in force and healthy, however it got there.
    pub(super) async fn settled(&mut self, stored: &Stored) {
        let item = stored.item.clone();
        let is_settled = move |content: &[ContentStatus]| {
            content.iter().any(|one| {
                (one.active, one.wanted, one.state) == (item.number, item.number, ItemState::Healthy)
            })
        };
        self.reported("settled", is_settled).await;
    }

    /// Waits until the report fits.
    pub(super) async fn reported(
        &mut self,
        what: &str,
        fits: impl Fn(&[ContentStatus]) -> bool,
    ) -> Vec<ContentStatus> {
        let mut said = self.link.said.clone();
        let found = tokio::time::timeout(PATIENCE, said.wait_for(|said| fits(&said.content))).await;
        let found = found.map(|said| said.unwrap().content.clone()).ok();
        found.unwrap_or_else(|| panic!("{what}: {:#?} {:#?}", self.link.said.borrow(), *self.notes.borrow()))
    }

    pub(super) async fn stop(self) {
        self.shutdown.request();
        self.task.await.unwrap();
    }

    /// Ends it as a crash would, at whatever it is doing; writes that run are not taken back.
    pub(super) async fn abort(self) {
        self.task.abort();
        let _ended = self.task.await;
    }
}
