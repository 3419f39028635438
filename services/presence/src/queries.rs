//! Questions of the API to the fleet's task.

use domain::access::Reach;
use domain::content::ChannelName;
use domain::presence::{Filter, Scope};
use domain::{AgentId, GroupId, Revision};
use tokio::sync::oneshot;
use wire::api::v1 as api;

use crate::fleet::Fleet;
use crate::present;
use crate::watchers::Watching;

/// Questions that wait. Each is answered within milliseconds; more callers wait for room.
pub(crate) const MAX_WAITING: usize = 64;

/// Groups that a caller asks for, as far as it reaches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) reach: Reach,
    pub(crate) at: At,
}

/// Groups as the API names them: by path or by id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum At {
    Fleet,
    Only(String),
    Within(String),
}

/// There is no group of that path or id.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoGroup(pub(crate) String);

/// Why nobody can watch.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Unwatched {
    NoGroup(NoGroup),
    TooMany,
}

/// A part of a page.
pub(crate) struct Part {
    pub(crate) agents: Vec<api::Agent>,
    pub(crate) next: Option<AgentId>,
    pub(crate) total: u64,
}

/// The groups that a list, a status or a watch is about, and what it asks of agents.
pub(crate) struct Wanted {
    pub(crate) place: Place,
    pub(crate) filter: Filter,
}

/// A question and where its answer goes. A caller that has left is no concern of the fleet's.
pub(crate) enum Query {
    Agent((AgentId, Reach), oneshot::Sender<Option<api::Agent>>),
    List(Box<Wanted>, (Option<AgentId>, usize), oneshot::Sender<Result<Part, NoGroup>>),
    Status(Place, oneshot::Sender<Result<Box<api::FleetStatus>, NoGroup>>),
    Delivery(Revision, oneshot::Sender<Box<api::Delivery>>),
    Content(ChannelName, Place, oneshot::Sender<Result<Box<api::ContentStatus>, NoGroup>>),
    Watch(Box<Wanted>, oneshot::Sender<Result<Watching, Unwatched>>),
}

impl Fleet {
    pub(crate) fn query(&mut self, query: Query) {
        match query {
            Query::Agent((id, reach), answer) => {
                let found = self.machine.agent(id.as_str()).filter(|view| self.holds(&reach, view.group));
                let found = found.map(|view| present::agent(&view));
                drop(answer.send(found));
            }
            Query::List(wanted, (after, limit), answer) => {
                drop(answer.send(self.list(*wanted, after, limit)))
            }
            Query::Status(place, answer) => drop(answer.send(self.status(&place))),
            Query::Delivery(revision, answer) => drop(answer.send(Box::new(self.delivery(revision)))),
            Query::Content(channel, place, answer) => drop(answer.send(self.content(&channel, &place))),
            Query::Watch(wanted, answer) => {
                let watching = self.filter(*wanted).map_err(Unwatched::NoGroup);
                let watching =
                    watching.and_then(|filter| self.watchers.add(filter).ok_or(Unwatched::TooMany));
                drop(answer.send(watching));
            }
        }
    }

    fn list(&self, wanted: Wanted, after: Option<AgentId>, limit: usize) -> Result<Part, NoGroup> {
        let filter = self.filter(wanted)?;
        let page = self.machine.list(&filter, after.as_ref().map(AgentId::as_str), limit);
        let agents = page.agents.iter().map(present::agent).collect();
        Ok(Part { agents, next: page.next, total: self.machine.count(&filter) })
    }

    fn status(&self, place: &Place) -> Result<Box<api::FleetStatus>, NoGroup> {
        let scope = self.scope(place)?;
        let group = match &scope {
            Scope::Fleet => String::new(),
            Scope::Only(id) | Scope::Within(id) => {
                self.machine.path(id).map_or_else(|| id.to_string(), ToString::to_string)
            }
        };
        let revision = self.out.compiled.borrow().0;
        let time = Some(present::timestamp(self.clock.now()));
        let status = present::status(&self.machine.summary(&scope));
        Ok(Box::new(api::FleetStatus { group, revision, time, ..status }))
    }

    fn delivery(&self, revision: Revision) -> api::Delivery {
        let delivery = self.measure.deliveries.get(revision);
        let summary = self.machine.summary(&Scope::Fleet);
        let at_head = summary.groups.iter().filter(|group| group.head.revision == revision);
        api::Delivery {
            revision: revision.0,
            complete: *self.out.compiled.borrow() >= revision,
            pending: at_head.map(|group| group.counts.online_pending).sum(),
            counted_since: Some(present::timestamp(self.measure.since)),
            ..delivery.map(present::delivery).unwrap_or_default()
        }
    }

    fn content(&self, channel: &ChannelName, place: &Place) -> Result<Box<api::ContentStatus>, NoGroup> {
        let summary = self.machine.content(channel, &self.scope(place)?);
        let time = Some(present::timestamp(self.clock.now()));
        Ok(Box::new(api::ContentStatus { time, ..present::content_status(channel, &summary) }))
    }

    fn filter(&self, wanted: Wanted) -> Result<Filter, NoGroup> {
        Ok(Filter { scope: self.scope(&wanted.place)?, ..wanted.filter })
    }

    fn scope(&self, place: &Place) -> Result<Scope, NoGroup> {
        let find = |text: &String| {
            let found = self.machine.find_group(text).map(|(id, _)| id);
            let seen = found.filter(|id| self.holds(&place.reach, id));
            seen.cloned().ok_or_else(|| NoGroup(text.clone()))
        };
        match (&place.at, &place.reach) {
            (At::Fleet, Reach::Everywhere) => Ok(Scope::Fleet),
            (At::Fleet, Reach::Under(top)) => Ok(Scope::Within(top.clone())),
            (At::Only(text), _) => find(text).map(Scope::Only),
            (At::Within(text), _) => find(text).map(Scope::Within),
        }
    }

    /// Whether a group is within reach.
    fn holds(&self, reach: &Reach, group: &GroupId) -> bool {
        match reach {
            Reach::Everywhere => true,
            Reach::Under(top) => match (self.machine.path(group), self.machine.path(top)) {
                (Some(path), Some(top)) => path.is_within(top),
                (None, _) | (_, None) => false,
            },
        }
    }
}
