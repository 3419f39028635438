//! Why a command failed: cause, way out, exit code.

mod status;

use std::io;

use runtime::client::CredentialError;
use runtime::telemetry::spans::code;
use wire::manifest::ManifestError;

use crate::content::cut::ReadError;
use crate::content::target::TargetError;
use crate::content::tree::TreeError;
use crate::view::style::{Style, Tone, safe};

/// Exit codes, as `muster --help` lists them.
pub mod exit {
    /// Done.
    pub const OK: u8 = 0;
    /// Failed for a reason that has no code of its own.
    pub const FAILED: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// Bad input, a lock, or not possible in the state the fleet is in.
    pub const REFUSED: u8 = 3;
    /// There is no such thing.
    pub const NOT_FOUND: u8 = 4;
    /// The server cannot be reached, or did not answer in time.
    pub const UNREACHABLE: u8 = 5;
    /// `wait` ran out of time.
    pub const TIMED_OUT: u8 = 6;
    /// `wait` ended because an agent failed.
    pub const AGENTS_FAILED: u8 = 7;
    /// Stopped by Ctrl-C, as shells have it.
    pub const STOPPED: u8 = 130;
    /// Stopped by a request to end, as shells have it.
    pub const TERMINATED: u8 = 143;
}

/// What telemetry calls the failure of a command that was stopped.
pub(crate) const STOPPED: &str = "stopped";

/// What `wait` waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// That agents run the head of their group.
    Head,
    /// That they hold their content.
    Content,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command line, or the configuration file, is wrong.
    #[error("{0}")]
    Usage(String),
    /// A file cannot be read.
    #[error("cannot read {name}")]
    Read {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("cannot write {name}")]
    Write {
        /// The file.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// Manifests are wrong; nothing was sent.
    #[error("{}", counted(.0.len(), "mistake in the manifests", "mistakes in the manifests"))]
    Manifests(Vec<ManifestError>),
    /// Manifests do not fit together; nothing was sent.
    #[error("{0}")]
    Input(String),
    /// No server at this address.
    #[error("cannot reach a Muster server at {url}")]
    Unreachable {
        /// The address.
        url: String,
        /// Why.
        source: tonic::transport::Error,
    },
    /// The OpenID provider cannot be used.
    #[error("cannot sign in at {issuer}")]
    Provider {
        /// Who.
        issuer: String,
        /// Why not.
        source: Box<oidc::ProviderError>,
    },
    /// The server answered with an error.
    #[error("{}", status.message())]
    Status {
        /// Its answer.
        status: Box<tonic::Status>,
        /// The address.
        url: String,
        /// What the n-th resource of an apply is called, to name it in the words of its file.
        resources: Vec<String>,
    },
    /// The answer of the server makes no sense.
    #[error("the server's answer cannot be used: {0}")]
    Answer(String),
    /// What was named does not exist.
    #[error("{cause}")]
    NotFound {
        /// What there is not.
        cause: String,
        /// What there is.
        way_out: String,
    },
    /// Content that does not prove what it should.
    #[error("{cause}")]
    Refused {
        /// What is wrong with it.
        cause: String,
        /// What to do about it.
        way_out: String,
    },
    /// A path cannot be pushed; nothing was sent.
    #[error(transparent)]
    Tree(Box<TreeError>),
    /// A file could not be read to its end while it was being pushed.
    #[error(transparent)]
    Reading(#[from] ReadError),
    /// Content cannot be written, or is not what its manifest says.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// Ctrl-C.
    #[error("{0}")]
    Stopped(String),
    /// A signal came while there was nothing to be said about it.
    #[error("stopped")]
    Interrupted(u8),
    /// The person at the terminal said no.
    #[error("nothing was changed")]
    Declined,
    /// `wait` ran out of time.
    #[error("{cause}")]
    TimedOut {
        /// What did not happen.
        cause: String,
        /// What was waited for.
        goal: Goal,
    },
    /// An agent failed while `wait` was waiting.
    #[error("{cause}")]
    AgentsFailed {
        /// On which, and why.
        cause: String,
        /// What was waited for.
        goal: Goal,
    },
    /// Standard output or standard error cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// The asynchronous runtime cannot be started.
    #[error("cannot start the asynchronous runtime")]
    Runtime(#[source] io::Error),
}

impl From<CredentialError> for Failure {
    fn from(error: CredentialError) -> Self {
        Self::Usage(error.to_string())
    }
}

impl From<TreeError> for Failure {
    fn from(error: TreeError) -> Self {
        Self::Tree(Box::new(error))
    }
}

impl Failure {
    /// The exit code that tells scripts what happened.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            // Whoever reads our output has seen enough: that is how pipes end.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => exit::OK,
            Self::Usage(_) => exit::USAGE,
            Self::Manifests(_) | Self::Input(_) => exit::REFUSED,
            Self::Unreachable { .. } | Self::Provider { .. } => exit::UNREACHABLE,
            Self::Status { status, .. } => status::exit_code(status.code()),
            Self::TimedOut { .. } => exit::TIMED_OUT,
            Self::AgentsFailed { .. } => exit::AGENTS_FAILED,
            Self::NotFound { .. } => exit::NOT_FOUND,
            Self::Refused { .. } => exit::REFUSED,
            Self::Tree(error) if matches!(**error, TreeError::Root { .. }) => exit::FAILED,
            Self::Reading(ReadError::Read { .. }) | Self::Target(TargetError::Io { .. }) => exit::FAILED,
            Self::Tree(_) | Self::Reading(_) | Self::Target(_) => exit::REFUSED,
            Self::Stopped(_) => exit::STOPPED,
            Self::Interrupted(code) => *code,
            Self::Read { .. }
            | Self::Write { .. }
            | Self::Answer(_)
            | Self::Declined
            | Self::Output(_)
            | Self::Runtime(_) => exit::FAILED,
        }
    }

    /// What telemetry calls it: it tells nothing of what was typed.
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Read { .. } | Self::Reading(_) => "cannot_read",
            Self::Write { .. } | Self::Output(_) => "cannot_write",
            Self::Manifests(_) | Self::Input(_) => "bad_input",
            Self::Unreachable { .. } => "unreachable",
            Self::Provider { .. } => "provider",
            Self::Status { status, .. } => code(status.code()),
            Self::Answer(_) => "bad_answer",
            Self::NotFound { .. } => "not_found",
            Self::Refused { .. } => "refused",
            Self::Tree(_) | Self::Target(_) => "bad_content",
            Self::Stopped(_) | Self::Interrupted(_) => STOPPED,
            Self::Declined => "declined",
            Self::TimedOut { .. } => "timed_out",
            Self::AgentsFailed { .. } => "agents_failed",
            Self::Runtime(_) => "no_runtime",
        }
    }

    /// Cause, details and way out, as lines; `None` if there is nothing to say.
    #[must_use]
    pub(crate) fn render(&self, style: &Style) -> Option<String> {
        let is_read = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
        if matches!(self, Self::Interrupted(_)) || matches!(self, Self::Output(error) if is_read(error)) {
            return None;
        }
        let mut text = format!("{} {}\n", style.paint("error:", Tone::Bad), safe(&self.cause()));
        for line in self.details() {
            text += &format!("  {}\n", safe(&line));
        }
        if let Some(way_out) = self.way_out() {
            text += &format!("{} {}\n", style.paint("try:", Tone::Heading), safe(&way_out));
        }
        Some(text)
    }

    /// What went wrong, with the reasons below it.
    fn cause(&self) -> String {
        let mut text = match self {
            Self::Status { status, resources, .. } => status::cause(status, resources),
            other => other.to_string(),
        };
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            let reason = error.to_string();
            // "transport error" says nothing that the reason below it does not say better.
            if !text.ends_with(&reason) && reason != "transport error" {
                text += &format!(": {reason}");
            }
            source = error.source();
        }
        text
    }

    fn details(&self) -> Vec<String> {
        match self {
            Self::Manifests(errors) => errors.iter().map(ToString::to_string).collect(),
            Self::Status { status, resources, .. } => status::details(status, resources),
            Self::Tree(error) => error.details(),
            Self::NotFound { .. }
            | Self::Refused { .. }
            | Self::Reading(_)
            | Self::Target(_)
            | Self::Stopped(_)
            | Self::Interrupted(_)
            | Self::Usage(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Input(_)
            | Self::Unreachable { .. }
            | Self::Provider { .. }
            | Self::Answer(_)
            | Self::Declined
            | Self::TimedOut { .. }
            | Self::AgentsFailed { .. }
            | Self::Output(_)
            | Self::Runtime(_) => Vec::new(),
        }
    }

    fn way_out(&self) -> Option<String> {
        match self {
            Self::Usage(_) => Some("muster --help, or --help after any command".to_owned()),
            Self::Unreachable { .. } if self.cause().contains("certificate") => Some(
                "name the CA of the server with --ca-file or MUSTER_CA_FILE, and the server as its certificate does; \
                 of a `musterd all` on this machine give its --data-dir or MUSTER_DATA_DIR"
                    .to_owned(),
            ),
            Self::Unreachable { .. } => Some(format!(
                "start one with `musterd all --data-dir DIR`, or name another with --server or MUSTER_SERVER \
                 (default {})",
                crate::args::DEFAULT_SERVER
            )),
            Self::Provider { issuer, .. } => Some(format!(
                "can {issuer} be reached from here? `muster login --oidc --issuer-ca-file FILE` names its CA"
            )),
            Self::Status { status, url, .. } => status::way_out(status, url),
            Self::AgentsFailed { goal, .. } => Some(match goal {
                Goal::Head => "muster agent list --progress failed, and muster agent show AGENT".to_owned(),
                Goal::Content => "muster content status CHANNEL, and muster agent show AGENT".to_owned(),
            }),
            Self::TimedOut { goal, .. } => {
                let look = match goal {
                    Goal::Head => "muster agent list --progress pending",
                    Goal::Content => "muster content status CHANNEL",
                };
                Some(format!("{look}, or wait again with a longer --timeout"))
            }
            Self::NotFound { way_out, .. } | Self::Refused { way_out, .. } => Some(way_out.clone()),
            Self::Tree(_)
            | Self::Reading(_)
            | Self::Target(_)
            | Self::Stopped(_)
            | Self::Interrupted(_)
            | Self::Read { .. }
            | Self::Write { .. }
            | Self::Manifests(_)
            | Self::Input(_)
            | Self::Answer(_)
            | Self::Declined
            | Self::Output(_)
            | Self::Runtime(_) => None,
        }
    }
}

/// "1 agent", "2 agents".
pub(crate) fn counted(number: usize, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}
