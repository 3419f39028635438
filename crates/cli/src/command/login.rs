//! `muster login`, `muster logout`, `muster context`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wire::api::v1::WhoAmIRequest;

use crate::client::Client;
use crate::config::{Config, Server};
use crate::contexts::{self, Context, Contexts, SignIn};
use crate::credential::Credential;
use crate::failure::Failure;
use crate::sign_in::{self, Challenge, Party};
use crate::terminal::Terminal;
use crate::view::api_token::acting_as;

/// Longest token that is read from standard input, in bytes.
const MAX_TOKEN_BYTES: u64 = 8 << 10;
/// Name of the context where nothing is said.
const DEFAULT: &str = "default";

/// Keep a server and a token for later commands, or sign in
#[derive(Debug, Args)]
#[command(after_long_help = "\
The token is the one of --token-file or MUSTER_TOKEN; without either it is read from standard input.
With --oidc you sign in at the OpenID provider of the server, and its tokens are renewed as long as it likes.

Examples:
  muster login --data-dir muster-data --token-file muster-data/admin.token
  muster login prod --server https://muster.example.com:7400 < prod.token
  muster login prod --server https://muster.example.com:7400 --oidc
  muster login prod --server https://muster.example.com:7400 --oidc --device")]
pub(crate) struct Login {
    /// Name of the context
    #[arg(default_value = DEFAULT)]
    name: String,
    /// Sign in at the OpenID provider of the server, with a browser on this machine
    #[arg(long)]
    oidc: bool,
    /// Sign in with a browser on any machine, by a code
    #[arg(long, requires = "oidc")]
    device: bool,
    /// PEM file with the CA of the provider [default: those of this machine]
    #[arg(long, value_name = "FILE", requires = "oidc")]
    issuer_ca_file: Option<PathBuf>,
}

/// Forget a server and its token; the token itself stays good
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster logout\n  muster logout prod")]
pub(crate) struct Logout {
    /// Name of the context [default: the current one]
    name: Option<String>,
}

/// Servers that you have logged in to
#[derive(Debug, Subcommand)]
pub(crate) enum ContextCommand {
    List(List),
    Use(Use),
}

/// List contexts, the current one marked
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster context list")]
pub(crate) struct List {}

/// Make a context the current one
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster context use prod")]
pub(crate) struct Use {
    /// Name of the context
    name: String,
}

fn place() -> Result<PathBuf, Failure> {
    contexts::path().ok_or_else(|| {
        Failure::Usage("there is no folder for contexts: set HOME or XDG_CONFIG_HOME to one".to_owned())
    })
}

impl Login {
    pub(crate) async fn run(self, config: Config, terminal: &mut Terminal) -> Result<(), Failure> {
        let path = place()?;
        let mut kept = Contexts::load(&path)?;
        let server = config.server;
        let (credential, sign_in) = if self.oidc {
            let (token, sign_in) = self.sign_in(&server, terminal).await?;
            (Credential::new(&token, "the provider")?, Some(sign_in))
        } else if config.given.is_none() {
            (from_input(terminal)?, None)
        } else {
            (config.given, None)
        };
        credential.fits(&server.url)?;
        let client = Client::connect(&server, credential.clone()).await?;
        let answer = client.access().who_am_i(WhoAmIRequest {}).await;
        let answer = answer.map_err(|status| client.refusal(status))?.into_inner();
        let token = credential.token().unwrap_or_default().to_owned();
        // Later commands may run in another folder.
        let ca = absolute(server.ca)?;
        kept.contexts.insert(self.name.clone(), Context { server: server.url.clone(), ca, token, sign_in });
        kept.current = Some(self.name.clone());
        kept.save(&path)?;
        terminal.notice(&format!("logged in to {} as {}", server.url, acting_as(&answer)))?;
        terminal.notice(&format!("context {} is the current one, kept in {}", self.name, path.display()))
    }
}

impl Login {
    /// Signs in at the provider that the server names. What it gives is tried on the server before it is kept.
    async fn sign_in(&self, server: &Server, terminal: &mut Terminal) -> Result<(String, SignIn), Failure> {
        let client = Client::connect(server, Credential::default()).await?;
        let challenge = Challenge::of(&client).await?;
        let ca = absolute(self.issuer_ca_file.clone())?;
        let party = Party::find(challenge, ca.clone()).await?;
        let tokens = match self.device {
            true => sign_in::device::sign_in(&party, terminal).await?,
            false => sign_in::browser::sign_in(&party, terminal).await?,
        };
        sign_in::kept(&party.challenge, ca, tokens)
    }
}

fn absolute(path: Option<PathBuf>) -> Result<Option<PathBuf>, Failure> {
    let absolute = path.map(std::path::absolute).transpose();
    absolute.map_err(|source| Failure::Read { name: "the current folder".to_owned(), source })
}

fn from_input(terminal: &mut Terminal) -> Result<Credential, Failure> {
    let failed = |source| Failure::Read { name: "standard input".to_owned(), source };
    let bytes = terminal.read_input(MAX_TOKEN_BYTES).map_err(failed)?;
    Ok(Credential::new(String::from_utf8_lossy(&bytes).trim(), "standard input")?)
}

impl Logout {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<(), Failure> {
        let path = place()?;
        let mut kept = Contexts::load(&path)?;
        let Some(name) = self.name.or_else(|| kept.current.clone()) else {
            return terminal.notice("You are not logged in.");
        };
        let _ = kept.pick(Some(&name))?;
        let signed_in = kept.contexts.remove(&name).and_then(|context| context.sign_in);
        kept.current = kept.current.filter(|current| *current != name);
        kept.save(&path)?;
        terminal.notice(&match signed_in {
            None => format!("context {name} is forgotten; `muster api-token revoke` makes its token useless"),
            Some(SignIn { issuer, .. }) => {
                format!("context {name} is forgotten; to end the sign-in itself, sign out at {issuer}")
            }
        })
    }
}

impl ContextCommand {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<(), Failure> {
        let path = place()?;
        let mut kept = Contexts::load(&path)?;
        match self {
            Self::List(List {}) => {
                for (name, context) in &kept.contexts {
                    let mark = if kept.current.as_ref() == Some(name) { '*' } else { ' ' };
                    terminal.data(&format!("{mark} {name}  {}\n", context.server))?;
                }
                Ok(())
            }
            Self::Use(Use { name }) => {
                let _ = kept.pick(Some(&name))?;
                kept.current = Some(name);
                kept.save(&path)
            }
        }
    }
}
