//! The table.

use std::fmt::Write as _;

use super::Party::{self, Agents as AnyAgent, Broker, Group, Joining, TheAgent, TheService};
use super::{Account, Role};
use crate::subject::{QUEUE_IDENTITY, QUEUE_PRESENCE};
use crate::subject::{
    STREAM_AUDIT, STREAM_CONTENT, STREAM_DESIRED, STREAM_EVENTS, STREAM_IDENTITY, STREAM_POLICY, pattern,
};

const POLICY: Party = Party::Service(Role::Policy);
const CONTENT: Party = Party::Service(Role::Content);
const PRESENCE: Party = Party::Service(Role::Presence);
const IDENTITY: Party = Party::Service(Role::Identity);
const SITE: Party = Party::Service(Role::Site);
const BENCH: Party = Party::Service(Role::Bench);

/// Where a subject is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the account of the fleet.
    Fleet,
    /// In the account of the agents.
    Agents,
    /// In each account, apart.
    Each,
    /// In the system account.
    System,
    /// In the account of the fleet, and let through to that of the agents.
    Shared,
}

/// A subject, what travels on it and between whom.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// The subject; what stands between `<` and `>` is a place for an id.
    pub subject: &'static str,
    /// What travels, in Markdown.
    pub payload: &'static str,
    /// Where it is.
    pub place: Place,
    /// Who publishes.
    pub publishes: &'static [Party],
    /// Who subscribes; to what a stream keeps, who reads it there.
    pub subscribes: &'static [Party],
    /// The queue group in which services subscribe.
    pub queue: Option<&'static str>,
}

/// A stream, and who may do what with it.
#[derive(Debug, Clone, Copy)]
pub struct Stream {
    /// Its name.
    pub name: &'static str,
    /// The subjects it keeps.
    pub subjects: &'static str,
    /// What it keeps of them, for people.
    pub kept: &'static str,
    /// Where what it stores is published again.
    pub republished: Option<&'static str>,
    /// Who makes it and changes its settings.
    pub makes: &'static [Role],
    /// Who reads it.
    pub reads: &'static [Role],
    /// Who deletes messages of it by subject.
    pub purges: &'static [Role],
    /// Whether it is part of a backup. What is not is made again from what is.
    pub saved: bool,
}

const fn row(
    (subject, payload): (&'static str, &'static str),
    place: Place,
    publishes: &'static [Party],
    subscribes: &'static [Party],
) -> Row {
    Row { subject, payload, place, publishes, subscribes, queue: None }
}

const fn queued(row: Row, queue: &'static str) -> Row {
    Row { queue: Some(queue), ..row }
}

const ENTRY: &str = "`muster.store.v1.Entry`";
const STORED: &str = "none; answered with the stored message";

/// Every subject.
pub const ROWS: &[Row] = &[
    row(("store.group.<group>", ENTRY), Place::Fleet, &[POLICY], &[POLICY, CONTENT, PRESENCE, IDENTITY]),
    row(("store.kind.<kind>", ENTRY), Place::Fleet, &[POLICY], &[POLICY, CONTENT, IDENTITY]),
    row(("store.policy.<policy>", ENTRY), Place::Fleet, &[POLICY], &[POLICY, CONTENT, IDENTITY]),
    row(("store.token.<token>", ENTRY), Place::Fleet, &[POLICY, IDENTITY], &[POLICY, CONTENT, IDENTITY]),
    row(("store.apitoken.<name>", ENTRY), Place::Fleet, &[IDENTITY], &[POLICY, CONTENT, PRESENCE, IDENTITY]),
    row(("store.channel.<channel>", ENTRY), Place::Fleet, &[CONTENT, POLICY], &[CONTENT, POLICY, IDENTITY]),
    row(("store.content.<channel>.<number>", ENTRY), Place::Fleet, &[CONTENT], &[CONTENT, POLICY, IDENTITY]),
    row(("store.uploads", ENTRY), Place::Fleet, &[CONTENT], &[CONTENT, POLICY, IDENTITY]),
    row(("store.sweep", ENTRY), Place::Fleet, &[CONTENT], &[CONTENT, POLICY, IDENTITY]),
    row(("store.epoch", ENTRY), Place::Fleet, &[POLICY], &[POLICY, CONTENT, IDENTITY]),
    row(
        ("identity.agent.<agent>", "`muster.store.v1.AgentRecord`"),
        Place::Fleet,
        &[IDENTITY],
        &[IDENTITY, POLICY, CONTENT, PRESENCE],
    ),
    row(("identity.token.<token>", "`muster.store.v1.TokenUse`"), Place::Fleet, &[IDENTITY], &[IDENTITY]),
    row(
        ("identity.root.<number>", "`Envelope` of `TrustRoot`; `<number>` is its version"),
        Place::Fleet,
        &[IDENTITY],
        &[IDENTITY, POLICY, CONTENT, PRESENCE],
    ),
    row(
        ("desired.group.<group>", "`Envelope` of `Snapshot`; empty once the group was deleted"),
        Place::Fleet,
        &[POLICY],
        &[POLICY, PRESENCE, SITE],
    ),
    row(
        ("desired.agent.<agent>", "`Envelope` of `Assignment`; empty once the agent was deleted"),
        Place::Fleet,
        &[IDENTITY],
        &[IDENTITY, SITE],
    ),
    row(
        ("desired.root.<number>", "as `identity.root.<number>`"),
        Place::Fleet,
        &[IDENTITY],
        &[IDENTITY, SITE],
    ),
    row(("desired.compiled", "none; headers only"), Place::Fleet, &[POLICY], &[POLICY, PRESENCE]),
    row(
        ("notify.group.<group>", "as `desired.group.<group>`, republished by the broker"),
        Place::Shared,
        &[Broker],
        &[Group],
    ),
    row(
        ("notify.agent.<agent>", "as `desired.agent.<agent>`, republished by the broker"),
        Place::Shared,
        &[Broker],
        &[TheAgent],
    ),
    queued(
        row(
            ("svc.heartbeat.<agent>", "`Heartbeat`; answered with `HeartbeatReply`"),
            Place::Agents,
            &[TheAgent, BENCH],
            &[PRESENCE, BENCH],
        ),
        QUEUE_PRESENCE,
    ),
    queued(
        row(
            ("svc.enrol", "`Envelope` of `JoinRequest` or `RenewRequest`; answered with `JoinReply`"),
            Place::Agents,
            &[Joining, AnyAgent],
            &[IDENTITY],
        ),
        QUEUE_IDENTITY,
    ),
    row(("presence.beats", "`BeatBatch`"), Place::Fleet, &[PRESENCE], &[PRESENCE]),
    row(("presence.content", "`ContentCensus`"), Place::Fleet, &[PRESENCE], &[CONTENT]),
    row(
        ("presence.flood.<agent>", "none: the agent sends far more than it may"),
        Place::Fleet,
        &[PRESENCE],
        &[IDENTITY],
    ),
    row(
        ("content.manifest.<manifest>", "`Envelope` of `Manifest`"),
        Place::Fleet,
        &[CONTENT],
        &[CONTENT, SITE],
    ),
    row(
        ("content.index.<manifest>", "`Envelope` of `ContentIndex`"),
        Place::Fleet,
        &[CONTENT],
        &[CONTENT, SITE],
    ),
    row(("content.chunk.<chunk>", "one zstd frame"), Place::Fleet, &[CONTENT], &[CONTENT, SITE]),
    row(
        ("content.patch.<from>.<to>.<number>", "a part of a delta; `<from>` is `none` for a whole content"),
        Place::Fleet,
        &[CONTENT],
        &[CONTENT, SITE],
    ),
    row(
        ("audit.entry", "`muster.store.v1.AuditEntry`"),
        Place::Fleet,
        &[POLICY, CONTENT, PRESENCE, IDENTITY],
        &[POLICY, CONTENT, PRESENCE, IDENTITY],
    ),
    row(
        ("events.presence.<agent>", "`muster.store.v1.PresenceEvent`"),
        Place::Fleet,
        &[PRESENCE],
        &[PRESENCE],
    ),
    row(
        ("events.checkpoint.<chunk>", "`muster.store.v1.PresenceCheckpoint`"),
        Place::Fleet,
        &[PRESENCE],
        &[PRESENCE],
    ),
    row(
        ("_INBOX_agent.<agent>.>", "replies to the agent"),
        Place::Agents,
        &[PRESENCE, IDENTITY, Broker, BENCH],
        &[TheAgent, BENCH],
    ),
    row(("_INBOX_join.<key>.>", "replies to a join"), Place::Agents, &[IDENTITY], &[Joining]),
    row(
        ("_INBOX_svc.<service>.>", "replies to the service"),
        Place::Each,
        &[TheService, Broker],
        &[TheService],
    ),
    row(("$JS.API.DIRECT.GET.DESIRED.desired.group.<group>", STORED), Place::Shared, &[Group], &[Broker]),
    row(("$JS.API.DIRECT.GET.DESIRED.desired.agent.<agent>", STORED), Place::Shared, &[TheAgent], &[Broker]),
    row(("$JS.API.DIRECT.GET.DESIRED.desired.root.<number>", STORED), Place::Shared, &[AnyAgent], &[Broker]),
    row(
        ("$JS.API.DIRECT.GET.CONTENT.content.manifest.<manifest>", STORED),
        Place::Shared,
        &[AnyAgent],
        &[Broker],
    ),
    row(
        ("$JS.API.DIRECT.GET.CONTENT.content.index.<manifest>", STORED),
        Place::Shared,
        &[AnyAgent],
        &[Broker],
    ),
    row(("$JS.API.DIRECT.GET.CONTENT.content.chunk.<chunk>", STORED), Place::Shared, &[AnyAgent], &[Broker]),
    row(
        ("$JS.API.DIRECT.GET.CONTENT.content.patch.<from>.<to>.<number>", STORED),
        Place::Shared,
        &[AnyAgent],
        &[Broker],
    ),
    row(
        ("$SYS.REQ.CLAIMS.UPDATE", "signed claims of an account; answered with what became of them"),
        Place::System,
        &[IDENTITY],
        &[Broker],
    ),
];

/// Every stream.
pub const STREAMS: &[Stream] = &[
    Stream {
        name: STREAM_POLICY,
        subjects: pattern::STORE,
        kept: "100 messages a subject: the history of each object",
        republished: None,
        // Identity as well: the first API token is there before any other service is.
        makes: &[Role::Policy, Role::Identity],
        reads: &[Role::Policy, Role::Content, Role::Presence, Role::Identity],
        purges: &[],
        saved: true,
    },
    Stream {
        name: STREAM_IDENTITY,
        subjects: pattern::IDENTITY,
        kept: "one message a subject",
        republished: None,
        makes: &[Role::Identity],
        reads: &[Role::Identity, Role::Policy, Role::Content, Role::Presence],
        purges: &[],
        saved: true,
    },
    Stream {
        name: STREAM_DESIRED,
        subjects: pattern::DESIRED,
        kept: "one message a subject",
        republished: Some(pattern::NOTIFY),
        makes: &[Role::Policy, Role::Identity],
        reads: &[Role::Policy, Role::Identity, Role::Presence, Role::Site],
        purges: &[],
        saved: false,
    },
    Stream {
        name: STREAM_CONTENT,
        subjects: pattern::CONTENT,
        kept: "one message a subject",
        republished: None,
        makes: &[Role::Content],
        reads: &[Role::Content, Role::Site],
        purges: &[Role::Content],
        saved: true,
    },
    Stream {
        name: STREAM_AUDIT,
        subjects: pattern::AUDIT,
        kept: "396 days; nothing is deleted before",
        republished: None,
        makes: &[Role::Policy, Role::Content, Role::Presence, Role::Identity],
        reads: &[Role::Policy, Role::Content, Role::Presence, Role::Identity],
        purges: &[],
        saved: true,
    },
    Stream {
        name: STREAM_EVENTS,
        subjects: pattern::EVENTS,
        kept: "7 days, 100 messages a subject",
        republished: None,
        makes: &[Role::Presence],
        reads: &[Role::Presence],
        purges: &[Role::Presence],
        saved: false,
    },
];

/// The two tables of `proto/SUBJECTS.md`.
#[must_use]
pub fn markdown() -> (String, String) {
    let mut subjects = String::from(
        "| subject | payload | account | publishes | subscribes |\n| --- | --- | --- | --- | --- |\n",
    );
    for row in ROWS {
        let mut readers = parties(row.subscribes);
        if let Some(queue) = row.queue {
            write!(readers, ", in queue group `{queue}`").expect("invariant: a String takes all");
        }
        let Row { subject, payload, .. } = row;
        let (place, writers) = (place(row.place), parties(row.publishes));
        writeln!(subjects, "| `{subject}` | {payload} | {place} | {writers} | {readers} |")
            .expect("invariant: a String takes all");
    }
    let mut streams = String::from(
        "| stream | subjects | kept | republished | made by | read by | in a backup |\n| --- | --- | --- | --- | --- | --- | --- |\n",
    );
    for stream in STREAMS {
        let Stream { name, subjects, kept, .. } = stream;
        let republished = stream.republished.map_or("no".to_owned(), |to| format!("to `{to}`"));
        let (makes, reads) = (names(stream.makes), names(stream.reads));
        let saved = if stream.saved { "yes" } else { "no" };
        writeln!(
            streams,
            "| `{name}` | `{subjects}` | {kept} | {republished} | {makes} | {reads} | {saved} |"
        )
        .expect("invariant: a String takes all");
    }
    (subjects, streams)
}

fn place(place: Place) -> &'static str {
    match place {
        Place::Fleet => Account::Fleet.name(),
        Place::Agents => Account::Agents.name(),
        Place::System => Account::System.name(),
        Place::Each => "each, apart",
        Place::Shared => "fleet, shared with agents",
    }
}

fn names(roles: &[Role]) -> String {
    roles.iter().map(|role| role.name()).collect::<Vec<_>>().join(", ")
}

fn parties(parties: &[Party]) -> String {
    let name = |party: &Party| match party {
        Party::Service(role) => role.name(),
        TheService => "the service",
        TheAgent => "the agent",
        Group => "agents of the group",
        AnyAgent => "agents",
        Joining => "joining agents",
        Broker => "broker",
    };
    parties.iter().map(name).collect::<Vec<_>>().join(", ")
}
