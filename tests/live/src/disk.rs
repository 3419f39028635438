//! A small file system.

use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Files that fit on one: far more than a test makes, and few enough to take all of them at once.
const MAX_FILES: u32 = 2048;

/// A file system of a given size, where the test may mount one. Unmounted when dropped.
pub struct SmallDisk(PathBuf);

/// What takes the room of a disk. Gone when dropped.
pub struct Ballast(PathBuf);

impl SmallDisk {
    /// Mounts one of this size (as `mount` reads it, e.g. "256k") at a directory. `None`
    /// where mounting needs rights that the test lacks.
    ///
    /// # Panics
    /// If it cannot be mounted in CI, which may mount.
    #[must_use]
    pub fn mount(at: &Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).expect("a directory can be made");
        let options = format!("size={size},nr_inodes={MAX_FILES}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(at)
            .status()
            .is_ok_and(|status| status.success());
        assert!(mounted || std::env::var_os("CI").is_none(), "CI may mount a tmpfs");
        mounted.then(|| Self(at.to_owned()))
    }

    /// Takes all that is left: the last byte, and the last file.
    ///
    /// # Panics
    /// If something else than the room is in the way.
    #[must_use]
    pub fn fill(&self) -> Ballast {
        let ballast = self.leave(0);
        for number in 0..=MAX_FILES {
            let made = std::fs::File::create(ballast.0.join(number.to_string()));
            let Err(error) = made else { continue };
            assert_eq!(error.kind(), std::io::ErrorKind::StorageFull, "{error}");
            return ballast;
        }
        panic!("the disk takes any number of files");
    }

    /// Takes all but so many bytes.
    ///
    /// # Panics
    /// If something else than the room is in the way.
    #[must_use]
    pub fn leave(&self, bytes: u64) -> Ballast {
        let ballast = Ballast(self.0.join("ballast"));
        std::fs::create_dir(&ballast.0).expect("there is no ballast yet");
        let mut file = std::fs::File::create(ballast.0.join("bytes")).expect("there is room for a file");
        let mut block = vec![1; 1 << 20];
        while !block.is_empty() {
            match file.write(&block) {
                Ok(written) if written == block.len() => {}
                Ok(_) => block.truncate(block.len() / 2),
                Err(error) if error.kind() == std::io::ErrorKind::StorageFull => {
                    block.truncate(block.len() / 2)
                }
                Err(error) => panic!("ballast cannot be written: {error}"),
            }
        }
        let taken = file.metadata().expect("it is there").len();
        file.set_len(taken.saturating_sub(bytes)).expect("it can be cut");
        ballast
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(std::process::Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}
