//! The content of an agent: fetched, verified, put in force, and kept so, apart from policies.
//!
//! [`Content`] is the shell around [`domain::content::agent::Machine`], as [`Agent`](crate::Agent) is the one
//! around the machine for policies. It has a task and a connection to the broker of its own; the two shells tell
//! each other through a [`ContentLink`] what is assigned and how far it got. An agent without a link ignores
//! content, at no cost.

use std::io;
use std::path::Path;
use std::sync::Arc;

use domain::content::ChannelName;
use domain::content::agent::{Loaded, Machine, Note};
use domain::{AgentId, Digest};
use tokio::sync::watch;

use crate::agent::Enrolment;
use crate::handler::Handler;

mod background;
mod broker;
mod build;
mod dirs;
mod fetch;
mod files;
mod library;
mod link;
mod note;
mod pieces;
mod shell;
mod state;
mod survey;
mod tree;

#[cfg(test)]
mod build_tests;
#[cfg(test)]
mod live;
#[cfg(test)]
mod test_content;

pub use broker::PieceObserver;
pub use domain::content::agent::Timing;
pub use link::ContentLink;
use link::pair;
pub use shell::Content;

/// Bytes of chunks of removed contents that are kept unless set otherwise: enough for the parts in which some
/// revisions of large contents differ, and little of a disk that holds such contents.
pub const DEFAULT_CACHE_BYTES: u64 = 256 << 20;
/// Bytes on their way at once unless set otherwise: one part of a delta, or some chunks. A cut costs at most so
/// much. More helps on lines that are fast and far.
pub const DEFAULT_WINDOW_BYTES: u64 = codec::part::PART_BYTES as u64;

/// Called with each change of content worth a log line.
pub type ContentObserver = Arc<dyn Fn(&AgentId, &Note) + Send + Sync>;

/// How content is kept and fetched.
#[derive(Clone)]
pub struct ContentOptions {
    /// Most bytes of the disk that content takes, drafts and cache included; `None`: all that the disk has.
    pub quota: Option<u64>,
    /// Most bytes of chunks that are kept of contents that were removed.
    pub cache_bytes: u64,
    /// Most bytes on their way at once; a single longer piece may be alone on its way.
    pub window_bytes: u64,
    /// Waits.
    pub timing: Timing,
    /// Identifies the configuration of hooks: contents that failed are tried again when it changed.
    pub hooks: Digest,
    /// Called with each change worth a log line, beside the log.
    pub observer: Option<ContentObserver>,
    /// Called with each message of content that arrives.
    pub pieces: Option<PieceObserver>,
}

impl Default for ContentOptions {
    fn default() -> Self {
        Self {
            quota: None,
            cache_bytes: DEFAULT_CACHE_BYTES,
            window_bytes: DEFAULT_WINDOW_BYTES,
            timing: Timing::default(),
            hooks: Digest::default(),
            observer: None,
            pieces: None,
        }
    }
}

/// Path below the state directory that leads to the files in force of a channel: the same for all its revisions.
#[must_use]
pub fn path_in_force(channel: &ChannelName) -> String {
    dirs::path_in_force(channel)
}

/// Opens the content in a state directory, which the caller has locked. The link goes to the agent, the other to a
/// task that runs it.
///
/// # Errors
/// If the directory cannot be read or written.
pub fn open<H: Handler>(
    state_dir: &Path,
    enrolment: &Enrolment,
    handler: Arc<H>,
    options: ContentOptions,
) -> io::Result<(Content<H>, ContentLink)> {
    let bounds = library::Bounds { quota: options.quota, cache_bytes: options.cache_bytes };
    let trust = &enrolment.trust;
    let library = library::Library::open(state_dir, trust, options.hooks, bounds)?;
    let durable = library.load()?;
    let loaded = Loaded { active: library.active(&durable)?, durable };
    let (link, other) = pair();
    let (control, heard) = watch::channel(fetch::Control::default());
    let broker = broker::Broker::new(enrolment, options.pieces);
    let fetcher = fetch::Fetcher {
        library: Arc::new(library),
        broker: Arc::new(broker),
        control: heard,
        window_bytes: options.window_bytes,
    };
    let content = Content {
        agent: enrolment.agent.clone(),
        machine: Machine::new(enrolment.agent.clone(), options.timing, loaded),
        fetcher,
        control,
        handler,
        link: other,
        observer: options.observer,
        work: shell::Work::default(),
    };
    Ok((content, link))
}
