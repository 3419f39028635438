//! Finding a `nats-server` that is new enough.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::nats::OLDEST_SERVER;

/// Name of the binary.
const BINARY: &str = "nats-server";

/// Environment variable that names the binary.
pub(crate) const BINARY_ENV: &str = "MUSTER_NATS_SERVER";

/// Where `make tools` installs it, below the tree.
const TOOLS: &str = ".tools/bin";

/// `nats-server --version` answers in milliseconds; a machine that starts up may take longer.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);

/// Why there is no binary to run.
#[derive(Debug, thiserror::Error)]
pub enum FindError {
    /// None was found.
    #[error(
        "no nats-server found (looked for --nats-server-bin, ${BINARY_ENV}, {TOOLS}, beside this program, and on PATH): run `make tools`, or install nats-server {}.{}.{} or newer",
        OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2
    )]
    Missing,
    /// The binary that was asked for cannot be run.
    #[error("{} cannot be run as nats-server", path.display())]
    NotRunnable {
        /// The binary.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// Only binaries that are too old were found.
    #[error(
        "nats-server is too old: {}; Muster needs {}.{}.{} or newer: run `make tools`",
        found.iter().map(|(path, version)| format!("{} is {version}", path.display())).collect::<Vec<_>>().join(", "),
        OLDEST_SERVER.0, OLDEST_SERVER.1, OLDEST_SERVER.2
    )]
    TooOld {
        /// Binaries and their versions.
        found: BTreeMap<PathBuf, String>,
    },
}

/// The binary to run: the one that is asked for, or else `$MUSTER_NATS_SERVER`; or else the first one that is
/// new enough in `$MUSTER_TOOLS_DIR/bin`, `.tools/bin` here or in a directory above, beside this program and
/// on PATH.
///
/// # Errors
/// [`FindError`] with what was found, and what to do.
pub async fn find(asked_for: Option<&Path>) -> Result<PathBuf, FindError> {
    let env = std::env::var_os(BINARY_ENV).filter(|path| !path.is_empty()).map(PathBuf::from);
    if let Some(path) = asked_for.map(Path::to_owned).or(env) {
        let version =
            version(&path).await.map_err(|source| FindError::NotRunnable { path: path.clone(), source })?;
        return match crate::nats::new_enough(&version) {
            true => Ok(path),
            false => Err(FindError::TooOld { found: [(path, version)].into() }),
        };
    }
    let mut found = BTreeMap::new();
    for path in candidates().into_iter().filter(|path| path.is_file()) {
        match version(&path).await {
            Ok(version) if crate::nats::new_enough(&version) => return Ok(path),
            Ok(version) => {
                found.insert(path, version);
            }
            Err(error) => tracing::debug!(path = %path.display(), %error, "not a nats-server"),
        }
    }
    Err(if found.is_empty() { FindError::Missing } else { FindError::TooOld { found } })
}

fn candidates() -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(std::env::var_os("MUSTER_TOOLS_DIR").map(|tools| PathBuf::from(tools).join("bin")));
    let here = std::env::current_dir().unwrap_or_default();
    folders.extend(here.ancestors().map(|folder| folder.join(TOOLS)));
    let program = std::env::current_exe().ok();
    folders.extend(program.as_deref().and_then(Path::parent).map(Path::to_owned));
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    folders.into_iter().map(|folder| folder.join(BINARY)).collect()
}

/// The version that `nats-server: v2.15.1` tells.
async fn version(path: &Path) -> std::io::Result<String> {
    let mut command = tokio::process::Command::new(path);
    let child = command.arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(VERSION_TIMEOUT, child).await??;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.trim().rsplit('v').next().unwrap_or_default().to_owned();
    match text.starts_with(BINARY) {
        true => Ok(version),
        false => Err(std::io::Error::other("it does not tell its version as nats-server does")),
    }
}
