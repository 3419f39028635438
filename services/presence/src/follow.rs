//! Takes over what the streams say: the registry of agents, the heads of groups.

use std::collections::BTreeSet;

use domain::presence::{Enrolment, GroupHead};
use domain::registry::Registered;
use domain::settings::SettingsOverlay;
use domain::{Cursor, GroupId, GroupPath, Mode, Revision, Span, Timestamp};
use runtime::nats::{Followed, StreamMessage};
use wire::subject::{header, parse_agent, parse_group, pattern};

use crate::fleet::{Fleet, Reply};
use crate::present;

impl Fleet {
    /// News of the registry. Returns an answer that an agent was waiting for.
    pub(crate) fn registry(&mut self, event: Followed, now: Timestamp) -> Option<Reply> {
        match event {
            Followed::Message(message) => return self.record(&message, now),
            Followed::Reset => self.agents_again = Some(BTreeSet::new()),
            Followed::Missing => {
                tracing::warn!("the registry is gone: agents stay as they are until it is back")
            }
            Followed::CaughtUp => {
                let there = self.agents_again.take()?;
                let gone: Vec<_> =
                    self.machine.ids().filter(|id| !there.contains(*id)).map(str::to_owned).collect();
                tracing::info!(agents = there.len(), gone = gone.len(), "the registry was read again");
                for id in gone.iter().filter_map(|id| domain::AgentId::new(id).ok()) {
                    self.machine.forgotten(&id);
                }
            }
        }
        None
    }

    fn record(&mut self, message: &StreamMessage, now: Timestamp) -> Option<Reply> {
        let agent = parse_agent(&message.subject)?;
        let registration = match wire::registry::read_agent(&message.payload).map(|record| record.registered)
        {
            Ok(Registered::Agent(registration)) => registration,
            // It is in no group: nobody waits for its heartbeat.
            Ok(Registered::Pending(_)) => return None,
            Ok(Registered::Deleted(gone)) if gone.rejected => return None,
            Ok(Registered::Deleted(_)) => {
                self.machine.deleted(agent);
                return None;
            }
            Err(error) => {
                let error = runtime::log::chain(&error);
                tracing::warn!(%agent, error, "a record in the registry is malformed: ignored");
                return None;
            }
        };
        if let Some(again) = &mut self.agents_again {
            again.insert(agent.to_string());
        }
        let labels = registration.labels.into_iter().map(|(key, value)| (key.into(), value.into()));
        let enrolment = Enrolment {
            agent,
            group: registration.group,
            assignment: registration.assignment,
            hostname: registration.hostname.into(),
            labels: labels.collect(),
        };
        // An agent that moves comes to a head that was there before it.
        self.measure.arrived(&enrolment.agent, now);
        self.machine.enrolled(now, &enrolment);
        let waiting = self.newcomers.known(&enrolment.agent)?;
        self.answer_newcomer(enrolment.agent, waiting, now)
    }

    /// News of the heads.
    pub(crate) fn head(&mut self, event: Followed, now: Timestamp) {
        match event {
            Followed::Message(message) if message.subject == pattern::DESIRED_COMPILED => {
                let revision = Revision(message.headers.get_number(header::REVISION).unwrap_or(0));
                self.out.compiled.send_replace(revision);
            }
            Followed::Message(message) => {
                if let Some(group) = parse_group(&message.subject) {
                    self.group(group, &message, now);
                }
            }
            Followed::Reset => self.groups_again = Some(BTreeSet::new()),
            Followed::Missing => {
                tracing::warn!("the stream of heads is gone: groups stay as they are until it is back")
            }
            Followed::CaughtUp => {
                let Some(there) = self.groups_again.take() else { return };
                let gone: Vec<_> = self.machine.groups().filter(|id| !there.contains(*id)).cloned().collect();
                tracing::info!(groups = there.len(), gone = gone.len(), "the heads were read again");
                for group in gone {
                    self.machine.group_removed(&group);
                }
            }
        }
    }

    fn group(&mut self, group: GroupId, message: &StreamMessage, now: Timestamp) {
        // A head without settings says that the group is no more.
        if message.headers.get(header::MODE).is_none() {
            self.machine.group_removed(&group);
            return;
        }
        let Some(head) = read_head(group, message) else {
            tracing::warn!(subject = message.subject, "a head has headers that cannot be read: ignored");
            return;
        };
        if let Some(again) = &mut self.groups_again {
            again.insert(head.group.clone());
        }
        let newer = self.machine.head(&head.group).is_none_or(|known| known < head.cursor);
        if newer {
            let compiled = message.headers.get_number(header::ISSUED_AT).map_or(message.time, Timestamp);
            self.measure.published(head.cursor.revision, (compiled, message.time), message.headers.place());
        }
        self.machine.group_changed(now, head.clone());
        if newer && !self.watchers.is_empty() {
            let event = present::new_head(&head, now);
            let fleet = &self.machine;
            self.watchers.tell(&event, |filter| fleet.covers_group(&filter.scope, &head.group));
        }
    }
}

fn read_head(group: GroupId, message: &StreamMessage) -> Option<GroupHead> {
    let number = |name| message.headers.get_number(name);
    let mode = match message.headers.get(header::MODE)? {
        "push" => Mode::Push,
        "pull" => Mode::Pull,
        _ => return None,
    };
    let settings = SettingsOverlay {
        mode: Some(mode),
        heartbeat_interval: Some(Span(number(header::HEARTBEAT_INTERVAL)?)),
        offline_after: Some(Span(number(header::OFFLINE_AFTER)?)),
        // Presence does not act on the rest.
        ..SettingsOverlay::default()
    };
    Some(GroupHead {
        group,
        path: GroupPath::new(message.headers.get(header::GROUP_PATH)?).ok()?,
        settings: settings.effective().ok()?,
        cursor: Cursor::new(number(header::EPOCH)?, number(header::REVISION)?),
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use runtime::nats::Headers;

    use super::*;

    fn message(mode: &str, interval: u64, path: &str) -> StreamMessage {
        let headers = Headers::new()
            .number(header::EPOCH, 1)
            .number(header::REVISION, 7)
            .number(header::HEARTBEAT_INTERVAL, interval)
            .number(header::OFFLINE_AFTER, 150_000);
        let headers = headers.text(header::MODE, mode).unwrap().text(header::GROUP_PATH, path).unwrap();
        let (subject, payload) = ("desired.group.web".to_owned(), Bytes::new());
        StreamMessage { subject, sequence: 1, time: Timestamp(0), headers, payload }
    }

    #[test]
    fn heads_are_read_from_headers_or_not_at_all() {
        let web = || GroupId::new("web").unwrap();
        let head = read_head(web(), &message("push", 60_000, "/servers/web")).unwrap();
        assert_eq!((head.cursor, head.path.as_str()), (Cursor::new(1, 7), "/servers/web"));
        assert_eq!((head.settings.mode, head.settings.heartbeat_interval), (Mode::Push, Span(60_000)));
        for broken in [message("shove", 60_000, "/"), message("push", 1, "/"), message("push", 60_000, "web")]
        {
            assert_eq!(read_head(web(), &broken), None, "{broken:?}");
        }
    }
}
