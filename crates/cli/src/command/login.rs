//! `muster login`, `muster logout`, `muster context`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use wire::api::v1::WhoAmIRequest;

use crate::client::Client;
use crate::config::Config;
use crate::contexts::{self, Context, Contexts};
use crate::credential::Credential;
use crate::failure::Failure;
use crate::terminal::Terminal;
use crate::view::api_token::acting_as;

/// Longest token that is read from standard input, in bytes.
const MAX_TOKEN_BYTES: u64 = 8 << 10;
/// Name of the context where nothing is said.
const DEFAULT: &str = "default";

/// Keep a server and a token for later commands
#[derive(Debug, Args)]
#[command(after_long_help = "\
The token is the one of --token-file or MUSTER_TOKEN; without either it is read from standard input.

Examples:
  muster login --data-dir muster-data --token-file muster-data/admin.token
  muster login prod --server https://muster.example.com:7400 < prod.token")]
pub(crate) struct Login {
    /// Name of the context
    #[arg(default_value = DEFAULT)]
    name: String,
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
        let credential = match config.given.is_none() {
            true => from_input(terminal)?,
            false => config.given,
        };
        let server = config.server;
        credential.fits(&server.url)?;
        let client = Client::connect(&server, credential.clone()).await?;
        let answer = client.access().who_am_i(WhoAmIRequest {}).await;
        let answer = answer.map_err(|status| client.refusal(status))?.into_inner();
        let token = credential.token().unwrap_or_default().to_owned();
        // Later commands may run in another folder.
        let ca = server.ca.map(std::path::absolute).transpose();
        let ca = ca.map_err(|source| Failure::Read { name: "the current folder".to_owned(), source })?;
        kept.contexts.insert(self.name.clone(), Context { server: server.url.clone(), ca, token });
        kept.current = Some(self.name.clone());
        kept.save(&path)?;
        terminal.notice(&format!("logged in to {} as {}", server.url, acting_as(&answer)))?;
        terminal.notice(&format!("context {} is the current one, kept in {}", self.name, path.display()))
    }
}

fn from_input(terminal: &mut Terminal) -> Result<Credential, Failure> {
    let failed = |source| Failure::Read { name: "standard input".to_owned(), source };
    let bytes = terminal.read_input(MAX_TOKEN_BYTES).map_err(failed)?;
    Credential::new(String::from_utf8_lossy(&bytes).trim(), "standard input")
}

impl Logout {
    pub(crate) fn run(self, terminal: &mut Terminal) -> Result<(), Failure> {
        let path = place()?;
        let mut kept = Contexts::load(&path)?;
        let Some(name) = self.name.or_else(|| kept.current.clone()) else {
            return terminal.notice("You are not logged in.");
        };
        let _ = kept.pick(Some(&name))?;
        kept.contexts.remove(&name);
        kept.current = kept.current.filter(|current| *current != name);
        kept.save(&path)?;
        terminal.notice(&format!(
            "context {name} is forgotten; `muster api-token revoke` makes its token useless"
        ))
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
