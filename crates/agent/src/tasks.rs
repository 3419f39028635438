//! Work on the disk and with handlers: strictly one after the other, beside the agent's conversation with
//! the broker.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use domain::KindName;
use domain::agent::{Change, Durable, GenerationId, Input, Offer, Reason};
use wire::root::Chain;

use crate::crash;
use crate::handler::{Handler, PolicyChange};
use crate::storage::{Drift, Proofs, Storage, View};
use crate::trust::LiveTrust;

/// Tasks that may wait. The machine starts one thing at a time; what piles up beside a long handler are
/// refreshes of the envelope. When it is full, nothing more is heard from the broker until there is room.
pub(crate) const MAX_WAITING: usize = 64;

/// One operation.
pub(crate) enum Task {
    Persist { ticket: u64, durable: Box<Durable>, proofs: Proofs },
    Stage(Arc<Offer>),
    Activate(GenerationId),
    Revert(Option<GenerationId>),
    Refresh(Arc<Offer>),
    Repair(Vec<KindName>),
    CheckDrift,
    Prune(Vec<GenerationId>),
    AdoptRoot(Box<Chain>, LiveTrust),
    Show(Box<View>),
    RunHandlers(Vec<Change>),
    CheckHealth(Vec<KindName>),
}

type Running = Pin<Box<dyn Future<Output = Vec<Input>> + Send>>;

/// The tasks of one agent.
pub(crate) struct Tasks<S, H> {
    storage: Arc<S>,
    handler: Arc<H>,
    waiting: VecDeque<Task>,
    running: Option<Running>,
}

impl<S: Storage, H: Handler> Tasks<S, H> {
    pub(crate) fn new(storage: Arc<S>, handler: Arc<H>) -> Self {
        Self { storage, handler, waiting: VecDeque::new(), running: None }
    }

    pub(crate) fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.running.is_none()
    }

    /// Does a task. Where that is quick and nothing waits, its inputs are `done` at once; else they come from
    /// [`Tasks::next`].
    pub(crate) fn push(&mut self, task: Task, done: &mut VecDeque<Input>) {
        if !S::INLINE || self.running.is_some() {
            self.waiting.push_back(task);
            return self.start();
        }
        let handles = |kind: &KindName| self.handler.handles(kind);
        match task {
            // Documents that no handler cares for are the result.
            Task::RunHandlers(changes) if !changes.iter().any(|change| handles(&change.kind)) => {
                let ended = |change: Change| Input::HandlerDone { kind: change.kind, result: Ok(()) };
                done.extend(changes.into_iter().map(ended));
            }
            Task::CheckHealth(kinds) if !kinds.iter().any(handles) => {
                done.push_back(Input::HealthChecked(Ok(())));
            }
            task @ (Task::RunHandlers(_) | Task::CheckHealth(_)) => {
                self.waiting.push_back(task);
                self.start();
            }
            task => done.extend(work(&*self.storage, task)),
        }
    }

    /// Waits for the inputs of the next task that ends; for ever while there is none.
    pub(crate) async fn next(&mut self) -> Vec<Input> {
        let Some(running) = &mut self.running else { return std::future::pending().await };
        let inputs = running.await;
        self.running = None;
        self.start();
        inputs
    }

    fn start(&mut self) {
        if self.running.is_some() {
            return;
        }
        let Some(task) = self.waiting.pop_front() else { return };
        let (storage, handler) = (Arc::clone(&self.storage), Arc::clone(&self.handler));
        self.running = Some(match task {
            Task::RunHandlers(changes) => Box::pin(run_handlers(storage, handler, changes)),
            Task::CheckHealth(kinds) => Box::pin(check_health(handler, kinds)),
            task if S::INLINE => Box::pin(async move { work(&*storage, task).into_iter().collect() }),
            task => Box::pin(async move {
                let done = tokio::task::spawn_blocking(move || work(&*storage, task)).await;
                match done {
                    Ok(input) => input.into_iter().collect(),
                    Err(error) => std::panic::resume_unwind(error.into_panic()),
                }
            }),
        });
    }
}

/// Does what needs no waiting.
fn work<S: Storage>(storage: &S, task: Task) -> Option<Input> {
    let logged = |what: &'static str, result: Result<(), Reason>| {
        if let Err(reason) = result {
            tracing::warn!(%reason, "cannot {what}");
        }
        None
    };
    match task {
        Task::Persist { ticket, durable, proofs } => {
            Some(Input::Persisted { ticket, result: storage.persist(&durable, &proofs) })
        }
        Task::Stage(offer) => Some(Input::Staged(storage.stage(&offer))),
        Task::Activate(id) => Some(Input::Activated(storage.activate(&id))),
        Task::Revert(id) => Some(Input::Reverted(storage.revert(id.as_ref()))),
        Task::Refresh(offer) => logged("store the refreshed envelope", storage.refresh(&offer)),
        Task::Repair(kinds) => Some(Input::Repaired(storage.repair(&kinds))),
        Task::CheckDrift => match storage.check_drift() {
            Drift::None => None,
            Drift::Kinds(kinds) => Some(Input::DriftFound(kinds)),
            Drift::Lost => Some(Input::GenerationLost),
        },
        Task::AdoptRoot(chain, trust) => match storage.keep_roots(&chain) {
            Ok(()) => {
                trust.adopt(*chain);
                Some(Input::RootAdopted(trust.adopted()))
            }
            Err(reason) => logged("store the trust root", Err(reason)),
        },
        Task::Prune(keep) => logged("remove old generations", storage.prune(&keep)),
        Task::Show(view) => {
            storage.show(&view);
            None
        }
        Task::RunHandlers(_) | Task::CheckHealth(_) => {
            unreachable!("invariant: handlers run as futures of their own")
        }
    }
}

async fn run_handlers<S: Storage, H: Handler>(
    storage: Arc<S>,
    handler: Arc<H>,
    changes: Vec<Change>,
) -> Vec<Input> {
    crash::point("handlers-begin");
    let mut inputs = Vec::with_capacity(changes.len());
    for Change { kind, removed: _ } in changes {
        let result = run_handler(&storage, &*handler, &kind).await;
        let failed = result.is_err();
        inputs.push(Input::HandlerDone { kind, result });
        if failed {
            break;
        }
    }
    crash::point("handlers-done");
    inputs
}

async fn run_handler<S: Storage, H: Handler>(
    storage: &Arc<S>,
    handler: &H,
    kind: &KindName,
) -> Result<(), Reason> {
    if !handler.handles(kind) {
        return Ok(());
    }
    let (document, file) = if S::INLINE {
        storage.document(kind)
    } else {
        let (storage, kind) = (Arc::clone(storage), kind.clone());
        let read = tokio::task::spawn_blocking(move || storage.document(&kind)).await;
        read.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
    }?;
    handler.apply(PolicyChange { kind: kind.clone(), document, file }).await.map_err(Reason::new)
}

async fn check_health<H: Handler>(handler: Arc<H>, kinds: Vec<KindName>) -> Vec<Input> {
    for kind in kinds {
        if !handler.handles(&kind) {
            continue;
        }
        if let Err(reason) = handler.check_health(&kind).await {
            return vec![Input::HealthChecked(Err((kind, Reason::new(reason))))];
        }
    }
    crash::point("health-done");
    vec![Input::HealthChecked(Ok(()))]
}
