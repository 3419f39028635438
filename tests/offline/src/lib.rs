//! The house rules of this repository as functions over its files.
//!
//! A rule takes the [`Tree`] and returns every place that breaks it, each as `path:line: what is wrong`. The
//! tests of this crate run all rules on the real tree; the unit tests beside each rule show it a bad sample,
//! so a rule that no longer sees anything fails as well.

pub mod golden;
pub mod modules;
pub mod rules;
pub mod tokens;
pub mod tree;

pub use tree::Tree;

/// A house rule: the places in the tree that break it, none when all is well.
pub type Rule = fn(&Tree) -> Vec<String>;

/// Fails with every violation in one list.
///
/// # Panics
/// When `rule` finds anything.
pub fn hold(rule: Rule, tree: &Tree) {
    let found = rule(tree);
    assert!(found.is_empty(), "{} place(s) break a house rule:\n  {}", found.len(), found.join("\n  "));
}
