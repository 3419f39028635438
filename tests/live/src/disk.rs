//! A small file system.

use std::path::{Path, PathBuf};

/// A file system of a given size, where the test may mount one. Unmounted when dropped.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts one of this size (as `mount` reads it, e.g. "256k") at a directory. `None`
    /// where mounting needs rights that the test lacks.
    ///
    /// # Panics
    /// If it cannot be mounted in CI, which may mount.
    #[must_use]
    pub fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory can be made");
        let options = format!("size={size}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .status()
            .is_ok_and(|status| status.success());
        assert!(mounted || std::env::var_os("CI").is_none(), "CI may mount a tmpfs");
        mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}
