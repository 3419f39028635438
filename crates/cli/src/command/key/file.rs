//! Files of a key ceremony: roots as JSON, so that people see what they carry; chains as bytes.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use wire::agent::v1::Envelope;
use wire::root::Chain;

use crate::failure::Failure;
use crate::manifests::read_bounded;

/// Largest file with a root: its envelope in base64, and some space.
const MAX_ROOT_FILE_BYTES: u64 = 4 * wire::root::MAX_SIGNED_ROOT_BYTES as u64;

fn told(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text += &format!(": {inner}");
        source = inner.source();
    }
    text
}

/// A key file that cannot be used.
pub(super) fn key_failure(error: &runtime::keys::KeyError) -> Failure {
    Failure::Input(told(error))
}

/// A root that is not to be trusted.
pub(super) fn not_good(path: &Path, error: &wire::root::RootError) -> Failure {
    Failure::Refused {
        cause: format!("{} is no trust root to follow: {}", path.display(), told(error)),
        way_out: "`muster key sign ROOT.json --key FILE` adds signatures; `muster key rotate` makes the next root from the newest"
            .to_owned(),
    }
}

/// Reads the envelope of a root.
pub(super) fn read_root(path: &Path) -> Result<Envelope, Failure> {
    let bytes = read_bounded(path, MAX_ROOT_FILE_BYTES)?;
    let refuse =
        |why: String| Failure::Input(format!("{} is no file of `muster key root`: {why}", path.display()));
    let json = serde_json::from_slice(&bytes).map_err(|error| refuse(error.to_string()))?;
    let envelope: Envelope = wire::json::from_json(json).map_err(refuse)?;
    look_into(&envelope).map_err(|error| refuse(error.to_string()))?;
    Ok(envelope)
}

/// What the root in an envelope says, whoever signed it.
pub(super) fn look_into(envelope: &Envelope) -> Result<domain::trust::Root, Failure> {
    wire::root::look_into(envelope).map_err(|error| Failure::Input(told(&error)))
}

/// Writes the envelope of a root.
pub(super) fn write_root(path: &Path, envelope: &Envelope) -> Result<(), Failure> {
    write(path, format!("{:#}\n", wire::json::to_json(envelope)).as_bytes())
}

/// Reads a chain, or a first root in place of one.
pub(super) fn read_chain(path: &Path) -> Result<Chain, Failure> {
    let bytes = read_bounded(path, wire::root::MAX_CHAIN_BYTES as u64)?;
    let chain = match bytes.first() {
        Some(b'{') => Chain::begin(read_root(path)?),
        _ => Chain::read(&bytes),
    };
    chain.map_err(|error| not_good(path, &error))
}

/// Writes a file as a whole.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let draft = path.with_extension("draft");
    let written =
        OpenOptions::new().write(true).create(true).truncate(true).open(&draft).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&draft, path)
        });
    written.map_err(|error| Failure::Input(format!("cannot write {}: {error}", path.display())))
}
