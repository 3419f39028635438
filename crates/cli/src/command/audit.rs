//! `muster audit`.

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use domain::Digest;
use domain::audit::{Broken, Chain, Head};
use wire::api::v1::{AuditEntry, ListAuditEntriesRequest, ListAuditEntriesResponse};

use crate::client::Client;
use crate::failure::Failure;
use crate::session::Session;
use crate::view;

/// Entries asked for at a time: about 600 bytes each.
const PAGE: i32 = 500;
/// Most pages that are read: five hundred million entries; a server that never ends is noticed.
const MAX_PAGES: usize = 1_000_000;
/// Longest line of an exported audit, in bytes.
const MAX_LINE_BYTES: usize = 1 << 20;

/// The audit: who asked for which change, and what came of it
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    List(List),
    Verify(Verify),
    Export(Export),
}

/// List entries, the newest last
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster audit list\n  muster audit list --last 1000 --by token:ci -o json"
)]
pub(crate) struct List {
    /// Only the last so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    last: u32,
    /// Only what this caller asked for, e.g. token:ci
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

/// Follow the chain of digests and say where it is broken
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:
  muster audit verify
  muster audit verify --noted 4711:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
  muster audit verify --file audit.jsonl")]
pub(crate) struct Verify {
    /// An entry that was noted earlier, as NUMBER:DIGEST; the audit has to hold it. `verify` prints the last one
    #[arg(long, value_name = "NUMBER:DIGEST", value_parser = parse_head)]
    noted: Option<Head>,
    /// Read what `muster audit export` wrote, without asking a server
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
}

/// Write all entries as lines of JSON, oldest first
#[derive(Debug, Args)]
#[command(after_long_help = "Examples:\n  muster audit export > audit.jsonl")]
pub(crate) struct Export {}

fn parse_head(text: &str) -> Result<Head, String> {
    let wrong = || "must be NUMBER:DIGEST, as `muster audit verify` prints it".to_owned();
    let (number, digest) = text.split_once(':').ok_or_else(wrong)?;
    let digest = hex::decode(digest).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong)?;
    Ok(Head { number: number.parse().map_err(|_| wrong())?, digest: Digest(digest) })
}

impl Audit {
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        match self {
            Self::List(it) => it.run(session).await,
            Self::Verify(it) => it.run(session).await,
            Self::Export(it) => it.run(session).await,
        }
    }
}

impl List {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let mut pages = Pages { token: String::new(), last: self.last, left: MAX_PAGES };
        let mut entries = Vec::new();
        while let Some(page) = pages.next(&session.client).await? {
            entries.extend(page.into_iter().filter(|it| self.by.as_ref().is_none_or(|by| it.actor == *by)));
        }
        let empty = entries.is_empty().then_some("There is no such entry in the audit.");
        let response = ListAuditEntriesResponse { entries, next_page_token: String::new() };
        session.show_list(&response, empty, view::audit::list)
    }
}

impl Export {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let mut pages = Pages::of_all();
        while let Some(page) = pages.next(&session.client).await? {
            for entry in page {
                session.terminal.data(&format!("{}\n", wire::json::to_json(&entry)))?;
            }
        }
        session.terminal.flush()
    }
}

impl Verify {
    async fn run(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let mut chain = Follow { chain: self.noted.map_or_else(Chain::default, Chain::noting), entries: 0 };
        match &self.file {
            Some(path) => follow_file(&mut chain, path)?,
            None => {
                let mut pages = Pages::of_all();
                while let Some(page) = pages.next(&session.client).await? {
                    page.iter().try_for_each(|entry| chain.take(&entry.stored))?;
                }
            }
        }
        let entries = chain.entries;
        let head = chain.chain.end().map_err(|broken| refusal(&broken))?;
        session.terminal.data(&view::audit::verified(entries, head))
    }
}

/// A chain that is being followed.
struct Follow {
    chain: Chain,
    entries: u64,
}

impl Follow {
    fn take(&mut self, stored: &[u8]) -> Result<(), Failure> {
        let entry = wire::audit::read(stored).map_err(|error| Failure::Refused {
            cause: format!("what follows entry {} of the chain is no entry: it {error}", self.entries),
            way_out: WAY_OUT.to_owned(),
        })?;
        self.entries += 1;
        let taken = self.chain.take(entry.number, entry.previous, Digest::of(stored));
        taken.map_err(|broken| refusal(&broken))
    }
}

const WAY_OUT: &str = "compare with an earlier export; `muster audit list` shows what is there now";

fn refusal(broken: &Broken) -> Failure {
    Failure::Refused { cause: format!("the audit is broken: {broken}"), way_out: WAY_OUT.to_owned() }
}

fn follow_file(chain: &mut Follow, path: &Path) -> Result<(), Failure> {
    use base64::Engine as _;
    use std::io::{BufRead as _, Read as _};

    let name = path.display().to_string();
    let failed = |source| Failure::Read { name: name.clone(), source };
    let mut reader = std::io::BufReader::new(std::fs::File::open(path).map_err(failed)?);
    let mut line = String::new();
    for number in 1.. {
        line.clear();
        let most = u64::try_from(MAX_LINE_BYTES).unwrap_or(u64::MAX);
        if (&mut reader).take(most).read_line(&mut line).map_err(failed)? == 0 {
            break;
        }
        let wrong = || Failure::Input(format!("{name}:{number}: is no line of `muster audit export`"));
        let json: serde_json::Value = serde_json::from_str(&line).map_err(|_| wrong())?;
        let stored = json["stored"].as_str().ok_or_else(wrong)?;
        let stored = base64::engine::general_purpose::STANDARD.decode(stored).map_err(|_| wrong())?;
        chain.take(&stored)?;
    }
    Ok(())
}

/// The entries of a server, page by page.
struct Pages {
    token: String,
    last: u32,
    left: usize,
}

impl Pages {
    fn of_all() -> Self {
        Self { token: String::new(), last: 0, left: MAX_PAGES }
    }

    async fn next(&mut self, client: &Client) -> Result<Option<Vec<AuditEntry>>, Failure> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        let (page_token, last) = (std::mem::take(&mut self.token), self.last);
        let request = ListAuditEntriesRequest { page_size: PAGE, page_token, last };
        let page = client.audit().list_audit_entries(request).await;
        let page = page.map_err(|status| client.refusal(status))?.into_inner();
        self.token = page.next_page_token;
        if self.token.is_empty() {
            self.left = 0;
        }
        Ok(Some(page.entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noted_entry_is_read_as_it_was_printed() {
        let head = Head { number: 7, digest: Digest([0xab; 32]) };
        assert_eq!(parse_head(&format!("7:{}", head.digest)), Ok(head));
        for text in ["", "7", "7:ab", "x:00", ":"] {
            assert!(parse_head(text).unwrap_err().contains("NUMBER:DIGEST"), "{text}");
        }
    }
}
