//! What happens, as it happens: one line for each event.

use wire::api::v1::WatchEvent;
use wire::api::v1::watch_event::Event;

use super::style::{Style, Tone, safe};
use super::text;

pub(crate) fn event(event: &WatchEvent, style: Style) -> String {
    let time = style.paint(&text::time(event.time.as_ref()), Tone::Quiet);
    let what = match &event.event {
        Some(Event::Transition(it)) => {
            let (from, _) = text::state_words(it.from());
            let (to, tone) = text::state_words(it.to());
            format!("{}  {from} -> {}", who(&it.agent, &it.group), style.paint(to, tone))
        }
        Some(Event::Applied(it)) => {
            let applied = style.paint("applied", Tone::Good);
            format!("{}  {applied} revision {}", who(&it.agent, &it.group), it.revision)
        }
        Some(Event::Failed(it)) => {
            let item = it.item.clone().unwrap_or_default();
            format!(
                "{}  {} {} at revision {}: {}",
                who(&it.agent, &it.group),
                safe(&item.kind),
                style.paint("failed", Tone::Bad),
                item.revision,
                safe(&item.reason)
            )
        }
        Some(Event::Head(it)) => format!("{}  new head, revision {}", safe(&it.group), it.revision),
        Some(Event::Missed(count)) => {
            style.paint(&format!("missed {count} events: this reader is too slow"), Tone::Watch)
        }
        None => "an event that this muster does not know".to_owned(),
    };
    format!("{time}  {what}\n")
}

fn who(agent: &str, group: &str) -> String {
    format!("{} in {}", safe(agent), safe(group))
}

#[cfg(test)]
mod tests {
    use wire::api::v1::{Applied, Item, ItemFailed, NewHead, PresenceState, Transition};

    use super::*;

    #[test]
    fn every_event_is_one_line() {
        let (agent, group) = ("web-1".to_owned(), "/servers/web".to_owned());
        let item = Item {
            kind: "firewall".into(),
            state: "failed".into(),
            revision: 43,
            reason: "hook ended with 1\nno more".into(),
        };
        for (what, expected) in [
            (
                Some(Event::Transition(Transition {
                    agent: agent.clone(),
                    group: group.clone(),
                    from: PresenceState::Online.into(),
                    to: PresenceState::Late.into(),
                })),
                "web-1 in /servers/web  online -> late",
            ),
            (
                Some(Event::Applied(Applied { agent: agent.clone(), group: group.clone(), revision: 42 })),
                "web-1 in /servers/web  applied revision 42",
            ),
            (
                Some(Event::Failed(ItemFailed { agent, group: group.clone(), item: Some(item) })),
                "web-1 in /servers/web  firewall failed at revision 43: hook ended with 1\\nno more",
            ),
            (Some(Event::Head(NewHead { group, revision: 43 })), "/servers/web  new head, revision 43"),
            (Some(Event::Missed(7)), "missed 7 events: this reader is too slow"),
            (None, "an event that this muster does not know"),
        ] {
            let time = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 9 });
            let shown = event(&WatchEvent { time, event: what }, Style::now(false));
            assert_eq!(shown, format!("2023-11-14T22:13:20Z  {expected}\n"));
        }
    }
}
