//! Entries of the audit.

use domain::audit::Head;
use tonic::Code;
use wire::api::v1::{AuditEntry, AuditPhase, ListAuditEntriesResponse};

use super::style::{Style, Tone};
use super::table::{Cell, Table};
use super::text;
use crate::failure::counted;

pub(crate) fn list(response: &ListAuditEntriesResponse, style: Style) -> String {
    let mut table = Table::new(&["ENTRY", "WHEN", "WHO", "FROM", "METHOD", "WHAT"]);
    for entry in &response.entries {
        let method = entry.method.rsplit('.').next().unwrap_or_default();
        let (what, tone) = what(entry);
        table.row([
            Cell::from(entry.number.to_string()),
            Cell::from(text::time(entry.time.as_ref())),
            Cell::from(text::or_none(&entry.actor)),
            Cell::from(text::or_none(&entry.address)),
            Cell::from(text::or_none(method)),
            Cell::toned(what, tone),
        ]);
    }
    table.render(style)
}

fn what(entry: &AuditEntry) -> (String, Tone) {
    let code = Code::from(i32::try_from(entry.code).unwrap_or(i32::MAX));
    match entry.phase() {
        AuditPhase::Asked => (format!("asks: {}", text::or_none(&entry.targets.join(" "))), Tone::Plain),
        AuditPhase::Ended if code == Code::Ok => {
            let revision = entry.revision;
            let at = if revision == 0 { String::new() } else { format!(", revision {revision}") };
            (format!("{} is done{at}", entry.asked), Tone::Good)
        }
        AuditPhase::Ended => (format!("{} failed ({code:?}): {}", entry.asked, entry.message), Tone::Bad),
        AuditPhase::Refused => {
            let more = match entry.left_out {
                0 => String::new(),
                more => format!(" (and {more} before it)"),
            };
            (format!("refused ({code:?}): {}{more}", entry.message), Tone::Bad)
        }
        AuditPhase::Unspecified => ("is no entry".to_owned(), Tone::Bad),
    }
}

/// A chain that holds.
pub(crate) fn verified(entries: u64, head: Option<Head>) -> String {
    let Some(head) = head else { return "the audit has no entries\n".to_owned() };
    let entries = counted(usize::try_from(entries).unwrap_or(usize::MAX), "entry follows", "entries follow");
    format!("{entries} from each other without a break; the last one is\n{}:{}\n", head.number, head.digest)
}

#[cfg(test)]
mod tests {
    use domain::Digest;

    use super::*;

    fn entry(number: u64, phase: AuditPhase) -> AuditEntry {
        AuditEntry {
            number,
            time: Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 0 }),
            phase: phase.into(),
            actor: "token:ci".into(),
            address: "127.0.0.1".into(),
            method: "muster.api.v1.PolicyService/Apply".into(),
            ..AuditEntry::default()
        }
    }

    #[test]
    fn entries_tell_what_was_asked_and_what_came_of_it() {
        let asked = AuditEntry { targets: vec!["name=web".into()], ..entry(1, AuditPhase::Asked) };
        let done = AuditEntry { asked: 1, revision: 9, ..entry(2, AuditPhase::Ended) };
        let failed = AuditEntry { asked: 1, code: 5, message: "gone".into(), ..entry(3, AuditPhase::Ended) };
        let refused =
            AuditEntry { code: 7, message: "no".into(), left_out: 4, ..entry(4, AuditPhase::Refused) };
        let response = ListAuditEntriesResponse {
            entries: vec![asked, done, failed, refused],
            next_page_token: String::new(),
        };
        assert_eq!(
            list(&response, Style::now(false)),
            "ENTRY  WHEN                  WHO       FROM       METHOD               WHAT\n\
             1      2023-11-14T22:13:20Z  token:ci  127.0.0.1  PolicyService/Apply  asks: name=web\n\
             2      2023-11-14T22:13:20Z  token:ci  127.0.0.1  PolicyService/Apply  1 is done, revision 9\n\
             3      2023-11-14T22:13:20Z  token:ci  127.0.0.1  PolicyService/Apply  1 failed (NotFound): gone\n\
             4      2023-11-14T22:13:20Z  token:ci  127.0.0.1  PolicyService/Apply  refused (PermissionDenied): no (and 4 before it)\n"
        );
        let head = Head { number: 4, digest: Digest([0xab; 32]) };
        assert!(verified(4, Some(head)).starts_with("4 entries follow from each other"));
        assert!(verified(4, Some(head)).ends_with(&format!("4:{}\n", "ab".repeat(32))));
    }
}
