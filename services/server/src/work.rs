//! A folder for what lives as long as a process.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// A folder for files on their way, of this user alone, which goes with it.
pub(crate) struct Work(PathBuf);

impl Work {
    /// Makes it below the folder for temporary files.
    pub(crate) fn new(purpose: &str) -> anyhow::Result<Self> {
        let path = std::env::temp_dir().join(format!("musterd-{purpose}-{}", runtime::ids::random_id()));
        let made = fs::DirBuilder::new().mode(0o700).create(&path);
        made.with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // It lies in the memory or on the disk of a Pod that ends now.
        let _removed = fs::remove_dir_all(&self.0);
    }
}
