//! Roots that are written for others to sign: the first one, and the next one.

use std::path::PathBuf;

use clap::Args;
use domain::trust::{PublicKey, Role};
use domain::{FleetId, Span, Timestamp};
use wire::sign::{parse_key, public_key};

use super::super::parse_duration;
use super::{Desk, file};
use crate::failure::Failure;

fn key(text: &str) -> Result<PublicKey, String> {
    parse_key(text).map(|key| public_key(&key))
}

/// Write a fleet's first trust root, for its keys to sign
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster key root --fleet default --root KEY --root KEY --root-threshold 2 --director KEY --content KEY \\\n    --out root-1.json"
)]
pub(crate) struct Root {
    /// The fleet
    #[arg(long, value_name = "ID", default_value = "default")]
    fleet: FleetId,
    /// Public key that signs roots; may be given several times
    #[arg(long = "root", required = true, value_name = "KEY", value_parser = key)]
    roots: Vec<PublicKey>,
    /// How many of them must sign
    #[arg(long, value_name = "N", default_value_t = 1)]
    root_threshold: u32,
    /// Public key that signs snapshots and assignments; may be given several times
    #[arg(long = "director", required = true, value_name = "KEY", value_parser = key)]
    directors: Vec<PublicKey>,
    /// Public key that signs content; may be given several times
    #[arg(long = "content", value_name = "KEY", value_parser = key)]
    contents: Vec<PublicKey>,
    /// How many of them must sign
    #[arg(long, value_name = "N", default_value_t = 1)]
    content_threshold: u32,
    /// How long the root is good
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = parse_duration)]
    validity: Span,
    /// File to write; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Write the trust root that follows, with the same keys or others, for both to sign
#[derive(Debug, Args)]
#[command(
    after_long_help = "Examples:\n  muster key rotate fleet.roots --out root-2.json\n  muster key rotate fleet.roots --add-director KEY --remove-director KEY --out root-2.json"
)]
pub(crate) struct Rotate {
    /// The fleet's chain, from `muster key export-root`
    from: PathBuf,
    /// Add a key that signs roots
    #[arg(long, value_name = "KEY", value_parser = key)]
    add_root: Vec<PublicKey>,
    /// Take one away
    #[arg(long, value_name = "KEY", value_parser = key)]
    remove_root: Vec<PublicKey>,
    /// How many of them must sign [default: as before]
    #[arg(long, value_name = "N")]
    root_threshold: Option<u32>,
    /// Add a key that signs snapshots and assignments
    #[arg(long, value_name = "KEY", value_parser = key)]
    add_director: Vec<PublicKey>,
    /// Take one away: what it signed is refused from then on, and floors start again
    #[arg(long, value_name = "KEY", value_parser = key)]
    remove_director: Vec<PublicKey>,
    /// Add a key that signs content
    #[arg(long, value_name = "KEY", value_parser = key)]
    add_content: Vec<PublicKey>,
    /// Take one away
    #[arg(long, value_name = "KEY", value_parser = key)]
    remove_content: Vec<PublicKey>,
    /// How many of them must sign [default: as before]
    #[arg(long, value_name = "N")]
    content_threshold: Option<u32>,
    /// How long the root is good
    #[arg(long, value_name = "DURATION", default_value = "365d", value_parser = parse_duration)]
    validity: Span,
    /// File to write; it must not exist
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Root {
    pub(super) fn run(self, desk: &mut Desk<'_>) -> Result<(), Failure> {
        let issued_at = now();
        let root = domain::trust::Root {
            fleet: self.fleet,
            version: 1,
            issued_at,
            expires_at: issued_at + self.validity,
            root: Role::new(self.roots, self.root_threshold),
            director: Role::new(self.directors, 1),
            content: Role::new(self.contents, self.content_threshold),
        };
        write(desk, &root, (self.out, None))
    }
}

impl Rotate {
    pub(super) fn run(self, desk: &mut Desk<'_>) -> Result<(), Failure> {
        let chain = file::read_chain(&self.from)?;
        let (newest, now) = (chain.newest(), now().max(chain.newest().issued_at));
        let root = domain::trust::Root {
            root: changed(&newest.root, (&self.add_root, &self.remove_root), self.root_threshold)?,
            director: changed(&newest.director, (&self.add_director, &self.remove_director), None)?,
            content: changed(
                &newest.content,
                (&self.add_content, &self.remove_content),
                self.content_threshold,
            )?,
            ..newest.next(now, now + self.validity)
        };
        write(desk, &root, (self.out, Some(newest)))
    }
}

/// A role with some keys more and some fewer.
fn changed(
    role: &Role,
    (add, remove): (&[PublicKey], &[PublicKey]),
    threshold: Option<u32>,
) -> Result<Role, Failure> {
    if let Some(stranger) = remove.iter().find(|key| !role.keys().contains(key)) {
        let key = wire::sign::key_text(stranger);
        return Err(Failure::Input(format!(
            "{key} is none of the keys of that role; `muster key list` shows them"
        )));
    }
    let kept = role.keys().iter().filter(|key| !remove.contains(key));
    Ok(Role::new(kept.chain(add).copied(), threshold.unwrap_or(role.threshold())))
}

fn write(
    desk: &mut Desk<'_>,
    root: &domain::trust::Root,
    (out, before): (PathBuf, Option<&domain::trust::Root>),
) -> Result<(), Failure> {
    root.check().map_err(|error| Failure::Input(format!("that makes no trust root: {error}")))?;
    if out.symlink_metadata().is_ok() {
        return Err(Failure::Input(format!("{} exists; give another name with --out", out.display())));
    }
    let envelope = wire::root::unsigned(root);
    file::write_root(&out, &envelope)?;
    desk.show(&envelope, before)?;
    let keys = if before.is_some() { "the keys of the root before it, and its own," } else { "its keys" };
    desk.notice(&format!("{} is to be signed with {keys}: `muster key sign`", out.display()))
}

fn now() -> Timestamp {
    runtime::clock::now()
}
