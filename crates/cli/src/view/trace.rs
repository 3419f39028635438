//! The way of a change.

use prost_types::Timestamp;
use wire::api::v1::{ChangeTrace, Delivery, Reports};

use super::style::{Style, Tone, safe};
use super::table::{Cell, Table};
use super::text;

pub(crate) fn trace(trace: &ChangeTrace, style: Style) -> String {
    let change = trace.change.clone().unwrap_or_default();
    let delivery = trace.delivery.unwrap_or_default();
    let mut shown = format!(
        "{} by {}\n",
        style.paint(&format!("revision {}", change.revision), Tone::Heading),
        safe(text::or_none(&change.actor))
    );
    if !change.message.is_empty() {
        shown += &format!("  {}\n", safe(&change.message));
    }
    shown += &format!("trace {}\n", safe(text::or_none(&change.trace_id)));
    if !trace.url.is_empty() {
        shown += &format!("  {}\n", safe(&trace.url));
    }
    shown.push('\n');
    shown += &path(&delivery, change.time.as_ref()).render(style);
    shown += &remarks(&delivery);
    shown
}

/// What happened, when, and how long after the change was accepted.
fn path(delivery: &Delivery, accepted: Option<&Timestamp>) -> Table {
    let mut table = Table::new(&["STEP", "AT", "AFTER"]);
    let mut row = |step: String, at: Option<&Timestamp>, tone: Tone| {
        if at.is_some() {
            let step = Cell::toned(step, tone);
            table.row([step, Cell::from(text::exact_time(at)), Cell::from(text::between(accepted, at))]);
        }
    };
    row("accepted".to_owned(), accepted, Tone::Plain);
    row("compiled".to_owned(), delivery.compiled.as_ref(), Tone::Plain);
    row("published, first head".to_owned(), delivery.first_published.as_ref(), Tone::Plain);
    row(format!("published, {} in all", delivery.groups), delivery.last_published.as_ref(), Tone::Plain);
    for (what, reports, tone) in
        [("applied", &delivery.applied, Tone::Good), ("failed", &delivery.failed, Tone::Bad)]
    {
        let Reports { count, first, median, last } = reports.unwrap_or_default();
        row(format!("{what}, first agent"), first.as_ref(), tone);
        row(format!("{what}, half of them"), median.as_ref(), tone);
        row(format!("{what}, {count} in all"), last.as_ref(), tone);
    }
    table
}

fn remarks(delivery: &Delivery) -> String {
    let mut text = String::new();
    if delivery.groups == 0 && delivery.complete {
        text += "\nNo group got a new snapshot of it, or presence does not remember it.\n";
    } else if !delivery.complete {
        text += "\nNot all heads up to this revision are published yet.\n";
    }
    if delivery.pending > 0 {
        text += &format!("\n{} online agents have not reached it yet.\n", delivery.pending);
    }
    let (counted, published) = (delivery.counted_since, delivery.first_published);
    if let (Some(counted), Some(published)) = (counted, published)
        && (published.seconds, published.nanos) < (counted.seconds, counted.nanos)
    {
        let since = text::time(delivery.counted_since.as_ref());
        text += &format!("\nPresence started later, at {since}: earlier reports are not counted.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use wire::api::v1::ChangeInfo;

    use super::*;

    fn at(ms: i64) -> Option<Timestamp> {
        let nanos = i32::try_from(ms % 1000).unwrap() * 1_000_000;
        Some(Timestamp { seconds: 1_700_000_000 + ms / 1000, nanos })
    }

    #[test]
    fn the_way_of_a_change_is_shown_in_order() {
        let trace_id = "0af7651916cd43dd8448eb211c80319c".to_owned();
        let change = ChangeInfo {
            revision: 42,
            actor: "ada".into(),
            message: "open 443".into(),
            time: at(0),
            trace_id: trace_id.clone(),
        };
        let delivery = Delivery {
            revision: 42,
            groups: 2,
            compiled: at(7),
            first_published: at(9),
            last_published: at(12),
            complete: true,
            applied: Some(Reports { count: 3, first: at(20), median: at(31), last: at(1_900) }),
            failed: None,
            pending: 1,
            counted_since: at(-5_000),
        };
        let url = format!("https://traces.example/{trace_id}");
        let all = ChangeTrace { change: Some(change), delivery: Some(delivery), url };
        assert_eq!(
            trace(&all, Style::now(false)),
            "revision 42 by ada\n  open 443\ntrace 0af7651916cd43dd8448eb211c80319c\n  \
             https://traces.example/0af7651916cd43dd8448eb211c80319c\n\n\
             STEP                   AT                        AFTER\n\
             accepted               2023-11-14T22:13:20.000Z  -\n\
             compiled               2023-11-14T22:13:20.007Z  7ms\n\
             published, first head  2023-11-14T22:13:20.009Z  9ms\n\
             published, 2 in all    2023-11-14T22:13:20.012Z  12ms\n\
             applied, first agent   2023-11-14T22:13:20.020Z  20ms\n\
             applied, half of them  2023-11-14T22:13:20.031Z  31ms\n\
             applied, 3 in all      2023-11-14T22:13:21.900Z  1s900ms\n\
             \n1 online agents have not reached it yet.\n"
        );
    }

    #[test]
    fn what_is_not_known_is_said() {
        let unknown = ChangeTrace {
            change: Some(ChangeInfo { revision: 9, ..ChangeInfo::default() }),
            ..ChangeTrace::default()
        };
        let shown = trace(&unknown, Style::now(false));
        assert!(shown.starts_with("revision 9 by -\ntrace -\n"), "{shown}");
        assert!(shown.contains("Not all heads up to this revision are published yet"), "{shown}");
    }
}
