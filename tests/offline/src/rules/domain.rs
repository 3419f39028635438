//! The domain decides and never acts: no I/O, no async, no clock, no chance, no wire format.

use toml::Table;

use crate::tokens::{Token, lines_with};
use crate::tree::Tree;

/// What the domain may use. All of it is pure: values in, values out.
const DEPENDENCIES: [&str; 7] =
    ["hashbrown", "json-patch", "jsonschema", "serde", "serde_json", "sha2", "thiserror"];

/// What the tests of the domain may use beside that.
const TEST_DEPENDENCIES: [&str; 3] = ["criterion", "insta", "proptest"];

/// Modules of std that touch the world.
const STD_MODULES: [&str; 7] = ["env", "fs", "io", "net", "os", "process", "thread"];

/// Words that have no place in the domain, each with the reason.
const WORDS: [(&str, &str); 19] = [
    ("async", "machines are plain functions"),
    ("await", "machines are plain functions"),
    ("tokio", "no I/O"),
    ("futures", "machines are plain functions"),
    ("Instant", "time is an argument"),
    ("SystemTime", "time is an argument"),
    ("rand", "chance is an argument"),
    ("getrandom", "chance is an argument"),
    ("HashMap", "iterate ordered collections only"),
    ("HashSet", "iterate ordered collections only"),
    ("RandomState", "iterate ordered collections only"),
    ("Mutex", "a machine has one owner"),
    ("RwLock", "a machine has one owner"),
    ("mpsc", "effects are returned"),
    ("prost", "bytes are made in wire"),
    ("println", "no I/O"),
    ("eprintln", "no I/O"),
    ("dbg", "no I/O"),
    ("unsafe", "nothing here needs it"),
];

/// Attributes of the domain's root that keep every match complete and every public item explained.
const ATTRIBUTES: [[&str; 8]; 1] = [["warn", "(", "clippy", ":", ":", "wildcard_enum_match_arm", ")", "]"]];

/// The domain's manifest and source keep to pure computation.
#[must_use]
pub fn is_pure(tree: &Tree) -> Vec<String> {
    let mut found = manifest(tree);
    for (path, tokens) in tree.shipped().filter(|(path, _)| path.starts_with("crates/domain/")) {
        for token in &tokens {
            if let Some((word, why)) = WORDS.iter().find(|(word, _)| token.text == *word) {
                found.push(format!("{path}:{}: {word}: {why}", token.line));
            }
        }
        for module in STD_MODULES {
            found.extend(
                std_uses(&tokens, module)
                    .iter()
                    .map(|n| format!("{path}:{n}: std::{module} touches the world")),
            );
        }
        if path == "crates/domain/src/lib.rs" {
            for attribute in ATTRIBUTES.iter().filter(|words| lines_with(&tokens, *words).is_empty()) {
                found.push(format!("{path}: #![{}", attribute.concat()));
            }
        }
    }
    found
}

/// Lines that name `std::MODULE`, also in a list such as `use std::{fmt, fs}`.
fn std_uses(tokens: &[&Token], module: &str) -> Vec<usize> {
    let mut lines = lines_with(tokens, &["std", ":", ":", module]);
    for (i, _) in tokens.windows(4).enumerate().filter(|(_, w)| w[0].text == "std" && w[3].text == "{") {
        let mut depth = 0_usize;
        for pair in tokens[i + 3..].windows(2) {
            match pair[0].text.as_str() {
                "{" => depth += 1,
                "}" if depth == 1 => break,
                "}" => depth -= 1,
                _ => {}
            }
            if depth == 1 && pair[1].text == module && matches!(pair[0].text.as_str(), "{" | ",") {
                lines.push(pair[1].line);
            }
        }
    }
    lines
}

fn manifest(tree: &Tree) -> Vec<String> {
    let path = "crates/domain/Cargo.toml";
    let manifest: Table = tree.text(path).unwrap_or_default().parse().unwrap_or_default();
    let names = |section: &str| -> Vec<String> {
        manifest
            .get(section)
            .and_then(|s| s.as_table())
            .map(|t| t.keys().cloned().collect())
            .unwrap_or_default()
    };
    let mut found = Vec::new();
    for name in names("dependencies").iter().chain(&names("build-dependencies")) {
        if !DEPENDENCIES.contains(&name.as_str()) {
            found.push(format!("{path}: {name} is not on the list of what the domain may use"));
        }
    }
    for name in names("dev-dependencies") {
        if !TEST_DEPENDENCIES.contains(&name.as_str()) && !DEPENDENCIES.contains(&name.as_str()) {
            found.push(format!("{path}: {name} is not on the list of what the domain's tests may use"));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(source: &str, expected: &[&str]) {
        let source = format!("#![warn(clippy::wildcard_enum_match_arm)]\n{source}");
        let found =
            is_pure(&Tree::of(&[("crates/domain/Cargo.toml", ""), ("crates/domain/src/lib.rs", &source)]));
        assert_eq!(found.len(), expected.len(), "{source}: {found:?}");
        for (violation, part) in found.iter().zip(expected) {
            assert!(violation.contains(part), "{violation} should say {part}");
        }
    }

    #[test]
    fn what_touches_the_world_is_found() {
        check("use std::collections::BTreeMap; fn a(now: u64) -> u64 { now }", &[]);
        check("// HashMap, std::fs\n/// Instant::now()\nfn a() {}", &[]);
        check("fn a() { std::fs::read(x); }", &["std::fs"]);
        check("use std::{fmt, collections::{BTreeMap, net}, net};", &["std::net"]);
        check("fn a() { let t = std::time::Instant::now(); }", &["time is an argument"]);
        check("async fn a() {}", &["async"]);
        check("use hashbrown::HashMap;", &["ordered"]);
        check("#[cfg(test)] mod tests { use std::fs; fn a() { Instant::now(); } }", &[]);
    }

    #[test]
    fn dependencies_beyond_the_list_are_found() {
        let manifest = "[dependencies]\nserde.workspace = true\ntokio.workspace = true\n[dev-dependencies]\nrand = \"1\"\n";
        let found = is_pure(&Tree::of(&[("crates/domain/Cargo.toml", manifest)]));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].contains("tokio") && found[1].contains("rand"), "{found:?}");
    }

    #[test]
    fn a_root_without_its_attribute_is_found() {
        let found = is_pure(&Tree::of(&[("crates/domain/Cargo.toml", ""), ("crates/domain/src/lib.rs", "")]));
        assert!(found[0].contains("wildcard_enum_match_arm"), "{found:?}");
    }
}
