//! What heartbeats say of content. The machine that works it off is another one
//! ([`crate::content::agent`]); this one reports for it and asks on its behalf.

use crate::agent::ItemState;
use crate::agent::machine::{Machine, Turn};
use crate::content::{ContentStatus, DownloadWish, MAX_REPORTED_CHANNELS};
use crate::time::{Span, Timestamp};

/// Smallest time between two reports of content whose states changed, and between two that tell how it ended: a
/// content that fails and is taken back again and again does not become a flood.
const STATE_GAP: Span = Span::from_secs(1);
/// Smallest time between two reports of progress alone.
const PROGRESS_GAP: Span = Span::from_secs(5);
/// Longest random wait before a wish is said, so that agents that want the same at one moment ask one after
/// the other. Short: `contentSpread` has spread them already where that is wanted.
const WISH_SPREAD: Span = Span(250);

/// What is to be said of content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Content {
    /// What the agent wants of the allowance for full downloads.
    pub(super) wish: DownloadWish,
    /// When a change is to be reported, if a heartbeat does not do so before.
    pub(super) report_at: Option<Timestamp>,
    last_at: Timestamp,
    /// When it is or was told last how a content ended.
    outcome_at: Timestamp,
}

impl Content {
    /// A report or a heartbeat says all there is to say now.
    pub(super) fn reported(&mut self, now: Timestamp) {
        self.report_at = None;
        self.last_at = now;
    }

    /// A heartbeat that said this was answered: what is given back is given back once.
    pub(super) fn answered(&mut self, said: DownloadWish) {
        if said == DownloadWish::Done && self.wish == DownloadWish::Done {
            self.wish = DownloadWish::Nothing;
        }
    }

    /// The clock went back by `span`.
    pub(super) fn shift(&mut self, span: Span) {
        self.report_at = self.report_at.map(|at| at - span);
        self.last_at = self.last_at - span;
        self.outcome_at = self.outcome_at - span;
    }

    /// When a change is told. How a content ended is what people wait for, so it is told at once, although
    /// something else was said a moment ago.
    fn due(&mut self, now: Timestamp, change: Change) -> Timestamp {
        let due = match change {
            Change::Progress => self.last_at + PROGRESS_GAP,
            Change::State => self.last_at + STATE_GAP,
            Change::Outcome => self.outcome_at + STATE_GAP,
        };
        let due = due.max(now);
        let due = self.report_at.map_or(due, |known| known.min(due));
        if change == Change::Outcome {
            self.outcome_at = due;
        }
        due
    }
}

/// What differs from the last report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    Progress,
    State,
    /// A content is in force or has failed.
    Outcome,
}

impl Change {
    fn between(before: &[ContentStatus], after: &[ContentStatus]) -> Self {
        let stand = |status: &ContentStatus| {
            (status.channel.clone(), status.active, status.wanted, status.revision, status.state)
        };
        if after.iter().map(stand).eq(before.iter().map(stand)) {
            return Self::Progress;
        }
        let ended = |status: &ContentStatus| match status.state {
            ItemState::Healthy => true,
            // Until what was in force before is back, it is a state in between.
            ItemState::Failed => status.active != status.wanted,
            ItemState::Offered | ItemState::Received | ItemState::Verified | ItemState::Applied => false,
        };
        let is_new = |status: &ContentStatus| before.iter().all(|known| stand(known) != stand(status));
        if after.iter().any(|status| ended(status) && is_new(status)) { Self::Outcome } else { Self::State }
    }
}

impl Machine {
    pub(super) fn on_content(&mut self, turn: &Turn, mut statuses: Vec<ContentStatus>) {
        statuses.truncate(MAX_REPORTED_CHANNELS);
        if statuses == self.status.content {
            return;
        }
        let change = Change::between(&self.status.content, &statuses);
        self.status.content = statuses;
        self.content.report_at = Some(self.content.due(turn.now, change));
    }

    pub(super) fn on_wish(&mut self, turn: &mut Turn, wish: DownloadWish) {
        self.content.wish = wish;
        let wait = turn.spread(WISH_SPREAD);
        self.beats.want(turn.now + wait);
    }

    /// Reports a change of content, once somebody can be reached. Not acknowledged: the next heartbeat carries
    /// it again.
    pub(super) fn follow_content(&mut self, turn: &mut Turn) {
        if self.content.report_at.is_some_and(|at| turn.now >= at) {
            self.content.reported(turn.now);
            self.send_status(turn);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::test_rig::{Rig, names, push, settings, snapshot};
    use crate::agent::{Effect, Input, Source};
    use crate::content::{ChannelName, ContentItem, ContentRevision, SourceBytes};
    use crate::digest::Digest;
    use crate::revision::{Cursor, Revision};
    use crate::settings::Mode;

    fn channel() -> ChannelName {
        ChannelName::new("definitions/ips").unwrap()
    }

    fn status(state: ItemState, percent: u8) -> ContentStatus {
        ContentStatus {
            channel: channel(),
            active: ContentRevision(1),
            wanted: ContentRevision(2),
            revision: Revision(7),
            state,
            percent,
            bytes: SourceBytes::default(),
            reason: "".into(),
        }
    }

    #[test]
    fn a_state_is_reported_at_once_and_progress_now_and_then() {
        let mut rig = Rig::online(push(5, &[]));
        rig.pass(Span::from_secs(9));
        assert_eq!(names(&rig.feed(Input::ContentReported(vec![status(ItemState::Offered, 0)]))), ["status"]);
        assert_eq!(names(&rig.feed(Input::ContentReported(vec![status(ItemState::Offered, 0)]))), [""; 0]);
        let soon = rig.feed(Input::ContentReported(vec![status(ItemState::Received, 0)]));
        assert_eq!(names(&soon), [""; 0], "states that change all the time are no flood");
        assert_eq!(names(&rig.pass(STATE_GAP)), ["status"]);
        for percent in [10, 20, 30] {
            rig.feed(Input::ContentReported(vec![status(ItemState::Received, percent)]));
        }
        assert_eq!(names(&rig.pass(Span(PROGRESS_GAP.0 - 1))), [""; 0]);
        let sent = rig.pass(Span(1));
        let Effect::SendStatus(beat) = &sent[0] else { panic!("{sent:?}") };
        assert_eq!(beat.status.as_ref().unwrap().content[0].percent, 30);
    }

    #[test]
    fn how_it_ended_is_told_at_once_but_not_again_and_again() {
        let mut rig = Rig::online(push(5, &[]));
        rig.pass(Span::from_secs(9));
        let mut told = |state| names(&rig.feed(Input::ContentReported(vec![status(state, 0)])));
        assert_eq!(told(ItemState::Offered), ["status"]);
        assert_eq!(told(ItemState::Received), [""; 0]);
        assert_eq!(told(ItemState::Healthy), ["status"]);
        assert_eq!(told(ItemState::Failed), [""; 0], "one that fails over and over is no flood");
        assert_eq!(told(ItemState::Healthy), [""; 0]);
        assert_eq!(names(&rig.pass(STATE_GAP)), ["status"]);
        assert_eq!(names(&rig.pass(PROGRESS_GAP)), [""; 0]);
    }

    #[test]
    fn a_wish_is_said_soon_and_what_is_given_back_is_given_back_once() {
        let mut rig = Rig::online(push(5, &[]));
        rig.until_beat();
        rig.reply(rig.last_beat(), Cursor::NONE);
        let wish = |effects: &[Effect]| {
            let of = |effect: &Effect| {
                if let Effect::SendHeartbeat(beat) = effect { Some(beat.download) } else { None }
            };
            effects.iter().find_map(of)
        };
        rig.feed(Input::DownloadWished(DownloadWish::Wanted));
        assert_eq!(wish(&rig.pass(WISH_SPREAD)), Some(DownloadWish::Wanted));
        // A wish that comes while a heartbeat is on its way is said by the next one.
        rig.feed(Input::DownloadWished(DownloadWish::Done));
        let before = rig.last_beat();
        let mut effects = rig.pass(WISH_SPREAD);
        effects.extend(rig.reply(before, Cursor::NONE));
        assert_eq!(wish(&effects), Some(DownloadWish::Done));
        rig.reply(rig.last_beat(), Cursor::NONE);
        rig.until_beat();
        let last = rig.log.iter().rev().find_map(|effect| wish(std::slice::from_ref(effect)));
        assert_eq!(last, Some(DownloadWish::Nothing));
    }

    #[test]
    fn a_snapshot_with_other_content_is_applied_without_a_handler() {
        let mut rig = Rig::online(push(5, &[("firewall", 1, "{}")]));
        let mut next = snapshot(6, settings(Mode::Push, 60), &[("firewall", 1, "{}")]);
        next.content = vec![ContentItem {
            channel: channel(),
            number: ContentRevision(2),
            revision: Revision(6),
            manifest: Digest([1; 32]),
            manifest_bytes: 10,
            content_bytes: 10,
        }];
        let steps = names(&rig.receive(next.clone(), Source::Notify));
        assert_eq!(steps, ["stage 1/6", "persist", "activate 1/6", "persist", "status"]);
        assert_eq!(rig.machine.active_cursor(), Cursor::new(1, 6));
        assert_eq!(*rig.machine.durable().good.as_ref().unwrap().content, next.content);
    }
}
