//! `muster content`.

mod change;
mod fetch;
mod push;
mod revision;
mod show;

use clap::Subcommand;

use crate::failure::Failure;
use crate::session::Session;

pub(super) use self::revision::{parse_assignment, parse_channel};

/// Content: files that agents hold in bulk, revision by revision, in channels
#[derive(Debug, Subcommand)]
pub(crate) enum Content {
    Push(push::Push),
    Promote(change::Promote),
    Rollback(change::Rollback),
    List(show::List),
    Show(show::Show),
    Diff(show::Diff),
    Status(show::Status),
    Fetch(fetch::Fetch),
    Pin(change::Pin),
    Unpin(change::Unpin),
    Set(change::Set),
    Retire(change::Retire),
    Delete(change::Delete),
    Gc(change::Gc),
}

impl Content {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::Push(it) => Box::pin(it.run(session)).await,
            Self::Promote(it) => it.run(session).await,
            Self::Rollback(it) => it.run(session).await,
            Self::List(it) => it.run(session).await,
            Self::Show(it) => it.run(session).await,
            Self::Diff(it) => it.run(session).await,
            Self::Status(it) => it.run(session).await,
            Self::Fetch(it) => Box::pin(it.run(session)).await,
            Self::Pin(it) => it.run(session).await,
            Self::Unpin(it) => it.run(session).await,
            Self::Set(it) => it.run(session).await,
            Self::Retire(it) => it.run(session).await,
            Self::Delete(it) => it.run(session).await,
            Self::Gc(it) => it.run(session).await,
        }
    }
}
