//! How long files may be.

use crate::tree::{Tree, is_generated};

/// A file fits a sitting.
const FILE_LINES: usize = 500;

/// `main` parses, runs and sets the exit code; all else lies where a test can call it.
const MAIN_LINES: usize = 30;

/// Rust files that a person wrote are at most 500 lines, `main.rs` at most 30.
#[must_use]
pub fn files(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, text) in tree.ending(".rs").filter(|(path, _)| !is_generated(path)) {
        let limit = if path.ends_with("src/main.rs") { MAIN_LINES } else { FILE_LINES };
        let lines = text.lines().count();
        if lines > limit {
            found.push(format!("{path}: {lines} lines, at most {limit}"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_files_are_found() {
        let (long, short) = ("//\n".repeat(501), "//\n".repeat(31));
        let tree = Tree::of(&[
            ("crates/a/src/lib.rs", &long),
            ("crates/a/src/main.rs", &short),
            ("crates/a/src/b.rs", &short),
            ("crates/a/src/gen/c.rs", &long),
        ]);
        assert_eq!(
            files(&tree),
            ["crates/a/src/lib.rs: 501 lines, at most 500", "crates/a/src/main.rs: 31 lines, at most 30"]
        );
    }
}
