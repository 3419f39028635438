//! Trees of files to distribute, made the same each time.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use domain::Digest;

/// A file of a tree.
#[derive(Clone, PartialEq, Eq)]
pub struct TreeFile {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Whether it may be executed.
    pub executable: bool,
}

impl fmt::Debug for TreeFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mode = if self.executable { "x" } else { "-" };
        let digest = Digest::of(&self.bytes).to_string();
        write!(f, "{} bytes {mode} {}", self.bytes.len(), &digest[..8])
    }
}

/// Files by their path.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Tree(pub BTreeMap<String, TreeFile>);

impl fmt::Debug for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(&self.0).finish()
    }
}

/// Numbers without a pattern, the same for the same seed (splitmix64).
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound.max(1) as u64).unwrap_or(0)
    }

    /// Bytes that do not compress.
    fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.next().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// Lines of rules: bytes that compress as text does.
    fn rules(&mut self, count: usize) -> Vec<u8> {
        let mut text = String::with_capacity(count + 128);
        while text.len() < count {
            let (a, b) = (self.next(), self.next());
            let _ok = writeln!(
                text,
                "alert tcp any any -> 10.{}.{}.0/24 {} (msg:\"suspicious header {:08x}\"; content:\"{:016x}\"; rev:{};)",
                a % 256,
                a >> 8 & 0xff,
                [80, 443, 8080, 25][(a >> 16 & 3) as usize],
                a >> 32,
                b,
                a >> 20 & 7
            );
        }
        text.truncate(count);
        text.into_bytes()
    }
}

impl Tree {
    /// About so many bytes, half of them rules, most of the rest without any pattern; beside that an executable,
    /// an empty file and one in deep folders.
    #[must_use]
    pub fn made(seed: u64, bytes: usize) -> Self {
        let mut noise = Noise(seed);
        let mut tree = Self::default();
        tree.put("rules/ips.rules", noise.rules(bytes / 2));
        tree.put("models/classifier.bin", noise.bytes(bytes / 2));
        tree.put("bin/scan", b"#!/bin/sh\nexit 0\n".to_vec());
        tree.put("empty", Vec::new());
        tree.put("a/b/c/d/version", format!("{seed}\n").into_bytes());
        if let Some(file) = tree.0.get_mut("bin/scan") {
            file.executable = true;
        }
        tree
    }

    /// So many bytes in one file that do not compress: fetching them costs what they weigh.
    #[must_use]
    pub fn dense(seed: u64, bytes: usize) -> Self {
        let mut tree = Self::default();
        tree.put("model.bin", Noise(seed).bytes(bytes));
        tree
    }

    /// Puts a file in its place.
    pub fn put(&mut self, path: &str, bytes: Vec<u8>) {
        self.0.insert(path.to_owned(), TreeFile { bytes, executable: false });
    }

    /// The next revision: about 2 % of each large file changed, inserted, removed or moved, and a file that is new.
    #[must_use]
    pub fn next(&self, seed: u64) -> Self {
        let (mut noise, mut tree) = (Noise(seed ^ 0x5eed), self.clone());
        for file in tree.0.values_mut().filter(|file| file.bytes.len() > 4096) {
            let quarter = file.bytes.len() / 200;
            let at = noise.below(file.bytes.len() - quarter);
            let changed = noise.bytes(quarter);
            file.bytes[at..at + quarter].copy_from_slice(&changed);
            let at = noise.below(file.bytes.len());
            file.bytes.splice(at..at, noise.bytes(quarter));
            let at = noise.below(file.bytes.len() - quarter);
            let moved: Vec<u8> = file.bytes.drain(at..at + quarter).collect();
            let at = noise.below(file.bytes.len());
            file.bytes.splice(at..at, moved);
            let at = noise.below(file.bytes.len() - quarter);
            file.bytes.drain(at..at + quarter);
        }
        tree.put(&format!("news/{seed}"), noise.rules(1000));
        tree
    }

    /// Length of all files.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.values().map(|file| file.bytes.len() as u64).sum()
    }

    /// Writes it to a directory that is not there yet.
    ///
    /// # Panics
    /// If that cannot be done.
    pub fn write(&self, dir: &Path) {
        fs::create_dir(dir).expect("the directory is new");
        for (path, file) in &self.0 {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().expect("it lies in the directory"))
                .expect("folders can be made");
            fs::write(&path, &file.bytes).expect("a file can be written");
            let mode = if file.executable { 0o755 } else { 0o644 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its mode can be set");
        }
    }

    /// Reads a directory.
    ///
    /// # Errors
    /// What stands in the way, for example a file that vanished meanwhile.
    pub fn read(dir: &Path) -> std::io::Result<Self> {
        let mut tree = Self::default();
        tree.read_below(dir, "")?;
        Ok(tree)
    }

    fn read_below(&mut self, dir: &Path, prefix: &str) -> std::io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let (entry, kind) = entry.and_then(|entry| entry.file_type().map(|kind| (entry, kind)))?;
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if kind.is_dir() {
                self.read_below(&entry.path(), &format!("{name}/"))?;
                continue;
            }
            if !kind.is_file() {
                return Err(std::io::Error::other(format!("{name} is neither a file nor a directory")));
            }
            let executable = entry.metadata()?.permissions().mode() & 0o111 != 0;
            self.0.insert(name, TreeFile { bytes: fs::read(entry.path())?, executable });
        }
        Ok(())
    }

    /// What a link leads to at one moment; `None` if it is not there.
    ///
    /// # Panics
    /// If what it leads to cannot be read although the link still leads there.
    #[must_use]
    pub fn observe(link: &Path) -> Option<Self> {
        loop {
            let target = match fs::canonicalize(link) {
                Ok(target) => target,
                Err(error) if error.kind() == ErrorKind::NotFound && fs::read_link(link).is_err() => {
                    return None;
                }
                // It was switched in between, and what it led to is gone.
                Err(_) if fs::canonicalize(link).is_ok() => continue,
                Err(error) => panic!("{} leads nowhere: {error}", link.display()),
            };
            match Self::read(&target) {
                Ok(tree) => return Some(tree),
                Err(error) => assert!(
                    fs::canonicalize(link).ok().as_ref() != Some(&target),
                    "{} is in force and cannot be read: {error}",
                    target.display()
                ),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_the_same_each_time_and_survive_a_disk() {
        let first = Tree::made(1, 100_000);
        assert_eq!(first, Tree::made(1, 100_000));
        assert_ne!(first, Tree::made(2, 100_000));
        let next = first.next(7);
        let (old, new) = (&first.0["models/classifier.bin"], &next.0["models/classifier.bin"]);
        assert_eq!(old.bytes.len(), new.bytes.len());
        assert_ne!(old, new);
        let dir = tempfile::tempdir().unwrap();
        next.write(&dir.path().join("tree"));
        assert_eq!(Tree::read(&dir.path().join("tree")).unwrap(), next);
        std::os::unix::fs::symlink("tree", dir.path().join("link")).unwrap();
        assert_eq!(Tree::observe(&dir.path().join("link")), Some(next));
        assert_eq!(Tree::observe(&dir.path().join("absent")), None);
    }
}
