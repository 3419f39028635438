//! The shell around the content machine: one task that hears, asks the machine, and does what it says.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::agent::Reason;
use domain::content::agent::{Durable, Effect, Input, Machine, Note};
use domain::content::plan::Plan;
use domain::content::{ChannelName, ContentItem};
use domain::{AgentId, Digest};
use runtime::Shutdown;
use runtime::clock::now;
use tokio::sync::watch;

use super::background::blocking;
use super::build::stopped;
use super::fetch::{Control, Fetcher, survey_of};
use super::library::Library;
use super::link::{AgentLink, Told};
use super::survey::Surveyed;
use super::{ContentObserver, note};
use crate::crash;
use crate::handler::{ContentChange, Handler, HeldRevision};

/// Longest sleep. The wall clock may jump while the agent sleeps; it looks at it at least this often.
const MAX_SLEEP: Duration = Duration::from_secs(60);
/// How long stopping waits for what is under way: a write ends in time, what is fetched goes on at the next
/// start.
const STOP_WAIT: Duration = Duration::from_secs(5);
/// How long a connection stays open with nothing to fetch: a survey is followed by its fetch, a content by the
/// next.
const IDLE_CLOSE: Duration = Duration::from_secs(5);

type Running = Pin<Box<dyn Future<Output = Option<Input>> + Send>>;

/// What is done on the disk, one after the other.
enum Task {
    Persist { ticket: u64, durable: Box<Durable> },
    Switch { channel: ChannelName, to: Option<ContentItem> },
    Prune { keep: Vec<Digest>, drafts: Vec<Digest> },
    CheckDrift(Vec<ContentItem>),
}

/// What takes long, one at a time.
enum Long {
    Survey { item: ContentItem, remote: bool },
    Fetch { item: ContentItem, plan: Arc<Plan> },
    RunHandler { channel: ChannelName, item: Option<ContentItem> },
    CheckHealth(ContentItem),
}

/// The content of one agent. It does nothing until [`Content::run`].
pub struct Content<H> {
    pub(super) agent: AgentId,
    pub(super) machine: Machine,
    pub(super) fetcher: Fetcher,
    pub(super) control: watch::Sender<Control>,
    pub(super) handler: Arc<H>,
    pub(super) link: AgentLink,
    pub(super) observer: Option<ContentObserver>,
    pub(super) work: Work,
}

/// What is under way.
#[derive(Default)]
pub(super) struct Work {
    inputs: VecDeque<Input>,
    tasks: VecDeque<Task>,
    task: Option<Running>,
    waiting: VecDeque<Long>,
    long: Option<Running>,
    /// The last survey: what its plan takes from where.
    surveyed: Arc<std::sync::Mutex<Option<Arc<Surveyed>>>>,
    /// Bytes of the running fetch, and what it is of.
    progress: Option<(watch::Receiver<u64>, ContentItem)>,
    told: Told,
    began: note::Began,
    idle_since: Option<tokio::time::Instant>,
}

impl<H: Handler> Content<H> {
    /// Runs until the shutdown is requested.
    pub async fn run(mut self, shutdown: Shutdown) {
        self.step(Input::Started);
        self.hear();
        loop {
            let sleep = self.sleep();
            let Work { task, long, progress, .. } = &mut self.work;
            tokio::select! {
                () = shutdown.requested() => break,
                told = self.link.told.changed() => match told {
                    Ok(()) => self.hear(),
                    // The agent's shell ended, and with it all that could be said.
                    Err(_) => break,
                },
                input = optional(task) => {
                    self.work.task = None;
                    self.work.inputs.extend(input);
                }
                input = optional(long) => {
                    self.work.long = None;
                    self.work.progress = None;
                    self.work.inputs.extend(input);
                }
                () = changed(progress) => self.report_progress(),
                () = tokio::time::sleep(sleep) => self.work.inputs.push_back(Input::Tick),
            }
            self.work_off();
            self.close_when_idle().await;
        }
        self.stop().await;
    }

    async fn stop(mut self) {
        self.fetcher.library.end();
        self.control.borrow().stop.store(true, Ordering::Relaxed);
        self.control.send_modify(|_| {});
        let unfinished = async {
            if let Some(task) = self.work.task.take() {
                let _input = task.await;
            }
            if let Some(long) = self.work.long.take() {
                let _input = long.await;
            }
        };
        if tokio::time::timeout(STOP_WAIT, unfinished).await.is_err() {
            tracing::info!(agent = %self.agent, "stopping amid content; it goes on at the next start");
        }
        self.step(Input::Stop);
        self.fetcher.broker.close().await;
    }

    fn sleep(&self) -> Duration {
        let due = self.machine.next_deadline();
        let wait = due.map_or(MAX_SLEEP, |due| due.since(now()).into());
        let close = self
            .work
            .idle_since
            .map(|since| (since + IDLE_CLOSE).duration_since(tokio::time::Instant::now()));
        wait.min(MAX_SLEEP).min(close.unwrap_or(MAX_SLEEP))
    }

    async fn close_when_idle(&mut self) {
        if self.work.long.is_some() {
            self.work.idle_since = None;
        } else if self.work.idle_since.is_some_and(|since| since.elapsed() >= IDLE_CLOSE) {
            self.work.idle_since = None;
            self.fetcher.broker.close().await;
        }
    }

    /// Takes up what the agent's shell says.
    fn hear(&mut self) {
        let told = self.link.told.borrow_and_update().clone();
        let before = std::mem::replace(&mut self.work.told, told.clone());
        if told.pressed != before.pressed {
            self.control.send_modify(|control| control.hold = told.pressed);
        }
        if told.offline != before.offline {
            self.work.inputs.push_back(Input::Online(!told.offline));
        }
        if told.allowance.0 != before.allowance.0 {
            self.work.inputs.push_back(Input::Allowance { granted_for: told.allowance.1 });
        }
        if told.wanted != before.wanted
            && let Some(wanted) = told.wanted
        {
            self.work.inputs.push_back(Input::Wanted { items: wanted.items.to_vec(), pace: wanted.pace });
        }
        self.work_off();
    }

    fn report_progress(&mut self) {
        let Some((progress, item)) = &mut self.work.progress else { return };
        let fetched = *progress.borrow_and_update();
        let (channel, manifest) = (item.channel.clone(), item.manifest);
        self.work.inputs.push_back(Input::Progress { channel, manifest, fetched });
    }

    fn step(&mut self, input: Input) {
        self.work.inputs.push_back(input);
        self.work_off();
    }

    /// Passes all inputs to the machine and does what it says.
    fn work_off(&mut self) {
        while let Some(input) = self.work.inputs.pop_front() {
            for effect in self.machine.handle(now(), rand::random(), input) {
                self.carry_out(effect);
            }
        }
        self.start();
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Survey { item, remote } => self.work.waiting.push_back(Long::Survey { item, remote }),
            Effect::Fetch { item, plan } => self.work.waiting.push_back(Long::Fetch { item, plan }),
            Effect::RunHandler { channel, item } => {
                self.work.waiting.push_back(Long::RunHandler { channel, item });
            }
            Effect::CheckHealth(item) => self.work.waiting.push_back(Long::CheckHealth(item)),
            Effect::StopFetch => self.stop_fetch(),
            Effect::Limit(rate) => self.control.send_modify(|control| control.rate = rate),
            Effect::Persist { ticket } => {
                let durable = Box::new(self.machine.durable().clone());
                self.work.tasks.push_back(Task::Persist { ticket, durable });
            }
            Effect::Switch { channel, to } => self.work.tasks.push_back(Task::Switch { channel, to }),
            Effect::Prune { keep, drafts } => self.work.tasks.push_back(Task::Prune { keep, drafts }),
            Effect::CheckDrift(items) => self.work.tasks.push_back(Task::CheckDrift(items)),
            Effect::Wish(wish) => self.link.wish(wish),
            Effect::Report(content) => self.link.report(content),
            Effect::Note(note) => self.note(&note),
        }
    }

    /// Ends the fetch that runs; one that still waits for its turn is not begun.
    fn stop_fetch(&mut self) {
        let Work { waiting, inputs, .. } = &mut self.work;
        let waits = waiting.iter().position(|long| matches!(long, Long::Fetch { .. }));
        if let Some(Long::Fetch { item, .. }) = waits.and_then(|at| waiting.remove(at)) {
            let ContentItem { channel, manifest, .. } = item;
            inputs.push_back(Input::Fetched { channel, manifest, fetched: 0, result: Err(stopped()) });
            return;
        }
        self.control.borrow().stop.store(true, Ordering::Relaxed);
        self.control.send_modify(|_| {});
    }

    fn note(&mut self, note: &Note) {
        self.work.began.note(note);
        note::log(&self.agent, note);
        if let Some(observer) = &self.observer {
            observer(&self.agent, note);
        }
    }

    /// Starts what waits, where nothing of its kind is under way.
    fn start(&mut self) {
        if self.work.task.is_none()
            && let Some(task) = self.work.tasks.pop_front()
        {
            let library = Arc::clone(&self.fetcher.library);
            self.work.task = Some(Box::pin(blocking(move || do_task(&library, task))));
        }
        if self.work.long.is_none()
            && let Some(long) = self.work.waiting.pop_front()
        {
            self.work.long = Some(self.long(long));
            self.work.idle_since = Some(tokio::time::Instant::now());
        }
    }

    fn long(&mut self, long: Long) -> Running {
        match long {
            Long::Survey { item, remote } => {
                let (fetcher, last) = (self.fetcher.clone(), Arc::clone(&self.work.surveyed));
                Box::pin(async move {
                    let (channel, manifest) = (item.channel.clone(), item.manifest);
                    let surveyed = fetcher.survey(item, remote).await;
                    *locked(&last) = surveyed.as_ref().ok().cloned();
                    let result = surveyed.map(|surveyed| survey_of(&surveyed));
                    Some(Input::Surveyed { channel, manifest, result })
                })
            }
            Long::Fetch { item, plan } => self.fetch(item, &plan),
            Long::RunHandler { channel, item } => {
                let change = self.change(channel, item.as_ref());
                let handler = Arc::clone(&self.handler);
                Box::pin(async move {
                    crash::point("content-handler-begin");
                    let result = handler.apply_content(change).await.map_err(Reason::new);
                    crash::point("content-handler-done");
                    Some(Input::HandlerDone(result))
                })
            }
            Long::CheckHealth(item) => {
                let change = self.change(item.channel.clone(), Some(&item));
                let handler = Arc::clone(&self.handler);
                Box::pin(async move {
                    let result = handler.check_content(&change).await.map_err(Reason::new);
                    crash::point("content-health-done");
                    Some(Input::HealthChecked(result))
                })
            }
        }
    }

    fn change(&self, channel: ChannelName, item: Option<&ContentItem>) -> ContentChange {
        let dir = self.fetcher.library.dirs().current(&channel);
        let revision = item.map(|item| HeldRevision { number: item.number, manifest: item.manifest });
        ContentChange { channel, dir, revision }
    }

    fn fetch(&mut self, item: ContentItem, plan: &Arc<Plan>) -> Running {
        let (channel, manifest) = (item.channel.clone(), item.manifest);
        let surveyed = locked(&self.work.surveyed).take();
        let surveyed = surveyed.filter(|surveyed| surveyed.item == item && surveyed.plan == *plan);
        // The signal to stop was for the fetch before.
        self.control.send_modify(|control| control.stop = Arc::default());
        let (tell, progress) = watch::channel(0);
        let tally = tell.subscribe();
        self.work.progress = Some((progress, item));
        let fetcher = self.fetcher.clone();
        Box::pin(async move {
            let result = match surveyed {
                Some(surveyed) => fetcher.fetch(surveyed, tell).await,
                None => Err(super::build::failure("what is held has to be looked through again")),
            };
            let fetched = *tally.borrow();
            Some(Input::Fetched { channel, manifest, fetched, result })
        })
    }
}

fn do_task(library: &Library, task: Task) -> Option<Input> {
    let reason = |what: &str, error: &std::io::Error| Reason::new(format!("cannot {what}: {error}"));
    match task {
        Task::Persist { ticket, durable } => {
            let result = library.persist(&durable).map_err(|e| reason("write the state of content", &e));
            Some(Input::Persisted { ticket, result })
        }
        Task::Switch { channel, to } => {
            let result = library.switch(&channel, to.as_ref());
            Some(Input::Switched(result.map_err(|e| reason("switch the content in force", &e))))
        }
        Task::Prune { keep, drafts } => {
            if let Err(error) = library.prune(&keep, &drafts) {
                tracing::warn!(%error, "cannot remove old content");
            }
            None
        }
        Task::CheckDrift(items) => {
            let drifted = |item: &&ContentItem| {
                library.has_drifted(item).unwrap_or_else(|error| {
                    tracing::warn!(%error, channel = %item.channel, "cannot look at content in force");
                    false
                })
            };
            let channels: Vec<ChannelName> =
                items.iter().filter(drifted).map(|item| item.channel.clone()).collect();
            (!channels.is_empty()).then_some(Input::DriftFound(channels))
        }
    }
}

fn locked<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // Nothing panics while it holds this lock.
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for what may not be there: then for ever.
async fn optional(running: &mut Option<Running>) -> Option<Input> {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn changed(progress: &mut Option<(watch::Receiver<u64>, ContentItem)>) {
    match progress {
        Some((progress, _)) => {
            if progress.changed().await.is_err() {
                // The fetch is over; its end is on the way.
                std::future::pending().await
            }
        }
        None => std::future::pending().await,
    }
}
