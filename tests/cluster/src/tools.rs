//! The programs that these tests run.

use std::path::PathBuf;

/// Folder of the pinned tools.
fn folder() -> PathBuf {
    let given = std::env::var_os("MUSTER_TOOLS_DIR").map(PathBuf::from);
    given.unwrap_or_else(|| crate::root().join(".tools"))
}

/// A program of that folder.
#[must_use]
pub fn tool(name: &str) -> PathBuf {
    folder().join("bin").join(name)
}

/// A file that came with the programs.
pub(crate) fn shared(name: &str) -> PathBuf {
    folder().join("share").join(name)
}

/// Whether all of these are there, programs and files of `share/`. If not, the caller has nothing to test.
///
/// # Panics
/// If one is missing and `CI` is set.
#[must_use]
pub fn have(names: &[&str]) -> bool {
    let is_there = |name: &str| tool(name).exists() || shared(name).exists();
    let missing: Vec<&str> = names.iter().copied().filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return true;
    }
    let text =
        format!("SKIPPED: {} missing in {}: make test-cluster", missing.join(", "), folder().display());
    assert!(std::env::var_os("CI").is_none(), "{text}");
    #[expect(clippy::print_stderr, reason = "whoever runs tests has to see that these did not")]
    {
        eprintln!("{text}");
    }
    false
}
