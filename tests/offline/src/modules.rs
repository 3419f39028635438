//! Which file is a module of which: follows `mod` lines from the roots of every crate.

use std::collections::{BTreeMap, BTreeSet};

use crate::tokens::Token;
use crate::tree::Tree;

/// Files that Cargo compiles on its own, by what their path looks like below the crate's folder.
fn is_root(below: &str) -> bool {
    let folder_of = |prefix: &str| below.strip_prefix(prefix).is_some_and(|rest| !rest.contains('/'));
    matches!(below, "src/lib.rs" | "src/main.rs" | "build.rs")
        || ["src/bin/", "tests/", "benches/", "examples/"].into_iter().any(folder_of)
        || (below.starts_with("src/bin/") && below.ends_with("/main.rs"))
        || (below.starts_with("tests/") && below.ends_with("/main.rs"))
}

/// The files a file brings in: each with whether only tests do so.
fn children(path: &str, tokens: &[Token], is_root: bool) -> Vec<(String, bool)> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let own =
        if is_root || name == "mod.rs" { folder.to_owned() } else { path.trim_end_matches(".rs").to_owned() };
    let mut found = Vec::new();
    // Modules written inline, outermost first, with the depth of braces they opened at.
    let mut inline: Vec<(String, usize)> = Vec::new();
    let mut depth = 0_usize;
    for (i, token) in tokens.iter().enumerate() {
        let next = |n: usize| tokens.get(i + n).map_or("", |t| t.text.as_str());
        match token.text.as_str() {
            "{" => depth += 1,
            "}" => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, at)| *at < depth + 1);
            }
            "mod" if next(2) == "{" => inline.push((next(1).to_owned(), depth + 1)),
            "mod" if next(2) == ";" => {
                let mut place = own.clone();
                inline.iter().for_each(|(name, _)| place = format!("{place}/{name}"));
                found.push((format!("{place}/{}.rs", next(1)), token.test));
                found.push((format!("{place}/{}/mod.rs", next(1)), token.test));
            }
            "include" if next(1) == "!" => {
                found.push((format!("{folder}/{}", next(3).trim_matches('"')), token.test));
            }
            _ => {}
        }
    }
    found
}

/// Every Rust file that some crate compiles, with whether only tests reach it.
fn reached(tree: &Tree) -> BTreeMap<String, bool> {
    let tokens: BTreeMap<&str, &[Token]> =
        tree.rust().filter_map(|(path, scanned)| Some((path, scanned.ok()?))).collect();
    let crates: Vec<&str> =
        tree.ending("/Cargo.toml").map(|(path, _)| path.trim_end_matches("Cargo.toml")).collect();
    let root = |path: &str| crates.iter().any(|folder| path.strip_prefix(folder).is_some_and(is_root));
    let mut open: Vec<(String, bool)> =
        tokens.keys().filter(|path| root(path)).map(|path| ((*path).to_owned(), false)).collect();
    let mut reached: BTreeMap<String, bool> = BTreeMap::new();
    while let Some((path, test)) = open.pop() {
        let Some(found) = tokens.get(path.as_str()) else { continue };
        // A file is compiled once for what ships, even if tests name it too.
        if reached.get(&path).is_some_and(|before| !*before || test) {
            continue;
        }
        open.extend(
            children(&path, found, root(&path)).into_iter().map(|(child, only)| (child, only || test)),
        );
        reached.insert(path, test);
    }
    reached
}

/// Files that only tests compile.
pub(crate) fn test_only(tree: &Tree) -> BTreeSet<String> {
    reached(tree).into_iter().filter(|(_, test)| *test).map(|(path, _)| path).collect()
}

/// Rust files that no crate compiles, and files that cannot be read as Rust.
#[must_use]
pub fn orphans(tree: &Tree) -> Vec<String> {
    let reached = reached(tree);
    let mut found = Vec::new();
    for (path, scanned) in tree.rust() {
        match scanned {
            Err(error) => found.push(format!("{path}: {error}")),
            Ok(_) if !reached.contains_key(path) => found.push(format!("{path}: no `mod` line leads here")),
            Ok(tokens) => {
                let all: Vec<&Token> = tokens.iter().collect();
                let hidden = crate::tokens::lines_with(&all, &["#", "[", "path", "="]);
                found
                    .extend(hidden.iter().map(|n| format!("{path}:{n}: #[path] hides where a module lives")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_without_a_road_are_found() {
        let tree = Tree::of(&[
            ("crates/a/Cargo.toml", ""),
            ("crates/a/src/lib.rs", "mod b; mod c { mod d; } include!(\"gen/e.rs\");"),
            ("crates/a/src/b.rs", "mod f; #[cfg(test)] mod tests;"),
            ("crates/a/src/b/f.rs", ""),
            ("crates/a/src/b/tests.rs", ""),
            ("crates/a/src/c/d/mod.rs", ""),
            ("crates/a/src/gen/e.rs", ""),
            ("crates/a/tests/t.rs", "mod common;"),
            ("crates/a/tests/common/mod.rs", ""),
            ("crates/a/src/f.rs", "// the road is b::f, so this one is lost"),
            ("crates/a/src/torn.rs", "fn ("),
        ]);
        let found = orphans(&tree);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("crates/a/src/f.rs: no `mod`"), "{found:?}");
        assert!(found[1].starts_with("crates/a/src/torn.rs: does not read"), "{found:?}");
        assert_eq!(test_only(&tree).into_iter().collect::<Vec<_>>(), ["crates/a/src/b/tests.rs"]);
    }

    #[test]
    fn path_attributes_are_found() {
        let tree =
            Tree::of(&[("crates/a/Cargo.toml", ""), ("crates/a/src/lib.rs", "\n#[path = \"x.rs\"]\nmod y;")]);
        assert!(orphans(&tree)[0].starts_with("crates/a/src/lib.rs:2: #[path]"));
    }
}
