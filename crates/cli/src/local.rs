//! A server on this machine: what a running `musterd all` leaves in its data directory for those who work there.

use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Where it says how it is reached.
const ADDRESSES: &str = "addresses.json";
/// The CA that vouches for it, where the addresses do not name another.
const CA: &str = "tls/ca.pem";
/// The API token of whoever owns the directory.
const TOKEN: &str = "admin.token";
/// Largest file with addresses: a few URLs.
const MAX_BYTES: u64 = 64 << 10;

/// A server that runs, or ran, with a data directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Local {
    /// URL of its API.
    pub(crate) api: String,
    /// The CA that vouches for it.
    pub(crate) ca: PathBuf,
    /// The API token that it made for its owner, if whoever asks may see it.
    pub(crate) token: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Addresses {
    api: String,
    ca: Option<PathBuf>,
}

impl Local {
    /// The server with this data directory. `None` if there is none: then others are asked for in the usual way.
    pub(crate) fn find(data_dir: &Path) -> Option<Self> {
        let bytes = crate::manifests::read_bounded(&data_dir.join(ADDRESSES), MAX_BYTES).ok()?;
        let addresses: Addresses = serde_json::from_slice(&bytes).ok()?;
        let token = Some(data_dir.join(TOKEN)).filter(|path| std::fs::File::open(path).is_ok());
        let ca = addresses.ca.unwrap_or_else(|| data_dir.join(CA));
        Some(Self { api: addresses.api, ca, token })
    }
}
