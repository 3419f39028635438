//! What Rust code may not do anywhere: give up on input, lose a task, grow without bound, silence a lint unsaid.

use crate::tokens::{Token, lines_with};
use crate::tree::{Tree, is_generated};

/// Ways to start a task or a thread that nobody waits for.
const SPAWNS: [&[&str]; 6] = [
    &["tokio", ":", ":", "spawn"],
    &["task", ":", ":", "spawn"],
    &["task", ":", ":", "spawn_local"],
    &["thread", ":", ":", "spawn"],
    &["tokio", ":", ":", "{", "spawn"],
    &["task", ":", ":", "{", "spawn"],
];

/// The one place that starts tasks, and waits for them.
const TASKS: [&str; 2] = ["crates/runtime/src/tasks.rs", "crates/runtime/src/tasks/"];

/// Queues without an end.
const UNBOUNDED: [&[&str]; 5] = [
    &["unbounded_channel"],
    &["UnboundedSender"],
    &["mpsc", ":", ":", "unbounded"],
    &["mpsc", ":", ":", "channel", "(", ")"],
    &["SegQueue"],
];

/// Lints that the size and safety rules stand on: silencing one is not a matter of giving a reason.
const NEVER_SILENT: [&str; 5] =
    ["too_many_lines", "too_many_arguments", "allow_attributes_without_reason", "unsafe_code", "unwrap_used"];

/// Crates whose public items are all explained; the compiler checks it where this attribute stands.
const DOCUMENTED: [&str; 3] =
    ["crates/domain/src/lib.rs", "crates/runtime/src/lib.rs", "crates/wire/src/lib.rs"];

/// Names that say nothing about what a thing does.
const EMPTY_NAMES: [&str; 6] = ["Manager", "Helper", "Helpers", "Util", "Utils", "Misc"];

/// No `unwrap` outside tests, and nothing left for later anywhere.
#[must_use]
pub fn no_unwrap(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, tokens) in tree.shipped() {
        for name in ["unwrap", "unwrap_err", "unwrap_unchecked"] {
            let lines = lines_with(&tokens, &[".", name, "("]);
            found.extend(lines.iter().map(|n| format!("{path}:{n}: {name}() outside a test")));
        }
        for name in ["todo", "unimplemented"] {
            let lines = lines_with(&tokens, &[name, "!"]);
            found.extend(lines.iter().map(|n| format!("{path}:{n}: {name}! is not code")));
        }
    }
    found
}

/// Tasks start in one place, which also ends them.
#[must_use]
pub fn no_detached_tasks(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, tokens) in tree.shipped() {
        if TASKS.iter().any(|place| path.starts_with(place)) {
            continue;
        }
        for words in SPAWNS {
            let lines = lines_with(&tokens, words);
            found.extend(
                lines
                    .iter()
                    .map(|n| format!("{path}:{n}: {} detaches a task; use runtime::tasks", words.concat())),
            );
        }
    }
    found
}

/// Every queue has an end.
#[must_use]
pub fn no_unbounded_queues(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, tokens) in tree.shipped() {
        for words in UNBOUNDED {
            let lines = lines_with(&tokens, words);
            found.extend(lines.iter().map(|n| format!("{path}:{n}: {} has no bound", words.concat())));
        }
    }
    found
}

/// A silenced lint says why, and some are never silenced.
#[must_use]
pub fn silenced_lints(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, tokens) in tree.rust().filter(|(path, _)| !is_generated(path)) {
        let tokens: Vec<&Token> = tokens.unwrap_or_default().iter().collect();
        for (i, token) in tokens.iter().enumerate() {
            let before = |n: usize| i.checked_sub(n).map_or("", |at| tokens[at].text.as_str());
            let opens = before(1) == "[" && (before(2) == "#" || (before(2) == "!" && before(3) == "#"));
            if !opens || !["allow", "expect"].contains(&token.text.as_str()) {
                continue;
            }
            let inside: Vec<&&Token> = tokens[i..].iter().take_while(|t| t.text != "]").collect();
            if !inside.iter().any(|t| t.text == "reason") {
                found.push(format!("{path}:{}: #[{}] without a reason", token.line, token.text));
            }
            for lint in inside.iter().filter(|t| NEVER_SILENT.contains(&t.text.as_str())) {
                if !(token.test || tree.is_test(path) || covers_generated(&tokens[i..])) {
                    found.push(format!("{path}:{}: {} is never silenced", lint.line, lint.text));
                }
            }
        }
    }
    found
}

/// Whether the attribute that begins here stands on a module that holds generated code and nothing else.
fn covers_generated(tokens: &[&Token]) -> bool {
    let after = tokens.iter().map(|t| t.text.as_str()).skip_while(|text| *text != "]").skip(1);
    let module: Vec<&str> = after.skip_while(|text| *text == "pub").take(9).collect();
    matches!(module[..], ["mod", _, "{", "include", "!", "(", file, ")", ";"] if file.starts_with("\"gen/"))
}

/// The crates that others build on explain every public item.
#[must_use]
pub fn documented(tree: &Tree) -> Vec<String> {
    let missing = |path: &&&str| {
        let scanned =
            tree.rust().find(|(name, _)| name == *path).map(|(_, tokens)| tokens.unwrap_or_default());
        let tokens: Vec<&Token> = scanned.unwrap_or_default().iter().collect();
        ["warn", "deny", "forbid"]
            .iter()
            .all(|level| lines_with(&tokens, &[level, "(", "missing_docs", ")"]).is_empty())
    };
    DOCUMENTED
        .iter()
        .filter(missing)
        .map(|path| format!("{path}: #![warn(missing_docs)] is missing"))
        .collect()
}

/// Types and modules are named for what they do.
#[must_use]
pub fn names_that_say_something(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, tokens) in tree.rust().filter(|(path, _)| !is_generated(path)) {
        for pair in tokens.unwrap_or_default().windows(2) {
            let (word, name) = (pair[0].text.as_str(), pair[1].text.as_str());
            let empty = match word {
                "struct" | "enum" | "trait" => EMPTY_NAMES.iter().any(|end| name.ends_with(end)),
                "mod" => EMPTY_NAMES.iter().any(|end| name.eq_ignore_ascii_case(end)),
                _ => false,
            };
            if empty {
                found.push(format!("{path}:{}: {name} does not say what it does", pair[1].line));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Tree) -> Vec<String>, source: &str, expected: &[&str]) {
        let found = rule(&Tree::of(&[("crates/a/Cargo.toml", ""), ("crates/a/src/lib.rs", source)]));
        assert_eq!(found.len(), expected.len(), "{source}: {found:?}");
        for (violation, part) in found.iter().zip(expected) {
            assert!(violation.contains(part), "{violation} should say {part}");
        }
    }

    #[test]
    fn unwraps_are_found() {
        check(no_unwrap, "fn a() { b.unwrap_or(c); }\n#[test] fn t() { b.unwrap(); }", &[]);
        check(
            no_unwrap,
            "fn a() {\n b.unwrap(); select! { x => y.unwrap_err() } }",
            &["lib.rs:2: unwrap()", "unwrap_err"],
        );
        check(no_unwrap, "fn a() { todo!() }", &["todo!"]);
    }

    #[test]
    fn detached_tasks_are_found() {
        check(no_detached_tasks, "fn a(tasks: &Tasks) { tasks.spawn(b); }", &[]);
        check(no_detached_tasks, "fn a() { tokio::spawn(b); }", &["lib.rs:1"]);
        check(
            no_detached_tasks,
            "fn a() { tokio::task::spawn(b); std::thread::spawn(c); }",
            &["task", "thread"],
        );
        check(no_detached_tasks, "#[tokio::test] async fn t() { tokio::spawn(b); }", &[]);
        let tasks = [("crates/runtime/src/tasks.rs", "fn a() { tokio::spawn(b); }")];
        assert!(no_detached_tasks(&Tree::of(&tasks)).is_empty());
    }

    #[test]
    fn unbounded_queues_are_found() {
        check(no_unbounded_queues, "fn a() { let (t, r) = mpsc::channel(8); }", &[]);
        check(no_unbounded_queues, "fn a() { let (t, r) = mpsc::channel(); }", &["channel"]);
        check(
            no_unbounded_queues,
            "fn a() { let (t, r) = mpsc::unbounded_channel(); }",
            &["unbounded_channel"],
        );
    }

    #[test]
    fn silenced_lints_are_found() {
        check(silenced_lints, "#[allow(clippy::x, reason = \"y\")] fn a() {}", &[]);
        check(silenced_lints, "#![allow(clippy::x)]", &["without a reason"]);
        check(silenced_lints, "#[expect(clippy::x)] fn a() {}", &["without a reason"]);
        check(
            silenced_lints,
            "#[allow(clippy::too_many_lines, reason = \"y\")] fn a() {}",
            &["never silenced"],
        );
        let generated = "#[allow(clippy::too_many_lines, reason = \"y\")] pub mod a { include!(\"FILE\"); }";
        check(silenced_lints, &generated.replace("FILE", "gen/a.rs"), &[]);
        check(silenced_lints, &generated.replace("FILE", "a.rs"), &["never silenced"]);
        check(silenced_lints, "#[allow(clippy::unwrap_used, reason = \"y\")] fn a() {}", &["never silenced"]);
    }

    #[test]
    fn undocumented_roots_and_empty_names_are_found() {
        assert_eq!(documented(&Tree::of(&[("crates/wire/src/lib.rs", "#![warn(missing_docs)]")])).len(), 2);
        check(
            names_that_say_something,
            "struct TaskManager; mod utils {} struct Outline;",
            &["TaskManager", "utils"],
        );
    }
}
