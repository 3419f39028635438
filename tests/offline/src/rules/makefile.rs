//! The Makefile is a list of short commands.

use std::collections::BTreeSet;

use crate::tree::Tree;

/// A recipe that needs more lines is a script.
const RECIPE_LINES: usize = 5;

/// Targets that a person can ask for.
#[must_use]
pub fn targets(makefile: &str) -> BTreeSet<&str> {
    makefile.lines().filter_map(target).collect()
}

/// The target that a line of a Makefile begins, if it does.
fn target(line: &str) -> Option<&str> {
    let (name, rest) = line.split_once(':')?;
    let plain = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '-');
    (plain && !rest.starts_with('=')).then_some(name)
}

/// Recipes are at most five lines; every target says what it does and is no file.
#[must_use]
pub fn is_short(tree: &Tree) -> Vec<String> {
    let Some(text) = tree.text("Makefile") else { return vec!["Makefile: missing".to_owned()] };
    let phony: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix(".PHONY:"))
        .flat_map(str::split_whitespace)
        .collect();
    let mut found = Vec::new();
    let (mut current, mut length) = ("", 0);
    for (line, n) in text.lines().zip(1..) {
        if let Some(name) = target(line) {
            (current, length) = (name, 0);
            if !line.contains("## ") {
                found.push(format!("Makefile:{n}: {name} does not say what it does"));
            }
            if !phony.contains(name) {
                found.push(format!("Makefile:{n}: {name} is not .PHONY"));
            }
        } else if line.starts_with('\t') {
            length += 1;
            if length == RECIPE_LINES + 1 {
                found.push(format!("Makefile:{n}: {current} has more than {RECIPE_LINES} lines"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_unsaid_targets_are_found() {
        let check = |text: &str, expected: &[&str]| {
            let found = is_short(&Tree::of(&[("Makefile", text)]));
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(found.iter().zip(expected).all(|(v, part)| v.contains(part)), "{found:?}");
        };
        check(".PHONY: a b\nX := y:z\na: b ## does a\n\tone\nb: ## does b\n\tone\n", &[]);
        check(&format!(".PHONY: a\na: ## does a\n{}", "\tone\n".repeat(6)), &["Makefile:8: a has more"]);
        check("a:\n\tone\n", &["does not say", "not .PHONY"]);
        assert_eq!(is_short(&Tree::of(&[])), ["Makefile: missing"]);
        assert_eq!(targets("X ?= a:b\nrun: x ## y\n\tz: w\n").into_iter().collect::<Vec<_>>(), ["run"]);
    }
}
