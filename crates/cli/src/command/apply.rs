//! `muster apply`.

use std::path::PathBuf;

use clap::Args;
use wire::api::v1::{ApplyRequest, Resource};
use wire::manifest::Located;

use crate::args::{Change, TakeOver};
use crate::failure::Failure;
use crate::manifests;
use crate::session::Session;
use crate::terminal::Terminal;
use crate::view;

const EXAMPLES: &str = "\
Examples:
  muster apply -f examples/             # every *.yaml, *.yml and *.json of a folder
  muster apply -f web.yaml --dry-run    # what would change, and which agents it touches
  muster apply -f web.yaml -m 'close port 22'
  generate-policies | muster apply -f -";

/// Create or update everything that manifests describe, in one atomic change
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Apply {
    /// File or folder with manifests (YAML or JSON), or - for standard input; may be repeated
    #[arg(long = "file", short = 'f', required = true, value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    claim: TakeOver,
}

impl Apply {
    /// Reads the manifests before any server is asked.
    pub(crate) fn read(&self, terminal: &mut Terminal) -> Result<Vec<Located>, Failure> {
        let (located, left_out) = manifests::read(&self.files, terminal)?;
        for folder in left_out {
            terminal.notice(&format!(
                "note: {} is a folder inside a folder and was left out; name it with -f to apply it",
                folder.display()
            ))?;
        }
        Ok(located)
    }

    pub(crate) async fn run(self, located: Vec<Located>, session: &mut Session<'_>) -> Result<(), Failure> {
        let names = manifests::describe(&located);
        let resources: Vec<Resource> = located.into_iter().map(|it| it.resource).collect();
        let request = ApplyRequest {
            resources,
            dry_run: self.change.dry_run,
            message: self.change.message,
            manager: String::new(),
            take_over: self.claim.take_over,
        };
        let response = match session.client.policy().apply(request).await {
            Ok(response) => response.into_inner(),
            Err(status) => return Err(session.client.refusal_of(status, names)),
        };
        session.show(&response, view::change::apply)?;
        if response.tokens.is_empty() {
            return Ok(());
        }
        session.notice("Join tokens are shown this once: their secrets are kept nowhere.")
    }
}
