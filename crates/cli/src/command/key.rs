//! `muster key`: the keys that agents trust, and the ceremony that changes them.

mod edit;
mod file;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use prost::Message as _;
use wire::agent::v1::{Envelope, TrustRoot};
use wire::api::v1::{GetRootsRequest, PublishRootRequest};
use wire::root::Chain;

use crate::args::{Consent, Format};
use crate::config::Config;
use crate::failure::Failure;
use crate::session::{Session, yaml};
use crate::terminal::Terminal;
use crate::view;

/// How keys are kept apart from the fleet, told by the help of every command of this kind.
const CEREMONY: &str = "\
The fleet's trust root names the keys that agents obey: for roots, for snapshots (director) and for content. Its own
keys are best made and kept on a machine that is never connected:

  apart     muster key init root-a.key root-b.key root-c.key
  apart     muster key root --fleet default --root-threshold 2 --root A --root B --root C \\
              --director D --content E --out root-1.json      (A to E: public keys, as `init` prints them)
  apart     muster key sign root-1.json --key root-a.key --key root-b.key
  connected muster key verify root-1.json && muster key publish root-1.json

To change keys or to go on before the root expires, carry the newest one over, make the next, sign it with as many keys
of the root before it, and of its own, as each asks for, and publish it:

  connected muster key export-root --out fleet.roots
  apart     muster key rotate fleet.roots --add-director F --remove-director D --out root-2.json
  apart     muster key sign root-2.json --key root-a.key --key root-b.key
  connected muster key verify root-2.json --after fleet.roots && muster key publish root-2.json

Agents follow with their next heartbeat. From then on what a removed key signed is refused: give the services their new
key (--director-key, --content-key) at the same time.";

/// Keys that agents trust: list, make, sign, rotate
#[derive(Debug, Subcommand)]
#[command(after_long_help = CEREMONY)]
pub(crate) enum Key {
    List(List),
    Init(Init),
    Root(edit::Root),
    Rotate(edit::Rotate),
    Sign(Sign),
    Verify(Verify),
    Publish(Publish),
    ExportRoot(ExportRoot),
}

/// List the keys that the fleet's newest trust root names
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster key list\n  muster key list -o json")]
pub(crate) struct List {}

/// Make new key files, readable by their owner alone; their public keys are printed
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster key init root-a.key root-b.key root-c.key")]
pub(crate) struct Init {
    /// Files to make; none may exist
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
}

/// Add signatures to a trust root
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster key sign root-2.json --key root-a.key --key root-b.key")]
pub(crate) struct Sign {
    /// The root, from `muster key root` or `muster key rotate`; it is written again with the signatures
    file: PathBuf,
    /// Key file to sign with; may be given several times
    #[arg(long = "key", required = true, value_name = "FILE")]
    keys: Vec<PathBuf>,
}

/// Check who has signed a trust root, and whether that is enough
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster key verify root-1.json\n  muster key verify root-2.json --after fleet.roots"
)]
pub(crate) struct Verify {
    /// The root
    file: PathBuf,
    /// The chain that it is to follow, from `muster key export-root`; without it, it is to be a first root
    #[arg(long, value_name = "FILE")]
    after: Option<PathBuf>,
}

/// Give the fleet its next trust root; agents follow, and there is no way back but a further root
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster key publish root-2.json --yes")]
pub(crate) struct Publish {
    /// The root with its signatures
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
}

/// Write the fleet's chain of trust roots to a file, for `rotate`, `verify` and `musterd --trust-root`
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster key export-root --out fleet.roots")]
pub(crate) struct ExportRoot {
    /// Where to
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// The terminal and how to print: for what needs no server.
pub(crate) struct Desk<'a> {
    pub(crate) terminal: &'a mut Terminal,
    pub(crate) format: Format,
}

impl Desk<'_> {
    /// Prints a root and who has signed it.
    fn show(&mut self, envelope: &Envelope, newest: Option<&domain::trust::Root>) -> Result<(), Failure> {
        let root = file::look_into(envelope)?;
        let text = match self.format {
            Format::Table => view::key::root(&root, Some((envelope, newest)), self.terminal.style()),
            Format::Json => format!("{:#}\n", json(envelope)?),
            Format::Yaml => yaml(&json(envelope)?)?,
        };
        self.terminal.data(&text)
    }

    fn notice(&mut self, text: &str) -> Result<(), Failure> {
        match self.format {
            Format::Table => self.terminal.notice(text),
            Format::Json | Format::Yaml => Ok(()),
        }
    }
}

/// The JSON form of the root in an envelope.
fn json(envelope: &Envelope) -> Result<serde_json::Value, Failure> {
    let root = TrustRoot::decode(&envelope.payload[..]);
    let root = root.map_err(|_| Failure::Answer("the trust root cannot be read".to_owned()))?;
    Ok(wire::json::to_json(&root))
}

impl Key {
    pub(crate) async fn run(self, config: Config, terminal: &mut Terminal) -> Result<(), Failure> {
        let format = config.output;
        match self {
            Self::List(it) => it.run(&mut super::connect(config, terminal).await?).await,
            Self::ExportRoot(it) => it.run(&mut super::connect(config, terminal).await?).await,
            Self::Publish(it) => it.run(&mut super::connect(config, terminal).await?).await,
            Self::Init(it) => it.run(&mut Desk { terminal, format }),
            Self::Root(it) => it.run(&mut Desk { terminal, format }),
            Self::Rotate(it) => it.run(&mut Desk { terminal, format }),
            Self::Sign(it) => it.run(&mut Desk { terminal, format }),
            Self::Verify(it) => it.run(&mut Desk { terminal, format }),
        }
    }
}

/// The fleet's chain.
async fn roots(session: &Session<'_>) -> Result<Chain, Failure> {
    let response = session.client.trust().get_roots(GetRootsRequest { from_version: 0 }).await;
    let roots = response.map_err(|status| session.client.refusal(status))?.into_inner();
    Chain::read(&roots.chain)
        .map_err(|error| Failure::Answer(format!("its trust roots do not hold: {error}")))
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let chain = roots(session).await?;
        let (_, envelope) = chain.envelopes().last().expect("invariant: a chain has a root");
        let root = TrustRoot::decode(&envelope.payload[..]);
        let root = root.map_err(|_| Failure::Answer("the trust root cannot be read".to_owned()))?;
        session.show(&root, |_, style| view::key::root(chain.newest(), None, style))
    }
}

impl Init {
    fn run(self, desk: &mut Desk<'_>) -> Result<(), Failure> {
        if let Some(there) = self.files.iter().find(|file| file.symlink_metadata().is_ok()) {
            return Err(Failure::Input(format!(
                "{} exists; key files are never overwritten",
                there.display()
            )));
        }
        let mut made = Vec::new();
        for path in self.files {
            let key = runtime::keys::load_or_create(&path).map_err(|error| file::key_failure(&error))?;
            made.push((path.display().to_string(), wire::sign::public_key(&key.verifying_key())));
        }
        let json = || {
            let one = |(file, key): &(String, domain::trust::PublicKey)| serde_json::json!({"file": file, "publicKey": wire::sign::key_text(key)});
            serde_json::Value::Array(made.iter().map(one).collect())
        };
        let text = match desk.format {
            Format::Table => view::key::files(&made, desk.terminal.style()),
            Format::Json => format!("{:#}\n", json()),
            Format::Yaml => yaml(&json())?,
        };
        desk.terminal.data(&text)?;
        desk.notice("Keep copies of the key files apart: a key that is lost cannot be made again.")
    }
}

impl Sign {
    fn run(self, desk: &mut Desk<'_>) -> Result<(), Failure> {
        let mut envelope = file::read_root(&self.file)?;
        for path in &self.keys {
            let signer = runtime::keys::signer(path).map_err(|error| file::key_failure(&error))?;
            let signed = wire::root::sign(&mut envelope, &*signer);
            signed.map_err(|error| Failure::Input(error.to_string()))?;
        }
        file::write_root(&self.file, &envelope)?;
        desk.show(&envelope, None)
    }
}

impl Verify {
    fn run(self, desk: &mut Desk<'_>) -> Result<(), Failure> {
        let envelope = file::read_root(&self.file)?;
        let before = self.after.as_deref().map(file::read_chain).transpose()?;
        let newest = before.as_ref().map(|chain| chain.newest().clone());
        let checked = match before {
            None => Chain::begin(envelope.clone()),
            Some(mut chain) => chain.follow(envelope.clone()).map(|()| chain),
        };
        desk.show(&envelope, newest.as_ref())?;
        let chain = checked.map_err(|error| file::not_good(&self.file, &error))?;
        let fingerprint = chain.fingerprint();
        desk.notice(&format!("enough keys have signed it; its fingerprint is {fingerprint}"))
    }
}

impl Publish {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let envelope = file::read_root(&self.file)?;
        let root = file::look_into(&envelope)?;
        if !self.consent.yes {
            let what = format!("make this trust root {} of fleet {}", root.version, root.fleet);
            session.terminal.confirm(&what)?;
        }
        let request = PublishRootRequest { root: envelope.encode_to_vec() };
        let response = session.client.trust().publish_root(request).await;
        let roots = response.map_err(|status| session.client.refusal(status))?.into_inner();
        session.show(&roots, |roots, _| format!("trust root {} is the fleet's newest\n", roots.version))?;
        session.notice(
            "Agents follow with their heartbeats; `muster agent show AGENT` tells which root one obeys.",
        )
    }
}

impl ExportRoot {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let chain = roots(session).await?;
        file::write(&self.out, &chain.encode())?;
        let (version, fingerprint) = (chain.newest().version, chain.fingerprint());
        let out = self.out.display();
        session.notice(&format!("{out} has the roots up to {version}, whose fingerprint is {fingerprint}"))
    }
}
