//! What the table means for a user of the broker, and for the border between the two accounts of a fleet.

use super::table::{Place, ROWS, Row, STREAMS, Stream};
use super::{Account, Party, Role};

/// What a user may publish and subscribe to. In those of agents and of those that join, the broker puts the
/// user's name (the agent's id), its key and its group in place of `{{name()}}`, `{{subject()}}` and
/// `{{tag(group)}}`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects, in order.
    pub publish: Vec<String>,
    /// Subjects, in order; a queue group stands behind its subject.
    pub subscribe: Vec<String>,
}

/// How a subject crosses the border between the accounts of a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareKind {
    /// Agents ask, the broker answers.
    Service,
    /// Agents listen.
    Stream,
}

/// A subject of the fleet's account that agents reach from theirs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shared {
    /// The subject, with wildcards.
    pub subject: String,
    /// How.
    pub kind: ShareKind,
}

/// What `role` may do in `account`. Empty if it has no user there.
#[must_use]
pub fn permissions(role: Role, account: Account) -> Permissions {
    let mut permissions = Permissions::default();
    if !role.is_in(account) {
        return permissions;
    }
    for row in ROWS.iter().filter(|row| is_visible(row, account)) {
        if row.publishes.iter().any(|party| is(*party, role)) {
            permissions.publish.push(subject(row, role));
        }
        // What a stream keeps is read from the stream.
        if row.subscribes.iter().any(|party| is(*party, role)) && stream_of(row).is_none() {
            let queue = row.queue.filter(|_| matches!(role, Role::Presence | Role::Identity));
            let subject = subject(row, role);
            permissions.subscribe.push(match queue {
                Some(queue) => format!("{subject} {queue}"),
                None => subject,
            });
        }
    }
    if account == Account::Fleet {
        permissions.publish.extend(STREAMS.iter().flat_map(|stream| calls(stream, role)));
    }
    for list in [&mut permissions.publish, &mut permissions.subscribe] {
        list.sort_unstable();
        list.dedup();
    }
    permissions
}

/// Everything that crosses the border.
#[must_use]
pub fn shares() -> Vec<Shared> {
    let shared = ROWS.iter().filter(|row| row.place == Place::Shared);
    let share = |row: &Row| Shared {
        subject: with_wildcards(row.subject, |_| None),
        kind: match row.publishes.contains(&Party::Broker) {
            true => ShareKind::Stream,
            false => ShareKind::Service,
        },
    };
    shared.map(share).collect()
}

fn is_visible(row: &Row, account: Account) -> bool {
    match row.place {
        Place::Fleet => account == Account::Fleet,
        Place::Agents | Place::Shared => account == Account::Agents,
        Place::System => account == Account::System,
        Place::Each => true,
    }
}

fn is(party: Party, role: Role) -> bool {
    match party {
        Party::Service(service) => service == role,
        Party::TheService => Role::SERVICES.contains(&role),
        Party::TheAgent | Party::Group | Party::Agents => role == Role::Agent,
        Party::Joining => role == Role::Join,
        Party::Broker => false,
    }
}

fn stream_of(row: &Row) -> Option<&'static Stream> {
    let covers = |stream: &&Stream| row.subject.starts_with(stream.subjects.trim_end_matches('>'));
    STREAMS.iter().find(covers)
}

/// The row's subject as `role` may use it: its own ids, and any in the other places.
fn subject(row: &Row, role: Role) -> String {
    let own = |place: &str| {
        let own = match (place, role) {
            ("agent", Role::Agent) => "{{name()}}",
            ("group", Role::Agent) => "{{tag(group)}}",
            ("key", Role::Join) => "{{subject()}}",
            ("service", role) => role.name(),
            _ => return None,
        };
        Some(own.to_owned())
    };
    with_wildcards(row.subject, own)
}

/// Puts `own` or a wildcard in the places of a subject. A channel is several tokens.
fn with_wildcards(subject: &str, own: impl Fn(&str) -> Option<String>) -> String {
    if let Some((before, _)) = subject.split_once("<channel>") {
        return format!("{before}>");
    }
    let token = |token: &str| match token.strip_prefix('<').and_then(|token| token.strip_suffix('>')) {
        Some(place) => own(place).unwrap_or_else(|| "*".to_owned()),
        None => token.to_owned(),
    };
    subject.split('.').map(token).collect::<Vec<_>>().join(".")
}

/// What the JetStream API has for a role: no more than [`Stream`] says.
fn calls(stream: &Stream, role: Role) -> Vec<String> {
    let name = stream.name;
    let mut calls = Vec::new();
    if stream.makes.contains(&role) {
        calls.extend(["CREATE", "UPDATE"].map(|call| format!("$JS.API.STREAM.{call}.{name}")));
    }
    if stream.makes.contains(&role) || stream.reads.contains(&role) {
        calls.push(format!("$JS.API.STREAM.INFO.{name}"));
    }
    if stream.reads.contains(&role) {
        calls.extend([
            format!("$JS.API.STREAM.MSG.GET.{name}"),
            format!("$JS.API.DIRECT.GET.{name}"),
            format!("$JS.API.DIRECT.GET.{name}.>"),
            // One token: the longer form, whose filter stands in the subject, is not used.
            format!("$JS.API.CONSUMER.CREATE.{name}.*"),
            format!("$JS.API.CONSUMER.DELETE.{name}.*"),
            format!("$JS.FC.{name}.>"),
        ]);
    }
    if role == Role::Backup && stream.saved {
        calls.extend([
            format!("$JS.API.STREAM.INFO.{name}"),
            format!("$JS.API.STREAM.SNAPSHOT.{name}"),
            format!("$JS.SNAPSHOT.ACK.{name}.>"),
        ]);
    }
    if stream.purges.contains(&role) {
        calls.push(format!("$JS.API.STREAM.PURGE.{name}"));
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_may_use_its_own_subjects_and_its_groups() {
        let agent = permissions(Role::Agent, Account::Agents);
        assert_eq!(
            agent.publish,
            [
                "$JS.API.DIRECT.GET.CONTENT.content.chunk.*",
                "$JS.API.DIRECT.GET.CONTENT.content.index.*",
                "$JS.API.DIRECT.GET.CONTENT.content.manifest.*",
                "$JS.API.DIRECT.GET.CONTENT.content.patch.*.*.*",
                "$JS.API.DIRECT.GET.DESIRED.desired.agent.{{name()}}",
                "$JS.API.DIRECT.GET.DESIRED.desired.group.{{tag(group)}}",
                "$JS.API.DIRECT.GET.DESIRED.desired.root.*",
                "svc.enrol",
                "svc.heartbeat.{{name()}}",
            ]
        );
        assert_eq!(
            agent.subscribe,
            ["_INBOX_agent.{{name()}}.>", "notify.agent.{{name()}}", "notify.group.{{tag(group)}}"]
        );
        assert_eq!(permissions(Role::Agent, Account::Fleet), Permissions::default());
    }

    #[test]
    fn who_joins_may_ask_and_hear_the_answer() {
        let join = permissions(Role::Join, Account::Agents);
        assert_eq!(join.publish, ["svc.enrol"]);
        assert_eq!(join.subscribe, ["_INBOX_join.{{subject()}}.>"]);
    }

    #[test]
    fn no_service_writes_what_another_one_decides() {
        let may = |role: Role, account, subject: &str| {
            permissions(role, account).publish.iter().any(|allowed| allowed == subject)
        };
        for role in Role::ALL {
            for account in Account::ALL {
                let expected = role == Role::Policy && account == Account::Fleet;
                assert_eq!(may(role, account, "store.policy.*"), expected, "{role}");
                let expected = role == Role::Identity && account == Account::Fleet;
                for subject in ["identity.agent.*", "identity.root.*", "desired.root.*"] {
                    assert_eq!(may(role, account, subject), expected, "{role}");
                }
                let all = permissions(role, account);
                assert!(!all.publish.iter().any(|to| to == ">" || to.contains("STREAM.DELETE")), "{role}");
                assert!(!all.subscribe.iter().any(|from| from == ">"), "{role}");
            }
        }
        assert_eq!(
            permissions(Role::Presence, Account::Agents).publish,
            ["_INBOX_agent.*.>", "_INBOX_svc.presence.>"]
        );
        assert_eq!(
            permissions(Role::Presence, Account::Agents).subscribe,
            ["_INBOX_svc.presence.>", "svc.heartbeat.* presence"]
        );
    }

    #[test]
    fn who_takes_backups_reads_whole_streams_and_writes_nothing() {
        let backup = permissions(Role::Backup, Account::Fleet);
        let may = |to: &String| {
            to.starts_with("$JS.API.STREAM.INFO.")
                || to.starts_with("$JS.API.STREAM.SNAPSHOT.")
                || to.starts_with("$JS.SNAPSHOT.ACK.")
                || to == "_INBOX_svc.backup.>"
        };
        assert!(backup.publish.iter().all(may), "{backup:?}");
        assert_eq!(backup.subscribe, ["_INBOX_svc.backup.>"]);
        let snapshots = backup.publish.iter().filter(|to| to.contains("SNAPSHOT.POLICY")).count();
        assert_eq!((snapshots, backup.publish.len()), (1, 3 * 4 + 1));
    }

    #[test]
    fn only_single_messages_and_notifications_cross_the_border() {
        for shared in shares() {
            let prefix = match shared.kind {
                ShareKind::Service => "$JS.API.DIRECT.GET.",
                ShareKind::Stream => "notify.",
            };
            assert!(shared.subject.starts_with(prefix) && !shared.subject.ends_with('>'), "{shared:?}");
        }
        assert_eq!(shares().len(), 9);
    }
}
