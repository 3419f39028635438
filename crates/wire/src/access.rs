//! Who may do what at the broker: one table of all subjects, from which `proto/SUBJECTS.md` is written and the
//! permissions of every role are made, so that code, broker and documentation cannot differ.
//!
//! A fleet has two accounts. The broker's own answers go to whatever reply subject a client names, whether the
//! client may publish there or not: in one account, an agent that may read a chunk could have the answer delivered
//! to the subject that deletes a stream. So streams and services are in the account of the fleet; agents are in
//! an account of their own, which holds nothing that a misdirected answer could touch, and reach single
//! subjects of the other account through imports that name them.

mod permissions;
mod table;

pub use permissions::{Permissions, ShareKind, Shared, permissions, shares};
pub use table::{Place, ROWS, Row, STREAMS, Stream, markdown};

/// Who connects to the broker, as far as permissions tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// The policy service.
    Policy,
    /// The content service.
    Content,
    /// The presence service.
    Presence,
    /// The identity service.
    Identity,
    /// The service that issues commands. It has no subjects yet.
    Command,
    /// The front door for operators. It has no subjects yet.
    Gateway,
    /// What mirrors desired state and content to a site.
    Site,
    /// What takes backups: it reads whole streams, and writes nothing.
    Backup,
    /// An agent that has joined.
    Agent,
    /// Whoever holds a join token, and an agent whose own credential has expired: they may ask to be let in.
    Join,
    /// A benchmark that plays agents. `musterd init` makes no credential of it.
    Bench,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Policy,
        Self::Content,
        Self::Presence,
        Self::Identity,
        Self::Command,
        Self::Gateway,
        Self::Site,
        Self::Backup,
        Self::Agent,
        Self::Join,
        Self::Bench,
    ];

    /// Those whose credentials are made once and handed to a process.
    pub const SERVICES: [Self; 8] = [
        Self::Policy,
        Self::Content,
        Self::Presence,
        Self::Identity,
        Self::Command,
        Self::Gateway,
        Self::Site,
        Self::Backup,
    ];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Policy => "policy",
            Self::Content => "content",
            Self::Presence => "presence",
            Self::Identity => "identity",
            Self::Command => "command",
            Self::Gateway => "gateway",
            Self::Site => "site",
            Self::Backup => "backup",
            Self::Agent => "agent",
            Self::Join => "join",
            Self::Bench => "bench",
        }
    }

    /// Whether it has a user in `account`.
    #[must_use]
    pub fn is_in(self, account: Account) -> bool {
        match self {
            Self::Policy | Self::Content | Self::Command | Self::Gateway | Self::Site | Self::Backup => {
                account == Account::Fleet
            }
            Self::Presence => account != Account::System,
            Self::Identity => true,
            Self::Agent | Self::Join | Self::Bench => account == Account::Agents,
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The accounts that matter to a fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// Services and streams.
    Fleet,
    /// Agents, and the side of services that talks to them.
    Agents,
    /// The broker's own, where it takes changed accounts from.
    System,
}

impl Account {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Fleet, Self::Agents, Self::System];

    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Agents => "agents",
            Self::System => "system",
        }
    }
}

/// Who publishes or subscribes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// All replicas of a service.
    Service(Role),
    /// The service whose name is in the subject.
    TheService,
    /// The agent whose id is in the subject.
    TheAgent,
    /// Agents of the group whose id is in the subject.
    Group,
    /// Any agent.
    Agents,
    /// Whoever has the key in the subject and asks to be let in.
    Joining,
    /// The broker itself.
    Broker,
}
