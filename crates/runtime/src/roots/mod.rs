//! The trust roots of the fleet: kept in stream IDENTITY, one version a subject, verified link by link by everybody
//! who reads them. Services follow them; agents get them from DESIRED.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use domain::FleetId;
use tokio::sync::watch;
use wire::access::Role;
use wire::agent::v1::Envelope;
use wire::root::{Chain, RootError, Trust};
use wire::sign::KeySet;
use wire::subject::{STREAM_IDENTITY, identity_root, pattern};

use crate::Shutdown;
use crate::keys::KeyError;
use crate::nats::{Expect, Followed, From, GetError, Headers, Nats, PublishError};
use crate::telemetry::{Name, metrics};

mod local;

pub use local::LocalRoot;

/// How often the expiry of the newest root is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(600);
/// Largest file with a chain of roots.
const MAX_FILE_BYTES: u64 = wire::root::MAX_CHAIN_BYTES as u64;

/// Options for the trust roots of the fleet.
#[derive(Debug, Clone, Args)]
#[group(id = "trust")]
pub struct TrustArgs {
    /// File of a key with which this process makes the fleet's trust roots by itself: the first one, and further
    /// ones when the keys that it is given changed or a root grows old. Without it, roots are made and signed on a
    /// machine apart (`muster key --help`) and given to the fleet by `muster key publish`. It is for the identity service,
    /// the only one that the broker lets write roots.
    #[arg(long, env = "MUSTER_ROOT_KEY", value_name = "FILE")]
    pub root_key: Option<PathBuf>,

    /// How long trust roots that this process makes are good. They are made anew at half of that.
    #[arg(long, env = "MUSTER_ROOT_VALIDITY", value_name = "DURATION", default_value = "365d", value_parser = validity)]
    pub root_validity: Duration,

    /// File with the chain of trust roots that this fleet must have, from `muster key export-root`: begins the fleet
    /// where the store has no root yet, and refuses a store with others.
    #[arg(long, env = "MUSTER_TRUST_ROOT", value_name = "FILE")]
    pub trust_root: Option<PathBuf>,
}

/// Shortest validity of a root: it is looked at every ten minutes and reaches agents with their heartbeats.
const MIN_VALIDITY: Duration = Duration::from_secs(3600);

fn validity(text: &str) -> Result<Duration, String> {
    let validity = crate::config::duration(text)?;
    if validity < MIN_VALIDITY {
        return Err(format!("must be at least {} s", MIN_VALIDITY.as_secs()));
    }
    Ok(validity)
}

impl Default for TrustArgs {
    fn default() -> Self {
        Self { root_key: None, root_validity: Duration::from_secs(365 * 86_400), trust_root: None }
    }
}

/// Why the trust roots cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RootsError {
    /// The file with them cannot be read.
    #[error("cannot read the trust roots in {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no chain of trust roots", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: RootError,
    },
    /// The key that signs them cannot be used.
    #[error("the root key cannot be used")]
    Key(#[from] KeyError),
    /// A root of one's own making is none.
    #[error("a trust root of the keys that were given cannot be made: {0}")]
    Rule(#[from] domain::trust::RootError),
    /// The key refused.
    #[error("the trust root was not signed")]
    Sign(#[from] wire::sign::SignError),
    /// There is no director key to name.
    #[error("--root-key makes trust roots that name the director key: give its file with --director-key")]
    NoDirector,
    /// The broker would refuse the roots that this process makes.
    #[error("--root-key makes trust roots, which the broker lets service {0} not write: give it to identity")]
    NotWriter(Role),
    /// The store cannot be read.
    #[error("the trust roots in the store cannot be read")]
    Read(#[from] GetError),
    /// The store holds what is not a chain.
    #[error("the trust roots in the store do not hold from version {version} on")]
    Broken {
        /// The first that does not hold.
        version: u64,
        /// Why not.
        source: RootError,
    },
    /// The store belongs to another fleet.
    #[error(
        "the trust roots in the store are for fleet {found}, not {wanted}: give the fleet's name with --fleet"
    )]
    OtherFleet {
        /// Whose they are.
        found: FleetId,
        /// Whose they must be.
        wanted: FleetId,
    },
    /// The store begins with another root.
    #[error(
        "the store begins with another trust root than {}: it belongs to another fleet, or somebody replaced it",
        path.display()
    )]
    OtherChain {
        /// The file that says what it must be.
        path: PathBuf,
    },
    /// Another root of the same version was stored.
    #[error(
        "version {0} of the trust root is there already: make the next version from the newest one (`muster key rotate`)"
    )]
    Conflict(u64),
    /// A fleet begins at the beginning.
    #[error("the first trust root of a fleet has version 1, not {0}")]
    NotFirst(u64),
    /// It does not follow.
    #[error("the trust root does not follow the newest one")]
    Refused(#[from] RootError),
    /// It was not stored.
    #[error("the trust root was not stored")]
    Publish(#[source] PublishError),
}

/// What a process does with the roots beside following them.
#[derive(Clone)]
pub enum Part {
    /// Nothing.
    Reads,
    /// It writes those again that the store lost.
    Writes,
    /// It makes new ones as well.
    Makes(LocalRoot),
}

/// What is known of the roots.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// The chain.
    pub chain: Chain,
    /// The keys of its newest root.
    pub trust: Trust,
}

/// The fleet's trust roots as last read. Clones share them.
#[derive(Debug, Clone)]
pub struct Roots {
    fleet: FleetId,
    known: Arc<watch::Sender<Option<Arc<Known>>>>,
}

impl Roots {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(fleet: FleetId) -> Self {
        Self { fleet, known: Arc::new(watch::Sender::new(None)) }
    }

    /// What is known; `None` while the fleet has no root.
    #[must_use]
    pub fn known(&self) -> Option<Arc<Known>> {
        self.known.borrow().clone()
    }

    /// Version of the newest root; 0 while there is none.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.known.borrow().as_ref().map_or(0, |known| known.trust.version)
    }

    /// Who signs snapshots and assignments; nobody while there is no root.
    #[must_use]
    pub fn directors(&self) -> KeySet {
        self.known.borrow().as_ref().map(|known| known.trust.directors.clone()).unwrap_or_default()
    }

    /// Who signs content; nobody while there is no root.
    #[must_use]
    pub fn content(&self) -> KeySet {
        self.known.borrow().as_ref().map(|known| known.trust.content.clone()).unwrap_or_default()
    }

    /// Tells of each new root.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Option<Arc<Known>>> {
        self.known.subscribe()
    }

    /// Takes a further root, as read from the store or about to be written to it. One that is known already changes
    /// nothing.
    fn take(&self, version: u64, envelope: Envelope) -> Result<(), RootsError> {
        let mut outcome = Ok(());
        // What is published is followed at the same time: neither may undo what the other has taken.
        self.known.send_if_modified(|known| {
            if known.as_ref().is_some_and(|known| version <= known.trust.version) {
                return false;
            }
            let longer = self.longer(known.as_deref(), version, envelope);
            outcome = longer.map(|longer| *known = Some(Arc::new(longer)));
            outcome.is_ok()
        });
        outcome
    }

    /// The known chain, or none, with one root more.
    fn longer(&self, known: Option<&Known>, version: u64, envelope: Envelope) -> Result<Known, RootsError> {
        let broken = |source| RootsError::Broken { version, source };
        let chain = match known {
            None => Chain::begin(envelope).map_err(broken)?,
            Some(known) => {
                let mut chain = known.chain.clone();
                chain.follow(envelope).map_err(broken)?;
                chain
            }
        };
        if chain.newest().fleet != self.fleet {
            let (found, wanted) = (chain.newest().fleet.clone(), self.fleet.clone());
            return Err(RootsError::OtherFleet { found, wanted });
        }
        let trust = Trust::from(chain.newest());
        tracing::info!(version = trust.version, fingerprint = %chain.fingerprint(), "a trust root");
        Ok(Known { chain, trust })
    }

    /// Reads all that the store has beyond what is known.
    ///
    /// # Errors
    /// [`RootsError`] if it cannot be read, or does not hold.
    pub async fn catch_up(&self, nats: &Nats) -> Result<(), RootsError> {
        loop {
            let version = self.version() + 1;
            let Some(message) = nats.leader_get_last(STREAM_IDENTITY, &identity_root(version)).await? else {
                return Ok(());
            };
            let envelope = wire::root::parse(&message.payload);
            self.take(version, envelope.map_err(|source| RootsError::Broken { version, source })?)?;
        }
    }

    /// Gives the fleet its next root, or its first.
    ///
    /// # Errors
    /// [`RootsError`] if it does not follow the newest one, or somebody else was quicker.
    pub async fn publish(&self, nats: &Nats, envelope: Envelope) -> Result<(), RootsError> {
        self.catch_up(nats).await?;
        let version = match self.known() {
            None => first(&Chain::begin(envelope.clone())?)?,
            Some(known) => {
                let mut chain = known.chain.clone();
                let found = wire::root::look_into(&envelope).map_err(RootError::from)?.version;
                if found <= known.trust.version {
                    return Err(RootsError::Conflict(found));
                }
                chain.follow(envelope.clone())?;
                chain.newest().version
            }
        };
        self.put(nats, version, &envelope).await?;
        self.take(version, envelope)
    }

    async fn put(&self, nats: &Nats, version: u64, envelope: &Envelope) -> Result<(), RootsError> {
        let message = (Headers::new(), wire::encode(envelope));
        let stored =
            nats.publish_cas(STREAM_IDENTITY, &identity_root(version), message, Expect::LastSubject(0)).await;
        match stored {
            Ok(_) => Ok(()),
            Err(PublishError::Conflict { .. }) => Err(RootsError::Conflict(version)),
            Err(error) => Err(RootsError::Publish(error)),
        }
    }

    /// Begins a fleet with the chain in a file, and makes sure that the store has no other. Who does not write them takes
    /// what the file says as known: what comes must follow it.
    ///
    /// # Errors
    /// [`RootsError`].
    pub async fn begin_with(
        &self,
        nats: &Nats,
        file: &std::path::Path,
        writes: bool,
    ) -> Result<(), RootsError> {
        let chain = read_file(file)?;
        let _ = first(&chain)?;
        self.catch_up(nats).await?;
        if self.known().is_some_and(|known| known.chain.version_of(&chain.first_fingerprint()).is_none()) {
            return Err(RootsError::OtherChain { path: file.to_owned() });
        }
        for (version, envelope) in chain.envelopes().filter(|(version, _)| *version > self.version()) {
            if !writes {
                self.take(version, envelope.clone())?;
                continue;
            }
            match self.put(nats, version, envelope).await {
                // Another replica began with the same file.
                Ok(()) | Err(RootsError::Conflict(_)) => {}
                Err(error) => return Err(error),
            }
        }
        self.catch_up(nats).await?;
        match self.known() {
            Some(known) if known.chain.version_of(&chain.first_fingerprint()).is_some() => Ok(()),
            Some(_) | None => Err(RootsError::OtherChain { path: file.to_owned() }),
        }
    }

    /// Follows the roots until the shutdown, and does its `part` for them.
    ///
    /// # Errors
    /// [`RootsClosed`] if the connection was closed for good.
    pub async fn follow(&self, nats: &Nats, part: Part, shutdown: &Shutdown) -> Result<(), RootsClosed> {
        let mut roots = nats.follow(STREAM_IDENTITY, pattern::IDENTITY_ROOTS, From::LastPerSubject, false);
        let mut look = tokio::time::interval(LOOK_EVERY);
        loop {
            tokio::select! {
                event = roots.next() => self.note(nats, &part, event.ok_or(RootsClosed)?).await,
                _ = look.tick() => self.look(nats, &part).await,
                () = shutdown.requested() => return Ok(()),
            }
        }
    }

    async fn note(&self, nats: &Nats, part: &Part, event: Followed) {
        let noted = match event {
            Followed::Message(message) => {
                let version = message.subject.rsplit('.').next().and_then(|text| text.parse().ok());
                let parsed = wire::root::parse(&message.payload).map_err(RootsError::from);
                version.map_or(Ok(()), |version| parsed.and_then(|envelope| self.take(version, envelope)))
            }
            // A store that was restored from a backup may lack roots that agents follow already.
            Followed::CaughtUp => match part {
                Part::Writes | Part::Makes(_) => self.restore(nats).await,
                Part::Reads => Ok(()),
            },
            Followed::Reset | Followed::Missing => Ok(()),
        };
        if let Err(error) = noted {
            tracing::error!(error = %crate::log::chain(&error), "a trust root in the store is not taken");
        }
    }

    /// Writes roots that are known and that the store lacks.
    async fn restore(&self, nats: &Nats) -> Result<(), RootsError> {
        let Some(known) = self.known() else { return Ok(()) };
        for (version, envelope) in known.chain.envelopes() {
            if nats.leader_get_last(STREAM_IDENTITY, &identity_root(version)).await?.is_none() {
                tracing::warn!(version, "the store lacks a trust root that is known: writing it again");
                match self.put(nats, version, envelope).await {
                    Ok(()) | Err(RootsError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    async fn look(&self, nats: &Nats, part: &Part) {
        if let Part::Makes(local) = part
            && let Err(error) = local.make(self, nats).await
        {
            tracing::error!(error = %crate::log::chain(&error), "the trust root could not be renewed");
        }
        let Some(known) = self.known() else {
            tracing::warn!(
                "the fleet has no trust root: give identity --root-key, or see `muster key --help`"
            );
            return;
        };
        let (root, now) = (known.chain.newest(), crate::clock::now());
        let left = root.expires_at.since(now);
        let seconds = |span: domain::Span| span.0 as f64 / 1000.0;
        let expiry = seconds(left) - seconds(now.since(root.expires_at));
        metrics::set(Name::KeyExpiry, expiry, &["trust_root"]);
        if now >= root.expires_at {
            tracing::error!(
                version = root.version,
                "the trust root has expired: agents take nothing new until the next one"
            );
        } else if left < root.expires_at.since(root.issued_at).scaled(1, 4) {
            tracing::warn!(
                version = root.version,
                days = left.0 / 86_400_000,
                "the trust root expires soon: `muster key rotate`"
            );
        }
    }
}

/// The version of a chain's first root, which must be 1: everybody reads the store from there.
fn first(chain: &Chain) -> Result<u64, RootsError> {
    match chain.roots().next().map_or(0, |root| root.version) {
        1 => Ok(1),
        other => Err(RootsError::NotFirst(other)),
    }
}

/// The roots cannot be followed any more: the connection was closed for good.
#[derive(Debug, thiserror::Error)]
#[error("the trust roots cannot be followed any more: the connection is closed")]
pub struct RootsClosed;

/// Reads a chain from a file.
///
/// # Errors
/// [`RootsError`] if it cannot be read, or is none.
pub fn read_file(path: &std::path::Path) -> Result<Chain, RootsError> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let read =
        std::fs::File::open(path).and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes));
    read.map_err(|source| RootsError::File { path: path.to_owned(), source })?;
    Chain::read(&bytes).map_err(|source| RootsError::Content { path: path.to_owned(), source })
}
