//! PresenceService, for operators.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use domain::access::Reach;
use domain::content::ChannelName;
use domain::presence::{Filter, Progress};
use domain::{AgentId, FleetId, Mode, Revision};
use futures::{Stream, StreamExt as _};
use runtime::Shutdown;
use runtime::access::caller;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wire::api::v1 as api;
use wire::api::v1::presence_service_server::PresenceService;

use crate::present;
use crate::queries::{At, NoGroup, Part, Place, Query, Unwatched, Wanted};
use crate::status;
use crate::watchers::{MAX_WATCHERS, Watching};

/// Longest wait for the heads of a store revision: a compiler that is that far behind is not coming back soon.
const MAX_WAIT: Duration = Duration::from_secs(10);
/// Agents on a page when the caller does not say.
const DEFAULT_PAGE: usize = 100;
/// Agents on a page at most.
const MAX_PAGE: usize = 1_000;
/// Looks at the fleet for one page. With a filter that hardly any agent matches, the page ends early and says
/// where to go on; this many looks take less than a tenth of a second.
const MAX_LOOKS: usize = 64;
/// Longest text in a filter: a path of 16 names of 64 characters, and some room.
const MAX_TEXT: usize = 2_048;

/// The API's end of the service.
pub(crate) struct Api {
    fleet: FleetId,
    queries: mpsc::Sender<Query>,
    compiled: watch::Receiver<Revision>,
    shutdown: Shutdown,
}

impl Api {
    pub(crate) fn new(
        fleet: FleetId,
        queries: mpsc::Sender<Query>,
        compiled: watch::Receiver<Revision>,
        shutdown: Shutdown,
    ) -> Self {
        Self { fleet, queries, compiled, shutdown }
    }

    /// Asks the fleet's task.
    async fn ask<T>(&self, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Result<T, Status> {
        let (sender, answer) = oneshot::channel();
        self.queries.send(query(sender)).await.map_err(|_| status::stopping())?;
        answer.await.map_err(|_| status::stopping())
    }

    /// Waits until the heads of a store revision are known.
    async fn caught_up(&self, min_revision: u64) -> Result<(), Status> {
        let wanted = Revision(min_revision);
        let mut compiled = self.compiled.clone();
        match tokio::time::timeout(MAX_WAIT, compiled.wait_for(|known| *known >= wanted)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(status::stopping()),
            Err(_) => Err(status::behind(wanted, *self.compiled.borrow())),
        }
    }
}

type WatchStream = Pin<Box<dyn Stream<Item = Result<api::WatchEvent, Status>> + Send>>;

#[tonic::async_trait]
impl PresenceService for Api {
    async fn get_agent(
        &self,
        request: Request<api::GetAgentRequest>,
    ) -> Result<Response<api::Agent>, Status> {
        let reach = caller(request.extensions())?.reach;
        let name = request.into_inner().name;
        let id = AgentId::new(&name).map_err(|error| status::invalid("name", error))?;
        let found = self.ask(|answer| Query::Agent((id, reach), answer)).await?;
        found.map(Response::new).ok_or_else(|| status::not_found("agent", &name))
    }

    async fn get_content_status(
        &self,
        request: Request<api::GetContentStatusRequest>,
    ) -> Result<Response<api::ContentStatus>, Status> {
        let reach = caller(request.extensions())?.reach;
        let request = request.into_inner();
        let channel =
            ChannelName::new(&request.channel).map_err(|error| status::invalid("channel", error))?;
        let place = place(reach, &request.group, true, "group")?;
        let found = self.ask(|answer| Query::Content(channel, place, answer)).await?;
        Ok(Response::new(*found.map_err(|group| no_group(&group))?))
    }

    async fn get_delivery(
        &self,
        request: Request<api::GetDeliveryRequest>,
    ) -> Result<Response<api::Delivery>, Status> {
        let revision = Revision(request.into_inner().revision);
        let delivery = self.ask(|answer| Query::Delivery(revision, answer)).await?;
        Ok(Response::new(*delivery))
    }

    async fn list_agents(
        &self,
        request: Request<api::ListAgentsRequest>,
    ) -> Result<Response<api::ListAgentsResponse>, Status> {
        let reach = caller(request.extensions())?.reach;
        let request = request.into_inner();
        let size = match usize::try_from(request.page_size) {
            Ok(0) => DEFAULT_PAGE,
            Ok(size) => size.min(MAX_PAGE),
            Err(_) => return Err(status::invalid("page_size", "must not be negative")),
        };
        let filter = request.filter.unwrap_or_default();
        let mut after = match request.page_token.as_str() {
            "" => None,
            token => Some(
                AgentId::new(token)
                    .map_err(|_| status::invalid("page_token", "is not from a page before"))?,
            ),
        };
        let mut page = api::ListAgentsResponse::default();
        for _ in 0..MAX_LOOKS {
            let wanted = Box::new(wanted(reach.clone(), &filter)?);
            let room = size - page.agents.len();
            let part = self.ask(|answer| Query::List(wanted, (after.take(), room), answer)).await?;
            let Part { agents, next, total } = part.map_err(|group| no_group(&group))?;
            page.agents.extend(agents);
            page.total = total;
            after = next;
            if after.is_none() || page.agents.len() >= size {
                break;
            }
        }
        page.next_page_token = after.map_or_else(String::new, |agent| agent.to_string());
        Ok(Response::new(page))
    }

    async fn get_status(
        &self,
        request: Request<api::GetStatusRequest>,
    ) -> Result<Response<api::FleetStatus>, Status> {
        let reach = caller(request.extensions())?.reach;
        let request = request.into_inner();
        let place = place(reach, &request.group, !request.only_itself, "group")?;
        self.caught_up(request.min_revision).await?;
        let found = self.ask(|answer| Query::Status(place, answer)).await?;
        let found = found.map_err(|group| no_group(&group))?;
        Ok(Response::new(api::FleetStatus { fleet: self.fleet.to_string(), ..*found }))
    }

    type WatchStream = WatchStream;

    async fn watch(&self, request: Request<api::WatchRequest>) -> Result<Response<WatchStream>, Status> {
        let reach = caller(request.extensions())?.reach;
        let wanted = Box::new(wanted(reach, &request.into_inner().filter.unwrap_or_default())?);
        let watching = self.ask(|answer| Query::Watch(wanted, answer)).await?;
        let watching = watching.map_err(|why| match why {
            Unwatched::NoGroup(group) => no_group(&group),
            Unwatched::TooMany => {
                status::exhausted("watchers", format!("{MAX_WATCHERS} callers watch already"))
            }
        })?;
        Ok(Response::new(Box::pin(self.shutdown.until(stream(watching)))))
    }
}

/// The events, and at the end how many were missed, if the caller was too slow.
fn stream(watching: Watching) -> impl Stream<Item = Result<api::WatchEvent, Status>> {
    let Watching { events, missed } = watching;
    let last = futures::stream::once(async move {
        let missed = missed.load(Ordering::Acquire);
        let told = (missed > 0).then(|| {
            let event = Some(api::watch_event::Event::Missed(missed));
            let time = Some(present::timestamp(runtime::clock::now()));
            [Ok(api::WatchEvent { time, event }), Err(status::too_slow())]
        });
        futures::stream::iter(told.into_iter().flatten())
    });
    ReceiverStream::new(events).map(Ok).chain(last.flatten())
}

fn no_group(group: &NoGroup) -> Status {
    status::not_found("group", &group.0)
}

fn place(reach: Reach, group: &str, within: bool, field: &str) -> Result<Place, Status> {
    if group.len() > MAX_TEXT {
        return Err(status::invalid(field, format!("is longer than {MAX_TEXT} bytes")));
    }
    let at = match group {
        "" => At::Fleet,
        group if within => At::Within(group.to_owned()),
        group => At::Only(group.to_owned()),
    };
    Ok(Place { reach, at })
}

fn wanted(reach: Reach, filter: &api::AgentFilter) -> Result<Wanted, Status> {
    let place = place(reach, &filter.group, filter.include_children, "filter.group")?;
    if filter.agent_version.len() > MAX_TEXT {
        return Err(status::invalid("filter.agent_version", format!("is longer than {MAX_TEXT} bytes")));
    }
    let unknown = |field| move || status::invalid(field, "is none of the known values");
    let states =
        filter.states.iter().map(|state| present::read_state(*state).ok_or_else(unknown("filter.states")));
    let mode = match api::Mode::try_from(filter.mode) {
        Ok(api::Mode::Unspecified) => None,
        Ok(api::Mode::Pull) => Some(Mode::Pull),
        Ok(api::Mode::Push) => Some(Mode::Push),
        Err(_) => return Err(unknown("filter.mode")()),
    };
    let progress = match api::Progress::try_from(filter.progress) {
        Ok(api::Progress::Unspecified) => None,
        Ok(api::Progress::Current) => Some(Progress::Current),
        Ok(api::Progress::Pending) => Some(Progress::Pending),
        Ok(api::Progress::Failed) => Some(Progress::Failed),
        Err(_) => return Err(unknown("filter.progress")()),
    };
    let filter = Filter {
        states: states.collect::<Result<_, _>>()?,
        mode,
        progress,
        revision: Some(Revision(filter.revision)).filter(|revision| revision.0 != 0),
        version: Some(filter.agent_version.as_str().into()).filter(|_| !filter.agent_version.is_empty()),
        ..Filter::default()
    };
    Ok(Wanted { place, filter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_or_refused_by_field() {
        let read = wanted(
            Reach::Everywhere,
            &api::AgentFilter {
                group: "/servers".into(),
                include_children: true,
                states: vec![api::PresenceState::Late.into()],
                mode: api::Mode::Push.into(),
                progress: api::Progress::Failed.into(),
                revision: 9,
                agent_version: "1.0".into(),
            },
        );
        let read = read.unwrap();
        assert_eq!(read.place, Place { reach: Reach::Everywhere, at: At::Within("/servers".into()) });
        assert_eq!((read.filter.mode, read.filter.progress), (Some(Mode::Push), Some(Progress::Failed)));
        assert_eq!(read.filter.revision, Some(Revision(9)));
        let check = |filter: api::AgentFilter, field: &str| {
            let error = wanted(Reach::Everywhere, &filter).err().expect("refused");
            assert!(error.message().starts_with(field), "{error}");
        };
        check(api::AgentFilter { states: vec![0], ..Default::default() }, "filter.states");
        check(api::AgentFilter { mode: 9, ..Default::default() }, "filter.mode");
        check(api::AgentFilter { progress: -1, ..Default::default() }, "filter.progress");
        check(api::AgentFilter { group: "x".repeat(3000), ..Default::default() }, "filter.group");
    }
}
