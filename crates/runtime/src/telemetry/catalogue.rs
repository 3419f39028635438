//! The one table of metrics. There is no other way to an instrument than a row of it.

use domain::access::METHODS;

/// What a metric is, and where its buckets end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// Only rises.
    Counter,
    /// As it is now.
    Gauge,
    /// Durations, counted in buckets with these upper bounds, in seconds.
    Histogram(&'static [f64]),
}

/// A label and all values that it may have.
#[derive(Debug, Clone, Copy)]
pub struct Label {
    /// Its name.
    pub name: &'static str,
    /// Its values.
    pub values: &'static [&'static str],
}

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its name, as OpenTelemetry writes it.
    pub name: &'static str,
    /// Its unit in UCUM.
    pub unit: &'static str,
    /// What it is.
    pub kind: Kind,
    /// Its labels, in the order in which values are given.
    pub labels: &'static [Label],
    /// Who tells it.
    pub by: &'static str,
    /// What it means.
    pub meaning: &'static str,
}

impl Metric {
    /// Most series that it can have in one process: the product of what its labels may be.
    #[must_use]
    pub fn series(&self) -> usize {
        self.labels.iter().map(|label| label.values.len()).product()
    }

    /// Whether a process tells it that is called `service` where nobody names it otherwise.
    #[must_use]
    pub fn is_told_by(&self, service: &str) -> bool {
        let of_fleet = service.strip_prefix("musterd");
        self.by.split(", ").any(|by| match by {
            "all" => true,
            "all services" => of_fleet.is_some(),
            // One process may be all services.
            by => {
                by == service
                    || of_fleet
                        .is_some_and(|of| of.is_empty() && by != AGENT || of.strip_prefix('-') == Some(by))
            }
        })
    }

    /// All that its labels may be together.
    pub(super) fn combinations(&self) -> impl Iterator<Item = Vec<&'static str>> {
        (0..self.series()).map(|mut at| {
            let value = |label: &Label| {
                let value = label.values[at % label.values.len()];
                at /= label.values.len();
                value
            };
            self.labels.iter().map(value).collect()
        })
    }

    /// What Prometheus calls it, after the rules by which collectors and servers translate names. A histogram's series
    /// have `_bucket`, `_count` and `_sum` behind that.
    #[must_use]
    pub fn prometheus(&self) -> String {
        let name = self.name.replace('.', "_");
        let unit = match self.unit {
            "s" => "_seconds",
            "By" => "_bytes",
            _ => "",
        };
        // A name that says its unit already does not say it twice.
        let unit = if name.ends_with(unit) { "" } else { unit };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{name}{unit}{total}")
    }
}

/// Of a request or a message: milliseconds to ten seconds. 0.5 and 3 are bounds of service levels.
const SHORT: &[f64] = &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Of a change on its way to agents: to an hour. 5 is the bound of a service level.
const LONG: &[f64] = &[0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0, 3600.0];
/// In shares of a heartbeat interval: pull agents get news with the next heartbeat. 1.5 is the bound of a service level.
const INTERVALS: &[f64] = &[0.1, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0];

/// Who tells what services do not.
const AGENT: &str = "muster-agent";
const MODE: Label = Label { name: "mode", values: &["push", "pull"] };
const STATE: Label = Label { name: "state", values: &["never_seen", "online", "late", "offline"] };
const APPLIED: Label = Label { name: "result", values: &["applied", "failed"] };
/// Methods of the API, and what stands for all others.
const METHOD: Label = Label { name: "rpc.method", values: &METHOD_NAMES };
const RPC_SYSTEM: Label = Label { name: "rpc.system.name", values: &["grpc"] };
const STATUS: Label = Label {
    name: "rpc.status_code",
    values: &[
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ],
};
const MESSAGING: Label = Label { name: "messaging.system", values: &["nats"] };
const OUTCOME: Label = Label { name: "outcome", values: &["ok", "conflict", "failed"] };

const METHOD_NAMES: [&str; METHODS.len() + 1] = {
    let mut names = ["_OTHER"; METHODS.len() + 1];
    let mut at = 0;
    while at < METHODS.len() {
        names[at] = METHODS[at].name;
        at += 1;
    }
    names
};

macro_rules! catalogue {
    ($($id:ident: $name:literal, $unit:literal, $kind:expr, [$($label:expr),*], $by:literal, $meaning:literal;)*) => {
        /// A metric of the catalogue.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Name {
            $(#[doc = $meaning] $id,)*
        }

        /// All metrics, in the order of [`Name`].
        pub const CATALOGUE: &[Metric] = &[$(Metric {
            name: $name, unit: $unit, kind: $kind, labels: &[$($label),*], by: $by, meaning: $meaning,
        },)*];
    };
}

use Kind::{Counter, Gauge, Histogram};

catalogue! {
    Agents: "muster.agents", "{agent}", Gauge, [MODE, STATE], "presence",
        "Agents of the fleet. Every replica knows all of them: take the greatest, do not add them up.";
    AgentsPending: "muster.policy.agents.pending", "{agent}", Gauge, [MODE], "presence",
        "Online agents that do not run the head of their group yet. Every replica knows all of them.";
    AgentsFailed: "muster.policy.agents.failed", "{agent}", Gauge, [MODE], "presence",
        "Agents on which the head of their group failed. Every replica knows all of them.";
    Heartbeats: "muster.heartbeats", "{heartbeat}", Counter,
        [MODE_OR_UNKNOWN, Label { name: "outcome", values: &["answered", "heard", "unknown", "deleted", "duplicate", "malformed", "shed"] }],
        "presence",
        "Heartbeats that arrived, by what became of them. `heard`: a report that asks for no answer. `shed`: beyond what an agent may send.";
    HeartbeatLag: "muster.heartbeat.lag", "s", Histogram(SHORT), [], "presence",
        "Time from taking a heartbeat from the connection until its answer went out. Those that waited for the record of a newcomer are left out.";
    Convergence: "muster.policy.convergence.duration", "s", Histogram(LONG), [MODE, APPLIED], "presence",
        "Time from the head in the store until an agent reported it applied or failed. Only agents that were online when the head came.";
    ConvergenceIntervals: "muster.policy.convergence.intervals", "{interval}", Histogram(INTERVALS), [MODE, APPLIED], "presence",
        "The same, in heartbeat intervals of the agent's group.";
    ContentBytes: "muster.content.bytes", "By", Counter, [Label { name: "source", values: &["origin", "patch"] }], "muster-agent",
        "Bytes of content that were fetched: chunks and whole contents from the origin, or patches.";
    ContentApply: "muster.content.apply.duration", "s", Histogram(LONG), [APPLIED], "muster-agent",
        "Time from the start of a fetch until the content was in force and healthy, or failed.";
    Activations: "muster.agent.activations", "{activation}", Counter, [Label { name: "verified", values: &["true", "false"] }], "muster-agent",
        "Snapshots that an agent put in force. `false`: it saw no check of exactly this envelope's signature that held. There must be none.";
    VerifyFailures: "muster.verify.failures", "{envelope}", Counter, [REASON], "muster-agent",
        "Signed envelopes that an agent did not obey, by the rule that was broken.";
    AgentRollbacks: "muster.agent.rollbacks", "{rollback}", Counter, [Label { name: "item", values: &["policy", "content"] }], "muster-agent",
        "Times an agent gave up what it had put in force. It goes back to its last known good, if it has one.";
    Enrolments: "muster.enrolments", "{request}", Counter, [Label { name: "result", values: &["joined", "waiting", "refused", "failed"] }], "identity",
        "Requests of agents to join, or for new claims.";
    BrokerReconnects: "muster.broker.reconnects", "{reconnect}", Counter, [], "all",
        "Connections to the broker that were made again after one was lost.";
    BrokerDrops: "muster.broker.drops", "{message}", Counter, [], "all",
        "Messages of the broker that this process was too slow to take; at least so many.";
    QueueDepth: "muster.queue.depth", "{item}", Gauge, [Label { name: "queue", values: &["offers", "events", "checkpoints"] }], "presence",
        "Items that wait in a queue.";
    LoadShed: "muster.load_shed", "{item}", Counter, [Label { name: "what", values: &["heartbeat", "offer", "event"] }], "presence",
        "Work that was left out because there was too much of it.";
    KeyExpiry: "muster.key.expiry", "s", Gauge, [Label { name: "key", values: &["trust_root"] }], "all services",
        "Time until what agents trust expires; negative when it has.";
    ClientOperation: "messaging.client.operation.duration", "s", Histogram(SHORT),
        [MESSAGING, Label { name: "messaging.operation.name", values: &["publish", "publish_batch"] }, OUTCOME], "all services",
        "Time of a publish until the stream had it.";
    Process: "messaging.process.duration", "s", Histogram(SHORT),
        [MESSAGING, Label { name: "messaging.operation.name", values: &["process"] }, Label { name: "messaging.destination.template", values: &["svc.heartbeat.{agent}", "notify.group.{group}"] }],
        "presence, muster-agent",
        "Time of handling a message: a heartbeat in presence, a snapshot in an agent from verified to applied.";
    RpcServer: "rpc.server.call.duration", "s", Histogram(SHORT), [RPC_SYSTEM, METHOD, STATUS], "all services",
        "Time of a call of the API. Of calls that stream: until the answer began.";
}

const MODE_OR_UNKNOWN: Label = Label { name: "mode", values: &["push", "pull", "unknown"] };
const REASON: Label = Label {
    name: "reason",
    values: &[
        "signature",
        "malformed",
        "oversized",
        "wrong_type",
        "other_fleet",
        "other_group",
        "other_agent",
        "expired",
        "older",
        "conflict",
        "too_far_ahead",
        "root",
        "root_expired",
    ],
};

impl Name {
    /// Its row.
    #[must_use]
    pub fn metric(self) -> &'static Metric {
        &CATALOGUE[self as usize]
    }
}
