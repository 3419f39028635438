//! Fetching: manifests and indexes for surveys, and the pieces of a plan, several at once within a window, each
//! made sure of and kept before it counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use domain::agent::backoff::full_jitter;
use domain::content::agent::{Failure, Survey};
use domain::content::index::MAX_STORED_CHUNK_BYTES;
use domain::content::pace::TokenBucket;
use domain::content::plan::Road;
use domain::content::window::{self, Window};
use domain::content::{ContentIndex, ContentItem, Manifest};
use domain::{Span, Timestamp};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use runtime::clock::now;
use tokio::sync::watch;
use wire::content::ContentError;
use wire::envelope::EnvelopeError;
use wire::subject::{self, Subject};

use super::background::blocking;
use super::broker::{Broker, Got};
use super::build::{Build, KeepError, Piece, disk, failure, stopped};
use super::library::Library;
use super::survey::Surveyed;
use crate::crash;

/// How long a fetch goes on without a single piece that arrives: a broker that restarts is back sooner.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Bound of the first pause after a piece that did not come; it doubles up to [`PAUSE_CAP`].
const PAUSE: Span = Span(200);
/// Longest pause.
const PAUSE_CAP: Span = Span::from_secs(5);
/// Wrong answers for one fetch until it ends: a damaged message stays damaged, but another replica may have a
/// good one.
const MAX_WRONG: u32 = 3;
/// Longest sleep: the wall clock may jump.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// What the shell says to a running fetch.
#[derive(Debug, Clone, Default)]
pub(crate) struct Control {
    /// End soon.
    pub(crate) stop: Arc<AtomicBool>,
    /// Ask for nothing: a policy is on its way.
    pub(crate) hold: bool,
    /// Most bytes in a second.
    pub(crate) rate: Option<u64>,
}

/// What fetching needs.
#[derive(Clone)]
pub(crate) struct Fetcher {
    pub(crate) library: Arc<Library>,
    pub(crate) broker: Arc<Broker>,
    pub(crate) control: watch::Receiver<Control>,
    /// Most bytes on their way at once, but for one piece.
    pub(crate) window_bytes: u64,
}

impl Fetcher {
    /// Gets manifest and index, looks at what is held, and plans.
    pub(crate) async fn survey(&self, item: ContentItem, remote: bool) -> Result<Arc<Surveyed>, Failure> {
        let (library, known) = (Arc::clone(&self.library), item.clone());
        let manifest = match blocking(move || library.manifest(&known)).await {
            Some(manifest) => manifest,
            None if remote => self.fetch_manifest(&item).await?,
            None => return Err(failure("the manifest is not on the disk")),
        };
        let index = if remote { self.fetch_index(&item, &manifest).await? } else { None };
        let library = Arc::clone(&self.library);
        let channel = item.channel.clone();
        let surveyed = blocking(move || library.survey(&item, manifest, index)).await;
        surveyed.map(Arc::new).map_err(disk("look through", &channel))
    }

    async fn message(
        &self,
        subject: &Subject,
        bytes: u64,
        what: &str,
    ) -> Result<Option<bytes::Bytes>, Failure> {
        let timeout = window::deadline(bytes).into();
        match self.broker.get(subject, timeout).await {
            Got::Message(bytes) => Ok(Some(bytes)),
            Got::Missing => Ok(None),
            Got::Late => {
                self.broker.close().await;
                Err(failure(&format!("{what} did not come in time")))
            }
            Got::Failed(why) => {
                self.broker.close().await;
                Err(failure(&format!("cannot get {what}: {why}")))
            }
        }
    }

    async fn fetch_manifest(&self, item: &ContentItem) -> Result<Manifest, Failure> {
        let subject = subject::content_manifest(&item.manifest);
        let bytes = self.message(&subject, item.manifest_bytes, "the manifest").await?;
        let bytes = bytes.ok_or_else(|| failure("the manifest is not in the store (yet)"))?;
        let (library, named) = (Arc::clone(&self.library), item.clone());
        blocking(move || {
            let manifest = library.open_manifest(&named, &bytes).map_err(|error| {
                // The payload is the one that the snapshot names: no other answer can hold another one.
                let for_good = matches!(
                    error,
                    ContentError::Elsewhere(_) | ContentError::Envelope(EnvelopeError::Payload(_))
                );
                let failed = failure(&format!("the manifest: {}", runtime::log::chain(&error)));
                Failure { retry: !for_good, ..failed }
            })?;
            library.keep_manifest(&named, &bytes).map_err(disk("keep the manifest of", &named.channel))?;
            Ok(manifest)
        })
        .await
    }

    /// The index, if there is one that can be used: without it the agent goes chunk by chunk.
    async fn fetch_index(
        &self,
        item: &ContentItem,
        manifest: &Manifest,
    ) -> Result<Option<ContentIndex>, Failure> {
        let subject = subject::content_index(&item.manifest);
        let Some(bytes) = self.message(&subject, item.manifest_bytes, "the index").await? else {
            return Ok(None);
        };
        let opened = wire::envelope::parse(&bytes).map_err(ContentError::from).and_then(|envelope| {
            wire::content::open_index(
                &envelope,
                &item.manifest,
                manifest,
                &self.library.trust().now().content.keys,
            )
        });
        Ok(match opened {
            Ok(index) => Some(index),
            Err(error) => {
                let error = runtime::log::chain(&error);
                tracing::warn!(channel = %item.channel, %error, "the index of a content is not used");
                None
            }
        })
    }

    /// Carries out a plan. `progress` shows how many bytes arrived.
    pub(crate) async fn fetch(
        &self,
        surveyed: Arc<Surveyed>,
        progress: watch::Sender<u64>,
    ) -> Result<(), Failure> {
        let stop = Arc::clone(&self.control.borrow().stop);
        let library = Arc::clone(&self.library);
        if surveyed.whole {
            let channel = surveyed.item.channel.clone();
            let mended = blocking(move || super::build::mend(&library, &surveyed)).await;
            return match mended.map_err(disk("mend", &channel))? {
                true => Ok(()),
                false => Err(failure("content that was whole has changed")),
            };
        }
        let build = {
            let (surveyed, stop) = (Arc::clone(&surveyed), Arc::clone(&stop));
            blocking(move || Build::begin(library, surveyed, &stop)).await?
        };
        let build = Download::new(self.clone(), &surveyed, build, progress).run().await?;
        blocking(move || build.finish(&stop)).await
    }
}

/// A piece to ask for.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    piece: Piece,
    /// Its length as it travels, as far as is known.
    bytes: u64,
}

/// The pieces of a plan on their way.
struct Download {
    fetcher: Fetcher,
    surveyed: Arc<Surveyed>,
    build: Option<Build>,
    progress: watch::Sender<u64>,
    waiting: VecDeque<Wanted>,
    window: Window,
    bucket: TokenBucket,
    flying_bytes: u64,
    /// Nothing is asked for before this time.
    pause_until: Timestamp,
    /// Pieces that did not come, in a row.
    failures: u32,
    wrong: u32,
    last_arrival: tokio::time::Instant,
    /// When something came last over this connection, or when it was given up for another one.
    line_since: tokio::time::Instant,
}

impl Download {
    fn new(fetcher: Fetcher, surveyed: &Arc<Surveyed>, build: Build, progress: watch::Sender<u64>) -> Self {
        let rate = fetcher.control.borrow().rate;
        Self {
            waiting: wanted(surveyed),
            surveyed: Arc::clone(surveyed),
            build: Some(build),
            progress,
            window: Window::new(now()),
            bucket: TokenBucket::new(now(), rate),
            flying_bytes: 0,
            pause_until: Timestamp(0),
            failures: 0,
            wrong: 0,
            last_arrival: tokio::time::Instant::now(),
            line_since: tokio::time::Instant::now(),
            fetcher,
        }
    }

    async fn run(mut self) -> Result<Build, Failure> {
        let mut flying: FuturesUnordered<BoxFuture<'static, (Wanted, Got)>> = FuturesUnordered::new();
        let mut control = self.fetcher.control.clone();
        loop {
            let wait = self.launch(&mut flying);
            if self.waiting.is_empty() && flying.is_empty() {
                break;
            }
            tokio::select! {
                changed = control.changed() => {
                    if changed.is_err() || control.borrow_and_update().stop.load(Ordering::Relaxed) {
                        return Err(stopped());
                    }
                    let rate = control.borrow().rate;
                    self.bucket.set_rate(now(), rate);
                }
                Some((wanted, got)) = flying.next(), if !flying.is_empty() => self.take(wanted, got).await?,
                () = tokio::time::sleep(wait) => {}
            }
            if control.borrow().hold {
                // Time in which nothing may be asked for is not held against the broker.
                self.last_arrival = tokio::time::Instant::now();
            }
        }
        self.build.take().ok_or_else(stopped)
    }

    /// Asks for as many pieces as the window, the rate and the policies allow. Says when to look again.
    fn launch(&mut self, flying: &mut FuturesUnordered<BoxFuture<'static, (Wanted, Got)>>) -> Duration {
        while let Some(wanted) = self.waiting.front().copied() {
            let now = now();
            let fits =
                self.flying_bytes + wanted.bytes <= self.fetcher.window_bytes || self.flying_bytes == 0;
            if self.fetcher.control.borrow().hold || !fits || !self.window.has_room(wanted.bytes) {
                return MAX_SLEEP;
            }
            if now < self.pause_until {
                return Duration::from(self.pause_until.since(now)).min(MAX_SLEEP);
            }
            if let Err(due) = self.bucket.take(now, wanted.bytes) {
                return Duration::from(due.since(now)).min(MAX_SLEEP);
            }
            self.waiting.pop_front();
            let due = self.window.sent(now, wanted.bytes);
            self.flying_bytes += wanted.bytes;
            let (broker, subject) = (Arc::clone(&self.fetcher.broker), self.subject(wanted.piece));
            let timeout = due.since(now).into();
            flying.push(Box::pin(async move { (wanted, broker.get(&subject, timeout).await) }));
        }
        MAX_SLEEP
    }

    fn subject(&self, piece: Piece) -> Subject {
        match piece {
            Piece::Chunk { digest, .. } => subject::content_chunk(&digest),
            Piece::Part(number) => {
                let from = self.surveyed.delta().and_then(domain::content::Delta::from);
                subject::content_patch(from.as_ref(), &self.surveyed.item.manifest, number)
            }
        }
    }

    async fn take(&mut self, wanted: Wanted, got: Got) -> Result<(), Failure> {
        let now = now();
        self.flying_bytes = self.flying_bytes.saturating_sub(wanted.bytes);
        match got {
            Got::Message(bytes) => {
                self.window.arrived(now, wanted.bytes);
                self.progress.send_modify(|fetched| *fetched += bytes.len() as u64);
                self.last_arrival = tokio::time::Instant::now();
                self.line_since = self.last_arrival;
                self.failures = 0;
                crash::point("content-piece-received");
                self.keep(wanted, bytes).await
            }
            Got::Missing => {
                self.window.dropped(wanted.bytes);
                self.fetcher.library.distrust(&self.surveyed);
                Err(failure(&format!("{} is not in the store", self.subject(wanted.piece))))
            }
            Got::Late => {
                self.window.late(now, wanted.bytes);
                self.renew(wanted).await;
                self.again(wanted, "it did not come in time").await
            }
            Got::Failed(why) => {
                self.window.dropped(wanted.bytes);
                self.bucket.give_back(now, wanted.bytes);
                self.again(wanted, &why).await
            }
        }
    }

    async fn keep(&mut self, wanted: Wanted, bytes: bytes::Bytes) -> Result<(), Failure> {
        let Some(mut build) = self.build.take() else { return Err(stopped()) };
        let (build, kept) = blocking(move || {
            let kept = build.keep(wanted.piece, &bytes);
            (build, kept)
        })
        .await;
        let failed = match kept {
            Ok(()) => None,
            Err(KeepError::Wrong(why)) if self.wrong + 1 < MAX_WRONG => {
                self.wrong += 1;
                tracing::warn!(piece = %self.subject(wanted.piece), why, "a piece of content is not what it should be");
                self.pause(wanted);
                None
            }
            Err(error @ KeepError::Wrong(_)) => {
                self.fetcher.library.distrust(&self.surveyed);
                Some(failure(&format!("{}: {}", self.subject(wanted.piece), runtime::log::chain(&error))))
            }
            Err(error) => Some(build.failed(&error)),
        };
        self.build = Some(build);
        failed.map_or(Ok(()), Err)
    }

    /// A connection over which nothing at all came while a piece was due is made anew: one that leads nowhere any
    /// more looks like one that is slow, and the system would notice it much later.
    async fn renew(&mut self, late: Wanted) {
        if self.line_since.elapsed() >= Duration::from(window::deadline(late.bytes)) {
            self.line_since = tokio::time::Instant::now();
            self.fetcher.broker.close().await;
        }
    }

    /// The piece did not come: it is asked for again, unless nothing came for too long.
    async fn again(&mut self, wanted: Wanted, why: &str) -> Result<(), Failure> {
        if self.last_arrival.elapsed() > PATIENCE {
            self.fetcher.broker.close().await;
            let seconds = PATIENCE.as_secs();
            return Err(failure(&format!("no piece arrived for {seconds} s: {why}")));
        }
        self.pause(wanted);
        Ok(())
    }

    fn pause(&mut self, wanted: Wanted) {
        let now = now();
        if now >= self.pause_until {
            let wait = full_jitter(self.failures, PAUSE, PAUSE_CAP, rand::random());
            self.pause_until = now + PAUSE.scaled(1, 4) + wait;
            self.failures = self.failures.saturating_add(1);
        }
        self.waiting.push_front(wanted);
    }
}

/// The pieces of a plan, in order.
fn wanted(surveyed: &Surveyed) -> VecDeque<Wanted> {
    let stored = surveyed.index.as_ref().map_or(&[][..], |index| index.stored_bytes());
    let delta = surveyed.delta();
    let of = |number: &u32| {
        let at = usize::try_from(*number).ok()?;
        Some(match surveyed.plan.road {
            Road::Chunks => {
                let chunk = surveyed.manifest.chunks().get(at)?;
                let bytes = stored.get(at).copied().unwrap_or(chunk.bytes).min(MAX_STORED_CHUNK_BYTES);
                let piece = Piece::Chunk { digest: chunk.digest, raw_bytes: chunk.bytes };
                Wanted { piece, bytes: bytes.into() }
            }
            Road::Patch { .. } | Road::Full => {
                Wanted { piece: Piece::Part(*number), bytes: delta?.parts().get(at)?.bytes.into() }
            }
        })
    };
    surveyed.plan.pieces.iter().filter_map(of).collect()
}

/// What the machine is told of a survey.
pub(crate) fn survey_of(surveyed: &Surveyed) -> Survey {
    Survey { plan: Arc::clone(&surveyed.plan), space: surveyed.space }
}
