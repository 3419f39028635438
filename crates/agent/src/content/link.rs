//! What the agent's shell and its content's tell each other. Each side shows its latest state; nothing queues.

use std::sync::Arc;

use domain::Span;
use domain::agent::{Input, Machine};
use domain::content::agent::Pace;
use domain::content::{ContentItem, ContentStatus, DownloadWish};
use tokio::sync::watch;

/// What the content's shell is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Told {
    /// The content of the last known good, and how fast it is taken; `None` until there is one.
    pub(crate) wanted: Option<Wanted>,
    /// Whether the broker could not be reached the last time.
    pub(crate) offline: bool,
    /// Whether a policy is on its way: nothing is asked for meanwhile.
    pub(crate) pressed: bool,
    /// Answers to heartbeats with a wish so far, and the last one.
    pub(crate) allowance: (u64, Option<Span>),
}

/// The content of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) items: Arc<[ContentItem]>,
    pub(crate) pace: Pace,
}

/// What the content's shell says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) content: Vec<ContentStatus>,
    pub(crate) wish: DownloadWish,
    /// Times a wish was said: the same one again asks for an answer.
    pub(crate) wishes: u64,
}

/// The agent's end of the link to its content: see [`open`](super::open).
#[derive(Debug)]
pub struct ContentLink {
    pub(super) told: watch::Sender<Told>,
    pub(super) said: watch::Receiver<Said>,
    seen: Said,
}

/// The content's end.
#[derive(Debug)]
pub(crate) struct AgentLink {
    pub(crate) told: watch::Receiver<Told>,
    pub(crate) said: watch::Sender<Said>,
}

/// Both ends.
pub(crate) fn pair() -> (ContentLink, AgentLink) {
    let (tell, told) = watch::channel(Told::default());
    let (say, said) = watch::channel(Said::default());
    (ContentLink { told: tell, said, seen: Said::default() }, AgentLink { told, said: say })
}

impl ContentLink {
    /// Waits for news of the content. Nothing is lost when the future is dropped before it is ready.
    pub(crate) async fn next(&mut self) -> Vec<Input> {
        if self.said.changed().await.is_err() {
            // The content's shell ended; so does the process, soon.
            return std::future::pending().await;
        }
        let said = self.said.borrow_and_update().clone();
        let seen = std::mem::replace(&mut self.seen, said.clone());
        let mut inputs = Vec::new();
        if said.content != seen.content {
            inputs.push(Input::ContentReported(said.content));
        }
        if said.wishes != seen.wishes {
            inputs.push(Input::DownloadWished(said.wish));
        }
        inputs
    }

    /// Tells how the agent stands.
    pub(crate) fn tell(&self, machine: &Machine, offline: bool) {
        let settings = machine.settings();
        let pace = Pace { spread: settings.content_spread, rate_limit: settings.content_rate_limit };
        let good = machine.durable().good.as_ref();
        let pressed = machine.is_pressed();
        self.told.send_if_modified(|told| {
            let same = match (&told.wanted, good) {
                (Some(known), Some(good)) => *known.items == *good.content && known.pace == pace,
                // What was assigned last holds until something else is.
                (Some(_) | None, None) => true,
                (None, Some(_)) => false,
            };
            if same && (told.offline, told.pressed) == (offline, pressed) {
                return false;
            }
            if let Some(good) = good.filter(|_| !same) {
                told.wanted = Some(Wanted { items: Arc::clone(&good.content), pace });
            }
            (told.offline, told.pressed) = (offline, pressed);
            true
        });
    }

    /// Passes on the answer to a heartbeat that said a wish.
    pub(crate) fn answered(&self, granted_for: Option<Span>) {
        self.told.send_modify(|told| told.allowance = (told.allowance.0 + 1, granted_for));
    }
}

impl AgentLink {
    pub(crate) fn report(&self, content: Vec<ContentStatus>) {
        self.said.send_if_modified(|said| {
            let changed = said.content != content;
            said.content = content;
            changed
        });
    }

    pub(crate) fn wish(&self, wish: DownloadWish) {
        self.said.send_modify(|said| {
            said.wish = wish;
            said.wishes += 1;
        });
    }
}
