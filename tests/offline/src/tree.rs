//! The files of the repository, read once.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::modules;
use crate::tokens::{self, Token};

/// Every file that git tracks or would track, by its path from the root of the repository.
pub struct Tree {
    files: BTreeMap<String, String>,
    rust: BTreeMap<String, Result<Vec<Token>, String>>,
    test_only: BTreeSet<String>,
}

/// The root of the repository this crate was built in.
#[must_use]
pub fn root() -> PathBuf {
    let crate_folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    crate_folder.ancestors().nth(2).expect("the crate lies two folders below the root").to_path_buf()
}

impl Tree {
    /// Reads the repository: tracked files and new ones that are not ignored, as they are on disk.
    ///
    /// # Panics
    /// When git cannot list the files.
    #[must_use]
    pub fn read() -> Self {
        let root = root();
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .expect("the house rules list the files with git");
        assert!(listed.status.success(), "git ls-files: {}", String::from_utf8_lossy(&listed.stderr));
        let names = String::from_utf8_lossy(&listed.stdout).into_owned();
        let files = names.split('\0').filter(|name| !name.is_empty()).filter_map(|name| {
            // A file that was deleted but not yet committed is listed and cannot be read.
            let bytes = std::fs::read(root.join(name)).ok()?;
            Some((name.to_owned(), String::from_utf8(bytes).unwrap_or_default()))
        });
        Self::new(files.collect())
    }

    /// A tree made of these files, for a rule's own test.
    #[must_use]
    pub fn of(files: &[(&str, &str)]) -> Self {
        Self::new(files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect())
    }

    fn new(files: BTreeMap<String, String>) -> Self {
        let rust = files
            .iter()
            .filter(|(path, _)| path.ends_with(".rs"))
            .map(|(path, text)| (path.clone(), tokens::scan(text)))
            .collect();
        let mut tree = Self { files, rust, test_only: BTreeSet::new() };
        tree.test_only = modules::test_only(&tree);
        tree
    }

    /// Path and text of every file.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().map(|(path, text)| (path.as_str(), text.as_str()))
    }

    /// Path and text of the files whose path ends so.
    pub fn ending<'a>(&'a self, suffix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.files().filter(move |(path, _)| path.ends_with(suffix))
    }

    /// The text of one file.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<&str> {
        self.files.get(path).map(String::as_str)
    }

    /// Whether a file or a folder has this path.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        let folder = format!("{}/", path.trim_end_matches('/'));
        path.is_empty() || self.files.contains_key(path) || self.files.keys().any(|p| p.starts_with(&folder))
    }

    /// The tokens of every Rust file, or why it does not read as Rust.
    pub fn rust(&self) -> impl Iterator<Item = (&str, Result<&[Token], &str>)> {
        self.rust.iter().map(|(path, scanned)| {
            (path.as_str(), scanned.as_ref().map(Vec::as_slice).map_err(String::as_str))
        })
    }

    /// The tokens of what ships: Rust files that a person wrote, without tests.
    pub fn shipped(&self) -> impl Iterator<Item = (&str, Vec<&Token>)> {
        self.rust().filter(|(path, _)| !is_generated(path) && !self.is_test(path)).filter_map(
            |(path, scanned)| Some((path, scanned.ok()?.iter().filter(|token| !token.test).collect())),
        )
    }

    /// Whether a Rust file holds nothing but tests.
    #[must_use]
    pub fn is_test(&self, path: &str) -> bool {
        path.starts_with("tests/")
            || ["/tests/", "/benches/"].iter().any(|folder| path.contains(folder))
            || self.test_only.contains(path)
    }
}

/// Whether a file was written by a generator.
#[must_use]
pub fn is_generated(path: &str) -> bool {
    path.contains("/gen/")
}
